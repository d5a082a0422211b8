"""Recursions along a chain, step by step as they are defined; gradients are left to autograd."""

from collections.abc import Callable

import torch
from torch import Tensor

Step = Callable[[Tensor, Tensor, Tensor], Tensor]
"""From f = W x + b, g = V x + c, and the state before: the next state."""


def mean_field(f: Tensor, g: Tensor, before: Tensor) -> Tensor:
    """(14)-(15) with p = 1: the mean of the old expectation and the new one."""
    gamma = 1 / (1 + (-g).exp())
    return (1 - gamma) * before + gamma * f.tanh()


def geometric(f: Tensor, g: Tensor, before: Tensor) -> Tensor:
    """(14)-(15) with p -> 0: the product of powers of the probabilities of up and down, normalised."""
    gamma = 1 / (1 + (-g).exp())
    up, down = (
        ((1 + sign * before) / 2) ** (1 - gamma) * ((1 + sign * f.tanh()) / 2) ** gamma for sign in (1, -1)
    )  # fmt: skip
    return (up - down) / (up + down)


def filtering(longest: float) -> Step:
    """(22): Bayes' rule for a spin that keeps its sign with probability (1 + k)/2, k = `longest` / (1 + exp g)."""

    def step(f: Tensor, g: Tensor, before: Tensor) -> Tensor:
        prior = (1 + longest / (1 + g.exp()) * before) / 2
        up, down = prior * (1 + f.tanh()) / 2, (1 - prior) * (1 - f.tanh()) / 2
        return (up - down) / (up + down)

    return step


def path(step: Step, x: Tensor, weight: Tensor, bias: Tensor, start: Tensor, reverse: bool = False) -> Tensor:
    """States (T, ..., S) of x (T, ..., E) with weight (2S, E) and bias (2S,), from the state `start` (..., S)."""
    states, state, spins = [start] * len(x), start, start.shape[-1]
    for t in reversed(range(len(x))) if reverse else range(len(x)):
        sums = (weight * x[t].unsqueeze(-2)).sum(-1) + bias
        states[t] = state = step(sums[..., :spins], sums[..., spins:], state)
    return torch.stack(states)


def both_ways(step: Step, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """States (T, ..., 2S) forwards and backwards, from zeros; weight (4S, E) and bias (4S,)."""
    start = x.new_zeros(*x.shape[1:-1], len(bias) // 4)
    ways = zip(weight.chunk(2), bias.chunk(2), (False, True), strict=True)
    return torch.cat([path(step, x, w, b, start, reverse) for w, b, reverse in ways], -1)
