"""Inspection of a recording and its enhancement: spectrograms, mask, levels, and what can be measured."""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np

from deepnmf_cli.enhancer import Enhancer
from deepnmf_cli.inspector.panels import Lines, Panel, Section
from deepnmf_cli.pages.render import RANGE_DB
from deepnmf_cli.signal.arrays import Array
from deepnmf_cli.signal.masks import complex_masks
from deepnmf_cli.signal.spectrogram import spectrogram_db
from deepnmf_cli.streaming import Backend, Hearing

FRAME_S = 0.05
"""Length in seconds of the frames for levels over time."""

QUIETEST_DB = -120.0

SHORTEST_FLAT_TOP = 3
"""Smallest number of consecutive equal samples at the peak that counts as clipping."""

BAND_RANGE_DB = 70.0
"""A frequency belongs to the band of a recording if its loud moments are less than this far below the loudest."""

BAND_WINDOW_S = 0.064
"""Length in seconds of the windows of spectra that show where a band ends."""

MOST_FRAMES = 4000
"""Most windows whose spectra are computed to find the band."""

LOUD_SHARE = 95.0
"""Percentile of the levels of a frequency that stands for its loud moments."""


@dataclass(frozen=True)
class Heard:
    """The result of enhancing samples (C, N)."""

    samples: np.ndarray
    speech: np.ndarray
    """Enhanced samples (C, N)."""
    mask: np.ndarray
    """Moduli (F, T) of the network's speech mask, up to its highest frequency."""
    inputs: np.ndarray
    """Input of the network: magnitudes (F, T), or features (5, F, T)."""


class Watched:
    """A `Backend` that records the inputs and masks of the backend inside it."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self.inputs: list[np.ndarray] = []
        self.masks: list[np.ndarray] = []

    @property
    def uses_phase(self) -> bool:
        return self._backend.uses_phase

    def __call__(self, inputs: Array, state: Any) -> tuple[Array, Any]:
        masks, state = self._backend(inputs, state)
        self.inputs.append(np.array(self._backend.to_numpy(inputs)[0]))
        self.masks.append(np.abs(complex_masks(np.array(self._backend.to_numpy(masks))))[0, 0])
        return masks, state

    def hearing(self, bins: int) -> "Watched":
        """Return this object, with its backend replaced by that for the lowest `bins` frequencies if it has one."""
        if isinstance(self._backend, Hearing):
            self._backend = self._backend.hearing(bins)
        return self

    def from_numpy(self, samples: np.ndarray) -> Array:
        return self._backend.from_numpy(samples)

    def to_numpy(self, samples: Array) -> np.ndarray:
        return self._backend.to_numpy(samples)

    def running(self) -> AbstractContextManager:
        return self._backend.running()


def hear(enhancer: Enhancer, samples: np.ndarray, rate_hz: int) -> Heard:
    """Enhance samples (C, N) float32 and return the result with the network's inputs and masks."""
    watched = Watched(enhancer.backend)
    speech = Enhancer(watched, enhancer.front_end).enhance(samples, rate_hz)
    return Heard(samples, speech, np.concatenate(watched.masks, -1), np.concatenate(watched.inputs, -1))


def section(heard: Heard, rate_hz: int, highest_hz: float, title: str, facts: dict[str, str]) -> Section:
    """Return the section of a recording; `highest_hz` is where the network's band ends, `facts` come first."""
    removed = heard.samples - heard.speech
    signals = {"recording": heard.samples, "enhanced": heard.speech, "removed": removed}
    pictures = {name: spectrogram_db(samples, rate_hz) for name, samples in signals.items()}
    loudest = max(float(levels.max()) for levels in pictures.values())
    seconds = heard.samples.shape[1] / rate_hz
    top, end = hertz(rate_hz / 2), f"{seconds:.1f} s"
    panels = [
        Panel(name, levels, loudest - RANGE_DB, loudest, top, end, samples=signals[name])
        for name, levels in pictures.items()
    ]
    panels.append(Panel("mask", heard.mask, 0, 1, hertz(highest_hz), end, "viridis", "from 0, removed, to 1, kept"))
    levels = {name: level_db(samples, rate_hz) for name, samples in signals.items()}
    times = np.arange(len(levels["enhanced"])) * FRAME_S
    curves = {name: (times, level) for name, level in levels.items()}
    known = facts | measured(heard, rate_hz)
    lines = Lines("Level, in frames of 50 ms", "dB re full scale", curves)
    text = "Removed is the difference of the two others. Colours reach 70 dB below the loudest point."
    return Section(title, text, known, panels, lines, rate_hz=rate_hz, seconds=seconds)


def measured(heard: Heard, rate_hz: int) -> dict[str, str]:
    """Return measurements of a recording, by name, as text with units."""
    samples = heard.samples
    level = level_db(samples, rate_hz)
    low_hz, high_hz = band_hz(samples, rate_hz)
    flat = clipped(samples)
    peak = float(np.abs(samples).max(initial=0))
    found = {
        "peak": f"{decibels(peak**2):.1f} dB",
        "level of loud moments": f"{np.percentile(level, LOUD_SHARE):.1f} dB",
        "level of quiet moments": f"{np.percentile(level, 100 - LOUD_SHARE):.1f} dB",
        "constant offset": f"{float(np.abs(samples.mean(1)).max()):.5f}",
        "clipping": f"{flat} samples at the peak in runs" if flat else "none found",
        "band": f"{low_hz:.0f} to {high_hz:.0f} Hz",
    }
    snr_db = estimated_snr_db(heard)
    return found | {"estimated SNR": f"{snr_db:.1f} dB" if np.isfinite(snr_db) else "-"}


def estimated_snr_db(heard: Heard) -> float:
    """Return the energy of the enhanced sound over that of the removed sound in dB: the SNR if the model were right.

    NaN if either is silent.
    """
    removed = float(np.square(heard.samples - heard.speech, dtype=np.float64).sum())
    speech = float(np.square(heard.speech, dtype=np.float64).sum())
    return 10 * np.log10(speech / removed) if speech and removed else float("nan")


def level_db(samples: np.ndarray, rate_hz: int) -> np.ndarray:
    """Return the level (T,) of samples (C, N) in frames of 50 ms: 0 dB is a square wave at full scale."""
    size = max(1, round(FRAME_S * rate_hz))
    power = np.square(samples, dtype=np.float64).mean(0)
    starts = np.arange(0, len(power), size)
    counts = np.diff(np.append(starts, len(power)))
    return decibels(np.add.reduceat(power, starts) / counts)


def decibels(power: Any) -> Any:
    """Return 10 log10 of powers, at least QUIETEST_DB."""
    return np.maximum(10 * np.log10(np.maximum(power, 1e-30)), QUIETEST_DB)


def clipped(samples: np.ndarray) -> int:
    """Return how many samples (C, N) lie in runs of SHORTEST_FLAT_TOP or more equal ones at their channel's peak."""
    found = 0
    for channel in samples:
        for sign in (1, -1):
            at_peak = (sign * channel == np.abs(channel).max(initial=0)) & (channel != 0)
            edges = np.flatnonzero(np.diff(np.concatenate([[0], at_peak.astype(np.int8), [0]])))
            lengths = edges[1::2] - edges[::2]
            found += int(lengths[lengths >= SHORTEST_FLAT_TOP].sum())
    return found


def band_hz(samples: np.ndarray, rate_hz: int) -> tuple[float, float]:
    """Return the lowest and the highest frequency in Hz of the sound in samples (C, N); (0, 0) for silence.

    The band of a recording that came by telephone ends at 3.4 kHz, whatever its sampling rate.
    """
    size = max(2, round(BAND_WINDOW_S * rate_hz))
    padded = np.pad(samples, ((0, 0), (0, size)))
    frames = np.lib.stride_tricks.sliding_window_view(padded, size, axis=1)[:, : samples.shape[1] : max(1, size // 2)]
    frames = frames[:, :: -(-frames.shape[1] // MOST_FRAMES)]  # spread over the recording: an hour would take gigabytes
    spectra = np.fft.rfft(frames * np.blackman(size))  # the leakage of a band is 70 dB down within 80 Hz
    loud = decibels(np.percentile(np.square(np.abs(spectra)).mean(0) / size**2, LOUD_SHARE, axis=0))
    if loud.max() <= QUIETEST_DB:
        return 0.0, 0.0
    inside = np.flatnonzero(loud > loud.max() - BAND_RANGE_DB)
    return float(inside[0] * rate_hz / size), float(inside[-1] * rate_hz / size)


def hertz(frequency_hz: float) -> str:
    """Return a frequency as text."""
    return f"{frequency_hz / 1000:g} kHz"
