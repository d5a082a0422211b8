"""Descent along the gradient: what Muon does to matrices, what stays Adam's, exact resumption, and steps as CUDA graphs.

There may be no GPU: here a graph is a function that is called again.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from deepnmf_cli import checkpoint
from deepnmf_cli.experiment import Recordings, train
from deepnmf_cli.networks.grid import Grid
from deepnmf_cli.networks.grid_settings import GridSettings
from deepnmf_cli.recipe import Recipe
from deepnmf_cli.signal.stft import FrontEnd
from deepnmf_cli.training.descent import CapturedStep, GradientDescent
from deepnmf_cli.training.minibatch import Batch
from deepnmf_cli.training.objectives import ObjectiveSettings
from deepnmf_cli.training.trainer import TrainingSettings

RATE = 0.01
FRONT_END = FrontEnd(rate_hz=8000)
SETTINGS = GridSettings(
    bins=FRONT_END.bins, rate_hz=8000, single_bands=16, wide_bands=12, channels=8, iterations=2, frame_spins=4
)


def examples() -> Batch:
    waveforms = torch.randn(2, 2, 4000, generator=torch.Generator().manual_seed(0))
    return Batch(waveforms, FRONT_END.pair(8000).analysis(waveforms), 2)


def descent(optimizer: str) -> GradientDescent:
    torch.manual_seed(0)
    return GradientDescent(Grid(SETTINGS), FRONT_END, ObjectiveSettings(), 5.0, False, optimizer == "muon")


def changes(optimizer: str) -> dict[str, torch.Tensor]:
    """What one step changes in every trained tensor."""
    one = descent(optimizer)
    before = {name: p.detach().clone() for name, p in one.network.named_parameters()}
    one.step(examples(), RATE)
    return {name: p.detach() - before[name] for name, p in one.network.named_parameters()}


def test_gradients_beyond_the_bound_are_scaled_down_to_it() -> None:
    sizes = []
    for bound in (1e9, 1e-3):
        one = GradientDescent(Grid(SETTINGS), FRONT_END, ObjectiveSettings(), bound, False)
        one.step(examples(), RATE)
        sizes.append(float(torch.stack([p.grad.norm() for p in one.trained]).norm()))
    assert sizes[0] > 1e-2 and sizes[1] == pytest.approx(1e-3, rel=1e-3)


def test_a_gradient_that_is_no_number_is_a_loss_that_is_none_and_changes_nothing() -> None:
    """The run ends with that loss; a step would leave weights that nothing can be said of."""
    one = descent("adam")
    before = [p.detach().clone() for p in one.trained]
    one.trained[0].register_hook(lambda slope: slope * torch.inf)
    assert not math.isfinite(float(one.step(examples(), RATE)))
    assert all(torch.equal(p, was) for p, was in zip(one.trained, before, strict=True))


@pytest.mark.parametrize("optimizer", ["adam", "muon"])
def test_weight_decay_shrinks_weights_by_its_share_of_the_rate_beside_the_step(optimizer: str) -> None:
    moved = []
    for decay in (0.0, 0.5):
        torch.manual_seed(0)
        network = Grid(SETTINGS)
        before = {name: p.detach().clone() for name, p in network.named_parameters()}
        one = GradientDescent(
            network, FRONT_END, ObjectiveSettings(), 5.0, False, optimizer == "muon", weight_decay=decay
        )
        one.step(examples(), RATE)
        moved.append({name: p.detach() - before[name] for name, p in network.named_parameters()})
    for name, weight in before.items():
        torch.testing.assert_close(moved[1][name] - moved[0][name], -0.5 * RATE * weight, rtol=1e-3, atol=1e-6)


def test_muon_moves_a_matrix_alike_in_all_directions_and_its_entries_as_far_as_adam() -> None:
    moved = {name: x for name, x in changes("muon").items() if x.dim() == 2 and min(x.shape) > 1}
    assert len(moved) > 10
    for name, change in moved.items():
        sizes = torch.linalg.svdvals(change) / (RATE * 0.2 * max(change.shape) ** 0.5)
        # A few directions of a gradient may be as good as missing.
        assert sizes.median() > 0.5 and sizes.max() < 1.4, (name, sizes)
        assert change.abs().max() < 3 * RATE, name


def test_muon_leaves_vectors_to_adam() -> None:
    ours, adams = changes("muon"), changes("adam")
    vectors = [name for name, x in ours.items() if x.dim() == 1]
    matrices = [name for name in ours if name not in vectors and min(ours[name].shape) > 1]
    assert vectors and matrices
    assert all(torch.equal(ours[name], adams[name]) for name in vectors)
    assert not any(torch.allclose(ours[name], adams[name]) for name in matrices)


def test_muon_takes_a_matrix_of_one_row_or_column_for_a_vector() -> None:
    shapes = [(4,), (2, 3), (1, 5), (5, 1), (2, 2, 2)]
    network = SimpleNamespace(parameters=lambda: [torch.nn.Parameter(torch.zeros(shape)) for shape in shapes])
    one = GradientDescent(network, FRONT_END, ObjectiveSettings(), 5.0, False, muon=True)
    assert [(numbers, type(part)) for numbers, part in one.parts] == [
        ([0, 2, 3, 4], torch.optim.Adam), ([1], torch.optim.Muon),
    ]  # fmt: skip


@pytest.mark.parametrize("optimizer", ["adam", "muon"])
def test_steps_lower_the_loss_of_one_batch(optimizer: str) -> None:
    batch, one = examples(), descent(optimizer)
    losses = [one.step(batch, 0.003) for _ in range(12)]
    assert losses[-1] < 0.9 * losses[0]


def test_plain_descent_adds_the_gradient_to_what_momentum_keeps_and_moves_by_the_rate_times_that() -> None:
    torch.manual_seed(0)
    one = GradientDescent(Grid(SETTINGS), FRONT_END, ObjectiveSettings(), 1e9, False, plain_momentum=0.8)
    before, kept = [p.detach().clone() for p in one.trained], [torch.zeros_like(p) for p in one.trained]
    for rate in (0.01, 0.03):
        one.step(examples(), rate)
        kept = [0.8 * v + p.grad for v, p in zip(kept, one.trained, strict=True)]
        before = [p - rate * v for p, v in zip(before, kept, strict=True)]
        for p, wanted in zip(one.trained, before, strict=True):
            torch.testing.assert_close(p.detach(), wanted, rtol=1e-6, atol=1e-8)


def test_plain_descent_refuses_a_decay_of_weights_that_it_does_not_have() -> None:
    with pytest.raises(ValueError, match="no weight_decay"):
        TrainingSettings(optimizer="sgd", weight_decay=0.1)
    assert TrainingSettings(optimizer="sgd").weight_decay == 0


@pytest.mark.parametrize("optimizer", ["adam", "muon", "sgd"])
def test_resumed_run_equals_the_uninterrupted_one_bit_for_bit(
    tiny_corpus: Path, tmp_path: Path, optimizer: str
) -> None:
    where = Recordings(speech=tiny_corpus / "speech", noise=tiny_corpus / "noise", dev=tiny_corpus / "dev")
    chosen = Recipe.from_dict(
        {
            "model": "grid",
            "network": {"single_bands": 16, "wide_bands": 12, "channels": 8, "iterations": 1, "frame_spins": 2},
            "front_end": {"rate_hz": 8000},
            "mixing": {"segment_s": 0.5},
            "training": {"steps": 4, "batch": 2, "score_every": 4, "warmup_steps": 2, "optimizer": optimizer},
        }
    )
    assert train(chosen, where, tmp_path / "whole")
    steps: list[dict] = []
    assert not train(chosen, where, tmp_path / "cut", progress=steps.append, stop=lambda: len(steps) >= 2)
    assert train(chosen, where, tmp_path / "cut", resume=True)
    (one, _), (two, _) = (checkpoint.load(tmp_path / run / "resume.safetensors") for run in ("whole", "cut"))
    assert one.keys() == two.keys() and any(key.startswith("optimiser.") for key in one)
    assert all(torch.equal(one[key], two[key]) for key in one)


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
    def graph(self, graph: object, stream: object, capture_error_mode: str) -> Iterator[None]:
        self.calls.append(f"capture {capture_error_mode}")
        self.capturing = True
        yield
        self.capturing = False


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Gpu:
    gpu = Gpu()
    for name in ("Stream", "CUDAGraph", "current_stream", "stream", "graph"):
        monkeypatch.setattr(torch.cuda, name, getattr(gpu, name))
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
        weights[0].detach().add_(number)  # as from a resume point, before the first step or later
        given, before = batch(number), [w.detach().clone() for w in weights]
        assert step(given, rate) == given.waveforms.sum()
        for weight, was, move in zip(weights, before, moves(given)):
            torch.testing.assert_close(weight.detach(), was + rate * move)
    assert gpu.calls == ["capture thread_local", "replay", "replay", "replay"]
