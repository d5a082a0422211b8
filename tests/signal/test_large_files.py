"""Files beyond 4 GiB, most of them holes, so that they take neither room nor time."""

import os
import shutil
from collections import namedtuple

import numpy as np
import pytest
import soundfile

from deepnmf_cli.errors import AudioError
from deepnmf_cli.signal import audio, audio_writer
from deepnmf_cli.signal.formats import AudioInfo

RATE_HZ, CHANNELS = 48000, 2
FRAMES = (5 << 30) // (2 * CHANNELS)
"""Five GiB of 16-bit stereo, almost eight hours."""


def sparse(path, container):
    """A file of FRAMES frames: 1000 of noise, zeros, and a last one of full scale."""
    noise = np.random.default_rng(0).integers(-9999, 9999, (1000, CHANNELS), np.int16)
    soundfile.write(path, noise, RATE_HZ, "PCM_16", format=container)
    content = bytearray(path.read_bytes())
    size, start = 2 * CHANNELS * FRAMES, len(content) - noise.nbytes
    if container == "RF64":
        sizes = content.index(b"ds64") + 8
        content[sizes : sizes + 24] = b"".join(n.to_bytes(8, "little") for n in (start + size - 8, size, FRAMES))
    else:
        content[16:24] = (start + size).to_bytes(8, "little")
        content[start - 8 : start] = (size + 24).to_bytes(8, "little")
    path.write_bytes(content)
    os.truncate(path, start + size)
    with open(path, "r+b") as file:
        file.seek(-2 * CHANNELS, os.SEEK_END)
        file.write(b"\xff\x7f" * CHANNELS)
    return noise


@pytest.mark.parametrize("container", ["RF64", "W64"])
def test_files_beyond_four_gigabytes_are_read_to_their_last_sample(tmp_path, container):
    path = tmp_path / f"long.{container.lower()}"
    noise = sparse(path, container)
    assert path.stat().st_blocks * 512 < 1 << 20
    with audio.AudioReader(path) as reader:
        assert reader.info == AudioInfo(RATE_HZ, CHANNELS, FRAMES, container, "PCM_16")
        np.testing.assert_array_equal(next(reader.blocks(frames=1000)), noise.T / np.float32(32768))
    with audio.AudioReader(path) as reader:
        last = np.concatenate(list(reader.blocks(start=FRAMES - 500)), 1)
    assert last.shape == (CHANNELS, 500) and not last[:, :-1].any()
    np.testing.assert_array_equal(last[:, -1], np.float32(32767 / 32768))


@pytest.mark.parametrize(
    ("suffix", "container", "written"),
    [(".wav", "WAV", "RF64"), (".wav", "WAVEX", "RF64"), (".w64", "W64", "W64"), (".caf", "CAF", "CAF")],
)
def test_an_output_beyond_four_gigabytes_gets_a_header_for_it(tmp_path, monkeypatch, suffix, container, written):
    usage = namedtuple("usage", "total used free")(1 << 50, 0, 1 << 50)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    info = AudioInfo(RATE_HZ, CHANNELS, FRAMES, container, "PCM_16")
    with pytest.raises(KeyboardInterrupt), audio_writer.open_writer(tmp_path / f"x{suffix}", info) as writer:
        assert writer._file.format == written
        raise KeyboardInterrupt  # before five GiB are written
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(("frames", "written"), [((1 << 30) - (1 << 14), "WAV"), ((1 << 30) - (1 << 14) + 1, "RF64")])
def test_the_sizes_in_a_header_of_wav_never_overflow(tmp_path, monkeypatch, frames, written):
    """They have 32 bits, and 64 KiB of them are kept for what is not samples."""
    usage = namedtuple("usage", "total used free")(1 << 50, 0, 1 << 50)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    info = AudioInfo(RATE_HZ, 2, frames, "WAV", "PCM_16")
    with pytest.raises(KeyboardInterrupt), audio_writer.open_writer(tmp_path / "x.wav", info) as writer:
        assert writer._file.format == written
        raise KeyboardInterrupt


@pytest.mark.parametrize(("suffix", "container", "limit"), [(".aiff", "AIFF", "2.1 GB"), (".au", "AU", "4.3 GB")])
def test_containers_without_room_for_the_size_are_refused(tmp_path, monkeypatch, suffix, container, limit):
    usage = namedtuple("usage", "total used free")(1 << 50, 0, 1 << 50)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    info = AudioInfo(RATE_HZ, CHANNELS, FRAMES, container, "PCM_16")
    message = f"5.4 GB of samples; expected at most {limit} in {container}.*wav, .w64"
    with pytest.raises(AudioError, match=message), audio_writer.open_writer(tmp_path / f"x{suffix}", info):
        pass
    assert os.listdir(tmp_path) == []
