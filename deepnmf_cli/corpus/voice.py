"""What speakers can do that recordings of read speech lack: speak slowly, hold a vowel, whisper.

Signals are float32, (n,).

Read speech has no voiced sound that is held for seconds, as in singing, calling and hesitating, and a network that has
never met one takes it for a hum. `held` prolongs a short stretch of recorded voice by pitch-synchronous overlap-add
(Moulines and Charpentier, Speech Communication 9, 1990): windows of two pitch periods, taken from places that wander to
and fro in the stretch, are added at the periods of a new pitch contour. Nor does read speech have whispers, which are
then taken for noise: `whispered`.
"""

import numpy as np

from deepnmf_cli.corpus.effects import fitted
from deepnmf_cli.corpus.mixing import Samples, rms

# scipy and librosa are imported where they are used: see `augment.packages`.

FRAME_S = 0.04
"""Length of the frames in which speech is analysed, above two of the longest pitch periods."""

ENVELOPE_S = (0.001, 0.0025)
"""Range of the time below which quefrencies belong to a spectral envelope, and above which to the voice."""

LOUD_DB = -25.0
"""Frames above this level, from that of the loudest, are mostly voiced."""

VOICE_LOSS = (0.0, 0.6)
"""Range of the share of their level above LOUD_DB, in dB, that frames lose with the voice."""

WHISPER_FROM_HZ = (300.0, 1500.0)
"""Range of the frequency below which whispers are weak."""

PITCH_HZ = (70.0, 400.0)
"""Range of the fundamental frequencies that are searched for."""

HOP_S = 0.01

VOICED = 0.8
"""Above this normalised autocorrelation at its pitch period, a frame counts as voiced."""

QUIETEST_DB = -20.0
"""A voiced frame that is held is at most this far below the loudest frame."""

STRETCH_S = 0.04
"""How far the stretch reaches on either side of the chosen place, as long as the sound is voiced."""

CROSSFADE_S = 0.01


def slowed(samples: Samples, factor: float) -> Samples:
    """Return the beginning of samples (n,), stretched to n samples at the same pitch, for a factor in (0, 1]."""
    import librosa

    part = samples[: max(1, round(len(samples) * factor))]
    return fitted(librosa.effects.time_stretch(part, rate=len(part) / len(samples)), len(samples)).astype(np.float32)


def whispered(speech: Samples, draw: np.random.Generator, rate_hz: int) -> Samples:
    """Return speech (n,) as if it were whispered, at its level: noise with the spectral envelope of the speech.

    The envelope of a frame is its cepstrum below a time from ENVELOPE_S, and so without the pitch, as a spectrum again.
    Without the voice, low frequencies are weak: those below WHISPER_FROM_HZ fall by 6 dB per octave. Loud frames, which
    are mostly voiced, lose a part of their level (VOICE_LOSS).
    """
    from scipy.signal import istft, stft

    frame = round(FRAME_S * rate_hz)
    if len(speech) < frame or not speech.any():
        return speech
    hz, _, spectra = stft(speech, rate_hz, nperseg=frame)
    magnitude = np.abs(spectra)
    cepstrum = np.fft.irfft(np.log(magnitude + 1e-5 * magnitude.max(axis=0) + 1e-20), frame, axis=0)
    below = round(draw.uniform(*ENVELOPE_S) * rate_hz)
    cepstrum[below : frame - below + 1] = 0
    envelope = np.exp(np.fft.rfft(cepstrum, axis=0).real)
    _, _, breath = stft(draw.standard_normal(len(speech)), rate_hz, nperseg=frame)
    lowest = np.exp(draw.uniform(*np.log(WHISPER_FROM_HZ)))
    weakened = hz / np.hypot(hz, lowest)
    level = np.sqrt(np.mean(magnitude**2, axis=0))
    loudness = np.maximum(level / (10 ** (LOUD_DB / 20) * level.max()), 1)
    softened = loudness ** -draw.uniform(*VOICE_LOSS)
    whisper = istft(envelope * weakened[:, None] * softened * breath, rate_hz, nperseg=frame)[1]
    whisper = fitted(whisper.astype(np.float32), len(speech))
    return whisper * np.float32(rms(speech) / rms(whisper))


def held(
    speech: Samples,
    draw: np.random.Generator,
    rate_hz: int,
    held_s: tuple[float, float],
    octaves: tuple[float, float] = (0.0, 0.0),
) -> Samples:
    """Return speech (n,) in which one voiced sound is held for a time from the range `held_s`, delaying the rest.

    The pitch is that of the speech, shifted by a number of octaves from the range `octaves`; formants stay. It glides
    by up to a tenth of an octave and has vibrato; the level swells by a few dB. Speech without a voiced frame is
    returned unchanged.
    """
    place = _voiced_stretch(speech, draw, rate_hz)
    if place is None:
        return speech
    first, last, period = place
    length = int(draw.uniform(*held_s) * rate_hz)
    low, high = octaves
    shift = draw.uniform(low, high) if low < high else low  # so that what is drawn without shifts is as before
    vowel = _prolonged(speech[first:last], period, length, shift, draw, rate_hz)
    fade = min(round(CROSSFADE_S * rate_hz), last - first)
    return _joined(_joined(speech[: first + fade], vowel, fade), speech[last - fade :], fade)[: len(speech)]


def _joined(before: Samples, after: Samples, fade: int) -> Samples:
    """Return `after` (m,) joined to `before` (n,) with `fade` samples of both overlapping: (n + m - fade,)."""
    rise = np.linspace(0, 1, fade, dtype=np.float32)
    crossing = before[-fade:] * (1 - rise) + after[:fade] * rise
    return np.concatenate([before[:-fade], crossing, after[fade:]]).astype(np.float32, copy=False)


def _voiced_stretch(speech: Samples, draw: np.random.Generator, rate_hz: int) -> tuple[int, int, float] | None:
    """Return first sample, end and pitch period in samples of a voiced stretch, or None if nothing is voiced."""
    frame, hop = round(FRAME_S * rate_hz), round(HOP_S * rate_hz)
    if len(speech) < 2 * frame:
        return None
    frames = np.lib.stride_tricks.sliding_window_view(speech, frame)[::hop]
    frames = frames - frames.mean(1, keepdims=True)
    power = (frames**2).sum(1)
    shortest, longest = (int(rate_hz / hz) for hz in PITCH_HZ[::-1])
    size = 1 << (2 * frame).bit_length()
    correlation = np.fft.irfft(np.abs(np.fft.rfft(frames, size)) ** 2, size)[:, : longest + 1]
    # The overlap of a frame with itself shrinks with the lag.
    correlation = correlation / (power[:, None] + 1e-12) * (frame / (frame - np.arange(longest + 1)))
    lags = shortest + correlation[:, shortest:].argmax(1)
    clear = correlation[np.arange(len(lags)), lags] > VOICED
    voiced = clear & (power > 10 ** (QUIETEST_DB / 10) * power.max())
    if not voiced.any():
        return None
    chosen = int(draw.choice(np.flatnonzero(voiced)))
    low = high = chosen
    reach = round(STRETCH_S / HOP_S)
    while low > max(0, chosen - reach) and voiced[low - 1]:
        low -= 1
    while high < min(len(voiced) - 1, chosen + reach) and voiced[high + 1]:
        high += 1
    return low * hop, high * hop + frame, float(lags[chosen])


def _prolonged(
    stretch: Samples, period: float, length: int, shift: float, draw: np.random.Generator, rate_hz: int
) -> Samples:
    """Return a voiced stretch (m,) with the given pitch period, held for `length` samples at its mean power.

    Its pitch is shifted by `shift` octaves.
    """
    half = round(period)
    window = np.hanning(2 * half + 1)[:-1].astype(np.float32)
    room = len(stretch) - 2 * half  # above 0: a frame is longer than two of the longest periods
    time = np.arange(length) / rate_hz
    glide, vibrato = draw.uniform(-0.1, 0.1), draw.uniform(0, 0.03)
    beats = np.sin(2 * np.pi * draw.uniform(3.0, 7.0) * time + draw.uniform(0, 2 * np.pi))
    octaves = shift + glide * time / time[-1] + vibrato * beats
    vowel, reference = np.zeros(length + 4 * half, np.float32), None
    place, speed, at = draw.uniform(0, room), draw.uniform(0.05, 0.3), 0.0
    while at < length + half:
        centre = half + int(place) if room > half else half
        # Take the place within a period that is in phase with the first grain; otherwise the sum would cancel.
        grain, reference = _aligned(stretch, centre, half, reference)
        vowel[int(at) : int(at) + 2 * half] += window * grain
        step = period / 2 ** octaves[min(int(at), length - 1)]
        at, place = at + step, place + speed * step
        if not 0 <= place <= room:
            place, speed = float(np.clip(place, 0, room)), -speed
    vowel = vowel[half : half + length]
    swell = draw.uniform(0, 3.0) * np.sin(2 * np.pi * draw.uniform(0.3, 1.5) * time + draw.uniform(0, 2 * np.pi))
    vowel *= (10 ** (swell / 20)).astype(np.float32)
    power = np.sqrt(np.mean(vowel**2) + 1e-20)
    return vowel * np.float32(np.sqrt(np.mean(stretch**2)) / power)


def _aligned(samples: Samples, centre: int, half: int, reference: Samples | None) -> tuple[Samples, Samples]:
    """Return the window (2 half,) within half a period of `centre` that is most like the reference, and the latter."""
    last = len(samples) - 2 * half
    if reference is None:
        first = min(max(centre - half, 0), last)
        return samples[first : first + 2 * half], samples[first : first + 2 * half]
    low = min(max(centre - half - half // 2, 0), last)
    high = min(low + half, last)
    around = samples[low : high + 2 * half]
    first = low + int(np.correlate(around, reference, "valid").argmax())
    return samples[first : first + 2 * half], reference
