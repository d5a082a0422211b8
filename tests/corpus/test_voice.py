"""What speakers do: slow speech, sustained vowels, whispers."""

import numpy as np
import pytest
from scipy.signal import lfilter, welch

from deepnmf_cli.corpus import voice
from deepnmf_cli.corpus.effects import limit_band
from deepnmf_cli.corpus.mixing import rms

RATE = 16000


def draw(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_slow_speech_is_as_long_as_before_and_as_deep() -> None:
    time = np.arange(2 * RATE) / RATE
    beats = (0.3 * np.sin(2 * np.pi * 440 * time) * (np.sin(2 * np.pi * 8 * time) > 0)).astype(np.float32)
    slow = voice.slowed(beats, 0.5)
    assert slow.shape == beats.shape and slow.dtype == np.float32
    assert abs(np.abs(np.fft.rfft(slow)).argmax() / 2 - 440) < 10
    rises = [
        np.diff((np.convolve(x**2, np.ones(800) / 800, "same") > 0.01).astype(int)).clip(0).sum() for x in (beats, slow)
    ]
    assert rises[0] >= 15 and abs(rises[1] - rises[0] / 2) <= 1
    assert rms(slow) == pytest.approx(rms(beats), rel=0.25)


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
    held = voice.held(speech, draw(1), RATE, (2.0, 2.0))
    assert held.shape == speech.shape and held.dtype == np.float32
    np.testing.assert_array_equal(held[: RATE // 2], speech[: RATE // 2])
    loud = np.sqrt(np.convolve(held**2, np.full(800, 1 / 800), "same")) > 0.02
    assert 2.0 < loud.mean() * 4 < 2.5
    middle = held[2 * RATE : 2 * RATE + RATE // 10]
    lags = RATE / pitch_hz * 2 ** np.linspace(-0.15, 0.15, 41)
    assert max(autocorrelation(middle, round(lag)) for lag in lags) > 0.5
    assert max(autocorrelation(middle, round(0.7 * lag)) for lag in lags) < 0.3
    assert rms(middle) == pytest.approx(rms(speech[RATE + 800 : RATE + 4000]), rel=0.5)


@pytest.mark.parametrize("octaves", [-0.5, 0.5, 1.0])
def test_a_held_sound_has_the_pitch_it_is_shifted_to(octaves: float) -> None:
    pitch_hz = 150.0
    held = voice.held(utterance(pitch_hz), draw(1), RATE, (2.0, 2.0), (octaves, octaves))
    middle = held[2 * RATE : 2 * RATE + RATE // 10]
    nearby = np.linspace(-0.7, 0.7, 57)
    found = [autocorrelation(middle, round(RATE / pitch_hz / 2 ** (octaves + near))) for near in nearby]
    assert max(found) > 0.5
    assert abs(nearby[np.argmax(found)]) < 0.15


def test_speech_goes_on_after_the_held_vowel() -> None:
    speech = utterance(150.0)
    held = voice.held(speech, draw(2), RATE, (1.0, 1.0))
    end = held[-RATE // 2 :].astype(np.float64)
    match = np.correlate(speech.astype(np.float64), end, "valid")
    at = int(match.argmax())
    np.testing.assert_allclose(speech[at : at + len(end)], end, atol=1e-6)
    assert len(held) - len(end) - at == pytest.approx(RATE, abs=0.2 * RATE)


def test_joined_sounds_overlap_by_weights_that_sum_to_one() -> None:
    joined = voice._joined(np.ones(10, np.float32), np.full(8, 3, np.float32), 5)
    np.testing.assert_allclose(joined, [1] * 5 + [1, 1.5, 2, 2.5, 3] + [3] * 3)


def test_a_grain_is_the_window_nearest_to_its_place_that_fits_and_resembles_the_first() -> None:
    ramp = np.arange(20, dtype=np.float32)
    for centre, first in ((0, 0), (9, 6), (20, 14)):
        grain, reference = voice._aligned(ramp, centre, 3, None)
        np.testing.assert_array_equal(grain, ramp[first : first + 6])
        np.testing.assert_array_equal(reference, grain)
    rising = np.arange(60, dtype=np.float32)  # of which the last window within reach resembles the first most
    assert voice._aligned(rising, 30, 6, np.ones(12, np.float32))[0][0] == 27
    pulses = np.tile(np.array([0, 0, 1, 0], np.float32), 5)
    first = pulses[:6]
    for centre in range(16):
        np.testing.assert_array_equal(voice._aligned(pulses, centre, 3, first)[0][2], 1.0)


def test_a_whisper_has_the_formants_of_speech_and_no_pitch() -> None:
    pulses = np.zeros(2 * RATE)
    pulses[:: RATE // 125] = 1.0
    flat = 0.01 * pulses  # of a flat spectrum, with a formant at 2 kHz added
    poles = [1, -2 * 0.97 * np.cos(2 * np.pi * 2000 / RATE), 0.97**2]
    speech = (flat + 0.03 * lfilter([0.06], poles, pulses)).astype(np.float32)
    speech[RATE:] = 0
    whispers = [voice.whispered(speech, draw(seed), RATE) for seed in range(8)]  # whose envelopes differ
    assert autocorrelation(speech[:RATE], RATE // 125) > 0.95
    assert abs(np.mean([autocorrelation(whisper[:RATE], RATE // 125) for whisper in whispers])) < 0.1
    for whisper in whispers:
        assert whisper.shape == speech.shape and whisper.dtype == np.float32
        assert rms(whisper) == pytest.approx(rms(speech), rel=1e-3)
        assert rms(whisper[RATE + RATE // 10 :]) < 1e-3 * rms(whisper[:RATE])
    density = np.mean([welch(whisper[:RATE], RATE, nperseg=512)[1] for whisper in whispers], 0)
    peak = 1500 + np.argmax(density[48:80]) * RATE / 512
    assert abs(peak - 2000) < 150
    quiet, loud = density[4:8].mean(), density[120:160].mean()  # 125 to 250 Hz, and 3.8 to 5 kHz, as loud before
    assert 4 < 10 * np.log10(loud / quiet) < 25


def test_what_is_loud_loses_level_when_whispered_and_what_is_quiet_does_not() -> None:
    """By VOICE_LOSS times the 25 dB above LOUD_DB; sounds 35 and 45 dB below the loudest keep their distance."""
    noise = draw().standard_normal(RATE)
    speech = np.concatenate([noise, noise * 10 ** (-35 / 20), noise * 10 ** (-45 / 20)]).astype(np.float32)
    losses = []
    for seed in range(8):
        whisper = voice.whispered(speech, draw(seed), RATE)
        levels = [
            20 * np.log10(rms(whisper[start : start + RATE - RATE // 5])) for start in range(RATE // 10, 3 * RATE, RATE)
        ]
        assert levels[1] - levels[2] == pytest.approx(10, abs=1)
        losses.append(35 - (levels[0] - levels[1]))
    lowest, highest = (25 * share for share in voice.VOICE_LOSS)
    assert lowest - 1 < min(losses) < 5
    assert 10 < max(losses) < highest + 1


@pytest.mark.parametrize("speech", [np.zeros(RATE, np.float32), np.ones(100, np.float32)])
def test_nothing_is_whispered_where_there_is_nothing(speech: np.ndarray) -> None:
    np.testing.assert_array_equal(voice.whispered(speech, draw(), RATE), speech)


@pytest.mark.parametrize("samples", [100, 4 * RATE])
def test_what_has_no_voice_stays_as_it_is(samples: int) -> None:
    noise = draw().standard_normal(samples).astype(np.float32)
    np.testing.assert_array_equal(voice.held(noise, draw(3), RATE, (1.0, 2.0)), noise)
    np.testing.assert_array_equal(voice.held(0 * noise, draw(3), RATE, (1.0, 2.0)), 0 * noise)


@pytest.mark.parametrize("seed", range(5))
def test_a_voiced_stretch_reaches_as_far_as_speech_is_voiced_and_has_two_frames_at_least(seed: int) -> None:
    """Of 40 ms; at a pitch of 100 Hz."""
    voiced = np.tile(draw().standard_normal(160), 8).astype(np.float32)
    assert voice._voiced_stretch(voiced, draw(seed), RATE) == (0, 1280, 160.0)
    assert voice._voiced_stretch(voiced[:-1], draw(seed), RATE) is None


def test_a_voiced_stretch_ends_with_its_first_and_last_voiced_frame() -> None:
    """Those of which three quarters are periodic: the correlation of a half with itself is two thirds of it all."""
    voiced = np.tile(draw().standard_normal(160), 8).astype(np.float32)
    speech = np.concatenate([0 * voiced, voiced, 0 * voiced])
    ends = [voice._voiced_stretch(speech, draw(seed), RATE)[:2] for seed in range(12)]
    assert (min(first for first, _ in ends), max(end for _, end in ends)) == (1280 - 160, 2560 + 160)
