"""Descent constraints: on average, every layer has to lower a measure of the state by a share of its value.

    minimise loss  subject to  c_k = (m_k - m_{k-1}) / max(|m_{k-1}|, floor) + epsilon <= 0,  k = 1 .. K,

where m_k is the mean over examples of, say, the distance to the target after layer k. For m > 0 this means
m_k / m_{k-1} <= 1 - epsilon; the product of K such ratios is what remains in the end. The problem is solved by descent
on the Lagrangian in the weights and ascent in the multipliers, after Hadou, NaderiAlizadeh & Ribeiro, "Robust
Stochastically-Descending Unrolled Networks", arXiv:2312.15788, who take means of ratios. A ratio of means stays finite
where single examples have converged.

The constraints concern a mean over a sample and are no theorem about each input: if they are met, they hold on average,
for inputs like those of training.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

KINDS = ("none", "target", "objective", "gradient")
"""Names of `constraints.kind`."""

SCHEDULES = ("constant", "falling")
"""Names of `constraints.noise_schedule`."""

ARRIVED = 1e-3
"""The floor, as a share of where the measure begins: below it a layer must only not raise the measure."""


@dataclass(frozen=True)
class ConstraintSettings:
    """What layers have to do besides lowering the loss; nothing by default."""

    kind: str = "none"
    """What has to fall from layer to layer: the distance of the estimate from the "target"; the "objective" of the
    algorithm that was unfolded; its "gradient", the length of the step that the algorithm would take next; or "none".
    """
    epsilon: float = 0.0
    """Share by which each layer lowers it, in [0, 1)."""
    total: float = 0.0
    """Share of it that is to be left after the last layer, in (0, 1), which makes epsilon 1 - total^(1/K); with 0,
    `epsilon` itself is used."""
    dual_rate: float = 0.01
    """Rate at which a violation raises its multiplier at every step, above 0."""
    tolerance: float = 0.02
    """Violation on dev up to which the averaged weights count as feasible."""
    noise: float = 0.0
    """Standard deviation of Gaussian noise on the states that layers pass to each other in training, relative to the
    root mean square of these. Needs no kind."""
    noise_schedule: str = "constant"
    """Noise behind layer k: "constant", or "falling" as 1/k."""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"kind {self.kind!r} is none of {', '.join(KINDS)}")
        if self.noise_schedule not in SCHEDULES:
            raise ValueError(f"noise_schedule {self.noise_schedule!r} is none of {', '.join(SCHEDULES)}")
        if not (0 <= self.epsilon < 1 and 0 <= self.total < 1):
            raise ValueError("epsilon and total must lie in [0, 1)")
        if self.epsilon and self.total:
            raise ValueError("epsilon and total say the same in two ways: leave one of them out")
        if not (self.dual_rate > 0 and self.tolerance >= 0 and self.noise >= 0):
            raise ValueError("dual_rate must be positive, tolerance and noise not negative")
        if self.kind == "none" and (self.epsilon or self.total):
            raise ValueError("epsilon and total need a kind of constraint")

    @property
    def wanted(self) -> bool:
        """Return whether there are constraints or noise."""
        return self.kind != "none" or self.noise > 0

    def share(self, layers: int) -> float:
        """Return epsilon for this number of layers."""
        return 1 - self.total ** (1 / layers) if self.total else self.epsilon

    def noise_after(self, layer: int) -> float:
        """Return the relative size of the noise on the state after a layer, counted from 1."""
        return self.noise / layer if self.noise_schedule == "falling" else self.noise


def slack(measures: Tensor, epsilon: float) -> Tensor:
    """Return c_1 .. c_K (K,) of the means m_0 .. m_K (K + 1,), positive where a layer falls short."""
    before, after = measures[:-1], measures[1:]
    floor = (ARRIVED * measures[0].detach().abs()).clamp_min(torch.finfo(measures.dtype).tiny)
    asked = epsilon * (before.abs() > floor)
    return (after - before) / before.abs().maximum(floor) + asked


class Multipliers:
    """Lagrange multipliers lambda >= 0, one for each constraint, which start at zero."""

    def __init__(self, count: int, rate: float, device: str | torch.device = "cpu") -> None:
        self.values, self.rate = torch.zeros(count, device=device), rate

    @property
    def active(self) -> bool:
        """Return whether any multiplier is above zero at present."""
        return bool(self.values.any())

    def lagrangian(self, loss: Tensor, slack: Tensor) -> Tensor:
        """Return loss + sum_k lambda_k c_k: the loss itself, to the last bit, while all multipliers are zero.

        An optimiser that clips gradients has to clip that of the whole sum. This scales loss and constraints alike, so
        that the points where the gradient vanishes, and the multipliers there, stay the same; clipping the part of the
        loss alone would make them multipliers of another problem. Clipped steps along the plain gradient are slower
        than the multipliers, which then oscillate; steps of Adam and Muon do not depend on the scale of the gradient.
        """
        return loss + (self.values * slack).sum() if self.active else loss

    def ascend(self, slack: Tensor) -> None:
        """Raise the multipliers of violated constraints: lambda <- max(0, lambda + rate c)."""
        self.values = (self.values + self.rate * slack.detach()).clamp_min(0)
