"""Gap filling by autoregression: alternately estimate a predictor and the samples that minimise its squared errors.

Janssen, Veldhuis & Vries, "Adaptive interpolation of discrete-time signals that can be modeled as autoregressive
processes", IEEE Trans. ASSP 34, 1986. The predictor is estimated from the autocorrelation of windowed samples near the
gap.
"""

import numpy as np

ORDERS_S, CONTEXT_S = (0.004, 0.008, 0.016), 0.048
"""Lengths of the predictors of successive iterations, and of the context on both sides that they are estimated from.
The first one sees a gap that is still empty, which a longer one would learn; in a longer context, speech has changed.
"""

RIDGE = 1e-3
"""Noise floor of the predictor, -30 dB, which keeps it from overfitting the few samples it is estimated from."""

LONGEST_S = 0.1
"""Longer gaps are not filled: a system of their size is slow to solve, and its solution decays to zero within 50 ms."""


def predictor(samples: np.ndarray, order: int) -> np.ndarray:
    """Prediction error filter (order + 1,) of samples (n,); its first coefficient is 1."""
    windowed = samples * np.hanning(len(samples) + 2)[1:-1]
    size = 1 << (len(samples) + order).bit_length()
    spectrum = np.fft.rfft(windowed, size)
    correlation = np.fft.irfft(np.abs(spectrum) ** 2)[: order + 1]
    if not correlation[0] > 0:
        return np.eye(1, order + 1)[0]
    correlation[0] *= 1 + RIDGE
    return np.concatenate([[1.0], -np.linalg.solve(toeplitz(correlation[:-1]), correlation[1:])])


def toeplitz(column: np.ndarray) -> np.ndarray:
    """The symmetric Toeplitz matrix (n, n) whose first column is `column` (n,), as a view with repeated values."""
    both = np.concatenate([column[:0:-1], column])
    return np.lib.stride_tricks.sliding_window_view(both, len(column))[::-1]


def least_errors(samples: np.ndarray, missing: np.ndarray, errors: np.ndarray) -> np.ndarray:
    """Samples (n,) with the `missing` ones filled to minimise the squared output of the filter `errors` (order + 1,).

    Samples beyond both ends count as zero.
    """
    correlation = np.convolve(errors, errors[::-1])[len(errors) - 1 :]
    places = np.flatnonzero(missing)
    known = np.where(missing, 0.0, samples)
    both = np.concatenate([correlation[:0:-1], correlation])
    right = np.convolve(known, both)[len(errors) - 1 :][places]
    filled = known.copy()
    filled[places] = solve_banded(correlation, places, -right)
    return filled


def solve_banded(correlation: np.ndarray, places: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Solve a positive definite system with the matrix (n, n) of correlation[|p - q|] for all places p and q (n,).

    `places` rise, and the matrix is zero beyond the `correlation` (width + 1,). The solution (n,) is found by
    elimination in blocks of `width`, whose cost grows with n width^2 instead of n^3. Only three blocks of the matrix
    exist at a time, as gaps of high sampling rates have many samples.
    """
    width = len(correlation) - 1
    cuts = [slice(k, min(k + width, len(right))) for k in range(0, len(right), width)]

    def between(rows: slice, columns: slice) -> np.ndarray:
        lag = np.abs(places[rows, None] - places[columns])
        return np.where(lag <= width, correlation[np.minimum(lag, width)], 0.0)

    solved: list[tuple[np.ndarray, np.ndarray]] = []
    for place, (cut, after) in enumerate(zip(cuts, [*cuts[1:], slice(0, 0)], strict=True)):
        block, values = between(cut, cut), right[cut]
        if solved:
            coupling, (ahead, constant) = between(cut, cuts[place - 1]), solved[-1]
            block, values = block - coupling @ ahead, values - coupling @ constant
        found = np.linalg.solve(block, np.concatenate([between(cut, after), values[:, None]], 1))
        solved.append((found[:, :-1], found[:, -1]))
    parts = [solved[-1][1]]
    for ahead, constant in reversed(solved[:-1]):
        parts.append(constant - ahead @ parts[-1])
    return np.concatenate(parts[::-1])


def fill(samples: np.ndarray, missing: np.ndarray, rate_hz: float) -> np.ndarray:
    """Samples (n,) float64 with the `missing` ones filled; gaps that are near each other are filled together.

    Gaps longer than LONGEST_S become zero, and so do shorter ones that are filled together with them, and gaps whose
    known neighbourhood is silent.
    """
    context = round(CONTEXT_S * rate_hz)
    filled = np.where(missing, 0.0, samples)
    for first, end in stretches(missing, context):
        low, high = max(0, first - context), min(len(samples), end + context)
        unknown = missing[low:high].copy()
        near = filled[low:high]
        if unknown.all() or not near.any() or max(b - a for a, b in stretches(unknown)) > LONGEST_S * rate_hz:
            continue
        for order_s in ORDERS_S:
            order = min(max(1, round(order_s * rate_hz)), len(near) - 1)
            near = least_errors(near, unknown, predictor(near, order))
        inside = slice(first - low, end - low)
        filled[first:end] = np.where(unknown[inside], near[inside], filled[first:end])
    return filled


def stretches(marked: np.ndarray, joined: int = 0) -> list[tuple[int, int]]:
    """Runs [first, end) of marked samples (n,); those less than `joined` samples apart are merged."""
    edges = np.flatnonzero(np.diff(marked.astype(np.int8), prepend=0, append=0))
    runs: list[tuple[int, int]] = []
    for first, end in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True):
        if runs and first - runs[-1][1] < joined:
            runs[-1] = (runs[-1][0], end)
        else:
            runs.append((first, end))
    return runs
