"""Proximal maps of the L1 penalty, which sparse coding applies to activations z (..., R, N) after a gradient step.

The proximal map of theta |h|_1 is the soft threshold sign(z) max(|z| - theta, 0); with the constraint h >= 0 it is
max(z - theta, 0) (Daubechies, Defrise & De Mol 2004). Both reduce every surviving activation by theta, including the
large ones. Support selection lets the largest pass unchanged (Chen, Liu, Wang & Yin, NeurIPS 2018).
"""

import torch
from torch import Tensor


def soft_threshold(z: Tensor, threshold: float | Tensor, signed: bool = False) -> Tensor:
    """Return sign(z) max(|z| - threshold, 0), or max(z - threshold, 0) where activations are not signed.

    `threshold` >= 0 broadcasts to z.
    """
    return z.sign() * torch.relu(z.abs() - threshold) if signed else torch.relu(z - threshold)


def select_support(z: Tensor, threshold: float | Tensor, share: Tensor, signed: bool = False) -> Tensor:
    """Apply `soft_threshold`, except that the largest `share` of the activations of a frame pass unchanged if they
    reach the threshold.

    Args:
        z: activations before the threshold, (..., R, N).
        threshold: >= 0, broadcasts to z.
        share: in [0, 1], broadcasts to (..., 1, N). floor(share R) activations pass; it gets no gradient.
        signed: whether activations may be negative, so that size is |z|; otherwise it is z.
    """
    size = z.detach().abs() if signed else z.detach()
    count = (share.detach() * z.shape[-2]).long().expand(*z.shape[:-2], 1, z.shape[-1])
    ranked = size.sort(-2, descending=True).values
    smallest = ranked.gather(-2, (count - 1).clamp_min(0))
    passes = (count > 0) & (size >= smallest) & (size >= threshold)
    return torch.where(passes, z, soft_threshold(z, threshold, signed))
