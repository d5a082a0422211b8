"""Recursions along a chain, h_t = r(f_t, g_t, h_{t-1}), and their gradients, for all networks that contain one.

* `relax`: h_t = h_{t-1} + g_t (f_t - h_{t-1}), the schedule (14)-(15) with p = 1, or exponential smoothing with a
  coefficient of its own at every step. Since f and g do not depend on h, a step is one fused multiply-add.
* `combine`: m_t = (f_t + k_t m_{t-1}) / (1 + f_t k_t m_{t-1}), exact filtering of a spin, messages (22).

While a graph is exported, they are the operations DOMAIN::RELAX, DOMAIN::SPINS, DOMAIN::BOTH_WAYS and DOMAIN::COMBINE,
which `onnx_operators` replaces by standard ones.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from subprocess import SubprocessError
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

DOMAIN, RELAX, SPINS, BOTH_WAYS, COMBINE = "deepnmf", "relax", "spins", "both_ways", "combine"


def relax(target: Tensor, schedule: Tensor, start: Tensor, reverse: bool = False) -> Tensor:
    """Return the path h (T, ...) of h_t = h_{t-1} + g_t (f_t - h_{t-1}), h_0 = `start`.

    target f (T, ...) and schedule g (T, ...) in [0, 1]; start (...). T >= 1. With g = 1 the result is `target`
    (synchronous updates), with g = 0 it stays at `start`. `reverse` runs from the last t to the first.
    """
    if kernel := gpu_kernel(target):
        return kernel.relax(target, schedule, start, reverse, spins=False)
    return _RELAXATION(target, schedule, start, reverse)


def relax_to_tanh(x: Tensor, y: Tensor, start: Tensor, reverse: bool = False) -> Tensor:
    """Return the path of `relax` for targets tanh(x) and schedules sigmoid(y)."""
    if kernel := gpu_kernel(x):
        return kernel.relax(x, y, start, reverse, spins=True)
    return relax(x.tanh(), y.sigmoid(), start, reverse)


def combine(evidence: Tensor, keep: Tensor, start: Tensor, reverse: bool = False) -> Tensor:
    """Return the path m (T, ...) of expectations of a spin, m_0 = `start`, by exact filtering.

    A spin keeps the sign of the spin before with probability (1 + k_t)/2, and evidence alone would give it the
    expectation f_t. Then k_t m_{t-1} is its expectation before the evidence, and by Bayes' rule the odds
    (1 + m)/(1 - m) of the two are multiplied. Relaxation averages opinions; filtering accumulates evidence.

    evidence f (T, ...) in [-1, 1] and keep k (T, ...) in [0, 1); start (...) in [-1, 1]. T >= 1. With k = 0 the result
    is `evidence`; without evidence, f = 0, it fades from `start`. `reverse` runs from the last t to the first.
    """
    return _FILTERING(evidence, keep, start, reverse)


@dataclass(frozen=True)
class _Recursion:
    """A recursion and its derivatives. A call returns the path h (T, ...) for f and g (T, ...) from h_0 (...)."""

    name: str
    """Name of the operation that stands for it while a graph is exported."""
    step: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
    """Computes h_t from f_t, g_t and h_{t-1} and writes it into the last argument."""
    slopes: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]
    """Returns the derivatives of h_t with respect to f_t, g_t and h_{t-1}, given f, g and the states before, (T, ...)
    each. The one with respect to g_t must be a new tensor, because it is overwritten."""

    def __call__(self, f: Tensor, g: Tensor, start: Tensor, reverse: bool = False) -> Tensor:
        if torch.is_grad_enabled() and any(x.requires_grad for x in (f, g, start)):
            return _Path.apply(self, f, g, start, reverse)
        return self.path(f, g, start, reverse)

    def path(self, f: Tensor, g: Tensor, start: Tensor, reverse: bool) -> Tensor:
        """Return the path without recording a gradient."""
        if torch.compiler.is_exporting():
            return exported(self.name, (f, g, start), f.shape, reverse)
        path = torch.empty_like(f, memory_format=torch.contiguous_format)
        order, state = range(len(path)), start
        for t in reversed(order) if reverse else order:
            state = self.step(f[t], g[t], state, path[t])
        return path


class _Path(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, recursion: _Recursion, f: Tensor, g: Tensor, start: Tensor, reverse: bool) -> Tensor:
        path = recursion.path(f, g, start, reverse)
        ctx.save_for_backward(f, g, start, path)
        ctx.recursion, ctx.reverse = recursion, reverse
        return path

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[None, Tensor, Tensor, Tensor, None]:
        (gradient,) = grad_outputs
        f, g, start, path = ctx.saved_tensors
        before = torch.cat([path[1:], start[None]] if ctx.reverse else [start[None], path[:-1]])
        in_f, in_g, in_before = ctx.recursion.slopes(f, g, before)
        # total_t = dE/dh_t including all later steps: total_t = gradient_t + (dh_{t+1}/dh_t) total_{t+1}
        total = torch.empty_like(path)
        last, *order = range(len(path)) if ctx.reverse else reversed(range(len(path)))
        total[last] = gradient[last]
        for t in order:
            torch.addcmul(gradient[t], in_before[last], total[last], out=total[t])
            last = t
        in_start = in_before[last] * total[last]
        # In place, because allocating tensors of this size takes as long as the products.
        in_g.mul_(total)
        return None, total.mul_(in_f), in_g, in_start, None


def _relaxed(f: Tensor, g: Tensor, before: Tensor, out: Tensor) -> Tensor:
    return torch.lerp(before, f, g, out=out)


def _relaxed_slopes(f: Tensor, g: Tensor, before: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return g, f - before, 1 - g


def _combined(f: Tensor, k: Tensor, before: Tensor, out: Tensor) -> Tensor:
    predicted = k * before
    return torch.div(f + predicted, 1 + f * predicted, out=out)


def _combined_slopes(f: Tensor, k: Tensor, before: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    predicted = k * before
    scale = (1 + f * predicted).square().reciprocal()
    in_predicted = (1 - f.square()) * scale
    return (1 - predicted.square()) * scale, before * in_predicted, k * in_predicted


_RELAXATION = _Recursion(RELAX, _relaxed, _relaxed_slopes)
_FILTERING = _Recursion(COMBINE, _combined, _combined_slopes)


def gpu_kernel(x: Tensor) -> ModuleType | None:
    """Return `triton_recursion` if it supports tensors such as x and Triton works here, or None."""
    return _triton() if x.is_cuda and x.dtype == torch.float32 else None


@cache
def _triton() -> ModuleType | None:
    try:
        from deepnmf_cli.kernels import triton_recursion

        probe = torch.zeros(1, 1, device="cuda")
        triton_recursion.relax(probe, probe, probe[0], reverse=False, spins=False)
    except (ImportError, OSError, RuntimeError, SubprocessError):
        return None  # Triton may be missing, or the C compiler or the Python headers with which it builds its launcher
    return triton_recursion


def exported(name: str, inputs: tuple[Tensor, ...], shape: torch.Size | tuple, reverse: bool = False) -> Tensor:
    """Add the operation DOMAIN::`name` to the graph that is being exported and return its result, of shape `shape`."""
    return torch.onnx.ops.symbolic(
        f"{DOMAIN}::{name}", inputs, {"reverse": int(reverse)}, dtype=inputs[0].dtype, shape=shape
    )
