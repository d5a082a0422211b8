"""The conventional baseline: a sigmoid network on context frames of compressed magnitudes whose output is a mask."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from deepnmf_cli.networks.frame_network import COMPRESSIONS, CompressedFeatures, FrameNetwork


@dataclass(frozen=True)
class DnnSettings:
    """Shape of a `Dnn`."""

    bins: int = 257
    context: int = 9
    """Frames of left context stacked as input, the present one included."""
    hidden: tuple[int, ...] = (512, 512)
    """Units of each hidden layer."""
    dropout: float = 0.0
    """Share of the hidden units that are set to zero in a training step; the others are scaled up to make up for it."""
    compression: str = "log"
    """How magnitudes are compressed for the network, one of COMPRESSIONS."""

    def __post_init__(self) -> None:
        if min(self.bins, self.context, *self.hidden) < 1 or not self.hidden:
            raise ValueError("bins, context and at least one hidden layer must have a positive size")
        if not 0 <= self.dropout < 1:
            raise ValueError("dropout must lie in [0, 1)")
        if self.compression not in COMPRESSIONS:
            raise ValueError(f"compression {self.compression!r} is none of {', '.join(COMPRESSIONS)}")


class Dnn(FrameNetwork):
    """q^k = sigmoid(W^k q^{k-1} + c^k), where the last layer's units are the speech mask.

    This is equation (20) with the evidence feeding only the first layer: unfolded mean-field inference whose structure
    has been forgotten. Baseline of the paper's section 5.
    """

    name = "dnn"
    mixed_precision = True
    description = "Sigmoid network on context frames, the conventional baseline"
    settings_type = DnnSettings

    def __init__(self, settings: DnnSettings = DnnSettings()) -> None:
        super().__init__()
        self.settings = settings
        sizes = [settings.bins * settings.context, *settings.hidden, settings.bins]
        self.features = CompressedFeatures(settings.bins, settings.compression)
        layers = [nn.Linear(a, b) for a, b in pairwise(sizes)]
        for k, layer in enumerate(layers):
            # A sigmoid has slope 1/4 at zero: Glorot's range times four keeps the spread of the signals over depth.
            nn.init.xavier_uniform_(layer.weight, gain=4.0 if k else 1.0)
            nn.init.zeros_(layer.bias)
        self.layers = nn.ModuleList(layers)

    def fit(self, frames: Callable[[], Tensor]) -> None:
        self.features.fit(frames())

    def frame_masks(self, stacked: Tensor, fixed: Any = None) -> Tensor:
        units = self.features(stacked).mT
        for k, layer in enumerate(self.layers):
            heard = nn.functional.dropout(units, self.settings.dropout, self.training and k > 0)
            units = torch.sigmoid(layer(heard))
        return torch.stack([units.mT, 1 - units.mT])

    def macs_per_frame(self) -> int:
        return sum(p.numel() for p in self.layers.parameters() if p.dim() == 2)
