"""A step of training as one CUDA graph: its thousands of operations are launched as one, and none waits for Python."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from deepnmf_cli.training.batch import Batch

WARM_UP_STEPS = 3
"""Steps that run one operation at a time, as PyTorch asks for: libraries and optimisers take what memory they need."""


class CapturedStep:
    """Changes weights by `change(batch) -> loss`, which must change them by an amount proportional to a learning rate of
    1, and must do the same operations for every batch. Batches of one shape."""

    def __init__(self, change: Callable[[Batch], Tensor], weights: Sequence[Tensor]) -> None:
        self._change, self._weights = change, list(weights)
        self._before = [w.detach().clone() for w in weights]
        self._steps, self._graph = 0, torch.cuda.CUDAGraph()
        self._batch: Batch | None = None
        self._loss: Tensor | None = None

    def __call__(self, batch: Batch, learning_rate: float) -> Tensor:
        """One step; returns the loss before it, which the next step overwrites."""
        torch._foreach_copy_(self._before, self._weights)
        if self._steps < WARM_UP_STEPS:
            self._loss = self._aside(batch)
        elif self._batch is None:
            self._capture(batch)
        else:
            self._batch.waveforms.copy_(batch.waveforms)
            self._batch.spectra.copy_(batch.spectra)
        if self._batch is not None:
            self._graph.replay()
        self._steps += 1
        # The rate changes from step to step, a graph does not: it goes all the way, and back to the rate's share of it.
        torch._foreach_lerp_(self._before, self._weights, learning_rate)
        torch._foreach_copy_(self._weights, self._before)
        return self._loss

    def _aside(self, batch: Batch) -> Tensor:
        """On a stream of its own, where graphs are captured later."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            loss = self._change(batch)
        torch.cuda.current_stream().wait_stream(stream)
        return loss

    def _capture(self, batch: Batch) -> None:
        self._batch = Batch(batch.waveforms.clone(), batch.spectra.clone(), batch.window_hops)
        with torch.cuda.graph(self._graph):
            self._loss = self._change(self._batch)
