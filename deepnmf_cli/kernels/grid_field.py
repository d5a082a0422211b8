"""Mean field on the grid in machine code, for training on a CPU: compiled when a run starts, if there is a compiler.

Each frame depends on the result of the frame before, so PyTorch would run thousands of small operations. Values agree
with those of `GridField.update` to rounding, which a test checks.
"""

import ctypes
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from deepnmf_cli.kernels.grid_layer import LANES
from deepnmf_cli.kernels.machine_code import compile_library, for_each

SOURCE = Path(__file__).with_suffix(".cpp")


class FieldKernel:
    """The compiled functions for one number of channels."""

    def __init__(self, library: ctypes.CDLL, channels: int) -> None:
        self.channels = channels
        self._forward, self._backward = library.field_forward, library.field_backward
        sizes = [ctypes.c_int] * 5 + [ctypes.c_long]
        self._forward.argtypes, self._forward.restype = [ctypes.c_void_p] * 8 + sizes, None
        self._backward.argtypes, self._backward.restype = [ctypes.c_void_p] * 14 + sizes, None

    def suits(self, state: Tensor) -> bool:
        """Return whether the functions can process a state of this dtype on this device."""
        return state.dtype == torch.float32 and state.device.type == "cpu"

    def infer(
        self, theta: Tensor, start: Tensor, weights: Sequence[Tensor], accumulating: bool
    ) -> tuple[Tensor, Tensor]:
        """Return the expectations of all frames, and theta with all messages added if they accumulate.

        Both are (T, B, N, C), nodes with even numbers first. `start` (B, N, C) holds the expectations before the first
        frame. `weights` of all iterations: time (K, C, C), frequency (K, C, 2C), schedule (K, C) in [0, 1].
        """
        return _Infer.apply(self, accumulating, theta, start, *weights)

    @torch.no_grad()
    def forward(self, accumulating: bool, theta: Tensor, start: Tensor, *weights: Tensor) -> tuple[Tensor, Tensor]:
        time, frequency, schedule = weights
        shared = [x.contiguous() for x in (time.mT, frequency.mT, schedule)]
        path, fields = torch.empty_like(theta), torch.empty_like(theta)
        sizes, rooms = self._sizes(accumulating, theta, time), self._rooms(theta, 4 * len(time) + 2)

        def example(b: int) -> None:
            tensors = (theta[:, b], start[b], *shared, path[:, b], fields[:, b], rooms[b])
            self._forward(*(x.data_ptr() for x in tensors), *sizes)

        for_each(example, theta.shape[1])
        return path, fields

    @torch.no_grad()
    def backward(self, accumulating: bool, saved: Sequence[Tensor], to_path: Tensor, to_fields: Tensor) -> list[Tensor]:
        """Return the gradients of theta, of `start`, and of the weights."""
        theta, start, path, *weights = saved
        time, frequency, schedule = weights
        shared = [x.contiguous() for x in (time.mT, frequency.mT, schedule, time, frequency)]
        carried, out = torch.zeros_like(start), torch.empty_like(theta)
        totals = torch.zeros(theta.shape[1], sum(w.numel() for w in weights))  # summed in one order for any threads
        sizes, rooms = self._sizes(accumulating, theta, time), self._rooms(theta, 4 * len(time) + 7)

        def example(b: int) -> None:
            tensors = [theta[:, b], start[b], *shared, path[:, b], to_path[:, b], to_fields[:, b]]
            tensors += [carried[b], out[:, b], totals[b], rooms[b]]
            self._backward(*(x.data_ptr() for x in tensors), *sizes)

        for_each(example, theta.shape[1])
        pieces = totals.sum(0).split([w.numel() for w in weights])
        return [out, carried, *(p.view_as(w) for p, w in zip(pieces, weights, strict=True))]

    def _sizes(self, accumulating: bool, theta: Tensor, time: Tensor) -> tuple[int, ...]:
        frames, _, nodes, _ = theta.shape
        return frames, nodes, (nodes + 1) // 2, len(time), int(accumulating), theta.stride(0)

    def _rooms(self, theta: Tensor, count: int) -> Tensor:
        _, batch, nodes, channels = theta.shape
        return torch.empty(batch, count * nodes * channels)


class _Infer(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, kernel: FieldKernel, accumulating: bool, theta: Tensor, start: Tensor, *weights: Tensor
    ) -> tuple[Tensor, Tensor]:
        theta, start = theta.contiguous(), start.contiguous()
        path, fields = kernel.forward(accumulating, theta, start, *weights)
        ctx.kernel, ctx.accumulating = kernel, accumulating
        ctx.save_for_backward(theta, start, path, *weights)
        return path, fields

    @staticmethod
    @once_differentiable  # whose type hides the name of `ctx`
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        to_path, to_fields = (x.contiguous() for x in grad_outputs)
        return None, None, *ctx.kernel.backward(ctx.accumulating, ctx.saved_tensors, to_path, to_fields)


@cache
def compile_kernel(channels: int) -> FieldKernel | None:
    """Return the functions for `channels`; None if that number is not supported or they cannot be compiled."""
    if channels % LANES:
        return None
    library = compile_library(SOURCE, f"-DCHANNELS={channels}")
    return None if library is None else FieldKernel(library, channels)
