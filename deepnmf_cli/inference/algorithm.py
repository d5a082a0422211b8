"""Base classes of inference algorithms: functions of evidence x, state phi and parameters theta, and the parameters
that they need.

Inference minimises F_theta(x, phi) by phi^k = f_theta(x, phi^{k-1}) and reads out y = g_theta(x, phi^K): equations
(1)-(5) of "Deep Unfolding: Model-Based Inspiration of Novel Deep Architectures", Hershey, Le Roux, Weninger, 2014.
`deepnmf_cli.unfold` turns the iterations into layers.
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
    """Declaration of one parameter of an algorithm, for K steps and a readout."""

    layers: Sequence[int]
    """Layers that use it: k < K is step k + 1, layer 0 is also the start, K is the readout. Others do not have it."""
    initial: Callable[[int], Tensor | nn.Module]
    """k -> the initial value for layers that share a value, where k is the lowest of them."""
    kind: str = "free"
    """"free", or the parameterisation that keeps it non-negative: "log" or "softplus"."""
    shared: bool = False
    """Whether all layers share one value, even where layers have parameters of their own."""
    own: bool = False
    """Whether each layer has its own value, even where layers share parameters, because initial values differ."""
    trained: bool = True
    setting: bool = False
    """Whether settings alone determine the value, which no other model's replaces unless it is trained."""


class Algorithm(ABC, Generic[Evidence, State]):
    """An inference algorithm: a frozen dataclass of plain settings.

    A subclass also has a method `parameters(iterations, ...)`, which takes the values that its parameters start with
    and declares what it needs for K iterations: a `Parameter` for each name.
    """

    @abstractmethod
    def start(self, evidence: Evidence, parameters: Parameters) -> State:
        """Return the initial state phi^0."""

    @abstractmethod
    def step(self, evidence: Evidence, state: State, parameters: Parameters) -> State:
        """Return phi^k = f_theta(x, phi^{k-1}), equation (3)."""

    @abstractmethod
    def readout(self, evidence: Evidence, state: State, parameters: Parameters) -> Any:
        """Return y = g_theta(x, phi^K), equation (1)."""


class Descent(Algorithm[Evidence, State]):
    """An algorithm that minimises an objective, which not every message schedule does."""

    @abstractmethod
    def objective(self, evidence: Evidence, state: State, parameters: Parameters) -> Tensor:
        """Return F_theta(x, phi), one number per example, which steps with the same parameters do not increase."""


class FixedPoint(Descent[Tensor, State]):
    """A descent on columns that are independent of each other, which converges to a fixed point f = phi."""

    @abstractmethod
    def metric(self, evidence: Tensor, state: State, parameters: Parameters) -> State:
        """Return weights D >= 0, of the shape of the state, such that I - df/dphi = D H at a fixed point, where the
        symmetric matrix H is the Hessian of the objective.
        """


class Recurrence(Algorithm[Tensor, State]):
    """An algorithm on columns (frames) that are independent of each other, which can also start from a given state."""

    @abstractmethod
    def prepare(self, evidence: Tensor, parameters: Parameters) -> tuple[tuple, tuple[Tensor, ...]]:
        """Return what a layer needs that does not depend on the state: constants, and tensors (..., N) with one column
        per column of the evidence (E, N).
        """

    @abstractmethod
    def update(self, constants: tuple, columns: tuple[Tensor, ...], state: State) -> State:
        """Return phi^k, computed from phi^{k-1} (R, N)."""

    @abstractmethod
    def warm_start(self, columns: tuple[Tensor, ...], before: State, parameters: Parameters) -> State:
        """Return phi^0 of a frame, from phi^K of the previous frame (R, B) and the first layer's columns."""

    def step(self, evidence: Tensor, state: State, parameters: Parameters) -> State:
        constants, columns = self.prepare(evidence, parameters)
        return self.update(constants, columns, state)
