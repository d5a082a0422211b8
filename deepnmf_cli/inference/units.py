"""Layers and fields of units as algorithms: mean field (20), belief propagation (22), (29)-(30), and cases in between.

Evidence is x (N, D). Parameters are named: `couplings`, `evidence` (A), `bias` (c), and, where they are parameters,
`alpha` and `schedule` (the logit of gamma; absent from layers without one). A state holds log odds or log beliefs.
"""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import linear

from deepnmf_cli.inference import expectations
from deepnmf_cli.inference.algorithm import Algorithm, Parameter, Parameters
from deepnmf_cli.inference.binary import arithmetic_mean, message
from deepnmf_cli.inference.graph import Graph
from deepnmf_cli.inference.schedule import GAMMA_LOGIT
from deepnmf_cli.kernels.unit_sums import UnitKernel

SCHEDULES = ("synchronous", "layer", "unit")
"""gamma of (17): 1, or trained for every layer or every unit."""


@dataclass(frozen=True)
class Exponent:
    """Exponent alpha of the messages as a parameter of every layer."""

    initial: float
    trained: bool = True
    shared: bool = False
    """Whether all layers share one value."""
    setting: bool = False
    """Whether settings alone determine it: it is neither trained nor changed in the course of training."""


@dataclass(frozen=True)
class UnitMessages(Algorithm[Tensor, Tensor]):
    """Base class of the algorithms of this module."""

    alpha: float | Exponent
    """Exponent of the messages: 0 is mean field, 1 belief propagation."""
    inputs: int
    """Number of observed values (D)."""
    schedule: str = "synchronous"
    """One of `SCHEDULES`."""
    kernel: UnitKernel | None = None
    """Machine code for the sums, or None."""

    def exponent(self, parameters: Parameters) -> Tensor | float:
        return parameters["alpha"] if isinstance(self.alpha, Exponent) else self.alpha

    def received(self, log_odds: Tensor, couplings: Tensor, bias: Tensor, parameters: Parameters) -> Tensor:
        """Return the log odds (N, I) of units that receive messages from others over couplings (I, J)."""
        sums = self.kernel.sums if self.kernel is not None and self.kernel.suits(log_odds) else None
        return expectations.field(log_odds, couplings, bias, self.exponent(parameters), sums)

    def _with_exponent(self, found: dict[str, Parameter], layers: Sequence[int]) -> dict[str, Parameter]:
        if isinstance(alpha := self.alpha, Exponent):
            value = torch.tensor(alpha.initial)
            found["alpha"] = Parameter(
                layers, lambda _: value, shared=alpha.shared, trained=alpha.trained, setting=alpha.setting
            )
        return found


def _weights(rows: int, columns: int, gain: float) -> Tensor:
    """Glorot weights; a sigmoid has slope 1/4 at zero, so four times the range keeps the signals' spread over depth."""
    return torch.nn.init.xavier_uniform_(torch.empty(rows, columns), gain)


def _mixed(old: Tensor, new: Tensor, parameters: Parameters) -> Tensor:
    """The geometric mean (17) of old and new: linear for log odds and for log beliefs, up to a constant."""
    return torch.lerp(old, new, torch.sigmoid(parameters["schedule"])) if "schedule" in parameters else new


@dataclass(frozen=True)
class Layers(UnitMessages):
    """Layers of units, each of which receives messages from the layer below. Steps and layers correspond one to one."""

    sizes: tuple[int, ...] = (1,)
    """Number of units of every layer, the lowest first."""
    every: bool = True
    """Whether evidence enters every layer, not only the first."""

    def parameters(self, iterations: int) -> dict[str, Parameter]:
        if iterations != len(self.sizes):
            raise ValueError(f"{iterations} iterations for {len(self.sizes)} layers")
        shapes = [self._shape(k) for k in range(iterations)]
        rows = [torch.Size(shape).numel() for shape in shapes]

        def evidence(k: int) -> Tensor:  # that of the upper layers starts at zero, as in a conventional network
            return torch.zeros(rows[k], self.inputs) if k else _weights(rows[0], self.inputs, 1.0)

        upper = range(1, iterations)
        found = {
            "evidence": Parameter(range(iterations) if self.every else [0], evidence),
            "couplings": Parameter(upper, lambda k: self._as_couplings(_weights(rows[k], rows[k - 1], 4.0), k)),
            "bias": Parameter(range(iterations), lambda k: torch.zeros(shapes[k])),
        }
        hidden = self.sizes[:-1]
        same = [k for k in range(1, len(hidden)) if hidden[k] == hidden[k - 1]]
        if self.schedule != "synchronous" and same:
            found["schedule"] = Parameter(same, lambda k: torch.full(self._scheduled(k), GAMMA_LOGIT))
        return self._with_exponent(found, upper)

    def start(self, evidence: Tensor, parameters: Parameters) -> Tensor:
        """Return q^0 = 0: the beliefs of no units, which send no messages, (N, 0) or (N, 0, n)."""
        return evidence.new_zeros(len(evidence), 0, *self._shape(0)[1:])

    @abstractmethod
    def excess(self, parameters: Parameters) -> Tensor:
        """Return by how much messages of undecided units exceed those of mean field, in the shape of `bias`."""

    @abstractmethod
    def _shape(self, k: int) -> tuple[int, ...]:
        """Return the shape of the biases of layer k."""

    @abstractmethod
    def _as_couplings(self, weights: Tensor, k: int) -> Tensor:
        """Return weights (rows of layer k, rows of the layer below) in the form of this algorithm's couplings."""

    @abstractmethod
    def _scheduled(self, k: int) -> tuple[int, ...]:
        """Shape of the schedule of layer k."""


@dataclass(frozen=True)
class UnitLayers(Layers):
    """Layers of units with two states: u^k = sum_j message(u^{k-1}_j, W^k_ij) + A^k x + c^k.

    The state is u^k (N, I). For alpha = 0 this is a sigmoid network (20).
    """

    def step(self, evidence: Tensor, state: Tensor, parameters: Parameters) -> Tensor:
        if not state.shape[1]:
            return linear(evidence, parameters["evidence"], parameters["bias"])
        bias = parameters["bias"]
        if self.every:
            bias = linear(evidence, parameters["evidence"], bias)
        return _mixed(state, self.received(state, parameters["couplings"], bias, parameters), parameters)

    def readout(self, evidence: Tensor, state: Tensor, parameters: Parameters) -> Tensor:
        """b(1) of the last layer's units."""
        return torch.sigmoid(state)

    def excess(self, parameters: Parameters) -> Tensor:
        couplings, nobody = parameters["couplings"], parameters["bias"].new_zeros(())
        log_odds = couplings.new_zeros(1, couplings.shape[1])
        return (self.received(log_odds, couplings, nobody, parameters) - couplings.sum(1) / 2)[0]

    def _shape(self, k: int) -> tuple[int, ...]:
        return (self.sizes[k],)

    def _as_couplings(self, weights: Tensor, k: int) -> Tensor:
        return weights

    def _scheduled(self, k: int) -> tuple[int, ...]:
        return (self.sizes[k],) if self.schedule == "unit" else ()


@dataclass(frozen=True)
class StateLayers(Layers):
    """Layers of units with n states in the log form, (29) and (30), and its mean-field and power-mean relatives.

    The state is log b (N, J, n). Couplings are psi (J, n, I n'), evidence (I n', D), bias (I, n'). The units of the
    last layer have two states.
    """

    states: int = 2
    temperature: float = 1.0

    def step(self, evidence: Tensor, state: Tensor, parameters: Parameters) -> Tensor:
        new = parameters["bias"].flatten()
        if self.every or not state.shape[1]:
            new = linear(evidence, parameters["evidence"], new)
        if state.shape[1]:
            new = new + self._received(state, parameters)
        new = new.unflatten(-1, parameters["bias"].shape).log_softmax(-1)
        return _mixed(state, new, parameters) if state.shape[1] else new

    def readout(self, evidence: Tensor, state: Tensor, parameters: Parameters) -> Tensor:
        """b(1) of the last layer's units."""
        return state.softmax(-1)[..., 1]

    def excess(self, parameters: Parameters) -> Tensor:
        potentials, shape = parameters["couplings"], parameters["bias"].shape
        log_b = torch.zeros(1, *potentials.shape[:2]).to(potentials).log_softmax(-1)
        excess = self._received(log_b, parameters) - expectations.sum_log_expectations(log_b, potentials, 0.0)
        return excess[0].reshape(shape)

    def _received(self, log_b: Tensor, parameters: Parameters) -> Tensor:
        alpha, potentials = self.exponent(parameters), parameters["couplings"]
        if self.temperature == 0:
            return expectations.sum_maxima(log_b, potentials)
        if self.temperature != 1:
            log_b, alpha = log_b / self.temperature, alpha / self.temperature
        return expectations.sum_log_expectations(log_b.log_softmax(-1), potentials, alpha)

    def _shape(self, k: int) -> tuple[int, ...]:
        return (self.sizes[k], self.states if k < len(self.sizes) - 1 else 2)

    def _as_couplings(self, weights: Tensor, k: int) -> Tensor:
        return weights.T.reshape(*self._shape(k - 1), -1)

    def _scheduled(self, k: int) -> tuple[int, ...]:
        return (self.sizes[k], 1) if self.schedule == "unit" else ()


MATRIX_ADVANTAGE = 10
"""A message computed by itself takes about as long as ten messages that are computed with a matrix of couplings."""

SILENT = -80.0
"""Log odds of a unit that has not sent anything yet: its messages are uniform to 35 digits."""


@dataclass(frozen=True)
class Field(UnitMessages):
    """One field of V units for all rounds, couplings (E,) on the edges of `graph`; the last `shown` units are read out.

    The state is u (N, V); messages are computed from beliefs that include the opposite messages. Such a message is
    linear in its sender's belief, m(1)/m(0) = 1 + b_j (exp(w) - 1), so the arithmetic mean of old and new ones (25) is
    the message of the mean belief. With this mean, the state is (2, N, V): u, and the log odds of the mean beliefs.
    """

    graph: Graph = Graph(1, torch.zeros(2, 0, dtype=torch.int64))
    shown: int = 1
    mean: str = "geometric"
    """Mean of old and new messages under a trained schedule: "geometric" (17) or, for alpha = 1, "arithmetic" (25)."""

    @property
    def by_edges(self) -> bool:
        """Return whether messages are computed one by one, for a graph with few edges."""
        return 2 * self.graph.size * MATRIX_ADVANTAGE < self.graph.nodes**2

    def parameters(self, iterations: int) -> dict[str, Parameter]:
        graph, steps = self.graph, range(iterations)
        spread = (2 * graph.size / graph.nodes) ** -0.5  # for the average number of neighbours of a unit
        found = {
            "couplings": Parameter(steps, lambda _: spread * torch.randn(graph.size)),
            "evidence": Parameter(self._evidence_layers(iterations), lambda _: _weights(graph.nodes, self.inputs, 1.0)),
            "bias": Parameter(self._evidence_layers(iterations), lambda _: torch.zeros(graph.nodes)),
        }
        if self.schedule != "synchronous":
            shape = (graph.nodes,) if self.schedule == "unit" else ()
            found["schedule"] = Parameter(steps, lambda _: torch.full(shape, GAMMA_LOGIT))
        return self._with_exponent(found, steps)

    def start(self, evidence: Tensor, parameters: Parameters) -> Tensor:
        own = self._own(evidence, parameters)
        return torch.stack([own, torch.full_like(own, SILENT)]) if self._means_beliefs else own

    def step(self, evidence: Tensor, state: Tensor, parameters: Parameters) -> Tensor:
        own = self._own(evidence, parameters)
        if not self._means_beliefs:
            return _mixed(state, self._heard(state, own, parameters), parameters)
        log_odds, sent = state
        sent = arithmetic_mean(sent, log_odds, torch.sigmoid(parameters["schedule"]))
        return torch.stack([self._heard(sent, own, parameters), sent])

    def readout(self, evidence: Tensor, state: Tensor, parameters: Parameters) -> Tensor:
        """b(1) of the last units."""
        return torch.sigmoid((state[0] if self._means_beliefs else state)[..., -self.shown :])

    @property
    def _means_beliefs(self) -> bool:
        return self.mean == "arithmetic"

    def _own(self, evidence: Tensor, parameters: Parameters) -> Tensor:
        """Return what the observations contribute to the log odds of each unit, A x + c (N, V)."""
        return linear(evidence, parameters["evidence"], parameters["bias"])

    def _heard(self, log_odds: Tensor, own: Tensor, parameters: Parameters) -> Tensor:
        """Return the log odds (N, V) of units that receive messages from units with beliefs sigmoid(log_odds)."""
        graph, couplings = self.graph, parameters["couplings"]
        if self.by_edges:
            sending = log_odds[:, graph.sources.to(log_odds.device)]
            messages = message(sending, couplings.repeat(2), self.exponent(parameters))
            return own.index_add(-1, graph.targets.to(own.device), messages)
        i, j = graph.edges.to(log_odds.device)
        matrix = couplings.new_zeros(graph.nodes, graph.nodes)
        matrix = matrix.index_put((i, j), couplings).index_put((j, i), couplings)
        return self.received(log_odds, matrix, own, parameters)

    def _evidence_layers(self, iterations: int) -> Sequence[int]:
        return range(iterations)


@dataclass(frozen=True)
class ReciprocalField(Field):
    """A `Field` whose messages exclude the opposite messages, (22) and (27): exact on trees for alpha = 1.

    The state is the messages (N, 2E), as in `deepnmf_cli.inference.graph` but as log odds. The readout has evidence and
    biases of its own.
    """

    def start(self, evidence: Tensor, parameters: Parameters) -> Tensor:
        return evidence.new_zeros(len(evidence), 2 * self.graph.size)

    def step(self, evidence: Tensor, state: Tensor, parameters: Parameters) -> Tensor:
        """Update the messages by (22) for units in {0, 1}, over w from beliefs that exclude the opposite messages."""
        alpha = self.exponent(parameters)
        sending = self._fields(evidence, state, parameters)[:, self.graph.sources.to(state.device)]
        against = state.roll(self.graph.size, -1)
        new = message(sending - alpha * against, parameters["couplings"].repeat(2), alpha)
        if "schedule" in parameters and (logit := parameters["schedule"]).dim():  # that of the receiving unit
            parameters = {**parameters, "schedule": logit[self.graph.targets.to(logit.device)]}
        if self.mean == "arithmetic":
            return arithmetic_mean(state, new, torch.sigmoid(parameters["schedule"]))
        return _mixed(state, new, parameters)

    def readout(self, evidence: Tensor, state: Tensor, parameters: Parameters) -> Tensor:
        """b(1) of the last units."""
        return torch.sigmoid(self._fields(evidence, state, parameters)[..., -self.shown :])

    @property
    def _means_beliefs(self) -> bool:
        return False

    def _fields(self, evidence: Tensor, messages: Tensor, parameters: Parameters) -> Tensor:
        return self._own(evidence, parameters).index_add(-1, self.graph.targets.to(messages.device), messages)

    def _evidence_layers(self, iterations: int) -> Sequence[int]:
        return range(iterations + 1)
