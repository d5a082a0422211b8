"""What effects do to sound: pitch, bands, clipping, coding, noises and rooms."""

import numpy as np
import pytest
import soundfile
import soxr
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


def test_clipping_leaves_the_target_and_its_parts_sum_to_the_clipped_mixture() -> None:
    target, noise = speech_like(), 0.05 * draw().standard_normal(2 * RATE).astype(np.float32)
    level = np.abs(target + noise).max() / 2
    parts = effects.clip(target, noise, 20 * np.log10(2))
    np.testing.assert_allclose(sum(parts), np.clip(target + noise, -level, level), atol=1e-6)
    np.testing.assert_array_equal(parts[0], target)
    alone, distortion = effects.clip(target, np.zeros_like(noise), 6.0)
    np.testing.assert_array_equal(alone, target)
    np.testing.assert_allclose(
        alone + distortion, np.clip(target, *(np.abs(target).max() * np.array([-0.5012, 0.5012]))), atol=1e-4
    )


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


@pytest.mark.parametrize("codec", effects.CODECS)
@pytest.mark.parametrize("compression", [0.0, 1.0])
def test_the_ends_of_the_range_of_compression_can_be_had(codec: str, compression: float) -> None:
    coded = effects.code(speech_like(), RATE, codec, compression)
    assert rms(coded) == pytest.approx(rms(speech_like()), rel=0.5)


RATES = {
    "mp3": [hz // part for part in (4, 2, 1) for hz in (32000, 44100, 48000)],
    "opus": [8000, 12000, 16000, 24000, 48000],
}
"""Of MPEG-1, of MPEG-2, which halves them, and of MPEG-2.5; of Opus by RFC 6716, section 2."""


def test_rates_of_coders_are_those_of_the_standards() -> None:
    assert {codec: list(rates) for codec, rates in effects.CODED_HZ.items()} == {c: sorted(r) for c, r in RATES.items()}


@pytest.mark.parametrize("codec", effects.CODECS)
@pytest.mark.parametrize("rate_hz", [11025, 44100, 96000])
def test_rates_that_a_coder_lacks_are_coded_at_another(codec: str, rate_hz: int, monkeypatch) -> None:
    original, written, write = soxr.resample(speech_like(), RATE, rate_hz), [], soundfile.write
    monkeypatch.setattr(soundfile, "write", lambda *given, **more: written.append(given[2]) or write(*given, **more))
    coded = effects.code(original, rate_hz, codec, 0.5)
    assert written == [rate_hz if codec == "vorbis" or rate_hz in RATES[codec] else 48000]
    assert coded.shape == original.shape and coded.dtype == np.float32
    size = 2 * len(original)
    correlation = np.fft.irfft(np.fft.rfft(coded, size) * np.fft.rfft(original, size).conj())
    assert abs((correlation.argmax() + len(original)) % size - len(original)) <= 1
    assert 0 < rms(coded - original) < 0.8 * rms(original)


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


def test_coloured_noise_has_nothing_below_20_hz() -> None:
    spectrum = np.abs(np.fft.rfft(effects.coloured_noise(RATE, draw(), 0.0)))
    assert spectrum[:20].max() < 1e-3 * spectrum[20:40].max()


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
        bursts = np.convolve(np.abs(samples) > 1e-3 * np.abs(samples).max(), np.ones(5), "valid")
        assert bursts.max() >= 4  # each of several samples in a row


def test_clicks_decay() -> None:
    """In 25 ms there is one, and seldom another; some are cut off."""
    decaying = 0
    for seed in range(40):
        (sounding,) = (samples := effects.clicks(RATE // 40, draw(seed), RATE)).nonzero()
        middle = (sounding[0] + sounding[-1]) // 2
        decaying += rms(samples[: middle + 1]) > rms(samples[middle + 1 :]) if len(sounding) > 5 else 1
    assert decaying > 25


def test_rumble_is_below_hearing_and_comes_in_thuds() -> None:
    steady = 0
    for seed in range(10):
        samples = effects.rumble(4 * RATE, draw(seed), RATE)
        assert samples.shape == (4 * RATE,) and rms(samples) == pytest.approx(1, abs=1e-3)
        power = np.abs(np.fft.rfft(samples)) ** 2
        assert power[np.fft.rfftfreq(len(samples), 1 / RATE) < 160].sum() > 0.95 * power.sum()
        steady += np.abs(samples).max() < 4
    assert 0 < steady < 10


def test_reshaped_noise_has_other_loudness_per_octave_and_nothing_else() -> None:
    changes = []
    for seed in range(10):
        noise = effects.coloured_noise(4 * RATE, draw(), 0.0)
        shaped = effects.reshaped(noise, draw(seed), RATE)
        assert shaped.shape == noise.shape and shaped.dtype == np.float32
        gain = np.fft.rfft(shaped)[200:-200] / np.fft.rfft(noise)[200:-200]  # where the noise has any energy
        assert np.abs(gain.imag).max() < 1e-3 * np.abs(gain).max()  # no delay
        changes += [power_db(shaped, low, 2 * low) - power_db(noise, low, 2 * low) for low in (125, 500, 2000)]
    assert 2 < np.std(changes) < 8


def test_swelling_noise_changes_slowly() -> None:
    steady = np.ones(4 * RATE, np.float32)
    ranges = []
    for seed in range(20):
        gain_db = 20 * np.log10(effects.swelling(steady, draw(seed), RATE))
        assert np.abs(np.diff(gain_db)).max() < 0.05  # dB per sample, at most 800 dB per second
        ranges.append(np.ptp(gain_db))
    assert min(ranges) < 5 and max(ranges) > 20


def test_spliced_noise_is_one_below_and_another_above() -> None:
    below, above = (effects.coloured_noise(4 * RATE, draw(seed), 0.0) for seed in (1, 2))
    for seed in range(5):
        spliced = effects.spliced(below, 10 * above, draw(seed), RATE)
        assert spliced.dtype == np.float32 and rms(spliced) == pytest.approx(1, rel=0.1)
        parts = [np.fft.rfft(x) for x in (spliced, below, above)]
        low = slice(40, 520)  # 10 to 130 Hz, below every crossing
        high = slice(-8000, -10)  # above 6 kHz
        assert np.abs(parts[0][low] - parts[1][low]).max() < 1e-2 * np.abs(parts[1][low]).max()
        assert np.corrcoef(np.abs(parts[0][high]), np.abs(parts[2][high]))[0, 1] > 0.999


def test_noise_that_has_nothing_to_be_joined_at_stays_as_it_is() -> None:
    noise = effects.coloured_noise(RATE, draw(), 0.0)
    assert np.array_equal(effects.spliced(noise, np.zeros_like(noise), draw(), RATE), noise)


def test_small_rooms_begin_with_the_direct_sound_and_decay() -> None:
    for seed in range(20):
        energy = effects.small_room(draw(seed), RATE).astype(np.float64) ** 2
        assert energy[0] == 1
        remaining = 10 * np.log10(np.cumsum(energy[::-1])[::-1] / energy.sum())
        assert 0.1 * RATE < len(energy) < 1.1 * RATE
        assert remaining[len(energy) // 2] < -15 and remaining[-len(energy) // 10] < -35


class Ends:
    """A generator whose single uniform numbers are the lower or the upper end of their range."""

    def __init__(self, end: int, seed: int) -> None:
        self.end, self._draw = end, draw(seed)

    def uniform(self, low: float, high: float, size: int | None = None) -> np.ndarray | float:
        return (low, high)[self.end] if size is None else self._draw.uniform(low, high, size)

    def __getattr__(self, name: str):
        return getattr(self._draw, name)


@pytest.mark.parametrize(
    ("end", "volume", "distance", "decay_s"), [(0, 15, 0.3, 0.12), (1, 250, 3.0, 0.25 * (250 / 15) ** 0.5)]
)
def test_small_rooms_are_as_reverberant_as_their_volume_and_decay_say(
    end: int, volume: float, distance: float, decay_s: float
) -> None:
    """As loud as the direct sound at the critical distance, 0.057 m sqrt(V/T), but for high frequencies that are lost."""
    responses = [effects.small_room(Ends(end, seed), RATE).astype(np.float64) for seed in range(10)]
    ratio = np.mean([np.sum(response[1:] ** 2) for response in responses])
    assert 0.7 < ratio / ((distance / 0.057) ** 2 * decay_s / volume) < 1.1
