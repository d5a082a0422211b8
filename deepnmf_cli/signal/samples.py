"""What samples may be: which values and shapes the arithmetic of enhancement carries."""

from pathlib import Path

import numpy as np

from deepnmf_cli.errors import AudioError

LARGEST = 1e15
"""Largest magnitude of a sample, 300 dB beyond full scale: sums of squares of magnitudes must fit in single precision,
or all that follows is not a number."""


def check_samples(where: str | Path, samples: np.ndarray, rate_hz: int, first_frame: int = 0) -> None:
    """Raise AudioError at the first of samples (channels, n) that is not finite or beyond LARGEST.

    `first_frame` is where `samples` begin in the recording, for the message.
    """
    usable = np.abs(samples) <= LARGEST  # which is false for NaN
    if usable.all():
        return
    frame, channel = np.argwhere(~usable.T)[0]
    value, at = samples[channel, frame], first_frame + frame
    kind = "too large" if abs(value) <= np.finfo(np.float32).max else "not finite"  # in single precision
    found = f"a sample that is {kind} ({value:g}) at {at / rate_hz:.3f} s (sample {at}, channel {channel + 1})"
    remedy = "Check the sample format, or replace such samples by zeros."
    raise AudioError(where, found, f"finite samples of at most {LARGEST:g}", remedy)


def as_samples(samples: object, channels: int | None = None) -> np.ndarray:
    """An array (C, n) float32 of what can be one; `channels` says what C must be. Raises AudioError for all else."""
    expected = f"samples of shape ({channels or 'C'}, n), real numbers"
    try:
        array = np.asarray(samples)
    except ValueError as error:  # rows of several lengths
        raise AudioError("samples", "rows of several lengths", expected, "Pass a NumPy array.") from error
    if array.dtype.kind not in "fiub":
        raise AudioError("samples", f"values of type {array.dtype}", expected, "Pass an array of float32.")
    if array.ndim != 2 or channels not in (None, len(array)):
        remedy = "Channels come first: pass x[None] for one channel, or x.T for an array (n, C)."
        raise AudioError("samples", f"shape {array.shape}", expected, remedy)
    if array.dtype == np.float32:
        return array
    with np.errstate(over="ignore"):  # `check_samples` finds what became infinite
        return array.astype(np.float32)
