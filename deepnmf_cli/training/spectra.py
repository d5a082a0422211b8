"""Power spectra of waveforms as the terms of the objective hear them that follow PESQ and ESTOI, whatever the front end."""

import torch
from torch import Tensor

WINDOW_S = 0.032
"""Hann windows of this length overlap by half."""


def window_samples(rate_hz: int) -> int:
    """An even number of samples."""
    return 2 * round(WINDOW_S * rate_hz / 2)


def frequencies(rate_hz: int) -> Tensor:
    """Of the bins, (F,) float64 in Hz."""
    size = window_samples(rate_hz)
    return torch.arange(size // 2 + 1, dtype=torch.float64) * rate_hz / size


def share_of_mean_square(rate_hz: int) -> float:
    """What a bin's power of 1 adds to the mean square of a waveform."""
    size = window_samples(rate_hz)
    return 2 / (size * float(torch.hann_window(size, dtype=torch.float64).square().sum()))


def power_spectra(waveforms: Tensor, rate_hz: int) -> Tensor:
    """(B, F, T) of waveforms (B, N), N at least 32 ms; what is left over at the end is left out."""
    size = window_samples(rate_hz)
    window = torch.hann_window(size, device=waveforms.device)
    spectra = torch.stft(waveforms, size, size // 2, window=window, center=False, return_complex=True)
    return spectra.real.square() + spectra.imag.square()
