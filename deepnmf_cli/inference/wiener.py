"""Masks that divide the mixture among the sources, computed from models of the sources, equation (34)."""

import torch
from torch import Tensor

SILENCE = 1e-10
"""Model magnitude (-200 dB of full scale) below which a bin counts as silent: nothing is known about its sources, so
they share it equally. This avoids 0/0 and unbounded gradients; above it, masks do not depend on the level."""


def masks(parts: Tensor) -> Tensor:
    """Share of each source in each bin, parts[s] / sum_s parts[s]: in [0, 1], summing to one over sources.

    Args:
        parts: models of the sources >= 0, (..., S, F, T).

    Returns: masks, same shape; 1/S for all where the sum is at most SILENCE. The sum is one up to one rounding per
    source.
    """
    total = parts.sum(-3, keepdim=True)
    shares = parts / total.clamp_min(SILENCE)
    return torch.where(total > SILENCE, shares, 1 / parts.shape[-3])


def apply_masks(masks: Tensor, mixture: Tensor) -> Tensor:
    """Source estimates (34), (..., S, F, T): masks (..., S, F, T) times a mixture (..., F, T), real or complex.

    Since masks sum to one, the estimates sum to the mixture.
    """
    return masks * mixture.unsqueeze(-3)
