"""Mean field in one field on the time-frequency grid: spins of neighbouring nodes are coupled inside the tanh.

Node (t, n) has C spins in +-1, observes x_tn, and is coupled to its neighbours in time by T and in frequency by V:

    log p(s | x) = sum_tn [ theta_tn . s_tn + s_tn . T s_t-1,n + s_tn . V s_t,n-1 ] + const,    theta_tn = A x_tn + a_n

The schedule proceeds frame by frame, and updates each frame K times: even nodes, then odd ones,
m <- (1 - g) m + g tanh(u), (14)-(15) and (19). Spins of later frames still have the expectation 0, and so send no
messages. No update raises the free energy of the whole grid, as docs/theory/grid.md proves.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import linear, pad

from deepnmf_cli.inference.algorithm import Descent, Parameter, Parameters, Recurrence
from deepnmf_cli.inference.grid import FASTEST, SLOWEST
from deepnmf_cli.inference.schedule import GAMMA_LOGIT
from deepnmf_cli.kernels.grid_field import FieldKernel

FIELD, BEFORE, NOW = 0, 1, 2
"""Indices into a state: theta, expectations of the previous frame, and those of the present one."""


@dataclass(frozen=True)
class GridField(Recurrence[Tensor], Descent[Tensor, Tensor]):
    """K mean-field iterations for every frame; the state is (3, C, N, B), or (3, C, N, T, B) for many frames, with
    even-numbered nodes first.

    Evidence is (E N, T B), or (B, E N, T) for whole blocks: one observed value after the other, each for all nodes.
    """

    nodes: int
    """Number of nodes of a frame (N), at least 2."""
    channels: int
    """Number of spins of a node (C)."""
    observed: int
    """Number of values that a node observes (E)."""
    shown: int
    """Number of binary units of a node that are read out."""
    symmetric: bool = True
    """Whether messages down in frequency use V^T, as in a field, or a separate matrix."""
    accumulating: bool = False
    """Whether theta accumulates the messages of all iterations, and is read out, as in `GridInference`; in a field, the
    messages of one iteration replace those of the previous one.
    """
    kernel: FieldKernel | None = None
    """The same computation in machine code, equal up to rounding, or None."""

    @property
    def even(self) -> int:
        """Number of even-numbered nodes."""
        return (self.nodes + 1) // 2

    def parameters(self, iterations: int) -> dict[str, Parameter]:
        """Return small random couplings between different spins; in time each spin is also coupled to itself, with
        memories of many lengths.
        """
        c, steps = self.channels, range(iterations)
        messages = iterations if self.accumulating else 1  # number of messages that are summed

        def couplings(rows: int, columns: int, scale: float = 1.0) -> Tensor:
            return scale * torch.randn(rows, columns) / columns**0.5

        def memories() -> Tensor:
            """Couplings of spins to themselves, half as strong as those with which `GridInference` starts."""
            return torch.diag(1 - torch.sigmoid(torch.linspace(SLOWEST, FASTEST, c))) / 2

        found = {
            "observe_weight": Parameter([0], lambda _: couplings(c, self.observed), shared=True),
            "observe_bias": Parameter([0], lambda _: torch.zeros(c, self.nodes), shared=True),
            "time_weight": Parameter(steps, lambda _: (memories() + couplings(c, c, 0.05)) / messages),
            "upward_weight": Parameter(steps, lambda _: couplings(c, c, 0.5) / messages),
            "schedule": Parameter(steps, lambda _: torch.full((c,), GAMMA_LOGIT)),
            "read_weight": Parameter([iterations], lambda _: couplings(self.shown, c), shared=True),
            "read_bias": Parameter([iterations], lambda _: torch.zeros(self.shown), shared=True),
        }
        if not self.symmetric:
            found["downward_weight"] = Parameter(steps, lambda _: couplings(c, c, 0.5) / messages)
        return found

    def start(self, evidence: Tensor, parameters: Parameters) -> Tensor:
        """Return the state of frames that have no previous frame: theta, and expectations of 0."""
        theta = self._theta(evidence, parameters)
        return self.warm_start((theta,), theta.new_zeros(3, *theta.shape), parameters)

    def prepare(self, evidence: Tensor, parameters: Parameters) -> tuple[tuple, tuple[Tensor, ...]]:
        """Return the couplings, and in the first layer theta (C, N, T B)."""
        columns = (self._theta(evidence, parameters),) if "observe_weight" in parameters else ()
        return self._couplings(parameters), columns

    def warm_start(self, columns: tuple[Tensor, ...], before: Tensor, parameters: Parameters) -> Tensor:
        """Return a frame's state before its first iteration: expectations of 0, and those of the previous frame."""
        (theta,) = columns
        return torch.stack([theta, before[NOW], torch.zeros_like(theta)])

    def update(self, constants: tuple, columns: tuple[Tensor, ...], state: Tensor) -> Tensor:
        """Run one iteration: update even nodes from odd ones, then odd nodes from even ones."""
        time, frequency, schedule = constants
        theta, before, now = state
        even, odd = now.tensor_split([self.even], 1)
        field = theta + (time @ before.flatten(1)).view_as(theta)
        even_field, odd_field = field.tensor_split([self.even], 1)
        more = even.shape[1] - odd.shape[1]  # 1 where the last node is even
        below, above = pad(odd, (0, 0, 1, 0))[:, : self.even], pad(odd, (0, 0, 0, more))
        even_field = even_field + _told(frequency, below, above)
        even = torch.lerp(even, even_field.tanh(), schedule[:, None, None])
        below, above = even[:, : odd.shape[1]], pad(even[:, 1:], (0, 0, 0, 1 - more))
        odd_field = odd_field + _told(frequency, below, above)
        odd = torch.lerp(odd, odd_field.tanh(), schedule[:, None, None])
        if self.accumulating:
            theta = torch.cat([even_field, odd_field], 1)
        return torch.stack([theta, before, torch.cat([even, odd], 1)])

    def readout(self, evidence: Tensor, state: Tensor, parameters: Parameters) -> Tensor:
        """Marginals (T, B, N, bands per node) of one more binary unit per band, of states (B, 3, C, N, T)."""
        spins = state[:, FIELD if self.accumulating else NOW].permute(3, 0, 2, 1)
        found = torch.sigmoid(linear(spins, parameters["read_weight"], parameters["read_bias"]))
        node = torch.arange(self.nodes)
        return found[:, :, node // 2 + node % 2 * self.even]

    def objective(self, evidence: Tensor, state: Tensor, parameters: Parameters) -> Tensor:
        """Return F of a frame given the previous one, (T, B) or (B,), for a field: symmetric, not accumulating.

        F of the whole grid differs from it by terms that do not change while the frame is updated.
        """
        theta, before, now = state
        field = theta + torch.einsum("cd,d...->c...", parameters["time_weight"], before)
        sent = torch.einsum("cd,d...->c...", parameters["upward_weight"], now)
        (even, odd), (from_even, from_odd) = (x.tensor_split([self.even], 1) for x in (now, sent))
        upward = (odd * from_even[:, : odd.shape[1]]).sum((0, 1)) + (even[:, 1:] * from_odd[:, : self.even - 1]).sum(
            (0, 1)
        )
        entropy = -sum(torch.xlogy(p, p) for p in ((1 + now) / 2, (1 - now) / 2))
        return -(field * now + entropy).sum((0, 1)) - upward

    def in_machine_code(self, frames: Tensor, before: Tensor, layers: Sequence[Parameters]) -> Tensor | None:
        """Return the states of all frames (B, E N, T) after all layers, or None if the kernel is not applicable."""
        if self.kernel is None or not self.kernel.suits(before):
            return None
        columns = frames.permute(1, 2, 0)
        theta = self._theta(columns.flatten(1), layers[0]).unflatten(2, columns.shape[1:])
        weights = [torch.stack(kind) for kind in zip(*map(self._couplings, layers), strict=True)]
        start = before[NOW].permute(2, 1, 0)
        path, theta = self.kernel.infer(theta.permute(2, 3, 1, 0), start, weights, self.accumulating)
        states = [theta, torch.cat([start[None], path[:-1]]), path]
        return torch.stack(states).permute(0, 4, 3, 1, 2)

    def _theta(self, evidence: Tensor, parameters: Parameters) -> Tensor:
        """Return theta (C, N, T B) of evidence (E N, T B)."""
        nodes = _evens_first(evidence.unflatten(0, (self.observed, self.nodes)))
        theta = (parameters["observe_weight"] @ nodes.flatten(1)).unflatten(1, nodes.shape[1:])
        return theta + _evens_first(parameters["observe_bias"])[:, :, None]

    def _couplings(self, parameters: Parameters) -> tuple[Tensor, Tensor, Tensor]:
        """Return the couplings (C, C) in time, those (C, 2C) to the nodes below and above, and the schedule (C)."""
        upward = parameters["upward_weight"]
        frequency = torch.cat([upward, parameters.get("downward_weight", upward.mT)], 1)
        return parameters["time_weight"], frequency, parameters["schedule"].sigmoid()


def _evens_first(nodes: Tensor) -> Tensor:
    """(C, N, ...) with even nodes first."""
    return torch.cat([nodes[:, 0::2], nodes[:, 1::2]], 1)


def _told(frequency: Tensor, below: Tensor, above: Tensor) -> Tensor:
    """Messages to a node from its neighbours below and above, (C, n, B) each, by couplings (C, 2C) to them."""
    return (frequency @ torch.cat([below, above]).flatten(1)).view_as(below)
