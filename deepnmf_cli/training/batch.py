"""What one step of training learns from: whole mixtures."""

from dataclasses import dataclass

from torch import Tensor

from deepnmf_cli.inference.nmf import join_frames
from deepnmf_cli.networks.base import MaskNetwork
from deepnmf_cli.networks.frame_network import FrameNetwork
from deepnmf_cli.signal.features import modulus, normalise_level, stack_context


@dataclass(frozen=True)
class Batch:
    """True speech and noise of mixtures: waveforms (B, 2, N) and spectra (B, 2, F, T), complex, of windows of so many
    hops."""

    waveforms: Tensor
    spectra: Tensor
    window_hops: int

    @property
    def magnitude(self) -> Tensor:
        """Of the mixtures, (B, F, T)."""
        return modulus(self.spectra.sum(1))

    def masks(self, network: MaskNetwork) -> Tensor:
        """What the network says to the mixtures."""
        return network(network.hear(self.spectra.sum(1), self.window_hops))[0]

    def stacked(self, network: FrameNetwork) -> tuple[Tensor, None]:
        """The evidence of a network of context frames, (context F, B T); nothing is known about its layers."""
        return join_frames(stack_context(normalise_level(self.magnitude)[0], network.settings.context)[0]), None
