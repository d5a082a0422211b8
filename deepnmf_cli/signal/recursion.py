"""The loops over time, or over frequency, of every network that has one.

`smooth` is exponential smoothing with a coefficient of its own at every step, h_t = h_{t-1} + g_t (f_t - h_{t-1}), and
`combine` adds up evidence, m_t = (f_t + k_t m_{t-1}) / (1 + f_t k_t m_{t-1}). An exported network holds them as
operations, DOMAIN::RELAX, DOMAIN::SPINS, DOMAIN::BOTH_WAYS and DOMAIN::COMBINE, which `deepnmf_cli.export` spells out.
"""

import torch
from torch import Tensor

DOMAIN, RELAX, SPINS, BOTH_WAYS, COMBINE = "deepnmf", "relax", "spins", "both_ways", "combine"


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


def combine(evidence: Tensor, keep: Tensor, start: Tensor, reverse: bool = False) -> Tensor:
    """The path m (T, ...) from `start` (...), for f and k (T, ...), T >= 1; `reverse` runs from the last t to the first.
    Without gradient."""
    if torch.compiler.is_exporting():
        return exported(COMBINE, (evidence, keep, start), evidence.shape, reverse)
    path = torch.empty_like(evidence, memory_format=torch.contiguous_format)
    order = range(evidence.shape[0])
    state = start
    for t in reversed(order) if reverse else order:
        predicted = keep[t] * state
        state = torch.div(evidence[t] + predicted, 1 + evidence[t] * predicted, out=path[t])
    return path


def exported(name: str, inputs: tuple[Tensor, ...], shape: torch.Size, reverse: bool = False) -> Tensor:
    """The operation DOMAIN::`name` in the graph that is being exported; its result has `shape`."""
    attributes = {"reverse": int(reverse)}
    return torch.onnx.ops.symbolic(f"{DOMAIN}::{name}", inputs, attributes, dtype=inputs[0].dtype, shape=shape)
