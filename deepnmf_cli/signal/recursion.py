"""The loops over time, or over frequency, of every network that has one.

`smooth` is exponential smoothing with a coefficient of its own at every step, h_t = h_{t-1} + g_t (f_t - h_{t-1}), and
`combine` adds up evidence, m_t = (f_t + k_t m_{t-1}) / (1 + f_t k_t m_{t-1}). An exported network holds them as
operations, DOMAIN::RELAX, DOMAIN::SPINS, DOMAIN::BOTH_WAYS and DOMAIN::COMBINE, which `deepnmf_cli.export` spells out.
"""

from collections.abc import Callable
from functools import cache
from subprocess import SubprocessError
from types import ModuleType

import torch
from torch import Tensor

DOMAIN, RELAX, SPINS, BOTH_WAYS, COMBINE = "deepnmf", "relax", "spins", "both_ways", "combine"


def smooth(target: Tensor, coefficient: Tensor, start: Tensor, reverse: bool = False) -> Tensor:
    """The path h (T, ...) from `start` (...), for target f and coefficient g (T, ...), T >= 1; `reverse` runs from the
    last t to the first. Without gradient."""
    if kernel := gpu_kernel(target):
        return kernel.smooth_path(target, coefficient, start, reverse, spins=False)
    return _path(RELAX, _smoothed, target, coefficient, start, reverse)


def combine(evidence: Tensor, keep: Tensor, start: Tensor, reverse: bool = False) -> Tensor:
    """The path m (T, ...) from `start` (...), for f and k (T, ...), T >= 1; `reverse` runs from the last t to the first.
    Without gradient."""
    return _path(COMBINE, _combined, evidence, keep, start, reverse)


def _path(name: str, step: Callable[..., Tensor], f: Tensor, g: Tensor, start: Tensor, reverse: bool) -> Tensor:
    """The states that `step(f_t, g_t, state, out)` gives one after the other, or the operation `name`."""
    if torch.compiler.is_exporting():
        return exported(name, (f, g, start), f.shape, reverse)
    path = torch.empty_like(f, memory_format=torch.contiguous_format)
    order = range(len(path))
    state = start
    for t in reversed(order) if reverse else order:
        state = step(f[t], g[t], state, path[t])
    return path


def _smoothed(f: Tensor, g: Tensor, before: Tensor, out: Tensor) -> Tensor:
    return torch.lerp(before, f, g, out=out)


def _combined(f: Tensor, k: Tensor, before: Tensor, out: Tensor) -> Tensor:
    predicted = k * before
    return torch.div(f + predicted, 1 + f * predicted, out=out)


def gpu_kernel(x: Tensor) -> ModuleType | None:
    """`recursion_kernel` for tensors such as x, where it serves them and there is Triton, or None."""
    return _triton() if x.is_cuda and x.dtype == torch.float32 else None


@cache
def _triton() -> ModuleType | None:
    try:
        from deepnmf_cli.signal import recursion_kernel

        probe = torch.zeros(1, 1, device="cuda")
        recursion_kernel.smooth_path(probe, probe, probe[0], reverse=False, spins=False)
    except (ImportError, OSError, RuntimeError, SubprocessError):
        return None  # Triton may be missing, or the C compiler and Python's headers that it builds its launcher with
    return recursion_kernel


def exported(name: str, inputs: tuple[Tensor, ...], shape: torch.Size, reverse: bool = False) -> Tensor:
    """The operation DOMAIN::`name` in the graph that is being exported; its result has `shape`."""
    attributes = {"reverse": int(reverse)}
    return torch.onnx.ops.symbolic(f"{DOMAIN}::{name}", inputs, attributes, dtype=inputs[0].dtype, shape=shape)
