"""Matrices as integers of 8 bits and scales."""

import numpy as np

LARGEST = 127


def rounded(values: np.ndarray, shared: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Return integers (int8) of the shape of `values`, and scales (float32), whose products come nearest to the values.

    A scale is the largest magnitude over the axes `shared`, where it has length 1, divided by 127.
    """
    largest = np.abs(values).max(shared, initial=0, keepdims=True)
    scales = np.where(largest > 0, largest / LARGEST, 1).astype(np.float32)
    return np.rint(values / scales).astype(np.int8), scales


def scaled_axis(values: np.ndarray) -> int:
    """Return the axis, 0 or 1, along which scales lose less of the rows and of the columns of a matrix.

    The rows of a layer's weights are alike. The atoms of an unfolded dictionary, its columns, may differ by a factor of
    a million, and scales of rows would leave nothing of the smaller ones. Tensors of more dimensions get scales along
    axis 0.
    """
    return min((0, 1), key=lambda axis: _lost(values, axis)) if values.ndim == 2 else 0


def _lost(values: np.ndarray, axis: int) -> float:
    """Return the error of a matrix relative to its rows or to its columns, whichever is larger; medians over these."""
    steps, scales = rounded(values, (1 - axis,))
    error = steps * scales - values
    sizes = (np.linalg.norm(error, axis=k) / np.linalg.norm(values, axis=k).clip(1e-30) for k in (0, 1))
    return max(float(np.median(size)) for size in sizes)
