"""Recordings in the layouts and data types of other packages, or in torch tensors, to (C, n) float32 and back."""

import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from deepnmf_cli.errors import AudioError
from deepnmf_cli.signal.formats import MAX_CHANNELS
from deepnmf_cli.signal.samples import as_array, to_steps

OBVIOUS_CHANNELS = 8
"""Most channels that can be told from samples by the shape alone: more rows are rather a batch of recordings."""

INTEGERS = {"int8": (8, 0), "uint8": (8, 128), "int16": (16, 0), "int32": (32, 0)}
"""Integer types of audio -> bits that make up full scale, and the value of silence."""


def from_foreign(samples: Any, channels_first: bool | None = None) -> tuple[np.ndarray, Callable[[np.ndarray], Any]]:
    """Samples (C, n) float32 of a recording, and a function that gives such an array the shape and kind of `samples`.

    `samples` is a NumPy array, or what can be converted to one, or a torch tensor, of shape (n,), (n, C) or (C, n), as
    `channels_first` says. If that is None, the channels are an axis of at most OBVIOUS_CHANNELS beside one that is too
    long for channels. Floats are taken as they are, integers as fractions of their full scale. Raises AudioError for
    anything else.
    """
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(samples, torch.Tensor):
        return _from_tensor(samples, channels_first)
    array = as_array(samples, "samples of shape (n,), (n, C) or (C, n)")
    scaled, unscaled = _as_float(array)
    if array.ndim == 1:
        return scaled[None], lambda done: unscaled(done[0])
    if _first(array.shape, channels_first):
        return scaled, unscaled
    return scaled.T, lambda done: unscaled(np.ascontiguousarray(done.T))


def _from_tensor(tensor: Any, channels_first: bool | None) -> tuple[np.ndarray, Callable[[np.ndarray], Any]]:
    torch = sys.modules["torch"]
    values = tensor.detach().cpu().resolve_neg()
    # NumPy has no bfloat16.
    samples, restored = from_foreign(
        (values.float() if values.dtype == torch.bfloat16 else values).numpy(), channels_first
    )
    return samples, lambda done: torch.from_numpy(restored(done)).to(tensor.device, tensor.dtype)


def _as_float(array: np.ndarray) -> tuple[np.ndarray, Callable[[np.ndarray], np.ndarray]]:
    """The array in float32, and a function that converts an array of any shape back to its data type."""
    if array.dtype.kind == "f":
        with np.errstate(over="ignore"):  # `check_samples` finds what becomes infinite
            return array.astype(np.float32), lambda done: done.astype(array.dtype)
    if array.dtype.name not in INTEGERS:
        remedy = "Convert them: integers of other types do not say what full scale is."
        expected = f"floats, or integers of type {', '.join(INTEGERS)}"
        raise AudioError("samples", f"values of type {array.dtype}", expected, remedy)
    bits, silence = INTEGERS[array.dtype.name]
    scaled = (array.astype(np.float64) - silence) / 2 ** (bits - 1)
    return scaled.astype(np.float32), lambda done: (to_steps(done, bits)[0] + silence).astype(array.dtype)


def _first(shape: tuple[int, ...], channels_first: bool | None) -> bool:
    """Whether channels are the first of two axes. Raises AudioError if that is unclear, or the axes are not two."""
    if len(shape) != 2:
        expected = "samples of shape (n,), (n, channels) or (channels, n)"
        raise AudioError("samples", f"shape {shape}", expected, "Pass one recording at a time.")
    if channels_first is not None:
        return channels_first
    obvious = [few <= OBVIOUS_CHANNELS and many > MAX_CHANNELS for few, many in (shape, shape[::-1])]
    if not any(obvious):
        remedy = "Pass channels_first=True for (channels, n), channels_first=False for (n, channels)."
        expected = f"an axis of at most {OBVIOUS_CHANNELS} channels beside one of more than {MAX_CHANNELS} samples"
        raise AudioError("samples", f"shape {shape}", expected, remedy)
    return obvious[0]
