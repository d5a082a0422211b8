"""Train and score the rungs of the ladder, from sparse NMF over deep NMF to the sigmoid DNN.

    python docs/ladder/run.py train CORPUS RUNS [RUNG ...]     every run that is not complete; stop and repeat at will
    python docs/ladder/run.py score CORPUS RUNS [RUNG ...]     complete runs on CORPUS/test, each once
    python docs/ladder/run.py collect CORPUS RUNS              adds what is new to docs/ladder/results.json

CORPUS has train/speech, train/noise, rir, dev/{clean,noisy} and test/{clean,noisy}. Several may work on one folder of
runs side by side, on a core each: a run is taken by whoever locks it first. Runs in results.json are not repeated.
"""

import argparse
import csv
import fcntl
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from deepnmf_cli import checkpoint, library
from deepnmf_cli.experiment import Recordings, train
from deepnmf_cli.recipe import Recipe, read_recipe

RESULTS = Path(__file__).parent / "results.json"
RATES = {
    "deep-nmf-c4": (0.003, 0.01, 0.03, 0.1, 0.3),
    "dnn-1x256": (0.0001, 0.0003, 0.001, 0.003),
    "dnn-3x256": (0.0001, 0.0003, 0.001, 0.003),
    "dnn-2x1024": (0.0001, 0.0003, 0.001),
}
"""Learning rates compared on dev; all rungs of deep NMF take the one that is best at C = 4, the largest DNN that of
2 x 1024."""

CLAIM = ("deep-nmf-c4", "context-1-c4", "dnn-1x256", "dnn-2x1024", "sparse-nmf")
"""Rungs that carry the claim: three seeds."""

SINGLE = (
    *("deep-nmf-c2", "deep-nmf-c3", "dnmf", "dnn-3x256", "dnn-2x1536"),
    *("context-1-c4", "context-1-all", "context-1-c8", "context-1-c2", "context-1-tied", "context-3-r50-c4", "r25-c2"),
    *("deep-nmf-k5-c2", "deep-nmf-k5-all", "deep-nmf-k10-c2", "sparse-nmf-k5", "sparse-nmf-k10"),
    *("c4-exponentiated-entries", "c4-multiplicative", "c4-greedy", "c4-adam-softplus", "c4-exponentiated"),
    *("c2-phase-sensitive", "dnn-2x1024-phase-sensitive", "sparse-nmf-k10-exemplars"),
    *("k10-c2-exemplars", "k10-c2-mu-0", "k10-c2-mu-0.5", "k10-c2-beta-0", "k10-c2-beta-0.5", "k10-c2-beta-2"),
    *("deep-nmf-k10-all", "sparse-nmf-r1000", "deep-nmf-all", "deep-nmf-tied"),
)
"""The other rungs: one seed."""


@dataclass(frozen=True)
class Run:
    """One rung with one seed and one learning rate."""

    rung: str
    seed: int
    rate: float | None = None

    @property
    def recipe(self) -> Recipe:
        rate = [] if self.rate is None else [f"training.learning_rate={self.rate}"]
        return read_recipe(f"ladder/{self.rung}", None, [f"training.seed={self.seed}", *rate])

    @property
    def name(self) -> str:
        return f"{self.rung}-seed{self.seed}-lr{self.recipe.training.learning_rate}"


def plan() -> list[Run]:
    """All runs, what decides about others first, each once."""
    runs = [Run(rung, 1, rate) for rung, rates in RATES.items() for rate in rates]
    runs += [Run(rung, seed) for seed in (1, 2, 3) for rung in CLAIM]
    runs += [Run(rung, 1) for rung in SINGLE]
    return list({run.name: run for run in runs}.values())


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("verb", choices=["train", "score", "collect"])
    arguments.add_argument("corpus", type=Path)
    arguments.add_argument("runs", type=Path)
    arguments.add_argument("rungs", nargs="*", help="rungs or runs; all where none is named")
    given = arguments.parse_args()
    chosen = [run for run in plan() if not given.rungs or {run.rung, run.name} & {*given.rungs}]
    results = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    torch.set_num_threads(1)
    if given.verb == "collect":
        results |= {run.name: row for run in chosen if (row := result(run, given.runs)) is not None}
        tested = [given.runs / run.name / "test" for run in chosen if (given.runs / run.name / "test").is_dir()]
        if tested:
            results["noisy"] = test_scores(tested[0], "noisy")
        RESULTS.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n")
        return
    for run in chosen:
        with taken(given.runs / run.name) as free:
            if not free:
                continue
            if given.verb == "train" and run.name not in results and not complete(run, given.runs):
                print(run.name, flush=True)
                train_one(run, given.corpus, given.runs)
            if given.verb == "score" and complete(run, given.runs) and not (given.runs / run.name / "test").is_dir():
                print(run.name, flush=True)
                score_one(run, given.corpus, given.runs)


@contextmanager
def taken(folder: Path) -> Iterator[bool]:
    """Whether this process may work on the run; others may not until then."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with open(folder.with_name(folder.name + ".lock"), "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True


def train_one(run: Run, corpus: Path, runs: Path) -> None:
    """Train a run to its end, from its resume point where there is one."""
    where = Recordings(corpus / "train/speech", corpus / "train/noise", corpus / "rir", corpus / "dev")
    resume = (runs / run.name / "resume.safetensors").is_file()
    train(run.recipe, where, runs / run.name, resume, cache=runs / "cache")


def complete(run: Run, runs: Path) -> bool:
    """Whether the run has made its last step."""
    rows = history(runs / run.name)
    sparse = run.recipe.model == "sparse-nmf" and (runs / run.name / "best.safetensors").is_file()
    return sparse or bool(rows) and int(rows[-1]["step"]) == run.recipe.training.steps


def history(folder: Path) -> list[dict[str, str]]:
    """The rows of a run's history.csv."""
    if not (folder / "history.csv").is_file():
        return []
    with open(folder / "history.csv", newline="") as file:
        return list(csv.DictReader(file))


def score_one(run: Run, corpus: Path, runs: Path) -> None:
    """Write RUNS/run/test/report.json."""
    command = [sys.executable, "-m", "deepnmf_cli.main", "evaluate", "--jobs", "1", "--quiet"]
    command += ["--reference", str(corpus / "test/clean"), "--noisy", str(corpus / "test/noisy")]
    command += ["--model", str(runs / run.name), "--report", str(runs / run.name / "test")]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def result(run: Run, runs: Path) -> dict | None:
    """What is kept of a complete run; None of others."""
    if not complete(run, runs):
        return None
    folder, rows = runs / run.name, history(runs / run.name)
    network, recipe = library.load(folder)
    total, trained = network.parameter_counts()
    row = {
        "rung": run.rung, "seed": run.seed, "learning_rate": recipe.training.learning_rate, "model": recipe.model,
        "parameters": total, "trained_parameters": trained,
        "macs_per_s": network.macs_per_frame() * recipe.front_end.frames_per_s,
        "dev_si_sdr": checkpoint.load(library.find(folder))[1]["trained"]["dev_score"],
    }  # fmt: skip
    if rows:
        row |= {"seconds": float(rows[-1]["seconds"]), "loss": float(rows[-1]["loss"])}
    if (folder / "test" / "report.json").is_file():
        row["test"] = test_scores(folder / "test", "model")
    return row


def test_scores(folder: Path, kind: str) -> dict:
    """Means with 95 % intervals, in all and by input SNR, and the SDR of every file, of the "noisy" or "model" system."""
    report = json.loads((folder / "report.json").read_text())
    (system,) = (s for s in report["systems"] if s["kind"] == kind)
    with open(folder / "files.csv", newline="") as file:
        sdr = [round(float(r["SDR"]), 3) for r in csv.DictReader(file) if r["system"] == system["name"]]
    kept = {"summary": system["summary"], "sdr": sdr, "corpus": report["reference"]["sha256"]}
    return kept | {"by_snr": [{key: level[key] for key in ("snr_db", "summary")} for level in system["by_snr"]]}


if __name__ == "__main__":
    main()
