"""Mean-field inference on the time-frequency grid, unfolded: a few shared weights, many messages.

A grid-shaped Markov random field has a node for every pair of bands and every frame, each with C spins +-1. Mean field
updates the expectation of a spin to tanh(weighted neighbours + evidence); a schedule g in [0, 1] says how far an update
goes, (14)-(15). Layer k passes messages forward in time (causal) and then both ways along frequency. Weights are shared
by all nodes of a layer, untied between layers, and the schedule is trained and depends on the data.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import linear, pad

from deepnmf_cli.networks.bands import BandNetwork
from deepnmf_cli.networks.grid_kernel import GridKernel, compile_kernel
from deepnmf_cli.networks.grid_settings import NEIGHBOURS, GridSettings
from deepnmf_cli.networks.growth import widened
from deepnmf_cli.signal.features import stack_context
from deepnmf_cli.unfold.network import Bank, Parameters, Unfolded
from deepnmf_cli.unfold.relaxation import MEAN_FIELD, MESSAGES, Messages, relax_both_ways, relax_spins
from deepnmf_cli.unfold.ties import Ties

COMPRESSION = 0.3
"""Power applied to band magnitudes: about the loudness of hearing, and bounded where a logarithm is not."""

QUIET = 1e-8
"""Squared product of two bins 40 dB below the level: below that, phase differences fade out."""

SLOWEST = -4.0
FASTEST = 1.0
"""Range of the initial logits of the time schedule: memories between one and about fifty frames."""


GridEvidence = tuple[Tensor, tuple, Tensor | None]
"""What `GridInference` takes: see there."""


@dataclass(frozen=True)
class GridInference:
    """Scheduled mean field as an `Algorithm`.

    Evidence: what each node observes (T, B, N, E), what its spins begin with in time, and what the lower nodes hear of
    phase (T, B, N', E') or None. State: the field u (T, B, N, C), the spins with which each remaining
    layer begins in time, and those with which the finished layers ended: what a stream carries over. A layer's spins
    are those of the nodes (B, N, C) and, where there are any, those of the frame (B, S).
    """

    messages: Messages = MEAN_FIELD
    kernel: GridKernel | None = None
    """The same step in machine code, or None; equal to rounding. For mean field."""

    def start(self, evidence: GridEvidence, parameters: Parameters) -> tuple[Tensor, tuple, tuple]:
        observed, begin, phase = evidence
        field = linear(observed, parameters["observe_weight"]) + parameters["observe_bias"]
        if phase is not None:
            higher = field.shape[2] - phase.shape[2]
            field = field + pad(linear(phase, parameters["phase_weight"]), (0, 0, 0, higher))
        return field, begin, ()

    def step(self, evidence: GridEvidence, state: tuple[Tensor, tuple, tuple], parameters: Parameters) -> tuple:
        """One iteration on all nodes: messages forward in time, then along frequency."""
        field, (begin, *later), ended = state
        nodes, *frame = begin
        if self.kernel is not None and self.kernel.suits(field):
            field, end = self.kernel.layer(field, nodes, _kernel_weights(parameters, field.shape[2]))
        else:
            weight, bias = parameters["time_weight"], parameters["time_bias"]
            states = relax_spins(field, weight, bias, nodes, messages=self.messages)
            field, end = field + self.messages.spins(states), states[-1]
            field = field + self._along_frequency(field, parameters)
        if frame:
            told, frame[0] = self._across_frequency(field, frame[0], parameters)
            field = field + told
        return field, tuple(later), (*ended, (end, *frame))

    def _across_frequency(self, field: Tensor, begin: Tensor, parameters: Parameters) -> tuple[Tensor, Tensor]:
        """What spins informed by all nodes of the frame, and by themselves a frame before, add to the field; and their
        states (B, S) at the end of time."""
        heard = linear(field, parameters["frame_send"]).flatten(2)
        weight, bias = parameters["frame_weight"], parameters["frame_bias"]
        states = relax_spins(heard, weight, bias, begin, messages=self.messages)
        told = linear(self.messages.spins(states), parameters["frame_spread"]).unflatten(2, (field.shape[2], -1))
        return linear(told, parameters["frame_receive"]), states[-1]

    def _along_frequency(self, field: Tensor, parameters: Parameters) -> Tensor:
        """What spins informed by all bands below, and spins informed by all bands above, add to the field."""
        chain = field.movedim(2, 0).contiguous()  # the chain comes first, so that each step of it is contiguous
        bias = parameters["frequency_bias"]
        bias = bias if bias.dim() == 1 else bias[:, None, None]
        spins = self.messages.spins(relax_both_ways(chain, parameters["frequency_weight"], bias, self.messages))
        return linear(spins, parameters["frequency_join"]).movedim(0, 2)

    def readout(self, evidence: GridEvidence, state: tuple, parameters: Parameters) -> tuple[Tensor, Tensor | None]:
        """Marginals (T, B, N, bands per node) of one more binary unit per band: speech dominates here. And what is added
        to them in the lower nodes to make complex masks, (T, B, N', 2 bands per node), or None."""
        field, phase = state[0], evidence[2]
        turn = None if phase is None else linear(field[:, :, : phase.shape[2]], parameters["turn_weight"])
        return torch.sigmoid(linear(field, parameters["read_weight"], parameters["read_bias"])), turn


def _kernel_weights(parameters: Parameters, nodes: int) -> list[Tensor]:
    """A layer's weights as `GridKernel.layer` takes them: those of frequency sorted by couplings and schedules."""
    weight, bias = parameters["frequency_weight"].chunk(4), parameters["frequency_bias"].chunk(4, -1)
    weight, bias = (torch.cat([x[i] for i in (0, 2, 1, 3)], axis) for x, axis in ((weight, 0), (bias, -1)))
    time_bias, bias = (x.expand(nodes, -1) for x in (parameters["time_bias"], bias))
    return [parameters["time_weight"], time_bias, weight, bias, parameters["frequency_join"]]


class Grid(BandNetwork):
    """Scheduled mean field on the time-frequency grid; see the module's text and docs/theory/grid.md."""

    name = "grid"
    description = "Scheduled mean field on the time-frequency grid, shared weights"
    mixed_precision = False  # products of a few columns wait for memory, and conversions add to that
    same_operations = True

    def __init__(self, settings: GridSettings = GridSettings()) -> None:
        super().__init__(settings)
        s = settings
        bank = _initial_bank(s, s.context * s.window)
        self.unfolded = Unfolded(GridInference(MESSAGES[s.messages]), s.iterations, bank)

    def accelerate(self) -> bool:
        messages = self.unfolded.algorithm.messages
        kernel = compile_kernel(self.settings.channels) if messages is MEAN_FIELD else None
        self.unfolded.algorithm = GridInference(messages, kernel)
        return kernel is not None

    @property
    def hears_phase(self) -> bool:
        return self.settings.phase

    def masks(self, evidence: Tensor, state: tuple | None) -> tuple[Tensor, tuple]:
        s, phase = self.settings, None
        if self.hears_phase:
            evidence, phase = evidence[:, 0], self._windows(_compressed(evidence[:, 1:, : s.single_bands]))
        bands = self.pool(evidence).pow(COMPRESSION)
        past, begin = (None, None) if state is None else state
        stacked, past = stack_context(bands, s.context, past)
        observed = self._observe(stacked)
        begin = self.beginning(observed) if begin is None else begin
        (marginals, turn), (_, _, ended) = self.unfolded.infer((observed, begin, phase))
        # Frequency comes last in memory, as in spectra, with which the masks will be multiplied.
        speech = self.spread(marginals.flatten(2).transpose(0, 1))
        planes = [speech] if turn is None else self._turned(speech, turn)
        return torch.stack([planes[0], 1 - planes[0], *planes[1:]], 1).transpose(-1, -2), (past, ended)

    def beginning(self, observed: Tensor) -> tuple:
        """What each layer begins with in time, for evidence (T, B, N, E)."""
        batch, nodes = observed.shape[1:3]
        spins = (observed.new_zeros(batch, nodes, self.settings.channels),)
        if self.settings.frame_spins:
            spins += (observed.new_zeros(batch, self.settings.frame_spins),)
        return (spins,) * self.settings.iterations

    def _observe(self, stacked: Tensor) -> Tensor:
        """Evidence (T, B, N, E) of stacked bands (B, context * bands, T): each node's bands and their neighbours."""
        return self._windows(stacked.unflatten(1, (self.settings.context, -1)))

    def _windows(self, bands: Tensor) -> Tensor:
        """What nodes see (T, B, N', P window) of P values in each band (B, P, N' bands per node, T)."""
        s = self.settings
        windows = pad(bands.movedim(-1, 0), (NEIGHBOURS, NEIGHBOURS)).unfold(-1, s.window, s.bands_per_node)
        return windows.transpose(2, 3).flatten(3)

    def _turned(self, speech: Tensor, turn: Tensor) -> list[Tensor]:
        """Real and imaginary part (B, T, F) of the mask `speech` (B, T, F) plus `turn` (T, B, N', 2 bands per node) in the
        single bands, of modulus 1 at most: no bin is amplified."""
        s = self.settings
        real, imaginary = turn.unflatten(3, (s.bands_per_node, 2)).flatten(2, 3).transpose(0, 1).unbind(-1)
        wide = s.bins - s.single_bands
        real, imaginary = speech + pad(real, (0, wide)), pad(imaginary, (0, wide))
        shrink = (real.square() + imaginary.square()).clamp_min(1).rsqrt()
        return [real * shrink, imaginary * shrink]

    def macs_per_frame(self) -> int:
        s = self.settings
        per_layer = 5 * s.channels**2
        if s.frame_spins:
            per_layer += 2 * s.frame_channels * s.channels + 3 * s.frame_channels * s.frame_spins
        per_node = (s.context * s.window + s.bands_per_node) * s.channels + s.iterations * per_layer
        with_phase = s.single_bands // s.bands_per_node if s.phase else 0  # nodes
        per_phase = (4 * s.window + 2 * s.bands_per_node) * s.channels
        return s.nodes * per_node + with_phase * per_phase + self.band_macs()

    def weights(self) -> dict[str, Tensor]:
        return self.unfolded.bank.values()

    def fitting(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        return super().fitting(tensors) | widened(self.weights(), tensors)

    def load_weights(self, tensors: dict[str, Tensor]) -> None:
        self.unfolded.bank.load_values(tensors)


def _compressed(products: Tensor) -> Tensor:
    """Real and imaginary parts (B, 4, F, T) of two products with moduli to the power COMPRESSION."""
    pairs = products.unflatten(1, (2, 2))
    power = pairs.square().sum(2, keepdim=True)
    return (pairs * power.clamp_min(QUIET).pow((COMPRESSION - 1) / 2)).flatten(1, 2)


def _initial_bank(s: GridSettings, evidence: int) -> Bank:
    """Small random couplings; the time schedule begins with memories of many lengths."""
    layers, c, place = s.iterations + 1, s.channels, (s.nodes,) if s.local_fields else ()
    per_layer = Ties.tied(layers) if s.tied else Ties.untied(s.iterations)
    if not s.tied:
        # The readout is layer K and uses none of these weights; its table entry repeats the last layer's.
        per_layer = Ties((*per_layer.slots, s.iterations - 1), per_layer.trained)
    once = Ties.tied(layers)

    def couplings(rows: int, columns: int) -> Tensor:
        return torch.randn(rows, columns) / columns**0.5

    def schedule_bias(spins: int) -> Tensor:
        return torch.cat([torch.zeros(spins), torch.linspace(SLOWEST, FASTEST, spins)])

    makers = {
        "observe_weight": (once, lambda: couplings(c, evidence)),
        "observe_bias": (once, lambda: torch.zeros(s.nodes, c)),
        "time_weight": (per_layer, lambda: couplings(2 * c, c)),
        "time_bias": (per_layer, lambda: schedule_bias(c).repeat(*place, 1)),
        "frequency_weight": (per_layer, lambda: couplings(2 * c, c)),
        "frequency_bias": (per_layer, lambda: torch.zeros(*place, 2 * c)),
        "frequency_join": (per_layer, lambda: couplings(c, c)),
        "read_weight": (once, lambda: couplings(s.bands_per_node, c)),
        "read_bias": (once, lambda: torch.zeros(s.bands_per_node)),
    }
    if s.phase:
        makers |= {
            "phase_weight": (once, lambda: torch.zeros(c, 4 * s.window)),
            "turn_weight": (once, lambda: torch.zeros(2 * s.bands_per_node, c)),
        }
    if s.frame_spins:
        makers |= {
            "frame_send": (per_layer, lambda: couplings(s.frame_channels, c)),
            "frame_weight": (per_layer, lambda: couplings(2 * s.frame_spins, s.nodes * s.frame_channels)),
            "frame_bias": (per_layer, lambda: schedule_bias(s.frame_spins)),
            "frame_spread": (per_layer, lambda: couplings(s.nodes * s.frame_channels, s.frame_spins)),
            "frame_receive": (per_layer, lambda: couplings(c, s.frame_channels)),
        }
    ties = {name: table for name, (table, _) in makers.items()}
    initial = {name: [make() for _ in range(table.count)] for name, (table, make) in makers.items()}
    return Bank(ties, initial, dict.fromkeys(makers, "free"))
