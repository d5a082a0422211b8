"""What can happen to sound between a mouth and a file, as functions of samples and a random generator.

Signals are float32, (n,) or (channels, n), and all channels are treated alike. Linear effects on a sum equal the sum of
the effects on its parts, so that speech and noise may be filtered separately; `clip` and `code` depend on the sum.
"""

import io
from collections.abc import Callable

import numpy as np
import soundfile

from deepnmf_cli.corpus.mixing import Samples, rms

# scipy, soxr and librosa are imported where they are used: see `augment.packages`.

SOUND_M_S = 343.0

TELEPHONE_LOW_HZ = 300.0
"""Lower end of the telephone band; its upper end, 3400 Hz, is one of the limits that a recipe may name."""

BAND_ORDER = 8
"""Order of the Butterworth filters that limit bands: 48 dB per octave."""

REFLECTIONS = 4000
"""Up to about this many reflections are drawn one by one; later ones are as dense as noise."""

FIRST_REFLECTION_S = 5e-4
"""A reflection arrives at least this much later than the direct sound, which is a detour of 17 cm."""

CODECS = {"mp3": ("MP3", "MPEG_LAYER_III"), "vorbis": ("OGG", "VORBIS"), "opus": ("OGG", "OPUS")}
"""Name -> container and coding as libsndfile calls them."""

CODED_HZ = {
    "mp3": (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000),
    "opus": (8000, 12000, 16000, 24000, 48000),
}
"""Sampling rates of the coders that do not support all; sound at another rate is coded at the highest."""

LARGEST_MP3_COMPRESSION = 0.999
"""Largest compression for MP3: at 1 libsndfile finds no constant bit rate."""

SHAPE_FROM_HZ = 60.0
"""Lowest frequency at which `reshaped` draws a gain; frequencies below it have the same gain."""

MP3_DELAY = 1105
"""Samples by which encoder (576) and decoder (529) delay an MP3 without a LAME tag, which low bit rates leave out."""


def change_speed(read: Callable[[int], Samples], length: int, factor: float) -> Samples:
    """Return `length` samples of what `read(n)` returns, played `factor` times as fast and as high."""
    import soxr

    samples = read(int(np.ceil(length * factor)) + 2)
    return soxr.resample(samples, factor, 1.0, quality="MQ")[:length].astype(np.float32)


def colour(draw: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return numerator and denominator of a random second-order filter with coefficients in +-3/8.

    J.-M. Valin drew such filters to make RNNoise independent of microphones, IEEE MMSP 2018.
    """
    b1, b2, a1, a2 = draw.uniform(-3 / 8, 3 / 8, 4)
    return np.array([1, b1, b2]), np.array([1, a1, a2])


def filtered(samples: Samples, coefficients: tuple[np.ndarray, np.ndarray]) -> Samples:
    """Return samples passed through a filter as drawn by `colour`."""
    from scipy.signal import lfilter

    return np.asarray(lfilter(*coefficients, samples), np.float32)


def limit_band(samples: Samples, highest_hz: float, lowest_hz: float, rate_hz: int) -> Samples:
    """Return samples without the frequencies above `highest_hz`, and below `lowest_hz` unless that is 0."""
    from scipy.signal import butter, sosfilt

    if highest_hz < rate_hz / 2:
        samples = np.asarray(sosfilt(butter(BAND_ORDER, highest_hz, "low", fs=rate_hz, output="sos"), samples))
    if lowest_hz:
        samples = np.asarray(sosfilt(butter(BAND_ORDER // 2, lowest_hz, "high", fs=rate_hz, output="sos"), samples))
    return samples.astype(np.float32)


def clip(target: Samples, noise: Samples, depth_db: float) -> tuple[Samples, Samples]:
    """Return target and noise (n,) of a mixture that is clipped `depth_db` below its peak.

    The target is unchanged, so that what clipping takes from speech is to be restored; the distortion counts as noise.
    The sum of both is the clipped mixture.
    """
    mixture = target + noise
    highest = np.abs(mixture).max(initial=0) * np.float32(10 ** (-depth_db / 20))
    return target, np.clip(mixture, -highest, highest) - target


def code(samples: Samples, rate_hz: int, codec: str, compression: float) -> Samples:
    """Return samples (n,) after lossy coding, aligned with the original. `compression` is 0 (best) to 1 (smallest)."""
    if rate_hz not in (known := CODED_HZ.get(codec, (rate_hz,))):
        import soxr

        coded = code(soxr.resample(samples, rate_hz, known[-1]), known[-1], codec, compression)
        return fitted(soxr.resample(coded, known[-1], rate_hz), len(samples))
    peak = float(np.abs(samples).max(initial=0))
    if not peak:
        return samples
    scale = np.float32(0.9 / peak)  # coders clip at 1
    file, (container, coding) = io.BytesIO(), CODECS[codec]
    mode = None
    if codec == "mp3":
        mode, compression = "CONSTANT", min(compression, LARGEST_MP3_COMPRESSION)
    how = {"format": container, "compression_level": compression, "bitrate_mode": mode}
    soundfile.write(file, samples * scale, rate_hz, coding, **how)
    file.seek(0)
    decoded = np.asarray(soundfile.read(file, dtype="float32")[0], np.float32)
    if codec == "mp3" and len(decoded) > len(samples):
        decoded = decoded[MP3_DELAY:]
    return fitted(decoded, len(samples)) / scale


def fitted(samples: Samples, length: int) -> Samples:
    """Return the first `length` samples, padded with zeros at the end if there are fewer."""
    return np.pad(samples, (0, max(0, length - len(samples))))[:length]


def coloured_noise(length: int, draw: np.random.Generator, slope_db: float) -> Samples:
    """Return stationary noise (length,) of RMS 1 whose spectrum changes by `slope_db` per octave."""
    bins = length // 2 + 1
    frequency = np.maximum(np.arange(bins), 1) / bins
    shape = (frequency ** (slope_db / 20 / np.log10(2))).astype(np.float32)
    shape[: max(1, bins // 400)] = 0  # below 20 Hz at 16 kHz a steep slope would leave nothing else
    spectrum = (draw.standard_normal((bins, 2), np.float32) * shape[:, None]).view(np.complex64)[:, 0]
    noise = np.fft.irfft(spectrum, length).astype(np.float32)
    return noise / np.float32(rms(noise))


def hum(length: int, draw: np.random.Generator, rate_hz: int) -> Samples:
    """Return mains hum (length,) of RMS 1: 50 or 60 Hz and harmonics, of random strength."""
    base = draw.choice([50.0, 60.0]) * draw.uniform(0.998, 1.002)
    harmonics = np.arange(1, 1 + draw.integers(3, 25))
    harmonics = harmonics[harmonics * base < rate_hz / 2]
    strength = draw.exponential(1.0, len(harmonics)) / harmonics ** draw.uniform(0.3, 1.5)
    phase = 2 * np.pi * (base / rate_hz * np.arange(length) + draw.random())
    # Harmonics are powers of one rotation, because a sine for each would cost ten times as much.
    rotation = np.exp(1j * phase).astype(np.complex64)
    weights = (strength * np.exp(2j * np.pi * draw.random(len(harmonics)))).astype(np.complex64)
    total = np.zeros(length, np.complex64)
    for weight in weights[::-1]:  # Horner
        total = (total + weight) * rotation
    return total.real / np.float32(max(rms(total.real), 1e-6))


def clicks(length: int, draw: np.random.Generator, rate_hz: int) -> Samples:
    """Return clicks (length,) of RMS 1, at random times and of random size, each a decaying burst of 0.1 to 3 ms."""
    count = 1 + draw.poisson(draw.uniform(0.5, 15) * length / rate_hz)
    burst = draw.uniform(1e-4, 3e-3) * rate_hz
    shape = np.exp(-np.arange(int(5 * burst) + 1) / burst) * draw.standard_normal(int(5 * burst) + 1)
    samples = np.zeros(length + len(shape), np.float32)
    for place, size in zip(draw.integers(length, size=count), draw.lognormal(0, 1, count), strict=True):
        samples[place : place + len(shape)] += (size * shape).astype(np.float32)
    samples = samples[:length]
    return samples / np.float32(max(rms(samples), 1e-6))


def rumble(length: int, draw: np.random.Generator, rate_hz: int) -> Samples:
    """Return what wind, steps and knocks leave below 20 to 80 Hz (length,), of RMS 1.

    These are thuds that are felt more than heard.
    """
    from scipy.signal import butter, sosfilt

    noise = draw.standard_normal(length + rate_hz)  # the filter settles in the first second
    band = butter(2, [5.0, draw.uniform(20.0, 80.0)], "band", fs=rate_hz, output="sos")
    noise = np.asarray(sosfilt(band, noise))[rate_hz:]
    # Its strength wanders by a log-normal factor, over times between 50 ms and a second.
    points = draw.normal(0.0, draw.uniform(0.0, 2.0), 2 + int(length / rate_hz / draw.uniform(0.05, 1.0)))
    noise *= np.exp(_in_lines(points, length))
    return (noise / max(rms(noise), 1e-6)).astype(np.float32)


def _in_lines(points: np.ndarray, length: int) -> np.ndarray:
    """Return straight lines (length,) through equally spaced points, the first and the last at the ends."""
    return np.interp(np.linspace(0, len(points) - 1, length), np.arange(len(points)), points)


def reshaped(samples: Samples, draw: np.random.Generator, rate_hz: int) -> Samples:
    """Return samples (n,) after a random smooth filter: gains with a deviation of 6 dB at one point per octave.

    The filter has no delay and is circular: what rings beyond one end comes in at the other, which does noise no harm.
    """
    octaves = draw.normal(0.0, 6.0, 2 + int(np.log2(rate_hz / 2 / SHAPE_FROM_HZ)))
    octave = np.log2(np.maximum(np.fft.rfftfreq(len(samples), 1 / rate_hz), SHAPE_FROM_HZ) / SHAPE_FROM_HZ)
    gain_db = np.interp(octave, np.arange(len(octaves)), octaves)
    return np.fft.irfft(np.fft.rfft(samples) * 10 ** (gain_db / 20), len(samples)).astype(np.float32)


def swelling(samples: Samples, draw: np.random.Generator, rate_hz: int) -> Samples:
    """Return samples (n,) that grow louder and softer by several dB, over times from a tenth of a second to some
    seconds.
    """
    points = draw.normal(0.0, draw.uniform(0.0, 8.0), 2 + int(len(samples) / rate_hz / draw.uniform(0.1, 3.0)))
    return samples * (10 ** (_in_lines(points, len(samples)) / 20)).astype(np.float32)


def spliced(low: Samples, high: Samples, draw: np.random.Generator, rate_hz: int) -> Samples:
    """Return the low frequencies of one noise (n,) and the high ones of another: a third that was never recorded.

    They cross over within an octave, between 200 Hz and half the Nyquist frequency, where they are equally loud. Both
    filters are circular, as is that of `reshaped`.
    """
    spectra = np.fft.rfft(np.stack([low, high]))
    octave = np.log2(np.maximum(np.fft.rfftfreq(len(low), 1 / rate_hz), 1e-3))
    crossing = draw.uniform(np.log2(200.0), np.log2(rate_hz / 4))
    near = np.abs(octave - crossing) < 0.5
    loudness = np.sqrt((np.abs(spectra[:, near]) ** 2).mean(1)) + 1e-12
    if loudness.max() > 1e3 * loudness.min():  # one of them has nothing there to join to the other
        return low
    share = np.clip(octave - crossing + 0.5, 0, 1)  # of the high one
    joined = (1 - share) * spectra[0] + share * spectra[1] * (loudness[0] / loudness[1])
    return np.fft.irfft(joined, len(low)).astype(np.float32)


def small_room(draw: np.random.Generator, rate_hz: int) -> Samples:
    """Return the response (n,) of a room of 15 to 250 cubic metres to a source 0.3 to 3 m away, direct sound first.

    This is J.-D. Polack's stochastic model: reflections arrive at random with a density of 4 pi c^3 t^2 / V, as the
    images of a source in a box do on average. Each is attenuated by its path, 1 / (c t), and by the walls, 60 dB per
    reverberation time. High frequencies decay sooner. After the first reflections comes noise of the same power.
    """
    from scipy.signal import lfilter

    volume, distance = np.exp(draw.uniform(np.log(15), np.log(250))), draw.uniform(0.3, 3.0)
    decay_s = draw.uniform(0.12, 0.25) * (volume / 15) ** draw.uniform(0.1, 0.5)
    first_s = distance / SOUND_M_S
    begin = (first_s + FIRST_REFLECTION_S) ** 3
    rate = 4 * np.pi * SOUND_M_S**3 / (3 * volume)  # reflections before t: rate t^3
    length = int((first_s + decay_s) * rate_hz)
    time = first_s + np.arange(length) / rate_hz
    # Reflections one by one, at times whose cubes are uniformly distributed.
    until = min(time[-1], (begin + REFLECTIONS / rate) ** (1 / 3))
    arrivals = draw.uniform(begin, until**3, draw.poisson(rate * (until**3 - begin))) ** (1 / 3)
    response = np.zeros(length)
    places = ((arrivals - first_s) * rate_hz).astype(int)
    np.add.at(response, places, draw.choice([-1.0, 1.0], len(places)) / (SOUND_M_S * arrivals))
    # Later ones overlap: noise whose variance is their density times their power.
    later = time > until
    spread = np.sqrt(3 * rate * time[later] ** 2 / rate_hz) / (SOUND_M_S * time[later])
    response[later] += draw.standard_normal(later.sum()) * spread
    response *= 10 ** (-3 * (time - first_s) / decay_s)
    # The walls' losses grow with frequency and with the number of reflections, and so with time.
    dull = lfilter([0.4], [1, -0.6], response)
    share = np.clip((time - first_s) / decay_s * draw.uniform(0.5, 2), 0, 1)
    response = (1 - share) * response + share * dull
    response[0] += 1 / distance
    return (response * distance).astype(np.float32)
