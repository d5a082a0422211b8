"""The grid network: unfolded relaxed steps of mean field along time and along frequency; few weights, many messages.

Every frame has nodes along frequency, each for a few bands and with C spins in +-1. The algorithm is `inference.grid`:
in layer k, messages go forward in time (causal) and then both ways along frequency, and a trained schedule that depends
on the data says how far each update goes. Each chain by itself is scheduled mean field, (14)-(15); the whole is wired
like inference on a grid, but does not solve a grid-shaped field (docs/theory/grid.md). Weights are shared by all nodes
of a layer, and untied between layers unless `tied` is set.
"""

from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import pad

from deepnmf_cli.inference.chain import MEAN_FIELD, MESSAGES
from deepnmf_cli.inference.grid import GridEvidence, GridInference, GridState
from deepnmf_cli.kernels.grid_layer import compile_kernel
from deepnmf_cli.networks.band_network import BandNetwork
from deepnmf_cli.networks.grid_settings import GridSettings
from deepnmf_cli.networks.growth import widened
from deepnmf_cli.networks.relocation import relocated
from deepnmf_cli.signal.bands import COMPRESSION, NEIGHBOURS, QUIET
from deepnmf_cli.signal.level import stack_context
from deepnmf_cli.signal.stft import FrontEnd
from deepnmf_cli.unfold.network import Bank, Unfolded


class GridWiring(BandNetwork):
    """Base class for grids: pooled bands, nodes that each observe a few of them, layers on these nodes, and masks of
    bands spread over bins.

    A subclass implements `beginning` and `infer`; its settings are a `GridShape`.
    """

    def masks(self, evidence: Tensor | tuple[Tensor, Tensor], state: tuple | None) -> tuple[Tensor, tuple]:
        s, phase = self.settings, None
        if isinstance(evidence, tuple):
            evidence, products = evidence
            phase = self._windows(_compressed(products))
        bands = self.pool(evidence).pow(COMPRESSION)
        past, begin = (None, None) if state is None else state
        stacked, past = stack_context(bands, s.context, past)
        observed = self._observe(stacked)
        begin = self.beginning(observed) if begin is None else begin
        (marginals, turn), ended = self.infer((observed, begin, phase))
        # Frequency comes last in memory, as in spectra, with which the masks will be multiplied.
        speech = self.spread(marginals.flatten(2).transpose(0, 1))
        planes = [speech] if turn is None else self._turned(speech, turn)
        return torch.stack([planes[0], 1 - planes[0], *planes[1:]], 1).transpose(-1, -2), (past, ended)

    def beginning(self, observed: Tensor) -> tuple:
        """Return the state with which each layer begins in time, for evidence (T, B, N, E)."""
        raise TypeError(f"{type(self).__name__} does not define beginning")

    def infer(self, evidence: GridEvidence) -> tuple[tuple[Tensor, Tensor | None], tuple]:
        """Return what `GridInference.readout` returns, and the state with which each layer ended in time, or began if
        it did not run.
        """
        raise TypeError(f"{type(self).__name__} does not define infer")

    def _observe(self, stacked: Tensor) -> Tensor:
        """Return evidence (T, B, N, E) of stacked bands (B, context * bands, T): nodes' bands and their neighbours."""
        return self._windows(stacked.unflatten(1, (self.settings.context, -1)))

    def _windows(self, bands: Tensor) -> Tensor:
        """Return what nodes observe (T, B, N', P window) of P values in each band (B, P, N' bands per node, T)."""
        s = self.settings
        windows = pad(bands.movedim(-1, 0), (NEIGHBOURS, NEIGHBOURS)).unfold(-1, s.window, s.bands_per_node)
        return windows.transpose(2, 3).flatten(3)

    def _turned(self, speech: Tensor, turn: Tensor) -> list[Tensor]:
        """Return real and imaginary part (B, T, F) of the mask `speech` (B, T, F) plus `turn` (T, B, N', 2 bands per
        node) in the single bands, with a modulus of 1 at most, so that no bin is amplified.
        """
        s = self.settings
        real, imaginary = turn.unflatten(3, (s.bands_per_node, 2)).flatten(2, 3).transpose(0, 1).unbind(-1)
        wide = s.bins - s.single_bands
        real, imaginary = speech + pad(real, (0, wide)), pad(imaginary, (0, wide))
        shrink = (real.square() + imaginary.square()).clamp_min(1).rsqrt()
        return [real * shrink, imaginary * shrink]


class Grid(GridWiring):
    """Relaxed steps of mean field along time and along frequency; see the module's text and docs/theory/grid.md."""

    name = "grid"
    description = "Relaxed steps of mean field along time and along frequency, shared weights"
    settings_type = GridSettings
    same_operations = True
    names_slots = True
    gated: ClassVar[bool] = True
    """Whether schedules depend on the data."""
    unfolded: Unfolded[GridEvidence, GridState, GridInference]

    def __init__(self, settings: GridSettings = GridSettings()) -> None:
        super().__init__(settings)
        s = settings
        algorithm = GridInference(
            nodes=s.nodes,
            channels=s.channels,
            observed=s.context * s.window,
            shown=s.bands_per_node,
            local_fields=s.local_fields,
            frame_spins=s.frame_spins,
            frame_channels=s.frame_channels,
            phase=4 * s.window if s.phase else 0,
            messages=MESSAGES[s.messages],
            gated=self.gated,
        )
        self.unfolded = Unfolded(
            algorithm, s.iterations, Bank.declared(algorithm.parameters(s.iterations), s.iterations, s.tied)
        )

    def accelerate(self) -> bool:
        algorithm = self.unfolded.algorithm
        kernel = compile_kernel(self.settings.channels) if algorithm.messages is MEAN_FIELD else None
        self.unfolded.algorithm = replace(algorithm, kernel=kernel)
        return kernel is not None

    @property
    def uses_phase(self) -> bool:
        return self.settings.phase

    @property
    def phase_bins(self) -> int:
        return self.settings.single_bands if self.settings.phase else 0

    def beginning(self, observed: Tensor) -> tuple:
        batch, nodes = observed.shape[1:3]
        spins = (observed.new_zeros(batch, nodes, self.settings.channels),)
        if self.settings.frame_spins:
            spins += (observed.new_zeros(batch, self.settings.frame_spins),)
        return (spins,) * self.settings.iterations

    def infer(self, evidence: GridEvidence) -> tuple[tuple[Tensor, Tensor | None], tuple]:
        marginals, (_, waiting, ended) = self.unfolded.infer(evidence)
        return marginals, (*ended, *waiting)

    def macs_per_frame(self) -> int:
        s = self.settings
        parts = 2 if self.gated else 1
        per_layer = (2 * parts + 1) * s.channels**2
        if s.frame_spins:
            per_layer += 2 * s.frame_channels * s.channels + (parts + 1) * s.frame_channels * s.frame_spins
        per_node = (s.context * s.window + s.bands_per_node) * s.channels + self.unfolded.depth * per_layer
        with_phase = s.single_bands // s.bands_per_node if s.phase else 0  # nodes
        per_phase = (4 * s.window + 2 * s.bands_per_node) * s.channels
        return s.nodes * per_node + with_phase * per_phase + self.band_macs()

    def moved(self, tensors: dict[str, Tensor], given: tuple[Any, FrontEnd], own: FrontEnd) -> dict[str, Tensor]:
        return relocated(tensors, given, (self.settings, own)) if isinstance(given[0], GridSettings) else tensors

    def fitting(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        return super().fitting(tensors) | widened(self.weights(), tensors)


class FixedGrid(Grid):
    """The grid with schedules that are the same for all data: those of mean field, trained."""

    name = "grid-fixed"
    description = "The grid with fixed schedules"
    gated = False

    def fitting(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        return GridWiring.fitting(self, tensors)  # `widened` supports only spins with couplings to their schedules


def _compressed(products: Tensor) -> Tensor:
    """Return real and imaginary parts (B, 4, F, T) of two products with moduli raised to the power COMPRESSION."""
    pairs = products.unflatten(1, (2, 2))
    power = pairs.square().sum(2, keepdim=True)
    return (pairs * power.clamp_min(QUIET).pow((COMPRESSION - 1) / 2)).flatten(1, 2)
