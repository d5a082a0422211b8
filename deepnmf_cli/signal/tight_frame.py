"""A Parseval frame of windowed Fourier transforms: the synthesis is the adjoint of the analysis, and its inverse."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from deepnmf_cli.signal.arrays import Array, like, namespace, pad

HOPS = 4
"""Hops in a window."""


@dataclass(frozen=True)
class TightFrame:
    """Sine windows of `HOPS` hops, divided by sqrt(HOPS / 2), so that their squares sum to one at every sample.

    With orthonormal Fourier transforms S A = 1 and |A y| = |y| (bins between the first and the last counted twice), for
    A = `analysis` and S = `synthesis`. So the distance of coefficients equals that of samples, as consistent
    projection takes it (Zaviska, Rajmic, Ozerov & Rencker, "A survey and an extensive evaluation of popular audio
    declipping methods", 2021). All methods take NumPy arrays or torch tensors.
    """

    hop_samples: int

    @property
    def window_samples(self) -> int:
        return HOPS * self.hop_samples

    @property
    def bins(self) -> int:
        return self.window_samples // 2 + 1

    @cached_property
    def window(self) -> np.ndarray:
        """(window_samples,) float64."""
        size = self.window_samples
        return np.sin(np.pi * (np.arange(size) + 0.5) / size) / np.sqrt(HOPS / 2)

    def frames(self, samples: Array) -> Array:
        """Windows (..., T, window_samples) of samples (..., N), not weighted: T = ceil(N / hop) + HOPS - 1."""
        hop = self.hop_samples
        margin = (HOPS - 1) * hop
        padded = pad(samples, margin, margin + -samples.shape[-1] % hop)
        hops = padded.reshape(*padded.shape[:-1], -1, hop)
        count = hops.shape[-2] - HOPS + 1
        return namespace(samples).concatenate([hops[..., k : k + count, :] for k in range(HOPS)], -1)

    def analysis(self, samples: Array) -> Array:
        """Coefficients (..., T, F) of samples (..., N), N >= 1."""
        windows = self.frames(samples) * like(self.window, samples)
        return namespace(samples).fft.rfft(windows, norm="ortho")

    def synthesis(self, coefficients: Array, length: int) -> Array:
        """Samples (..., length), the adjoint of `analysis`."""
        arrays, hop = namespace(coefficients), self.hop_samples
        windows = arrays.fft.irfft(coefficients, n=self.window_samples, norm="ortho")
        windows = windows * like(self.window, windows)
        # The hops before the first sample and after the last are left out.
        last = windows.shape[-2] - HOPS + 1
        parts = [windows[..., HOPS - 1 - k : HOPS - 1 - k + last, k * hop : (k + 1) * hop] for k in range(HOPS)]
        total = parts[0]
        for part in parts[1:]:
            total = total + part
        return total.reshape(*total.shape[:-2], -1)[..., :length]
