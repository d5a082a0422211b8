"""Networks that treat every frame with its context independently: nothing else is remembered."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from deepnmf_cli.inference.nmf import join_frames
from deepnmf_cli.networks.base import MaskNetwork
from deepnmf_cli.signal.level import stack_context

LOG_FLOOR = 1e-2
"""Added to level-normalised magnitudes before the logarithm: 40 dB below the running level, masks hardly matter."""


@dataclass(frozen=True)
class Compression:
    """How magnitudes become features, and typical statistics of these over all bins together."""

    function: Callable[[Tensor], Tensor]
    mean: float
    deviation: float
    smallest_deviation: float
    """Lower limit of a bin's deviation: what comes later where nothing ever happened must not become huge."""


# Functions with names, so that a network which holds them can be pickled.
def _logarithm(x: Tensor) -> Tensor:
    return torch.log(x + LOG_FLOOR)


def _cube_root(x: Tensor) -> Tensor:
    return x.pow(1 / 3)


COMPRESSIONS = {
    "log": Compression(_logarithm, mean=-2.0, deviation=1.5, smallest_deviation=0.1),
    "cube-root": Compression(_cube_root, mean=0.5, deviation=0.25, smallest_deviation=0.02),
}
"""Names of `compression` in the settings of networks."""


class CompressedFeatures(nn.Module):
    """Logarithms or cube roots of level-normalised magnitudes, with mean zero and variance one in every bin.

    The statistics are fixed before training (`fit`). Those of logarithms differ by two standard deviations between the
    lowest and the highest bins, and a sigmoid network that has to find that out itself learns markedly slower.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, bins: int, compression: str = "log") -> None:
        super().__init__()
        self.compression = COMPRESSIONS[compression]
        # Typical values over all bins together, for networks that are not fitted.
        self.register_buffer("mean", torch.full((bins, 1), self.compression.mean))
        self.register_buffer("deviation", torch.full((bins, 1), self.compression.deviation))

    def forward(self, stacked: Tensor) -> Tensor:
        """Return the features of stacked frames (context F, N), of the same shape."""
        frames = self.compression.function(stacked).unflatten(0, (-1, len(self.mean)))
        return ((frames - self.mean) / self.deviation).flatten(0, 1)

    @torch.no_grad()
    def fit(self, evidence: Tensor) -> None:
        """Take mean and deviation from frames (F, N) of mixtures."""
        compressed = self.compression.function(evidence)
        self.mean.copy_(compressed.mean(1, keepdim=True))
        self.deviation.copy_(compressed.std(1, keepdim=True).clamp_min(self.compression.smallest_deviation))


class FrameNetwork(MaskNetwork):
    """Base class of networks on frames with context, which are independent of each other.

    A subclass implements `frame_masks`; its settings have `context`, the number of frames stacked. Training may then
    draw single frames from many mixtures, and store for each the output of the layers that are not trained.
    """

    def masks(self, evidence: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor]:
        stacked, state = stack_context(evidence, self.settings.context, state)
        # Frames are independent: laid side by side once, they make every layer one large matrix product.
        masks = self.frame_masks(join_frames(stacked))
        return masks.unflatten(-1, (len(evidence), -1)).movedim(-2, 0), state

    def frame_masks(self, stacked: Tensor, fixed: Any = None) -> Tensor:
        """Return masks (2, F, N), speech first, for N stacked frames (context F, N) of level-normalised magnitudes, the
        oldest frame on top. `fixed` may be what `fixed_state` returned for the same frames.
        """
        raise TypeError(f"{type(self).__name__} does not define frame_masks")

    @property
    def fixed_layers(self) -> int:
        """Return the number of layers, from the input on, that training does not change."""
        return 0

    def fixed_state(self, stacked: Tensor, layers: int = 0, known: Any = None) -> Any:
        """Return the output of the fixed layers for the frames, without gradient; `known` is that of the first `layers`
        of them.

        Raises TypeError if there are none.
        """
        raise TypeError(f"{type(self).__name__} has no fixed layers")
