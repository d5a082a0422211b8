"""The values and shapes of samples that the arithmetic of enhancement supports, and how raw PCM stores them."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from deepnmf_cli.errors import AudioError

LARGEST = 1e15
"""Largest magnitude of a sample, 300 dB beyond full scale: sums of squares of magnitudes must fit in single precision,
or everything that follows is not a number."""


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


def as_array(samples: object, expected: str) -> np.ndarray:
    """Convert `samples` to a NumPy array of any type. Raises AudioError for rows of several lengths."""
    try:
        return np.asarray(samples)
    except ValueError as error:
        raise AudioError("samples", "rows of several lengths", expected, "Pass a NumPy array.") from error


def as_samples(samples: object, channels: int | None = None) -> np.ndarray:
    """Convert `samples` to an array (C, n) float32; `channels` says what C must be. Raises AudioError if it cannot."""
    expected = f"samples of shape ({channels or 'C'}, n), real numbers"
    array = as_array(samples, expected)
    if array.dtype.kind not in "fiub":
        raise AudioError("samples", f"values of type {array.dtype}", expected, "Pass an array of float32.")
    if array.ndim != 2 or channels not in (None, len(array)):
        remedy = "Channels come first: pass x[None] for one channel, or x.T for an array (n, C)."
        raise AudioError("samples", f"shape {array.shape}", expected, remedy)
    if array.dtype == np.float32:
        return array
    with np.errstate(over="ignore"):  # `check_samples` finds what became infinite
        return array.astype(np.float32)


INTEGER_BYTES = {"s16le": 2, "s24le": 3, "s32le": 4}
"""Signed little-endian integers, by the names that ffmpeg gives them -> bytes of a sample."""

FLOAT = "f32le"
"""Little-endian single precision, the one format whose values may lie beyond full scale."""

FORMATS = (*INTEGER_BYTES, FLOAT)


@dataclass(frozen=True)
class Layout:
    """Layout of samples in a stream of bytes: frame by frame, and channel by channel in each frame."""

    rate_hz: int
    channels: int
    format: str

    @property
    def frame_bytes(self) -> int:
        """Bytes of one frame: a sample of every channel."""
        return INTEGER_BYTES.get(self.format, 4) * self.channels


def decode(data: bytes, layout: Layout) -> np.ndarray:
    """Decode a whole number of frames to samples (channels, n) float32, integers being scaled to [-1, 1)."""
    if layout.format == FLOAT:
        samples = np.frombuffer(data, "<f4").astype(np.float32)
    else:
        width = INTEGER_BYTES[layout.format]
        # The bytes of a shorter integer become the upper ones of 32 bits.
        wide = np.zeros((len(data) // width, 4), np.uint8)
        wide[:, 4 - width :] = np.frombuffer(data, np.uint8).reshape(-1, width)
        samples = (wide.view("<i4")[:, 0] / 2.0**31).astype(np.float32)
    return np.ascontiguousarray(samples.reshape(-1, layout.channels).T)


def encode(samples: np.ndarray, layout: Layout) -> tuple[bytes, int]:
    """The bytes of samples (channels, n), and how many values were beyond full scale.

    Integers are rounded to the nearest step and clipped to [-1, 1 - one step]; floats are stored as they are.
    """
    if layout.format == FLOAT:
        return samples.T.astype("<f4").tobytes(), 0
    width = INTEGER_BYTES[layout.format]
    steps, clipped = to_steps(samples.T, 8 * width)
    wide = np.ascontiguousarray(steps, "<i4").view(np.uint8).reshape(-1, 4)
    return wide[:, :width].tobytes(), clipped


def to_steps(samples: np.ndarray, bits: int) -> tuple[np.ndarray, int]:
    """Samples as multiples of 2^(1 - bits), int32 of the same shape, bits <= 32, and how many were beyond full scale.

    Rounded to the nearest step and clipped to [-1, 1 - one step].
    """
    scale = 1 << (bits - 1)
    steps = np.rint(samples.astype(np.float64) * scale)
    limited = np.clip(steps, -scale, scale - 1)
    return limited.astype(np.int32), int(np.count_nonzero(limited != steps))
