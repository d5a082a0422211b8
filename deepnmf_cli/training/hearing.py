"""Perceptual terms of the objective that have a gradient, after PESQ and after ESTOI.

`points_lost` follows ITU-T P.862, and P.862.2 for wideband speech, without the alignment in time, which training does
not need, and with formulas in place of the standard's tables of bands and of the threshold of hearing. Two things
count: how much the loudness differs, and, once more, how much of it was added, because added noise disturbs more than
missing speech.

`intelligibility_lost` measures how well the estimate's envelopes follow the target's: Jensen & Taal, "An algorithm for
predicting the intelligibility of speech masked by modulated noise maskers", 2016; in frames of 32 ms every 16 ms, where
the original has 25.6 and 12.8 ms at 10 kHz.

Both take power spectra of waveforms, computed with windows of their own whatever the front end.
"""

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

WINDOW_S = 0.032
"""Length of the Hann windows in seconds; they overlap by half."""

TINY = 1e-8


def window_samples(rate_hz: int) -> int:
    """Return the length of the windows in samples, an even number."""
    return 2 * round(WINDOW_S * rate_hz / 2)


def frequencies(rate_hz: int) -> Tensor:
    """Return the frequencies of the bins in Hz, (F,) float64."""
    size = window_samples(rate_hz)
    return torch.arange(size // 2 + 1, dtype=torch.float64) * rate_hz / size


def share_of_mean_square(rate_hz: int) -> float:
    """Return what a bin's power of 1 adds to the mean square of a waveform."""
    size = window_samples(rate_hz)
    return 2 / (size * float(torch.hann_window(size, dtype=torch.float64).square().sum()))


def power_spectra(waveforms: Tensor, rate_hz: int) -> Tensor:
    """Return power spectra (B, F, T) of waveforms (B, N), N at least 32 ms; a remainder at the end is left out."""
    size = window_samples(rate_hz)
    window = torch.hann_window(size, device=waveforms.device)
    spectra = torch.stft(waveforms, size, size // 2, window=window, center=False, return_complex=True)
    return spectra.real.square() + spectra.imag.square()


BARK_BANDS = 49
HIGHEST_HZ = 8000.0
MEAN_SQUARE = 1e7
"""Mean square between 325 and 3250 Hz to which both signals are scaled."""

DENSITY = 35.0
"""Scale of the densities of such signals, in units of 0 dB SPL per band: chosen so that points agree with the package
`pesq`."""

SOME_SPEECH = 1e-4
"""Mean square below which a target counts as silent, for mixtures whose magnitudes are scaled to 1."""

SYMMETRIC, ASYMMETRIC = 0.1, 0.0309
"""Points on the scale from -0.5 to 4.5 that a disturbance of 1 costs."""


@dataclass(frozen=True)
class Ear:
    """The hearing model for windows of 32 ms at one sampling rate."""

    bands: Tensor
    """(BARK_BANDS, F): matrix from powers of bins to densities in bands of equal width on the Bark scale."""
    width: float
    """Width of a band, in Bark."""
    voice: Tensor
    """(F,): weights of the powers of bins in the mean square between 325 and 3250 Hz."""
    threshold: Tensor
    """(BARK_BANDS, 1): threshold of hearing, as a density."""
    exponent: Tensor
    """(BARK_BANDS, 1): exponent of loudness, Zwicker's 0.23, and more below 4 Bark."""

    def densities(self, power: Tensor) -> Tensor:
        """Return densities (B, BARK_BANDS, T) of power spectra (B, F, T), whatever their level."""
        level = (self.voice @ power).mean(-1)
        return self.bands @ power * (MEAN_SQUARE / (level + TINY))[:, None, None]

    def audible(self, density: Tensor, factor: float) -> Tensor:
        """Return the density where it is above `factor` times the threshold, zero elsewhere."""
        return torch.where(density > factor * self.threshold, density, 0)

    def loudness(self, density: Tensor) -> Tensor:
        """Return the loudness by Zwicker's law, in Sone per Bark."""
        scale = 0.1866 * (2 * self.threshold) ** self.exponent
        return torch.where(
            density > self.threshold, scale * ((0.5 + 0.5 * density / self.threshold) ** self.exponent - 1), 0
        )


def points_lost(estimate: Tensor, target: Tensor, rate_hz: int) -> Tensor:
    """Return the points that the disturbances cost on PESQ's scale from -0.5 to 4.5, (B,).

    Estimate and target are `power_spectra` (B, F, T); 0 for a silent target.
    """
    symmetric, asymmetric = disturbances(estimate, target, rate_hz)
    mean_square = target.sum(1).mean(1) * share_of_mean_square(rate_hz)
    return torch.where(mean_square > SOME_SPEECH, SYMMETRIC * symmetric + ASYMMETRIC * asymmetric, 0)


def disturbances(estimate: Tensor, target: Tensor, rate_hz: int) -> tuple[Tensor, Tensor]:
    """Return the symmetric and the asymmetric disturbance, (B,) each, of power spectra (B, F, T). P.862, 10.2."""
    ear = hearing(rate_hz, str(estimate.device))
    degraded, true = ear.densities(estimate), ear.densities(target)
    # A steady difference in colour counts for little: the target takes on the mean spectrum of the estimate.
    active = ear.audible(true, 100).sum(1, keepdim=True) >= 1e7
    colours = [(ear.audible(x, 100) * active).sum(2) / active.sum(2).clamp_min(1) for x in (degraded, true)]
    true = true * ((colours[0] + 1000) / (colours[1] + 1000)).clamp(0.01, 100)[..., None]
    # And so does a gain that changes slowly: the estimate takes on the power of the target.
    total = ear.audible(true, 1).sum(1)
    gain = (total + 5e3) / (ear.audible(degraded, 1).sum(1) + 5e3)
    gain = torch.cat([gain[:, :1], 0.8 * gain[:, 1:] + 0.2 * gain[:, :-1]], 1).clamp(3e-4, 5)
    degraded = degraded * gain[:, None]

    loud, truly = ear.loudness(degraded), ear.loudness(true)
    difference = loud - truly
    difference = difference.sign() * (difference.abs() - 0.25 * torch.minimum(loud, truly)).clamp_min(0)
    added = ((degraded + 50) / (true + 50)) ** 1.2
    added = torch.where(added < 3, 0, added.clamp_max(12))
    symmetric = (difference.square().mean(1) * ear.width + TINY).sqrt() * (BARK_BANDS * ear.width)
    asymmetric = (difference.abs() * added).sum(1) * ear.width
    weight = ((total + 1e5) / 1e7) ** 0.04
    return _over_time(symmetric / weight), _over_time(asymmetric / weight)


def _over_time(disturbance: Tensor) -> Tensor:
    """Return an average (B,) of disturbances (B, T) over time: the loudest within 0.3 s decides, and these stretches
    are averaged in the mean square.
    """
    frames = disturbance.shape[1]
    length, step = min(20, frames), max(1, min(20, frames) // 2)
    disturbance = disturbance.clamp(TINY, 45)
    stretches = disturbance.unfold(1, length, step)
    if (frames - length) % step:
        stretches = torch.cat([stretches, disturbance[:, None, -length:]], 1)  # the end counts, too
    stretches = stretches.pow(6).mean(2).pow(1 / 6)
    return stretches.square().mean(1).sqrt()


@cache
def hearing(rate_hz: int, device: str = "cpu") -> Ear:
    """Return the `Ear` for a sampling rate; it hears nothing above 8 kHz."""
    frequency, bin_share = frequencies(rate_hz), share_of_mean_square(rate_hz)
    spacing = float(frequency[1])
    highest = _bark(torch.tensor(min(rate_hz / 2, HIGHEST_HZ), dtype=torch.float64))
    edges = torch.arange(BARK_BANDS + 1) * (highest / BARK_BANDS)
    # Bins are shared among the bands that they overlap.
    low, high = _bark((frequency - spacing / 2).clamp_min(0)), _bark(frequency + spacing / 2)
    overlap = torch.minimum(high, edges[1:, None]) - torch.maximum(low, edges[:-1, None])
    share = overlap.clamp_min(0) / (high - low)
    centre = (share * frequency).sum(1) / share.sum(1)

    # P.862.2 has a high-pass filter at 100 Hz in front of the ear.
    z = torch.exp(-2j * torch.pi * frequency / rate_hz)
    passed = (2.740826 * (1 - 2 * z + z**2) / (1 - 1.9444777 * z + 0.94597794 * z**2)).abs().square()
    voice = (frequency >= 325) & (frequency <= 3250)
    return Ear(
        (share * passed * bin_share * DENSITY).float().to(device),
        float(highest) / BARK_BANDS,
        (voice * bin_share).float().to(device),
        10 ** (_threshold_db(centre) / 10)[:, None].float().to(device),
        0.23 * (6 / (_bark(centre) + 2)).clamp(1, 2)[:, None].float().to(device) ** 0.15,
    )


def _bark(frequency_hz: Tensor) -> Tensor:
    """Critical-band rate, Zwicker & Terhardt 1980."""
    return 13 * torch.atan(0.00076 * frequency_hz) + 3.5 * torch.atan((frequency_hz / 7500).square())


def _threshold_db(frequency_hz: Tensor) -> Tensor:
    """Threshold of hearing in dB SPL, Terhardt 1979."""
    kilohertz = frequency_hz.clamp_min(20) / 1000
    return 3.64 * kilohertz**-0.8 - 6.5 * torch.exp(-0.6 * (kilohertz - 3.3).square()) + 1e-3 * kilohertz**4


LOWEST_HZ = 150.0
THIRD_OCTAVES = 15
"""Number of third-octave bands, with centres from LOWEST_HZ to 3.8 kHz."""

STRETCH_FRAMES = 24
"""Frames over which envelopes are compared: 384 ms."""

RANGE_DB = 40.0
"""Frames this far below the loudest one of the target hold no speech and are left out."""


def intelligibility_lost(estimate: Tensor, target: Tensor, rate_hz: int) -> Tensor:
    """Return 1 - ESTOI, (B,), between 0 and about 1, of `power_spectra` (B, F, T); 0 where the target has less than
    0.4 s of speech.
    """
    if target.shape[-1] < STRETCH_FRAMES:
        return estimate.new_zeros(len(estimate))
    energy = target.sum(1)
    speech = energy > 10 ** (-RANGE_DB / 10) * energy.amax(1, keepdim=True)
    # Frames with speech go to the front, in their order, and stretches that reach beyond them are not counted.
    order = speech.logical_not().to(torch.uint8).argsort(dim=1, stable=True)
    bands = third_octaves(rate_hz, str(estimate.device))
    envelopes = []
    for power in (estimate, target):
        envelope = (bands @ power + TINY).sqrt()
        envelope = envelope.gather(2, order[:, None].expand_as(envelope))
        envelopes.append(_normalised(envelope.unfold(2, STRETCH_FRAMES, 1).transpose(1, 2)))
    likeness = (envelopes[0] * envelopes[1]).sum((2, 3)) / STRETCH_FRAMES  # (B, stretches)
    first = torch.arange(likeness.shape[1], device=likeness.device)
    counted = first + STRETCH_FRAMES <= speech.sum(1, keepdim=True)
    return torch.where(counted, 1 - likeness, 0).sum(1) / counted.sum(1).clamp_min(1)


def _normalised(envelopes: Tensor) -> Tensor:
    """Return envelopes (..., bands, frames) with rows, and then columns, normalised to mean zero and unit norm."""
    for axis in (-1, -2):
        envelopes = envelopes - envelopes.mean(axis, keepdim=True)
        envelopes = envelopes / (envelopes.square().sum(axis, keepdim=True) + TINY).sqrt()
    return envelopes


@cache
def third_octaves(rate_hz: int, device: str = "cpu") -> Tensor:
    """Return (THIRD_OCTAVES, F) of 0 and 1: which bins of the hearing model's windows belong to which band.

    No bin belongs to a band above half the rate.
    """
    frequency = frequencies(rate_hz)
    centre = LOWEST_HZ * 2 ** (torch.arange(THIRD_OCTAVES, dtype=torch.float64) / 3)
    low, high = centre * 2 ** (-1 / 6), centre * 2 ** (1 / 6)
    return ((frequency >= low[:, None]) & (frequency < high[:, None])).float().to(device)
