"""Training on single frames: the same numbers as on whole mixtures, and nothing expensive done twice."""

import shutil
from pathlib import Path

import pytest
import soundfile
import torch

from deepnmf_cli import checkpoint
from deepnmf_cli.errors import RecipeError
from deepnmf_cli.experiment import initial_network, open_corpus, train
from deepnmf_cli.networks import build
from deepnmf_cli.recipe import Recipe, read_recipe
from deepnmf_cli.training import minibatch
from deepnmf_cli.training.minibatch import CHEAP_LAYERS, KEPT_CONTEXT, FrameStore
from deepnmf_cli.training.objectives import Truth, objective
from deepnmf_cli.training.trainer import Trainer
from tests.training.test_training import recipe, recordings

STRIDE = 4
MAGNITUDES = {"magnitude": 1.0, "compressed_half": 0.0, "compressed_third": 0.0, "snr": 0.0}


def framewise(model: str, network: dict | None = None, **training) -> Recipe:
    table = recipe(model).to_dict()
    table["training"] |= {"frame_stride": STRIDE} | training
    return Recipe.from_dict(table | {"objective": MAGNITUDES, "network": table["network"] | (network or {})})


def store(chosen: Recipe, corpus: Path, folder: Path | None = None) -> FrameStore:
    source, _ = open_corpus(recordings(corpus), chosen)
    network = initial_network(chosen, source)
    return FrameStore(source, chosen.front_end, network, 2, STRIDE, folder, "tiny")


@pytest.mark.parametrize("model", ["dnn", "deep-nmf"])
def test_masks_of_single_frames_equal_those_of_whole_mixtures(tiny_corpus: Path, model: str) -> None:
    held = store(framewise(model), tiny_corpus)
    batch = held[1]
    waveforms = torch.stack([torch.stack([*map(torch.from_numpy, held.source[i])]) for i in (2, 3)])
    spectra = held.pair.analysis(waveforms)
    masks, _ = held.network(spectra.sum(1).abs())
    chosen = slice(STRIDE - 1, None, STRIDE)
    torch.testing.assert_close(batch.masks(held.network), masks[..., chosen], rtol=1e-4, atol=1e-6)
    assert torch.equal(batch.spectra, spectra[..., chosen])
    settings, front_end = framewise(model).objective, framewise(model).front_end
    whole = objective(settings, masks[..., chosen], Truth(spectra[..., chosen], waveforms), front_end)
    single = objective(settings, batch.masks(held.network), batch.truth, front_end)
    torch.testing.assert_close(single, whole, rtol=1e-4, atol=0)


def test_kept_batches_equal_fresh_ones_and_need_no_recordings(tiny_corpus: Path, tmp_path: Path) -> None:
    chosen = framewise("deep-nmf", {"iterations": CHEAP_LAYERS + 3})
    held = store(chosen, tiny_corpus, tmp_path)
    fresh = held[0]
    held.source = None
    again = held[0]
    assert torch.equal(fresh.evidence, again.evidence) and torch.equal(fresh.spectra, again.spectra)
    assert torch.equal(fresh.fixed, again.fixed)
    assert [p.name for p in tmp_path.glob("fixed-*/*")] == [f"0-{CHEAP_LAYERS + 2}.safetensors"]


def test_fixed_states_are_continued_from_the_nearest_kept_one(tiny_corpus: Path, tmp_path: Path) -> None:
    many, few = ({"iterations": 9, "trained_layers": c} for c in (4, 1))
    store(framewise("deep-nmf", many), tiny_corpus, tmp_path)[0]
    held = store(framewise("deep-nmf", few), tiny_corpus, tmp_path)
    batch = held[0]
    torch.testing.assert_close(batch.fixed, held.network.fixed_state(batch.evidence), rtol=1e-5, atol=1e-7)
    assert [p.name for p in tmp_path.glob("fixed-*/*")] == ["0-6.safetensors"]


def test_damaged_files_are_made_again(tiny_corpus: Path, tmp_path: Path) -> None:
    chosen = framewise("deep-nmf", {"iterations": CHEAP_LAYERS + 3})
    before = store(chosen, tiny_corpus, tmp_path)[0]
    stored = {path.parent.name.partition("-")[0]: path for path in tmp_path.glob("*/*.safetensors")}
    assert stored.keys() == {"frames", "fixed"}
    for path in stored.values():
        path.write_bytes(path.read_bytes()[:-40])
    for _ in range(2):
        again = store(chosen, tiny_corpus, tmp_path)[0]
        assert torch.equal(again.evidence, before.evidence) and torch.equal(again.fixed, before.fixed)
    assert checkpoint.load(stored["fixed"])[0]["state"].shape == before.fixed.shape


def test_large_states_are_not_kept(tiny_corpus: Path, tmp_path: Path, monkeypatch) -> None:
    chosen = framewise("deep-nmf", {"iterations": CHEAP_LAYERS + 3})
    fresh = store(chosen, tiny_corpus, tmp_path)[0].fixed
    monkeypatch.setattr(minibatch, "LARGEST_STATE_BYTES", fresh.numel() * fresh.element_size() - 1)
    shutil.rmtree(next(tmp_path.glob("fixed-*")))
    assert torch.equal(store(chosen, tiny_corpus, tmp_path)[0].fixed, fresh)
    assert not [*tmp_path.glob("fixed-*/*")]


def test_another_dictionary_or_other_mixtures_are_kept_apart(tiny_corpus: Path) -> None:
    held = [store(framewise("deep-nmf", n), tiny_corpus) for n in ({}, {"sparsity": 1.0}, {"context": 3})]
    assert len({s.fixed_key for s in held}) == 3
    assert held[0].frames_key == held[1].frames_key != held[2].frames_key


def test_batches_come_again_after_the_distinct_ones(tiny_corpus: Path) -> None:
    held = store(framewise("dnn"), tiny_corpus)
    spectra = [batch.spectra for batch in held.batches(range(1, 5), 2)]
    assert torch.equal(spectra[0], spectra[2]) and torch.equal(spectra[1], spectra[3])
    assert not torch.equal(spectra[0], spectra[1])


@pytest.mark.parametrize("optimizer", ["adam", "exponentiated-entries"])
def test_runs_with_a_cache_equal_those_without(tiny_corpus: Path, tmp_path: Path, optimizer: str) -> None:
    chosen, where = framewise("deep-nmf", distinct_batches=2, optimizer=optimizer), recordings(tiny_corpus)
    rows = []
    for run, cache in (("bare", None), ("first", tmp_path / "cache"), ("second", tmp_path / "cache")):
        assert train(chosen, where, tmp_path / run, cache=cache)
        rows.append([line.rpartition(",")[0] for line in (tmp_path / run / "history.csv").read_text().splitlines()])
    assert rows[0] == rows[1] == rows[2]
    assert list((tmp_path / "cache").glob("dictionary-*.safetensors"))


def test_a_cache_holds_nothing_of_recordings_that_were_replaced(tiny_corpus: Path, tmp_path: Path, monkeypatch) -> None:
    """Paths may be the same, as relative ones are, or where recordings were added or changed."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny_corpus, "corpus")
    chosen, where = framewise("deep-nmf", distinct_batches=2), recordings(Path("corpus"))
    assert train(chosen, where, Path("first"), cache=Path("cache"))
    for path in Path("corpus/noise").rglob("*.wav"):
        samples, rate_hz = soundfile.read(path)
        soundfile.write(path, samples[::-1] ** 3, rate_hz)
    assert train(chosen, where, Path("second"), cache=Path("cache")) and train(chosen, where, Path("bare"))
    rows = [
        [line.rpartition(",")[0] for line in Path(run, "history.csv").read_text().splitlines()]
        for run in ("first", "second", "bare")
    ]
    assert rows[1] == rows[2] != rows[0]


def test_frames_that_examples_do_not_have_are_refused(tiny_corpus: Path) -> None:
    source, _ = open_corpus(recordings(tiny_corpus), chosen := framewise("dnn"))
    with pytest.raises(RecipeError, match="training.frame_stride: found 500; expected at most"):
        FrameStore(source, chosen.front_end, initial_network(chosen, source), 2, 500)


def test_processes_that_frames_do_not_need_are_reported(tiny_corpus: Path, tmp_path: Path) -> None:
    for chosen, expected in ((framewise("dnn"), 1), (recipe("dnn"), 0)):
        said: list[str] = []
        folder = tmp_path / f"{expected}"
        train(chosen, recordings(tiny_corpus), folder, workers=2, progress=lambda r: said.append(r.get("note", "")))
        assert sum("--workers has no effect" in note for note in said) == expected


@pytest.mark.parametrize("optimizer", ["adam", "multiplicative"])
def test_greedy_training_begins_at_the_readout(tiny_corpus: Path, optimizer: str) -> None:
    chosen = framewise("deep-nmf", {"trained_layers": 3}, optimizer=optimizer, greedy=True, steps=3)
    held = store(chosen, tiny_corpus)
    trainer = Trainer(held.network, chosen.front_end, chosen.objective, chosen.training, None, None, frames=held)
    changed = []
    for batch in held.batches(range(3)):
        before = [w.clone() for w in held.network.weights().values()]
        trainer.update(batch)
        trainer.step += 1
        after = held.network.weights().values()
        changed.append([slot for slot, (a, b) in enumerate(zip(before, after)) if not torch.equal(a, b)])
    assert changed == [[3], [2, 3], [1, 2, 3]]


@pytest.mark.parametrize(
    "model, overrides, message",
    [
        ("grid", [], "a network of context frames"),
        ("dnn", ["objective.snr=0.1"], "terms on magnitudes alone"),
        ("dnn", ["training.greedy=true"], "deep-nmf with untied layers"),
        ("deep-nmf", ["training.greedy=true", "network.tied=true"], "deep-nmf with untied layers"),
    ],
)
def test_what_single_frames_and_greedy_training_do_not_go_with(model: str, overrides: list[str], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        read_recipe(None, model, ["training.frame_stride=2", "objective.snr=0", *overrides])


def test_networks_without_trained_layers_are_fixed_up_to_the_readout() -> None:
    network = build("deep-nmf", read_recipe(None, "deep-nmf", ["network.trained_layers=1"]).network)
    assert network.fixed_layers == 25
    assert build("deep-nmf", read_recipe(None, "deep-nmf", ["network.trained_layers=26"]).network).fixed_layers == 0


def test_networks_that_look_back_less_far_read_the_same_files(tiny_corpus: Path, tmp_path: Path) -> None:
    networks = [{"context": c} for c in (1, 3, KEPT_CONTEXT)]
    kept = [store(framewise("dnn", n), tiny_corpus, tmp_path)[0] for n in networks]
    fresh = [store(framewise("dnn", n), tiny_corpus)[0] for n in networks]
    for found, expected in zip(kept, fresh, strict=True):
        assert torch.equal(found.evidence, expected.evidence) and torch.equal(found.spectra, expected.spectra)
    assert len([*tmp_path.glob("frames-*/*")]) == 1
