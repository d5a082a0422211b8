"""Frequency bands for the input of grids: single bins where harmonics are resolved, wider ERB-scale bands above."""

import numpy as np

COMPRESSION = 0.3
"""Exponent applied to band magnitudes: close to perceived loudness, and bounded where a logarithm is not."""

QUIET = 1e-8
"""Squared product of two bins 40 dB below the level: below that, phase differences fade out."""

NEIGHBOURS = 2
"""Number of bands on either side of its own that a node of a grid sees."""


def erb_number(frequency_hz: np.ndarray) -> np.ndarray:
    """Equivalent rectangular bandwidths below a frequency: 21.4 log10(1 + 0.00437 f), Glasberg & Moore 1990."""
    return 21.4 * np.log10(1 + 0.00437 * frequency_hz)


def band_matrix(bins: int, single: int, wide: int, rate_hz: int) -> np.ndarray:
    """Non-negative (single + wide, bins) float32: the share of each bin that belongs to each band; columns sum to one.

    The lowest `single` bins are bands of their own; the rest is shared by `wide` overlapping triangles, evenly spaced
    on the ERB scale. A single wide band takes all of it.
    """
    position = erb_number(np.linspace(0, rate_hz / 2, bins)[single:])
    centres = np.linspace(position[0], position[-1], wide)
    spacing = centres[1] - centres[0] if wide > 1 else np.inf
    # Hat functions on a uniform grid sum to one at every point between the first and the last centre.
    hats = (1 - abs(position[None] - centres[:, None]) / spacing).clip(0, None)
    matrix = np.zeros((single + wide, bins))
    matrix[:single, :single] = np.eye(single)
    matrix[single:, single:] = hats / hats.sum(0)
    return matrix.astype(np.float32)
