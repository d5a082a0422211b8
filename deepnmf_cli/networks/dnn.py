"""The conventional rival: a sigmoid network on log-magnitude context frames that puts out a mask."""

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from deepnmf_cli.networks.base import MaskNetwork
from deepnmf_cli.signal.features import stack_context

LOG_FLOOR = 1e-2
"""Added to level-normalised magnitudes before the logarithm: 40 dB below the running level, masks hardly matter."""

LOG_CENTRE, LOG_SCALE = -2.0, 1.5
"""Typical mean and spread of the logarithms, so that the first layer starts in the sigmoids' linear range."""


@dataclass(frozen=True)
class DnnSettings:
    """Shape of a `Dnn`."""

    bins: int = 257
    context: int = 9
    """Frames of left context stacked as input, the present one included."""
    hidden: tuple[int, ...] = (512, 512)
    """Units of each hidden layer."""

    def __post_init__(self) -> None:
        if min(self.bins, self.context, *self.hidden) < 1 or not self.hidden:
            raise ValueError("bins, context and at least one hidden layer must have a positive size")


class Dnn(MaskNetwork):
    """q^k = sigmoid(W^k q^{k-1} + c^k), the last layer's units being the speech mask.

    This is equation (20) with the evidence feeding only the first layer: unfolded mean-field inference whose structure
    has been forgotten. Baseline of the paper's section 5.
    """

    name = "dnn"
    description = "Sigmoid network on context frames, the conventional baseline"

    def __init__(self, settings: DnnSettings = DnnSettings()) -> None:
        super().__init__()
        self.settings = settings
        sizes = [settings.bins * settings.context, *settings.hidden, settings.bins]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))
        for layer in self.layers:
            # A sigmoid has slope 1/4 at zero: Glorot's range times four keeps the spread of the signals over depth.
            nn.init.xavier_uniform_(layer.weight, gain=4.0 if layer is not self.layers[0] else 1.0)
            nn.init.zeros_(layer.bias)

    def masks(self, evidence: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor]:
        features = (torch.log(evidence + LOG_FLOOR) - LOG_CENTRE) / LOG_SCALE
        units, state = stack_context(features, self.settings.context, state)
        units = units.transpose(-1, -2)
        for layer in self.layers:
            units = torch.sigmoid(layer(units))
        speech = units.transpose(-1, -2)
        return torch.stack([speech, 1 - speech], 1), state

    def macs_per_frame(self) -> int:
        return sum(layer.weight.numel() for layer in self.layers)
