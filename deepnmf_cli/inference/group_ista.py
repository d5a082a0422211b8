"""ISTA with a penalty on blocks of atoms in addition to that on atoms: few active blocks, and few active atoms in them.

    1/2 |x - D h|^2 + lambda |h|_1 + sum_g mu_g |h_g|_2

The proximal map of both penalties together is that of the first, then that of the second (Friedman, Hastie & Tibshirani
2010, "sparse group lasso"): a soft threshold, then a reduction of the norm of each block by mu_g, or to zero. The atoms
of a block thus stand for a concept that is present or absent as a whole, here the sounds of a source in a band.

Shapes: evidence x (..., E, T), activations h (..., R, T), dictionary D (E, R).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from deepnmf_cli.inference import ista
from deepnmf_cli.inference.algorithm import Descent, Parameter, Parameters
from deepnmf_cli.inference.blocks import by_centre, check
from deepnmf_cli.inference.ista import SparseCoding

SHORTEST = 1e-20
"""Smallest squared norm of a block; smaller ones are raised to it, since a norm has no gradient at zero."""


def lengths(h: Tensor, groups: int) -> Tensor:
    """Return the norms |h_g| of `groups` blocks of neighbouring atoms, (..., G, T), for activations (..., R, T)."""
    return h.unflatten(-2, (groups, -1)).square().sum(-2).clamp_min(SHORTEST).sqrt()


def shrink_blocks(h: Tensor, threshold: float | Tensor, groups: int) -> Tensor:
    """Reduce the norm of each block of h (..., R, T) by `threshold` >= 0, which broadcasts to (G, 1), or to zero."""
    kept = torch.relu(1 - threshold / lengths(h, groups))
    return (h.unflatten(-2, (groups, -1)) * kept.unsqueeze(-2)).flatten(-3, -2)


def step(
    h: Tensor,
    correlation: Tensor,
    gram: Tensor,
    rate: float | Tensor,
    penalty: float | Tensor,
    group_penalty: float | Tensor,
    groups: int,
    signed: bool = False,
) -> Tensor:
    """One iteration; arguments are those of `ista.step`, and `group_penalty` mu >= 0, which broadcasts to (G, 1)."""
    proposed = ista.step(h, correlation, gram, rate, penalty, signed)
    return shrink_blocks(proposed, rate * group_penalty, groups)


@torch.no_grad()
def infer(
    x: Tensor,
    dictionary: Tensor,
    iterations: int,
    penalty: float | Tensor,
    group_penalty: float | Tensor,
    groups: int,
    signed: bool = False,
) -> Tensor:
    """Return activations (..., R, T) after `iterations` steps of the largest rate from zero."""
    rate, correlation, gram = ista.largest_rate(dictionary), dictionary.mT @ x, dictionary.mT @ dictionary
    h = ista.start(correlation)
    for _ in range(iterations):
        h = step(h, correlation, gram, rate, penalty, group_penalty, groups, signed)
    return h


@dataclass(frozen=True)
class GroupIsta(SparseCoding[Tensor], Descent[Tensor, Tensor]):
    """ISTA with blocks as an algorithm; blocks are those of `deepnmf_cli.inference.blocks`, and the activations are the
    state.
    """

    name = "group-ista"
    blocks: int = 8
    """Half the number of blocks, which all have the same number of atoms and lie within one source."""
    group_sparsity: float = 0.02
    """Initial value of the penalties mu."""

    def __post_init__(self) -> None:
        check(self.atoms, self.blocks)

    def parameters(self, iterations: int, dictionary: Tensor) -> dict[str, Parameter]:
        """Return the parameters for `dictionary` (E, R), with one penalty mu for each block and layer."""
        found = super().parameters(iterations, by_centre(dictionary, self.atoms, self.bins))
        penalty = torch.full((2 * self.blocks, 1), self.group_sparsity, dtype=dictionary.dtype)
        return found | {"group_penalty": Parameter(range(iterations), lambda _: penalty, "log")}

    def start(self, evidence: Tensor, parameters: Parameters) -> Tensor:
        return self.none(evidence)

    def step(self, evidence: Tensor, state: Tensor, parameters: Parameters) -> Tensor:
        dictionary = parameters["dictionary"]
        products = dictionary.mT @ evidence, dictionary.mT @ dictionary
        numbers = (parameters[name] for name in ("rate", "penalty", "group_penalty"))
        return step(state, *products, *numbers, groups=2 * self.blocks, signed=self.signed)

    def readout(self, evidence: Tensor, state: Tensor, parameters: Parameters) -> Tensor:
        return self.masks(state, parameters)

    def objective(self, evidence: Tensor, state: Tensor, parameters: Parameters) -> Tensor:
        fit = ista.objective(state, evidence, parameters["dictionary"], parameters["penalty"])
        return fit + (parameters["group_penalty"] * lengths(state, 2 * self.blocks)).sum((-2, -1))
