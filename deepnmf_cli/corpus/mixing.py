"""Arithmetic of mixtures: levels, signal-to-noise ratios and rooms, on arrays."""

import numpy as np
from numpy.typing import NDArray

Samples = NDArray[np.float32]

SILENT_RMS = 1e-4
"""Segments below -80 dBFS count as silent: scaling them to an SNR would turn coding noise into a burst."""

EARLY_S = 0.05
"""Reflections within 50 ms of the direct sound add to speech (Haas effect) and belong to an "early" target."""


def rms(samples: NDArray[np.floating]) -> float:
    """Return the root mean square of samples of any shape."""
    return float(np.sqrt(np.mean(np.square(samples, dtype=np.float64))))


def is_silent(samples: Samples) -> bool:
    """Return whether a segment is too quiet to be scaled."""
    return rms(samples) < SILENT_RMS


def scale_to_snr(speech: Samples, noise: Samples, snr_db: float) -> Samples:
    """Return noise scaled so that 10 log10(power(speech) / power(noise)) equals `snr_db`; neither may be silent."""
    return noise * np.float32(rms(speech) / rms(noise) * 10 ** (-snr_db / 20))


def scale_to_level(speech: Samples, noise: Samples, level_db: float) -> tuple[Samples, Samples]:
    """Return both, scaled by the gain that brings their sum to an RMS of `level_db` dBFS."""
    gain = np.float32(10 ** (level_db / 20) / max(rms(speech + noise), SILENT_RMS))
    return speech * gain, noise * gain


def in_room(dry: Samples, response: Samples, rate_hz: int, early_only: bool = False) -> Samples:
    """Return speech (n,) as heard through a room response (m,), aligned with `dry` and of its length and power.

    The direct sound, the response's largest peak, is moved to time zero. With `early_only`, what arrives later than
    `EARLY_S` after it is left out; both versions have the same gain, so that their difference is late reverberation.
    """
    start = int(np.argmax(np.abs(response)))
    response = response[start:]
    size = 1 << int(len(dry) + len(response)).bit_length()
    spectrum = np.fft.rfft(dry, size)

    def filtered(through: Samples) -> Samples:
        return np.fft.irfft(spectrum * np.fft.rfft(through, size), size)[: len(dry)].astype(np.float32)

    wet = filtered(response)
    gain = np.float32(rms(dry) / max(rms(wet), SILENT_RMS))
    return gain * (filtered(response[: max(1, round(EARLY_S * rate_hz))]) if early_only else wet)
