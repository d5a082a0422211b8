"""The one analysis/synthesis pair: square-root Hann windows, half overlapping, perfect reconstruction at any rate."""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True)
class StftPair:
    """Short-time Fourier transform and its inverse at one sampling rate.

    Frame t covers the samples [(t - 1) * hop, (t + 1) * hop), so N samples give ceil(N / hop) + 1 frames and every
    sample lies in exactly two of them. The window is applied at analysis and at synthesis; sin^2 + cos^2 = 1 makes the
    overlap-add exact. Spectra are divided by the sum of the window: a sinusoid of amplitude 1 has magnitude about 1/2
    at every sampling rate.
    """

    hop_samples: int

    @property
    def window_samples(self) -> int:
        """Length of the window, and with it the algorithmic latency."""
        return 2 * self.hop_samples

    @property
    def bins(self) -> int:
        """Number of frequencies F from 0 to the Nyquist frequency."""
        return self.hop_samples + 1

    @cached_property
    def window(self) -> Tensor:
        """Square root of the periodic Hann window, shape (window_samples,)."""
        return torch.hann_window(self.window_samples, periodic=True, dtype=torch.float64).sqrt()

    @cached_property
    def _gain(self) -> float:
        return float(self.window.sum())

    def frames(self, samples: Tensor) -> Tensor:
        """Spectra (..., F, T) of samples (..., (T + 1) * hop): windows of whole hops, nothing padded."""
        window = self.window.to(samples)
        windows = samples.unfold(-1, self.window_samples, self.hop_samples) * window
        return torch.fft.rfft(windows).transpose(-1, -2) / self._gain

    def overlap_add(self, spectrum: Tensor) -> Tensor:
        """Samples (..., (T + 1) * hop) of spectra (..., F, T): the first and last hop still miss a neighbour."""
        windows = torch.fft.irfft(spectrum.transpose(-1, -2) * self._gain, n=self.window_samples)
        windows = windows * self.window.to(windows)
        hop = self.hop_samples
        samples = windows.new_zeros(*windows.shape[:-2], windows.shape[-2] + 1, hop)
        samples[..., :-1, :] = windows[..., :hop]
        samples[..., 1:, :] += windows[..., hop:]
        return samples.flatten(-2)

    def analysis(self, samples: Tensor) -> Tensor:
        """Complex spectrum (..., F, T) of samples (..., N), N >= 1, T = ceil(N / hop) + 1."""
        hop = self.hop_samples
        tail = -samples.shape[-1] % hop + hop
        return self.frames(torch.nn.functional.pad(samples, (hop, tail)))

    def synthesis(self, spectrum: Tensor, length: int) -> Tensor:
        """The `length` samples (..., length) whose analysis is `spectrum` (..., F, T)."""
        return self.overlap_add(spectrum)[..., self.hop_samples : self.hop_samples + length]


@dataclass(frozen=True)
class FrontEnd:
    """What a network hears: sampling rate it was trained at and window and hop in seconds.

    Audio of another rate is not resampled. It is analysed with windows of the same duration, so that bin f means the
    same frequency in Hz and frame t the same moment; the network gets the first `bins` bins. The window is a whole
    number of samples, so at rates such as 11 025 Hz the spacing of the bins deviates by at most 0.3 %.
    """

    rate_hz: int = 16000
    hop_s: float = 0.016

    def __post_init__(self) -> None:
        if self.rate_hz < 1 or self.rate_hz * self.hop_s < 1:
            raise ValueError("rate_hz must be positive and a hop at least one sample")

    @property
    def window_s(self) -> float:
        return 2 * self.hop_s

    @property
    def bins(self) -> int:
        """Number of frequencies that the network sees, 0 to rate_hz / 2."""
        return self.pair(self.rate_hz).bins

    @property
    def frames_per_s(self) -> float:
        return 1 / self.hop_s

    def pair(self, rate_hz: int) -> StftPair:
        """The STFT pair for audio at `rate_hz`."""
        return StftPair(max(1, round(rate_hz * self.hop_s)))
