"""Non-negative sparse coding with a fixed dictionary: the activations h >= 0 that explain x ~ D h in the squared sense.

ISTA (Daubechies, Defrise & De Mol 2004) with its threshold made one-sided: a gradient step on the squared error, then
the proximal map of the penalty, which for h >= 0 is relu. Written with the Gram matrix D^T D and the correlation D^T x,
since both serve all iterations.

Shapes: evidence x (..., E, T), activations h (..., R, T), dictionary D (E, R).
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from deepnmf_cli.inference import nmf, wiener
from deepnmf_cli.inference.algorithm import Algorithm, Descent, Parameter, Parameters, Recurrence, State


def largest_rate(dictionary: Tensor) -> Tensor:
    """1 / alpha for alpha = |D|^2, the largest eigenvalue of D^T D: with steps up to it the objective never rises."""
    return 1 / torch.linalg.matrix_norm(dictionary, 2).square()


def start(correlation: Tensor) -> Tensor:
    """First activations: none, (..., R, T)."""
    return torch.zeros_like(correlation)


def step(h: Tensor, correlation: Tensor, gram: Tensor, rate: float | Tensor, penalty: float | Tensor) -> Tensor:
    """One iteration, h <- relu(h - rate (D^T D h - D^T x + penalty)); differentiable in every tensor.

    Args:
        h: activations >= 0, (..., R, T).
        correlation: D^T x, (..., R, T).
        gram: D^T D, (R, R).
        rate: 1 / alpha > 0.
        penalty: lambda >= 0, a number or a tensor that broadcasts to (R, 1).
    """
    return torch.relu(h - rate * (gram @ h - correlation + penalty))


def objective(h: Tensor, x: Tensor, dictionary: Tensor, penalty: float | Tensor) -> Tensor:
    """1/2 |x - D h|^2 + penalty |h|_1, one number per batch entry: shape (...,)."""
    error = (x - dictionary @ h).square().sum((-2, -1)) / 2
    return error + (penalty * h).sum((-2, -1))


@torch.no_grad()
def infer(x: Tensor, dictionary: Tensor, iterations: int, penalty: float | Tensor) -> Tensor:
    """Activations (..., R, T) after `iterations` steps of the largest rate from `start`."""
    rate = largest_rate(dictionary)
    correlation, gram = dictionary.mT @ x, dictionary.mT @ dictionary
    h = start(correlation)
    for _ in range(iterations):
        h = step(h, correlation, gram, rate, penalty)
    return h


FULL_STEP = 2.0
"""Initial logit of trained schedules: steps begin at 88 % of their length."""


@dataclass(frozen=True)
class SparseCoding(Algorithm[Tensor, State]):
    """What algorithms of sparse coding have in common: evidence x (..., E, N), activations (..., R, N), and a
    dictionary, a rate and a penalty for every layer.

    Dictionaries (E, R) have the atoms of speech first. The readout uses the last `bins` rows only, which are those of
    the present frame where evidence has context; a dictionary of the readout's own is stored as (bins, R).
    """

    name: ClassVar[str]
    """Of the algorithm, as recipes have it."""
    products: ClassVar[int] = 1
    """Products of the dictionary's size with the evidence in a step, beside that of the Gram matrix with the state."""
    bins: int
    atoms: tuple[int, int]
    """Atoms of speech and of noise, R in all."""
    sparsity: float = 0.02
    """Where penalties lambda start."""

    def parameters(self, iterations: int, dictionary: Tensor) -> dict[str, Parameter]:
        """All dictionaries start at `dictionary` (E, R), rates at the largest that never raises the objective."""
        rate = largest_rate(dictionary).reshape(1)
        return {
            "dictionary": nmf.dictionaries(dictionary, self.bins, iterations),
            "rate": Parameter(range(iterations), lambda _: rate, "log"),
            "penalty": nmf.penalties(self.sparsity, dictionary, iterations),
        }

    def masks(self, activations: Tensor, parameters: Parameters) -> Tensor:
        """Wiener-like masks (..., 2, bins, N) of the sources' models."""
        return wiener.masks(nmf.readout(activations, parameters["dictionary"][-self.bins :], self.atoms))


@dataclass(frozen=True)
class Ista(SparseCoding[Tensor], Descent[Tensor, Tensor], Recurrence[Tensor]):
    """ISTA as an algorithm; the state are the activations."""

    name = "ista"
    relaxed: bool = False
    """Whether steps are relaxed, h <- (1 - g) h + g relu(...), by a trained schedule g = sigmoid(V x + c)."""
    recurrent: bool = False
    """Whether a frame begins where the last one ended, h_t^0 = relu(A h_{t-1}^K)."""

    def parameters(self, iterations: int, dictionary: Tensor) -> dict[str, Parameter]:
        found, steps, states = super().parameters(iterations, dictionary), range(iterations), sum(self.atoms)
        if self.recurrent:
            found["transition"] = Parameter([0], lambda _: torch.eye(states), shared=True)
        if self.relaxed:
            found["gate_weight"] = Parameter(steps, lambda _: torch.zeros(states, len(dictionary)))
            found["gate_bias"] = Parameter(steps, lambda _: torch.full((states, 1), FULL_STEP))
        return found

    def start(self, evidence: Tensor, parameters: Parameters) -> Tensor:
        return start(parameters["dictionary"].mT @ evidence)

    def readout(self, evidence: Tensor, state: Tensor, parameters: Parameters) -> Tensor:
        return self.masks(state, parameters)

    def objective(self, evidence: Tensor, state: Tensor, parameters: Parameters) -> Tensor:
        return objective(state, evidence, parameters["dictionary"], parameters["penalty"])

    def prepare(self, evidence: Tensor, parameters: Parameters) -> tuple[tuple, tuple[Tensor, ...]]:
        dictionary = parameters["dictionary"]
        columns = (dictionary.mT @ evidence,)
        if self.relaxed:
            columns += (torch.sigmoid(parameters["gate_weight"] @ evidence + parameters["gate_bias"]),)
        return (dictionary.mT @ dictionary, parameters["rate"], parameters["penalty"]), columns

    def update(self, constants: tuple, columns: tuple[Tensor, ...], state: Tensor) -> Tensor:
        proposed = step(state, columns[0], *constants)
        return torch.lerp(state, proposed, columns[1]) if self.relaxed else proposed

    def warm_start(self, columns: tuple[Tensor, ...], before: Tensor, parameters: Parameters) -> Tensor:
        return torch.relu(parameters["transition"] @ before)
