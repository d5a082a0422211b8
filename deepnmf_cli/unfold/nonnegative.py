"""Non-negative parameters that an unconstrained optimiser can train, exact at the start of training.

A parameter is w = r * ratio(v) with a fixed reference r >= 0 (its value at the start of training), a free v of the same
shape, and ratio(0) = 1. An untrained network therefore holds r itself, bit for bit, and entries that are zero stay
zero, as they do under multiplicative updates.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

SMALLEST_REFERENCE = 1e-6
"""Entries below this are treated as equal to it by the softplus ratio, whose slope would otherwise explode."""


class NonNegative(nn.Module):
    """A trained non-negative tensor: `forward()` returns its value, `reference` is its value at the start."""

    reference: Tensor

    def __init__(self, reference: Tensor, kind: str = "log") -> None:
        """`kind`: "log" for w = r exp(v), the same gradient path as training log w; "softplus" for w = softplus(u + v)
        with softplus(u) = r, which behaves additively for large w.
        """
        super().__init__()
        if kind not in ("log", "softplus"):
            raise ValueError(f"unknown non-negative parameterisation {kind!r}: choose log or softplus")
        if (reference < 0).any():
            raise ValueError("a non-negative parameter needs a non-negative reference")
        self.kind = kind
        self.register_buffer("reference", reference.clone())
        self.free = nn.Parameter(torch.zeros_like(reference))

    def forward(self) -> Tensor:
        """The value w >= 0, of the shape of the reference."""
        if self.kind == "log":
            return self.reference * self.free.exp()
        # The inverse of softplus, log(exp(r) - 1), in the form that neither overflows nor cancels.
        start = self.reference.clamp_min(SMALLEST_REFERENCE)
        inverse = start + torch.log(-torch.expm1(-start))
        return self.reference * (softplus(inverse + self.free) / softplus(inverse))

    @torch.no_grad()
    def become(self, value: Tensor) -> None:
        """Set a new value where the reference is above zero, and keep the reference. For the kind "log"."""
        if self.kind != "log":
            raise ValueError("only a parameter of the kind log can take a value as it is")
        present = self.reference > 0
        ratio = value.where(present, 1.0) / self.reference.where(present, 1.0)
        self.free.copy_(torch.log(ratio.clamp_min(torch.finfo(ratio.dtype).tiny)))  # a value of zero has no logarithm

    @torch.no_grad()
    def fold(self, value: Tensor) -> None:
        """Make `value` the new starting point."""
        self.reference.copy_(value)
        self.free.zero_()
