"""Multiplicative optimisers: exact parts of the objective, the rules as stated, exact resumption, refusals."""

import itertools
import json
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from deepnmf_cli import checkpoint
from deepnmf_cli.errors import RecipeError
from deepnmf_cli.experiment import Recordings, train
from deepnmf_cli.networks.deep_nmf import DeepNmf, DeepNmfSettings
from deepnmf_cli.recipe import Recipe
from deepnmf_cli.signal.stft import FrontEnd
from deepnmf_cli.training.minibatch import Batch
from deepnmf_cli.training.multiplicative import LARGEST_RELATIVE_STEP, LARGEST_STEP, RULES, MultiplicativeDescent
from deepnmf_cli.training.objectives import ObjectiveSettings, objective

NETWORK = DeepNmfSettings(bins=129, context=2, atoms=4, iterations=3, trained_layers=3, sparsity=0.1)
MAGNITUDE = ObjectiveSettings(magnitude=1.0, compressed_half=0.0, compressed_third=0.0, snr=0.0)
FRONT_END = FrontEnd(rate_hz=8000)
PAIR = FRONT_END.pair(8000)


def batch(seed: int = 0) -> Batch:
    """Two mixtures of a decaying tone and noise."""
    draw = torch.Generator().manual_seed(seed)
    time = torch.arange(4000, dtype=torch.float64) / 8000
    speech = torch.stack([torch.sin(2 * math.pi * pitch * time) * torch.exp(-3 * time) for pitch in (200, 420)])
    noise = 0.3 * torch.randn(2, 4000, generator=draw, dtype=torch.float64)
    waveforms = torch.stack([speech, noise], 1)
    return Batch(waveforms, PAIR.analysis(waveforms), 2)


def network(settings: DeepNmfSettings = NETWORK, seed: int = 0) -> DeepNmf:
    torch.manual_seed(seed)
    return DeepNmf(settings).double()


def values(trained: DeepNmf) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in trained.weights().items()}


@pytest.mark.parametrize(
    "settings", [NETWORK, replace(NETWORK, tied=True), replace(NETWORK, trained_layers=4, beta=0.5)], ids=str
)
@pytest.mark.parametrize(
    "phase_sensitive,noise_weight,output_beta", [(False, 0.0, 2.0), (True, 0.5, 2.0), (False, 0.5, 1.0)]
)
def test_parts_differ_by_the_gradient_of_the_objective(
    settings: DeepNmfSettings, phase_sensitive: bool, noise_weight: float, output_beta: float
) -> None:
    chosen = replace(MAGNITUDE, magnitude=2.0, phase_sensitive=phase_sensitive, noise_weight=noise_weight)
    chosen = replace(chosen, magnitude_beta=output_beta)
    trained, examples = network(settings), batch()
    parts, loss = MultiplicativeDescent(trained, chosen, "multiplicative", 0.0).parts(examples)
    masks, _ = trained(trained.features_of(examples.spectra.sum(1), examples.window_hops))
    expected = objective(chosen, masks, examples.truth, FRONT_END)
    assert loss == pytest.approx(expected.item(), rel=1e-9)
    expected.backward()
    assert len(parts) == len(settings.ties.trained)
    for name, pair in parts.items():
        held = getattr(trained.unfolded.bank, name)
        # `free` is zero, so that its gradient is W times that of W.
        torch.testing.assert_close(held() * pair.difference, held.free.grad, rtol=1e-8, atol=1e-12)
        assert (pair.positive >= 0).all() and (pair.negative >= 0).all()


def test_without_momentum_the_rule_is_that_of_the_paper() -> None:
    trained, examples = network(), batch()
    descent = MultiplicativeDescent(trained, MAGNITUDE, "multiplicative", 0.0)
    for _ in range(5):
        before, (parts, _) = values(trained), descent.parts(examples)
        descent.step(examples, learning_rate=0.0)
        for name, pair in parts.items():
            factor = (pair.negative / pair.positive).clamp(1 / LARGEST_STEP, LARGEST_STEP)
            torch.testing.assert_close(trained.weights()[name], before[name] * factor, rtol=1e-9, atol=0)


def test_on_a_tone_in_noise_the_loss_swings_without_momentum_and_falls_steadily_with_it() -> None:
    falls = {}
    for momentum in (0.0, 0.5):
        descent, examples = MultiplicativeDescent(network(), MAGNITUDE, "multiplicative", momentum), batch()
        losses = [descent.step(examples, learning_rate=0.0) for _ in range(20)]
        falls[momentum] = [after <= before for before, after in itertools.pairwise(losses)]
    assert not all(falls[0.0]) and all(falls[0.5])


def test_accumulated_parts_are_sums_over_batches_of_what_they_wanted() -> None:
    trained, first, second = network(), batch(0), batch(1)
    descent = MultiplicativeDescent(trained, MAGNITUDE, "multiplicative", 0.6)
    name, seen = "dictionary_3", []
    for examples in (first, second):
        seen.append((trained.weights()[name].clone(), descent.parts(examples)[0][name]))
        descent.step(examples, learning_rate=0.0)
    (w, one), (v, two) = seen
    expected = (0.6 * w * one.negative + v * two.negative) / (0.6 * one.positive + two.positive)
    bounded = (expected / v).clamp(1 / LARGEST_STEP, LARGEST_STEP) * v
    torch.testing.assert_close(trained.weights()[name], bounded, rtol=1e-9, atol=0)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_exponent_per_dictionary_moves_each_by_the_learning_rate_but_no_entry_far(momentum: float) -> None:
    trained, examples = network(), batch()
    descent = MultiplicativeDescent(trained, MAGNITUDE, "exponentiated", momentum)
    for _ in range(3):
        before = values(trained)
        descent.step(examples, learning_rate=0.02)
        for name in sorted(before)[1:]:
            moved = torch.log(trained.weights()[name] / before[name]).abs()
            assert 0.01 < moved.mean().item() <= 0.02 * (1 + 1e-9)
            assert moved.max().item() <= LARGEST_RELATIVE_STEP * 0.02 * (1 + 1e-6)


def test_exponent_per_entry_first_moves_each_by_the_learning_rate_towards_the_larger_part() -> None:
    trained, examples = network(), batch()
    descent, before = MultiplicativeDescent(trained, MAGNITUDE, "exponentiated-entries", 0.9), values(trained)
    parts, _ = descent.parts(examples)
    descent.step(examples, learning_rate=0.02)
    for name, pair in parts.items():
        moved = torch.log(trained.weights()[name] / before[name])
        clear = torch.log(pair.negative / pair.positive).abs() > 1e-5
        expected = 0.02 * torch.sign(pair.negative - pair.positive)
        torch.testing.assert_close(moved[clear], expected[clear], rtol=1e-5, atol=0)


def test_exponent_per_entry_is_the_step_of_adam() -> None:
    """Kingma & Ba, 2015, of log(N / P), with beta1 the momentum, here 0, and beta2 = 0.99."""
    held = SimpleNamespace(momentum=0.0, kept={})
    first, second = torch.tensor([1.0, -2.0]), torch.tensor([3.0, 0.5])
    MultiplicativeDescent._per_entry(held, 0, first, 0.1)
    found = MultiplicativeDescent._per_entry(held, 0, second, 0.1)
    square = (0.99 * 0.01 * first**2 + 0.01 * second**2) / (1 - 0.99**2)
    torch.testing.assert_close(found, 0.1 * second / square.sqrt())


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_lowers_the_loss_of_one_batch(rule: str) -> None:
    descent, examples = MultiplicativeDescent(network(), MAGNITUDE, rule, 0.5), batch()
    losses = [descent.step(examples, learning_rate=0.1) for _ in range(20)]
    assert min(losses[-5:]) < 0.3 * losses[0]


@pytest.mark.parametrize("rule", RULES)
def test_zeros_stay_and_unused_atoms_keep_their_weights(rule: str) -> None:
    trained, examples = network(), batch()
    held = trained.unfolded.bank.dictionary_3
    start = held().detach().clone()
    start[:, 1] = 0
    start[5] = 0
    held.fold(start)
    analysis = trained.unfolded.bank.dictionary_2
    silent = analysis().detach().clone()
    silent[:, 2] = 0  # an atom that its last layer switches off is unused by the readout
    analysis.fold(silent)
    descent = MultiplicativeDescent(trained, MAGNITUDE, rule, 0.5)
    for _ in range(3):
        descent.step(examples, learning_rate=0.1)
    after = trained.weights()
    assert not after["dictionary_3"][:, 1].any() and not after["dictionary_3"][5].any()
    torch.testing.assert_close(after["dictionary_3"][:, 2], start[:, 2], rtol=1e-12, atol=0)
    assert all(torch.isfinite(value).all() and (value >= 0).all() for value in after.values())


def recipe(**training) -> Recipe:
    return Recipe.from_dict(
        {
            "model": "deep-nmf",
            "network": {"context": 2, "atoms": 4, "iterations": 3, "trained_layers": 3},
            "front_end": {"rate_hz": 8000},
            "mixing": {"segment_s": 0.5},
            "dictionary": {"batches": 3, "batch_frames": 60, "iterations": 2},
            "objective": {"magnitude": 1.0, "compressed_half": 0.0, "compressed_third": 0.0, "snr": 0.0},
            "training": {"steps": 4, "batch": 2, "score_every": 4, "warmup_steps": 2} | training,
        }
    )


@pytest.mark.parametrize("rule", RULES)
def test_resumed_run_equals_the_uninterrupted_one_bit_for_bit(tiny_corpus: Path, tmp_path: Path, rule: str) -> None:
    where = Recordings(speech=tiny_corpus / "speech", noise=tiny_corpus / "noise", dev=tiny_corpus / "dev")
    chosen = recipe(optimizer=rule, learning_rate=0.02)
    assert train(chosen, where, tmp_path / "whole")
    steps: list[dict] = []

    def count(row: dict) -> None:
        if "best" in row:
            steps.append(row)

    assert not train(chosen, where, tmp_path / "cut", progress=count, stop=lambda: len(steps) == 2)
    assert train(chosen, where, tmp_path / "cut", resume=True)
    for name in ("resume.safetensors", "best.safetensors"):
        (one, _), (two, _) = (checkpoint.load(tmp_path / run / name) for run in ("whole", "cut"))
        assert one.keys() == two.keys()
        assert all(torch.equal(one[key], two[key]) for key in one)
        if name == "resume.safetensors":
            assert any(key.startswith("optimiser.2.") for key in one)


def test_run_begun_before_there_were_optimisers_to_choose_can_be_resumed(tiny_corpus: Path, tmp_path: Path) -> None:
    where = Recordings(speech=tiny_corpus / "speech", noise=tiny_corpus / "noise", dev=tiny_corpus / "dev")
    reports: list[dict] = []

    def after_first_step() -> bool:
        return bool(reports) and "best" in reports[-1]

    assert not train(recipe(), where, tmp_path / "run", progress=reports.append, stop=after_first_step)
    written = tmp_path / "run" / "recipe.json"
    stored = json.loads(written.read_text())
    assert stored["training"].pop("optimizer") == "adam" and stored["training"].pop("momentum")
    written.write_text(json.dumps(stored))
    assert train(recipe(), where, tmp_path / "run", resume=True)
    assert json.loads(written.read_text())["training"]["optimizer"] == "adam"


def test_adam_on_logarithms_or_on_softplus_sets_the_parameterisation() -> None:
    for kind in ("log", "softplus"):
        chosen = recipe(optimizer=f"adam-{kind}")
        assert chosen.network.parameterisation == kind
        assert Recipe.from_dict(json.loads(json.dumps(chosen.to_dict()))) == chosen


MASKED = {"magnitude": 1.0, "compressed_half": 0.0, "compressed_third": 0.0, "snr": 0.0}


@pytest.mark.parametrize(
    "changes,found",
    [
        ({"training": {"optimizer": "multiplicative"}}, "compressed_half, compressed_third, snr"),
        ({"training": {"optimizer": "exponentiated"}, "objective": {"magnitude": 1.0}}, "terms beside the masked"),
        ({"training": {"optimizer": "multiplicative"}, "model": "dnn"}, "for another network"),
        ({"training": {"optimizer": "adam-log"}, "model": "dnn"}, "training.optimizer 'adam-log'"),
        ({"training": {"optimizer": "adamm"}}, "none of adam, adam-log"),
        ({"training": {"momentum": 1.0}}, "momentum must lie"),
        ({"training": {"optimizer": "multiplicative"}, "network": {"parameterisation": "softplus"}}, "'softplus'"),
        ({"training": {"optimizer": "adam-log"}, "network": {"parameterisation": "softplus"}}, "with training.opt"),
        (
            {"training": {"optimizer": "exponentiated"}, "objective": MASKED}
            | {"network": {"tied": True, "gradient": "implicit"}},
            "network.gradient 'implicit'",
        ),
    ],
)
def test_what_cannot_be_is_refused_with_a_remedy(changes: dict, found: str) -> None:
    with pytest.raises(RecipeError, match=found) as caught:
        Recipe.from_dict({"model": "deep-nmf"} | changes)
    assert caught.value.remedy
