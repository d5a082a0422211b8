"""Relaxed mean-field steps for spins on chains in time and along frequency: the algorithm of the grid network.

Every frame has nodes along frequency, each with C spins in +-1. Mean field updates the expectation of a spin to
tanh(couplings to its field); a schedule g in [0, 1], which depends on the data, sets the size of an update, (14)-(15).
Iteration k passes messages forward in time (causal) and then both ways along frequency. docs/theory/grid.md explains
which parts of this are inference and which are built by analogy.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import linear, pad

from deepnmf_cli.inference.algorithm import Algorithm, Parameter, Parameters
from deepnmf_cli.inference.chain import MEAN_FIELD, Messages, relax_both_ways, relax_spins
from deepnmf_cli.kernels.grid_layer import GridKernel

SLOWEST = -4.0
FASTEST = 1.0
"""Range of the initial logits of the time schedule: memories between one and about fifty frames."""

GridEvidence = tuple[Tensor, tuple, Tensor | None]
"""Observations of each node (T, B, N, E), initial spins in time, and phase observations of the lower nodes
(T, B, N', E') or None."""

GridState = tuple[Tensor, tuple, tuple]
"""The field u (T, B, N, C), the initial spins in time of each remaining layer, and the final spins of the finished
layers, which a stream carries over. A layer's spins are those of the nodes (B, N, C) and, where there are any, those of
the frame (B, S)."""


@dataclass(frozen=True)
class GridInference(Algorithm[GridEvidence, GridState]):
    """Scheduled messages along time and frequency, with weights that all nodes share."""

    nodes: int
    """Number of nodes of a frame (N)."""
    channels: int
    """Number of spins of a node (C), an even number."""
    observed: int
    """Number of values that a node observes (E)."""
    shown: int
    """Number of binary units of a node that are read out."""
    local_fields: bool = False
    """Whether each node has fields (biases) of its own in every layer."""
    frame_spins: int = 0
    """Number of spins of a frame that are coupled to all its nodes (S)."""
    frame_channels: int = 3
    """Rank of that coupling at a node (P)."""
    phase: int = 0
    """Number of phase values that a lower node observes (E'), 0 for none."""
    messages: Messages = MEAN_FIELD
    gated: bool = True
    """Whether schedules depend on the data; otherwise they are given by their biases alone."""
    kernel: GridKernel | None = None
    """The same step in machine code, equal up to rounding, or None. For mean field."""

    def parameters(self, iterations: int) -> dict[str, Parameter]:
        """Return small random couplings, and a time schedule that starts with memories of many lengths."""
        c, place, steps = self.channels, (self.nodes,) if self.local_fields else (), range(iterations)
        parts = 2 if self.gated else 1  # of the weights: couplings and schedules

        def couplings(rows: int, columns: int) -> Tensor:
            return torch.randn(rows, columns) / columns**0.5

        def schedule_bias(spins: int) -> Tensor:
            return torch.cat([torch.zeros(spins), torch.linspace(SLOWEST, FASTEST, spins)])

        found = {
            "observe_weight": Parameter([0], lambda _: couplings(c, self.observed), shared=True),
            "observe_bias": Parameter([0], lambda _: torch.zeros(self.nodes, c), shared=True),
            "time_weight": Parameter(steps, lambda _: couplings(parts * c, c)),
            "time_bias": Parameter(steps, lambda _: schedule_bias(c).repeat(*place, 1)),
            "frequency_weight": Parameter(steps, lambda _: couplings(parts * c, c)),
            "frequency_bias": Parameter(steps, lambda _: torch.zeros(*place, 2 * c)),
            "frequency_join": Parameter(steps, lambda _: couplings(c, c)),
            "read_weight": Parameter([iterations], lambda _: couplings(self.shown, c), shared=True),
            "read_bias": Parameter([iterations], lambda _: torch.zeros(self.shown), shared=True),
        }
        if self.phase:
            found["phase_weight"] = Parameter([0], lambda _: torch.zeros(c, self.phase), shared=True)
            found["turn_weight"] = Parameter([iterations], lambda _: torch.zeros(2 * self.shown, c), shared=True)
        if self.frame_spins:
            all_nodes, spins = self.nodes * self.frame_channels, self.frame_spins
            found |= {
                "frame_send": Parameter(steps, lambda _: couplings(self.frame_channels, c)),
                "frame_weight": Parameter(steps, lambda _: couplings(parts * spins, all_nodes)),
                "frame_bias": Parameter(steps, lambda _: schedule_bias(spins)),
                "frame_spread": Parameter(steps, lambda _: couplings(all_nodes, spins)),
                "frame_receive": Parameter(steps, lambda _: couplings(c, self.frame_channels)),
            }
        return found

    def start(self, evidence: GridEvidence, parameters: Parameters) -> GridState:
        observed, begin, phase = evidence
        field = linear(observed, parameters["observe_weight"]) + parameters["observe_bias"]
        if phase is not None:
            higher = field.shape[2] - phase.shape[2]
            field = field + pad(linear(phase, parameters["phase_weight"]), (0, 0, 0, higher))
        return field, begin, ()

    def step(self, evidence: GridEvidence, state: GridState, parameters: Parameters) -> GridState:
        """One iteration on all nodes: messages forward in time, then along frequency."""
        field, (begin, *later), ended = state
        nodes, *frame = begin
        if not self.gated:
            parameters = _with_fixed_schedules(parameters)
        if self.kernel is not None and self.kernel.suits(field):
            field, end = self.kernel.layer(field, nodes, _kernel_weights(parameters, field.shape[2]))
        else:
            weight, bias = parameters["time_weight"], parameters["time_bias"]
            states = relax_spins(field, weight, bias, nodes, messages=self.messages)
            field, end = field + self.messages.expectations(states), states[-1]
            field = field + self._along_frequency(field, parameters)
        if frame:
            told, frame[0] = self._across_frequency(field, frame[0], parameters)
            field = field + told
        return field, tuple(later), (*ended, (end, *frame))

    def _across_frequency(self, field: Tensor, begin: Tensor, parameters: Parameters) -> tuple[Tensor, Tensor]:
        """Return what the spins of the frame add to the field, and their states (B, S) at the last frame.

        These spins are informed by all nodes of the frame, and by themselves one frame earlier.
        """
        sent = linear(field, parameters["frame_send"]).flatten(2)
        weight, bias = parameters["frame_weight"], parameters["frame_bias"]
        states = relax_spins(sent, weight, bias, begin, messages=self.messages)
        told = linear(self.messages.expectations(states), parameters["frame_spread"]).unflatten(2, (field.shape[2], -1))
        return linear(told, parameters["frame_receive"]), states[-1]

    def _along_frequency(self, field: Tensor, parameters: Parameters) -> Tensor:
        """Return what spins informed by all bands below, and spins informed by all bands above, add to the field."""
        chain = field.movedim(2, 0).contiguous()  # the chain comes first, so that each step of it is contiguous
        bias = parameters["frequency_bias"]
        bias = bias if bias.dim() == 1 else bias[:, None, None]
        spins = self.messages.expectations(relax_both_ways(chain, parameters["frequency_weight"], bias, self.messages))
        return linear(spins, parameters["frequency_join"]).movedim(0, 2)

    def readout(self, evidence: GridEvidence, state: tuple, parameters: Parameters) -> tuple[Tensor, Tensor | None]:
        """Return the marginals (T, B, N, bands per node) of one more binary unit per band (speech dominates here), and
        what is added to them in the lower nodes to make complex masks, (T, B, N', 2 bands per node), or None.
        """
        field, phase = state[0], evidence[2]
        turn = None if phase is None else linear(field[:, :, : phase.shape[2]], parameters["turn_weight"])
        return torch.sigmoid(linear(field, parameters["read_weight"], parameters["read_bias"])), turn


def _with_fixed_schedules(parameters: Parameters) -> Parameters:
    """Return the parameters as `relax_spins` takes them: couplings, followed by zeros for the weights of schedules."""
    chains = {"time_weight": 1, "frequency_weight": 2, "frame_weight": 1}
    halves = {name: parameters[name].chunk(count) for name, count in chains.items() if name in parameters}
    return {
        **parameters,
        **{n: torch.cat([x for w in own for x in (w, w.new_zeros(w.shape))]) for n, own in halves.items()},
    }


def _kernel_weights(parameters: Parameters, nodes: int) -> list[Tensor]:
    """A layer's weights as `GridKernel.layer` takes them: those of frequency sorted by couplings and schedules."""
    weight, bias = parameters["frequency_weight"].chunk(4), parameters["frequency_bias"].chunk(4, -1)
    weight, bias = (torch.cat([x[i] for i in (0, 2, 1, 3)], axis) for x, axis in ((weight, 0), (bias, -1)))
    time_bias, bias = (x.expand(nodes, -1) for x in (parameters["time_bias"], bias))
    return [parameters["time_weight"], time_bias, weight, bias, parameters["frequency_join"]]
