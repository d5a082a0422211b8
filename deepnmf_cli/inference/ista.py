"""Sparse coding with a fixed dictionary: the few activations h that explain x ~ D h in the squared sense.

ISTA (Daubechies, Defrise & De Mol 2004): a gradient step on the squared error, then the proximal map of the penalty, a
soft threshold; where h >= 0, as for magnitudes and unless activations are signed, it is one-sided. It is written with
the Gram matrix D^T D and the correlation D^T x, since both are the same in all iterations.

Shapes: evidence x (..., E, T), activations h (..., R, T), dictionary D (E, R).
"""

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from deepnmf_cli.inference import nmf, wiener
from deepnmf_cli.inference.algorithm import Algorithm, Descent, Parameter, Parameters, Recurrence, State
from deepnmf_cli.inference.shrinkage import soft_threshold


def largest_rate(dictionary: Tensor) -> Tensor:
    """1 / alpha for alpha = |D|^2, the largest eigenvalue of D^T D: with steps up to it the objective never rises."""
    return 1 / torch.linalg.matrix_norm(dictionary, 2).square()


def start(correlation: Tensor) -> Tensor:
    """Return the initial activations, zeros of (..., R, T)."""
    return torch.zeros_like(correlation)


def step(
    h: Tensor,
    correlation: Tensor,
    gram: Tensor,
    rate: float | Tensor,
    penalty: float | Tensor,
    signed: bool = False,
) -> Tensor:
    """One iteration, h <- relu(h - rate (D^T D h - D^T x + penalty)), or for signed activations the soft threshold of
    h - rate (D^T D h - D^T x) by rate * penalty; differentiable in every tensor.

    Args:
        h: activations, >= 0 unless signed, (..., R, T).
        correlation: D^T x, (..., R, T).
        gram: D^T D, (R, R).
        rate: 1 / alpha > 0.
        penalty: lambda >= 0, a number or a tensor that broadcasts to (R, 1).
        signed: whether activations may be negative.
    """
    if signed:
        return soft_threshold(h - rate * (gram @ h - correlation), rate * penalty, signed)
    return torch.relu(h - rate * (gram @ h - correlation + penalty))


def objective(h: Tensor, x: Tensor, dictionary: Tensor, penalty: float | Tensor) -> Tensor:
    """1/2 |x - D h|^2 + penalty |h|_1, one number per batch entry: shape (...,)."""
    error = (x - dictionary @ h).square().sum((-2, -1)) / 2
    return error + (penalty * h.abs()).sum((-2, -1))


@torch.no_grad()
def infer(x: Tensor, dictionary: Tensor, iterations: int, penalty: float | Tensor, signed: bool = False) -> Tensor:
    """Activations (..., R, T) after `iterations` steps of the largest rate from `start`."""
    rate = largest_rate(dictionary)
    correlation, gram = dictionary.mT @ x, dictionary.mT @ dictionary
    h = start(correlation)
    for _ in range(iterations):
        h = step(h, correlation, gram, rate, penalty, signed)
    return h


FULL_STEP = 2.0
"""Initial logit of trained schedules: steps begin at 88 % of their length."""


@dataclass(frozen=True)
class SparseCoding(Algorithm[Tensor, State]):
    """Base class of sparse-coding algorithms: evidence x (..., E, N), activations (..., R, N), and a dictionary, a rate
    and a penalty for every layer, unless a subclass says otherwise.

    Dictionaries (E, R) have the atoms of speech first. The readout uses the last `bins` rows only, which are those of
    the present frame where evidence has context; a separate dictionary of the readout is stored as (bins, R).
    """

    name: ClassVar[str]
    """Name of the algorithm, as used in recipes."""
    sketches: ClassVar[bool] = False
    """Whether `parameters` also takes a sketch."""
    over_frequency: ClassVar[bool] = True
    """Whether only dictionaries have a frequency axis, so that `deepnmf_cli.inference.over_frequency` can interpolate
    them to other frequencies."""
    bins: int
    atoms: tuple[int, int]
    """Numbers of atoms of speech and of noise, R in all."""
    sparsity: float = 0.02
    """Initial value of the penalties lambda."""
    signed: bool = field(default=False, kw_only=True)
    """Whether activations, and entries of dictionaries, may be negative."""
    mask_power: float = field(default=1.0, kw_only=True)
    """Power applied to the models of the sources before the masks are computed from them."""

    @property
    def kind(self) -> str:
        """Parameterisation of the dictionaries: "free" if they are signed, otherwise "log", which keeps them >= 0."""
        return "free" if self.signed else "log"

    def parameters(self, iterations: int, dictionary: Tensor) -> dict[str, Parameter]:
        """Return the parameters; dictionaries start at `dictionary` (E, R), rates at the largest one with which the
        objective never rises.
        """
        rate = largest_rate(dictionary).reshape(1)
        return {
            "dictionary": nmf.dictionaries(dictionary, self.bins, iterations, self.kind),
            "rate": Parameter(range(iterations), lambda _: rate, "log"),
            "penalty": nmf.penalties(self.sparsity, dictionary, iterations),
        }

    def masks(self, activations: Tensor, parameters: Parameters) -> Tensor:
        """Wiener-like masks (..., 2, bins, N) of the sources' models, by their absolute values if they are signed."""
        models = nmf.readout(activations, parameters["dictionary"][-self.bins :], self.atoms)
        models = models.abs() if self.signed else models
        return wiener.masks(models if self.mask_power == 1 else models.pow(self.mask_power))

    def none(self, evidence: Tensor) -> Tensor:
        """Activations of zero, (..., R, N)."""
        return evidence.new_zeros(*evidence.shape[:-2], sum(self.atoms), evidence.shape[-1])

    def macs(self, rows: int, iterations: int) -> int:
        """Multiply-adds of one frame of `rows` values, without the readout."""
        atoms = sum(self.atoms)
        return iterations * (rows * atoms + atoms**2)


@dataclass(frozen=True)
class Ista(SparseCoding[Tensor], Descent[Tensor, Tensor], Recurrence[Tensor]):
    """ISTA as an algorithm; the activations are the state."""

    name = "ista"
    relaxed: bool = False
    """Whether steps are relaxed, h <- (1 - g) h + g relu(...), by a trained schedule g = sigmoid(V x + c)."""
    recurrent: bool = False
    """Whether a frame starts from the result of the previous one, h_t^0 = relu(A h_{t-1}^K)."""

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
        proposed = step(state, columns[0], *constants, signed=self.signed)
        return torch.lerp(state, proposed, columns[1]) if self.relaxed else proposed

    def warm_start(self, columns: tuple[Tensor, ...], before: Tensor, parameters: Parameters) -> Tensor:
        predicted = parameters["transition"] @ before
        return predicted if self.signed else torch.relu(predicted)
