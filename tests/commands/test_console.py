"""What the terminal, or a log file in its place, shows of the work."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from deepnmf_cli.commands import console
from deepnmf_cli.errors import are

RATE_HZ = 16000
ROOT = Path(__file__).parents[2]


class Clock:
    """Seconds that pass when told to."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def lines(clock, total):
    def describe(done, total, per_s):
        return f"{done:g}/{total} at {per_s:g}{console.time_left(done, total, per_s)}"

    return console.Lines(describe, total=total, now=clock)


def said(capsys):
    return capsys.readouterr().err.splitlines()


# Progress in log files


def test_a_line_comes_after_ten_seconds_and_then_with_every_tenth(clock, capsys):
    bar = lines(clock, 1000.0)
    for _ in range(100):
        clock.now += 4
        bar.update(10.0)
    told = said(capsys)
    assert told[0] == "30/1000.0 at 2.5, 06:28 left"
    assert [line.split("/")[0] for line in told] == ["30", *(str(k) for k in range(100, 1001, 100))]


def test_a_line_comes_every_minute_where_a_tenth_takes_longer(clock, capsys):
    bar = lines(clock, 1e6)
    for _ in range(200):
        clock.now += 1
        bar.update(1.0)
    assert [line.split("/")[0] for line in said(capsys)] == ["10", "70", "130", "190"]


def test_lines_are_ten_seconds_apart(clock, capsys):
    bar = lines(clock, 100.0)
    for _ in range(100):
        clock.now += 0.3
        bar.update(1.0)
    assert len(said(capsys)) == 2


def test_what_was_done_before_says_nothing_about_the_rate(clock, capsys):
    bar = lines(clock, 100.0)
    bar.start(50.0)
    clock.now += 10
    bar.update(5.0)
    assert said(capsys) == ["55/100.0 at 0.5, 01:30 left"]


def test_a_total_may_be_unknown(clock, capsys):
    bar = console.Lines(console._audio_line, now=clock)
    clock.now += 20
    bar.update(400.0)
    assert said(capsys) == ["06:40 of audio, 20.0 s each second"]


def test_a_hidden_bar_says_nothing(clock, capsys):
    bar = console.Lines(console._audio_line, disable=True, now=clock)
    clock.now += 20
    bar.update(400.0)
    assert said(capsys) == []


def test_long_batches_tell_of_progress_where_there_is_no_terminal(deepnmf, stub, recordings, monkeypatch):
    monkeypatch.setattr(console.Lines, "SHORTEST_S", 0.0)
    result = deepnmf("enhance", "recordings", "-o", "out")
    assert "0/3 files 00:00/00:00 of audio (33 %), " in result.err and " left\n" in result.err
    for option in ("-q", "--json"):
        assert " of audio (" not in deepnmf("enhance", "recordings", "-o", f"out{option}", option).err


# Colours


@pytest.mark.parametrize(("variables", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)])
def test_colours_are_for_terminals_that_want_them(deepnmf, stub, noisy, terminal, monkeypatch, variables, coloured):
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    screen = terminal("stderr")
    deepnmf("enhance", "none.wav")
    deepnmf("enhance", "noisy.wav", "--model", "nonesuch", "--overwrite", "-o", "x.xyz")
    assert screen.getvalue().count("\x1b[31m\x1b[1mError:\x1b[0m ") == 2 * coloured
    assert screen.getvalue().count("Error:") == 2


def test_files_get_no_colours(deepnmf, stub, folder, monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    soundfile.write("hot.wav", np.full(1000, 3.0), RATE_HZ, "FLOAT")
    assert "\x1b" not in deepnmf("enhance", "hot.wav", "-o", "a.flac").err + deepnmf("enhance", "none.wav").err


# --verbose


@pytest.mark.parametrize("jobs", [1, 2])
def test_verbose_tells_what_is_done_and_where_the_time_goes(recordings, jobs):
    command = [sys.executable, "-m", "deepnmf_cli", "enhance", "recordings/one.wav", "recordings/day/two.flac"]
    command += ["--overwrite", "--jobs", str(jobs)]
    told = [
        subprocess.run([*command, *more], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
        for more in ((), ("--verbose",))
    ]
    assert "loaded in" not in told[0].stderr and [done.returncode for done in told] == [0, 0]
    assert told[1].stderr.count("model.safetensors: loaded in") == jobs and "by ONNX Runtime" in told[1].stderr
    assert "recordings/one.wav: 0.1 s, 1 channel(s) at 16000 Hz (WAV, PCM_16) in " in told[1].stderr
    assert told[1].stderr.count(" s computing, ") == 2


# Environment variables


def test_variables_stand_for_options(deepnmf, stub, noisy, monkeypatch):
    monkeypatch.setenv("DEEPNMF_ENHANCE_OUTPUT", "from-variable.wav")
    monkeypatch.setenv("DEEPNMF_ENHANCE_MODEL", "tiny")
    monkeypatch.setenv("DEEPNMF_ENHANCE_JSON", "1")
    row, summary = deepnmf("enhance", "noisy.wav").lines
    assert (row["output"], row["model"], summary["done"]) == ("from-variable.wav", "tiny", 1)
    assert deepnmf("enhance", "noisy.wav", "-o", "other.wav").lines[0]["output"] == "other.wav"
    monkeypatch.setenv("DEEPNMF_ENHANCE_MAX_ATTENUATION", "much")
    assert "'much' is not a valid float" in deepnmf("enhance", "noisy.wav", "-o", "third.wav").err


# Help and version


def test_the_program_is_a_module_too():
    for option in ("-V", "--version"):
        done = subprocess.run([sys.executable, "-m", "deepnmf_cli", option], capture_output=True, text=True, cwd=ROOT)
        assert done.returncode == 0 and done.stdout.startswith("deepnmf, version ")


def test_help_is_a_command(deepnmf):
    assert deepnmf("help").out == deepnmf("--help").out
    assert deepnmf("help", "enhance").out == deepnmf("enhance", "--help").out
    assert "Did you mean 'stream'" in deepnmf("help", "steam").err


def test_a_short_file_does_not_wait_for_the_package_that_draws_bars(recordings):
    listing = "import sys; from deepnmf_cli.main import run\ntry: run(sys.argv[1:])\nfinally: print(*sys.modules)"
    command = [sys.executable, "-c", listing, "enhance", "recordings/one.wav", "--overwrite"]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert done.stderr.startswith("Enhanced 1 file") and "tqdm" not in done.stdout.split()


def test_sizes_and_counts_are_words():
    sizes = [console.size(number) for number in (400, 12_345, 999_999, 1_234_567)]
    assert sizes == ["0 kB", "12 kB", "1000 kB", "1.2 MB"]
    assert [console.count(number, "file") for number in (0, 1, 2)] == ["0 files", "1 file", "2 files"]
    assert [are(number, "file") for number in (1, 2)] == ["1 file is", "2 files are"]


@pytest.mark.parametrize("command", ["build-native", "enhance", "evaluate", "export", "inspect", "repair", "stream"])
def test_quiet_commands_say_that_they_still_warn(deepnmf, command):
    assert "Print only errors and warnings" in " ".join(deepnmf("help", command).out.decode().split())
