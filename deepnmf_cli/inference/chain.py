"""Messages from spin to spin along a chain: by mean field, in log odds, or by exact filtering.

A spin is a hidden unit in +-1; its state is, or determines, its expectation. Along a chain the schedule (14)-(15)
relaxes each spin towards the value that the field at its position gives, starting from the previous spin. With a
schedule that depends on the data this is a gated recurrence whose gates are step sizes.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import linear

from deepnmf_cli.kernels.recursion import BOTH_WAYS, SPINS, combine, exported, relax, relax_to_tanh

LONGEST = 1 - 1e-4
"""Limits the probability that a spin keeps its sign to below one, so that contrary evidence never meets certainty."""


def _as_they_are(states: Tensor) -> Tensor:
    return states


@dataclass(frozen=True)
class Messages:
    """Responses of a chain of spins to fields x under a schedule y; states are what is passed along the chain."""

    states: Callable[[Tensor, Tensor, Tensor, bool], Tensor]
    """(x (T, ...), y (T, ...), initial state (...), whether to run from the last t) -> states (T, ...)."""
    expectations: Callable[[Tensor], Tensor] = _as_they_are
    """Function from states to expectations of the spins. A state of zero is a spin that is neither up nor down."""


# Named functions instead of lambdas, so that a network that holds them can be pickled.
def _geometric(x: Tensor, y: Tensor, start: Tensor, reverse: bool) -> Tensor:
    return relax(x, y.sigmoid(), start, reverse)


def _filtered(x: Tensor, y: Tensor, start: Tensor, reverse: bool) -> Tensor:
    return combine(x.tanh(), LONGEST * (-y).sigmoid(), start, reverse)


MESSAGES = {
    "mean-field": Messages(relax_to_tanh),
    "geometric": Messages(_geometric, torch.tanh),
    "belief-propagation": Messages(_filtered),
}
"""Messages by name: the schedule (14)-(15) as the arithmetic mean (p = 1) of probabilities, as their geometric mean
(p -> 0), which is an arithmetic mean of log odds, and exact filtering, messages (22).
docs/theory/grid.md#other-messages."""

MEAN_FIELD = MESSAGES["mean-field"]


def relax_spins(
    field: Tensor, weight: Tensor, bias: Tensor, start: Tensor, reverse: bool = False, messages: Messages = MEAN_FIELD
) -> Tensor:
    """Return the states (T, ..., C) of spins in a field x (T, ..., E), which for mean field are the path of `relax`
    with f = tanh(W x + b) and g = sigmoid(V x + c).

    weight (2C, E) and bias (..., 2C) hold (W, V) and (b, c); the bias may differ along the axes between T and E. Two
    products are computed instead of one that is split, because the gradient of a split copies everything.
    """
    if torch.compiler.is_exporting() and messages == MEAN_FIELD:
        return exported(SPINS, (field, weight, bias, start), (*field.shape[:-1], start.shape[-1]), reverse)
    (couple, gate), (field_bias, gate_bias) = weight.chunk(2), bias.chunk(2, -1)
    target, schedule = _affine(field, couple, field_bias), _affine(field, gate, gate_bias)
    # Under autocast the products have half precision, but sums along a chain must not.
    return messages.states(target.to(start.dtype), schedule.to(start.dtype), start, reverse)


def relax_both_ways(field: Tensor, weight: Tensor, bias: Tensor, messages: Messages = MEAN_FIELD) -> Tensor:
    """Return the states (T, ..., 2C) of spins informed by everything before them, followed by those of spins informed
    by everything after them.

    weight (4C, E) and bias (..., 4C) are those of `relax_spins` for the two directions; the states beyond the ends of
    the chain are zero.
    """
    beyond = field.new_zeros(*field.shape[1:-1], bias.shape[-1] // 4)
    if torch.compiler.is_exporting() and messages == MEAN_FIELD:
        return exported(BOTH_WAYS, (field, weight, bias, beyond), (*field.shape[:-1], bias.shape[-1] // 2))
    directions = zip(weight.chunk(2), bias.chunk(2, -1), (False, True), strict=True)
    return torch.cat([relax_spins(field, w, b, beyond, reverse, messages) for w, b, reverse in directions], -1)


def _affine(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """W x + b, as one fused operation where a single b serves all."""
    return linear(x, weight, bias) if bias.dim() == 1 else linear(x, weight) + bias
