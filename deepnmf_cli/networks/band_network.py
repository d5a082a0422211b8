"""Networks on frequency bands: bins are pooled at the input, and masks of bands are spread over bins at the output.

Bands are single bins where harmonics are resolved, and wider bands on the ERB scale above.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deepnmf_cli.networks.base import MaskNetwork
from deepnmf_cli.signal.bands import band_matrix, erb_number


def band_sketch(settings: "BandSettings", rows: int) -> Tensor:
    """Return a non-negative matrix (rows, bands) from a network's bands to wider ones, evenly spaced on the ERB scale.

    Rows have unit norm, so that a sketch is about as large as what it is made of.
    """
    s = settings
    bins_of_bands = band_matrix(s.bins, s.single_bands, s.wide_bands, s.rate_hz)
    wider = torch.from_numpy(band_matrix(s.bins, 0, rows, s.rate_hz) @ bins_of_bands.T)
    return wider / wider.norm(dim=1, keepdim=True)


def band_centres(settings: "BandSettings") -> Tensor:
    """Return the positions (bands,) of a network's bands on the ERB scale, float64, in ascending order."""
    s = settings
    position = erb_number(np.linspace(0, s.rate_hz / 2, s.bins))
    wide = np.linspace(position[s.single_bands], position[-1], s.wide_bands)
    return torch.from_numpy(np.concatenate([position[: s.single_bands], wide]))


def lower_bands(settings: "BandSettings", bins: int) -> "BandSettings":
    """Return the bands of a network for the lowest `bins` >= 2 of its bins alone: the same single ones, and above them
    wide bands whose ERB spacing is as close as possible to the original one.
    """
    s = settings
    single, top_hz = min(s.single_bands, bins - 1), (bins - 1) / (s.bins - 1) * s.rate_hz / 2
    centres = band_centres(s)[s.single_bands :]
    low, high = erb_number(np.array([single / (bins - 1) * top_hz, top_hz]))
    spacing = float(centres[-1] - centres[0]) / max(1, s.wide_bands - 1)
    # At least two hat functions if there are two bins: a single one would give all of them the same mask.
    wide = 1 if single == bins - 1 else max(2, round(float(high - low) / spacing) + 1)
    return BandSettings(bins, round(2 * top_hz), single, wide)


@dataclass(frozen=True)
class BandSettings:
    """The bands of a network: a subclass adds the rest of its shape."""

    bins: int = 257
    rate_hz: int = 16000
    single_bands: int = 64
    """Lowest bins that are bands of their own."""
    wide_bands: int = 32
    """ERB bands above them."""

    def __post_init__(self) -> None:
        if not 0 <= self.single_bands < self.bins:
            raise ValueError("single_bands must be below bins")
        if self.wide_bands < 1:
            raise ValueError("wide_bands must be at least 1")

    @property
    def bands(self) -> int:
        """Total number of bands."""
        return self.single_bands + self.wide_bands


class BandNetwork(MaskNetwork):
    """A `MaskNetwork` whose settings are `BandSettings`.

    `to_bands` (wide bands, bins above the single ones) averages magnitudes; `to_bins`, of the transposed shape,
    averages masks, and its rows sum to one.
    """

    to_bins: Tensor
    to_bands: Tensor

    def __init__(self, settings: Any) -> None:
        super().__init__()
        self.settings = s = settings
        matrix = torch.from_numpy(band_matrix(s.bins, s.single_bands, s.wide_bands, s.rate_hz))
        wide = matrix[s.single_bands :, s.single_bands :]
        self.register_buffer("to_bins", wide.T.contiguous(), persistent=False)
        self.register_buffer("to_bands", wide / wide.sum(1, keepdim=True), persistent=False)

    def pool(self, magnitude: Tensor) -> Tensor:
        """Return the magnitudes (..., bands, T) of bands, pooled from those of bins (..., F, T)."""
        single = self.settings.single_bands
        return torch.cat([magnitude[..., :single, :], self.to_bands @ magnitude[..., single:, :]], -2)

    def spread(self, masks: Tensor) -> Tensor:
        """Return the masks (..., F) of bins, spread from those of bands (..., bands)."""
        single = self.settings.single_bands
        return torch.cat([masks[..., :single], masks[..., single:] @ self.to_bins.T], -1)

    def band_macs(self) -> int:
        """Return the multiply-adds per frame of the way into bands and back."""
        s = self.settings
        return 2 * (s.bins - s.single_bands) * s.wide_bands
