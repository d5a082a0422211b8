"""A step of training as one CUDA graph: its thousands of operations are launched as one, and none waits for Python."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from deepnmf_cli.training.batch import Batch

WARM_UP_STEPS = 3
"""Steps that run one operation at a time, as PyTorch asks for: libraries and optimisers take what memory they need."""


class CapturedStep:
    """Changes weights by `change(batch) -> loss`, which moves them by an amount proportional to a learning rate, for a
    rate of 1, and does the same operations whatever is in a batch. All batches have one shape."""

    def __init__(self, change: Callable[[Batch], Tensor], weights: Sequence[Tensor]) -> None:
        self._change, self._weights = change, list(weights)
        self._before = [w.detach().clone() for w in weights]
        self._stream, self._graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
        self._warm_up = WARM_UP_STEPS
        self._batch: Batch | None = None
        self._loss: Tensor | None = None

    def __call__(self, batch: Batch, learning_rate: float) -> Tensor:
        """One step; returns the loss before it, which the next step overwrites."""
        with torch.no_grad():
            torch._foreach_copy_(self._before, self._weights)
        if self._warm_up:
            self._warm_up -= 1
            self._run(batch)
        else:
            self._replay(batch)
        with torch.no_grad():
            # Rates change from step to step, a graph does not: it goes all the way, of which the rate's share is kept.
            torch._foreach_lerp_(self._before, self._weights, learning_rate)
            torch._foreach_copy_(self._weights, self._before)
        return self._loss

    def _run(self, batch: Batch) -> None:
        """On the stream where the graph will be captured."""
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            self._loss = self._change(batch)
        torch.cuda.current_stream().wait_stream(self._stream)

    def _replay(self, batch: Batch) -> None:
        if self._batch is None:
            self._batch = Batch(batch.waveforms.clone(), batch.spectra.clone(), batch.window_hops)
            with torch.cuda.graph(self._graph, stream=self._stream):
                self._loss = self._change(self._batch)
        self._batch.waveforms.copy_(batch.waveforms)
        self._batch.spectra.copy_(batch.spectra)
        self._graph.replay()
