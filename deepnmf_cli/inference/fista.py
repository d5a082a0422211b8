"""FISTA: ISTA with momentum (Beck & Teboulle, SIAM Journal on Imaging Sciences 2, 2009), with h >= 0 unless signed.

    h^k = relu(z^k - rate (D^T D z^k - D^T x + penalty)),    z^{k+1} = h^k + m_k (h^k - h^{k-1})

with momenta m_k = (t_k - 1)/t_{k+1}, t_1 = 1, t_{k+1} = (1 + sqrt(1 + 4 t_k^2))/2. The error falls as 1/k^2 instead of
1/k; the objective need not fall in every step. Shapes are those of `deepnmf_cli.inference.ista`.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from deepnmf_cli.inference import ista
from deepnmf_cli.inference.algorithm import Parameter, Parameters
from deepnmf_cli.inference.ista import SparseCoding, largest_rate


def momenta(iterations: int) -> list[float]:
    """Return m_1 .. m_K, which begin with 0 and grow towards 1."""
    found, t = [], 1.0
    for _ in range(iterations):
        later = (1 + math.sqrt(1 + 4 * t * t)) / 2
        found.append((t - 1) / later)
        t = later
    return found


def step(
    state: tuple[Tensor, Tensor],
    correlation: Tensor,
    gram: Tensor,
    rate: float | Tensor,
    penalty: float | Tensor,
    momentum: float | Tensor,
    signed: bool = False,
) -> tuple[Tensor, Tensor]:
    """Return (h^k, z^{k+1}) from (h^{k-1}, z^k), (..., R, T) each; the other arguments are those of `ista.step`."""
    before, ahead = state
    h = ista.step(ahead, correlation, gram, rate, penalty, signed)
    return h, h + momentum * (h - before)


@torch.no_grad()
def infer(x: Tensor, dictionary: Tensor, iterations: int, penalty: float | Tensor, signed: bool = False) -> Tensor:
    """Return activations (..., R, T) after `iterations` steps of the largest rate from zero."""
    rate, correlation, gram = largest_rate(dictionary), dictionary.mT @ x, dictionary.mT @ dictionary
    state = (ista.start(correlation), ista.start(correlation))
    for momentum in momenta(iterations):
        state = step(state, correlation, gram, rate, penalty, momentum, signed)
    return state[0]


@dataclass(frozen=True)
class Fista(SparseCoding[tuple[Tensor, Tensor]]):
    """FISTA as an algorithm with a momentum of its own for every layer; the state is (h, z)."""

    name = "fista"

    def parameters(self, iterations: int, dictionary: Tensor) -> dict[str, Parameter]:
        """Return the parameters of `SparseCoding` and a `momentum` for every layer but the last, which needs none."""
        values = momenta(iterations)
        momentum = Parameter(
            range(iterations - 1), lambda k: torch.tensor([values[k]], dtype=dictionary.dtype), own=True
        )
        return super().parameters(iterations, dictionary) | {"momentum": momentum}

    def start(self, evidence: Tensor, parameters: Parameters) -> tuple[Tensor, Tensor]:
        h = ista.start(parameters["dictionary"].mT @ evidence)
        return h, h

    def step(self, evidence: Tensor, state: tuple[Tensor, Tensor], parameters: Parameters) -> tuple[Tensor, Tensor]:
        dictionary, momentum = parameters["dictionary"], parameters.get("momentum", 0.0)
        gram, correlation = dictionary.mT @ dictionary, dictionary.mT @ evidence
        return step(state, correlation, gram, parameters["rate"], parameters["penalty"], momentum, self.signed)

    def readout(self, evidence: Tensor, state: tuple[Tensor, Tensor], parameters: Parameters) -> Tensor:
        return self.masks(state[0], parameters)
