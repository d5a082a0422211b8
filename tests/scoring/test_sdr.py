"""SDR, SI-SDR and the lag: against frozen values, against least squares, and by their invariances."""

import math

import numpy as np
import pytest

from deepnmf_cli.scoring import sdr as scoring_sdr
from deepnmf_cli.scoring.scorer import score
from deepnmf_cli.scoring.sdr import FILTER_TAPS, LIMIT_DB, lag_s, sdr, si_sdr

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


def shifted(samples: np.ndarray, by: int) -> np.ndarray:
    """`samples` (N,), later by so many samples, zeros in their place."""
    return np.pad(samples, (max(0, by), max(0, -by)))[max(0, -by) :][: len(samples)]


@pytest.mark.parametrize("case", ["noise at 0 dB", "noise at 20 dB", "filtered with noise at 10 dB"])
@pytest.mark.parametrize("samples", [12, 320, -57, 15000])
def test_a_constant_delay_is_measured_to_the_sample(case, samples, signals):
    reference, estimate, rate_hz = signals[case]
    own = lag_s(reference[None], estimate[None], rate_hz)  # the filter of one case is itself a delay
    assert lag_s(reference[None], shifted(estimate, samples)[None], rate_hz) == pytest.approx(own + samples / rate_hz)
    assert abs(own) <= 33 / rate_hz and (own == 0 or "filtered" in case)


def test_the_delay_of_an_inverted_loud_or_quiet_estimate_is_measured(signals):
    reference, estimate, rate_hz = signals["noise at 20 dB"]
    for gain in (-1, 1e-300, 1e38):
        assert lag_s(reference[None], gain * shifted(estimate, 320)[None], rate_hz) == 0.02


def test_what_is_not_delayed_has_no_lag(signals):
    reference, estimate, rate_hz = signals["noise at 0 dB"]
    other = np.random.default_rng(5).standard_normal((1, len(reference)))
    tone = np.sin(np.arange(len(reference)) / 3)[None]
    for pair in ((reference[None], estimate[None]), (reference[None], other), (tone, tone), (tone, 0.1 * other + tone)):
        assert lag_s(*pair, rate_hz) == 0


@pytest.mark.parametrize("length", [1, 2, 100])
def test_silence_constants_and_a_few_samples_have_no_lag(length):
    for one in (np.zeros((2, length)), np.ones((2, length))):
        for other in (np.zeros((2, length)), np.ones((2, length))):
            assert lag_s(one, other, 16000) == 0


def test_the_lag_of_a_long_recording_is_that_of_its_piece_with_most_speech(signals):
    reference, estimate, rate_hz = signals["noise at 20 dB"]
    silence = np.zeros(30 * rate_hz)
    long = [np.concatenate([silence, x]) for x in (reference, estimate)]
    assert lag_s(long[0][None], shifted(long[1], 320)[None], rate_hz) == 0.02


def test_a_score_knows_the_lag(signals):
    reference, _, rate_hz = signals["noise at 20 dB"]
    late = score(reference[None], shifted(reference, 320)[None], rate_hz)
    assert late.lag_s == 0.02 and late.values["SI-SDR"] < 0 and late.values["SDR"] > 30
    assert score(reference[None], reference[None], rate_hz).lag_s == 0
