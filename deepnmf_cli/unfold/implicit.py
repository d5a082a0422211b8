"""Implicit differentiation of a fixed point: layers run until they converge, and the gradient of the converged state.

At a fixed point phi = f_theta(x, phi), the gradient of E(phi) with respect to theta needs none of the iterations that
led there:

    dE/dtheta = (df/dtheta)^T lambda,       lambda = dE/dphi + J^T lambda,       J = df/dphi

The linear equation is solved using only products by J^T, which autograd computes from one recorded step. Memory is that
of this one step, whatever K is. `docs/theory/deep-nmf.md` derives it for sparse NMF.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from deepnmf_cli.inference.algorithm import FixedPoint, Parameters
from deepnmf_cli.unfold.network import Unfolded

TOLERANCE = 1e-2
"""Tolerance of the residual of the adjoint equation, relative to its right-hand side."""

ITERATIONS = 25
"""Largest number of iterations for the adjoint equation, each with one product by J^T."""


def solve_adjoint(
    pull: Callable[[Tensor], Tensor],
    gradient: Tensor,
    metric: Tensor,
    tolerance: float = TOLERANCE,
    iterations: int = ITERATIONS,
) -> Tensor:
    """Return lambda (R, N) with lambda = gradient + J^T lambda, for columns that are independent of each other.

    It uses conjugate gradients in the inner product <a, b> = sum_r metric_r a_r b_r, in which I - J^T is symmetric and
    positive semi-definite. The plain iteration of the equation converges as slowly as the forward one does; this takes
    about the square root of its number of steps. A column stops when its residual is `tolerance` times its gradient in
    that norm, or when a direction is found along which the cost has no curvature.

    Args:
        pull: a -> J^T a.
        gradient: dE/dphi (R, N).
        metric: weights >= 0 (R, N); entries of weight 0 are at their bound, where nothing moves them, and stay 0.
    """
    residual = gradient.where(metric > 0, 0.0)
    solution, direction = torch.zeros_like(gradient), residual
    size = (metric * residual.square()).sum(-2, keepdim=True)
    enough = size * tolerance**2
    for _ in range(iterations):
        image = (direction - pull(direction)).where(metric > 0, 0.0)
        curvature = (metric * direction * image).sum(-2, keepdim=True)
        moving = (size > enough) & (curvature > 0)
        if not moving.any():
            break
        length = torch.where(moving, size / curvature.where(moving, 1.0), 0.0)
        solution = solution + length * direction
        residual = residual - length * image
        before, size = size, (metric * residual.square()).sum(-2, keepdim=True)
        direction = residual + torch.where(moving, size / before.where(moving, 1.0), 0.0) * direction
    return solution


def settled(
    algorithm: FixedPoint[Tensor],
    evidence: Tensor,
    state: Tensor,
    parameters: Parameters,
    tolerance: float = TOLERANCE,
    iterations: int = ITERATIONS,
) -> Tensor:
    """Return the converged state (R, N) after one more step, with the gradient of the fixed point for tensors in
    `parameters`.

    `state` is the state to which the steps converged. Evidence gets the gradient of that one step alone.
    """
    state = state.detach()
    with torch.no_grad():
        metric = algorithm.metric(evidence, state, parameters)
    with torch.enable_grad():
        variable = state.clone().requires_grad_()
        fixed = {name: x.detach() if isinstance(x, Tensor) else x for name, x in parameters.items()}
        image = algorithm.step(evidence.detach(), variable, fixed)

    growth = (image.detach() / state.where(state > 0, 1.0) - 1).clamp_min(0.0)

    def pull(a: Tensor) -> Tensor:
        return torch.autograd.grad(image, variable, a, retain_graph=True)[0] - growth * a

    after = algorithm.step(evidence, state, parameters)
    if after.requires_grad:
        after.register_hook(lambda gradient: solve_adjoint(pull, gradient, metric, tolerance, iterations))
    return after


class Settled(Unfolded[Tensor, Tensor, FixedPoint[Tensor]]):
    """K layers with the same parameters whose gradient is that of the state to which they converge: K must be large.

    The results equal those of `Unfolded` bit for bit.
    """

    def infer(self, evidence: Tensor, fixed: Tensor | None = None, depth: int | None = None) -> tuple[Any, Tensor]:
        if not torch.is_grad_enabled():
            return super().infer(evidence, fixed, depth)
        with torch.no_grad():
            first, state = (0, self.start(evidence)) if fixed is None else (self.fixed_layers, fixed)
            state = self._advance(evidence, state, first, self._depth(depth) - 1)
        state = settled(self.algorithm, evidence, state, self.bank.layer(self.iterations - 1))
        return self.readout(evidence, state), state
