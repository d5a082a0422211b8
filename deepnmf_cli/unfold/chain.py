"""Recursions along a chain, h_t = r(f_t, g_t, h_{t-1}), and their gradient: a loop there, and a loop back."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Recursion:
    """A recursion and its slopes. Called, it gives the path h (T, ...) of f and g (T, ...) from h_0 (...), T >= 1; with
    `reverse` from the last t to the first."""

    path: Callable[[Tensor, Tensor, Tensor, bool], Tensor]
    """The same without gradient."""
    slopes: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]
    """Of h_t in f_t, g_t and h_{t-1}, for f, g and the states before, (T, ...) each. That in g_t must be a new tensor: it
    is overwritten."""

    def __call__(self, f: Tensor, g: Tensor, start: Tensor, reverse: bool = False) -> Tensor:
        if torch.is_grad_enabled() and any(x.requires_grad for x in (f, g, start)):
            return _Chain.apply(self, f, g, start, reverse)
        return self.path(f, g, start, reverse)


class _Chain(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, recursion: Recursion, f: Tensor, g: Tensor, start: Tensor, reverse: bool) -> Tensor:
        path = recursion.path(f, g, start, reverse)
        ctx.save_for_backward(f, g, start, path)
        ctx.recursion, ctx.reverse = recursion, reverse
        return path

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor, Tensor, Tensor, None]:
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
        # In place: memory for tensors of this size costs as much as the products.
        in_g.mul_(total)
        return None, total.mul_(in_f), in_g, in_start, None
