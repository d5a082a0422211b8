"""Message schedules (14)-(17): which messages an iteration updates, and how far.

A schedule is a sequence of weights gamma in [0, 1], one tensor per iteration that broadcasts to (..., 2E): each message
becomes the power mean of its old value, weighted 1 - gamma, and its new value, weighted gamma. 0 keeps a message, 1
replaces it. Any list of tensors can be used, including trained ones; the functions below return the usual lists.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

from deepnmf_cli.inference.graph import Graph
from deepnmf_cli.inference.power_mean import log_power_lerp

GAMMA_LOGIT = 2.0
"""Initial logit of a trained schedule: gamma = 0.88."""


def mix(old: Tensor, new: Tensor, gamma: Tensor | float, power: Tensor | float) -> Tensor:
    """Normalised log messages (..., 2E, n): the power mean of old and new messages with exponent p (15).

    p = 1 is the arithmetic mean (25), p = 0 the geometric one (17). gamma and p are numbers or tensors that broadcast
    to (..., 2E). For the number gamma = 1, synchronous updates, the result is `new` itself.
    """
    if not isinstance(gamma, Tensor) and gamma == 1:
        return new
    gamma, power = (x.unsqueeze(-1) if isinstance(x, Tensor) and x.dim() else x for x in (gamma, power))
    return log_power_lerp(old, new, gamma, power).log_softmax(-1)


def synchronous(graph: Graph, steps: int, gamma: float = 1.0) -> list[Tensor]:
    """Return a schedule that updates all messages in every step; gamma < 1 damps them."""
    return [torch.full((2 * graph.size,), gamma, device=graph.edges.device)] * steps


def sequential(graph: Graph, order: Iterable[int] | None = None) -> list[Tensor]:
    """One sweep: a step per node of `order` (all nodes, as numbered), which replaces the messages to that node.

    For mean field this is coordinate descent, which never raises the free energy.
    """
    return [(graph.targets == node).to(torch.float32) for node in (range(graph.nodes) if order is None else order)]


def random(graph: Graph, steps: int, share: float = 0.5, generator: torch.Generator | None = None) -> list[Tensor]:
    """Return a schedule that replaces each message with probability `share` in every step, independently."""
    draws = torch.rand(steps, 2 * graph.size, generator=generator).to(graph.edges.device)
    return list((draws < share).to(torch.float32))
