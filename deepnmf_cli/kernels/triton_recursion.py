"""Exponential smoothing on a GPU: the loop over a chain and the loop of its gradient, in one launch each.

A step of a chain is a few operations on a few numbers. Launched one by one, these take microseconds each, a batch has
thousands of them, and the GPU is idle in between. Here a thread follows its chain from end to end. Triton, in which
this is written, comes with PyTorch for CUDA and compiles the functions when they are first used.
"""

from typing import Any

import torch
import triton
from torch import Tensor
from torch.autograd.function import once_differentiable
from triton import language as tl

CHAINS = 128
"""Number of chains that one program follows."""

SIZES = ("length", "chains")
"""Arguments whose values do not cause a new compilation."""


def relax(f: Tensor, g: Tensor, start: Tensor, reverse: bool, spins: bool) -> Tensor:
    """Return the path h (T, ...) of `recursion.relax`, with gradient, for float32 f and g (T, ...) and `start` (...).

    With `spins`, the target is tanh(f) and the coefficient sigmoid(g); neither is ever stored in memory.
    """
    return _Path.apply(f.contiguous(), g.contiguous(), start.contiguous(), reverse, spins)


class _Path(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, f: Tensor, g: Tensor, start: Tensor, reverse: bool, spins: bool) -> Tensor:
        path = torch.empty_like(f)
        _forward[_programs(start)](f, g, start, path, len(f), start.numel(), reverse, spins, CHAINS)
        ctx.save_for_backward(f, g, start, path)
        ctx.how = reverse, spins
        return path

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        f, g, start, path = ctx.saved_tensors
        results = torch.empty_like(f), torch.empty_like(g), torch.empty_like(start)
        given = f, g, start, path, gradient.contiguous()
        _backward[_programs(start)](*given, *results, len(f), start.numel(), *ctx.how, CHAINS)
        return *results, None, None


def _programs(start: Tensor) -> tuple[int]:
    return (triton.cdiv(start.numel(), CHAINS),)


@triton.jit
def _targets(f, g, at, inside, spins: tl.constexpr):
    """Return the target and the coefficient of the state at one step."""
    target, coefficient = tl.load(f + at, inside, 0.0), tl.load(g + at, inside, 0.0)
    if spins:
        target, coefficient = 2 * tl.sigmoid(2 * target) - 1, tl.sigmoid(coefficient)
    return target, coefficient


@triton.jit(do_not_specialize=SIZES)
def _forward(f, g, start, path, length, chains, reverse: tl.constexpr, spins: tl.constexpr, block: tl.constexpr):
    chain = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    inside, stride = chain < chains, chains.to(tl.int64)
    at = chain + (length - 1) * stride if reverse else chain
    state = tl.load(start + chain, inside, 0.0)
    for _ in range(length):
        target, coefficient = _targets(f, g, at, inside, spins)
        state += coefficient * (target - state)
        tl.store(path + at, state, inside)
        at += -stride if reverse else stride


@triton.jit(do_not_specialize=SIZES)
def _backward(
    f, g, start, path, gradient, to_f, to_g, to_start, length, chains,
    reverse: tl.constexpr, spins: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    """Compute the gradients of chains, from the last step of each to the first.

    total_t = gradient_t + (1 - g_{t+1}) total_{t+1} is the gradient of state t that includes all later steps.
    """
    chain = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    inside, stride = chain < chains, chains.to(tl.int64)
    at = chain if reverse else chain + (length - 1) * stride
    begin, later = tl.load(start + chain, inside, 0.0), tl.zeros([block], tl.float32)
    for step in range(length):
        target, coefficient = _targets(f, g, at, inside, spins)
        earlier, any_earlier = at + stride if reverse else at - stride, step < length - 1
        before = tl.where(any_earlier, tl.load(path + earlier, inside & any_earlier, 0.0), begin)
        total = tl.load(gradient + at, inside, 0.0) + later
        in_target, in_coefficient = total * coefficient, total * (target - before)
        if spins:
            in_target, in_coefficient = (
                in_target * (1 - target * target),
                in_coefficient * coefficient * (1 - coefficient),
            )
        tl.store(to_f + at, in_target, inside)
        tl.store(to_g + at, in_coefficient, inside)
        later = total * (1 - coefficient)
        at = earlier
    tl.store(to_start + chain, later, inside)
