"""Exponential smoothing with a coefficient of its own at every step: h_t = h_{t-1} + g_t (f_t - h_{t-1}).

The one loop over time, or over frequency, of every network that has one. An exported network holds it as an operation,
DOMAIN::RELAX, DOMAIN::SPINS or DOMAIN::BOTH_WAYS, which `deepnmf_cli.export` spells out.
"""

import torch
from torch import Tensor

DOMAIN, RELAX, SPINS, BOTH_WAYS = "deepnmf", "relax", "spins", "both_ways"


def smooth(target: Tensor, coefficient: Tensor, start: Tensor, reverse: bool = False) -> Tensor:
    """The path h (T, ...) from `start` (...), for target f and coefficient g (T, ...), T >= 1; `reverse` runs from the
    last t to the first. Without gradient."""
    if torch.compiler.is_exporting():
        return exported(RELAX, (target, coefficient, start), target.shape, reverse)
    path = torch.empty_like(target, memory_format=torch.contiguous_format)
    order = range(target.shape[0])
    state = start
    for t in reversed(order) if reverse else order:
        state = torch.lerp(state, target[t], coefficient[t], out=path[t])
    return path


def exported(name: str, inputs: tuple[Tensor, ...], shape: torch.Size, reverse: bool = False) -> Tensor:
    """The operation DOMAIN::`name` in the graph that is being exported; its result has `shape`."""
    attributes = {"reverse": int(reverse)}
    return torch.onnx.ops.symbolic(f"{DOMAIN}::{name}", inputs, attributes, dtype=inputs[0].dtype, shape=shape)
