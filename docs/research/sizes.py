"""Two families of networks at several sizes, tuned with the same processor time for trials: the ladder by size.

    python docs/research/sizes.py train PLAN CORPUS RUNS [PART ...]     incomplete runs; can be interrupted
    python docs/research/sizes.py score PLAN CORPUS RUNS                the rows with several seeds on CORPUS/test, once
    python docs/research/sizes.py collect PLAN CORPUS RUNS              writes a JSON file of the plan's name beside it
    python docs/research/sizes.py list PLAN CORPUS RUNS                 what is complete, what it cost

PLAN is docs/research/ladder/sizes.toml, or another file of its form. PART is trials, rows or seeds, or the beginning or
the end of the name of a run, such as dnn-50000 or seed2. Trials come first; a row takes the settings of the best trial
of its family and context at the nearest size that was searched, and waits for it. Several processes may work on one
folder of runs. The batches of a seed take 12 GB in RUNS/cache; they can be removed before the next seed begins.
"""

import argparse
import csv
import json
import math
import shutil
import time
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from experiment import complete as made_last_step
from experiment import history, is_alone, score_one, taken

from deepnmf_cli import zoo
from deepnmf_cli.errors import DeepnmfError
from deepnmf_cli.experiment import Recordings, train
from deepnmf_cli.recipe import Recipe, read_recipe
from deepnmf_cli.scoring.metrics import METRICS
from deepnmf_cli.training.dev import enhanced

FAMILIES = ("dnn", "deep-nmf")
BINS = 257
FILES, SPENT, FAILED = "dev_files.json", "cpu_seconds.txt", "failed.txt"
WORST_DB = -100.0
"""Dev score of a trial that diverged."""


@dataclass(frozen=True)
class Run:
    """One network with one seed. `layers` are the hidden layers of a DNN, or the trained layers of deep NMF: a number,
    "all" or "tied"; `settings` are the searched settings of the recipe."""

    recipes: Path
    name: str
    family: str
    size: int
    context: int
    layers: int | str
    settings: Mapping[str, Any]
    seed: int
    steps: int
    score_every: int

    @property
    def recipe(self) -> Recipe:
        shape = network(self.family, self.size, self.context, self.layers, self.settings)
        given = {**self.settings, **shape, "training.seed": self.seed, "network.context": self.context}
        given |= {"training.steps": self.steps, "training.score_every": self.score_every}
        if self.family == "deep-nmf":  # the first atoms are drawn from one batch
            given["dictionary.batch_frames"] = max(1000, 3 * shape["network.atoms"])
        overrides = [f"{key}={json.dumps(value)}" for key, value in given.items()]
        return read_recipe(self.recipes / f"size-{self.family}.toml", None, overrides)

    def matches(self, parts: list[str]) -> bool:
        """Return whether the name begins or ends with one of `parts`."""
        return self.name.startswith(tuple(parts)) or self.name.endswith(tuple(f"-{part}" for part in parts))

    @property
    def frames(self) -> int:
        """Number of frames that gradients of deep NMF pass in all trained layers together; 0 for a DNN."""
        s = self.recipe.network
        return 0 if self.family == "dnn" else s.context * min(s.trained_layers, s.iterations)

    @property
    def units(self) -> int:
        """Number of units of a hidden layer, or of atoms of each source."""
        shape = network(self.family, self.size, self.context, self.layers, self.settings)
        return shape["network.atoms"] if self.family == "deep-nmf" else shape["network.hidden"][0]


def network(family: str, size: int, context: int, layers: int | str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of the network with about `size` parameters, counting those that inference needs."""
    if family == "dnn":
        return {"network.hidden": [width(size, context, int(layers))] * int(layers)}
    iterations = settings["network.iterations"]
    trained = iterations + 1 if layers in ("all", "tied") else int(layers)
    atoms = max(1, round(size / (2 * BINS * dictionary_rows(context, trained, iterations, layers == "tied"))))
    return {"network.atoms": atoms, "network.trained_layers": trained, "network.tied": layers == "tied"}


@cache
def width(size: int, context: int, layers: int) -> int:
    """Return the number of units of each hidden layer of a DNN with about `size` parameters."""
    return min(range(1, 8192), key=lambda w: abs(dnn_parameters(context, (w,) * layers) - size))


def dnn_parameters(context: int, hidden: tuple[int, ...], bins: int = BINS) -> int:
    """Return the number of weights and biases, and of means and deviations of all bins."""
    sizes = [context * bins, *hidden, bins]
    return sum((a + 1) * b for a, b in pairwise(sizes)) + 2 * bins


def dictionary_rows(context: int, trained: int, iterations: int, tied: bool) -> int:
    """Return the number of rows of all dictionaries of deep NMF together, in units of F."""
    if tied:
        return context
    return context * min(trained, iterations) + 1  # the learned dictionary, trained ones, and the readout


def step_macs(recipe: Recipe) -> int:
    """Return multiply-adds of a training step per frame: what is trained counts three times, forwards and backwards."""
    s = recipe.network
    if recipe.model == "dnn":
        sizes = [s.context * s.bins, *s.hidden, s.bins]
        return 3 * sum(a * b for a, b in pairwise(sizes))
    trained = s.iterations if s.tied else s.trained_layers - 1
    return (s.iterations + 2 * trained) * 2 * s.context * s.bins * 2 * s.atoms + 3 * s.bins * 2 * s.atoms


class Plan:
    """All runs of a plan, as far as the results of trials determine them."""

    def __init__(self, path: Path) -> None:
        self.table = tomllib.loads(path.read_text())
        self.recipes, self.kept = path.parent / self.table["recipes"], path.with_suffix(".json")

    @cached_property
    def trials(self) -> list[Run]:
        """The runs of the search, the cheap sizes first, with families in turn."""
        search = self.table["search"]
        return [
            self._trial(family, size, number)
            for size in search["sizes"]
            for number in range(max(search["trials"].values()))
            for family in FAMILIES
            if number < search["trials"][family]
        ]

    def rows(self, results: Mapping[str, Any], seed: int = 1) -> list[Run]:
        """Return a run for each family, size and context that is requested and whose trials are all complete; searched
        sizes first.
        """
        searched = self.table["search"]["sizes"]
        sizes = sorted(self.table["sizes"], key=lambda size: size not in searched)
        found = [
            self._row(family, size, context, seed, results)
            for context in self.table["contexts"]
            for size in sizes
            for family in FAMILIES
            if self._wanted(family, size, context, results)
        ]
        return [row for row in found if row is not None]

    def _wanted(self, family: str, size: int, context: int, results: Mapping[str, Any]) -> bool:
        """Return whether the size is requested with both contexts, or this one was the better in the search."""
        if size in self.table["both_contexts"][family]:
            return True
        best = [(c, self.best(family, size, c, results)) for c in self.table["contexts"]]
        known = [(result["dev_si_sdr"], c) for c, result in best if result is not None]
        return len(known) == len(best) and max(known)[1] == context

    def seeds(self, results: Mapping[str, Any]) -> list[Run]:
        """Return the rows that sentences on the page name, with all seeds but the first."""
        named, count = self.table["seeds"]["rows"], self.table["seeds"]["count"]
        runs = [run for seed in range(2, count + 1) for run in self.rows(results, seed)]
        return [run for run in runs if run.name.rpartition("-")[0] in named]

    def best(self, family: str, size: int, context: int, results: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return the result of the best trial of this context at the nearest size that was searched; None while some
        trials are missing.
        """
        nearest = min(self.table["search"]["sizes"], key=lambda other: abs(math.log(size / other)))
        trials = [t for t in self.trials if (t.family, t.size, t.context) == (family, nearest, context)]
        if not all(t.name in results for t in trials):
            return None
        return max((results[t.name] for t in trials), key=lambda result: result["dev_si_sdr"])

    def _trial(self, family: str, size: int, number: int) -> Run:
        search, contexts = self.table["search"], self.table["contexts"]
        draw = np.random.default_rng([search["seed"], FAMILIES.index(family), size, number])
        name, context = f"{family}-{size}-trial{number + 1}", contexts[number % len(contexts)]
        while True:
            settings = {key: drawn(values, draw) for key, values in search[family].items()}
            layers = settings.pop("layers")
            run = Run(self.recipes, name, family, size, context, layers, settings, 1, search["steps"], search["steps"])
            cheap = step_macs(run.recipe) <= search["largest_step"] and run.frames <= search["most_frames"]
            if cheap and run.units >= search["fewest_units"]:
                return run

    def _row(self, family: str, size: int, context: int, seed: int, results: Mapping[str, Any]) -> Run | None:
        best, plateau = self.best(family, size, context, results), self.table["plateau"]
        if best is None:
            return None
        name = f"{family}-{size}-t{context}-seed{seed}"
        how = (best["layers"], best["settings"], seed, plateau["most_steps"], plateau["score_every"])
        return Run(self.recipes, name, family, size, context, *how)

    def level(self, rows: list[dict[str, str]]) -> bool:
        """Return whether dev scores have risen by less than `least_db` within the last `steps` steps."""
        rule, curve = self.table["plateau"], [(int(row["step"]), float(row["dev_si_sdr"])) for row in rows]
        return has_levelled(curve, rule["steps"], rule["least_db"])


def has_levelled(curve: list[tuple[int, float]], steps: int, least_db: float) -> bool:
    """Return whether the best score of (step, score) rose by less than `least_db` within the last `steps` steps."""
    earlier = [score for step, score in curve if step <= curve[-1][0] - steps]
    return bool(earlier) and max(score for _, score in curve) - max(earlier) < least_db


def drawn(values: Any, draw: np.random.Generator) -> Any:
    """Draw one of a list, or a number from a range, uniform in its logarithm and with two digits."""
    if isinstance(values, list):
        return values[draw.integers(len(values))]
    return float(f"{math.exp(draw.uniform(math.log(values['low']), math.log(values['high']))):.2g}")


def is_trial(run: Run) -> bool:
    return "-trial" in run.name


def complete(run: Run, plan: Plan, runs: Path) -> bool:
    """Return whether the run has reached its end or its plateau and, for rows, has scores of all dev files."""
    rows = history(runs / run.name)
    if is_trial(run):
        return made_last_step(run, runs) or (runs / run.name / FAILED).is_file()
    ended = bool(rows) and (int(rows[-1]["step"]) == run.steps or plan.level(rows))
    return ended and (runs / run.name / FILES).is_file()


def train_one(run: Run, plan: Plan, corpus: Path, runs: Path) -> None:
    """Train a run to its end or plateau, from its resume point if there is one, and score a row's dev files."""
    where = Recordings(corpus / "train/speech", corpus / "train/noise", corpus / "rir", corpus / "dev")
    folder, ended = runs / run.name, False
    began = time.process_time() - (float((folder / SPENT).read_text()) if (folder / SPENT).is_file() else 0)

    def progress(report: dict) -> None:
        nonlocal ended
        if "step" in report and report.get("row"):
            ended = not is_trial(run) and plan.level([*history(folder), report["row"]])
            (folder / SPENT).write_text(f"{time.process_time() - began:.1f}\n")

    rows = history(folder)
    if not (rows and (int(rows[-1]["step"]) == run.steps or plan.level(rows))):
        resume = (folder / "resume.safetensors").is_file()
        try:
            train(run.recipe, where, folder, resume, cache=runs / "cache", progress=progress, stop=lambda: ended)
        except DeepnmfError as error:
            if not is_trial(run) or not error.found.startswith(("a loss of", "no score")):
                raise
            (folder / FAILED).write_text(f"{error}\n")
    if is_alone(folder):
        for states in (runs / "cache").glob("fixed-*"):  # of no use to runs with other dictionaries
            shutil.rmtree(states)
    if not is_trial(run):
        (folder / FILES).write_text(json.dumps(dev_files(folder, corpus)))
    (folder / SPENT).write_text(f"{time.process_time() - began:.1f}\n")


def mixtures(folder: Path) -> list[dict[str, str]]:
    """Return the rows of mixtures.csv in a folder of fixed mixtures."""
    with open(folder / "mixtures.csv", newline="") as file:
        return list(csv.DictReader(file))


def dev_files(folder: Path, corpus: Path) -> dict[str, list[float]]:
    """Return the SDR and SI-SDR of every dev file, enhanced by the best model of a run."""
    net, file = zoo.load(folder)
    scores: dict[str, list[float]] = {"SDR": [], "SI-SDR": []}
    for row in mixtures(corpus / "dev"):
        clean, noisy = (soundfile.read(corpus / "dev" / part / f"{row['name']}.flac")[0] for part in ("clean", "noisy"))
        speech = enhanced(net, file.front_end, noisy.astype(np.float32)).astype(np.float64)
        for metric, values in scores.items():
            values.append(round(METRICS[metric].compute(clean, speech, file.front_end.rate_hz), 3))
    return scores


def result(run: Run, plan: Plan, runs: Path) -> dict[str, Any] | None:
    """Return the results that are kept of a complete run; None for others."""
    if not complete(run, plan, runs):
        return None
    folder, rows = runs / run.name, history(runs / run.name)
    found = {
        "family": run.family, "size": run.size, "context": run.context, "layers": run.layers, "seed": run.seed,
        "settings": dict(run.settings), "cpu_seconds": float((folder / SPENT).read_text()),
    }  # fmt: skip
    if (folder / FAILED).is_file():
        return found | {"dev_si_sdr": WORST_DB, "failed": (folder / FAILED).read_text()}
    net, file = zoo.load(folder)
    found |= {
        "parameters": net.parameter_counts()[0],
        "trained_parameters": net.parameter_counts()[1],
        "macs_per_s": net.macs_per_frame() * file.front_end.frames_per_s,
        "dev_si_sdr": file.provenance["trained"]["dev_si_sdr"], "steps": int(rows[-1]["step"]),
        "best_step": file.provenance["trained"]["steps"],
        "dev_curve": [[int(r["step"]), round(float(r["dev_si_sdr"]), 3)] for r in rows],
        "loss": float(rows[-1]["loss"]),
    }  # fmt: skip
    if not is_trial(run):
        found |= {"level": plan.level(rows), "dev": json.loads((folder / FILES).read_text())}
    if (folder / "test/report.json").is_file():
        found["test"] = test_files(folder / "test", "model")
    return found


def test_files(folder: Path, kind: str) -> dict[str, Any]:
    """Return the scores of every test file by the "noisy" or "model" system, in the order of their names."""
    with open(folder / "files.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    report = json.loads((folder / "report.json").read_text())
    (name,) = (s["name"] for s in report["systems"] if s["kind"] == kind)
    return {m: [round(float(r[m]), 3) for r in rows if r["system"] == name] for m in METRICS}


def collect(plan: Plan, corpus: Path, runs: Path) -> dict[str, Any]:
    """Return the results of all complete runs, trials first, as they determine the rows; earlier results are kept."""
    kept = json.loads(plan.kept.read_text()) if plan.kept.is_file() else {"runs": {}}
    results = kept["runs"]
    for part in (lambda: plan.trials, lambda: plan.rows(results), lambda: plan.seeds(results)):
        results |= {run.name: found for run in part() if (found := result(run, plan, runs)) is not None}
    for part in ("dev", "test"):
        kept[part] = {
            key: [row[key] for row in mixtures(corpus / part)] for key in ("name", "snr_db", "speaker", "noise")
        }
    tested = [runs / name / "test" for name in results if (runs / name / "test/report.json").is_file()]
    if tested:
        kept["noisy"] = test_files(tested[0], "noisy")
    return kept


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("verb", choices=["train", "score", "collect", "list"])
    arguments.add_argument("plan", type=Path)
    arguments.add_argument("corpus", type=Path)
    arguments.add_argument("runs", type=Path)
    arguments.add_argument("parts", nargs="*")
    given = arguments.parse_args()
    torch.set_num_threads(1)
    plan = Plan(given.plan)
    results = collect(plan, given.corpus, given.runs)["runs"]
    stages = {"trials": lambda: plan.trials, "rows": lambda: plan.rows(results), "seeds": lambda: plan.seeds(results)}
    if given.verb == "list":
        for part, runs_of in stages.items():
            done = [results[run.name] for run in runs_of() if run.name in results]
            hours = sum(r["cpu_seconds"] for r in done) / 3600
            print(f"{part}: {len(done)} of {len(runs_of())} complete, {hours:.2f} core-hours")
    if given.verb == "train":
        for part, runs_of in stages.items():
            for run in runs_of():
                wanted = not given.parts or part in given.parts or run.matches(given.parts)
                if wanted and run.name not in results:
                    with taken(given.runs / run.name) as free:
                        if free and not complete(run, plan, given.runs):
                            print(run.name, flush=True)
                            train_one(run, plan, given.corpus, given.runs)
            results |= collect(plan, given.corpus, given.runs)["runs"]  # the next stage follows from this one
    if given.verb == "score":
        score(plan, results, given.corpus, given.runs)
    if given.verb in ("score", "collect"):
        text = json.dumps(collect(plan, given.corpus, given.runs), indent=None, separators=(",", ":"), sort_keys=True)
        plan.kept.write_text(text.replace('},"', '},\n"') + "\n")


def score(plan: Plan, results: Mapping[str, Any], corpus: Path, runs: Path) -> None:
    """Score the named rows on test, each once; refuse while any run of the plan is missing, because choices are not
    final before."""
    named = [run for run in plan.rows(results) if run.name.rpartition("-")[0] in plan.table["seeds"]["rows"]]
    named += plan.seeds(results)
    missing = [run.name for run in [*plan.trials, *plan.rows(results), *named] if run.name not in results]
    if missing or not named:
        raise SystemExit(f"not scored on test: {len(missing)} runs are missing, {len(named)} are named in [seeds]")
    for run in named:
        if not (runs / run.name / "test/report.json").is_file():
            print(run.name, flush=True)
            score_one(run, corpus, runs, "test")


if __name__ == "__main__":
    main()
