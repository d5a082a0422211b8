"""Training as a whole: exact resumption, the journal, dictionaries, errors."""

import csv
import errno
import io
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from deepnmf_cli import checkpoint, networks, zoo
from deepnmf_cli.corpus import sources
from deepnmf_cli.corpus.dataset import MixtureDataset
from deepnmf_cli.errors import CorpusError, DeepnmfError, ModelError, RecipeError, UsageError
from deepnmf_cli.experiment import Recordings, open_corpus, train
from deepnmf_cli.networks.deep_nmf import SparseNmf, SparseNmfSettings
from deepnmf_cli.recipe import Recipe
from deepnmf_cli.scoring.metrics import METRICS
from deepnmf_cli.signal.stft import FrontEnd
from deepnmf_cli.training import sparse_nmf
from deepnmf_cli.training.journal import COLUMNS, Journal, fcntl
from deepnmf_cli.training.sparse_nmf import context_frames, noises
from deepnmf_cli.training.trainer import Trainer
from tests.test_model_file import Forgetful

NETWORKS = {
    "dnn": {"context": 2, "hidden": [8]},
    "deep-nmf": {"context": 2, "atoms": 4, "iterations": 3, "trained_layers": 2},
    "grid": {"bins": 129, "rate_hz": 8000, "single_bands": 16, "wide_bands": 8, "channels": 4, "iterations": 2},
    "belief-propagation": {"context": 2, "hidden": [8]},
    "power-mean": {"context": 2, "hidden": [8, 8], "alphas": "annealed", "alpha": 0.0, "schedule": "layer"},
}


def recipe(model: str = "dnn", **training) -> Recipe:
    return Recipe.from_dict(
        {
            "model": model,
            "network": NETWORKS[model],
            "front_end": {"rate_hz": 8000},
            "mixing": {"segment_s": 0.5},
            "dictionary": {"batches": 3, "batch_frames": 60, "iterations": 2},
            "training": {"steps": 6, "batch": 2, "score_every": 2, "warmup_steps": 2} | training,
        }
    )


def recordings(corpus: Path) -> Recordings:
    return Recordings(speech=corpus / "speech", noise=corpus / "noise", dev=corpus / "dev")


@pytest.mark.parametrize("model", NETWORKS)
@pytest.mark.parametrize("stopped_after", [2, 3])
def test_resumed_run_equals_the_uninterrupted_one_bit_for_bit(
    tiny_corpus: Path, tmp_path: Path, model: str, stopped_after: int
) -> None:
    chosen, where = recipe(model), recordings(tiny_corpus)
    if model == "dnn":
        chosen = replace(chosen, network=replace(chosen.network, dropout=0.25))
    assert train(chosen, where, tmp_path / "whole")
    steps: list[dict] = []
    complete = train(
        chosen,
        where,
        tmp_path / "cut",
        progress=lambda row: "loss" in row and "best" in row and steps.append(row),
        stop=lambda: len(steps) == stopped_after,
    )
    assert not complete and len(steps) == stopped_after
    assert train(chosen, where, tmp_path / "cut", resume=True)
    for name in ("resume.safetensors", "best.safetensors"):
        (one, _), (two, _) = (checkpoint.load(tmp_path / run / name) for run in ("whole", "cut"))
        assert one.keys() == two.keys()
        assert all(torch.equal(one[key], two[key]) for key in one)
    histories = []
    for run in ("whole", "cut"):
        with open(tmp_path / run / "history.csv", newline="") as file:
            histories.append([{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)])
    assert histories[0] == histories[1] and [row["step"] for row in histories[0]] == ["2", "4", "6"]


def test_run_folder_holds_recipe_history_curves_and_a_loadable_model(tiny_corpus: Path, tmp_path: Path) -> None:
    train(recipe(), recordings(tiny_corpus), tmp_path / "run")
    run = tmp_path / "run"
    assert sorted(p.name for p in run.iterdir()) == [
        "best.safetensors", "curves.png", "history.csv", "recipe.json", "resume.safetensors",
    ]  # fmt: skip
    assert Recipe.from_dict(json.loads((run / "recipe.json").read_text())) == recipe()
    with open(run / "history.csv", newline="") as file:
        assert next(csv.reader(file)) == list(COLUMNS)
    network, file = zoo.load(run)
    assert Recipe.of_file(file) == recipe() and network.name == "dnn"


def test_curves_show_the_noisy_input_and_the_best_step(tiny_corpus: Path, tmp_path: Path) -> None:
    chosen = recipe(steps=6, learning_rate=0.5)
    where = recordings(tiny_corpus)
    train(chosen, where, tmp_path / "run", stop=iter([False] * 3 + [True] * 99).__next__)
    assert train(chosen, where, tmp_path / "run", resume=True)
    journal = Journal(tmp_path / "run")
    progress = journal.load_resume()[3]
    scores = [row["dev_score"] for row in journal.rows]
    journal.best_row = len(scores) - 1 - progress["since_best"]
    assert journal.best_row == scores.index(max(scores))
    _, dev = open_corpus(where, chosen)
    expected = np.mean([METRICS["SI-SDR"].compute(c.astype(float), n.astype(float), 8000) for c, n in dev])
    assert journal.noisy == pytest.approx(expected)
    panel = journal._draw().axes[1]
    best = journal.rows[journal.best_row]
    assert [text.get_text() for text in panel.get_legend().get_texts()] == [
        f"noisy input: {expected:.2f} dB", f"best: {max(scores):.2f} dB at step {best['step']}",
    ]  # fmt: skip
    _, noisy, star = panel.lines
    assert list(noisy.get_ydata()) == [journal.noisy] * 2
    assert (star.get_xdata()[0], star.get_ydata()[0]) == (best["hours"], max(scores))


def test_tensorboard_gets_scores_pictures_and_sounds_at_each_dev_score(tiny_corpus: Path, tmp_path: Path) -> None:
    board = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    chosen, where = recipe(steps=4), recordings(tiny_corpus)
    train(chosen, where, tmp_path / "plain")
    train(chosen, where, tmp_path / "run", tensorboard=True)
    for name in ("best.safetensors", "history.csv"):  # it does not change what is trained
        one, two = ((tmp_path / run / name).read_bytes() for run in ("plain", "run"))
        if name == "history.csv":
            one, two = ([row | {"seconds": ""} for row in csv.DictReader(x.decode().splitlines())] for x in (one, two))
        assert one == two
    events = board.EventAccumulator(str(tmp_path / "run/tensorboard"), size_guidance={"audio": 0, "images": 0})
    events.Reload()
    with open(tmp_path / "run/history.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    scores = [(event.step, event.value) for event in events.Scalars("dev_score")]
    assert scores == [(int(row["step"]), pytest.approx(float(row["dev_score"]), rel=1e-6)) for row in rows]
    assert {"loss", "dev_si_sdr", "learning_rate", "hours"} <= set(events.Tags()["scalars"])
    _, dev = open_corpus(where, chosen)
    places = sorted({1, round((len(dev) - 1) / 2) + 1, len(dev)})
    expected = {f"dev {place}/{name}" for place in places for name in ("clean", "enhanced", "noisy")}
    assert set(events.Tags()["audio"]) == set(events.Tags()["images"]) == expected
    assert [event.step for event in events.Audio("dev 1/enhanced")] == [2, 4]
    (sound,) = events.Audio("dev 1/noisy")
    samples, rate_hz = soundfile.read(io.BytesIO(sound.encoded_audio_string))
    assert rate_hz == 8000
    np.testing.assert_allclose(samples, dev[0][1][: len(samples)].clip(-1, 1), atol=2 / 32768)


def test_training_lowers_the_loss_and_raises_the_dev_score(tiny_corpus: Path, tmp_path: Path) -> None:
    chosen = recipe(steps=60, batch=4, score_every=5, learning_rate=0.01, average=0.5)
    train(chosen, recordings(tiny_corpus), tmp_path / "run")
    with open(tmp_path / "run/history.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert float(rows[-1]["loss"]) < 0.8 * float(rows[0]["loss"])
    assert float(rows[-1]["dev_score"]) > float(rows[0]["dev_score"]) + 1.0


def test_a_run_that_diverges_keeps_its_last_resume_point(tiny_corpus: Path, tmp_path: Path, monkeypatch) -> None:
    losses = iter([0.5, 0.4, 0.3, math.nan])
    monkeypatch.setattr(Trainer, "update", lambda self, waveforms: next(losses))
    with pytest.raises(DeepnmfError, match="step 4: found a loss of nan; expected a finite loss. Lower training"):
        train(recipe(), recordings(tiny_corpus), tmp_path / "run")
    assert checkpoint.load(tmp_path / "run/resume.safetensors")[1]["progress"]["step"] == 2


def test_interrupting_the_dictionaries_leaves_no_model(tiny_corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(recipe("deep-nmf"), recordings(tiny_corpus), tmp_path / "run", stop=lambda: True)
    assert [p.name for p in (tmp_path / "run").iterdir()] == ["recipe.json"]


def test_early_stop_after_scores_without_a_new_best(tiny_corpus: Path, tmp_path: Path) -> None:
    chosen = recipe(steps=40, learning_rate=0.0, patience=2)
    train(chosen, recordings(tiny_corpus), tmp_path / "run")
    with open(tmp_path / "run/history.csv", newline="") as file:
        assert [row["step"] for row in csv.DictReader(file)] == ["2", "4", "6"]


def test_sparse_nmf_is_complete_with_its_dictionaries(tiny_corpus: Path, tmp_path: Path) -> None:
    settings = {"context": 2, "atoms": 4, "iterations": 3}
    chosen = Recipe.from_dict(recipe().to_dict() | {"model": "sparse-nmf", "network": settings})
    reports: list[dict] = []
    assert train(chosen, recordings(tiny_corpus), tmp_path / "run", progress=reports.append)
    assert [r["dictionary"] for r in reports if "dictionary" in r] == ["speech"] * 3 + ["noise"] * 3
    network, _ = zoo.load(tmp_path / "run")
    dictionary = network.weights()["dictionary_0"]
    assert dictionary.shape == (2 * 129, 8)
    torch.testing.assert_close(dictionary.norm(dim=0), torch.ones(8), rtol=1e-4, atol=0)


def test_exemplar_dictionaries_are_frames_of_the_material(tiny_corpus: Path, tmp_path: Path, monkeypatch) -> None:
    drawn, draw = [], sparse_nmf.exemplars
    monkeypatch.setattr(sparse_nmf, "exemplars", lambda m, *given: drawn.append(draw(m, *given)) or drawn[-1])
    monkeypatch.setattr(sparse_nmf, "learn_dictionary", lambda *_, **__: pytest.fail("it was learned"))
    table = recipe("deep-nmf").to_dict() | {"dictionary": {"method": "exemplars", "batch_frames": 60}}
    assert train(Recipe.from_dict(table), recordings(tiny_corpus), tmp_path / "run")
    network, _ = zoo.load(tmp_path / "run")
    torch.testing.assert_close(network.weights()["dictionary_0"], torch.cat(drawn, 1))  # fixed: only later ones learn


def test_a_mini_batch_has_a_quarter_of_the_frames_of_each_segment() -> None:
    asked = []

    class Source:
        length = 40 * 128  # hops of 16 ms

        def __getitem__(self, number: int) -> tuple[np.ndarray, np.ndarray]:
            asked.append(number)
            return (np.random.default_rng(number).standard_normal(self.length).astype(np.float32),) * 2

    network = SparseNmf(SparseNmfSettings(bins=129, context=2, atoms=4, iterations=3))
    assert context_frames(Source(), 0, 2, 25, network, FrontEnd(8000)).shape == (2 * 129, 25)
    assert asked == [6, 7, 8]


def test_existing_run_is_not_overwritten_and_a_missing_one_not_resumed(tiny_corpus: Path, tmp_path: Path) -> None:
    train(recipe(), recordings(tiny_corpus), tmp_path / "run")
    before = (tmp_path / "run/best.safetensors").read_bytes()
    with pytest.raises(UsageError, match="--resume"):
        train(recipe(), recordings(tiny_corpus), tmp_path / "run")
    with pytest.raises(UsageError, match="no run to resume"):
        train(recipe(), recordings(tiny_corpus), tmp_path / "other", resume=True)
    assert (tmp_path / "run/best.safetensors").read_bytes() == before
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("name", ["best.safetensors", "last.safetensors"])
def test_a_model_that_is_of_no_run_is_left_alone(tiny_corpus: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"precious")
    with pytest.raises(UsageError, match="found a model without a resume point; expected an empty or new folder"):
        train(recipe(), recordings(tiny_corpus), tmp_path)
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [(name, b"precious")]


@pytest.mark.skipif(fcntl is None, reason="Windows has no such locks")
def test_a_folder_in_which_another_process_trains_is_left_alone(tiny_corpus: Path, tmp_path: Path) -> None:
    with Journal(tmp_path / "run").begin({"held": "by another"}):
        with pytest.raises(UsageError, match="another process is training"):
            train(recipe(), recordings(tiny_corpus), tmp_path / "run")
        assert json.loads((tmp_path / "run" / "recipe.json").read_text()) == {"held": "by another"}
    assert train(recipe(), recordings(tiny_corpus), tmp_path / "run")


def test_resuming_with_another_recipe_names_what_differs(tiny_corpus: Path, tmp_path: Path) -> None:
    train(recipe(), recordings(tiny_corpus), tmp_path / "run")
    with pytest.raises(UsageError, match="other values of training.batch"):
        train(recipe(batch=3), recordings(tiny_corpus), tmp_path / "run", resume=True)
    other = Recipe.from_dict({"model": "grid"})
    with pytest.raises(UsageError, match=r"found other values of model and \d\d other settings; expected"):
        train(other, recordings(tiny_corpus), tmp_path / "run", resume=True)


def test_a_complete_run_can_be_resumed_with_more_steps(tiny_corpus: Path, tmp_path: Path) -> None:
    train(recipe(), recordings(tiny_corpus), tmp_path / "run")
    assert train(recipe(steps=8), recordings(tiny_corpus), tmp_path / "run", resume=True)
    with open(tmp_path / "run/history.csv", newline="") as file:
        assert [row["step"] for row in csv.DictReader(file)] == ["2", "4", "6", "8"]
    assert json.loads((tmp_path / "run/recipe.json").read_text())["training"]["steps"] == 8


def test_resuming_a_complete_run_changes_nothing(tiny_corpus: Path, tmp_path: Path) -> None:
    train(recipe(), recordings(tiny_corpus), tmp_path / "run")
    before = (tmp_path / "run/best.safetensors").read_bytes()
    assert train(recipe(), recordings(tiny_corpus), tmp_path / "run", resume=True)
    assert (tmp_path / "run/best.safetensors").read_bytes() == before


def test_resuming_with_fewer_steps_than_done_is_refused(tiny_corpus: Path, tmp_path: Path) -> None:
    train(recipe(), recordings(tiny_corpus), tmp_path / "run")
    with pytest.raises(UsageError, match="found 6 steps done; expected at most training.steps = 4"):
        train(recipe(steps=4), recordings(tiny_corpus), tmp_path / "run", resume=True)


@pytest.mark.parametrize(
    "content", ["{", "[]", "null", "[" * 9999, '{"model": "dnn", "colour": 1}', '{"model": []}', "{}"]
)
def test_a_damaged_recipe_of_a_run_is_named(tiny_corpus: Path, tmp_path: Path, content: str) -> None:
    train(recipe(steps=1), recordings(tiny_corpus), tmp_path / "run")
    (tmp_path / "run/recipe.json").write_text(content)
    with pytest.raises((UsageError, RecipeError), match="recipe.json"):
        train(recipe(steps=1), recordings(tiny_corpus), tmp_path / "run", resume=True)


def test_a_recipe_that_was_removed_is_written_again(tiny_corpus: Path, tmp_path: Path) -> None:
    train(recipe(steps=1), recordings(tiny_corpus), tmp_path / "run")
    before = (tmp_path / "run/recipe.json").read_text()
    (tmp_path / "run/recipe.json").unlink()
    with pytest.raises(UsageError, match="other values of training.batch"):
        train(recipe(steps=1, batch=3), recordings(tiny_corpus), tmp_path / "run", resume=True)
    assert train(recipe(steps=1), recordings(tiny_corpus), tmp_path / "run", resume=True)
    assert (tmp_path / "run/recipe.json").read_text() == before


def test_silent_dev_recordings_are_refused(tiny_corpus: Path, tmp_path: Path) -> None:
    for kind in ("clean", "noisy"):
        (tmp_path / "dev" / kind).mkdir(parents=True)
        soundfile.write(tmp_path / "dev" / kind / "0.wav", np.zeros(8000), 8000)
    where = Recordings(speech=tiny_corpus / "speech", noise=tiny_corpus / "noise", dev=tmp_path / "dev")
    with pytest.raises(DeepnmfError, match="dev: found no .*expected clean recordings that are not silent"):
        train(recipe(), where, tmp_path / "run")


def test_run_folder_that_cannot_be_made_is_named(tiny_corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UsageError, match="cannot be made"):
        train(recipe(), recordings(tiny_corpus), tmp_path / "file" / "run")


def test_a_full_disk_keeps_the_files_of_the_run_whole(tiny_corpus: Path, tmp_path: Path, monkeypatch) -> None:
    train(recipe(), recordings(tiny_corpus), tmp_path / "run")
    before = (tmp_path / "run/resume.safetensors").read_bytes()

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        train(recipe(steps=8), recordings(tiny_corpus), tmp_path / "run", resume=True)
    assert (tmp_path / "run/resume.safetensors").read_bytes() == before
    assert not [p.name for p in (tmp_path / "run").iterdir() if p.name.startswith(".")]


def test_speech_folder_with_five_files_is_too_small(tiny_corpus: Path, tmp_path: Path) -> None:
    for path in sorted((tiny_corpus / "speech").rglob("*.wav"))[:5]:
        (tmp_path / path.name).write_bytes(path.read_bytes())
    with pytest.raises(CorpusError, match="found 5 clips of speech; expected at least 6"):
        train(recipe(), Recordings(speech=tmp_path, noise=tiny_corpus / "noise"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_without_a_dev_folder_material_is_kept_for_scoring(tiny_corpus: Path) -> None:
    source, dev = open_corpus(Recordings(speech=tiny_corpus / "speech", noise=tiny_corpus / "noise"), recipe())
    assert len(dev) == 40 and all(clean.shape == noisy.shape == (32000,) for clean, noisy in dev)
    assert source.length == 4000


def test_pairs_and_manifest_are_sources_too(tiny_corpus: Path, tmp_path: Path) -> None:
    for i in range(6):
        for kind in ("clean", "noisy"):
            (tmp_path / kind).mkdir(exist_ok=True)
            (tmp_path / kind / f"{i}.wav").write_bytes((tiny_corpus / "dev" / kind / f"{i % 2}.wav").read_bytes())
    assert train(recipe(), Recordings(pairs=tmp_path, dev=tiny_corpus / "dev"), tmp_path / "paired")
    lines = [f"{p},speech,{p.parent.name},train" for p in (tiny_corpus / "speech").rglob("*.wav")]
    lines += [f"{p},noise,,train" for p in (tiny_corpus / "noise").rglob("*.wav")]
    (tmp_path / "all.csv").write_text("\n".join(["path,role,speaker,split", *lines]))
    assert train(recipe(), Recordings(manifest=tmp_path / "all.csv", dev=tiny_corpus / "dev"), tmp_path / "listed")


def test_dev_rows_of_a_manifest_are_kept_for_scoring(tiny_corpus: Path, tmp_path: Path) -> None:
    def rows(role: str, dev: str) -> list[str]:
        paths = sorted((tiny_corpus / role).rglob("*.wav"))
        return [f"{p},{role},{p.parent.name},{'dev' if p.parent.name == dev else 'train'}" for p in paths]

    lines = ["path,role,speaker,split", *rows("speech", "speaker2"), *rows("noise", "kind1")]
    (tmp_path / "all.csv").write_text("\n".join(lines))
    source, dev = open_corpus(Recordings(manifest=tmp_path / "all.csv"), recipe())
    (tmp_path / "train.csv").write_text("\n".join(line for line in lines if not line.endswith("dev")))
    same, held_out = open_corpus(Recordings(manifest=tmp_path / "train.csv"), recipe())
    assert np.array_equal(source[3][0], same[3][0]) and np.array_equal(source[3][1], same[3][1])
    assert not np.array_equal(dev[0][0], held_out[0][0])


@pytest.mark.parametrize("role,dev", [("speech", "speaker2"), ("noise", "kind1")])
def test_dev_rows_of_one_role_are_kept_for_scoring_too(
    tiny_corpus: Path, tmp_path: Path, role: str, dev: str, monkeypatch
) -> None:
    lines = ["path,role,speaker,split"]
    for kind in ("speech", "noise"):
        for path in sorted((tiny_corpus / kind).rglob("*.wav")):
            split = "dev" if kind == role and path.parent.name == dev else "train"
            lines.append(f"{path},{kind},{path.parent.name},{split}")
    (tmp_path / "all.csv").write_text("\n".join(lines))
    given = []

    def dataset(speech, noise, *arguments, **settings):
        given.append({clip.path.parent.name for clip in {"speech": speech, "noise": noise}[role]})
        return MixtureDataset(speech, noise, *arguments, **settings)

    monkeypatch.setattr(sources, "MixtureDataset", dataset)
    open_corpus(Recordings(manifest=tmp_path / "all.csv"), recipe())
    trained, scored = given
    assert scored == {dev} and trained and dev not in trained


def test_mini_batches_smaller_than_the_dictionary_are_refused(tiny_corpus: Path, tmp_path: Path) -> None:
    table = recipe("deep-nmf").to_dict() | {"dictionary": {"batch_frames": 5}}
    with pytest.raises(RecipeError, match="at least twice network.atoms = 4"):
        train(Recipe.from_dict(table), recordings(tiny_corpus), tmp_path / "run")


def test_a_sketch_of_what_noises_share_is_made_of_the_material_and_kept_in_the_model(
    tiny_corpus: Path, tmp_path: Path
) -> None:
    shape = {"algorithm": "psista", "context": 2, "atoms": 4, "iterations": 3, "period": 3, "single_bands": 8}
    table = recipe().to_dict() | {"model": "sparse-coding"}
    shape |= {"wide_bands": 8, "sketch": "common", "sketch_bands": 5}
    chosen = Recipe.from_dict(table | {"network": shape})
    train(chosen, recordings(tiny_corpus), tmp_path / "run")
    network, _ = zoo.load(tmp_path / "run")
    source, _ = open_corpus(recordings(tiny_corpus), chosen)
    stretches = noises(source, chosen.front_end, 32)
    assert len(stretches) == 32
    expected = network.shared_by_noise(stretches)["sketch"]
    rows = network.unfolded.bank.layer(0)["sketch"]
    torch.testing.assert_close(rows, torch.block_diag(expected, expected))
    torch.testing.assert_close(rows @ rows.mT, torch.eye(10), rtol=0, atol=1e-5)


def test_resume_file_is_no_model_and_a_model_no_resume_file(tiny_corpus: Path, tmp_path: Path) -> None:
    train(recipe(), recordings(tiny_corpus), tmp_path / "run")
    with pytest.raises(ModelError, match="no description of a network"):
        zoo.load(tmp_path / "run/resume.safetensors")
    (tmp_path / "run/resume.safetensors").write_bytes((tmp_path / "run/best.safetensors").read_bytes())
    with pytest.raises(ModelError, match="expected a resume file"):
        train(recipe(), recordings(tiny_corpus), tmp_path / "run", resume=True)


def test_model_with_weights_of_another_shape_is_refused(tiny_corpus: Path, tmp_path: Path) -> None:
    train(recipe(), recordings(tiny_corpus), tmp_path / "run")
    tensors, meta = checkpoint.load(tmp_path / "run/best.safetensors")
    meta["network"]["hidden"] = [9]
    checkpoint.save(tmp_path / "other.safetensors", tensors, meta)
    with pytest.raises(ModelError, match="do not fit"):
        zoo.load(tmp_path / "other.safetensors")


def test_a_network_that_would_not_be_saved_whole_is_refused_before_the_first_step(
    tiny_corpus: Path, tmp_path: Path, monkeypatch
) -> None:
    table = recipe("grid").to_dict()
    monkeypatch.setitem(networks.NETWORKS, "grid", (Forgetful, Forgetful.settings_type))
    with pytest.raises(ModelError, match="would not be saved"):
        train(Recipe.from_dict(table), recordings(tiny_corpus), tmp_path / "run")
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["recipe.json"]
