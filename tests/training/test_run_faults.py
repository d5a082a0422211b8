"""A run that is stopped at any point between two writes goes on or begins again, to the same result."""

import csv
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import soundfile
import torch

from deepnmf_cli import checkpoint, experiment, model_file
from deepnmf_cli.errors import DeepnmfError, UsageError
from deepnmf_cli.experiment import Recordings, train
from deepnmf_cli.recipe import Recipe
from deepnmf_cli.training.journal import Journal
from tests import faults

POINTS = 25
"""Between the writes of a run of two steps and one dev score."""

WRITES = ["recipe.json", "resume.safetensors", "resume.safetensors", "best.safetensors", "history.csv", "curves.png"]

SETTINGS = {
    "model": "dnn",
    "network": {"context": 1, "hidden": [4]},
    "front_end": {"rate_hz": 8000},
    "mixing": {"segment_s": 0.25},
    "training": {"steps": 2, "batch": 2, "score_every": 2, "warmup_steps": 2},
}
RECIPE = Recipe.from_dict(SETTINGS)


@pytest.fixture(scope="module", autouse=True)
def quick() -> Iterator[None]:
    """Drawing, and the statistics of features, take longer than all the rest."""
    figure = SimpleNamespace(savefig=lambda path, dpi: path.write_bytes(b"drawn"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Journal, "_draw", lambda self: figure)
        patch.setattr(experiment, "STATISTICS_FROM", 2)
        yield


@pytest.fixture(scope="module")
def where(tiny_corpus: Path) -> Recordings:
    return Recordings(speech=tiny_corpus / "speech", noise=tiny_corpus / "noise", dev=tiny_corpus / "dev")


@pytest.fixture(scope="module")
def whole(where: Recordings, tmp_path_factory) -> list:
    """What an uninterrupted run leaves."""
    run = tmp_path_factory.mktemp("runs") / "whole"
    with faults.at() as names:
        assert train(RECIPE, where, run)
    assert len(names) == POINTS and names[0] == "run: held"
    assert names[1:] == [f"{file}: {step}" for file in WRITES for step in ("opened", "written", "synced", "renamed")]
    return content(run)


def content(run: Path) -> list:
    """All that matters in a run folder, and the names of its files."""
    found = []
    for name in ("resume.safetensors", "best.safetensors"):
        tensors, meta = checkpoint.load(run / name)
        found.append({key: (x.dtype, x.tolist()) for key, x in tensors.items()})
        found.append(meta.get("provenance"))
    with open(run / "history.csv", newline="") as file:
        found.append([{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)])
    return [*found, sorted(path.name for path in run.iterdir())]


def recover(where: Recordings, run: Path) -> None:
    """What a user does whose run has ended, as the messages say."""
    try:
        assert train(RECIPE, where, run, resume=True)
    except UsageError as error:
        assert error.found == "no run to resume" and error.remedy.startswith("Leave out --resume")
        assert train(RECIPE, where, run)


@pytest.mark.parametrize("kind", ["stop", "ENOSPC", "EIO"])
def test_a_run_recovers_from_an_error_at_every_point_of_it(where, whole, tmp_path, kind) -> None:
    for number in range(POINTS):
        run = tmp_path / str(number)
        for again in (False, True):  # the second time while it recovers
            with faults.at(kind, number), pytest.raises((faults.Stop, OSError, DeepnmfError)):
                if not again:
                    train(RECIPE, where, run)  # which must not take it for a success
                else:
                    recover(where, run)
                    raise faults.Stop  # fewer points were left
        recover(where, run)
        assert content(run) == whole, number


KILLER = f"""
import os, sys
from pathlib import Path
from types import SimpleNamespace
from deepnmf_cli.experiment import Recordings, train
from deepnmf_cli.recipe import Recipe
from deepnmf_cli import checkpoint
from deepnmf_cli.networks import NETWORKS
from deepnmf_cli import experiment
from deepnmf_cli.training.journal import Journal
from tests import faults
import torch, torch._dynamo
torch.optim.Adam([torch.zeros(1)])
experiment.STATISTICS_FROM = 2
Journal._draw = lambda self: SimpleNamespace(savefig=lambda path, dpi: path.write_bytes(b"drawn"))
corpus, runs = map(Path, sys.argv[1:])
where = Recordings(speech=corpus / "speech", noise=corpus / "noise", dev=corpus / "dev")
for number in range({POINTS}):
    if os.fork() == 0:
        checkpoint.reached = faults.fault("SIGKILL", number, lambda point: None)
        train(Recipe.from_dict({SETTINGS!r}), where, runs / str(number))
        os._exit(1)
    print(os.waitstatus_to_exitcode(os.wait()[1]))
"""
"""Kills a run at every point, each in a fork of a process that computes nothing itself: imports,
also those that the first optimiser brings, take seconds."""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_run_recovers_from_a_kill_at_every_point_of_it(where, whole, tiny_corpus, tmp_path) -> None:
    command = [sys.executable, "-c", KILLER, str(tiny_corpus), str(tmp_path)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(faults.ROOT), *sys.path]), "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(command, capture_output=True, text=True, timeout=240, env=environment)
    assert ended.stdout.split() == [str(-signal.SIGKILL)] * POINTS, ended.stderr
    for number in range(POINTS):
        run = tmp_path / str(number)
        recover(where, run)
        assert content(run) == whole, number


@pytest.mark.parametrize("kind,code", [("SIGINT", 130), ("SIGTERM", 143)])
def test_a_signal_at_every_point_leaves_the_weights_and_recovers(
    deepnmf, tiny_corpus, where, whole, tmp_path, kind, code
) -> None:
    (tmp_path / "dnn.toml").write_text(
        'model = "dnn"\n[network]\ncontext = 1\nhidden = [4]\n[front_end]\nrate_hz = 8000\n[mixing]\nsegment_s = 0.25\n'
        "[training]\nsteps = 2\nbatch = 2\nscore_every = 1\nwarmup_steps = 2\n"
    )
    folders = ["--speech", tiny_corpus / "speech", "--noise", tiny_corpus / "noise", "--dev", tiny_corpus / "dev"]
    stopped = 0
    for number in range(0, POINTS + 16, 2 if kind == "SIGINT" else 8):  # 16 more of the score of the first step
        run = tmp_path / str(number)
        with faults.at(kind, number):
            result = deepnmf("train", tmp_path / "dnn.toml", *folders, "-o", run)
        assert "Traceback" not in result.err
        if result.code == code and "Stopping after this step" in result.err:
            stopped += 1
            assert (run / "last.safetensors").is_file() and "last.safetensors" in result.err
            assert deepnmf("enhance", tiny_corpus / "dev/noisy/0.wav", "-o", run / "o.wav", "--model", run).code == 0
            assert soundfile.info(run / "o.wav").frames == 8000
            (run / "o.wav").unlink()
        else:  # it had not begun, or was complete already
            assert result.code == (code if number < 9 else 0)
        recover(where, run)
        assert content(run)[-1] == whole[-1], number
        assert content(run)[0] == whole[0], number
    assert stopped == (8 if kind == "SIGINT" else 2)


def test_stopping_before_the_first_step_leaves_the_first_weights(where, whole, tmp_path) -> None:
    assert not train(RECIPE, where, tmp_path / "run", stop=lambda: True)
    assert model_file.read(tmp_path / "run/last.safetensors").provenance["trained"]["steps"] == 0
    recover(where, tmp_path / "run")
    assert content(tmp_path / "run") == whole


def test_stopping_while_a_score_is_due_leaves_it_to_the_resumed_run(where, whole, tmp_path, monkeypatch) -> None:
    from deepnmf_cli.training import trainer

    asked = []

    def stop_in_the_second_score(network, front_end, pairs, *rest):
        asked.append(1)
        return original(network, front_end, pairs, *rest)

    original = trainer.dev_score
    monkeypatch.setattr(trainer, "dev_score", stop_in_the_second_score)
    assert not train(RECIPE, where, tmp_path / "run", stop=lambda: len(asked) == 2)
    assert checkpoint.load(tmp_path / "run/resume.safetensors")[1]["progress"]["step"] == 2
    assert not (tmp_path / "run/best.safetensors").exists()
    recover(where, tmp_path / "run")
    assert content(tmp_path / "run") == whole


@pytest.fixture
def run(where, tmp_path) -> Path:
    assert train(RECIPE, where, tmp_path / "run")
    return tmp_path / "run"


def test_a_resume_point_with_another_content_is_damaged(where, run) -> None:
    path = run / "resume.safetensors"
    tensors, meta = checkpoint.load(path)
    name = next(name for name in tensors if name.startswith("optimiser.") and tensors[name].dim())
    for changed in ((tensors | {name: tensors[name] + 1}, meta), (tensors, meta | {"progress": {"step": 0}})):
        checkpoint.save(path, *changed)
        with pytest.raises(DeepnmfError, match="damaged resume point.*--init"):
            train(RECIPE, where, run, resume=True)


@pytest.mark.parametrize(
    "part,value",
    [
        ("progress", {}),
        ("progress", 3),
        ("progress", {"step": -1}),
        ("progress", {"step": "2"}),
        ("progress", {"since_best": -1}),
        ("progress", {"losses": [1.0]}),
        ("progress", {"best": "high"}),
        ("progress", {"began": {"step 0": "high"}}),
        ("history", None),
        ("history", [3]),
        ("history", [{"step": 2}]),
        ("recipe of the run", 3),
        ("recipe of the run", {"model": []}),
        ("material", {}),
        ("material", 3),
        ("tensors", {}),
        ("tensors", {"model": torch.ones(1)}),
        ("tensors", {"optimiser.x.step": torch.ones(1)}),
        ("tensors", {"optimiser.0.exp_avg": torch.ones(1, 7)}),
        ("tensors", {"optimiser.0.exp_avg": None}),
        ("tensors", {"optimiser.99.step": torch.ones(())}),
        ("tensors", {"average.0": torch.ones(1)}),
    ],
)
def test_a_resume_point_without_a_checksum_is_looked_at(where, run, part, value) -> None:
    path = run / "resume.safetensors"
    tensors, meta = checkpoint.load(path)
    meta.pop("checksum")
    if part == "tensors":
        tensors = {k: x for k, x in (tensors | value).items() if x is not None} if value else {}
    else:
        meta[part] = {**meta[part], **value} if part == "progress" and isinstance(value, dict) and value else value
    checkpoint.save(path, tensors, meta)
    with pytest.raises(DeepnmfError) as caught:
        train(Recipe.from_dict(SETTINGS | {"training": SETTINGS["training"] | {"steps": 3}}), where, run, resume=True)
    assert "resume.safetensors" in str(caught.value) or "recipe.json" in str(caught.value)


def test_a_run_of_the_earlier_journal_is_resumed(where, whole, tmp_path) -> None:
    """Its resume point has neither recipe nor material nor checksum, and knows no scores of the beginning."""
    steps = []
    assert not train(
        RECIPE, where, tmp_path / "run", progress=steps.append, stop=lambda: any("row" in s for s in steps)
    )
    path = tmp_path / "run/resume.safetensors"
    tensors, meta = checkpoint.load(path)
    meta["progress"].pop("began")
    checkpoint.save(path, tensors, {name: meta[name] for name in ("progress", "history")})
    assert train(RECIPE, where, tmp_path / "run", resume=True)
    (tmp_path / "run/last.safetensors").unlink(missing_ok=True)
    assert content(tmp_path / "run") == whole


def test_a_model_without_a_resume_point_is_left_alone_with_a_way_on(where, run) -> None:
    (run / "resume.safetensors").unlink()
    with pytest.raises(UsageError, match="model without a resume point.*move the model away"):
        train(RECIPE, where, run)
    with pytest.raises(UsageError, match="--init .*best.safetensors begins with its weights"):
        train(RECIPE, where, run, resume=True)
    (run / "best.safetensors").unlink()
    assert train(RECIPE, where, run)


def test_a_run_that_began_meanwhile_is_not_replaced(tmp_path):
    """Both found the folder empty; the other was stopped before this one had read its recordings."""
    ours, other = Journal(tmp_path), Journal(tmp_path)
    for journal in (ours, other):
        journal.check({}, resume=False)
    with other.begin({}):
        other.resume_path.write_bytes(b"step 5000")
    with pytest.raises(UsageError, match="a run that began meanwhile"), ours.begin({}):
        pass
    assert other.resume_path.read_bytes() == b"step 5000"
