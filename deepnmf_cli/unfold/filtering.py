"""Exact filtering along a chain of spins: m_t = (f_t + k_t m_{t-1}) / (1 + f_t k_t m_{t-1}), sum-product messages (22).

A spin keeps the sign of the one before with probability (1 + k_t)/2, and evidence alone would give it the expectation
f_t. Then k_t m_{t-1} is its expectation before the evidence, and by Bayes' rule the odds (1 + m)/(1 - m) of both
multiply. Where relaxation averages opinions, filtering adds up evidence.
"""

from typing import Any

import torch
from torch import Tensor

from deepnmf_cli.signal.recursion import combine


class _Filtering(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, evidence: Tensor, keep: Tensor, start: Tensor, reverse: bool) -> Tensor:
        path = combine(evidence, keep, start, reverse)
        ctx.save_for_backward(evidence, keep, start, path)
        ctx.reverse = reverse
        return path

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        evidence, keep, start, path = ctx.saved_tensors
        before = torch.cat([path[1:], start[None]] if ctx.reverse else [start[None], path[:-1]])
        predicted = keep * before
        scale = (1 + evidence * predicted).square().reciprocal()
        passed = (1 - evidence.square()) * scale  # by the slope of m_t in k_t m_{t-1}
        carried = keep * passed
        # total_t = dE/dm_t including all later steps
        total, later = torch.empty_like(path), None
        for t in range(len(path)) if ctx.reverse else reversed(range(len(path))):
            if later is None:
                total[t] = gradient[t]
            else:
                torch.addcmul(gradient[t], carried[later], total[later], out=total[t])
            later = t
        return (
            total * (1 - predicted.square()) * scale,
            total * before * passed,
            carried[later] * total[later],
            None,
        )


def filter_chain(evidence: Tensor, keep: Tensor, start: Tensor, reverse: bool = False) -> Tensor:
    """The path m (T, ...) of expectations, m_0 = `start`.

    evidence f (T, ...) in [-1, 1] and keep k (T, ...) in [0, 1); start (...) in [-1, 1]. T >= 1. With k = 0 the result is
    `evidence`; without evidence, f = 0, it fades from `start`. `reverse` runs from the last t to the first.
    """
    if torch.is_grad_enabled() and any(x.requires_grad for x in (evidence, keep, start)):
        return _Filtering.apply(evidence, keep, start, reverse)
    return combine(evidence, keep, start, reverse)
