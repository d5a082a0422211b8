"""Networks for which every frame with its context is a case of its own: nothing else is remembered."""

from typing import Any

from torch import Tensor

from deepnmf_cli.inference.nmf import join_frames
from deepnmf_cli.networks.base import MaskNetwork
from deepnmf_cli.signal.features import stack_context


class FrameNetwork(MaskNetwork):
    """A subclass implements `frame_masks`; its settings have `context`, the number of frames stacked.

    Training may then draw single frames from many mixtures, and keep for each what layers that are not trained make of
    it.
    """

    def masks(self, evidence: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor]:
        stacked, state = stack_context(evidence, self.settings.context, state)
        # Frames are independent: laid side by side once, they make every layer one large matrix product.
        masks = self.frame_masks(join_frames(stacked))
        return masks.unflatten(-1, (len(evidence), -1)).movedim(-2, 0), state

    def frame_masks(self, stacked: Tensor, fixed: Any = None) -> Tensor:
        """Masks (2, F, N), speech first, of N stacked frames (context F, N) of level-normalised magnitudes, the oldest
        frame on top. `fixed` may be what `fixed_state` gave for the same frames."""
        raise TypeError(f"{type(self).__name__} does not define frame_masks")

    @property
    def fixed_layers(self) -> int:
        """How many layers, from the input on, training does not change."""
        return 0

    def fixed_state(self, stacked: Tensor, layers: int = 0, known: Any = None) -> Any:
        """What the fixed layers make of the frames; `known` is what the first `layers` of them made. Without gradient.

        Raises TypeError when there are none.
        """
        raise TypeError(f"{type(self).__name__} has no fixed layers")
