"""`deepnmf stream`: what `enhance` gives, while the sound still comes in."""

import fcntl
import io
import itertools
import os
import select
import signal
import subprocess
import sys
import termios
import time
from array import array
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile

from deepnmf_cli.errors import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_TERMINATED, EXIT_USAGE
from deepnmf_cli.signal.samples import FORMATS, Layout, decode, encode

ROOT = Path(__file__).parents[2]
PATIENCE_S = 60
SUBTYPES = {"s16le": "PCM_16", "s24le": "PCM_24", "s32le": "PCM_32", "f32le": "FLOAT"}
TOLERANCE = {"s16le": 1.01 * 2**-15, "s24le": 1e-6, "s32le": 1e-6, "f32le": 1e-6}
"""One integer step, or what pieces of other sizes may change by other orders of summation."""


@pytest.fixture
def enhanced(deepnmf, folder, tiny_model):
    """enhanced(bytes of samples, layout) -> samples (channels, n) as `deepnmf enhance` writes them."""

    def enhance(data: bytes, layout: Layout) -> np.ndarray:
        soundfile.write("in.wav", decode(data, layout).T, layout.rate_hz, SUBTYPES[layout.format])
        result = deepnmf("enhance", "in.wav", "-o", "out.wav", "--model", tiny_model, "--overwrite")
        assert result.code == 0, result.err
        return soundfile.read("out.wav", dtype="float32", always_2d=True)[0].T

    return enhance


def sound(voice, hiss, layout: Layout, seconds: float = 0.6) -> bytes:
    channels = [voice(seconds, layout.rate_hz) + hiss(seconds, layout.rate_hz, k) for k in range(layout.channels)]
    return encode(np.stack(channels), layout)[0]


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize(("rate_hz", "channels"), [(16000, 1), (44100, 2)])
@pytest.mark.parametrize("seed", range(2))
def test_raw_samples_become_what_enhance_makes_of_them(
    deepnmf, enhanced, tiny_model, voice, hiss, name, rate_hz, channels, seed
):
    layout = Layout(rate_hz, channels, name)
    data, block_ms = sound(voice, hiss, layout), float(np.random.default_rng(seed).uniform(1, 300))
    options = ["--rate", rate_hz, "--channels", channels, "--format", name, "--block", block_ms]
    result = deepnmf("stream", "--model", tiny_model, *options, stdin=data)
    assert result.code == 0 and len(result.out) == len(data)
    np.testing.assert_allclose(decode(result.out, layout), enhanced(data, layout), atol=TOLERANCE[name])


def test_samples_are_16_bit_mono_at_16_khz_by_default(deepnmf, enhanced, tiny_model, voice, hiss):
    layout = Layout(16000, 1, "s16le")
    data = sound(voice, hiss, layout)
    result = deepnmf("stream", "--model", tiny_model, stdin=data)
    np.testing.assert_allclose(decode(result.out, layout), enhanced(data, layout), atol=TOLERANCE[layout.format])
    assert result.err == "Streaming raw s16le at 16000 Hz, 1 channel: 32 ms behind, plus the block.\n"
    assert deepnmf("stream", "--model", tiny_model, "--quiet", stdin=data).err == ""


@pytest.mark.parametrize("name", FORMATS)
def test_wav_stays_wav_with_its_own_rate_channels_and_format(deepnmf, enhanced, tiny_model, voice, hiss, name):
    layout = Layout(22050, 2, name)
    data = sound(voice, hiss, layout)
    expected = enhanced(data, layout)
    result = deepnmf("stream", "--model", tiny_model, stdin=Path("in.wav").read_bytes())
    assert result.code == 0 and f"WAV {name} at 22050 Hz, 2 channels" in result.err
    written = soundfile.info(io.BytesIO(result.out))
    assert (written.samplerate, written.channels, written.subtype) == (22050, 2, SUBTYPES[name])
    samples, _ = soundfile.read(io.BytesIO(result.out), dtype="float32")
    np.testing.assert_allclose(samples.T, expected, atol=TOLERANCE[name])


def test_attenuation_limit_reaches_the_enhancer(deepnmf, tiny_model, voice, hiss):
    data = sound(voice, hiss, Layout(16000, 1, "s16le"))
    result = deepnmf("stream", "--model", tiny_model, "--max-attenuation", 0, stdin=data)
    np.testing.assert_allclose(np.frombuffer(result.out, "<i2"), np.frombuffer(data, "<i2"), atol=1)


def test_bytes_left_over_are_told(deepnmf, tiny_model):
    result = deepnmf("stream", "--model", tiny_model, "--channels", 2, stdin=bytes(4003))
    assert result.code == 0 and len(result.out) == 4000
    assert "Warning: 3 bytes left over at the end, as a sample of all channels has 4." in result.err


def test_an_empty_input_is_told(deepnmf, tiny_model):
    result = deepnmf("stream", "--model", tiny_model)
    assert (result.code, result.out) == (0, b"") and "Warning: there were no samples" in result.err


def test_a_wav_stream_that_ends_early_is_told(deepnmf, tiny_model, noisy):
    result = deepnmf("stream", "--model", tiny_model, stdin=noisy.read_bytes()[:-200])
    assert result.code == EXIT_FAILED and "Warning" not in result.err
    assert "Error: standard input: found 0.994 s of sound, 200 bytes (0.006 s) less than promised" in result.err
    assert soundfile.info(io.BytesIO(result.out)).frames == 15900  # put right, as the output can be sought


def test_what_follows_the_samples_is_not_left_out_in_silence(deepnmf, stub, noisy):
    stub.stream = lambda rate_hz, channels: SimpleNamespace(latency_samples=777)
    whole = noisy.read_bytes()
    two = deepnmf("stream", "-q", stdin=whole + whole)
    assert two.code == EXIT_FAILED and soundfile.info(io.BytesIO(two.out)).frames == 16000
    assert two.err.startswith(
        "Error: standard input: found another recording behind the first 1.000 s, 32044 bytes (1.001 s); expected"
    )
    few = deepnmf("stream", "-q", stdin=whole + bytes(9) + b"\xff" * 200)
    assert few.code == 0 and "Warning: 209 bytes behind the samples" in few.err


@pytest.mark.parametrize("append", [False, True])
def test_a_header_is_put_right_where_the_output_is_a_file(stub, noisy, monkeypatch, append):
    """Where all writes go to the end of a file, it stays as it is."""
    from deepnmf_cli.signal.pipe import PipeReader, PipeWriter

    reader = PipeReader(io.BytesIO(noisy.read_bytes()[:-200]), Layout(16000, 1, "s16le"))
    Path("out.wav").write_bytes(b"before")
    with open(os.open("out.wav", os.O_WRONLY | (os.O_APPEND if append else 0)), "wb") as target:
        target.seek(6)
        writer = PipeWriter(target, reader)
        for block in reader.blocks(1000):
            writer.write(block)
        writer.finish()
        target.write(b"behind")
    data = Path("out.wav").read_bytes()
    assert data.startswith(b"beforeRIFF") and data.endswith(b"behind") and len(data) == 6 + 44 + 2 * 15900 + 6
    assert data[data.index(b"data") + 4 :][:4] == (2 * (16000 if append else 15900)).to_bytes(4, "little")


def test_a_network_is_stopped_early_as_by_enhance(deepnmf, noisy):
    assert deepnmf("enhance", "noisy.wav", "-o", "file.wav", "--model", "tiny", "--depth", "2").code == 0
    result = deepnmf("stream", "--model", "tiny", "--depth", "2", "--block", "100", stdin=noisy.read_bytes())
    assert result.code == 0
    streamed, _ = soundfile.read(io.BytesIO(result.out))
    np.testing.assert_allclose(streamed, soundfile.read("file.wav")[0], atol=2**-15)
    whole = deepnmf("stream", "--model", "tiny", "--block", "100", stdin=noisy.read_bytes())
    assert not np.allclose(streamed, soundfile.read(io.BytesIO(whole.out))[0], atol=1e-3)


def test_layers_are_left_out_where_time_runs_faster_than_sound(deepnmf, noisy, monkeypatch):
    monkeypatch.setattr("deepnmf_cli.signal.pipe.READ_BYTES", 1600)  # so that blocks come one after the other
    arguments = "stream", "--model", "tiny", "--block", "50", "--backend", "torch"
    whole = deepnmf(*arguments, stdin=noisy.read_bytes())
    for step_s in (0, 1):
        seconds = itertools.count(step=step_s)
        monkeypatch.setattr("deepnmf_cli.pace.time", SimpleNamespace(perf_counter=lambda s=seconds: next(s)))
        result = deepnmf(*arguments, "--keep-up", stdin=noisy.read_bytes())
        assert result.code == 0 and len(result.out) == len(whole.out)
        assert (result.out == whole.out) == (step_s == 0)
        slow = "were not seen by all 4 layers, but by 1 at the least, as the computer was too slow."
        assert (slow in result.err) == ("Warning" in result.err) == (step_s == 1)


def test_keeping_up_has_no_depth_beside_it_and_no_network_of_fixed_depth(deepnmf):
    result = deepnmf("stream", "--model", "tiny", "--keep-up", "--depth", "2", stdin=b"")
    assert result.code == EXIT_USAGE and "--keep-up: found --depth beside it" in result.err
    result = deepnmf("stream", "--model", "tiny", "--keep-up", "--backend", "onnx", stdin=b"")
    assert result.code == EXIT_USAGE and "--keep-up: found a model that was exported" in result.err


def test_clipped_samples_are_counted(deepnmf, stub):
    stub.gain, stub.stream = np.float32(4), lambda rate_hz, channels: SimpleNamespace(latency_samples=777)
    result = deepnmf("stream", stdin=np.array([100, 9000, -9000, -100], "<i2").tobytes())
    assert np.frombuffer(result.out, "<i2").tolist() == [400, 32767, -32768, -400]
    assert "Warning: 2 samples beyond full scale clipped." in result.err


@pytest.mark.parametrize(("option", "value"), [("--rate", 8000), ("--channels", 2), ("--format", "f32le")])
def test_options_that_contradict_a_header_are_refused(deepnmf, tiny_model, noisy, option, value):
    result = deepnmf("stream", "--model", tiny_model, option, value, stdin=noisy.read_bytes())
    assert result.code == EXIT_USAGE and result.err.startswith(f"Error: {option}: found {value} for a WAV stream")
    assert result.out == b""


@pytest.mark.parametrize(("stream", "name"), [("stdin", "standard input"), ("stdout", "standard output")])
def test_terminals_are_refused(deepnmf, terminal, stream, name):
    terminal(stream)
    result = deepnmf("stream")
    assert result.code == EXIT_USAGE and f"Error: {name}: found a terminal" in result.err


@pytest.mark.parametrize("option", ["--input-device", "--output-device"])
def test_devices_without_live_are_refused(deepnmf, option):
    result = deepnmf("stream", option, 1, stdin=bytes(100))
    assert result.code == EXIT_USAGE and f"Error: {option}: found no --live" in result.err


# Real pipes


@pytest.fixture
def started(tiny_model):
    """started() -> the program with its three streams as pipes, ended at the end of the test."""
    running = []

    def start() -> subprocess.Popen:
        arguments = [sys.executable, "-m", "deepnmf_cli.main", "stream", "--model", str(tiny_model)]
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        running.append(subprocess.Popen(arguments, cwd=ROOT, bufsize=0, **pipes))
        return running[-1]

    yield start
    for process in running:
        process.kill()
        process.communicate()


def take(process: subprocess.Popen, size: int) -> bytes:
    """Exactly `size` bytes of standard output, which must come while standard input stays open."""
    taken = b""
    while len(taken) < size:
        assert select.select([process.stdout], [], [], PATIENCE_S)[0], f"nothing came after {len(taken)} bytes"
        more = os.read(process.stdout.fileno(), size - len(taken))
        assert more, "the output ended"
        taken += more
    return taken


def wait_until_read(process: subprocess.Popen) -> None:
    """Return when nothing is left in the pipe to standard input."""
    left, deadline = array("i", [1]), time.monotonic() + PATIENCE_S
    while left[0] and time.monotonic() < deadline:
        fcntl.ioctl(process.stdin, termios.FIONREAD, left)
        time.sleep(0.1)


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGINT, EXIT_INTERRUPTED), (signal.SIGTERM, EXIT_TERMINATED), (signal.SIGHUP, EXIT_TERMINATED)],
)
def test_blocks_come_out_at_once_and_an_interrupt_flushes_the_rest(started, enhanced, voice, hiss, number, code):
    layout, draw = Layout(16000, 1, "s16le"), np.random.default_rng(0)
    data, sent, out = sound(voice, hiss, layout), 0, b""
    process = started()
    while sent < len(data):
        piece = data[sent : sent + int(draw.integers(1, 2500))]  # odd sizes tear samples
        process.stdin.write(piece)
        sent += len(piece)
        # A window of 512 samples, and a block and a hop of up to 255 samples that wait to be filled.
        due = sent // 2 - 512 - 2 * 255
        out += take(process, max(0, 2 * due - len(out)))
    wait_until_read(process)
    process.send_signal(number)
    rest, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == code and err.count(b"\n") == 1
    assert len(out + rest) == len(data)
    np.testing.assert_allclose(decode(out + rest, layout), enhanced(data, layout), atol=TOLERANCE[layout.format])


def test_a_reader_that_went_away_ends_it_silently(started):
    process = started()
    process.stdin.write(bytes(3200))
    take(process, 100)
    process.stdout.close()
    process.stdin.write(bytes(3200))
    assert process.wait(PATIENCE_S) == EXIT_FAILED
    assert process.stderr.read().count(b"\n") == 1  # what it said at the start


def test_nothing_mixed_in_returns_the_input(deepnmf, voice, hiss):
    data = sound(voice, hiss, Layout(16000, 1, "s16le"))
    assert deepnmf("stream", "--mix", "0", stdin=data).out == data
    assert deepnmf("stream", "--mix", "0.5", stdin=data).out != data


def test_a_sample_that_arithmetic_cannot_carry_ends_it_with_a_sentence(deepnmf):
    samples = np.zeros(16000, "<f4")
    samples[8000] = 1e25
    result = deepnmf("stream", "--model", "tiny", "--format", "f32le", "-q", stdin=samples.tobytes())
    assert result.code == EXIT_FAILED
    assert result.err.startswith("Error: standard input: found a sample that is too large (1e+25) at 0.500 s")
    assert np.isfinite(np.frombuffer(result.out, "<f4")).all()


def test_a_compressed_file_is_refused_unless_the_format_of_raw_samples_is_given(deepnmf, folder, hiss):
    soundfile.write("in.flac", hiss(0.5), 16000)
    data = Path("in.flac").read_bytes()
    result = deepnmf("stream", "--model", "tiny", stdin=data)
    assert result.code == EXIT_FAILED and result.out == b""
    assert result.err.startswith("Error: standard input: found a stream of FLAC; expected raw PCM, or WAV")
    given = deepnmf("stream", "--model", "tiny", "--format", "s16le", stdin=data)
    assert given.code == 0 and len(given.out) == len(data) // 2 * 2


# Channels


def test_channels_may_have_masks_of_their_own(deepnmf, stub, noisy, monkeypatch):
    seen, process = [], stub.enhance_blocks
    monkeypatch.setattr(stub, "enhance_blocks", lambda *a, **more: seen.append((a[2], more["separate"])) or process(*a))
    monkeypatch.setattr(stub, "stream", lambda *_: SimpleNamespace(latency_samples=0), raising=False)
    for value in ("2", "separate", "2,separate", "2,together"):
        assert deepnmf("stream", "--channels", value, "--format", "s16le", stdin=bytes(400)).code == 0
    assert seen == [(2, False), (1, True), (2, True), (2, False)]
    for value in ("0", "-1", "65", "0,separate"):
        result = deepnmf("stream", "--channels", value, stdin=bytes(400))
        assert result.code == EXIT_USAGE and "is not in the range 1 to 64" in result.err
    for value in ("two", "2,apart", "auto", "-"):
        result = deepnmf("stream", "--channels", value, stdin=bytes(400))
        assert result.code == EXIT_USAGE and "is not a number" in result.err
