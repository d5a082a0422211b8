"""DNSMOS: the package's own function gives the same, level and rate."""

import numpy as np
import pytest

from deepnmf_cli.scoring.dnsmos import NAMES, dnsmos_score
from deepnmf_cli.scoring.metrics import DNSMOS, METRICS
from deepnmf_cli.scoring.perceptual import NoScore
from deepnmf_cli.scoring.scorer import score

RATE_HZ = 16000


def voice(seconds: float) -> np.ndarray:
    """A buzz with pauses in some noise."""
    time_s = np.arange(int(seconds * RATE_HZ)) / RATE_HZ
    buzz = sum(np.sin(2 * np.pi * 140 * k * time_s) / k for k in range(1, 20)) * (np.sin(2 * np.pi * 2 * time_s) > 0)
    return 0.05 * buzz + 0.005 * np.random.default_rng(0).standard_normal(len(time_s))


@pytest.mark.parametrize("seconds", [3.0, 10.5])
def test_scores_are_those_of_the_package(seconds: float) -> None:
    package = pytest.importorskip("speechmos.dnsmos", reason="its code needs requests, which it does not declare")
    samples = voice(seconds)
    expected = package.run(samples.astype(np.float32), RATE_HZ)
    found = [dnsmos_score(samples, RATE_HZ, name) for name in NAMES]
    assert found == pytest.approx([expected[f"{name.lower()}_mos"] for name in NAMES], abs=1e-4)


def test_a_peak_beyond_full_scale_is_brought_to_it_and_low_rates_have_no_score() -> None:
    samples = voice(9.1)
    loud = samples / np.abs(samples).max()
    assert dnsmos_score(4 * loud, RATE_HZ, "OVRL") == pytest.approx(dnsmos_score(loud, RATE_HZ, "OVRL"), abs=1e-4)
    with pytest.raises(NoScore, match="BAK: a sampling rate below 16000 Hz"):
        dnsmos_score(samples, 8000, "BAK")


def test_they_are_computed_when_asked_for() -> None:
    samples = voice(2.0)[None]
    assert list(score(samples, samples, RATE_HZ).values) == list(METRICS)
    scores = score(samples, samples, RATE_HZ, metrics=["STOI", *DNSMOS])
    assert list(scores.values) == ["STOI", "SIG", "BAK", "OVRL"]
    assert all(1 <= scores.values[name] <= 5 for name in NAMES)
