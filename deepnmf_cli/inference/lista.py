"""LISTA: the matrices of ISTA as free parameters (Gregor & LeCun, ICML 2010).

    h^k = S(A h^{k-1} + B x; theta),    classically  B = rate D^T,  A = I - B D,  theta = rate penalty

S is a soft threshold, one-sided unless activations are signed. Once A and B are trained, nothing ties them together, so
there is no longer an objective that every step descends. Shapes are those of `deepnmf_cli.inference.ista`.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from deepnmf_cli.inference.algorithm import Parameter, Parameters
from deepnmf_cli.inference.ista import SparseCoding, largest_rate
from deepnmf_cli.inference.shrinkage import soft_threshold


def step(
    h: Tensor, x: Tensor, encoder: Tensor, recurrence: Tensor | None, threshold: float | Tensor, signed: bool = False
) -> Tensor:
    """Return the activations after one layer; differentiable in every tensor.

    Args:
        h: activations (..., R, T), zero if there is no `recurrence`.
        x: evidence (..., E, T).
        encoder: B, (R, E).
        recurrence: A, (R, R).
        threshold: theta >= 0, broadcasts to (R, 1).
    """
    z = encoder @ x
    return soft_threshold(z if recurrence is None else z + recurrence @ h, threshold, signed)


@dataclass(frozen=True)
class Lista(SparseCoding[Tensor]):
    """LISTA as an algorithm; the activations are the state, and only the readout has a dictionary."""

    name = "lista"
    over_frequency = False

    def parameters(self, iterations: int, dictionary: Tensor) -> dict[str, Parameter]:
        """Return the parameters, which start from the classical step with `dictionary` (E, R); the first layer needs no
        A.
        """
        encoder = largest_rate(dictionary) * dictionary.mT
        recurrence = torch.eye(len(encoder), dtype=encoder.dtype) - encoder @ dictionary
        threshold = (largest_rate(dictionary) * self.sparsity).expand(len(encoder), 1)
        return {
            "encoder": Parameter(range(iterations), lambda _: encoder),
            "recurrence": Parameter(range(1, iterations), lambda _: recurrence),
            "threshold": Parameter(range(iterations), lambda _: threshold, "log"),
            "dictionary": Parameter([iterations], lambda _: dictionary[-self.bins :], self.kind),
        }

    def start(self, evidence: Tensor, parameters: Parameters) -> Tensor:
        return self.none(evidence)

    def step(self, evidence: Tensor, state: Tensor, parameters: Parameters) -> Tensor:
        matrices = parameters["encoder"], parameters.get("recurrence")
        return step(state, evidence, *matrices, parameters["threshold"], self.signed)

    def readout(self, evidence: Tensor, state: Tensor, parameters: Parameters) -> Tensor:
        return self.masks(state, parameters)

    def macs(self, rows: int, iterations: int) -> int:
        return super().macs(rows, iterations) - sum(self.atoms) ** 2
