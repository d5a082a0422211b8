"""The one analysis/synthesis pair: windows of whole hops, perfect reconstruction at any rate; NumPy and torch alike."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from deepnmf_cli.signal.arrays import Array, like, namespace, pad

HIGHEST_RATE_HZ, LONGEST_HOP_S, MOST_HOPS = 768_000, 1.0, 64
"""Limits of front ends: far beyond what is useful, and small enough for memory, whatever a file says."""


@dataclass(frozen=True)
class StftPair:
    """Short-time Fourier transform and its inverse at one sampling rate.

    Frame t covers the samples [(t + 1 - window_hops) * hop, (t + 1) * hop), so N samples give ceil(N / hop) + 1 frames.
    One window is applied at analysis, and at synthesis a second one that reaches over the last two hops only, so every
    sample is made of exactly two frames and is final as soon as the second is complete. With two hops the windows
    are equal, square roots of a Hann window. More hops make the analysis window longer and its frequencies finer
    without more latency: the asymmetric windows of Mauler & Martin, "A low delay, variable resolution, perfect
    reconstruction spectral analysis-synthesis system for speech enhancement", 2007. In both cases the product of the
    windows is a Hann window of two hops, and sin^2 + cos^2 = 1 makes the overlap-add exact.

    Spectra are divided by the sum of the window: a sinusoid of amplitude 1 has magnitude about 1/2 at every sampling
    rate. All methods take NumPy arrays or torch tensors and give the same.
    """

    hop_samples: int
    window_hops: int = 2
    """Hops in an analysis window."""

    @property
    def window_samples(self) -> int:
        """Length of the analysis window."""
        return self.window_hops * self.hop_samples

    @property
    def latency_samples(self) -> int:
        """Length of the synthesis window, and with it the algorithmic latency."""
        return 2 * self.hop_samples

    @property
    def bins(self) -> int:
        """Number of frequencies F from 0 to the Nyquist frequency."""
        return self.window_samples // 2 + 1

    @cached_property
    def window(self) -> np.ndarray:
        """Analysis window (window_samples,) float64: a sine that rises slowly to 1 and falls within the last hop."""
        hop, rise = self.hop_samples, self.window_samples - self.hop_samples
        rising = np.sin(np.pi / 2 * np.arange(rise) / rise)
        falling = np.cos(np.pi / 2 * np.arange(hop) / hop)
        return np.concatenate([rising, falling])

    @cached_property
    def synthesis_window(self) -> np.ndarray:
        """Window (latency_samples,) float64 of the last two hops: a Hann window divided by the analysis window."""
        size = self.latency_samples
        hann = np.sin(np.pi * np.arange(size) / size) ** 2
        analysis = self.window[-size:]
        # With two hops, both windows begin with zero; there, and nowhere else, the quotient is undefined.
        return np.divide(hann, analysis, out=np.zeros(size), where=analysis > 0)

    @cached_property
    def _scaled(self) -> tuple[np.ndarray, np.ndarray]:
        """Analysis window (window_samples,) over its sum, and synthesis window times that sum."""
        gain = self.window.sum()
        return self.window / gain, self.synthesis_window * gain

    @cached_property
    def _single(self) -> tuple[np.ndarray, np.ndarray]:
        """The same in single precision, converted once, which pays as frames that come one by one are short."""
        analysis, synthesis = self._scaled
        return analysis.astype(np.float32), synthesis.astype(np.float32)

    def _windows(self, array: Array) -> tuple[np.ndarray, np.ndarray]:
        return self._single if array.dtype.itemsize == 4 else self._scaled

    def frames(self, samples: Array) -> Array:
        """Spectra (..., F, T) of samples (..., (T + window_hops - 1) * hop): windows of whole hops, nothing padded."""
        hops = samples.reshape(*samples.shape[:-1], -1, self.hop_samples)
        count = hops.shape[-2] - self.window_hops + 1
        parts = [hops[..., k : k + count, :] for k in range(self.window_hops)]
        windows = namespace(samples).concatenate(parts, -1) * like(self._windows(samples)[0], samples)
        return namespace(samples).fft.rfft(windows).swapaxes(-1, -2)

    def overlap_add(self, spectrum: Array) -> Array:
        """Samples (..., (T + 1) * hop) of spectra (..., F, T): the first and the last hop still lack a neighbour.

        The first hop is the last but one that the first frame covers.
        """
        windows = namespace(spectrum).fft.irfft(spectrum.swapaxes(-1, -2), n=self.window_samples)
        hop = self.hop_samples
        windows = windows[..., -2 * hop :] * like(self._windows(windows)[1], windows)
        earlier, later = windows[..., :hop], windows[..., hop:]
        hops = namespace(spectrum).concatenate([earlier, later[..., -1:, :]], -2)
        hops[..., 1:-1, :] += later[..., :-1, :]
        return hops.reshape(*hops.shape[:-2], -1)

    def analysis(self, samples: Array) -> Array:
        """Complex spectrum (..., F, T) of samples (..., N), N >= 1, T = ceil(N / hop) + 1."""
        hop = self.hop_samples
        return self.frames(pad(samples, (self.window_hops - 1) * hop, -samples.shape[-1] % hop + hop))

    def synthesis(self, spectrum: Array, length: int) -> Array:
        """The `length` samples (..., length) whose analysis is `spectrum` (..., F, T)."""
        return self.overlap_add(spectrum)[..., self.hop_samples : self.hop_samples + length]


@dataclass(frozen=True)
class FrontEnd:
    """What a network takes as input: the sampling rate it was trained at, and windows in seconds.

    Audio of another rate is not resampled. It is analysed with windows of the same duration, so that bin f means the
    same frequency in Hz and frame t the same moment; the network gets the first `bins` bins. A hop is a whole number of
    samples, so at rates such as 11 025 Hz the spacing of the bins deviates by at most 0.3 %.
    """

    rate_hz: int = 16000
    hop_s: float = 0.016
    window_hops: int = 2
    """Hops in an analysis window: 2 for equal windows at analysis and synthesis, more for asymmetric ones, see
    `StftPair`. The latency is two hops in both cases."""

    def __post_init__(self) -> None:
        if self.rate_hz < 1 or self.rate_hz * self.hop_s < 1:
            raise ValueError("rate_hz must be positive and a hop at least one sample")
        if not 2 <= self.window_hops <= MOST_HOPS:
            raise ValueError(f"window_hops must lie between 2 and {MOST_HOPS}")
        if self.rate_hz > HIGHEST_RATE_HZ or self.hop_s > LONGEST_HOP_S:
            raise ValueError(f"rate_hz is at most {HIGHEST_RATE_HZ}, and hop_s at most {LONGEST_HOP_S}")

    @property
    def bins(self) -> int:
        """Number of frequencies that the network sees, 0 to rate_hz / 2."""
        return self.pair(self.rate_hz).bins

    @property
    def frames_per_s(self) -> float:
        return 1 / self.hop_s

    def pair(self, rate_hz: int) -> StftPair:
        """The STFT pair for audio at `rate_hz`."""
        return StftPair(max(1, round(rate_hz * self.hop_s)), self.window_hops)
