"""Training of repair: it learns, it goes on where it stopped, and it says what it cannot use."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from deepnmf_cli import checkpoint
from deepnmf_cli.errors import CorpusError, DeepnmfError, ModelError, RecipeError, UsageError
from deepnmf_cli.recipe import recipes_folder
from deepnmf_cli.repair import model
from deepnmf_cli.training import journal, repair

SMALL = (
    "repair.layers=2", "training.examples=12", "training.held_out=4", "training.batch=4", "training.steps=6",
    "training.score_every=3", "damage.segment_s=0.1", "training.learning_rate=0.05",
)  # fmt: skip


@pytest.fixture(scope="module")
def speech(voice, hiss, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("speech")
    for speaker in range(3):
        (folder / str(speaker)).mkdir()
        sound = 0.5 * voice(1.5 + 0.1 * speaker) + hiss(1.5 + 0.1 * speaker, seed=speaker)
        soundfile.write(folder / str(speaker) / "a.wav", sound, 16000)
    return folder


def recipe(task: str, *more: str) -> repair.RepairRecipe:
    return repair.read_recipe(recipes_folder() / f"{task}.toml", (*SMALL, *more))


@pytest.mark.parametrize("task", model.TASKS)
def test_a_stopped_run_goes_on_as_if_it_had_not_stopped(task, speech, tmp_path):
    rows = []
    assert repair.train(recipe(task), speech, tmp_path / "whole", progress=rows.append)
    stops = iter([False] * 2 + [True] * 9)
    assert not repair.train(recipe(task), speech, tmp_path / "parts", stop=lambda: next(stops))
    assert repair.train(recipe(task), speech, tmp_path / "parts", resume=True)
    whole, parts = (model.load(tmp_path / name / "best.safetensors") for name in ("whole", "parts"))
    for one, other in zip(whole.layers, parts.layers, strict=True):
        assert all(np.array_equal(one[name], other[name]) for name in one)
    histories = [(tmp_path / name / "history.csv").read_text().splitlines() for name in ("whole", "parts")]
    assert [row.split(",")[:3] for row in histories[0]] == [row.split(",")[:3] for row in histories[1]]
    spent = [float(row.split(",")[3]) for row in histories[1][1:]]
    assert spent == sorted(spent)
    scores = [row["row"]["dev_score"] for row in rows if row["row"]]
    assert len(scores) == 3 and max(scores) > scores[0]
    assert [row["loss"] is None for row in rows] == [True] + [False] * (len(rows) - 1)  # unknown before a step
    assert "nan" not in (tmp_path / "whole" / "history.csv").read_text()
    assert whole.settings.task == task and len((tmp_path / "whole" / "history.csv").read_text().splitlines()) == 4


def test_examples_are_damaged_in_the_middle_and_scored_there(speech):
    found = repair.make_examples(sorted(speech.rglob("*.wav")), recipe("fill-gaps", "damage.gap_ms=[5]"), 3, 0)
    missing = found.problem.observation.missing
    assert missing[:, 760:840].all() and missing.sum() == 3 * 80
    estimate = torch.where(missing, 0.9 * found.clean, 7.0)
    np.testing.assert_allclose(found.snr_db(estimate), 20.0, atol=1e-3)


def test_clipping_leaves_the_ratio_that_was_asked_for(voice):
    samples = voice(1.0).astype(np.float64)
    clipped = repair.clipped_at(samples, repair.clip_level(samples, 7.0)).samples
    assert 10 * np.log10((samples**2).sum() / ((samples - clipped) ** 2).sum()) == pytest.approx(7.0, abs=0.01)


@pytest.mark.parametrize(
    "override",
    ['repair.prox="glow"', "repair.layer=2", "start.middle=1", "repair", "training.steps=x", "training.held_out=0",
     "training.steps=-3", "training.batch=0", 'start.highest="abc"', "start=3", "damage.gap_ms=[400.0]"],
)  # fmt: skip
def test_impossible_recipes_are_refused(override):
    with pytest.raises(RecipeError):
        recipe("declip", override)


def test_what_cannot_be_trained_is_said(speech, tmp_path):
    (tmp_path / "none").mkdir()
    with pytest.raises(CorpusError):
        repair.train(recipe("declip"), tmp_path / "none", tmp_path / "run")
    (tmp_path / "run").mkdir(exist_ok=True)
    (tmp_path / "run" / "recipe.json").write_text("{}")
    with pytest.raises(UsageError, match="--resume"):
        repair.train(recipe("declip"), speech, tmp_path / "run")
    with pytest.raises(UsageError, match="another recipe"):
        repair.train(recipe("declip"), speech, tmp_path / "run", resume=True)
    (tmp_path / "run" / "recipe.json").write_text("{")
    with pytest.raises(UsageError, match="no readable recipe"):
        repair.train(recipe("declip"), speech, tmp_path / "run", resume=True)
    with pytest.raises(UsageError, match="no run to resume"):
        repair.train(recipe("declip"), speech, tmp_path / "new", resume=True)
    with pytest.raises(CorpusError, match="usable segments"):
        repair.train(recipe("declip", "damage.segment_s=60.0"), speech, tmp_path / "early")
    assert not list((tmp_path / "early").iterdir())  # which a second try may take


def test_a_loss_that_is_not_finite_ends_the_run(speech, tmp_path):
    with pytest.raises(DeepnmfError, match=r"step \d: found a loss of .*Lower training.learning_rate"):
        repair.train(recipe("declip", "training.learning_rate=1e30"), speech, tmp_path)


@pytest.mark.parametrize("change", ["a weight is missing", "another step", "another tensor"])
def test_a_damaged_resume_point_is_refused(speech, tmp_path, change):
    assert not repair.train(recipe("declip"), speech, tmp_path, stop=lambda: True)
    tensors, kept = checkpoint.load(tmp_path / repair.LAST)
    kept.pop("format")
    if change == "another step":
        kept["step"] = "x"
    elif change == "a weight is missing":
        tensors.popitem()
        kept["checksum"] = journal.checksum(tensors, {k: v for k, v in kept.items() if k != "checksum"})
    else:
        tensors["else"] = torch.zeros(1)
    checkpoint.save(tmp_path / repair.LAST, tensors, kept)
    with pytest.raises(ModelError, match=r"last.safetensors: found a damaged resume point \(.*\)"):
        repair.train(recipe("declip"), speech, tmp_path, resume=True)


@pytest.mark.parametrize("name", [model.BEST, repair.LAST])
def test_a_model_that_is_of_no_run_is_left_alone(speech, tmp_path, name):
    (tmp_path / name).write_bytes(b"precious")
    for resume in (False, True):
        with pytest.raises(UsageError, match="found a model that is of no run; expected an empty or new folder"):
            repair.train(recipe("declip"), speech, tmp_path, resume)
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [(name, b"precious")]


def test_words_need_no_quotes(speech):
    assert recipe("declip", "repair.prox=pew").repair == recipe("declip", 'repair.prox="pew"').repair


@pytest.mark.skipif(journal.fcntl is None, reason="needs locks of folders")
def test_two_processes_do_not_train_in_one_folder(speech, tmp_path):
    with journal.locked(tmp_path), pytest.raises(UsageError, match="another process is training"):
        repair.train(recipe("declip"), speech, tmp_path)


def test_the_command_trains_and_its_model_repairs(deepnmf, speech, tmp_path):
    settings = [word for setting in SMALL for word in ("--set", setting)]
    done = deepnmf("train", "fill-gaps", "--speech", speech, "-o", tmp_path / "run", *settings)
    assert done.code == 0 and b"best.safetensors" in done.out
    samples = soundfile.read(speech / "0" / "a.wav")[0]
    samples[1500:1700] = 0
    soundfile.write(tmp_path / "in.wav", samples, 16000)
    best = tmp_path / "run" / "best.safetensors"
    assert deepnmf("repair", tmp_path / "in.wav", "--model", best).code == 0
    done = deepnmf("train", "declip", "--speech", speech, "--noise", speech, "-o", tmp_path / "other")
    assert done.code == 2 and "--noise" in done.err and not (tmp_path / "other").exists()
    assert deepnmf("enhance", tmp_path / "in.wav", "-o", tmp_path / "x.wav", "--model", best).code == 1
