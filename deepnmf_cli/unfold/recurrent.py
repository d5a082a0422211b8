"""Unfolded inference over frames in sequence: the iteration of a frame begins where that of the last frame ended.

Without recurrence all frames begin alike and are computed at once, as in `Unfolded`.
"""

from typing import Any, Protocol

import torch
from torch import Tensor

from deepnmf_cli.unfold.network import Algorithm, Bank, Parameters, Unfolded


class Recurrence(Algorithm, Protocol):
    """An algorithm on columns, frames that are independent of each other, which can also begin from a given state."""

    def prepare(self, evidence: Tensor, parameters: Parameters) -> tuple[tuple, tuple[Tensor, ...]]:
        """What a layer needs and no state changes: constants, and tensors with a column (..., N) per column of the
        evidence (E, N)."""

    def update(self, constants: tuple, columns: tuple[Tensor, ...], state: Tensor) -> Tensor:
        """phi^k from phi^{k-1} (R, N); `step` is `update` of what `prepare` gives."""

    def warm_start(self, columns: tuple[Tensor, ...], before: Tensor, parameters: Parameters) -> Tensor:
        """phi^0 of a frame from phi^K of the last one (R, B) and from the first layer's columns."""


class RecurrentUnfolded(Unfolded):
    """K layers per frame over one bank. The bank's first layer holds what the warm start needs."""

    def __init__(self, algorithm: Recurrence, iterations: int, bank: Bank, recurrent: bool) -> None:
        super().__init__(algorithm, iterations, bank)
        self.recurrent = recurrent

    def infer(self, evidence: tuple[Tensor, Tensor | None]) -> tuple[Tensor, Tensor | None]:
        """y of frames (B, E, T), and phi^K (R, B) of the last one, from the same of the frame before (None: nothing).

        States are handed to the readout as (B, R, T).
        """
        frames, before = evidence
        batch, _, length = frames.shape
        layers = [self.bank.layer(k) for k in range(self.iterations + 1)]
        columns = frames.permute(1, 2, 0).flatten(1)  # frame by frame, those of the batch side by side
        if self.recurrent:
            path = self._in_sequence(columns, length, before, layers)
            states, before = torch.stack(path, -2), path[-1]
        else:
            states = self.algorithm.start(columns, layers[0])
            for k in range(self.iterations):
                states = self.algorithm.step(columns, states, layers[k])
            states = states.unflatten(-1, (length, batch))
        return self.algorithm.readout(frames, states.movedim(-1, 0), layers[-1]), before

    def _in_sequence(self, columns: Tensor, length: int, before: Tensor | None, layers: list[Any]) -> list[Tensor]:
        """phi^K of each frame, (R, B)."""
        prepared = [self.algorithm.prepare(columns, layer) for layer in layers[: self.iterations]]
        constants = [held for held, _ in prepared]
        # (layer, frame) -> that frame's columns
        moving = [list(zip(*(_by_frame(x, length) for x in held), strict=True)) for _, held in prepared]
        if before is None:
            before = torch.zeros_like(moving[0][0][0])
        path = []
        for t in range(length):
            state = self.algorithm.warm_start(moving[0][t], path[-1] if path else before, layers[0])
            for k in range(self.iterations):
                state = self.algorithm.update(constants[k], moving[k][t], state)
            path.append(state)
        return path


def _by_frame(columns: Tensor, length: int) -> tuple[Tensor, ...]:
    """(..., T B) -> T tensors (..., B), contiguous."""
    return columns.unflatten(-1, (length, -1)).movedim(-2, 0).contiguous().unbind(0)
