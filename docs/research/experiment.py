"""Train and score the runs of an experiment, each from a recipe, for the pages in docs/research.

    python docs/research/experiment.py train PLAN CORPUS|PACK RUNS [NAME ...] [--device cuda] [--workers 3]
    python docs/research/experiment.py score PLAN CORPUS RUNS [NAME ...]
    python docs/research/experiment.py collect PLAN CORPUS RUNS

`train` trains every run that is not complete, and can be interrupted; `score` scores complete runs on CORPUS/test, each
once; `collect` adds new results to results.json beside the plan.

PLAN is a TOML file such as docs/research/ladder/plan.toml: the folder of recipes beside it, the learning rates that are
compared with seed 1, the number of seeds of each recipe, and which recipes start from the weights of another one. With
scored = "dev", runs are scored on CORPUS/dev, and test is not used.
CORPUS has train/speech, train/noise, rir, dev/{clean,noisy} and test/{clean,noisy}; instead of it, `train` also takes a
PACK made by `deepnmf pack`, for machines to which no corpus can be copied. Several processes may work on one folder of
runs at once, on a core each: a run belongs to the process that locks it first. Runs in results.json are not repeated,
unless others still have to start from their weights.
"""

import argparse
import csv
import fcntl
import json
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from deepnmf_cli import zoo
from deepnmf_cli.corpus.pack import INDEX, verify
from deepnmf_cli.experiment import Recordings, train
from deepnmf_cli.networks.mrf import MrfNetwork
from deepnmf_cli.recipe import Recipe, read_recipe
from deepnmf_cli.training.time_limit import TimeLimit
from deepnmf_cli.unfold.network import Bank


@dataclass(frozen=True)
class Run:
    """One recipe with one seed and one learning rate; None is the recipe's. `start` names the recipe whose run with the
    same seed provides the initial weights."""

    folder: Path
    rung: str
    seed: int
    rate: float | None = None
    start: str | None = None

    @property
    def recipe(self) -> Recipe:
        rate = [] if self.rate is None else [f"training.learning_rate={self.rate}"]
        return read_recipe(self.folder / f"{self.rung}.toml", None, [f"training.seed={self.seed}", *rate])

    @property
    def name(self) -> str:
        return f"{self.rung}-seed{self.seed}-lr{self.recipe.training.learning_rate}"

    @property
    def before(self) -> "Run | None":
        """The run that must be complete before this one can start."""
        return Run(self.folder, self.start, self.seed) if self.start else None


def read_plan(path: Path) -> list[Run]:
    """Return all runs, each once: first those that decide about others, then seed by seed."""
    table = tomllib.loads(path.read_text())
    folder, seeds, starts = path.parent / table["recipes"], table["seeds"], table.get("init", {})
    runs = [Run(folder, rung, 1, rate) for rung, rates in table["rates"].items() for rate in rates]
    for seed in range(1, max(seeds.values()) + 1):
        runs += [Run(folder, rung, seed, None, starts.get(rung)) for rung, count in seeds.items() if count >= seed]
    return list({run.name: run for run in runs}.values())


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("verb", choices=["train", "score", "collect"])
    arguments.add_argument("plan", type=Path)
    arguments.add_argument("corpus", type=Path)
    arguments.add_argument("runs", type=Path)
    arguments.add_argument("names", nargs="*", help="recipes or runs; all where none is named")
    arguments.add_argument("--device", default="cpu")
    arguments.add_argument("--workers", type=int, default=1, help="processes that mix")
    arguments.add_argument("--minutes", type=float, help="train for so long only")
    given = arguments.parse_args()
    runs, part = read_plan(given.plan), tomllib.loads(given.plan.read_text()).get("scored", "test")
    if unknown := {*given.names} - {name for run in runs for name in (run.rung, run.name)}:
        arguments.error(f"the plan has no {', '.join(sorted(unknown))}")
    chosen = [run for run in runs if not given.names or {run.rung, run.name} & {*given.names}]
    kept = given.plan.with_name("results.json")
    results = json.loads(kept.read_text()) if kept.is_file() else {}
    limit = TimeLimit(60 * given.minutes) if given.minutes else None
    torch.set_num_threads(1)
    if given.verb == "collect":
        results |= {run.name: row for run in chosen if (row := result(run, given.runs, part)) is not None}
        tested = [given.runs / run.name / part for run in chosen if scored(run, given.runs, part)]
        if tested:
            results["noisy"] = test_scores(tested[0], "noisy")
        kept.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n")
        return
    where = recordings(given.corpus) if given.verb == "train" else Recordings()
    needed = {run.before for run in chosen if run.before and run.name not in results}
    for run in chosen:
        with taken(given.runs / run.name) as free:
            if not free:
                continue
            if given.verb == "train" and (run.name not in results or run in needed) and not complete(run, given.runs):
                if run.before and not complete(run.before, given.runs):
                    print(f"{run.name} waits for {run.before.name}: repeat the command when that is complete")
                    continue
                print(run.name, flush=True)
                if not train_one(run, where, given.runs, given.device, given.workers, limit):
                    return
            if given.verb == "score" and complete(run, given.runs) and not scored(run, given.runs, part):
                print(run.name, flush=True)
                score_one(run, given.corpus, given.runs, part)


@contextmanager
def taken(folder: Path) -> Iterator[bool]:
    """Yield whether this process may work on the run; if so, no other may before the context ends."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with open(folder.with_name(folder.name + ".lock"), "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True


def is_alone(folder: Path) -> bool:
    """Return whether no other process works on a run beside this one."""
    for lock in folder.parent.glob("*.lock"):
        if lock.name != f"{folder.name}.lock":
            with taken(lock.with_suffix("")) as free:
                if not free:
                    return False
    return True


def recordings(corpus: Path) -> Recordings:
    """Return the recordings of a corpus or of a pack for training."""
    if (corpus / INDEX).is_file():
        return Recordings(dev=corpus / "dev", manifest=verify(corpus))
    return Recordings(corpus / "train/speech", corpus / "train/noise", corpus / "rir", corpus / "dev")


def train_one(
    run: Run, where: Recordings, runs: Path, device: str = "cpu", workers: int = 1, limit: TimeLimit | None = None
) -> bool:
    """Train a run, from its resume point if there is one, and return whether it reached its end."""
    resume = (runs / run.name / "resume.safetensors").is_file()
    init = runs / run.before.name / "best.safetensors" if run.before else None
    return train(
        run.recipe, where, runs / run.name, resume, device, workers, cache=runs / "cache", init=init, limit=limit
    )


def complete(run: Run, runs: Path) -> bool:
    """Return whether the run has made its last step; sparse NMF has none."""
    rows = history(runs / run.name)
    sparse = run.recipe.model == "sparse-nmf" and (runs / run.name / "best.safetensors").is_file()
    return sparse or (bool(rows) and int(rows[-1]["step"]) == run.recipe.training.steps)


def unscored(chosen: Iterable[Run], runs: Path, scores: str) -> Iterator[Run]:
    """Yield complete runs that have no file `scores` yet, and print the name of each."""
    for run in chosen:
        if complete(run, runs) and not (runs / run.name / scores).is_file():
            print(run.name, flush=True)
            yield run


def history(folder: Path) -> list[dict[str, str]]:
    """Return the rows of a run's history.csv."""
    if not (folder / "history.csv").is_file():
        return []
    with open(folder / "history.csv", newline="") as file:
        return list(csv.DictReader(file))


def scored(run: Run, runs: Path, part: str) -> bool:
    """Return whether all files have been scored: a scoring that was interrupted leaves partial results."""
    return (runs / run.name / part / "report.json").is_file()


def score_one(run: Run, corpus: Path, runs: Path, part: str) -> None:
    """Score a run and write RUNS/run/PART/report.json."""
    command = [sys.executable, "-m", "deepnmf_cli.main", "evaluate", "--jobs", "1", "--quiet"]
    command += ["--reference", str(corpus / part / "clean"), "--noisy", str(corpus / part / "noisy")]
    command += ["--model", str(runs / run.name), "--report", str(runs / run.name / part)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def result(run: Run, runs: Path, part: str) -> dict | None:
    """Return the results that are kept of a complete run; None for others."""
    if not complete(run, runs):
        return None
    folder, rows = runs / run.name, history(runs / run.name)
    network, file = zoo.load(folder)
    recipe = Recipe.of_file(file)
    total, trained = network.parameter_counts()
    trained_as = file.provenance["trained"]
    row = {
        "rung": run.rung, "seed": run.seed, "learning_rate": recipe.training.learning_rate, "model": recipe.model,
        "parameters": total, "trained_parameters": trained,
        "macs_per_s": network.macs_per_frame() * recipe.front_end.frames_per_s,
        "dev_si_sdr": trained_as["dev_si_sdr"],
    }  # fmt: skip
    if "dev_pesq" in trained_as:
        row["dev_pesq"] = trained_as["dev_pesq"]
    bank = network.unfolded.bank if isinstance(network, MrfNetwork) else None
    row |= {name: learned(bank, name) for name in ("alpha", "schedule") if bank and name in bank.ties}
    if rows:
        row |= {"seconds": float(rows[-1]["seconds"]), "loss": float(rows[-1]["loss"])}
    if (folder / part / "report.json").is_file():
        row[part] = test_scores(folder / part, "model")
    return row


def learned(bank: Bank, name: str) -> list[list[float]]:
    """Return what a parameter has become in every slot, as up to 100 quantiles: exponents as is, schedules as gamma."""
    values = [bank.value(name, slot).detach().flatten() for slot in range(bank.ties[name].count)]
    values = [torch.sigmoid(x) if name == "schedule" else x for x in values]
    quantiles = [x.quantile(torch.linspace(0, 1, min(100, len(x)))) if len(x) > 1 else x for x in values]
    return [[round(float(q), 4) for q in x] for x in quantiles]


def test_scores(folder: Path, kind: str) -> dict:
    """Return the scores of the "noisy" or "model" system: means with 95 % intervals, overall and by input SNR, and the
    SDR of every file."""
    report = json.loads((folder / "report.json").read_text())
    (system,) = (s for s in report["systems"] if s["kind"] == kind)
    with open(folder / "files.csv", newline="") as file:
        sdr = [round(float(r["SDR"]), 3) for r in csv.DictReader(file) if r["system"] == system["name"]]
    kept = {"summary": system["summary"], "sdr": sdr, "corpus": report["reference"]["sha256"]}
    return kept | {"by_snr": [{key: level[key] for key in ("snr_db", "summary")} for level in system["by_snr"]]}


if __name__ == "__main__":
    main()
