"""The lag of an estimate: measured where a delay is all that is wrong, and nowhere else."""

import numpy as np
import pytest

from deepnmf_cli.scoring.lag import lag_s
from deepnmf_cli.scoring.scorer import score


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
