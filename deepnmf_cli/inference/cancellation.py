"""Two-source cancellation: in a layer, the atoms of each source explain what the estimate of the other source leaves.

    r_n = x - D_s h_s,    h_n <- S(h_n - rate_n D_n^T (D_n h_n - r_n); rate_n lambda_n)
    r_s = x - D_n h_n,    h_s <- S(h_s - rate_s D_s^T (D_s h_s - r_s); rate_s lambda_s)

Noise is updated first, so that the speech of every layer explains what the layer's own estimate of the noise leaves.
This is iterated interference cancellation, as Qing, Cai, Yang, Wang & Huang unfold it for two superimposed signals
(arXiv 1907.11836, 2019), with a step of ISTA as the estimator: block coordinate descent on the objective of sparse
coding. A block may take longer steps, rate_s <= 1 / |D_s|^2, than all atoms together, and no step raises the objective.

Shapes: evidence x (..., E, T), activations h (..., R, T), dictionary D (E, R), the atoms of speech first.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from deepnmf_cli.inference import ista
from deepnmf_cli.inference.algorithm import Descent, Parameter, Parameters
from deepnmf_cli.inference.ista import SparseCoding, largest_rate


def largest_rates(dictionary: Tensor, atoms: tuple[int, int]) -> Tensor:
    """The largest rates of both sources, speech first, with which the objective never rises: (2,)."""
    return torch.stack([largest_rate(part) for part in dictionary.split(list(atoms), 1)])


def step(
    h: Tensor,
    correlation: Tensor,
    gram: Tensor,
    rates: Tensor,
    penalty: float | Tensor,
    atoms: tuple[int, int],
    signed: bool = False,
) -> Tensor:
    """Return the activations after one iteration, noise first and then speech; differentiable in every tensor.

    Arguments are those of `ista.step`, except `rates` (2,) and the numbers of `atoms` of speech and noise, R in all.
    """
    penalties = torch.as_tensor(penalty, dtype=h.dtype, device=h.device).expand(sum(atoms), 1).split(list(atoms))
    own, heard = gram.split(list(atoms)), correlation.split(list(atoms), -2)
    parts = list(h.split(list(atoms), -2))
    for source in (1, 0):
        other = 1 - source
        columns = own[source].split(list(atoms), 1)
        left = heard[source] - columns[other] @ parts[other]  # D_s^T (x - D_n h_n)
        parts[source] = ista.step(parts[source], left, columns[source], rates[source], penalties[source], signed)
    return torch.cat(parts, -2)


@torch.no_grad()
def infer(
    x: Tensor,
    dictionary: Tensor,
    iterations: int,
    penalty: float | Tensor,
    atoms: tuple[int, int],
    signed: bool = False,
) -> Tensor:
    """Return activations (..., R, T) after `iterations` steps of the largest rates from zero."""
    rates, correlation, gram = largest_rates(dictionary, atoms), dictionary.mT @ x, dictionary.mT @ dictionary
    h = ista.start(correlation)
    for _ in range(iterations):
        h = step(h, correlation, gram, rates, penalty, atoms, signed)
    return h


@dataclass(frozen=True)
class Cancellation(SparseCoding[Tensor], Descent[Tensor, Tensor]):
    """Two-source cancellation as an algorithm; the activations are the state."""

    name = "cancellation"

    def parameters(self, iterations: int, dictionary: Tensor) -> dict[str, Parameter]:
        """Return the parameters of `SparseCoding`, but with a rate for each source."""
        rates = largest_rates(dictionary, self.atoms)
        return super().parameters(iterations, dictionary) | {
            "rate": Parameter(range(iterations), lambda _: rates, "log")
        }

    def start(self, evidence: Tensor, parameters: Parameters) -> Tensor:
        return self.none(evidence)

    def step(self, evidence: Tensor, state: Tensor, parameters: Parameters) -> Tensor:
        dictionary = parameters["dictionary"]
        products = dictionary.mT @ evidence, dictionary.mT @ dictionary
        return step(state, *products, parameters["rate"], parameters["penalty"], self.atoms, self.signed)

    def readout(self, evidence: Tensor, state: Tensor, parameters: Parameters) -> Tensor:
        return self.masks(state, parameters)

    def objective(self, evidence: Tensor, state: Tensor, parameters: Parameters) -> Tensor:
        return ista.objective(state, evidence, parameters["dictionary"], parameters["penalty"])
