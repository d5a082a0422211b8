"""A corpus small enough to train on within a test."""

from pathlib import Path

import numpy as np
import pytest
import soundfile


@pytest.fixture(scope="session")
def tiny_corpus(tmp_path_factory) -> Path:
    """speech/ (three speakers), noise/ and dev/{clean,noisy} at 8 kHz, seconds long."""
    folder, draw, rate_hz = tmp_path_factory.mktemp("corpus"), np.random.default_rng(0), 8000
    time_s = np.arange(rate_hz) / rate_hz

    def write(name: str, samples: np.ndarray) -> None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(folder / name, samples, rate_hz)

    for i in range(9):
        voice = sum(np.sin(2 * np.pi * (120 + 15 * i) * k * time_s) / k for k in range(1, 8))
        write(f"speech/speaker{i % 3}/{i}.wav", 0.1 * voice * (np.sin(2 * np.pi * 3 * time_s) > 0))
    for i in range(3):
        write(f"noise/kind{i}/{i}.wav", 0.05 * draw.standard_normal(2 * rate_hz).clip(-4, 4))
    for i in range(2):
        clean = 0.2 * np.sin(2 * np.pi * (200 + 50 * i) * time_s)
        write(f"dev/clean/{i}.wav", clean)
        write(f"dev/noisy/{i}.wav", clean + 0.05 * draw.standard_normal(rate_hz).clip(-4, 4))
    return folder
