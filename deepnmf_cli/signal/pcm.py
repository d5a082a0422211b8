"""Sample formats of raw PCM: bytes to samples (channels, frames) and back."""

from dataclasses import dataclass

import numpy as np

INTEGER_BYTES = {"s16le": 2, "s24le": 3, "s32le": 4}
"""Signed little-endian integers, by the names that ffmpeg gives them -> bytes of a sample."""

FLOAT = "f32le"
"""Little-endian single precision, the one format whose values may lie beyond full scale."""

FORMATS = (*INTEGER_BYTES, FLOAT)


@dataclass(frozen=True)
class Layout:
    """How samples lie in a stream of bytes: frame by frame, in each frame channel by channel."""

    rate_hz: int
    channels: int
    format: str

    @property
    def frame_bytes(self) -> int:
        """Bytes of one frame: a sample of every channel."""
        return INTEGER_BYTES.get(self.format, 4) * self.channels


def decode(data: bytes, layout: Layout) -> np.ndarray:
    """Samples (channels, n) float32, integers scaled to [-1, 1), of a whole number of frames."""
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
