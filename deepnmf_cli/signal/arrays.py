"""NumPy and torch behind common functions, so that code for both can be written once.

Enhancement must work without torch, whose import takes seconds; training needs torch for gradients and GPUs. The two
have the same names for most functions, and code that serves both is limited to these.
"""

import sys
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from types import ModuleType
from typing import Any

import numpy as np

Array = Any
"""A NumPy array or a torch tensor; the arguments of a function are all of the same kind, and so is its result."""


def namespace(array: Array) -> ModuleType:
    """The module of an array: numpy, or torch, which must have been imported already if there is a tensor."""
    return np if isinstance(array, np.ndarray) else sys.modules["torch"]


def like(values: np.ndarray, array: Array) -> Array:
    """`values` as an array of the library, the precision and the device of `array`."""
    if isinstance(array, np.ndarray):
        return values.astype(array.dtype, copy=False)
    if array.is_cuda:
        return _on_gpu(values.tobytes(), values.dtype.str, values.shape, array.dtype, array.device)
    return sys.modules["torch"].from_numpy(values).to(array)


@cache  # never dropped: a CUDA graph that captured one would read freed memory
def _on_gpu(content: bytes, kind: str, shape: tuple[int, ...], dtype: Any, device: Any) -> Array:
    """Constants that stay on the GPU: every copy would wait for it, and CUDA graphs cannot contain one."""
    values = np.frombuffer(content, kind).reshape(shape).copy()
    return sys.modules["torch"].from_numpy(values).to(device, dtype)


def copy(array: Array) -> Array:
    """The same values in memory of their own: a view would keep the whole array that it is a part of."""
    return array.copy() if isinstance(array, np.ndarray) else array.clone()


def pad(array: Array, before: int, after: int) -> Array:
    """`array` padded with `before` and `after` zeros along its last axis."""
    zeros = namespace(array).zeros_like(array[..., :1])
    sides = [namespace(array).broadcast_to(zeros, (*array.shape[:-1], count)) for count in (before, after)]
    return namespace(array).concatenate([sides[0], array, sides[1]], -1)


class InNumpy:
    """Base class of those backends of `deepnmf_cli.streaming` that work on NumPy arrays as they are."""

    def from_numpy(self, samples: np.ndarray) -> np.ndarray:
        return samples

    def to_numpy(self, samples: np.ndarray) -> np.ndarray:
        return samples

    def running(self) -> AbstractContextManager:
        return nullcontext()
