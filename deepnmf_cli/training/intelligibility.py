"""ESTOI as a term of the objective: how well the estimate's envelopes follow the target's, with a gradient.

Jensen & Taal, "An algorithm for predicting the intelligibility of speech masked by modulated noise maskers", 2016; in the
frames of the hearing model, 32 ms every 16 ms, where the original has 25.6 and 12.8 ms at 10 kHz.
"""

from functools import cache

import torch
from torch import Tensor

from deepnmf_cli.training.spectra import frequencies

TINY = 1e-8

LOWEST_HZ = 150.0
BANDS = 15
"""Third octaves from LOWEST_HZ, the centre of the first, to 3.8 kHz."""

STRETCH_FRAMES = 24
"""384 ms, over which envelopes are compared."""

RANGE_DB = 40.0
"""Frames so far below the loudest one of the target hold no speech and are left out."""


def intelligibility_lost(estimate: Tensor, target: Tensor, rate_hz: int) -> Tensor:
    """1 - ESTOI, (B,), between 0 and about 1, of `power_spectra` (B, F, T); 0 where the target has less
    than 0.4 s of speech."""
    if target.shape[-1] < STRETCH_FRAMES:
        return estimate.new_zeros(len(estimate))
    energy = target.sum(1)
    speech = energy > 10 ** (-RANGE_DB / 10) * energy.amax(1, keepdim=True)
    # Frames with speech go to the front, in their order, and stretches that reach beyond them are not counted.
    order = speech.logical_not().to(torch.uint8).argsort(dim=1, stable=True)
    bands = third_octaves(rate_hz, str(estimate.device))
    envelopes = []
    for power in (estimate, target):
        envelope = (bands @ power + TINY).sqrt()
        envelope = envelope.gather(2, order[:, None].expand_as(envelope))
        envelopes.append(_normalised(envelope.unfold(2, STRETCH_FRAMES, 1).transpose(1, 2)))
    likeness = (envelopes[0] * envelopes[1]).sum((2, 3)) / STRETCH_FRAMES  # (B, stretches)
    first = torch.arange(likeness.shape[1], device=likeness.device)
    counted = first + STRETCH_FRAMES <= speech.sum(1, keepdim=True)
    return torch.where(counted, 1 - likeness, 0).sum(1) / counted.sum(1).clamp_min(1)


def _normalised(envelopes: Tensor) -> Tensor:
    """Envelopes (..., bands, frames) with rows, then columns, of mean zero and length one."""
    for axis in (-1, -2):
        envelopes = envelopes - envelopes.mean(axis, keepdim=True)
        envelopes = envelopes / (envelopes.square().sum(axis, keepdim=True) + TINY).sqrt()
    return envelopes


@cache
def third_octaves(rate_hz: int, device: str = "cpu") -> Tensor:
    """(BANDS, F): which bins of the hearing model's windows belong to which band; none above half the rate."""
    frequency = frequencies(rate_hz)
    centre = LOWEST_HZ * 2 ** (torch.arange(BANDS, dtype=torch.float64) / 3)
    low, high = centre * 2 ** (-1 / 6), centre * 2 ** (1 / 6)
    return ((frequency >= low[:, None]) & (frequency < high[:, None])).float().to(device)
