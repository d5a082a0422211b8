"""Frequency bands: single bins where harmonics are resolved, wider bands on the ERB scale above."""

import torch
from torch import Tensor


def erb_number(frequency_hz: Tensor) -> Tensor:
    """Equivalent rectangular bandwidths below a frequency: 21.4 log10(1 + 0.00437 f), Glasberg & Moore 1990."""
    return 21.4 * torch.log10(1 + 0.00437 * frequency_hz)


def band_matrix(bins: int, single: int, wide: int, rate_hz: int) -> Tensor:
    """Non-negative (single + wide, bins): how much each bin belongs to each band; the columns sum to one.

    The lowest `single` bins are bands of their own; the rest is shared by `wide` overlapping triangles, evenly spaced
    on the ERB scale.
    """
    frequency = torch.linspace(0, rate_hz / 2, bins, dtype=torch.float64)
    position = erb_number(frequency[single:])
    centres = torch.linspace(float(position[0]), float(position[-1]), wide, dtype=torch.float64)
    spacing = centres[1] - centres[0] if wide > 1 else torch.ones(())
    # Hat functions on a uniform grid sum to one at every point between the first and the last centre.
    hats = (1 - (position[None] - centres[:, None]).abs() / spacing).clamp_min(0)
    matrix = torch.zeros(single + wide, bins, dtype=torch.float64)
    matrix[:single, :single] = torch.eye(single)
    matrix[single:, single:] = hats / hats.sum(0)
    return matrix.float()
