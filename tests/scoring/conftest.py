"""Golden scores, and recordings in folders that pair."""

import json
import runpy
from pathlib import Path

import numpy as np
import pytest
import soundfile

GOLDEN = Path(__file__).parent.parent / "golden"


@pytest.fixture(scope="session")
def signals():
    """Case -> (reference, estimate, rate_hz), the signals behind the golden scores."""
    return runpy.run_path(str(GOLDEN / "make_scores.py"))["signals"]()


@pytest.fixture(scope="session")
def golden():
    """Case -> measure -> frozen score."""
    return json.loads((GOLDEN / "scores.json").read_text("utf-8"))


@pytest.fixture
def write(tmp_path):
    """write("clean/a.wav", samples (N,) or (C, N), rate_hz) -> path, a file of doubles (or of 16 bits in FLAC)."""

    def make(name: str, samples: np.ndarray, rate_hz: int = 16000) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, samples.T, rate_hz, "PCM_16" if path.suffix == ".flac" else "DOUBLE")
        return path

    return make
