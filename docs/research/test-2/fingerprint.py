"""Tell whether two recordings are the same one: pairs of spectral peaks, as A. Wang described them, ISMIR 2003."""

import numpy as np
import soxr
from scipy.ndimage import maximum_filter

from deepnmf_cli.corpus.mixing import Samples
from deepnmf_cli.errors import CorpusError

RATE_HZ, WINDOW, HOP = 8000, 512, 128
"""64 ms every 16 ms, up to 4 kHz."""
NEIGHBOURS = (21, 21)
"""A peak is the highest of so many bins and frames."""
TARGETS, SPAN = 5, 63
"""Each peak is paired with the next five, at most 63 frames later."""

SHARE, PAIRS, MANY_PAIRS = 0.25, 8, 40
"""Recordings resemble each other where this share of one's pairs, and so many, recur at one delay; or very many."""


class Fingerprints:
    """Recordings and their pairs of peaks. `nearest` is the closest comparison: its likeness, 1 where
    it counts as a resemblance, the pairs that recur, their share, and both names.
    """

    def __init__(self) -> None:
        self.names: list[str] = []
        self.sizes: list[int] = []
        self.nearest: tuple[float, int, float, str, str] = (0.0, 0, 0.0, "none", "none")
        self._parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        self._sorted: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None

    def add(self, name: str, samples: Samples, rate_hz: int) -> None:
        """Take up a recording (n,)."""
        keys, times = peak_pairs(samples, rate_hz)
        self._parts.append((keys, times, np.full(len(keys), len(self.names))))
        self.names.append(name)
        self.sizes.append(len(keys))
        self._sorted = None

    @property
    def keys(self) -> np.ndarray:
        """All pairs, sorted."""
        return self._index()[0]

    def compare(self, other: str, samples: Samples, rate_hz: int, apart_from: int = -1) -> None:
        """Raise CorpusError where a recording that was added, except number `apart_from`, resembles this one (n,)."""
        known, known_times, owner = self._index()
        keys, times = peak_pairs(samples, rate_hz)
        first, last = np.searchsorted(known, keys, "left"), np.searchsorted(known, keys, "right")
        counts = last - first
        at = np.repeat(first - np.concatenate([[0], np.cumsum(counts)[:-1]]), counts) + np.arange(counts.sum())
        delay = np.repeat(times, counts) - known_times[at]
        wanted = owner[at] != apart_from
        if not wanted.any():
            return
        # Two neighbouring delays count as one: frames of the two recordings need not coincide.
        same = np.concatenate([owner[at][wanted] * 2**32 + 2**31 + delay[wanted] + shift for shift in (0, 1)])
        values, hits = np.unique(same, return_counts=True)
        shares = hits / np.asarray(self.sizes)[values >> 32]
        likeness = np.where(hits >= PAIRS, np.maximum(shares / SHARE, hits / MANY_PAIRS), 0)
        best = int(likeness.argmax())
        name, pairs, like = self.names[values[best] >> 32], int(hits[best]), float(likeness[best])
        if like >= 1:
            found = f"{pairs} pairs of peaks of {name}, {shares[best]:.0%} of all"
            expected = f"less than {MANY_PAIRS} pairs and {SHARE:.0%}"
            raise CorpusError(other, found, expected, f"Take {name} out of the set.")
        self.nearest = max(self.nearest, (like, pairs, float(shares[best]), name, other))

    def _index(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        if self._sorted is None:
            keys, times, owner = (np.concatenate(x) for x in zip(*self._parts, strict=True))
            order = np.argsort(keys, kind="stable")
            self._sorted = keys[order], times[order], owner[order]
        return self._sorted


def peak_pairs(samples: Samples, rate_hz: int) -> tuple[np.ndarray, np.ndarray]:
    """Keys of pairs of peaks (n,), from two frequencies and the frames between them, and the frame of the first."""
    heard = soxr.resample(samples, rate_hz, RATE_HZ, quality="MQ")
    if len(heard) < 2 * WINDOW:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    frames = np.lib.stride_tricks.sliding_window_view(heard, WINDOW)[::HOP]
    level = np.abs(np.fft.rfft(frames * np.hanning(WINDOW).astype(np.float32))).astype(np.float32)
    level[:, :4] = 0  # below 60 Hz
    peaks = (level == maximum_filter(level, NEIGHBOURS[::-1])) & (level > 1e-3 * level.max())
    frame, bin_ = (x.astype(np.int64) for x in np.nonzero(peaks))
    keys, times = [], []
    for step in range(1, TARGETS + 1):
        gap = frame[step:] - frame[:-step]
        near = gap <= SPAN
        keys.append(((bin_[:-step] * 512 + bin_[step:]) * 64 + gap)[near])
        times.append(frame[:-step][near])
    return np.concatenate(keys), np.concatenate(times)
