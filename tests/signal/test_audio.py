"""Audio files: exact round trips, bounded memory, and a clear message for each way in which a file can be bad."""

import errno
import os
import shutil
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
import soundfile

from deepnmf_cli.errors import AudioError
from deepnmf_cli.signal import audio, audio_writer, formats
from deepnmf_cli.signal.formats import PCM_BITS, WRITABLE, AudioInfo

RATE_HZ = 16000
CONTAINERS = sorted(set(WRITABLE.values()))


def noise(frames, channels=1, seed=0, deviation=0.2):
    return deviation * np.random.default_rng(seed).standard_normal((channels, frames))


def raises(*parts):
    """Expect an AudioError whose message contains all `parts`."""
    return pytest.raises(AudioError, match="(?s)" + "".join(f"(?=.*{part})" for part in parts))


def write_as(path, samples, container, subtype, rate_hz=RATE_HZ):
    info = AudioInfo(rate_hz, samples.shape[0], samples.shape[1], container, subtype)
    with audio_writer.open_writer(path, info) as writer:
        return writer, writer.write(samples)


# Round trips


@pytest.mark.parametrize(
    ("container", "subtype"), [(c, s) for c in CONTAINERS for s in formats._SAMPLES[c] if s in PCM_BITS]
)
def test_integer_samples_come_back_as_the_writer_said(tmp_path, container, subtype):
    scale = 1 << (PCM_BITS[subtype] - 1)
    samples = np.random.default_rng(1).integers(-scale, scale, (2, 1001)) / scale
    samples[:, :2] = -1, (scale - 1) / scale
    path = tmp_path / f"x.{container.lower()}"
    _, stored = write_as(path, samples, container, subtype)
    found, rate_hz = audio.read(path, "float64")
    assert audio.info(path) == AudioInfo(RATE_HZ, 2, 1001, container, subtype) and rate_hz == RATE_HZ
    np.testing.assert_array_equal(stored, samples)
    np.testing.assert_array_equal(found, samples)


@pytest.mark.parametrize("frames", [1, 2, 999, 70001])
@pytest.mark.parametrize("suffix", WRITABLE)
def test_length_is_kept_to_the_sample_in_every_container(tmp_path, suffix, frames):
    path = tmp_path / f"x{suffix}"
    audio_writer.write(path, noise(frames, 2), RATE_HZ)
    samples, _ = audio.read(path)
    assert samples.shape == (2, frames) and samples.dtype == np.float32


@pytest.mark.parametrize(("subtype", "dtype"), [("FLOAT", np.float32), ("DOUBLE", np.float64)])
def test_float_samples_beyond_full_scale_are_kept(tmp_path, subtype, dtype):
    samples = np.array([[0.1, 2.5, -3.0]])
    writer, _ = write_as(tmp_path / "x.wav", samples, "WAV", subtype)
    np.testing.assert_array_equal(audio.read(tmp_path / "x.wav", "float64")[0], samples.astype(dtype))
    assert writer.clipped == 0


@pytest.mark.parametrize("subtype", ["PCM_16", "ULAW"])
def test_samples_beyond_full_scale_are_clipped_and_counted(tmp_path, subtype):
    writer, stored = write_as(tmp_path / "x.wav", np.array([[-1.0, 0.5, 0.9999, 1.5, -1.5]]), "WAV", subtype)
    found, _ = audio.read(tmp_path / "x.wav")
    assert writer.clipped == 2 and np.abs(stored).max() <= 1
    np.testing.assert_allclose(found, np.clip(stored, -1, 1), atol=0.05)


def test_mp3_read_in_blocks_equals_mp3_read_at_once(tmp_path):
    audio_writer.write(tmp_path / "x.mp3", noise(20000, 2), 44100)
    with audio.AudioReader(tmp_path / "x.mp3") as reader:
        pieces = np.concatenate(list(reader.blocks(frames=1000)), axis=1)
    np.testing.assert_allclose(pieces, soundfile.read(tmp_path / "x.mp3", dtype="float32")[0].T, atol=1e-6)


def test_wav_beyond_four_gigabytes_becomes_rf64(tmp_path, monkeypatch):
    monkeypatch.setattr(audio_writer, "WAV_LIMIT_BYTES", 1000)
    for frames, container in ((500, "WAV"), (501, "RF64")):
        audio_writer.write(tmp_path / "x.wav", noise(frames), RATE_HZ)
        assert audio.info(tmp_path / "x.wav").container == container
        assert audio.info(tmp_path / "x.wav").frames == frames


def test_samples_that_are_not_finite_are_never_written(tmp_path):
    with raises("out.wav", "not finite to write"):
        audio_writer.write(tmp_path / "out.wav", np.array([[np.nan]]), RATE_HZ)
    assert os.listdir(tmp_path) == []


# Bad inputs


@pytest.mark.parametrize("kind", ["WAV", "AIFF", "AU", "W64", "RF64", "FLAC", "MP3"])
def test_a_file_cut_short_says_how_much_is_there(tmp_path, kind):
    whole, cut = tmp_path / f"whole.{kind.lower()}", tmp_path / f"cut.{kind.lower()}"
    audio_writer.write(whole, noise(30_000), RATE_HZ)
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    with raises("cut", r"found \d+ frames", "expected 30000 frames", "copy it again"):
        audio.read(cut)


def test_a_header_without_samples_is_a_file_cut_short(tmp_path):
    audio_writer.write(tmp_path / "x.wav", noise(1000, 2), RATE_HZ)
    (tmp_path / "x.wav").write_bytes((tmp_path / "x.wav").read_bytes()[:44])
    with raises("x.wav", "found 0 frames", "expected 1000 frames"):
        audio.info(tmp_path / "x.wav")


@pytest.mark.parametrize("size", [0x7FFFFFFF, 0x80000000, 0xFFFFFFFF])
def test_a_wav_header_written_to_a_pipe_announces_nothing(tmp_path, size):
    audio_writer.write(tmp_path / "x.wav", noise(1000), RATE_HZ)
    content = bytearray((tmp_path / "x.wav").read_bytes())
    content[4:8] = content[40:44] = size.to_bytes(4, "little")
    (tmp_path / "x.wav").write_bytes(content)
    assert audio.read(tmp_path / "x.wav")[0].shape == (1, 1000)


def test_text_renamed_to_wav(tmp_path):
    (tmp_path / "x.wav").write_text("This is no sound at all. " * 20)
    shutil.copy(tmp_path / "x.wav", tmp_path / "x.raw")
    for suffix in ("wav", "raw"):
        with raises(f"x.{suffix}", "no audio that can be read", "expected WAV, FLAC", "ffmpeg"):
            audio.info(tmp_path / f"x.{suffix}")


def test_missing_empty_and_irregular_files(tmp_path):
    with raises("none.wav", "No such file", "Check the path"):
        audio.info(tmp_path / "none.wav")
    (tmp_path / "empty.wav").touch()
    with raises("empty.wav", "found an empty file", "at least one sample"):
        audio.info(tmp_path / "empty.wav")
    with raises("found a folder", "a regular file"):
        audio.info(tmp_path)
    os.mkfifo(tmp_path / "pipe.wav")
    with raises("found a pipe", "pass - as the input"):
        audio.info(tmp_path / "pipe.wav")


def test_zero_samples_are_an_error_and_one_sample_is_not(tmp_path):
    soundfile.write(tmp_path / "zero.wav", np.empty((0, 2)), RATE_HZ)
    with raises("zero.wav", "found no samples", "at least one sample"):
        audio.info(tmp_path / "zero.wav")
    audio_writer.write(tmp_path / "one.wav", np.array([[0.5]]), RATE_HZ)
    assert audio.read(tmp_path / "one.wav")[0].tolist() == [[0.5]]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e300])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_samples_that_are_not_finite_are_located(tmp_path, value, dtype):
    samples = np.zeros((2, 200_000))
    samples[1, 80_000:80_003] = value
    soundfile.write(tmp_path / "x.wav", samples.T, RATE_HZ, "DOUBLE")
    with raises("x.wav", "not finite", "at 5.000 s", "sample 80000, channel 2", "zeros"):
        audio.read(tmp_path / "x.wav", dtype)


def test_shapes_and_rates_that_cannot_be_sound(tmp_path):
    with raises("found 44100 channels", "expected 1 to 64", r"\(channels, frames\)"):
        audio_writer.write(tmp_path / "x.wav", np.zeros((44100, 2), np.float32), RATE_HZ)
    with raises(r"shape \(100,\)", r"\(channels, frames\)"):
        audio_writer.write(tmp_path / "x.wav", np.zeros(100), RATE_HZ)
    with raises("sampling rate of 16 Hz", "1000 to 768000"):
        audio_writer.write(tmp_path / "x.wav", np.zeros((1, 100)), 16)
    with raises("a name of no audio format", r"\.wav"):
        audio_writer.write(tmp_path / "x.txt", np.zeros((1, 100)), RATE_HZ)
    with raises("6 channel", "MP3", r"\.wav"):
        audio_writer.write(tmp_path / "x.mp3", np.zeros((6, 100)), RATE_HZ)
    soundfile.write(tmp_path / "x.wav", np.zeros((10, 65)), RATE_HZ)
    with raises("found 65 channels"):
        audio.info(tmp_path / "x.wav")
    assert os.listdir(tmp_path) == ["x.wav"]


# Outputs that fail


def test_a_full_disk_is_foreseen(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")(10**9, 10**9 - 1000, 1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with raises("x.wav", "1.0 kB free", "at least 2.0 MB", "another disk"):
        audio_writer.write(tmp_path / "x.wav", noise(1_000_000), RATE_HZ)
    assert os.listdir(tmp_path) == []


def test_a_disk_that_fills_up_while_writing(tmp_path, monkeypatch):
    def fail(self, data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(soundfile.SoundFile, "write", fail)
    with raises("x.wav", "a full disk", "room for the output", "Free some space"):
        audio_writer.write(tmp_path / "x.wav", noise(1000), RATE_HZ)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg", ".mp3"])
def test_a_real_limit_on_the_file_size_is_noticed(tmp_path, suffix):
    script = """
import resource, sys
import numpy as np
from deepnmf_cli.errors import AudioError
from deepnmf_cli.signal import audio_writer
resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
samples = 0.2 * np.random.default_rng(0).standard_normal((1, 100_000))
try:
    audio_writer.write(sys.argv[1], samples, 16000)
except AudioError as error:
    sys.exit(f"AudioError {error}")
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / f"x{suffix}")],
        capture_output=True, text=True, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert done.stderr.startswith("AudioError") and "full disk" in done.stderr
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, RuntimeError])
def test_an_interrupted_output_leaves_the_old_file(tmp_path, interruption):
    (tmp_path / "x.wav").write_bytes(b"old")
    info = AudioInfo(8000, 1, 9, "WAV", "PCM_16")
    with pytest.raises(interruption), audio_writer.open_writer(tmp_path / "x.wav", info) as out:
        out.write(np.zeros((1, 5)))
        raise interruption
    assert (tmp_path / "x.wav").read_bytes() == b"old" and os.listdir(tmp_path) == ["x.wav"]
    assert out._file.closed  # or some systems could not remove it


def test_flac_written_to_a_pipe_is_counted(tmp_path):
    path = tmp_path / "piped.flac"
    audio_writer.write(path, noise(150_000, 2), RATE_HZ)
    info, (samples, _) = audio.info(path), audio.read(path)
    content = bytearray(path.read_bytes())
    content[21] &= 0xF0  # the total number of samples in STREAMINFO: 36 bits, 0 for "unknown"
    content[22:26] = bytes(4)
    path.write_bytes(content)
    assert soundfile.info(path).frames == formats.UNKNOWN_FRAMES
    assert audio.info(path) == info
    np.testing.assert_array_equal(audio.read(path)[0], samples)


@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES, errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_write_that_fails_says_whether_the_disk_is_full(tmp_path, number):
    full = number in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
    found = "found a full disk, or an exceeded quota" if full else "found an output that cannot be written"
    with raises("x.wav", found), audio.explaining(tmp_path / "x.wav"):
        raise OSError(number, os.strerror(number))


@pytest.mark.parametrize(("container", "subtype"), [("WAV", "FLOAT"), ("OGG", "VORBIS")])
def test_a_block_without_samples_adds_nothing(tmp_path, container, subtype):
    path = tmp_path / f"x.{container.lower()}"
    with audio_writer.open_writer(path, AudioInfo(RATE_HZ, 1, 100, container, subtype)) as writer:
        for frames in (0, 100, 0):
            writer.write(noise(frames))
    assert audio.info(path).frames == 100


@pytest.mark.parametrize(
    "error", [OSError(errno.EIO, "It failed", "x.wav"), ValueError("It failed."), soundfile.LibsndfileError(2)]
)
def test_the_reason_of_an_error_is_what_it_says_without_its_path(error):
    expected = "System error" if isinstance(error, soundfile.LibsndfileError) else "It failed"
    assert audio.reason(error) == expected


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    for folder in (tmp_path / "none", tmp_path / "file"):
        with raises("x.wav", "an output that cannot be written", "another folder"):
            audio_writer.write(folder / "x.wav", noise(10), RATE_HZ)


def test_an_assertion_of_our_own_is_no_full_disk(tmp_path):
    with pytest.raises(AssertionError), audio.explaining(tmp_path / "x.wav"):
        raise AssertionError
