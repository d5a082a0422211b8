"""`deepnmf enhance`: what a user is told when something is wrong, and that nothing is left behind or lost then."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
import soundfile

from deepnmf_cli.commands.record import RECORD
from deepnmf_cli.errors import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_USAGE, AudioError

RATE_HZ = 16000
ROOT = Path(__file__).parents[2]


def listing():
    return sorted(str(path) for path in Path().rglob("*") if path.is_file())


def read(name):
    return soundfile.read(name, always_2d=True)[0]


# Impossible streams


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-", "-o", "-", "--json"], "--json: found the audio on standard output too"),
        (["-", "-o", "folder/"], "standard input has none"),
        (["-", "noisy.wav", "-o", "out"], "standard input: found other inputs beside it"),
        (["noisy.wav", "-o", "a.wav", "--noise-out", "-"], "--noise-out: found -"),
        (["noisy.wav", "noisy.wav", "-o", "-"], "as there are several inputs"),
    ],
)
def test_impossible_uses_of_pipes(deepnmf, stub, noisy, arguments, message):
    result = deepnmf("enhance", *arguments, stdin=noisy.read_bytes())
    assert result.code == EXIT_USAGE and message in result.err
    assert listing() == ["noisy.wav"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--depth", "0"], "Invalid value for '--depth'"),
        (["--depth", "two"], "Invalid value for '--depth'"),
        (["--depth", "5"], "--depth: found 5; expected 1 to 4, the layers of this model."),
        (["--depth", "2", "--backend", "onnx"], "--depth: found a model that was exported, whose depth is fixed"),
    ],
)
def test_depths_that_a_model_does_not_have(deepnmf, noisy, arguments, message):
    result = deepnmf("enhance", "noisy.wav", "-o", "clean.wav", "--model", "tiny", *arguments)
    assert result.code == EXIT_USAGE and message in result.err
    assert listing() == ["noisy.wav"]


def test_a_model_without_masks_in_its_layers_is_not_stopped(deepnmf, noisy, tiny_model):
    result = deepnmf("enhance", "noisy.wav", "-o", "clean.wav", "--model", tiny_model, "--depth", "1")
    assert result.code == EXIT_USAGE and "--depth: found the model dnn; expected one that gives masks" in result.err
    assert listing() == ["noisy.wav"]


@pytest.mark.parametrize(
    ("stream", "arguments", "message"),
    [
        ("stdin", ["-", "-o", "a.wav"], "standard input: found a terminal; expected audio from a pipe or a file"),
        ("stdout", ["noisy.wav", "-o", "-"], "standard output: found a terminal; expected a pipe or a file"),
    ],
)
def test_audio_is_never_read_from_or_written_to_a_terminal(deepnmf, stub, noisy, terminal, stream, arguments, message):
    terminal(stream)
    result = deepnmf("enhance", *arguments)
    assert result.code == EXIT_USAGE and message in result.err


# Outputs that must not be written


def test_an_existing_output_needs_overwrite(deepnmf, stub, noisy):
    Path("clean.wav").write_bytes(b"precious")
    result = deepnmf("enhance", "noisy.wav", "-o", "clean.wav")
    assert result.code == EXIT_USAGE and "Pass --overwrite" in result.err
    assert Path("clean.wav").read_bytes() == b"precious"
    assert deepnmf("enhance", "noisy.wav", "-o", "clean.wav", "--overwrite").code == 0
    assert len(read("clean.wav")) == RATE_HZ


@pytest.mark.parametrize("link", ["noisy.wav", "./noisy.wav", "symbolic.wav", "hard.wav"])
@pytest.mark.parametrize("option", ["-o", "--noise-out"])
def test_an_output_is_never_an_input(deepnmf, stub, noisy, link, option):
    Path("symbolic.wav").symlink_to("noisy.wav")
    Path("hard.wav").hardlink_to("noisy.wav")
    before = noisy.read_bytes()
    output = [] if option == "-o" else ["-o", "speech.wav"]
    result = deepnmf("enhance", "noisy.wav", option, link, *output, "--overwrite")
    assert result.code == EXIT_USAGE and "found an output that is an input" in result.err
    assert noisy.read_bytes() == before


def test_a_folder_is_never_enhanced_onto_itself(deepnmf, stub, recordings):
    soundfile.write("recordings/other.wav", np.zeros(10), RATE_HZ)
    before = listing()
    result = deepnmf("enhance", "recordings", "-o", "recordings", "--overwrite")
    assert result.code == EXIT_USAGE and "an output that is an input" in result.err
    assert listing() == before


@pytest.mark.parametrize(
    ("output", "code", "message"),
    [
        ("noisy.wav/clean.wav", 2, "noisy.wav: found a file; expected a folder for the output clean.wav."),
        ("noisy.wav/none/clean.wav", 2, "noisy.wav: found a file; expected a folder for the output clean.wav."),
        ("clean.aac", 2, "clean.aac: found the suffix '.aac'; expected one of .wav"),
        ("clean", 2, "clean: found a name without a suffix; expected one of .wav"),
        ("noisy.wav/", 2, "noisy.wav/: found no folder; expected a folder"),
        ("noisy.wav/deeper/", 1, "noisy.wav/deeper: found that it cannot be made (Not a directory)"),
    ],
)
def test_outputs_that_cannot_be(deepnmf, stub, noisy, output, code, message):
    result = deepnmf("enhance", "noisy.wav", "-o", output)
    assert result.code == code and message in result.err
    assert listing() == ["noisy.wav"]


@pytest.mark.parametrize("output", ["clean", "clean.wav"])
def test_an_input_that_is_missing_is_named_before_its_output(deepnmf, stub, folder, output):
    """A misspelt folder; the output is the right one for the folder that was meant."""
    result = deepnmf("enhance", "recordngs", "-o", output)
    assert result.code == EXIT_FAILED
    assert "recordngs: found no readable file (No such file or directory)" in result.err
    assert listing() == []


def test_a_device_is_never_replaced(deepnmf, stub, noisy):
    os.mkfifo("clean.wav")
    result = deepnmf("enhance", "noisy.wav", "-o", "clean.wav", "--overwrite")
    assert result.code == EXIT_USAGE and "found a folder or a device" in result.err
    assert Path("clean.wav").is_fifo()


def test_speech_and_noise_need_two_names(deepnmf, stub, noisy):
    result = deepnmf("enhance", "noisy.wav", "-o", "a.wav", "--noise-out", "./a.wav")
    assert result.code == EXIT_USAGE and "two outputs of this name" in result.err


def test_names_that_are_not_text_are_names(deepnmf, stub, noisy):
    os.makedirs("in")
    for name in (b"in/odd\xff.wav", b"in/good.wav"):
        shutil.copy("noisy.wav", name)
    result = deepnmf("enhance", "in", "-o", "out", "--json")
    assert result.code == 0, result.err
    assert sorted(os.listdir(b"out")) == [RECORD.encode(), b"good.wav", b"odd\xff.wav"]


@pytest.mark.parametrize(("name", "arguments"), [
    ("stdin", ("enhance", "-", "-o", "clean.wav")), ("stdout", ("enhance", "noisy.wav", "-o", "-")),
    ("stdin", ("stream",)), ("stdout", ("stream",)),
])  # fmt: skip
def test_streams_that_are_closed_are_refused(noisy, name, arguments):
    closed = {"stdin": "<&-", "stdout": ">&-"}[name]
    command = f"{sys.executable} -m deepnmf_cli.main {' '.join(arguments)} {closed}"
    given = {"stdin": subprocess.DEVNULL} if name == "stdout" else {}
    given |= {"env": os.environ | {"PYTHONPATH": str(ROOT)}}
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, **given)
    assert done.returncode == EXIT_USAGE, done.stderr
    assert f"standard {name[3:]}put: found a closed stream" in done.stderr and "Traceback" not in done.stderr


# Bad inputs


def write_nan():
    soundfile.write("bad.wav", np.array([0, 0, np.nan]), RATE_HZ, "FLOAT")


def write_truncated():
    soundfile.write("bad.wav", np.zeros(1000), RATE_HZ)
    Path("bad.wav").write_bytes(Path("bad.wav").read_bytes()[:1044])


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda: None, "bad.wav: found no readable file (No such file or directory); expected an audio file."),
        (lambda: Path("bad.wav").touch(), "bad.wav: found an empty file; expected an audio file"),
        (lambda: Path("bad.wav").write_text("text " * 99), "bad.wav: found no audio that can be read"),
        (lambda: Path("bad.wav").mkdir(), "bad.wav: found no audio files; expected files ending in .wav"),
        (lambda: soundfile.write("bad.wav", np.empty(0), RATE_HZ), "bad.wav: found no samples; expected at least one"),
        (write_truncated, "bad.wav: found 500 frames; expected 1000 frames as the header says. The file is incomplete"),
        (write_nan, "bad.wav: found a sample that is not finite (nan) at 0.000 s (sample 2, channel 1)"),
        (lambda: soundfile.write("bad.wav", np.zeros((9, 65)), RATE_HZ), "bad.wav: found 65 channels; expected 1 to"),
    ],
)
def test_a_single_bad_input_fails_with_a_sentence(deepnmf, stub, folder, prepare, message):
    prepare()
    before = listing()
    result = deepnmf("enhance", "bad.wav", "-o", "clean.wav", "--noise-out", "noise.wav")
    assert result.code == EXIT_FAILED and result.err.startswith("Error: ") and message in result.err
    assert listing() == before


@pytest.mark.parametrize("given", ["missing.wav", "recordings"])
def test_an_input_that_does_not_open_leaves_no_folder(deepnmf, stub, folder, given):
    Path("recordings/day").mkdir(parents=True)
    Path("recordings/day/bad.wav").write_text("text")
    assert deepnmf("enhance", given, "-o", "new/speech/", "--noise-out", "new/noise/").code == EXIT_FAILED
    assert not Path("new").exists()


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), AudioError("x", "a", "b", "c")])
def test_an_output_that_fails_leaves_nothing_behind(deepnmf, stub, noisy, monkeypatch, error):
    def fail(self, data):
        raise error

    monkeypatch.setattr(soundfile.SoundFile, "write", fail)
    result = deepnmf("enhance", "noisy.wav", "-o", "clean.wav", "--noise-out", "noise.wav")
    assert result.code == EXIT_FAILED and len(result.err.splitlines()) == 1
    assert listing() == ["noisy.wav"]


def test_interruption_leaves_nothing_behind(deepnmf, stub, noisy, monkeypatch):
    def interrupt(blocks, *_, **__):
        yield next(iter(blocks))[:, :100]
        raise KeyboardInterrupt

    monkeypatch.setattr(stub, "enhance_blocks", interrupt)
    result = deepnmf("enhance", "noisy.wav", "-o", "clean.wav", "--noise-out", "noise.wav")
    assert result.code == EXIT_INTERRUPTED and "Interrupted." in result.err
    assert listing() == ["noisy.wav"]


def test_control_c_in_a_real_process(noisy):
    script = """
import sys, time, types
def enhance_blocks(blocks, *_, **__):
    yield next(blocks)[:, :100]
    print("at work", flush=True)
    time.sleep(60)
stub = types.SimpleNamespace(enhance_blocks=enhance_blocks)
library = types.SimpleNamespace(load_enhancer=lambda *_: stub, DEFAULT_MODEL="stub")
sys.modules["deepnmf_cli.zoo"] = library  # the real one takes seconds to import
from deepnmf_cli.main import run
run(["enhance", "noisy.wav", "-o", "clean.wav"])
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", script], env=environment, **pipes) as process:
        assert process.stdout.readline() == "at work\n"
        assert len(list(Path().glob(".clean-*.wav"))) == 1
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == EXIT_INTERRUPTED
        assert process.stderr.read().strip() == "Interrupted."
    assert os.listdir() == ["noisy.wav"]


def test_control_c_stops_all_processes(folder):
    Path("in").mkdir()
    for name in ("a", "b", "c"):
        soundfile.write(f"in/{name}.wav", np.zeros(100), 48000)
        os.truncate(f"in/{name}.wav", 1 << 30)  # zeros without end, as far as this test is concerned
        with open(f"in/{name}.wav", "r+b") as file:
            file.seek(40)
            file.write(((1 << 30) - 44).to_bytes(4, "little"))
    command = [sys.executable, "-m", "deepnmf_cli.main", "enhance", "in", "-o", "out", "--jobs", "2"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        command, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        deadline = time.monotonic() + 60
        while len(partial := list(Path().glob("out/.[ab]-*.wav"))) < 2 or not all(p.stat().st_size for p in partial):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to all of them
        assert process.wait(30) == EXIT_INTERRUPTED
        assert process.stderr.read().strip() == "Interrupted."
    assert os.listdir("out") == []


def test_a_disk_too_small_for_all_outputs_is_noticed_before_the_work(deepnmf, stub, recordings, monkeypatch):
    needed = 2 * (2 * 3200 + 3200 // 8)  # speech and noise of two recordings, and of a FLAC file
    usage = namedtuple("usage", "total used free")
    for free, code in ((needed - 1, EXIT_FAILED), (needed, 0)):
        monkeypatch.setattr(shutil, "disk_usage", lambda folder, free=free: usage(1 << 40, 0, free))
        result = deepnmf("enhance", "recordings", "-o", "out/wav", "--noise-out", "out/noise")
        assert result.code == code, result.err
        assert Path("out").exists() == (code == 0)
        if code:
            assert "kB free on the disk" in result.err and len(result.err.splitlines()) == 1
