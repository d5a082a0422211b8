"""Recurrent networks: the classical algorithms without recurrence, and what recurrence and relaxation change."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from deepnmf_cli.inference import ista, nmf, psista, wiener
from deepnmf_cli.networks import build
from deepnmf_cli.networks.band_network import band_sketch
from deepnmf_cli.networks.rnn import GridRnn, GridRnnSettings, Rnn, RnnSettings
from deepnmf_cli.networks.sparse import (
    IstaSettings,
    RecurrentIsta,
    RecurrentNmf,
    RecurrentNmfSettings,
    SparseCodingNetwork,
    SparseCodingSettings,
)
from deepnmf_cli.recipe import read_recipe
from deepnmf_cli.signal.level import normalise_level, stack_context

SHAPE = {"bins": 33, "single_bands": 8, "wide_bands": 8, "context": 2, "atoms": 5, "iterations": 6}
CLASSICAL = {"recurrent": False, "tied": True}


def inputs(frames: int = 30, batch: int = 1) -> torch.Tensor:
    return torch.rand(batch, 33, frames, generator=torch.Generator().manual_seed(1)) ** 3


def dictionary() -> torch.Tensor:
    w = torch.rand(32, 10, generator=torch.Generator().manual_seed(4))
    return w / w.norm(dim=0)


def evidence(network: Any, magnitude: torch.Tensor) -> torch.Tensor:
    """What the algorithm sees: stacked bands."""
    bands = network.pool(normalise_level(magnitude)[0]).pow(network.compression)
    return stack_context(bands, 2)[0]


def masks(network: Any, activations: torch.Tensor) -> torch.Tensor:
    """The speech mask (B, bins, T) that activations (B, 2R, T) stand for."""
    return network.spread(wiener.masks(nmf.readout(activations, dictionary()[-16:], (5, 5)))[:, 0].mT).mT


@torch.no_grad()
def test_untrained_tied_ista_without_recurrence_is_the_classical_algorithm_bit_for_bit() -> None:
    network = RecurrentIsta(IstaSettings(**SHAPE, **CLASSICAL, relaxed=False), dictionary())
    expected = ista.infer(evidence(network, inputs()), dictionary(), 6, network.settings.sparsity)
    assert expected.count_nonzero() > 20
    assert torch.equal(network(inputs())[0][:, 0], masks(network, expected).clamp(0, 1))


@torch.no_grad()
def test_untrained_tied_nmf_without_recurrence_is_the_classical_algorithm_bit_for_bit() -> None:
    network = RecurrentNmf(RecurrentNmfSettings(**SHAPE, **CLASSICAL), dictionary())
    expected = nmf.infer(evidence(network, inputs()), dictionary(), 6, 1.0, network.settings.sparsity)
    assert torch.equal(network(inputs())[0][:, 0], masks(network, expected).clamp(0, 1))


@torch.no_grad()
@pytest.mark.parametrize("kind,settings", [(RecurrentIsta, IstaSettings), (RecurrentNmf, RecurrentNmfSettings)])
def test_warm_start_from_nothing_is_the_network_without_recurrence(kind: type, settings: type) -> None:
    options = {"relaxed": False} if kind is RecurrentIsta else {}
    alone = kind(settings(**SHAPE, **CLASSICAL, **options), dictionary())
    recurrent = kind(settings(**SHAPE, tied=True, **options), dictionary())
    weights = recurrent.weights()
    weights["transition_0"] = torch.zeros(10, 10)
    if "fresh_0" in weights:
        weights["fresh_0"] = torch.ones(10, 1)
    assert not torch.allclose(recurrent(inputs())[0], alone(inputs())[0], atol=1e-4)
    recurrent.load_weights(weights)
    torch.testing.assert_close(recurrent(inputs())[0], alone(inputs())[0], rtol=0, atol=1e-6)


@torch.no_grad()
@pytest.mark.parametrize("kind,settings", [(RecurrentIsta, IstaSettings), (RecurrentNmf, RecurrentNmfSettings)])
def test_with_a_warm_start_a_steady_sound_is_explained_ever_better(kind: type, settings: type) -> None:
    """Few iterations per frame go on where the last frame stopped: after t frames they are worth t times as many."""
    shape = SHAPE | {"iterations": 1, "context": 1}
    w = dictionary()[16:] / dictionary()[16:].norm(dim=0)
    options = {"relaxed": False} if kind is RecurrentIsta else {}
    network = kind(settings(**shape, tied=True, **options), w)
    weights = network.weights()
    weights["transition_0"] = torch.eye(10)
    if "fresh_0" in weights:
        weights["fresh_0"] = torch.zeros(10, 1)
    network.load_weights(weights)
    steady = torch.rand(16, 1, generator=torch.Generator().manual_seed(7)) + 0.1
    x = steady.expand(16, 12)[None]
    begin = nmf.start(steady, w) if kind is RecurrentNmf else None
    _path, last = network.unfolded.infer((x, begin))
    penalty = network.settings.sparsity
    infer = {RecurrentNmf: lambda: nmf.infer(steady, w, 12, 1.0, penalty)}
    expected = infer.get(kind, lambda: ista.infer(steady, w, 12, penalty))()
    torch.testing.assert_close(last, expected, rtol=1e-4, atol=1e-6)


@torch.no_grad()
def test_a_schedule_of_one_makes_full_steps_and_of_zero_none() -> None:
    full = RecurrentIsta(IstaSettings(**SHAPE, tied=True, relaxed=False), dictionary())
    relaxed = RecurrentIsta(IstaSettings(**SHAPE, tied=True), dictionary())
    weights = relaxed.weights()
    assert not torch.allclose(relaxed(inputs())[0], full(inputs())[0], atol=1e-3)
    relaxed.load_weights(weights | {"gate_bias_0": torch.full((10, 1), 100.0)})
    torch.testing.assert_close(relaxed(inputs())[0], full(inputs())[0], rtol=0, atol=1e-5)
    relaxed.load_weights(weights | {"gate_bias_0": torch.full((10, 1), -200.0)})
    assert (relaxed(inputs())[0] == 0.5).all()  # no activations, and so nothing is known


@torch.no_grad()
def test_sharper_masks_are_shares_of_powers_of_the_models() -> None:
    plain, sharp = (SparseCodingNetwork(SparseCodingSettings(**SHAPE, mask_power=p), dictionary()) for p in (1.0, 3.0))
    x = evidence(plain, inputs())
    speech, noise = (network.unfolded(x)[:, 0] for network in (plain, sharp))
    ratio = speech / (1 - speech)
    torch.testing.assert_close(noise, ratio**3 / (1 + ratio**3))


def test_a_sketch_pools_neighbouring_bands_on_the_erb_scale() -> None:
    sketch = band_sketch(SparseCodingSettings(), 24)
    assert sketch.shape == (24, 96) and (sketch >= 0).all() and (sketch.sum(0) > 0).all()
    torch.testing.assert_close(sketch.norm(dim=1), torch.ones(24))
    centres = (sketch * torch.arange(96)).sum(1) / sketch.sum(1)
    assert (centres.diff() > 0).all()
    assert (sketch > 0).sum(1).max() < 24


@torch.no_grad()
def test_a_common_sketch_is_the_subspace_that_stretches_of_noise_share_and_travels_with_the_weights() -> None:
    """Noises of other levels in each of four directions of 16 bands, and next to nothing beside."""
    settings = SparseCodingSettings(**SHAPE, algorithm="psista", sketch="common", sketch_bands=4, period=2)
    network, draw = SparseCodingNetwork(settings, dictionary()), torch.Generator().manual_seed(6)
    directions = torch.eye(33)[:, [1, 3, 5, 7]]  # single bands, of which the sketch must be made
    sizes = torch.rand(6, 4, 1, generator=draw) + 0.5
    noises = [(directions @ (size * torch.rand(4, 50, generator=draw)))[None] + 1e-6 for size in sizes]
    assert network.shares_noise and not SparseCodingNetwork(SparseCodingSettings(**SHAPE)).shares_noise
    shared = network.shared_by_noise(noises)
    assert shared["sketch"].shape == (4, 16)
    torch.testing.assert_close(shared["sketch"] @ shared["sketch"].mT, torch.eye(4))
    kept = shared["sketch"].mT @ shared["sketch"]
    torch.testing.assert_close(kept[:8, :8], torch.diag(torch.eye(8)[[1, 3, 5, 7]].sum(0)), rtol=0, atol=0.05)
    made = SparseCodingNetwork(settings, dictionary(), **shared)
    sketch = made.unfolded.bank.layer(0)["sketch"]
    assert torch.equal(sketch, torch.block_diag(shared["sketch"], shared["sketch"])) and (sketch < 0).any()
    expected = psista.infer(evidence(made, inputs()), dictionary(), sketch, 6, 2, settings.sparsity)
    assert (expected >= 0).all() and expected.count_nonzero() > 20
    assert torch.equal(made(inputs())[0][:, 0], masks(made, expected).clamp(0, 1))
    network.load_weights(made.weights())
    assert torch.equal(network(inputs())[0], made(inputs())[0])
    assert all(x.min() >= 0 for name, x in made.weights().items() if name.startswith("dictionary"))


@pytest.mark.parametrize(
    "algorithm,products",
    [
        ("ista", 10 * (288 * 128 + 128 * 128)),  # D^T x and D^T D h in each of ten layers
        ("cancellation", 10 * (288 * 128 + 128 * 128)),  # the same products, by halves
        ("lista", 10 * 288 * 128 + 9 * 128 * 128),  # nothing comes before the first
        ("alista", 10 * 288 * 128 + 9 * 128 * 128),
        ("hyperlista", 288 * 128 + 9 * 128 * 128),  # D^+ x once
        ("psista", 72 * 288 + (8 * 72 + 2 * 288) * 128 + 10 * 128 * 128),  # two layers see all 288 rows
    ],
)
def test_multiply_adds_are_counted_by_algorithm(algorithm: str, products: int) -> None:
    network = SparseCodingNetwork(SparseCodingSettings(context=3, algorithm=algorithm, ridge=0.1))
    assert network.macs_per_frame() == products + 2 * 193 * 32 + 96 * 128  # bands and back, and the readout


def test_only_the_last_layers_are_trained_where_that_is_asked_for() -> None:
    settings = SparseCodingSettings(**SHAPE, algorithm="lista", trained_layers=2)
    bank = SparseCodingNetwork(settings, dictionary()).unfolded.bank
    trained = {name.partition(".")[0] for name, _ in bank.named_parameters()}
    assert trained == {"encoder_1", "recurrence_1", "threshold_1", "dictionary_0"}
    assert bank.ties["encoder"].slots == (0, 0, 0, 0, 0, 1, None)
    assert bank.ties["recurrence"].slots == (None, 0, 0, 0, 0, 1, None)


def test_non_negative_weights_stay_non_negative() -> None:
    network = RecurrentNmf(RecurrentNmfSettings(**SHAPE), dictionary())
    optimiser = torch.optim.SGD(network.parameters(), lr=100.0)
    network(inputs())[0][:, 0].sum().backward()
    optimiser.step()
    assert all((value >= 0).all() for value in network.weights().values())
    assert torch.isfinite(network(inputs())[0]).all()


@pytest.mark.parametrize("cell", ["gru", "lstm"])
@torch.no_grad()
def test_conventional_cells_carry_their_state(cell: str) -> None:
    shape = {"bins": 33, "single_bands": 8, "wide_bands": 8, "cell": cell}
    for network in (Rnn(RnnSettings(**shape, hidden=6)), GridRnn(GridRnnSettings(**shape, channels=6, iterations=2))):
        whole, _ = network(inputs(batch=2))
        first, state = network(inputs(batch=2)[..., :11])
        second, _ = network(inputs(batch=2)[..., 11:], state)
        torch.testing.assert_close(torch.cat([first, second], -1), whole, rtol=0, atol=1e-6)


def test_rivals_in_recipes_are_about_as_large_as_what_they_are_compared_with() -> None:
    def size(network: Any) -> int:
        return network.parameter_counts()[0]

    names = ("grid", "grid-gru", "grid-lstm", "recurrent-ista", "recurrent-nmf", "gru", "lstm")
    research = Path(__file__).parents[2] / "docs/research/flagship/recipes"
    files = {name: research / f"{name}.toml" for name in names}
    recipes = {name: read_recipe(file if file.is_file() else name) for name, file in files.items()}
    built = {name: build(recipe.model, recipe.network) for name, recipe in recipes.items()}
    for rival in ("grid-gru", "grid-lstm"):
        assert size(built[rival]) == pytest.approx(size(built["grid"]), rel=0.05)
        assert built[rival].macs_per_frame() == pytest.approx(built["grid"].macs_per_frame(), rel=0.1)
    for rival in ("recurrent-nmf", "gru", "lstm"):
        assert size(built[rival]) == pytest.approx(size(built["recurrent-ista"]), rel=0.1)


@pytest.mark.parametrize(
    "settings,wrong",
    [
        (IstaSettings(), {"atoms": 0}),
        (IstaSettings(), {"sparsity": -1.0}),
        (RecurrentNmfSettings(), {"single_bands": 300}),
        (RnnSettings(), {"cell": "rnn"}),
        (GridRnnSettings(), {"cell": "rnn"}),
        (GridRnnSettings(), {"channels": 7}),
        (SparseCodingSettings(), {"algorithm": "lasso"}),
        (SparseCodingSettings(), {"trained_layers": 12}),
        (SparseCodingSettings(), {"trained_layers": 2, "tied": True}),
        (SparseCodingSettings(algorithm="psista"), {"sketch_bands": 96}),
        (SparseCodingSettings(algorithm="psista"), {"period": 0}),
        (SparseCodingSettings(algorithm="psista"), {"sketch": "random"}),
        (SparseCodingSettings(algorithm="hyperlista-abt"), {"blocks": 7}),
        (SparseCodingSettings(algorithm="group-ista"), {"group_sparsity": -1.0}),
        (SparseCodingSettings(), {"mask_power": 0.0}),
    ],
)
def test_impossible_settings_are_refused(settings: Any, wrong: dict) -> None:
    with pytest.raises(ValueError):
        dataclasses.replace(settings, **wrong)


def test_a_penalty_of_zero_is_taken() -> None:
    assert IstaSettings(sparsity=0.0).sparsity == 0
