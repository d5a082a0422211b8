"""What the hearing model of PESQ minds about an estimate, as a term of the objective with a gradient.

ITU-T P.862, and P.862.2 for wideband speech, without the alignment in time, which training does not need, and with
formulas in the place of the standard's tables of bands and of the threshold of hearing. It minds two things: how much the
loudness differs, and once more what of it was added, because added noise disturbs more than missing speech.
"""

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from deepnmf_cli.training.spectra import frequencies, share_of_mean_square

BANDS = 49
HIGHEST_HZ = 8000.0
TINY = 1e-8

MEAN_SQUARE = 1e7
"""To which both signals are scaled, of what they have between 325 and 3250 Hz."""

DENSITY = 35.0
"""Densities of signals so scaled, in units of 0 dB SPL per band: chosen so that points agree with the package `pesq`."""

SOME_SPEECH = 1e-4
"""Mean square of a target, for mixtures whose magnitudes are scaled to 1, below which there is nothing to hear."""

SYMMETRIC, ASYMMETRIC = 0.1, 0.0309
"""Points, of the scale from -0.5 to 4.5, that a disturbance of 1 costs."""


@dataclass(frozen=True)
class Ear:
    """The hearing model for windows of 32 ms at one sampling rate."""

    bands: Tensor
    """(BANDS, F): powers of bins as densities in bands of equal width on the Bark scale."""
    width: float
    """Of a band, in Bark."""
    voice: Tensor
    """(F,): powers of bins as the mean square between 325 and 3250 Hz."""
    threshold: Tensor
    """(BANDS, 1): of hearing, as a density."""
    exponent: Tensor
    """(BANDS, 1): of loudness, Zwicker's 0.23 and more below 4 Bark."""

    def densities(self, power: Tensor) -> Tensor:
        """(B, BANDS, T) of power spectra (B, F, T), whatever their level."""
        level = (self.voice @ power).mean(-1)
        return self.bands @ power * (MEAN_SQUARE / (level + TINY))[:, None, None]

    def audible(self, density: Tensor, factor: float) -> Tensor:
        """The density where it is `factor` times the threshold, zero elsewhere."""
        return torch.where(density > factor * self.threshold, density, 0)

    def loudness(self, density: Tensor) -> Tensor:
        """Zwicker's law, in Sone per Bark."""
        scale = 0.1866 * (2 * self.threshold) ** self.exponent
        return torch.where(
            density > self.threshold, scale * ((0.5 + 0.5 * density / self.threshold) ** self.exponent - 1), 0
        )


def points_lost(estimate: Tensor, target: Tensor, rate_hz: int) -> Tensor:
    """What the disturbances cost on PESQ's scale from -0.5 to 4.5, (B,), of `power_spectra` (B, F, T); 0 for a silent
    target."""
    symmetric, asymmetric = disturbances(estimate, target, rate_hz)
    mean_square = target.sum(1).mean(1) * share_of_mean_square(rate_hz)
    return torch.where(mean_square > SOME_SPEECH, SYMMETRIC * symmetric + ASYMMETRIC * asymmetric, 0)


def disturbances(estimate: Tensor, target: Tensor, rate_hz: int) -> tuple[Tensor, Tensor]:
    """Symmetric and asymmetric disturbance, (B,) each, of power spectra (B, F, T). P.862, 10.2."""
    ear = hearing(rate_hz, str(estimate.device))
    heard, true = ear.densities(estimate), ear.densities(target)
    # A steady difference in colour counts for little: the target takes on the mean spectrum of the estimate.
    active = ear.audible(true, 100).sum(1, keepdim=True) >= 1e7
    colours = [(ear.audible(x, 100) * active).sum(2) / active.sum(2).clamp_min(1) for x in (heard, true)]
    true = true * ((colours[0] + 1000) / (colours[1] + 1000)).clamp(0.01, 100)[..., None]
    # And so does a gain that changes slowly: the estimate takes on the power of the target.
    total = ear.audible(true, 1).sum(1)
    gain = (total + 5e3) / (ear.audible(heard, 1).sum(1) + 5e3)
    gain = torch.cat([gain[:, :1], 0.8 * gain[:, 1:] + 0.2 * gain[:, :-1]], 1).clamp(3e-4, 5)
    heard = heard * gain[:, None]

    loud, truly = ear.loudness(heard), ear.loudness(true)
    difference = loud - truly
    difference = difference.sign() * (difference.abs() - 0.25 * torch.minimum(loud, truly)).clamp_min(0)
    added = ((heard + 50) / (true + 50)) ** 1.2
    added = torch.where(added < 3, 0, added.clamp_max(12))
    symmetric = (difference.square().mean(1) * ear.width + TINY).sqrt() * (BANDS * ear.width)
    asymmetric = (difference.abs() * added).sum(1) * ear.width
    weight = ((total + 1e5) / 1e7) ** 0.04
    return _over_time(symmetric / weight), _over_time(asymmetric / weight)


def _over_time(disturbance: Tensor) -> Tensor:
    """(B,) of disturbances (B, T): the loudest within 0.3 s decides, and of these stretches the mean square."""
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
    """The `Ear` for a sampling rate; above 8 kHz it hears nothing."""
    frequency, bin_share = frequencies(rate_hz), share_of_mean_square(rate_hz)
    spacing = float(frequency[1])
    highest = _bark(torch.tensor(min(rate_hz / 2, HIGHEST_HZ), dtype=torch.float64))
    edges = torch.arange(BANDS + 1) * (highest / BANDS)
    # Bins are spread over the bands that they reach into.
    low, high = _bark((frequency - spacing / 2).clamp_min(0)), _bark(frequency + spacing / 2)
    overlap = torch.minimum(high, edges[1:, None]) - torch.maximum(low, edges[:-1, None])
    share = overlap.clamp_min(0) / (high - low)
    centre = (share * frequency).sum(1) / share.sum(1)

    # In front of the ear P.862.2 has a filter that passes what is above 100 Hz.
    z = torch.exp(-2j * torch.pi * frequency / rate_hz)
    passed = (2.740826 * (1 - 2 * z + z**2) / (1 - 1.9444777 * z + 0.94597794 * z**2)).abs().square()
    voice = (frequency >= 325) & (frequency <= 3250)
    return Ear(
        (share * passed * bin_share * DENSITY).float().to(device),
        float(highest) / BANDS,
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
