"""Networks on frequency bands: bins are pooled in front, and masks of bands are spread over bins behind."""

from typing import Any

from deepnmf_cli.networks.base import MaskNetwork
from deepnmf_cli.signal.bands import band_matrix


class BandNetwork(MaskNetwork):
    """A `MaskNetwork` whose settings have `bins`, `rate_hz`, `single_bands` and `wide_bands`.

    `to_bands` (bands, bins) takes means of magnitudes; `to_bins` (bins, bands) takes means of masks, its rows sum to
    one.
    """

    def __init__(self, settings: Any) -> None:
        super().__init__()
        self.settings = s = settings
        to_bins = band_matrix(s.bins, s.single_bands, s.wide_bands, s.rate_hz)
        self.register_buffer("to_bins", to_bins.T.contiguous(), persistent=False)
        self.register_buffer("to_bands", to_bins / to_bins.sum(1, keepdim=True), persistent=False)

    def band_macs(self) -> int:
        """Multiply-adds per frame into bands and back."""
        s = self.settings
        return 2 * s.bins * (s.single_bands + s.wide_bands)
