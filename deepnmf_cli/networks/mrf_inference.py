"""Scheduled message passing as `Algorithm`s for networks: layers of units, and fields in which all units stay.

Evidence is x (N, D). Parameters are named: `couplings`, `evidence` (A), `bias` (c), and, where they are parameters,
`alpha` and `schedule` (the logit of gamma; empty for a layer without one). A state is made of log odds or log beliefs.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import linear

from deepnmf_cli.inference import expectations
from deepnmf_cli.inference.binary import message
from deepnmf_cli.inference.graph import Graph
from deepnmf_cli.networks.unit_kernel import UnitKernel
from deepnmf_cli.unfold.network import Parameters


@dataclass(frozen=True)
class Messages:
    """What all of them have in common."""

    alpha: float | None
    """Exponent of the messages, or None where it is a parameter of every layer."""
    every: bool = True
    """Evidence feeds every layer, not the first only."""
    kernel: UnitKernel | None = None
    """Machine code for the sums, or None."""

    def exponent(self, parameters: Parameters) -> Tensor | float:
        return parameters["alpha"] if self.alpha is None else self.alpha

    def received(self, log_odds: Tensor, couplings: Tensor, bias: Tensor, parameters: Parameters) -> Tensor:
        """Log odds (N, I) of units that get messages from others over couplings (I, J)."""
        sums = self.kernel.sums if self.kernel is not None and self.kernel.suits(log_odds) else None
        return expectations.field(log_odds, couplings, bias, self.exponent(parameters), sums)


def _mixed(old: Tensor, new: Tensor, logit: Tensor) -> Tensor:
    """The geometric mean (17) of old and new: linear for log odds and for log beliefs, up to a constant."""
    return torch.lerp(old, new, torch.sigmoid(logit)) if logit.numel() else new


@dataclass(frozen=True)
class UnitLayers(Messages):
    """Layers of units with two states: u^k = sum_j message(u^{k-1}_j, W^k_ij) + A^k x + c^k.

    The state is u^k (N, I), or None for q^0 = 0, from which no messages come.
    """

    def start(self, evidence: Tensor, parameters: Parameters) -> None:
        return None

    def step(self, evidence: Tensor, state: Tensor | None, parameters: Parameters) -> Tensor:
        if state is None:
            return linear(evidence, parameters["evidence"], parameters["bias"])
        bias = parameters["bias"]
        if self.every:
            bias = linear(evidence, parameters["evidence"], bias)
        new = self.received(state, parameters["couplings"], bias, parameters)
        return _mixed(state, new, parameters["schedule"]) if "schedule" in parameters else new

    def excess(self, parameters: Parameters) -> Tensor:
        """By how much messages of undecided units exceed those of mean field: (I,)."""
        couplings, nobody = parameters["couplings"], parameters["bias"].new_zeros(())
        log_odds = couplings.new_zeros(1, couplings.shape[1])
        return (self.received(log_odds, couplings, nobody, parameters) - couplings.sum(1) / 2)[0]

    def readout(self, evidence: Tensor, state: Tensor, parameters: Parameters) -> Tensor:
        """b(1) of the last layer's units."""
        return torch.sigmoid(state)


@dataclass(frozen=True)
class StateLayers(Messages):
    """Layers of units with n states in the log form, (29) and (30), and its mean-field and power-mean relatives.

    The state is log b (N, J, n). Couplings are psi (J, n, I n'), evidence (I n', D), bias (I, n').
    """

    temperature: float = 1.0

    def start(self, evidence: Tensor, parameters: Parameters) -> None:
        return None

    def step(self, evidence: Tensor, state: Tensor | None, parameters: Parameters) -> Tensor:
        new = parameters["bias"].flatten()
        if state is None or self.every:
            new = linear(evidence, parameters["evidence"], new)
        if state is not None:
            new = new + self._received(state, parameters)
        new = new.unflatten(-1, parameters["bias"].shape).log_softmax(-1)
        return _mixed(state, new, parameters["schedule"]) if "schedule" in parameters and state is not None else new

    def _received(self, log_b: Tensor, parameters: Parameters) -> Tensor:
        alpha, potentials = self.exponent(parameters), parameters["couplings"]
        if self.temperature == 0:
            return expectations.sum_maxima(log_b, potentials)
        if self.temperature != 1:
            log_b, alpha = log_b / self.temperature, alpha / self.temperature
        return expectations.sum_log_expectations(log_b.log_softmax(-1), potentials, alpha)

    def excess(self, parameters: Parameters) -> Tensor:
        """By how much messages of undecided units exceed those of mean field: (I, n')."""
        potentials, shape = parameters["couplings"], parameters["bias"].shape
        log_b = torch.zeros(1, *potentials.shape[:2]).to(potentials).log_softmax(-1)
        excess = self._received(log_b, parameters) - expectations.sum_log_expectations(log_b, potentials, 0.0)
        return excess[0].reshape(shape)

    def readout(self, evidence: Tensor, state: Tensor, parameters: Parameters) -> Tensor:
        """b(1) of the last layer's units, which have two states."""
        return state.softmax(-1)[..., 1]


@dataclass(frozen=True)
class Field(Messages):
    """One field of V units for all rounds, couplings (E,) on the edges of `graph`; the last `shown` units are read.

    The state is u (N, V); messages are made from beliefs that contain what came the other way.
    """

    graph: Graph = Graph(1, torch.zeros(2, 0, dtype=torch.int64))
    shown: int = 1

    def start(self, evidence: Tensor, parameters: Parameters) -> Tensor:
        return linear(evidence, parameters["evidence"], parameters["bias"])

    def step(self, evidence: Tensor, state: Tensor, parameters: Parameters) -> Tensor:
        (i, j), couplings = self.graph.edges.to(state.device), parameters["couplings"]
        matrix = couplings.new_zeros(self.graph.nodes, self.graph.nodes)
        matrix = matrix.index_put((i, j), couplings).index_put((j, i), couplings)
        new = self.received(state, matrix, self.start(evidence, parameters), parameters)
        return _mixed(state, new, parameters["schedule"]) if "schedule" in parameters else new

    def readout(self, evidence: Tensor, state: Tensor, parameters: Parameters) -> Tensor:
        """b(1) of the last units."""
        return torch.sigmoid(state[..., -self.shown :])


@dataclass(frozen=True)
class ReciprocalField(Field):
    """The same with messages that leave out what came the other way, (22) and (27): exact on trees for alpha = 1.

    The state is the messages (N, 2E), as in `deepnmf_cli.inference.graph` but log odds.
    """

    def start(self, evidence: Tensor, parameters: Parameters) -> Tensor:
        return evidence.new_zeros(len(evidence), 2 * self.graph.size)

    def _fields(self, evidence: Tensor, messages: Tensor, parameters: Parameters) -> Tensor:
        own = linear(evidence, parameters["evidence"], parameters["bias"])
        return own.index_add(-1, self.graph.targets.to(own.device), messages)

    def step(self, evidence: Tensor, state: Tensor, parameters: Parameters) -> Tensor:
        alpha = self.exponent(parameters)
        sending = self._fields(evidence, state, parameters)[:, self.graph.sources.to(state.device)]
        against = state.roll(self.graph.size, -1)
        new = message(sending - alpha * against, parameters["couplings"].repeat(2), alpha)
        if "schedule" not in parameters:
            return new
        logit = parameters["schedule"]
        return _mixed(state, new, logit[self.graph.targets.to(logit.device)] if logit.dim() else logit)

    def readout(self, evidence: Tensor, state: Tensor, parameters: Parameters) -> Tensor:
        """b(1) of the last units."""
        return torch.sigmoid(self._fields(evidence, state, parameters)[..., -self.shown :])
