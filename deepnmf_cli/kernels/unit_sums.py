"""Sums of log1p(b_j expm1(w_ij)) over j in machine code, for training belief-propagation networks on a CPU.

The result is that of the matrix products of `deepnmf_cli.inference.expectations`, to rounding, in a fraction of their
time: only multiply-adds and a few divisions remain, and no intermediate result is written to memory.
"""

import ctypes
import math
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import pad

from deepnmf_cli.kernels.machine_code import compile_library, for_each

SOURCE = Path(__file__).with_suffix(".cpp")

SOURCES, TARGETS = 4, 16
"""The numbers of units on the two sides must be multiples of these; others are padded."""

PARTS = 8
"""Parts into which a batch is split for threads; fixed, so that sums do not depend on the number of threads."""


class UnitKernel:
    """Compiled functions for the sums and their gradient."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._forward, self._backward = library.units_forward, library.units_backward
        sizes = [ctypes.c_long, ctypes.c_int, ctypes.c_int]
        self._forward.argtypes, self._forward.restype = [ctypes.c_void_p] * 5 + sizes, None
        self._backward.argtypes, self._backward.restype = [ctypes.c_void_p] * 7 + sizes, None

    @staticmethod
    def suits(log_odds: Tensor) -> bool:
        """Return whether the functions can process log-odds of this dtype on this device."""
        return log_odds.dtype == torch.float32 and log_odds.device.type == "cpu"

    def sums(self, log_odds: Tensor, couplings: Tensor) -> Tensor:
        """Return sum_j log1p(b_j expm1(w_ij)), b_j = sigmoid(u_j), (N, I), for u (N, J) and w (I, J), |w| <= 20."""
        return _Sums.apply(self, log_odds, couplings)

    @torch.no_grad()
    def forward(self, on: Tensor, off: Tensor, ratios: Tensor) -> Tensor:
        """Return sum_j log(off + on x), (N, I), for `on` b and `off` 1 - b (N, J) and `ratios` x = exp(w) (J, I)."""
        mantissa, exponent = (torch.empty(len(on), ratios.shape[1]) for _ in range(2))

        def part(index: int) -> None:
            rows = _rows(len(on), index)
            tensors = (on[rows], off[rows], ratios, mantissa[rows], exponent[rows])
            self._forward(*(x.data_ptr() for x in tensors), len(on[rows]), *ratios.shape)

        for_each(part, PARTS)
        return mantissa.log_().add_(exponent, alpha=math.log(2))

    @torch.no_grad()
    def backward(
        self, on: Tensor, off: Tensor, ratios: Tensor, less: Tensor, gradient: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return sum_i r (x - 1), (N, J), and sum_n r b, (J, I), where r = gradient/(off + on x)."""
        to_units, to_ratios = torch.empty_like(on), torch.zeros(PARTS, *ratios.shape)

        def part(index: int) -> None:
            rows = _rows(len(on), index)
            tensors = (on[rows], off[rows], ratios, less, gradient[rows], to_units[rows], to_ratios[index])
            self._backward(*(x.data_ptr() for x in tensors), len(on[rows]), *ratios.shape)

        for_each(part, PARTS)
        return to_units, to_ratios.sum(0)


class _Sums(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, kernel: UnitKernel, log_odds: Tensor, couplings: Tensor) -> Tensor:
        ctx.kernel, (targets, units) = kernel, couplings.shape
        filled = pad(couplings.T, (0, -targets % TARGETS, 0, -units % SOURCES)).contiguous()
        log_odds = pad(log_odds, (0, -units % SOURCES)).contiguous()
        ctx.save_for_backward(log_odds, filled)
        ctx.sizes = units, targets
        return kernel.forward(log_odds.sigmoid(), (-log_odds).sigmoid(), filled.exp())[:, :targets]

    @staticmethod
    @once_differentiable  # whose type hides the name of `ctx`
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[None, Tensor, Tensor]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (gradient,) = grad_outputs
        (log_odds, filled), (units, targets) = ctx.saved_tensors, ctx.sizes
        on, off, ratios = log_odds.sigmoid(), (-log_odds).sigmoid(), filled.exp()
        gradient = pad(gradient, (0, -targets % TARGETS)).contiguous()
        to_units, to_ratios = ctx.kernel.backward(on, off, ratios, filled.expm1(), gradient)
        to_log_odds = to_units.mul_(on).mul_(off)[:, :units]
        return None, to_log_odds, to_ratios.mul_(ratios)[:units, :targets].T


def _rows(count: int, part: int) -> slice:
    return slice(count * part // PARTS, count * (part + 1) // PARTS)


@cache
def compile_unit_kernel() -> UnitKernel | None:
    """Return the functions, or None if they cannot be compiled."""
    library = compile_library(SOURCE)
    return None if library is None else UnitKernel(library)
