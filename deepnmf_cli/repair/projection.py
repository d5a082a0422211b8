"""Consistent projection: restoration of missing or clipped samples from those around them.

One iteration computes coefficients c = A y on a Parseval frame, shrinks them by a proximal map, and restores what is
known of the samples, y <- P(S prox(c)): Kitic, Bertin & Gribonval, "Sparsity and cosparsity for audio declipping: a
flexible non-convex approach", LVA/ICA 2015; Siedenburg, Kowalski & Doerfler, "Audio declipping with social sparsity",
ICASSP 2014.

All functions take NumPy arrays or torch tensors: training unfolds them with torch, and repair runs without it.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from deepnmf_cli.signal.arrays import Array, like, namespace
from deepnmf_cli.signal.tight_frame import TightFrame

FLOOR = 1e-12
"""Power (-120 dB of the mean) below which a neighbourhood is silent; it prevents 0/0."""

BANDS = 16
"""Number of bands in which thresholds are given, of equal width on the scale of `warped`."""

HIGHEST_HZ = 8000.0
"""Upper end of the bands; frequencies above have the threshold of the highest."""

TIME, FREQUENCY = 7, 5
"""Number of frames and of bins in a neighbourhood."""

PROXES = ("l1", "pew")
"""Proximal maps of models. There is also "nmf", which needs a dictionary and serves for comparison."""


@dataclass(frozen=True)
class Observation:
    """What is known of samples (..., N): `samples` where not `missing`, and bounds elsewhere, `lower` <= y <= `upper`,
    which are infinite in gaps.

    A clipped sample is bounded on its own side by the clipping level, or by its own value: |y| >= level, same sign.
    """

    samples: Array
    missing: Array
    lower: Array
    upper: Array

    def project(self, estimate: Array) -> Array:
        """P: the nearest samples that agree with what is known; known samples stay the same bit for bit."""
        arrays = namespace(estimate)
        bounded = arrays.minimum(arrays.maximum(estimate, self.lower), self.upper)
        return arrays.where(self.missing, bounded, self.samples)

    def scaled(self, gain: Array) -> "Observation":
        """The observation of the same samples multiplied by `gain` > 0."""
        samples, lower, upper = (gain * value for value in (self.samples, self.lower, self.upper))
        return replace(self, samples=samples, lower=lower, upper=upper)


def warped(hz: np.ndarray) -> np.ndarray:
    """Frequencies on the mel scale, which is linear up to about 700 Hz and logarithmic above."""
    return np.log1p(hz / 700)


def band_weights(bins: int, rate_hz: float) -> np.ndarray:
    """Weights (bins, BANDS) that interpolate values of bands over frequency; each row sums to one."""
    at = warped(np.minimum(np.linspace(0, rate_hz / 2, bins), HIGHEST_HZ))
    centres = np.linspace(0, warped(np.array(HIGHEST_HZ)), BANDS)
    return np.stack([np.interp(at, centres, row) for row in np.eye(BANDS)], -1)


def smoothed(power: Array, weights: Array, axis: int) -> Array:
    """Mean of power (..., T, F) over neighbours along `axis`, by an odd number of weights >= 0; edges are repeated."""
    arrays, half = namespace(power), len(weights) // 2
    power = power.swapaxes(axis, -1)
    first, last = power[..., :1], power[..., -1:]
    padded = arrays.concatenate([*[first] * half, power, *[last] * half], -1)
    count = power.shape[-1]
    weights = weights / weights.sum()
    total = weights[0] * padded[..., :count]
    for k in range(1, len(weights)):
        total = total + weights[k] * padded[..., k : k + count]
    return total.swapaxes(axis, -1)


def soft_threshold(coefficients: Array, threshold: Array) -> Array:
    """Proximal map of threshold |c|_1 for complex c: the phase stays, the magnitude loses `threshold`."""
    size = namespace(coefficients).sqrt(coefficients.real**2 + coefficients.imag**2 + FLOOR)
    return coefficients * namespace(coefficients).clip(1 - threshold / size, 0, None)


def persistent_wiener(coefficients: Array, threshold: Array, in_time: Array, in_frequency: Array) -> Array:
    """Apply the empirical Wiener gain max(0, 1 - threshold^2 / E), E being the mean power of a neighbourhood.

    What persists is taken for signal (Kowalski, Siedenburg & Doerfler, "Social sparsity! Neighborhood systems enrich
    structured shrinkage operators", IEEE Trans. Signal Processing 61, 2013).

    Args:
        coefficients: complex, (..., T, F).
        threshold: >= 0, broadcasts to (..., T, F).
        in_time: weights >= 0 of TIME frames; one row.
        in_frequency: weights >= 0 of FREQUENCY bins.
    """
    power = coefficients.real**2 + coefficients.imag**2
    power = smoothed(smoothed(power, in_time, -2), in_frequency, -1)
    return coefficients * namespace(coefficients).clip(1 - threshold**2 / (power + FLOOR), 0, None)


def nmf_wiener(coefficients: Array, threshold: Array, dictionary: Array, updates: int = 5) -> Array:
    """Apply the Wiener gain M^2 / (M^2 + threshold^2) of a model M = D h of the magnitudes.

    The activations h start out equal and get `updates` multiplicative updates of the KL divergence (Lee & Seung 2001).
    The `dictionary` D is (F, R) >= 0.
    """
    magnitude = namespace(coefficients).sqrt(coefficients.real**2 + coefficients.imag**2 + FLOOR)
    sums = dictionary.sum(0)
    h = magnitude.mean(-1)[..., None] * (0 * sums + 1)
    for _ in range(updates):
        h = h * ((magnitude / (h @ dictionary.T + FLOOR)) @ dictionary) / (sums + FLOOR)
    model = h @ dictionary.T
    return coefficients * (model**2 / (model**2 + threshold**2 + FLOOR))


@dataclass(frozen=True)
class Problem:
    """An observation, and what all layers need to process it."""

    observation: Observation
    frame: TightFrame
    bands: Array
    """`band_weights`, (F, BANDS)."""
    lost: Array
    """Share of each window's weight that is missing, (..., T, 1), from 0 to 1."""
    start: Array
    """The first estimate (..., N)."""


def problem(observation: Observation, frame: TightFrame, rate_hz: float, start: Array) -> Problem:
    """Return what layers need. `observation` must be scaled to unit power of its known samples, see `unit_gain`."""
    missing = namespace(start).where(observation.missing, 0 * start + 1, 0 * start)
    weights = frame.window**2
    lost = (frame.frames(missing) * like(weights / weights.sum(), start)).sum(-1)[..., None]
    bands = like(band_weights(frame.bins, rate_hz), start)
    return Problem(observation, frame, bands, lost, observation.project(start))


def unit_gain(samples: np.ndarray, missing: np.ndarray) -> np.ndarray:
    """Gain (..., 1) that scales the known samples to unit power; 1 where they are silent."""
    known = np.where(missing, 0, samples)
    power = (known**2).sum(-1, keepdims=True) / np.maximum((~missing).sum(-1, keepdims=True), 1)
    return 1 / np.sqrt(np.where(power > FLOOR, power, 1))


def step(problem: Problem, state: tuple[Array, Array], parameters: dict[str, Any], prox: str) -> tuple[Array, Array]:
    """One iteration: y <- P(y + r (S prox(A y) - y) + m (y - y')), for the current and the previous estimate (y, y').

    The momentum m (Polyak 1964) is zero in the classical iteration. Parameters of the layer: `threshold` (BANDS,) > 0;
    `slope` (BANDS,), the logarithm of the factor by which a threshold grows from a frame that is all known to one that
    is all missing; `relaxation` (1,) > 0; `momentum` (1,); for "pew" `time` (TIME,) and `frequency` (FREQUENCY,), for
    "nmf" `dictionary` (F, R), all >= 0.
    """
    (estimate, before), frame = state, problem.frame
    arrays = namespace(estimate)
    coefficients = frame.analysis(estimate)
    threshold = problem.bands @ parameters["threshold"]
    threshold = threshold * arrays.exp(problem.lost * (problem.bands @ parameters["slope"]))
    if prox == "pew":
        shrunk = persistent_wiener(coefficients, threshold, parameters["time"], parameters["frequency"])
    elif prox == "nmf":
        shrunk = nmf_wiener(coefficients, threshold, parameters["dictionary"])
    else:
        shrunk = soft_threshold(coefficients, threshold)
    proposed = frame.synthesis(shrunk, estimate.shape[-1])
    moved = estimate + parameters["relaxation"] * (proposed - estimate) + parameters["momentum"] * (estimate - before)
    return problem.observation.project(moved), estimate
