"""What training asks of every layer: the terms by hand, constraints that change nothing, noise, exact resumption."""

import csv
import itertools
from pathlib import Path

import pytest
import torch
from torch import Tensor

from deepnmf_cli import checkpoint
from deepnmf_cli.errors import RecipeError
from deepnmf_cli.experiment import train
from deepnmf_cli.networks import build
from deepnmf_cli.networks.base import MaskNetwork
from deepnmf_cli.networks.deep_nmf import DeepNmfSettings
from deepnmf_cli.recipe import Recipe
from deepnmf_cli.signal.stft import FrontEnd
from deepnmf_cli.training.descent import GradientDescent
from deepnmf_cli.training.dev import DevScore
from deepnmf_cli.training.journal import CONSTRAINT_COLUMNS, Journal
from deepnmf_cli.training.layers import POWER, DepthSettings, LayerNoise, LayerTerms, require_support
from deepnmf_cli.training.minibatch import Batch
from deepnmf_cli.training.objectives import ObjectiveSettings, compressed, objective, relative_error
from deepnmf_cli.training.primal_dual import ConstraintSettings
from deepnmf_cli.training.trainer import Trainer
from tests.training.test_training import recordings

LAYERS = 3
FRONT_END, OBJECTIVE = FrontEnd(rate_hz=8000), ObjectiveSettings()
NETWORKS = {
    "grid": {"single_bands": 16, "wide_bands": 8, "channels": 4, "iterations": LAYERS},
    "sparse-coding": {"single_bands": 16, "wide_bands": 8, "atoms": 6, "iterations": LAYERS},
    "deep-nmf": {"context": 2, "atoms": 4, "iterations": LAYERS, "trained_layers": 3},
    "recurrent-ista": {"single_bands": 16, "wide_bands": 8, "atoms": 6, "iterations": LAYERS},
}


def recipe(model: str = "grid", **sections) -> Recipe:
    training = {"steps": 4, "batch": 2, "score_every": 2, "warmup_steps": 2} | sections.pop("training", {})
    table = {"model": model, "network": NETWORKS[model] | sections.pop("network", {}), "training": training}
    table |= {"front_end": {"rate_hz": 8000}, "mixing": {"segment_s": 0.5}}
    table["dictionary"] = {"batches": 3, "batch_frames": 60, "iterations": 2}
    return Recipe.from_dict(table | sections)


def made(model: str = "grid") -> MaskNetwork:
    torch.manual_seed(3)
    return build(model, recipe(model).network)


def examples(seed: int = 0) -> Batch:
    waveforms = 0.1 * torch.randn(2, 2, 3000, generator=torch.Generator().manual_seed(seed))
    return Batch(waveforms, FRONT_END.pair(8000).analysis(waveforms), 2)


def total(terms: LayerTerms, batch: Batch) -> tuple[Tensor, Tensor]:
    def loss_of(masks: Tensor) -> Tensor:
        return objective(OBJECTIVE, masks, batch.truth, FRONT_END)

    return terms.total(batch, lambda: batch.masks(terms.network), loss_of)


def after(network: MaskNetwork, batch: Batch, depth: int) -> Tensor:
    """The masks of the network that is stopped there."""
    network.stop_after(depth)
    masks = batch.masks(network)
    network.stop_after(LAYERS)
    return masks


def speech(batch: Batch, masks: Tensor | None) -> Tensor:
    mixture = batch.spectra.sum(1).abs()
    gain = mixture.square().mean((-1, -2), keepdim=True).rsqrt()
    return (batch.spectra[:, 0].abs() if masks is None else masks[:, 0] * mixture) * gain


def compressed_error(estimate: Tensor, target: Tensor, power: float) -> Tensor:
    return relative_error(compressed(estimate, power), compressed(target, power))


@pytest.mark.parametrize("model", ["grid", "sparse-coding", "deep-nmf"])
def test_every_layer_is_weighed_as_the_network_that_is_stopped_there(model: str) -> None:
    network, batch = made(model), examples()
    weights, taught = (0.5, 0.25), (2.0, 0.125)
    found, loss = total(LayerTerms(network, DepthSettings(weights, taught), ConstraintSettings()), batch)
    masks = [after(network, batch, depth) for depth in range(1, LAYERS + 1)]
    losses = [objective(OBJECTIVE, m, batch.truth, FRONT_END) for m in masks]
    errors = [compressed_error(speech(batch, m), speech(batch, masks[-1]).detach(), POWER) for m in masks]
    first = network.unfolded.fixed_layers  # of deep NMF, whose lowest layer is not trained
    assert first == (model == "deep-nmf")
    rows = list(zip(weights, taught, losses, errors))[max(0, first - 1) :]
    expected = losses[-1] + sum(w * x + t * e for w, t, x, e in rows)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    assert torch.equal(loss, losses[-1])


def test_the_features_of_a_batch_are_computed_once_whatever_is_asked_of_its_layers(monkeypatch) -> None:
    network, computed = made(), []
    monkeypatch.setattr(
        network, "features_of", lambda *given: computed.append(given) or MaskNetwork.features_of(network, *given)
    )
    terms = LayerTerms(network, DepthSettings((0.5,), (0.5,)), ConstraintSettings("target", epsilon=0.1))
    for seed in range(2):
        total(terms, examples(seed))
        assert len(computed) == seed + 1


def test_the_last_layer_does_not_learn_from_those_below() -> None:
    network, batch = made(), examples()
    terms = LayerTerms(network, DepthSettings(distillation=(1.0,)), ConstraintSettings())
    found, loss = total(terms, batch)
    layer = network.unfolded.bank.layer(LAYERS - 1)["time_weight"]  # of the last layer alone
    slopes = [torch.autograd.grad(x, layer, retain_graph=True)[0] for x in (found, loss)]
    assert torch.equal(*slopes)


@pytest.mark.parametrize("kind", ["target", "objective", "gradient"])
def test_measures_are_those_of_the_layers_one_by_one(kind: str) -> None:
    network, batch = made("sparse-coding"), examples()
    constraints = ConstraintSettings(kind, epsilon=0.125)
    terms = LayerTerms(network, DepthSettings(), constraints)
    theta = {name: x.detach().clone() for name, x in network.unfolded.bank.layer(0).items()}
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.1  # what is measured is the algorithm's own objective, that of the beginning
        total(terms, batch)
        with network.unfolded.remembered() as trace:
            batch.masks(network)
        evidence, states = trace.evidence, [trace.states[k] for k in range(LAYERS + 1)]
        algorithm = network.unfolded.algorithm
        if kind == "target":
            masks = [network.unfolded.readout(evidence, state)[:, 0].mT for state in states]
            masks = [network.spread(m).mT.clamp(0, 1)[:, None] for m in masks]
            means = [compressed_error(speech(batch, m), speech(batch, None), POWER).sqrt() for m in masks]
        elif kind == "objective":
            means = [algorithm.objective(evidence, state, theta).mean() for state in states]
        else:
            steps = [algorithm.step(evidence, state, theta) - state for state in states]
            means = [step.square().mean().sqrt() for step in steps]
    expected = [(b / a - 1 + 0.125).item() for a, b in itertools.pairwise(means)]
    rows = terms.report(terms.judge([batch]))
    assert [row["slack"] for row in rows] == pytest.approx(expected, abs=1e-4)
    assert [row["dev_slack"] for row in rows] == pytest.approx(expected, abs=1e-4)
    assert [row["layer"] for row in rows] == [1, 2, 3]
    assert terms.multipliers.values.tolist() == pytest.approx([max(0, 0.01 * c) for c in expected], abs=1e-5)


def weights_after(terms: dict, steps: int = 3) -> list[Tensor]:
    network = made("sparse-coding")
    wanted = LayerTerms(network, DepthSettings(), ConstraintSettings(**terms), seed=1) if terms else None
    descent = GradientDescent(network, FRONT_END, OBJECTIVE, 5.0, False, terms=wanted)
    for step in range(steps):
        descent.step(examples(step), 1e-3)
    if wanted is not None and wanted.constrained:
        weights_after.multipliers = wanted.multipliers.values
    return [p.detach() for p in network.parameters()]


def test_a_constraint_that_is_met_anyway_leaves_weights_and_multipliers_as_they_are() -> None:
    plain, met = weights_after({}), weights_after({"kind": "objective"})  # each ISTA step descends by itself
    assert all(torch.equal(a, b) for a, b in zip(plain, met, strict=True))
    assert not weights_after.multipliers.any()


def test_a_constraint_that_is_not_met_changes_weights_and_multipliers() -> None:
    plain, bound = weights_after({}), weights_after({"kind": "objective", "epsilon": 0.9})
    assert not any(torch.equal(a, b) for a, b in zip(plain[:2], bound[:2], strict=True))
    assert (weights_after.multipliers > 0).all()


def test_noise_comes_again_with_its_seed_and_only_in_training() -> None:
    one, two, none = (weights_after({"noise": size} if size else {}) for size in (0.5, 0.5, 0.0))
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
    assert not torch.equal(one[0], none[0])
    network, batch = made("sparse-coding"), examples()
    quiet = batch.masks(network)
    found, _ = total(LayerTerms(network, DepthSettings(), ConstraintSettings(noise=0.5)), batch)
    assert torch.equal(batch.masks(network), quiet)
    expected = objective(OBJECTIVE, quiet, batch.truth, FRONT_END)
    assert not torch.equal(found, expected)


def test_noise_has_the_size_asked_for_and_leaves_states_non_negative() -> None:
    settings = ConstraintSettings(noise=0.5, noise_schedule="falling")
    noise = LayerNoise(LAYERS, settings.noise_after, torch.Generator().manual_seed(0))
    state = torch.randn(4, 5000)
    assert (noise(2, state) - state).std().item() == pytest.approx(0.25, rel=0.05)
    assert noise(2, state.abs()).min() == 0
    assert noise(LAYERS, state) is state
    begin = (state,)
    field, same, _ = noise(1, (state, begin, ()))
    assert same is begin and not torch.equal(field, state)


ASKED = {
    "constraints": {"constraints": {"kind": "target", "epsilon": 0.3, "noise": 0.1}},
    "all": {
        "depth": {"supervision": [0.5, 0.25], "distillation": [0.1]},
        "constraints": {"kind": "gradient", "total": 0.1, "noise": 0.2},
    },
}


@pytest.mark.parametrize(
    ("model", "asked", "optimizer"),
    [("grid", "constraints", "adam"), ("sparse-coding", "all", "muon"), ("recurrent-ista", "constraints", "sgd")],
)
def test_a_resumed_run_equals_the_uninterrupted_one_bit_for_bit(
    tiny_corpus: Path, tmp_path: Path, model: str, asked: str, optimizer: str, monkeypatch
) -> None:
    chosen = recipe(model, **ASKED[asked], training={"optimizer": optimizer})
    where, steps = recordings(tiny_corpus), []
    if model != "grid":  # a picture of each is enough
        monkeypatch.setattr(Journal, "_write_figure", lambda *_: None)
    assert train(chosen, where, tmp_path / "whole")

    def count(row: dict) -> None:
        steps.extend([row] if "best" in row else [])

    assert not train(chosen, where, tmp_path / "cut", progress=count, stop=lambda: len(steps) == 3)
    assert train(chosen, where, tmp_path / "cut", resume=True)
    for name in ("resume.safetensors", "best.safetensors"):
        (one, _), (two, _) = (checkpoint.load(tmp_path / run / name) for run in ("whole", "cut"))
        assert one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)
    if "constraints" in ASKED[asked]:
        tables = [(tmp_path / run / "constraints.csv").read_text() for run in ("whole", "cut")]
        assert tables[0] == tables[1]
        rows = list(csv.DictReader(tables[0].splitlines()))
        assert tuple(rows[0]) == CONSTRAINT_COLUMNS
        assert [(row["step"], row["layer"]) for row in rows] == [(s, k) for s in "24" for k in "123"]
        assert any(float(row["multiplier"]) > 0 for row in rows)
        assert model != "grid" or (tmp_path / "whole" / "constraints.png").stat().st_size > 5000


def test_a_network_that_keeps_no_states_of_its_layers_is_refused() -> None:
    """The gradient of the minimum at which it settles needs none of them."""
    settings = DeepNmfSettings(bins=33, context=1, atoms=4, iterations=6, tied=True, gradient="implicit")
    with pytest.raises(RecipeError, match='found network.gradient="implicit"'):
        require_support(build("deep-nmf", settings), DepthSettings(), ConstraintSettings("objective"))


def test_a_resume_point_of_other_constraints_is_refused(tiny_corpus: Path) -> None:
    network = made("sparse-coding")
    one, other = (LayerTerms(network, DepthSettings(), ConstraintSettings(kind)) for kind in ("target", "gradient"))
    with pytest.raises(ValueError, match="multipliers of other constraints"):
        one.load_state(other.state())


def test_weights_that_meet_the_constraints_come_before_better_ones_that_do_not(
    tiny_corpus: Path, tmp_path: Path, monkeypatch
) -> None:
    verdicts, notes = iter([True, False]), []
    monkeypatch.setattr(LayerTerms, "feasible", lambda *_: next(verdicts))
    rising = iter([0.0, 1.0, 9.0])
    monkeypatch.setattr(Trainer, "_dev_score", lambda self, *_: DevScore(next(rising)))
    monkeypatch.setattr(Journal, "_write_figure", lambda *_: None)
    assert train(recipe(constraints={"kind": "target"}), recordings(tiny_corpus), tmp_path, progress=notes.append)
    assert checkpoint.load(tmp_path / "best.safetensors")[1]["provenance"]["trained"]["steps"] == 2
    assert not [note for note in notes if "met the constraints" in note.get("note", "")]


def test_a_run_says_that_no_weights_met_the_constraints(tiny_corpus: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(Journal, "_write_figure", lambda *_: None)
    notes: list[dict] = []
    hopeless = {"kind": "target", "epsilon": 0.99}
    assert train(recipe(constraints=hopeless), recordings(tiny_corpus), tmp_path, progress=notes.append)
    assert [note for note in notes if "no weights met the constraints on dev" in note.get("note", "")]


BAD = [
    ({"constraints": {"kind": "distance"}}, r"kind 'distance' is none of none, target, objective, gradient"),
    ({"constraints": {"kind": "target", "epsilon": 1.0}}, r"epsilon and total must lie in \[0, 1\)"),
    ({"constraints": {"kind": "target", "epsilon": 0.1, "total": 0.5}}, "say the same in two ways"),
    ({"constraints": {"epsilon": 0.1}}, "epsilon and total need a kind of constraint"),
    ({"constraints": {"kind": "target", "dual_rate": 0.0}}, "dual_rate must be positive"),
    ({"constraints": {"noise": -1.0}}, "noise not negative"),
    ({"constraints": {"noise": 0.1, "noise_schedule": "rising"}}, "'rising' is none of constant, falling"),
    ({"constraints": {"kind": "objective"}}, "'objective' for the model grid; expected an algorithm without recurrence"),
    ({"depth": {"supervision": [0.1, 0.2, 0.3]}}, "supervision has 3 weights for the 2 layers below the last"),
    ({"depth": {"distillation": [-0.1]}}, "supervision and distillation must not be negative"),
    ({"model": "dnn", "network": {}, "depth": {"supervision": [0.1]}}, "the model dnn; expected one that gives masks"),
    ({"model": "mean-field", "network": {}, "constraints": {"kind": "target"}}, "the model mean-field; expected one"),
    (
        {"model": "dnmf", "network": {"iterations": 3}, "constraints": {"kind": "target"}},
        "a network of which only the readout is trained",
    ),
    (
        {"model": "deep-nmf", "network": {"iterations": 3}, "training": {"greedy": True}, "depth": {"supervision": [1.0]}},
        r"training.greedy = True beside \[depth\] or \[constraints\]; expected descent along the gradient",
    ),
    (
        {
            "model": "deep-nmf", "network": {"iterations": 3}, "training": {"optimizer": "multiplicative"},
            "objective": {"magnitude": 1.0, "compressed_half": 0.0, "compressed_third": 0.0, "snr": 0.0},
            "constraints": {"kind": "target"},
        },
        "training.optimizer = 'multiplicative' beside",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("tables", "message"), BAD, ids=[message[:30] for _, message in BAD])
def test_settings_that_cannot_be_are_refused_with_a_sentence(tables: dict, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        Recipe.from_dict({"model": "grid", "network": NETWORKS["grid"] if "model" not in tables else {}} | tables)
