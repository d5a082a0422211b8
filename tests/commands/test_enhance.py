"""`deepnmf enhance`: what goes where, and what is kept."""

import io
import os
from pathlib import Path

import numpy as np
import pytest
import soundfile

from deepnmf_cli import zoo
from deepnmf_cli.commands import console
from deepnmf_cli.commands import jobs as batch
from deepnmf_cli.commands.jobs import headers, longest_first, process_count
from deepnmf_cli.commands.places import Job
from deepnmf_cli.commands.record import RECORD
from deepnmf_cli.errors import EXIT_FAILED, EXIT_SOME_FAILED, EXIT_USAGE
from deepnmf_cli.signal import audio
from deepnmf_cli.workers import Workers

RATE_HZ = 16000


def listing():
    return sorted(str(path) for path in Path().rglob("*") if path.is_file())


def read(name):
    return soundfile.read(name, always_2d=True)[0]


# One file


def test_one_file(deepnmf, stub, noisy):
    result = deepnmf("enhance", "noisy.wav", "-o", "clean.wav")
    assert result.code == 0 and result.out == b""
    assert "Enhanced 1 file. 1.0 s of audio in" in result.err
    np.testing.assert_allclose(read("clean.wav"), read("noisy.wav") / 2, atol=1 / 32768)
    assert listing() == ["clean.wav", "noisy.wav"]


@pytest.mark.parametrize("container", ["WAV", "FLAC", "AIFF", "AU", "OGG", "MP3", "CAF", "W64"])
@pytest.mark.parametrize(("rate_hz", "channels"), [(8000, 1), (44100, 2)])
def test_rate_channels_length_and_format_are_kept(deepnmf, stub, folder, hiss, container, rate_hz, channels):
    name = f"in.{container.lower()}"
    soundfile.write(name, np.stack([hiss(0.2, rate_hz, seed) for seed in range(channels)], 1), rate_hz)
    assert deepnmf("enhance", name, "-o", "out/").code == 0
    assert audio.info(f"out/{name}") == audio.info(name)


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE"])
def test_bit_depth_is_kept_and_noise_completes_speech(deepnmf, stub, folder, hiss, subtype):
    soundfile.write("in.wav", hiss(), 22050, subtype)
    result = deepnmf("enhance", "in.wav", "-o", "speech.wav", "--noise-out", "noise.wav")
    assert result.code == 0
    assert {soundfile.info(name).subtype for name in ("speech.wav", "noise.wav")} == {subtype}
    # Integer formats complete each other exactly; float ones to the rounding of their last bit.
    atol = {"FLOAT": 1e-8, "DOUBLE": 1e-16}.get(subtype, 0)
    np.testing.assert_allclose(read("speech.wav") + read("noise.wav"), read("in.wav"), rtol=0, atol=atol)
    assert np.abs(read("noise.wav")).max() > 0.05


def test_options_reach_the_enhancer(deepnmf, monkeypatch, stub, noisy):
    seen = []
    monkeypatch.setattr(zoo, "load_enhancer", lambda *asked: seen.append(asked) or stub)
    process = stub.enhance_blocks
    monkeypatch.setattr(stub, "enhance_blocks", lambda *args, **more: seen.append((*args[1:], more)) or process(*args))
    options = ["--model", "some.safetensors", "--device", "cpu", "--backend", "torch"]
    options += ["--depth", "3", "--max-attenuation", "15", "--mix", "0.8", "--channels", "separate"]
    assert deepnmf("enhance", "noisy.wav", "-o", "clean.wav", *options).code == 0
    assert seen == [
        ("some.safetensors", "cpu", "torch", None, 3),
        (RATE_HZ, 1, 15.0, 0.8, {"separate": True, "activity": None}),
    ]


def test_json_has_a_line_per_file_and_a_summary(deepnmf, stub, noisy):
    Path("bad.wav").write_text("not sound")
    result = deepnmf("enhance", "noisy.wav", "bad.wav", "-o", "out", "--json", "--model", "tiny")
    good, bad, summary = result.lines
    assert result.code == EXIT_SOME_FAILED
    assert 0 < good.pop("real_time_factor") < 10
    assert good == {
        "type": "file", "input": "noisy.wav", "output": "out/noisy.wav", "noise": None, "seconds": 1.0,
        "rate_hz": RATE_HZ, "channels": 1, "channel_mode": "together", "model": "tiny", "clipped": 0, "notes": [],
        "loudness": None, "vad": None, "speech": None, "status": "done", "error": None,
    }  # fmt: skip
    assert bad.keys() == {*good, "real_time_factor"} and "no audio that can be read" in bad["error"]
    assert bad["status"] == "failed" and "Enhanced" not in result.err
    assert 0 < summary.pop("elapsed_s") == summary.pop("real_time_factor") < 10
    assert summary == {
        "type": "summary", "files": 2, "done": 1, "skipped": 0, "failed": 1, "seconds": 1.0, "stopped": None,
        "exit_code": EXIT_SOME_FAILED,
    }  # fmt: skip


def test_json_tells_of_a_model_that_does_not_load(deepnmf, noisy):
    result = deepnmf("enhance", "noisy.wav", "--json", "--model", "none.safetensors")
    (summary,) = result.lines
    assert result.code == EXIT_FAILED == summary["exit_code"] and summary["stopped"] == "failed"


def test_quiet_shows_errors_only(deepnmf, stub, noisy):
    assert deepnmf("enhance", "noisy.wav", "-o", "clean.wav", "-q").err == ""
    assert "none.wav" in deepnmf("enhance", "none.wav", "-o", "clean2.wav", "-q").err


def test_clipping_is_reported(deepnmf, stub, folder):
    soundfile.write("hot.wav", np.full(1000, 3.0), RATE_HZ, "FLOAT")
    assert "Warning" not in deepnmf("enhance", "hot.wav", "-o", "float.wav").err
    result = deepnmf("enhance", "hot.wav", "-o", "clean.flac", "--json")
    assert "Warning: clean.flac: 1000 samples beyond full scale clipped." in result.err
    assert result.code == 0 and result.lines[0]["clipped"] == 1000


def test_progress_is_shown_on_a_terminal_only(deepnmf, stub, noisy, terminal):
    assert "%" not in deepnmf("enhance", "noisy.wav", "-o", "piped.wav").err
    for name, options, shown in (("bar", [], True), ("json", ["--json"], False), ("quiet", ["--quiet"], False)):
        screen = terminal("stderr")
        assert deepnmf("enhance", "noisy.wav", "-o", f"{name}.wav", *options).code == 0
        assert ("noisy.wav   0 %" in screen.getvalue()) == ("00:00/00:01 of audio" in screen.getvalue()) == shown


def test_progress_counts_files(deepnmf, stub, recordings, terminal):
    screen = terminal("stderr")
    assert deepnmf("enhance", "recordings", "-o", "out").code == 0
    assert "0/3 files " in screen.getvalue() and "3/3 files " in screen.getvalue()


def test_progress_is_in_audio_time_and_says_how_long_it_will_take(terminal):
    terminal("stderr")
    with console.progress(hidden=False) as bar:
        bar.reset(total=120.0)
        bar.start_t -= 10
        bar.n = 30.0
        assert "00:30/02:00 of audio [00:10<00:30]" in str(bar)


def test_progress_of_a_pipe_has_no_total(deepnmf, stub, noisy, terminal):
    screen = terminal("stderr")
    assert deepnmf("enhance", "-", "-o", "clean.wav", stdin=noisy.read_bytes()).code == 0
    assert "00:00/? of audio" in screen.getvalue() and "Enhanced 1 file." in screen.getvalue()


@pytest.mark.parametrize(("total_s", "shown"), [(120.0, "01:15/02:00"), (None, "01:15/?"), (50.0, "01:15/00:50")])
def test_progress_survives_any_total(terminal, total_s, shown):
    screen = terminal("stderr")
    with console.progress(hidden=False) as bar:
        bar.reset(total=total_s)
        bar.update(75.0)
        bar.refresh()
    assert shown in screen.getvalue()


# Channels


@pytest.mark.parametrize(("options", "modes"), [
    ([], ["separate", "together", "together"]), (["--channels", "together"], 3 * ["together"]),
    (["--channels", "separate"], 3 * ["separate"]),
])  # fmt: skip
def test_channels_are_enhanced_as_each_file_needs_or_as_all_were_asked(
    deepnmf, monkeypatch, stub, folder, voice, hiss, options, modes
):
    sides = np.stack([voice(3), hiss(3)], 1)
    for name, samples in (("call", sides), ("dual", sides[:, [0, 0]]), ("mono", sides[:, 0])):
        soundfile.write(f"{name}.wav", samples, RATE_HZ)
    seen, process = [], stub.enhance_blocks
    monkeypatch.setattr(stub, "enhance_blocks", lambda *args, **more: seen.append(more["separate"]) or process(*args))
    result = deepnmf("enhance", "call.wav", "dual.wav", "mono.wav", "--json", *options)
    assert [row["channel_mode"] for row in result.lines[:-1]] == modes
    assert seen == [mode == "separate" for mode in modes]
    said = "call.wav: the channels have little in common; each was enhanced on its own."
    assert (said in deepnmf("enhance", "call.wav", "-o", "out.wav", *options).err) == (not options)


# Pipes


def test_standard_input_and_output(deepnmf, stub, noisy):
    result = deepnmf("enhance", "-", "-o", "-", stdin=noisy.read_bytes())
    assert result.code == 0 and result.out[:4] == b"RIFF"
    np.testing.assert_allclose(soundfile.read(io.BytesIO(result.out))[0], read("noisy.wav")[:, 0] / 2, atol=1 / 32768)
    assert listing() == ["noisy.wav"]


def test_a_pipe_to_a_file_and_a_file_to_a_pipe(deepnmf, stub, noisy):
    assert deepnmf("enhance", "-", "-o", "a.wav", stdin=noisy.read_bytes()).code == 0
    Path("b.wav").write_bytes(deepnmf("enhance", "noisy.wav", "-o", "-").out)
    np.testing.assert_array_equal(read("a.wav"), read("b.wav"))


def test_bad_standard_input_is_called_by_its_name(deepnmf, stub, folder):
    result = deepnmf("enhance", "-", "-o", "-", stdin=b"")
    assert result.code == EXIT_FAILED and result.out == b""
    assert "Error: standard input: found an empty file" in result.err


# Folders


def test_a_folder_keeps_its_tree(deepnmf, stub, recordings):
    result = deepnmf("enhance", "recordings/", "-o", "new/enhanced", "--noise-out", "noise")
    names = ["day/night/three.wav", "day/two.flac", "one.wav"]
    assert result.code == 0 and "Enhanced 3 files." in result.err
    for root in ("new/enhanced", "noise"):
        assert sorted(str(p.relative_to(root)) for p in Path(root).rglob("[!.]*") if p.is_file()) == names


def test_outputs_inside_the_input_folder_are_not_enhanced_again(deepnmf, stub, recordings):
    for _ in range(2):
        result = deepnmf("enhance", "recordings", "-o", "recordings/out", "--overwrite", "--json")
        assert result.code == 0 and result.lines[-1]["done"] == 3


def test_one_bad_file_does_not_stop_the_rest(deepnmf, stub, recordings):
    Path("recordings/day/bad.wav").write_text("not sound")
    result = deepnmf("enhance", "recordings", "-o", "out")
    assert result.code == EXIT_SOME_FAILED
    assert "Error: recordings/day/bad.wav: found no audio" in result.err
    assert "Enhanced 3 files. 1 of 4 files failed." in result.err
    assert not Path("out/day/bad.wav").exists()


def test_files_and_folders_together(deepnmf, stub, recordings, hiss):
    soundfile.write("four.wav", hiss(0.1), RATE_HZ)
    result = deepnmf("enhance", "four.wav", "recordings", "none.wav", "-o", "out")
    assert result.code == EXIT_SOME_FAILED and "Error: none.wav: found no readable file" in result.err
    assert {"four.wav", "one.wav"} <= set(os.listdir("out"))


def test_all_files_failing_is_a_failure(deepnmf, stub, folder):
    result = deepnmf("enhance", "a.wav", "b.wav", "-o", "out")
    assert result.code == EXIT_FAILED and "2 of 2 files failed." in result.err


def test_two_inputs_never_share_an_output(deepnmf, stub, recordings):
    soundfile.write("one.wav", np.zeros(10), RATE_HZ)
    result = deepnmf("enhance", "one.wav", "recordings", "-o", "out")
    assert result.code == EXIT_USAGE and "out/one.wav: found two outputs of this name" in result.err
    assert "of one.wav and of recordings/one.wav" in result.err
    assert not Path("out").exists()


# Several processes


def test_processes_do_what_one_does(deepnmf, recordings):
    Path("recordings/day/bad.wav").write_text("not sound")
    command = ["enhance", "recordings", "-o"]
    assert deepnmf(*command, "one", "--noise-out", "noise-one", "--jobs", 1).code == EXIT_SOME_FAILED
    result = deepnmf(*command, "two", "--noise-out", "noise-two", "--jobs", 2, "--json")
    assert result.code == EXIT_SOME_FAILED and result.lines[-1]["failed"] == 1
    assert "Error: recordings/day/bad.wav: found no audio" in result.err
    files = [name for name in listing() if name.startswith(("one/", "noise-one/")) and not name.endswith(RECORD)]
    assert len(files) == 6
    for name in files:
        assert Path(name).read_bytes() == Path(name.replace("one/", "two/", 1)).read_bytes()


def test_processes_begin_with_the_longest_file(recordings):
    for name, frames in [("a.wav", 100), ("b.wav", 300), ("c.wav", 200), ("d.wav", 300)]:
        soundfile.write(name, np.zeros(frames), RATE_HZ)
    Path("bad.wav").write_text("not sound")
    jobs = [Job(name, f"out/{name}") for name in ("bad.wav", "a.wav", "b.wav", "c.wav", "d.wav")]
    ordered = longest_first(jobs, headers(jobs))
    assert [job.source for job in ordered] == ["b.wav", "d.wav", "c.wav", "a.wav", "bad.wav"]


def test_a_model_that_does_not_load_fails_once(deepnmf, recordings):
    result = deepnmf("enhance", "recordings", "-o", "out", "--model", "none.safetensors", "--jobs", 2)
    assert result.code == EXIT_FAILED and result.err.count("no model of that name") == 1
    assert not Path("out").exists()


@pytest.mark.parametrize(
    ("asked", "files", "seconds", "device", "count"),
    [
        (None, 100, 299.0, "cpu", 1),
        (None, 100, 700.0, "cpu", 2),
        (None, 100, 1e6, "cpu", 4),
        (None, 3, 1e6, "cpu", 3),
        (None, 100, 1e6, "cuda", 1),
        (8, 100, 1.0, "cpu", 8),
        (8, 2, 1e6, "cuda", 2),
    ],
)
def test_as_many_processes_as_pay_off(monkeypatch, asked, files, seconds, device, count):
    monkeypatch.setattr(batch, "available_cpus", lambda: 4)
    monkeypatch.setattr(zoo, "resolve_device", lambda device: device)
    assert process_count(asked, files, seconds, device) == count


# With a network


@pytest.mark.parametrize(("rate_hz", "channels"), [(8000, 1), (11025, 2), (48000, 1), (192000, 6)])
def test_any_rate_and_channels_through_a_network(deepnmf, tiny_model, folder, voice, hiss, rate_hz, channels):
    clean = voice(0.3, rate_hz)
    soundfile.write("in.wav", np.stack([clean + hiss(0.3, rate_hz, seed) for seed in range(channels)], 1), rate_hz)
    result = deepnmf("enhance", "in.wav", "-o", "out.wav", "--noise-out", "noise.wav", "--model", tiny_model)
    assert result.code == 0, result.err
    assert audio.info("out.wav") == audio.info("in.wav")
    np.testing.assert_array_equal(read("out.wav") + read("noise.wav"), read("in.wav"))


@pytest.mark.parametrize("samples", [1, 16000])
def test_digital_silence_stays_digital_silence(deepnmf, tiny_model, folder, samples):
    soundfile.write("silence.wav", np.zeros(samples), RATE_HZ, "FLOAT")
    result = deepnmf("enhance", "silence.wav", "-o", "out.wav", "--model", tiny_model)
    assert result.code == 0, result.err
    assert read("out.wav").shape == (samples, 1) and not read("out.wav").any()


def test_one_sample_is_enough(deepnmf, tiny_model, folder):
    soundfile.write("one.wav", np.array([0.25]), RATE_HZ)
    assert deepnmf("enhance", "one.wav", "-o", "out.wav", "--model", tiny_model).code == 0
    assert read("out.wav").shape == (1, 1)


@pytest.mark.parametrize("died", [True, False])
def test_what_a_killed_process_was_writing_is_removed(folder, monkeypatch, died):
    class OneDied(Workers):
        def __enter__(self):
            self.died = died
            return self

        def run(self, tasks, progress, name=str):
            yield from ((task, None) for task in tasks)

    monkeypatch.setattr(batch, "Workers", OneDied)
    Path("out").mkdir()
    (partial := Path("out/.a-abcdefgh.deepnmf-partial.wav")).write_bytes(b"RIFF")
    work = [Job("a.wav", "out/a.wav"), Job("b.wav", "out/b.wav")]
    assert len(list(batch.on_this_machine(work, lambda *_: None, None, 2, lambda seconds: None))) == 2
    assert partial.exists() != died
