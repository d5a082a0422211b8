"""Recordings in an otherwise empty current folder, so that messages hold short names."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

RATE_HZ = 16000


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty folder as the current one, so that messages hold short names."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def loud_voice(voice, hiss):
    """A loud voice in faint noise (n,), of steps of 16 bits, for so many seconds."""

    def make(seconds: float) -> np.ndarray:
        return np.rint((0.8 * voice(seconds).astype(np.float64) + 0.05 * hiss(seconds)) * 32768) / 32768

    return make


@pytest.fixture
def noisy(folder, voice, hiss):
    """noisy.wav in the current folder: one second, 16 kHz, 16 bits."""
    soundfile.write("noisy.wav", voice() + hiss(), RATE_HZ)
    return folder / "noisy.wav"


@pytest.fixture
def recordings(folder, hiss):
    """recordings/: three formats in a tree, one hidden file, one that is no audio."""
    Path("recordings/day/night").mkdir(parents=True)
    for name in ("one.wav", "day/two.flac", "day/night/three.voc", ".hidden.wav"):
        soundfile.write(f"recordings/{name}", hiss(0.1), RATE_HZ)
    Path("recordings/notes.txt").write_text("hello")
    return folder
