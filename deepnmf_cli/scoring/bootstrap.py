"""Confidence intervals of means over files that are not independent: several share a speaker, or a noise recording.

The bootstrap draws whole clusters with replacement, independently for every factor, and a file counts as often as the
product of its clusters' counts (the pigeonhole bootstrap: Owen, "The pigeonhole bootstrap", Annals of Applied
Statistics 1(2), 2007). With one factor it is the cluster bootstrap. With few clusters, ten or so, such intervals tend
to be too narrow rather than too wide.
"""

from collections.abc import Sequence
from functools import lru_cache
from itertools import compress

import numpy as np
from numpy.typing import ArrayLike, NDArray

CONFIDENCE = 0.95

DRAWS = 4000
"""Number of resampled means: the ends of an interval vary by about a fiftieth of its width from seed to seed."""


def interval(values: ArrayLike, factors: Sequence[Sequence[str]], seed: int = 0) -> tuple[float, float] | None:
    """Return the 95 % interval (low, high) of the mean of `values` (n,), which are NaN for files without a value.

    Each of `factors`, at least one, names the cluster of every file, such as its speaker. Returns None if a factor has
    fewer than two clusters among the files with a value, since nothing can be said then of how others would do.
    """
    values = np.asarray(values, np.float64)
    defined = ~np.isnan(values)
    values = values[defined]
    weights = _weights(tuple(tuple(compress(factor, defined)) for factor in factors), seed)
    if weights is None:
        return None
    totals = weights.sum(1)
    drawn = totals > 0  # by chance no file may have both of its clusters drawn
    means = (weights[drawn] @ values) / totals[drawn]
    low, high = np.quantile(means, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)


@lru_cache(maxsize=1)
def _weights(factors: tuple[tuple[str, ...], ...], seed: int) -> NDArray[np.float64] | None:
    """Return how often each file counts, (DRAWS, files), or None if a factor has fewer than two clusters.

    The last result is cached, because scores of the same files come one after the other.
    """
    draw, weights = np.random.default_rng(seed), np.ones((DRAWS, len(factors[0])))
    for factor in factors:
        names, cluster = np.unique(np.asarray(factor, dtype=object).astype(str), return_inverse=True)
        if len(names) < 2:
            return None
        counts = draw.multinomial(len(names), np.full(len(names), 1 / len(names)), DRAWS)
        weights *= counts[:, cluster]
    weights.setflags(write=False)
    return weights
