"""Inference algorithms: functions of evidence x, state phi and parameters theta, and which parameters they need.

Inference minimises F_theta(x, phi) by phi^k = f_theta(x, phi^{k-1}) and reads out y = g_theta(x, phi^K): equations
(1)-(5) of "Deep Unfolding: Model-Based Inspiration of Novel Deep Architectures", Hershey, Le Roux, Weninger, 2014.
`deepnmf_cli.unfold` makes layers of the iterations.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from torch import Tensor, nn

Evidence = TypeVar("Evidence")
"""What is observed: a tensor, or a tuple of tensors."""

State = TypeVar("State")
"""What a step updates: a tensor, or a tuple of tensors."""

Parameters = Mapping[str, Any]
"""theta^k of one layer by name: tensors, or modules where an algorithm has any."""


@dataclass(frozen=True)
class Parameter:
    """One of the parameters of an algorithm, over K steps and a readout."""

    layers: Sequence[int]
    """Which layers use it: k < K is step k + 1, layer 0 the start too, and K the readout. It is absent elsewhere."""
    initial: Callable[[int], Tensor | nn.Module]
    """Where it starts, for a value that layer k is the lowest to use."""
    kind: str = "free"
    """"free", or how it stays non-negative: "log" or "softplus"."""
    shared: bool = False
    """One for all layers, even where layers have parameters of their own."""
    own: bool = False
    """Each layer has its own, even where layers share parameters, since it differs between them from the start."""
    trained: bool = True


class Algorithm(ABC, Generic[Evidence, State]):
    """An inference algorithm: a frozen dataclass of plain settings.

    A subclass also has a method `parameters(iterations, ...)`, which declares what it needs for K iterations, a
    `Parameter` by name, from the values that its parameters start with.
    """

    @abstractmethod
    def start(self, evidence: Evidence, parameters: Parameters) -> State:
        """phi^0."""

    @abstractmethod
    def step(self, evidence: Evidence, state: State, parameters: Parameters) -> State:
        """phi^k = f_theta(x, phi^{k-1}), equation (3)."""

    @abstractmethod
    def readout(self, evidence: Evidence, state: State, parameters: Parameters) -> Any:
        """Y = g_theta(x, phi^K), equation (1)."""


class Descent(Algorithm[Evidence, State]):
    """An algorithm that minimises an objective; not every schedule of messages does."""

    @abstractmethod
    def objective(self, evidence: Evidence, state: State, parameters: Parameters) -> Tensor:
        """F_theta(x, phi), one number per example, which steps with the same parameters do not increase."""


class FixedPoint(Descent[Tensor, State]):
    """A descent on columns that are independent of each other, which settles where f = phi."""

    @abstractmethod
    def metric(self, evidence: Tensor, state: State, parameters: Parameters) -> State:
        """Return weights D >= 0 of the shape of the state such that I - df/dphi = D H at a fixed point, with a
        symmetric H: the Hessian of the objective.
        """


class Recurrence(Algorithm[Tensor, State]):
    """An algorithm on columns, frames that are independent of each other, which can also begin from a given state."""

    @abstractmethod
    def prepare(self, evidence: Tensor, parameters: Parameters) -> tuple[tuple, tuple[Tensor, ...]]:
        """Return what a layer needs and no state changes: constants, and tensors with a column (..., N) per column of
        the evidence (E, N).
        """

    @abstractmethod
    def update(self, constants: tuple, columns: tuple[Tensor, ...], state: State) -> State:
        """phi^k from phi^{k-1} (R, N)."""

    @abstractmethod
    def warm_start(self, columns: tuple[Tensor, ...], before: State, parameters: Parameters) -> State:
        """phi^0 of a frame from phi^K of the last one (R, B) and from the first layer's columns."""

    def step(self, evidence: Tensor, state: State, parameters: Parameters) -> State:
        constants, columns = self.prepare(evidence, parameters)
        return self.update(constants, columns, state)
