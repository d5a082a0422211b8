"""What a run began with: its scores are compared with the best, its recordings with those of the resumed run."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from deepnmf_cli import checkpoint, experiment, model_file
from deepnmf_cli.corpus.dataset import MixtureDataset
from deepnmf_cli.errors import DeepnmfError, UsageError
from deepnmf_cli.experiment import Recordings, train
from deepnmf_cli.training import trainer
from deepnmf_cli.training.dev import dev_score
from tests.training.test_run_faults import RECIPE, SETTINGS, Recipe, quick, where  # noqa: F401  fixtures


@pytest.fixture(scope="module")
def before(where, tmp_path_factory) -> Path:  # noqa: F811
    """The model of an earlier run."""
    run = tmp_path_factory.mktemp("before") / "run"
    assert train(RECIPE, where, run)
    return run / "best.safetensors"


def with_rate(rate: float, **training) -> Recipe:
    return Recipe.from_dict(SETTINGS | {"training": SETTINGS["training"] | {"learning_rate": rate} | training})


def test_the_beginning_and_the_initial_model_are_scored(where, before, tmp_path) -> None:  # noqa: F811
    reports = []
    assert train(with_rate(0.0), where, tmp_path / "run", progress=reports.append, init=before)
    began = [r["began"] for r in reports if "began" in r][-1]
    known = model_file.read(before).provenance["trained"]["dev_score"]
    assert began == {f"--init {before}": pytest.approx(known), "step 0": pytest.approx(known)}
    assert not [r for r in reports if "worse" in r]  # a rate of 0 leaves the score as it was
    assert checkpoint.load(tmp_path / "run/resume.safetensors")[1]["progress"]["began"] == began


def test_what_a_run_begins_with_is_scored_once(where, before, tmp_path, monkeypatch) -> None:  # noqa: F811
    scored = []

    def counted(*arguments):
        scored.append(arguments)
        return dev_score(*arguments)

    for module in (experiment, trainer):
        monkeypatch.setattr(module, "dev_score", counted)
    assert train(with_rate(0.0), where, tmp_path / "run", init=before)
    assert len(scored) == 1 + SETTINGS["training"]["steps"] // SETTINGS["training"]["score_every"]


def test_an_initial_model_of_which_little_fits_is_scored_as_it_is(where, before, tmp_path) -> None:  # noqa: F811
    other = Recipe.from_dict(SETTINGS | {"network": {"context": 1, "hidden": [5]}})
    reports = []
    train(other, where, tmp_path / "run", progress=reports.append, init=before, partial=True)
    began = [r["began"] for r in reports if "began" in r][-1]
    known = model_file.read(before).provenance["trained"]["dev_score"]
    assert began[f"--init {before}"] == pytest.approx(known) and began["step 0"] != pytest.approx(known)


def test_a_run_that_diverges_is_told_with_an_exit_code_of_its_own(deepnmf, tiny_corpus, tmp_path) -> None:
    options = ["--model", "dnn", "--set", "network.context=1", "--set", "network.hidden=[4]"]
    options += ["--set", "front_end.rate_hz=8000", "--set", "mixing.segment_s=0.25", "--set", "training.batch=2"]
    options += ["--set", "training.steps=3", "--set", "training.score_every=3", "--set", "training.learning_rate=1e4"]
    flat = 0.1 * np.random.default_rng(0).standard_normal(8000).clip(-4, 4)  # whatever is attenuated is missed
    for kind, noise in (("clean", 0), ("noisy", 1e-3 * np.roll(flat, 99))):
        (tmp_path / "dev" / kind).mkdir(parents=True)
        soundfile.write(tmp_path / "dev" / kind / "0.wav", flat + noise, 8000)
    folders = ["--speech", tiny_corpus / "speech", "--noise", tiny_corpus / "noise", "--dev", tmp_path / "dev"]
    result = deepnmf("train", *folders, *options, "-o", tmp_path / "run")
    assert result.code == 4 and b"Best model" not in result.out
    assert "best.safetensors: found a best dev score of " in result.err and "dB of step 0. Do not use" in result.err
    assert (tmp_path / "run/best.safetensors").is_file()
    again = deepnmf("train", *folders, *options, "-o", tmp_path / "run", "--resume")
    assert again.code == 4 and "dB of step 0" in again.err


def test_resuming_with_other_dev_recordings_or_another_initial_model_is_refused(
    tiny_corpus, where, before, tmp_path  # noqa: F811
) -> None:  # fmt: skip
    run = tmp_path / "run"
    assert train(RECIPE, where, run, init=before)
    for kind in ("clean", "noisy"):
        (tmp_path / "dev" / kind).mkdir(parents=True)
        (tmp_path / "dev" / kind / "0.wav").write_bytes((tiny_corpus / "dev" / kind / "0.wav").read_bytes())
    other = Recordings(tiny_corpus / "speech", tiny_corpus / "noise", dev=tmp_path / "dev")
    with pytest.raises(UsageError, match="found other dev recordings.*Name the same, or begin .* --init"):
        train(RECIPE, other, run, resume=True)
    (tmp_path / "other.safetensors").write_bytes(before.read_bytes() + b" ")
    with pytest.raises(UsageError, match="--init: found another model"):
        train(RECIPE, where, run, resume=True, init=tmp_path / "other.safetensors")
    for init in (None, before):
        reports = []
        assert train(RECIPE, where, run, resume=True, init=init, progress=reports.append)
        assert not [r for r in reports if "the run began with" in r.get("note", "")]


def test_resuming_with_other_training_recordings_is_said(tiny_corpus, where, tmp_path) -> None:  # noqa: F811
    assert train(RECIPE, where, tmp_path / "run")
    for i in range(3):
        (tmp_path / f"noise/{i}").mkdir(parents=True)
        soundfile.write(tmp_path / f"noise/{i}/a.wav", 0.05 * np.sin(np.arange(16000) * (i + 1) / 3), 8000)
    other = Recordings(tiny_corpus / "speech", tmp_path / "noise", dev=tiny_corpus / "dev")
    reports = []
    assert train(RECIPE, other, tmp_path / "run", resume=True, progress=reports.append)
    assert any("not those that the run began with" in r.get("note", "") for r in reports)


def test_moved_recordings_are_the_same(tiny_corpus, where, tmp_path) -> None:  # noqa: F811
    assert train(RECIPE, where, tmp_path / "run")
    for path in tiny_corpus.rglob("*.wav"):
        moved = tmp_path / "moved" / path.relative_to(tiny_corpus)
        moved.parent.mkdir(parents=True, exist_ok=True)
        moved.write_bytes(path.read_bytes())
    there = Recordings(*(tmp_path / "moved" / name for name in ("speech", "noise")), dev=tmp_path / "moved" / "dev")
    reports = []
    assert train(RECIPE, there, tmp_path / "run", resume=True, progress=reports.append)
    assert not [r for r in reports if "the run began with" in r.get("note", "")]


@pytest.mark.parametrize("error", [DeepnmfError("workers", "a process that ended unexpectedly", "one", "Less.")])
def test_what_was_learned_before_recordings_fail_is_kept(tiny_corpus, where, tmp_path, monkeypatch, error) -> None:  # noqa: F811
    """Batches that cannot be made, be it for a process that died or for a file, come between two steps."""
    chosen, original = with_rate(1e-3, steps=4, score_every=4), MixtureDataset.__getitem__

    def failing(self, index):
        if index >= 6:
            raise error
        return original(self, index)

    with monkeypatch.context() as patch:
        patch.setattr(MixtureDataset, "__getitem__", failing)
        with pytest.raises(DeepnmfError, match="ended unexpectedly"):
            train(chosen, where, tmp_path / "run")
    assert checkpoint.load(tmp_path / "run/resume.safetensors")[1]["progress"]["step"] == 3
    assert model_file.read(tmp_path / "run/last.safetensors").provenance["trained"]["steps"] == 3
    assert train(chosen, where, tmp_path / "run", resume=True)
    assert train(chosen, where, tmp_path / "whole")
    one, two = (checkpoint.load(tmp_path / run / "resume.safetensors")[0] for run in ("run", "whole"))
    assert all(torch.equal(one[key], two[key]) for key in one | two)
