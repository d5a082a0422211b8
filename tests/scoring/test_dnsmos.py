"""DNSMOS: the package's own function gives the same, level and rate."""

from types import SimpleNamespace

import numpy as np
import pytest

from deepnmf_cli.scoring import dnsmos
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


@pytest.mark.parametrize("extra", [-1, 0, 15839, 15840])
def test_what_fills_a_window_is_not_repeated_and_windows_begin_every_second(monkeypatch, extra: int) -> None:
    """Of 9.01 s; a window that would reach beyond the end is left out, and counts from whole seconds on."""
    heard: list[np.ndarray] = []
    network = SimpleNamespace(run=lambda _, given: heard.append(given["input_1"][0]) or [np.ones((1, 3))])
    monkeypatch.setattr(dnsmos, "_network", lambda: network)
    samples = 0.5 * np.random.default_rng(extra + 9).uniform(-1, 1, 144_160 + extra).astype(np.float32)
    dnsmos_score(samples, RATE_HZ, "SIG")
    whole = np.append(samples, samples) if extra < 0 else samples
    starts = range(0, len(whole) // RATE_HZ * RATE_HZ - 144_160 + 1, RATE_HZ)
    np.testing.assert_array_equal(heard, [whole[start : start + 144_160] for start in starts] or [whole[:144_160]])


def test_less_than_a_sample_at_16_khz_has_no_score() -> None:
    with pytest.raises(NoScore, match="SIG: too short"):
        dnsmos_score(np.ones(1), 48000, "SIG")
    assert 1 <= dnsmos_score(np.ones(1), 16000, "SIG") <= 5
