"""SDR and SI-SDR: against frozen values, against least squares, and by their invariances."""

import math

import numpy as np
import pytest

from deepnmf_cli.scoring import sdr as scoring_sdr
from deepnmf_cli.scoring.sdr import FILTER_TAPS, LIMIT_DB, sdr, si_sdr

CASES = [
    "noise at 0 dB",
    "noise at 20 dB",
    "filtered with noise at 10 dB",
    "quiet with an offset",
    "low-passed reference",
    "8 kHz with noise at 3 dB",
]


def noise(length: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(length)


def sdr_by_least_squares(reference: np.ndarray, estimate: np.ndarray) -> float:
    """The definition: project on the copies of the reference that are delayed by 0 .. 511 samples."""
    copies = np.stack([np.pad(reference, (delay, FILTER_TAPS - 1 - delay)) for delay in range(FILTER_TAPS)], axis=1)
    padded = np.pad(estimate, (0, FILTER_TAPS - 1))
    target = copies @ np.linalg.lstsq(copies, padded)[0]
    return 10 * math.log10(np.sum(target**2) / max(np.sum((padded - target) ** 2), 1e-15))


@pytest.mark.parametrize("case", CASES)
def test_sdr_equals_the_golden_value(case, signals, golden):
    reference, estimate, _ = signals[case]
    assert sdr(reference, estimate) == pytest.approx(golden[case]["SDR"], abs=1e-4)


@pytest.mark.parametrize("case", CASES)
def test_si_sdr_equals_the_golden_value(case, signals, golden):
    reference, estimate, _ = signals[case]
    assert si_sdr(reference, estimate) == pytest.approx(golden[case]["SI-SDR"], abs=1e-5)


def test_every_golden_case_is_tested(golden):
    assert sorted(golden) == sorted(CASES)


@pytest.mark.parametrize("length", [1, 2, 100, 300, 511, 512, 513, 1500])
def test_sdr_is_the_least_squares_projection_at_any_length(length):
    reference = noise(length, seed=1)
    estimate = np.convolve(reference, [1, -0.5])[:length] + 0.1 * noise(length, seed=2)
    expected = min(sdr_by_least_squares(reference, estimate), LIMIT_DB)
    assert sdr(reference, estimate) == pytest.approx(expected, abs=1e-3)


def test_a_filter_of_512_taps_costs_no_sdr_and_a_longer_delay_does():
    reference = np.pad(noise(4000), (0, 600))
    assert sdr(reference, np.roll(reference, FILTER_TAPS - 1)) > 90
    assert sdr(reference, np.roll(reference, FILTER_TAPS)) < 0


def test_si_sdr_forgives_a_gain_and_an_offset_but_no_delay():
    reference = noise(4000)
    assert si_sdr(reference, -3 * reference + 7) == pytest.approx(LIMIT_DB)
    assert si_sdr(reference, np.roll(reference, 1)) < 0


@pytest.mark.parametrize("ratio_db", [-20, 0, 5.5, 40])
def test_orthogonal_noise_gives_exactly_its_ratio(ratio_db):
    reference, other = noise(8000, 1), noise(8000, 2)
    reference, other = reference - reference.mean(), other - other.mean()
    other -= (other @ reference) / (reference @ reference) * reference
    other *= np.linalg.norm(reference) / np.linalg.norm(other) * 10 ** (-ratio_db / 20)
    assert si_sdr(reference, reference + other) == pytest.approx(ratio_db, abs=1e-9)


@pytest.mark.parametrize("measure", [sdr, si_sdr])
@pytest.mark.parametrize("gain", [1e-200, 1e-9, 1e-3, 1e6])
def test_the_level_of_either_signal_does_not_matter(measure, gain):
    reference = noise(3000)
    estimate = reference + noise(3000, 1)
    expected = pytest.approx(measure(reference, estimate), abs=1e-6)
    assert measure(gain * reference, estimate) == expected
    assert measure(reference, gain * estimate) == expected


@pytest.mark.parametrize("measure", [sdr, si_sdr])
def test_an_estimate_equal_to_its_reference_scores_the_limit(measure):
    assert measure(noise(3000), noise(3000)) == pytest.approx(LIMIT_DB, abs=1e-3)


def test_an_estimate_without_anything_of_the_reference_scores_the_lower_limit():
    time = np.arange(800)
    assert si_sdr(np.sin(2 * np.pi * time / 80), np.cos(2 * np.pi * time / 80)) == pytest.approx(-LIMIT_DB)


@pytest.mark.parametrize("measure", [sdr, si_sdr])
def test_silence_has_no_ratio(measure):
    assert math.isnan(measure(np.zeros(1000), noise(1000)))
    assert math.isnan(measure(noise(1000), np.zeros(1000)))


def test_a_constant_has_no_si_sdr():
    assert math.isnan(si_sdr(np.full(1000, 0.1), noise(1000)))
    assert math.isnan(si_sdr(noise(1000), np.full(1000, 0.1)))
    assert math.isnan(si_sdr(np.ones(1), np.ones(1)))


@pytest.mark.parametrize("measure", [sdr, si_sdr])
def test_single_precision_is_computed_in_double(measure):
    reference, estimate = noise(3000).astype(np.float32), (noise(3000) + 0.1 * noise(3000, 1)).astype(np.float32)
    assert measure(reference, estimate) == measure(reference.astype(np.float64), estimate.astype(np.float64))


def test_a_reference_of_one_tone_is_no_singular_system():
    tone = np.sin(np.arange(8000) / 3)
    # A gain and a shift of the tone are all that the filter can make of it, so the noise is distortion.
    assert sdr(tone, tone + 0.1 * noise(8000)) == pytest.approx(17, abs=0.3)


@pytest.mark.parametrize("measure", [sdr, si_sdr])
@pytest.mark.parametrize("distortion", [0, 1e-3, 1])
def test_long_signals_are_scored_block_by_block_with_the_same_result(measure, distortion, monkeypatch):
    reference = noise(20000) + 3
    estimate = np.convolve(reference, np.r_[1, np.zeros(400), 0.5])[:20000] + distortion * noise(20000, 1)
    expected = measure(reference, estimate)
    monkeypatch.setattr(scoring_sdr, "BLOCK_SAMPLES", 3000)
    assert measure(reference, estimate) == pytest.approx(expected, abs=1e-4)
    assert measure(1e-200 * reference, 1e38 * estimate) == pytest.approx(expected, abs=1e-4)
