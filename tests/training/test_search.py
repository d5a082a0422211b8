"""Training by search, and networks of sparse coding that begin with learned dictionaries."""

from pathlib import Path

import pytest
import torch

from deepnmf_cli import checkpoint, zoo
from deepnmf_cli.errors import RecipeError
from deepnmf_cli.experiment import Recordings, train
from deepnmf_cli.networks.sparse import ALGORITHMS, SparseCodingNetwork, SparseCodingSettings
from deepnmf_cli.recipe import Recipe
from deepnmf_cli.signal.stft import FrontEnd
from deepnmf_cli.training.minibatch import Batch
from deepnmf_cli.training.objectives import ObjectiveSettings
from deepnmf_cli.training.search import SimplexSearch

FRONT_END = FrontEnd(rate_hz=8000)
SHAPE = {
    "bins": FRONT_END.bins, "rate_hz": 8000, "single_bands": 16, "wide_bands": 8, "context": 2, "atoms": 4,
    "iterations": 3, "blocks": 2, "sketch_bands": 6, "period": 3, "ridge": 0.1, "mask_power": 3.0,
}  # fmt: skip


def examples() -> Batch:
    draw = torch.Generator().manual_seed(0)
    speech = torch.sin(torch.arange(4000) * torch.tensor([[0.2], [0.3]])) * torch.randn(2, 1, generator=draw)
    waveforms = torch.stack([speech, 0.3 * torch.randn(2, 4000, generator=draw)], 1)
    return Batch(waveforms, FRONT_END.pair(8000).analysis(waveforms), 2)


def search(algorithm: str = "hyperlista", **more) -> SimplexSearch:
    torch.manual_seed(0)
    network = SparseCodingNetwork(SparseCodingSettings(**SHAPE | more, algorithm=algorithm))
    return SimplexSearch(network, FRONT_END, ObjectiveSettings())


def recipe(algorithm: str, **training) -> Recipe:
    return Recipe.from_dict(
        {
            "model": "sparse-coding",
            "network": SHAPE | {"algorithm": algorithm},
            "front_end": {"rate_hz": 8000},
            "mixing": {"segment_s": 0.5},
            "dictionary": {"batches": 3, "batch_frames": 60, "iterations": 2},
            "training": {"steps": 4, "batch": 2, "score_every": 2, "warmup_steps": 1, "average": 0.0} | training,
        }
    )


def recordings(corpus: Path) -> Recordings:
    return Recordings(speech=corpus / "speech", noise=corpus / "noise", dev=corpus / "dev")


def test_the_loss_of_one_batch_falls_and_never_rises() -> None:
    batch, one = examples(), search()
    before = {name: p.detach().clone() for name, p in one.network.named_parameters()}
    losses = [one.step(batch, 1.0) for _ in range(12)]
    assert losses == sorted(losses, reverse=True) and losses[-1] < 0.99 * losses[0]
    moved = {name for name, p in one.network.named_parameters() if not torch.equal(p, before[name])}
    assert {name.split(".")[-2] for name in moved} == {"threshold_0", "momentum_0", "support_0"}
    assert all(p.grad is None for p in one.network.parameters())


def test_a_search_goes_on_from_its_state() -> None:
    batch, through, resumed = examples(), search(), search()
    through.step(batch, 1.0)
    resumed.load_state(through.state())
    assert [through.step(batch, 1.0) for _ in range(3)] == [resumed.step(batch, 1.0) for _ in range(3)]
    for wrong in ({}, {0: {"exp_avg": torch.zeros(4, 3)}}, {0: {"simplex": torch.zeros(5, 4)}}):
        with pytest.raises(ValueError, match="simplex"):
            resumed.load_state(wrong)


def test_many_numbers_are_not_searched() -> None:
    assert search("alista").simplex.shape == (7, 6)
    with pytest.raises(RecipeError, match='found "search" for [0-9]+ trained numbers; expected at most 30'):
        search("lista")


def test_a_resumed_search_equals_the_uninterrupted_one_bit_for_bit(tiny_corpus: Path, tmp_path: Path) -> None:
    chosen, where, steps = recipe("hyperlista-abt", optimizer="search"), recordings(tiny_corpus), []
    assert train(chosen, where, tmp_path / "whole", cache=tmp_path / "cache")
    complete = train(
        chosen, where, tmp_path / "cut", cache=tmp_path / "cache",
        progress=lambda row: "loss" in row and "best" in row and steps.append(row), stop=lambda: len(steps) == 3,
    )  # fmt: skip
    assert not complete
    assert train(chosen, where, tmp_path / "cut", resume=True, cache=tmp_path / "cache")
    (one, _), (two, _) = (checkpoint.load(tmp_path / run / "resume.safetensors") for run in ("whole", "cut"))
    assert one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)
    assert "optimiser.0.simplex" in one


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_algorithm_begins_with_the_dictionary_and_is_trained(
    algorithm: str, tiny_corpus: Path, tmp_path_factory
) -> None:
    folder = tmp_path_factory.getbasetemp() / "sparse-coding"
    cache, where = folder / "cache", recordings(tiny_corpus)
    assert train(recipe(algorithm, learning_rate=0.0), where, folder / f"{algorithm}-begun", cache=cache)
    (dictionary,) = cache.glob("dictionary-*")
    learned = checkpoint.load(dictionary)[0]["dictionary"]
    assert learned.shape == (48, 8)
    begun, _ = zoo.load(folder / f"{algorithm}-begun")
    expected = SparseCodingNetwork(begun.settings, learned)
    assert all(torch.equal(x, begun.weights()[name]) for name, x in expected.weights().items())
    assert train(recipe(algorithm), where, folder / algorithm, cache=cache)
    trained, _ = zoo.load(folder / algorithm)
    assert any(not torch.equal(x, trained.weights()[name]) for name, x in expected.weights().items())


def test_dictionaries_are_those_of_compressed_bands(tiny_corpus: Path, tmp_path: Path) -> None:
    """What each atom answers to: a pitch for speech, everything alike for noise."""
    assert train(recipe("ista"), recordings(tiny_corpus), tmp_path / "run", cache=tmp_path)
    (file,) = tmp_path.glob("dictionary-*")
    learned = checkpoint.load(file)[0]["dictionary"].unflatten(0, (2, 24))[1]  # the present frame
    peaks = learned.amax(0) / learned.mean(0)
    assert peaks[:4].mean() > 1.3 * peaks[4:].mean()
