"""ALISTA: ISTA with analytic weights, where only step lengths and thresholds are trained (Liu, Chen, Wang & Yin, ICLR
2019).

    h^k = S(h^{k-1} - rate_k W^T (D h^{k-1} - x); theta_k)

With W, each atom responds to itself with one and to the others as little as possible: W minimises
|W^T D|^2 + ridge n |W|^2, in Frobenius norms, over all W with w_r^T d_r = 1, where n is the mean eigenvalue of D D^T.
The constraint applies to each column separately, so that

    w_r = c_r (D D^T + ridge n I)^-1 d_r,    c_r = 1 / (d_r^T (D D^T + ridge n I)^-1 d_r)

With ridge = 0, W^T is the pseudo-inverse with rescaled rows, W^T = diag(c) D^+. Atoms of spectra resemble each other,
and W then has large entries, which amplify what no atom explains; a ridge keeps them small.

Shapes: evidence x (..., E, T), activations h (..., R, T), dictionary D (E, R).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from deepnmf_cli.inference.algorithm import Parameter, Parameters
from deepnmf_cli.inference.ista import SparseCoding
from deepnmf_cli.inference.shrinkage import select_support

MOST_SELECTED = 0.13
"""Largest share of activations that pass the threshold of any layer unchanged (the value of the authors' program)."""


def inverse(dictionary: Tensor, ridge: float = 0.0) -> Tensor:
    """Return D^T (D D^T + ridge n I)^-1, (R, E), n being the mean eigenvalue of D D^T; D^+ where ridge is 0."""
    if ridge == 0:
        return torch.linalg.pinv(dictionary)
    outer = dictionary @ dictionary.mT
    damped = outer + ridge * outer.diagonal().mean() * torch.eye(len(outer), dtype=outer.dtype)
    return torch.linalg.solve(damped, dictionary).mT


def scales(inverse: Tensor, dictionary: Tensor) -> Tensor:
    """Return c, (R, 1), such that each row of c o inverse has the inner product one with its own atom."""
    return 1 / (inverse.mT * dictionary).sum(0).unsqueeze(-1)


def weights(dictionary: Tensor, ridge: float = 0.0) -> Tensor:
    """Return W^T, (R, E): the analytic weights of a dictionary (E, R)."""
    found = inverse(dictionary, ridge)
    return scales(found, dictionary) * found


def coherence(weights: Tensor, dictionary: Tensor) -> float:
    """Return the largest |w_r^T d_s| for r != s, of W^T (R, E) and D (E, R)."""
    return float((weights @ dictionary).fill_diagonal_(0).abs().max())


def step(
    h: Tensor,
    answer: Tensor,
    gram: Tensor | None,
    rate: float | Tensor,
    threshold: float | Tensor,
    share: Tensor,
    signed: bool = False,
) -> Tensor:
    """Return the activations after one layer; differentiable in every tensor but `share`.

    Args:
        h: activations (..., R, T), zero if there is no `gram`.
        answer: W^T x, (..., R, T).
        gram: W^T D, (R, R).
        rate: > 0.
        threshold: theta >= 0, broadcasts to (R, 1).
        share: fraction of the activations, the largest ones, that pass the threshold unchanged, (1,) in [0, 1].
    """
    error = -answer if gram is None else gram @ h - answer
    return select_support(h - rate * error, threshold, share, signed)


def selected(layer: int, support_growth: float) -> float:
    """Return the share of activations that pass the threshold of layer 0, 1, ... unchanged."""
    return min((layer + 1) * support_growth, MOST_SELECTED)


@torch.no_grad()
def infer(
    x: Tensor,
    dictionary: Tensor,
    iterations: int,
    threshold: float | Tensor,
    support_growth: float = 0.0,
    ridge: float = 0.0,
    signed: bool = False,
) -> Tensor:
    """Return activations (..., R, T) after `iterations` steps of rate 1 from zero."""
    analytic = weights(dictionary, ridge)
    answer, gram = analytic @ x, analytic @ dictionary
    h = torch.zeros_like(answer)
    for k in range(iterations):
        share = torch.tensor([selected(k, support_growth)], dtype=x.dtype)
        h = step(h, answer, gram if k else None, 1.0, threshold, share, signed)
    return h


@dataclass(frozen=True)
class Alista(SparseCoding[Tensor]):
    """ALISTA as an algorithm: a trained rate and threshold for every layer, 2K numbers; the activations are the state.

    Weights and dictionary are not trained.
    """

    name = "alista"
    over_frequency = False
    ridge: float = 0.0
    support_growth: float = 0.012
    """Increase from layer to layer of the share of activations that pass the threshold unchanged, up to
    MOST_SELECTED."""

    def parameters(self, iterations: int, dictionary: Tensor) -> dict[str, Parameter]:
        """Return the parameters for `dictionary` (E, R); rates start at 1, thresholds at `sparsity`."""
        analytic, like = weights(dictionary, self.ridge), dictionary.dtype
        gram, steps = analytic @ dictionary, range(iterations)
        return {
            "weights": Parameter(steps, lambda _: analytic, shared=True, trained=False),
            "gram": Parameter(range(1, iterations), lambda _: gram, shared=True, trained=False),
            "share": Parameter(
                steps,
                lambda k: torch.tensor([selected(k, self.support_growth)], dtype=like),
                own=True,
                trained=False,
                setting=True,
            ),
            "rate": Parameter(steps, lambda _: torch.ones(1, dtype=like), "log"),
            "threshold": Parameter(steps, lambda _: torch.full((1,), self.sparsity, dtype=like), "log"),
            "dictionary": Parameter([iterations], lambda _: dictionary[-self.bins :], trained=False),
        }

    def start(self, evidence: Tensor, parameters: Parameters) -> Tensor:
        return self.none(evidence)

    def step(self, evidence: Tensor, state: Tensor, parameters: Parameters) -> Tensor:
        answer, names = parameters["weights"] @ evidence, ("rate", "threshold", "share")
        return step(state, answer, parameters.get("gram"), *(parameters[name] for name in names), signed=self.signed)

    def readout(self, evidence: Tensor, state: Tensor, parameters: Parameters) -> Tensor:
        return self.masks(state, parameters)

    def macs(self, rows: int, iterations: int) -> int:
        return super().macs(rows, iterations) - sum(self.atoms) ** 2
