"""Steps as CUDA graphs. There may be no GPU: here a graph is a function that is called again."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace

import pytest
import torch

from deepnmf_cli.training import capture
from deepnmf_cli.training.batch import Batch
from deepnmf_cli.training.capture import CapturedStep

RATES = (0.5, 0.1, 0.2, 0.3, 0.4, 0.05)


class Gpu:
    """Stands for `torch.cuda`: what is captured is not done before it is replayed."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.capturing = False
        self.captured: Callable[[], None] = lambda: None
        self.Stream = self.current_stream = lambda: SimpleNamespace(wait_stream=lambda other: None)
        self.stream = nullcontext

    def CUDAGraph(self) -> SimpleNamespace:
        return SimpleNamespace(replay=lambda: (self.calls.append("replay"), self.captured()))

    @contextmanager
    def graph(self, graph: object, stream: object) -> Iterator[None]:
        self.calls.append("capture")
        self.capturing = True
        yield
        self.capturing = False


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Gpu:
    gpu = Gpu()
    for name in ("Stream", "CUDAGraph", "current_stream", "stream", "graph"):
        monkeypatch.setattr(capture.torch.cuda, name, getattr(gpu, name))
    return gpu


def batch(number: int) -> Batch:
    waveforms = torch.randn(3, 2, 5, generator=torch.Generator().manual_seed(number))
    return Batch(waveforms, torch.complex(waveforms, -3 * waveforms), 2)


def test_each_step_goes_the_rates_share_of_the_way(gpu: Gpu) -> None:
    weights = [torch.ones(5, requires_grad=True), torch.zeros(5, requires_grad=True)]
    loss = torch.zeros(())

    def moves(given: Batch) -> list[torch.Tensor]:
        return [given.waveforms.mean((0, 1)), given.spectra.imag.mean((0, 1))]

    def change(given: Batch) -> torch.Tensor:
        def operations() -> None:
            torch._foreach_add_([w.detach() for w in weights], moves(given))
            loss.copy_(given.waveforms.sum())

        if gpu.capturing:
            gpu.captured = operations
        else:
            operations()
        return loss

    step = CapturedStep(change, weights)
    for number, rate in enumerate(RATES):
        given, before = batch(number), [w.detach().clone() for w in weights]
        assert step(given, rate) == given.waveforms.sum()
        for weight, was, move in zip(weights, before, moves(given)):
            torch.testing.assert_close(weight.detach(), was + rate * move)
    assert gpu.calls == ["capture", "replay", "replay", "replay"]
