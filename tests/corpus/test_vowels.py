"""Held vowels: how long, how high, how loud, and what stays of the speech around them."""

import numpy as np
import pytest

from deepnmf_cli.corpus import vowels
from deepnmf_cli.corpus.effects import limit_band
from deepnmf_cli.corpus.mixing import rms

RATE = 16000


def draw(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def utterance(pitch_hz: float) -> np.ndarray:
    """Noise like a fricative, 0.3 s of a voice, noise again; 4 s."""
    noise = 0.01 * draw().standard_normal(4 * RATE)
    pulses = np.zeros(4 * RATE)
    pulses[(np.arange(RATE, RATE + 0.3 * RATE, RATE / pitch_hz)).astype(int)] = 1.0
    return (noise + limit_band(pulses, 2000, 0, RATE)).astype(np.float32)


def autocorrelation(samples: np.ndarray, lag: int) -> float:
    return float(np.corrcoef(samples[:-lag], samples[lag:])[0, 1])


@pytest.mark.parametrize("pitch_hz", [90.0, 210.0, 330.0])
def test_a_voiced_sound_is_held_for_the_time_asked_for_at_about_its_pitch(pitch_hz: float) -> None:
    speech = utterance(pitch_hz)
    held = vowels.held(speech, draw(1), RATE, (2.0, 2.0))
    assert held.shape == speech.shape and held.dtype == np.float32
    np.testing.assert_array_equal(held[: RATE // 2], speech[: RATE // 2])
    loud = np.sqrt(np.convolve(held**2, np.full(800, 1 / 800), "same")) > 0.02
    assert 2.0 < loud.mean() * 4 < 2.5
    middle = held[2 * RATE : 2 * RATE + RATE // 10]
    lags = RATE / pitch_hz * 2 ** np.linspace(-0.15, 0.15, 41)
    assert max(autocorrelation(middle, round(lag)) for lag in lags) > 0.5
    assert max(autocorrelation(middle, round(0.7 * lag)) for lag in lags) < 0.3
    assert rms(middle) == pytest.approx(rms(speech[RATE + 800 : RATE + 4000]), rel=0.5)


def test_speech_goes_on_after_the_held_vowel() -> None:
    speech = utterance(150.0)
    held = vowels.held(speech, draw(2), RATE, (1.0, 1.0))
    end = held[-RATE // 2 :].astype(np.float64)
    match = np.correlate(speech.astype(np.float64), end, "valid")
    at = int(match.argmax())
    np.testing.assert_allclose(speech[at : at + len(end)], end, atol=1e-6)
    assert len(held) - len(end) - at == pytest.approx(RATE, abs=0.2 * RATE)


@pytest.mark.parametrize("samples", [100, 4 * RATE])
def test_what_has_no_voice_stays_as_it_is(samples: int) -> None:
    noise = draw().standard_normal(samples).astype(np.float32)
    np.testing.assert_array_equal(vowels.held(noise, draw(3), RATE, (1.0, 2.0)), noise)
    np.testing.assert_array_equal(vowels.held(0 * noise, draw(3), RATE, (1.0, 2.0)), 0 * noise)
