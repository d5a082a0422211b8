"""What effects do to sound: pitch, bands, clipping, coding, noises and rooms."""

import numpy as np
import pytest
from scipy.signal import butter, sosfilt

from deepnmf_cli.corpus import effects
from deepnmf_cli.corpus.mixing import rms

RATE = 16000


def draw(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def power_db(samples: np.ndarray, low_hz: float, high_hz: float) -> float:
    """Of the part between two frequencies."""
    spectrum = np.abs(np.fft.rfft(samples)) ** 2
    frequency = np.fft.rfftfreq(len(samples), 1 / RATE)
    return 10 * np.log10(spectrum[(frequency >= low_hz) & (frequency < high_hz)].mean() + 1e-20)


def speech_like(samples: int = 2 * RATE) -> np.ndarray:
    """Noise below 2 kHz in syllables."""
    band = sosfilt(butter(6, 2000, "low", fs=RATE, output="sos"), draw(3).standard_normal(samples))
    return (0.3 * band * np.clip(np.sin(2 * np.pi * 4 * np.arange(samples) / RATE), 0, 1)).astype(np.float32)


@pytest.mark.parametrize("factor", [0.7, 1.0, 1.3])
def test_speed_changes_pitch_by_the_same_factor(factor: float) -> None:
    changed = effects.change_speed(
        lambda n: np.sin(2 * np.pi * 400 * np.arange(n) / RATE).astype(np.float32), RATE, factor
    )
    assert changed.shape == (RATE,) and changed.dtype == np.float32
    assert np.abs(np.fft.rfft(changed)).argmax() == pytest.approx(400 * factor, abs=1)


def test_colour_is_a_stable_filter_that_changes_the_spectrum() -> None:
    impulse = np.eye(1, 400, dtype=np.float32)[0]
    for seed in range(50):
        response = effects.filtered(impulse, effects.colour(draw(seed)))
        assert np.abs(response[200:]).max() < 1e-3 and rms(response[1:]) > 0


def test_band_limits_keep_what_lies_inside() -> None:
    noise = draw().standard_normal(RATE).astype(np.float32)
    wide, narrow = (effects.limit_band(noise, 3400, low, RATE) for low in (0.0, 300.0))
    assert power_db(wide, 5000, 8000) < power_db(noise, 5000, 8000) - 40
    assert power_db(wide, 20, 2500) == pytest.approx(power_db(noise, 20, 2500), abs=0.3)
    assert power_db(narrow, 0, 120) < power_db(noise, 0, 120) - 20
    np.testing.assert_array_equal(effects.limit_band(noise, RATE / 2, 0.0, RATE), noise)


def test_clipped_parts_sum_to_the_clipped_mixture() -> None:
    target, noise = speech_like(), 0.05 * draw().standard_normal(2 * RATE).astype(np.float32)
    level = np.abs(target + noise).max() / 2
    parts = effects.clip(target, noise, 20 * np.log10(2))
    np.testing.assert_allclose(sum(parts), np.clip(target + noise, -level, level), atol=1e-6)
    alone, nothing = effects.clip(target, np.zeros_like(noise), 6.0)
    assert not nothing.any() and rms(alone) < rms(target)


@pytest.mark.parametrize("codec", effects.CODECS)
@pytest.mark.parametrize("compression", [0.3, 0.95])
def test_coded_sound_is_aligned_with_the_original(codec: str, compression: float) -> None:
    original = speech_like()
    coded = effects.code(original, RATE, codec, compression)
    assert coded.shape == original.shape and coded.dtype == np.float32
    size = 2 * len(original)
    correlation = np.fft.irfft(np.fft.rfft(coded, size) * np.fft.rfft(original, size).conj())
    assert correlation.argmax() == 0
    assert 0 < rms(coded - original) < 0.8 * rms(original)
    assert rms(coded) == pytest.approx(rms(original), rel=0.3)


def test_coding_keeps_silence_and_levels_above_one() -> None:
    assert not effects.code(np.zeros(1000, np.float32), RATE, "vorbis", 0.5).any()
    loud = 50 * speech_like()
    assert rms(effects.code(loud, RATE, "vorbis", 0.3)) == pytest.approx(rms(loud), rel=0.1)


@pytest.mark.parametrize("slope_db", [-6.0, 0.0, 3.0])
def test_coloured_noise_has_its_slope(slope_db: float) -> None:
    noise = effects.coloured_noise(4 * RATE, draw(), slope_db)
    assert rms(noise) == pytest.approx(1, abs=1e-3)
    # Three octaves between the middles of these bands, up to what a slope does inside an octave.
    assert power_db(noise, 4000, 8000) - power_db(noise, 500, 1000) == pytest.approx(3 * slope_db, abs=0.7)


def test_hum_consists_of_harmonics_of_the_mains() -> None:
    for seed in range(5):
        spectrum = np.abs(np.fft.rfft(effects.hum(4 * RATE, draw(seed), RATE) * np.hanning(4 * RATE))) ** 2
        frequency = np.fft.rfftfreq(4 * RATE, 1 / RATE)
        distance = {base: np.abs(frequency / base - np.round(frequency / base)) * base for base in (50, 60)}
        near = [spectrum[(d < 3 + 0.003 * frequency) & (frequency > 20)].sum() for d in distance.values()]
        assert max(near) > 0.99 * spectrum.sum()


def test_clicks_are_short_and_loud() -> None:
    for seed in range(5):
        samples = effects.clicks(4 * RATE, draw(seed), RATE)
        assert rms(samples) == pytest.approx(1, abs=1e-3)
        assert np.mean(samples**4) > 20  # of stationary noise it is 3


def test_rumble_is_below_hearing_and_comes_in_thuds() -> None:
    steady = 0
    for seed in range(10):
        samples = effects.rumble(4 * RATE, draw(seed), RATE)
        assert samples.shape == (4 * RATE,) and rms(samples) == pytest.approx(1, abs=1e-3)
        power = np.abs(np.fft.rfft(samples)) ** 2
        assert power[np.fft.rfftfreq(len(samples), 1 / RATE) < 160].sum() > 0.95 * power.sum()
        steady += np.abs(samples).max() < 4
    assert 0 < steady < 10


def test_small_rooms_begin_with_the_direct_sound_and_decay() -> None:
    for seed in range(20):
        energy = effects.small_room(draw(seed), RATE).astype(np.float64) ** 2
        assert energy[0] == 1
        remaining = 10 * np.log10(np.cumsum(energy[::-1])[::-1] / energy.sum())
        assert 0.1 * RATE < len(energy) < 1.1 * RATE
        assert remaining[len(energy) // 2] < -15 and remaining[-len(energy) // 10] < -35
