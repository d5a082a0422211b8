"""Non-negative sparse coding with a fixed dictionary: the activations h >= 0 that explain x ~ D h in the squared sense.

ISTA (Daubechies, Defrise & De Mol 2004) with its threshold made one-sided: a gradient step on the squared error, then
the proximal map of the penalty, which for h >= 0 is relu. Written with the Gram matrix D^T D and the correlation D^T x,
since both serve all iterations.

Shapes: evidence x (..., E, T), activations h (..., R, T), dictionary D (E, R).
"""

import torch
from torch import Tensor


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
