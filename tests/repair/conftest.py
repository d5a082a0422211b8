"""Speech-like sound with damage in it, and small models that repair it."""

import numpy as np
import pytest

from deepnmf_cli.repair import model


@pytest.fixture(scope="session")
def sound(voice, hiss):
    """sound(seconds) -> (N,) float64: a voice with a little noise, on the grid of 16 bits."""

    def make(seconds: float = 2.0) -> np.ndarray:
        samples = 0.8 * voice(seconds).astype(np.float64) + 0.05 * hiss(seconds)
        return np.rint(samples * (1 << 15)) / (1 << 15)

    return make


@pytest.fixture(scope="session")
def models():
    """Those that ship, by task."""
    return {task: model.load(model.shipped(task)) for task in model.TASKS}
