"""Shapes of the networks on the time-frequency grid."""

from dataclasses import dataclass

from deepnmf_cli.inference.chain import MESSAGES
from deepnmf_cli.networks.band_network import BandSettings
from deepnmf_cli.signal.bands import NEIGHBOURS


@dataclass(frozen=True)
class GridShape(BandSettings):
    """Settings of all grid networks, whatever their cells are."""

    bands_per_node: int = 2
    """Neighbouring bands that a node stands for."""
    channels: int = 24
    """Spins or units per node (C), an even number."""
    iterations: int = 4
    """Layers (K)."""
    context: int = 3
    """Frames that a node's evidence covers, the present one included."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.channels % 2 or self.channels < 2:
            raise ValueError("channels must be an even number, at least 2")
        if min(self.iterations, self.context, self.bands_per_node) < 1:
            raise ValueError("iterations, context and bands_per_node must be at least 1")
        if self.bands % self.bands_per_node:
            raise ValueError("single_bands + wide_bands must be a multiple of bands_per_node")

    @property
    def nodes(self) -> int:
        """Nodes per frame (N)."""
        return self.bands // self.bands_per_node

    @property
    def window(self) -> int:
        """Bands that a node observes: its own and its neighbours'."""
        return self.bands_per_node + 2 * NEIGHBOURS


@dataclass(frozen=True)
class GridSettings(GridShape):
    """Shape of a `Grid`."""

    messages: str = "mean-field"
    """What spins pass on: "mean-field", "geometric" or "belief-propagation", see `inference.chain.MESSAGES`."""
    tied: bool = False
    """One set of weights for all layers."""
    local_fields: bool = False
    """Whether each node has fields (biases) of its own in every layer."""
    frame_spins: int = 0
    """Spins per frame and layer that are coupled to all nodes of the frame (S)."""
    frame_channels: int = 3
    """Rank of their coupling to a node (P)."""
    phase: bool = False
    """Whether nodes of single bands use phase differences and say how to turn the phase."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.messages not in MESSAGES:
            raise ValueError(f"messages {self.messages!r} is none of {', '.join(MESSAGES)}")
        if self.frame_spins < 0 or self.frame_channels < 1:
            raise ValueError("frame_spins must not be negative, and frame_channels at least 1")
        if self.phase and self.single_bands % self.bands_per_node:
            raise ValueError("with phase, single_bands must be a multiple of bands_per_node")


@dataclass(frozen=True)
class GridFieldSettings(GridShape):
    """Shape of a `GridField`."""

    tied: bool = True
    """One set of weights for all iterations."""
    symmetric: bool = True
    """Whether messages back along an edge use the transposed weights, see `inference.grid_field.GridField`."""
    accumulating: bool = False
    """Whether messages of all iterations add up."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.nodes < 2:
            raise ValueError("there must be two nodes at least")
