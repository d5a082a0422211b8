"""A layer of the grid in machine code, for training on a CPU: compiled when a run starts, where there is a compiler.

PyTorch runs a layer as dozens of operations, each of which takes all activations from memory and puts them back. Here a
frame of one example passes through the whole layer at once, and the gradient computes again what would have to be
stored. Values agree with those of `GridInference.step` to rounding, and a test says so.
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
"""Channels must be a multiple of it."""

FORWARD_ROOM, BACKWARD_ROOM = 4, 9
"""Floats of working memory per node and channel."""


class GridKernel:
    """The compiled functions for one number of channels."""

    def __init__(self, library: ctypes.CDLL, channels: int) -> None:
        self.channels = channels
        self._forward, self._backward = library.grid_forward, library.grid_backward
        sizes = [ctypes.c_int, ctypes.c_int, ctypes.c_long]
        self._forward.argtypes, self._forward.restype = [ctypes.c_void_p] * 10 + sizes, None
        self._backward.argtypes, self._backward.restype = [ctypes.c_void_p] * 15 + sizes, None

    def suits(self, field: Tensor) -> bool:
        """Return whether the field (T, B, N, C) is of the kind that the functions take."""
        single = field.dtype == torch.float32 and field.device.type == "cpu"
        return single and field.shape[-1] == self.channels and not torch.is_autocast_enabled("cpu")

    def layer(self, field: Tensor, start: Tensor, weights: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """(field after the layer (T, B, N, C), spins at the end of time (B, N, C)).

        `weights`: of time (2C, C) and its bias (N, 2C); of frequency likewise, the rows being couplings upwards and
        downwards, then schedules upwards and downwards; join (C, C).
        """
        return _Layer.apply(self, field, start, *weights)

    @torch.no_grad()
    def forward(self, field: Tensor, start: Tensor, weights: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """(spins in time, field after the layer), both like `field` (T, B, N, C), which must be contiguous."""
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
        """Gradients of the field, of `start`, and of `weights`, from those of the two results of `layer`."""
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
        return out, path[-1].clone()  # a copy: whoever carries it on must not keep the whole path

    @staticmethod
    @once_differentiable  # whose type hides the name of `ctx`
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        gradient, ended = grad_outputs
        field, start, path, *weights = ctx.saved_tensors
        return None, *ctx.kernel.backward(field, start, weights, path, gradient.contiguous(), ended)


@cache
def compile_kernel(channels: int) -> GridKernel | None:
    """The functions for `channels`, or None where that number does not suit or no compiler makes them."""
    if channels % LANES:
        return None
    library = compile_library(SOURCE, f"-DCHANNELS={channels}")
    return None if library is None else GridKernel(library, channels)
