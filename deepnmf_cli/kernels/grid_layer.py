"""A layer of the grid in machine code, for training on a CPU: compiled when a run starts, if there is a compiler.

PyTorch runs a layer as dozens of operations, each of which reads all activations from memory and writes them back. Here
a frame of one example passes through the whole layer at once, and the gradient recomputes what would otherwise have to
be stored. Values agree with those of `GridInference.step` to rounding, which a test checks.
"""

import ctypes
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from deepnmf_cli.kernels.machine_code import compile_library, for_each

SOURCE = Path(__file__).with_suffix(".cpp")

LANES = 8
"""The number of channels must be a multiple of this."""

FORWARD_ROOM, BACKWARD_ROOM = 4, 9
"""Working memory in floats per node and channel."""


class GridKernel:
    """The compiled functions for one number of channels."""

    def __init__(self, library: ctypes.CDLL, channels: int) -> None:
        self.channels = channels
        self._forward, self._backward = library.grid_forward, library.grid_backward
        sizes = [ctypes.c_int, ctypes.c_int, ctypes.c_long]
        self._forward.argtypes, self._forward.restype = [ctypes.c_void_p] * 10 + sizes, None
        self._backward.argtypes, self._backward.restype = [ctypes.c_void_p] * 15 + sizes, None

    def suits(self, field: Tensor) -> bool:
        """Return whether the functions can process the field (T, B, N, C)."""
        single = field.dtype == torch.float32 and field.device.type == "cpu"
        return single and field.shape[-1] == self.channels and not torch.is_autocast_enabled("cpu")

    def layer(self, field: Tensor, start: Tensor, weights: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Return the field after the layer (T, B, N, C), and the spins in time after the last frame (B, N, C).

        `weights`: of time (2C, C) and its bias (N, 2C); of frequency likewise, the rows being couplings upwards and
        downwards, then schedules upwards and downwards; join (C, C).
        """
        return _Layer.apply(self, field, start, *weights)

    @torch.no_grad()
    def forward(self, field: Tensor, start: Tensor, weights: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Return the spins in time and the field after the layer.

        Both are like `field` (T, B, N, C), which must be contiguous.
        """
        time, time_bias, frequency, frequency_bias, join = weights
        shared = [x.contiguous() for x in (time.T, time_bias, frequency.T, frequency_bias, join.T)]
        path, out = torch.empty_like(field), torch.empty_like(field)
        frames, batch, nodes, channels = field.shape
        rooms = torch.empty(batch, FORWARD_ROOM * nodes * channels)

        def example(b: int) -> None:
            tensors = (field[:, b], start[b], *shared, path[:, b], out[:, b], rooms[b])
            self._forward(*(x.data_ptr() for x in tensors), frames, nodes, field.stride(0))

        for_each(example, batch)
        return path, out

    @torch.no_grad()
    def backward(
        self, field: Tensor, start: Tensor, weights: Sequence[Tensor], path: Tensor, gradient: Tensor, ended: Tensor
    ) -> list[Tensor]:
        """Return the gradients of the field, of `start`, and of `weights`, from those of the two results of `layer`."""
        time, time_bias, frequency, frequency_bias, join = weights
        shared = [time.T, time_bias, frequency.T, frequency_bias, time, frequency, join]
        shared = [x.contiguous() for x in shared]
        frames, batch, nodes, channels = field.shape
        carried, out = ended.clone(memory_format=torch.contiguous_format), torch.empty_like(field)
        totals = torch.zeros(batch, sum(w.numel() for w in weights))  # summed below in one order for any threads
        rooms = torch.empty(batch, BACKWARD_ROOM * nodes * channels)

        def example(b: int) -> None:
            tensors = [field[:, b], start[b], *shared, path[:, b], gradient[:, b]]
            tensors += [carried[b], out[:, b], totals[b], rooms[b]]
            self._backward(*(x.data_ptr() for x in tensors), frames, nodes, field.stride(0))

        for_each(example, batch)
        pieces = totals.sum(0).split([w.numel() for w in weights])
        return [out, carried, *(p.view_as(w) for p, w in zip(pieces, weights, strict=True))]


class _Layer(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, kernel: GridKernel, field: Tensor, start: Tensor, *weights: Tensor) -> tuple[Tensor, Tensor]:
        field, start = field.contiguous(), start.contiguous()
        path, out = kernel.forward(field, start, weights)
        ctx.kernel = kernel
        ctx.save_for_backward(field, start, path, *weights)
        return out, path[-1].clone()  # a copy, as a view would keep the whole path in memory

    @staticmethod
    @once_differentiable  # whose type hides the name of `ctx`
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        gradient, ended = grad_outputs
        field, start, path, *weights = ctx.saved_tensors
        return None, *ctx.kernel.backward(field, start, weights, path, gradient.contiguous(), ended)


@cache
def compile_kernel(channels: int) -> GridKernel | None:
    """Return the functions for `channels`; None if that number is not supported or they cannot be compiled."""
    if channels % LANES:
        return None
    library = compile_library(SOURCE, f"-DCHANNELS={channels}")
    return None if library is None else GridKernel(library, channels)
