"""`torchrun ... -m deepnmf_cli train`: several processes train as one does."""

import csv
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch

from deepnmf_cli import checkpoint
from deepnmf_cli.errors import DeepnmfError, UsageError
from deepnmf_cli.experiment import require_shareable
from deepnmf_cli.recipe import read_recipe
from deepnmf_cli.training.processes import Processes, Share
from tests.commands.test_train import arguments, corpus  # noqa: F401 (a fixture)

PATIENCE_S = 120
STEPS = [
    "--set", "training.batch=4", "--set", "training.score_every=2", "--set", "training.warmup_steps=1",
    "--set", "training.learning_rate=0.0003", "--set", "training.optimizer=muon",
]  # fmt: skip


def started(*given: str) -> subprocess.Popen:
    """Two processes, by torchrun."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "deepnmf_cli", *given]
    quick = {"OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1", "GLOO_SOCKET_IFNAME": "lo"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | quick)


def history(run: Path) -> list[dict[str, str]]:
    with open(run / "history.csv", newline="") as file:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]


def numbers(rows: list[dict[str, str]]) -> np.ndarray:
    return np.array([[float(value or "nan") for value in row.values()] for row in rows])


def test_two_processes_learn_what_one_learns_and_stop_and_go_on_together(deepnmf, corpus: Path, tmp_path: Path) -> None:  # noqa: F811
    alone, both = tmp_path / "alone", tmp_path / "both"
    assert deepnmf(*arguments(corpus, alone, *STEPS, "--set", "training.steps=4")).code == 0
    running = started(*arguments(corpus, both, *STEPS, "--set", "training.steps=4"))
    out, errors = running.communicate(timeout=PATIENCE_S)
    assert running.returncode == 0, errors
    np.testing.assert_allclose(numbers(history(both)), numbers(history(alone)), rtol=1e-4)
    ours, theirs = (checkpoint.load(run / "best.safetensors")[0] for run in (both, alone))
    for name in theirs:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-4, atol=1e-5)
    # One of them tells, and writes.
    assert out.count("Best model:") == 1 and errors.count("1 thread(s) of each of 2 processes") == 1
    assert errors.count("step 4: loss") == 1

    long = "--set", "training.steps=100000"
    running = started(*arguments(corpus, tmp_path / "long", *STEPS, *long))
    until = time.monotonic() + PATIENCE_S
    while not (tmp_path / "long/history.csv").exists() and time.monotonic() < until:
        time.sleep(0.05)
    running.send_signal(signal.SIGINT)
    _, errors = running.communicate(timeout=PATIENCE_S)
    assert running.returncode != 0 and errors.count("Stopping after this step.") == 1, errors
    assert errors.count("Continue with --resume.") == 1 and (tmp_path / "long/last.safetensors").is_file()
    done = checkpoint.load(tmp_path / "long/resume.safetensors")[1]["progress"]["step"]
    rows = history(tmp_path / "long")
    again = arguments(corpus, tmp_path / "long", *STEPS, "--set", f"training.steps={done + 2}", "--resume")
    result = deepnmf(*again)
    assert result.code == 0, result.err
    assert history(tmp_path / "long")[: len(rows)] == rows and int(history(tmp_path / "long")[-1]["step"]) == done + 2


def test_what_processes_cannot_share_is_said_once(corpus: Path, tmp_path: Path) -> None:  # noqa: F811
    running = started(*arguments(corpus, tmp_path / "run", "--set", "training.batch=3"))
    _, errors = running.communicate(timeout=PATIENCE_S)
    sentence = "Error: training.batch: found 3; expected a number that 2 processes can share."
    assert running.returncode != 0 and errors.count(sentence) == 1, errors
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("training.optimizer=search", "training.optimizer: found search; expected an optimiser that descends along a"),
        (
            "training.optimizer=exponentiated",
            "training.optimizer: found exponentiated; expected an optimiser that descends along a",
        ),
        ("constraints.kind=target", "torchrun: found constraints, whose measures are means over whole batches; exp"),
        ("training.batch=9", "training.batch: found 9; expected a number that 2 processes can share."),
    ],
)
def test_what_needs_whole_batches_is_refused(settings: str, message: str) -> None:
    name = "deep-nmf" if settings.endswith("exponentiated") else "tiny"
    recipe = read_recipe(name, None, [settings])
    require_shareable(recipe, Processes())
    with pytest.raises(UsageError, match=re.escape(message)):
        require_shareable(recipe, Processes(0, 2))


@pytest.mark.parametrize(("machine_rank", "begun", "told"), [("0", False, 1), ("1", False, 0), ("1", True, 1)])
def test_an_error_of_another_process_is_told(
    deepnmf,
    corpus: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch,
    machine_rank: str,
    begun: bool,
    told: int,
) -> None:
    def train(*given, **named) -> bool:
        report = given[6]
        if begun:
            report({"began": {}})
        raise DeepnmfError("a.wav", "nothing", "sound", "Mend it.")

    monkeypatch.setenv("LOCAL_RANK", machine_rank)
    monkeypatch.setattr("deepnmf_cli.training.processes.joined", lambda device: nullcontext((Processes(1, 2), device)))
    monkeypatch.setattr("deepnmf_cli.experiment.train", train)
    result = deepnmf(*arguments(corpus, tmp_path / "run"))
    assert result.code == 1 and result.err.count("a.wav: found nothing; expected sound. Mend it.") == told


def test_the_end_of_another_process_is_not_taken_for_that_of_the_time(
    deepnmf,
    corpus: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch,
) -> None:
    monkeypatch.setattr("deepnmf_cli.training.processes.joined", lambda device: nullcontext((Processes(0, 2), device)))
    monkeypatch.setattr("deepnmf_cli.experiment.train", lambda *given, **named: False)
    for limit in ([], ["--minutes", "5"]):
        result = deepnmf(*arguments(corpus, tmp_path / "run"), *limit)
        assert result.code == 143 and "Another process was stopped.\nContinue with --resume." in result.err
        assert "min are over" not in result.err and "Present weights" not in result.err


def test_all_stop_when_one_is_stopped(corpus: Path, tmp_path: Path) -> None:  # noqa: F811
    run = tmp_path / "run"
    running = started(*arguments(corpus, run, *STEPS, "--set", "training.steps=100000"))
    until = time.monotonic() + PATIENCE_S
    while not (run / "history.csv").exists() and time.monotonic() < until:
        time.sleep(0.05)
    for child in Path(f"/proc/{running.pid}/task/{running.pid}/children").read_text().split():
        if b"RANK=1\0" in Path(f"/proc/{child}/environ").read_bytes().replace(b"LOCAL_RANK=1\0", b""):
            os.kill(int(child), signal.SIGTERM)
    _, errors = running.communicate(timeout=PATIENCE_S)
    assert running.returncode != 0 and "Continue with --resume." in errors, errors
    assert "TypeError" not in errors and "Best model" not in errors
    assert checkpoint.load(run / "resume.safetensors")[1]["progress"]["step"] < 100000


class Counted:
    """Examples that are their own numbers."""

    length = 7

    def __getitem__(self, index: int) -> int:
        return index


@pytest.mark.parametrize("count", [1, 2, 3])
def test_shares_of_a_batch_make_the_batch(count: int) -> None:
    shares = [Share(Counted(), Processes(rank, count), 6) for rank in range(count)]
    assert all(share.length == 7 for share in shares)
    size = 6 // count
    for number in range(4):
        together = [share[number * size + i] for share in shares for i in range(size)]
        assert together == list(range(number * 6, number * 6 + 6))
