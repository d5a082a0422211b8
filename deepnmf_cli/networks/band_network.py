"""Networks on frequency bands: bins are pooled in front, and masks of bands are spread over bins behind."""

from typing import Any

import torch
from torch import Tensor

from deepnmf_cli.networks.base import MaskNetwork
from deepnmf_cli.signal.bands import band_matrix


class BandNetwork(MaskNetwork):
    """A `MaskNetwork` whose settings have `bins`, `rate_hz`, `single_bands` and `wide_bands`.

    `to_bands` (wide bands, bins above the single ones) takes means of magnitudes; `to_bins`, of the transposed shape,
    takes means of masks, its rows sum to one.
    """

    def __init__(self, settings: Any) -> None:
        super().__init__()
        self.settings = s = settings
        wide = band_matrix(s.bins, s.single_bands, s.wide_bands, s.rate_hz)[s.single_bands :, s.single_bands :]
        self.register_buffer("to_bins", wide.T.contiguous(), persistent=False)
        self.register_buffer("to_bands", wide / wide.sum(1, keepdim=True), persistent=False)

    def pool(self, magnitude: Tensor) -> Tensor:
        """Magnitudes (..., F, T) of bins as those of bands (..., bands, T)."""
        single = self.settings.single_bands
        return torch.cat([magnitude[..., :single, :], self.to_bands @ magnitude[..., single:, :]], -2)

    def spread(self, masks: Tensor) -> Tensor:
        """Masks (..., bands) of bands as those of bins (..., F)."""
        single = self.settings.single_bands
        return torch.cat([masks[..., :single], masks[..., single:] @ self.to_bins.T], -1)

    def band_macs(self) -> int:
        """Multiply-adds per frame into bands and back."""
        s = self.settings
        return 2 * (s.bins - s.single_bands) * s.wide_bands
