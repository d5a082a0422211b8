"""Unfolded inference over a sequence of frames: the iteration of a frame starts where that of the previous one ended.

Without recurrence all frames start in the same way and are computed at once, as in `Unfolded`.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from deepnmf_cli.inference.algorithm import Recurrence
from deepnmf_cli.unfold.network import Bank, Disturb, Unfolded

Frames = tuple[Tensor, Tensor | None]
"""Evidence (B, E, T), and phi^K (R, B) of the frame before it, or None if there is none."""


class RecurrentUnfolded(Unfolded[Any, Tensor, Recurrence[Tensor]]):
    """K layers per frame over one bank, whose first layer holds what the warm start needs.

    Evidence is `Frames`, states of whole blocks are (R, T, B).
    """

    def __init__(self, algorithm: Recurrence[Tensor], iterations: int, bank: Bank, recurrent: bool) -> None:
        super().__init__(algorithm, iterations, bank)
        self.recurrent = recurrent

    def trajectory(self, evidence: Frames, depth: int | None = None, disturb: Disturb | None = None) -> list[Tensor]:
        """Return [phi^0, ..., phi^depth] of all frames, (R, T, B) each.

        With recurrence a frame starts where the previous one ended, after `depth` steps, and `disturb` gets the states
        of one frame (R, B).
        """
        frames, before = evidence
        if self.recurrent:
            by_frame = self._frame_by_frame(frames, before, depth, disturb)
            return [torch.stack(states, -2) for states in zip(*by_frame, strict=True)]
        states = super().trajectory(_columns(frames), depth, disturb)
        return [state.unflatten(-1, (frames.shape[-1], -1)) for state in states]

    def readout(self, evidence: Frames, state: Tensor) -> Any:
        """Return y = g(x, phi); states are handed to the algorithm as (B, R, T)."""
        return self.algorithm.readout(evidence[0], state.movedim(-1, 0), self.bank.layer(self.iterations))

    def infer(self, evidence: Frames, fixed: Tensor | None = None, depth: int | None = None) -> tuple[Any, Tensor]:
        """Return y of all frames, and phi^depth (R, B) of the last one, from which the next block starts.

        Every frame runs all layers, so that `fixed` is not used. States that are `remembered` include a disturbance.
        """
        depth = self._depth(depth)
        if self.trace is not None:
            if depth not in self.trace.states:
                self.trace.evidence, self.trace.states = evidence, dict(enumerate(self.trajectory(evidence, depth)))
            states = self.trace.states[depth]
            return self.readout(evidence, states), states[:, -1]
        if not self.recurrent:
            states = self.trajectory(evidence, depth)[-1]
            return self.readout(evidence, states), states[:, -1]
        path = [states[-1] for states in self._frame_by_frame(*evidence, depth)]
        return self.readout(evidence, torch.stack(path, -2)), path[-1]

    def _frame_by_frame(
        self, frames: Tensor, before: Tensor | None, depth: int | None, disturb: Disturb | None = None
    ) -> Iterator[list[Tensor]]:
        """[phi^0, ..., phi^depth] of one frame after the other, (R, B) each."""
        disturb = disturb or self.disturb
        depth, columns, length = self._depth(depth), _columns(frames), frames.shape[-1]
        layers = [self.bank.layer(k) for k in range(self.iterations)]
        prepared = [self.algorithm.prepare(columns, layer) for layer in layers]
        constants = [held for held, _ in prepared]
        # (layer, frame) -> that frame's columns
        moving = [
            list(zip(*(_by_frame(x, length) for x in held), strict=True)) or [()] * length for _, held in prepared
        ]
        if before is None:
            before = torch.zeros_like(moving[0][0][0])
        for t in range(length):
            states = [self.algorithm.warm_start(moving[0][t], before, layers[0])]
            for k in range(depth):
                state = self.algorithm.update(constants[k], moving[k][t], states[-1])
                states.append(state if disturb is None else disturb(k + 1, state))
            yield states
            before = states[-1]


def _columns(frames: Tensor) -> Tensor:
    """(B, E, T) -> (E, T B): frame by frame, those of the batch side by side."""
    return frames.permute(1, 2, 0).flatten(1)


def _by_frame(columns: Tensor, length: int) -> tuple[Tensor, ...]:
    """(..., T B) -> T tensors (..., B), contiguous."""
    return columns.unflatten(-1, (length, -1)).movedim(-2, 0).contiguous().unbind(0)
