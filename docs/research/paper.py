"""The paper's table in the paper's set-up: SDR by SNR of sparse NMF, deep NMF trained by (38) and by Adam, and DNNs.

    python docs/research/paper.py train PLAN CORPUS RUNS SIZES [NAME ...]   incomplete rows; can be interrupted
    python docs/research/paper.py score PLAN CORPUS RUNS SIZES              the rows named in [seeds] on test, once
    python docs/research/paper.py collect PLAN CORPUS RUNS SIZES            writes a JSON file beside the plan

PLAN is docs/research/ladder/paper.toml; SIZES is the folder of runs of docs/research/sizes.py, whose trials give the
DNNs their settings. Windows of 25 ms every 10 ms do not overlap by half, as those of the program do, so spectra are
torch's here. Mixtures of dev and test are those of the corpus, with speech in a room that is not used for training.
"""

import argparse
import json
import math
import time
import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from experiment import taken
from sizes import Plan as SizesPlan
from sizes import collect as collect_sizes
from sizes import dnn_parameters, has_levelled, mixtures
from torch import Tensor

from deepnmf_cli import checkpoint
from deepnmf_cli.corpus.dataset import MixingSettings
from deepnmf_cli.corpus.mixing import in_room, scale_to_snr
from deepnmf_cli.corpus.sources import fingerprint
from deepnmf_cli.experiment import Recordings, initial_network, open_corpus
from deepnmf_cli.inference.nmf import DICTIONARY
from deepnmf_cli.networks.frame_network import FrameNetwork
from deepnmf_cli.recipe import Recipe
from deepnmf_cli.scoring.metrics import METRICS
from deepnmf_cli.signal.level import modulus, normalise_level, stack_context
from deepnmf_cli.signal.stft import FrontEnd
from deepnmf_cli.training import minibatch
from deepnmf_cli.training.descent import GradientDescent
from deepnmf_cli.training.minibatch import FrameStore, digest
from deepnmf_cli.training.multiplicative import MultiplicativeDescent
from deepnmf_cli.training.objectives import ObjectiveSettings

RATE_HZ, WINDOW, HOP, CONTEXT = 16000, 400, 160, 9
BINS = WINDOW // 2 + 1
MIXING = MixingSettings(
    snr_db=(-6.0, 9.0), room_probability=1.0, room_target="reverberant", second_noise_probability=0.0,
    clean_probability=0.0,
)  # fmt: skip
OBJECTIVE = ObjectiveSettings(magnitude=1.0, compressed_half=0.0, compressed_third=0.0, snr=0.0)
ROOMS = 7
"""The last two of every group of this many room responses are kept for dev and test."""

SMALL = 500
"""Number of atoms of each source above which dictionaries see fewer mixtures and come last."""

minibatch.LARGEST_STATE_BYTES = 1 << 23


class Pair:
    """Square roots of Hann windows of 25 ms every 10 ms, for analysis and synthesis; T = 1 + N / HOP frames."""

    hop_samples, window_hops, bins = HOP, 2, BINS
    window = torch.hann_window(WINDOW).sqrt()

    def analysis(self, samples: Tensor) -> Tensor:
        """Return the complex spectrum (..., F, T) of samples (..., N)."""
        flat = samples.float().reshape(-1, samples.shape[-1])
        spectrum = torch.stft(flat, WINDOW, HOP, WINDOW, self.window, return_complex=True) / self.window.sum()
        return spectrum.unflatten(0, samples.shape[:-1]) if samples.dim() > 1 else spectrum[0]

    def synthesis(self, spectrum: Tensor, length: int) -> Tensor:
        """Return samples (N,) of a spectrum (F, T), by least squares."""
        return torch.istft(spectrum * self.window.sum(), WINDOW, HOP, WINDOW, self.window, length=length)


@dataclass(frozen=True)
class PaperFrontEnd(FrontEnd):
    """A front end in place of the program's."""

    hop_s: float = HOP / RATE_HZ

    def pair(self, rate_hz: int) -> Pair:
        return Pair()


@dataclass(frozen=True)
class Row:
    """A row of the table with one seed: a DNN with hidden layers, or deep NMF with C trained layers and a rule."""

    name: str
    seed: int
    hidden: tuple[int, ...] = ()
    atoms: int = 0
    trained: int = 0
    rule: str = "adam"
    """"adam", "printed" for (38), or "nothing"."""
    settings: tuple[tuple[str, Any], ...] = ()
    """Settings found by the search, for a DNN."""

    @property
    def full_name(self) -> str:
        return f"{self.name}-seed{self.seed}"

    def recipe(self, plan: dict) -> Recipe:
        found = dict(self.settings)
        if self.hidden:
            shape = {"hidden": self.hidden} | {key: found[f"network.{key}"] for key in ("dropout", "compression")}
        else:
            shape = {"atoms": self.atoms, "iterations": 25, "sparsity": 5.0, "beta": 1.0}
            shape |= {"trained_layers": self.trained}
        frames = max(plan["dictionary"]["batch_frames"], 3 * self.atoms)
        table = {
            "model": "dnn" if self.hidden else "deep-nmf",
            "network": {"context": CONTEXT, **shape},
            "front_end": {"hop_s": 0.0125},  # windows of 25 ms; only their length matters here, for the number of bins
            "dictionary": {**plan["dictionary"], "batch_frames": frames},
            "training": {"seed": self.seed},
        }
        recipe = Recipe.from_dict(table)
        return Recipe(recipe.model, recipe.network, PaperFrontEnd(), MIXING, dictionary=recipe.dictionary,
                      objective=OBJECTIVE, training=recipe.training)  # fmt: skip


def rows(plan: dict, sizes: SizesPlan, results: dict, seed: int = 1) -> list[Row]:
    """Return all rows of the table; DNNs are included once the search is complete."""
    found = []
    for atoms, layers in plan["nmf"]["trained"].items():
        for trained in layers:
            for rule in ("adam", "printed") if trained else ("nothing",):
                found.append(Row(f"nmf-r{atoms}-c{trained}-{rule}", seed, (), int(atoms), trained, rule))
    for layers, widths in plan["dnn"]["units"].items():
        for units in widths:
            hidden = (units,) * int(layers)
            best = sizes.best("dnn", dnn_parameters(CONTEXT, hidden, BINS), CONTEXT, results)
            if best:
                found.append(Row(f"dnn-{layers}x{units}", seed, hidden, settings=tuple(best["settings"].items())))
    return sorted(found, key=lambda row: row.atoms > SMALL)  # the largest dictionaries last


def rooms(corpus: Path, part: str) -> list[Path]:
    """Return the room responses of train, dev or test."""
    kept = {"dev": ROOMS - 2, "test": ROOMS - 1}
    files = sorted((corpus / "rir").iterdir())
    if part == "train":
        return [path for i, path in enumerate(files) if i % ROOMS not in kept.values()]
    return [path for i, path in enumerate(files) if i % ROOMS == kept[part]]


def reverberant(corpus: Path, part: str) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield (reverberant speech, mixture) for every fixed mixture of dev or test, at the SNR in mixtures.csv."""
    responses = [soundfile.read(path, dtype="float32")[0] for path in rooms(corpus, part)]
    for i, row in enumerate(mixtures(corpus / part)):
        clean, noisy = (
            soundfile.read(corpus / part / kind / f"{row['name']}.flac", dtype="float32")[0]
            for kind in ("clean", "noisy")
        )
        wet = in_room(clean, responses[i % len(responses)], RATE_HZ)
        yield wet, wet + scale_to_snr(wet, noisy - clean, float(row["snr_db"]))


@dataclass(frozen=True)
class Example:
    """A fixed mixture as a network sees it: reverberant speech (N,), spectrum (F, T), evidence (CONTEXT F, T), and the
    output of the network's fixed layers, None if it has none.
    """

    wet: np.ndarray
    spectrum: Tensor
    evidence: Tensor
    fixed: Any

    @classmethod
    @torch.no_grad()
    def of(cls, wet: np.ndarray, noisy: np.ndarray, network: FrameNetwork) -> "Example":
        spectrum = Pair().analysis(torch.from_numpy(noisy))
        evidence = stack_context(normalise_level(modulus(spectrum)[None])[0], CONTEXT)[0][0]
        return cls(wet, spectrum, evidence, network.fixed_state(evidence) if network.fixed_layers else None)

    @torch.no_grad()
    def enhanced(self, network: FrameNetwork) -> np.ndarray:
        """Return the speech (N,)."""
        masks = network.eval().frame_masks(self.evidence, self.fixed)
        network.train()
        return Pair().synthesis(masks[0] * self.spectrum, len(self.wet)).numpy()


def examples(network: FrameNetwork, corpus: Path, part: str) -> Iterator[Example]:
    """Yield all fixed mixtures of dev or test."""
    for wet, noisy in reverberant(corpus, part):
        yield Example.of(wet, noisy, network)


def scores(network: FrameNetwork, mixed: Iterable[Example], metrics: tuple[str, ...]) -> dict[str, list[float]]:
    """Return metric -> the scores of all mixtures."""
    found: dict[str, list[float]] = {metric: [] for metric in metrics}
    for example in mixed:
        speech = example.enhanced(network).astype(np.float64)
        for metric, values in found.items():
            values.append(round(METRICS[metric].compute(example.wet.astype(np.float64), speech, RATE_HZ), 3))
    return found


class Training:
    """Training of one row: steps, the mean of the weights, and dev scores; complete, or continued from its file."""

    def __init__(self, row: Row, plan: dict, corpus: Path, runs: Path) -> None:
        self.began = time.process_time()
        self.row, self.plan, self.corpus, self.folder = row, plan, corpus, runs / row.full_name
        recipe, adam = row.recipe(plan), plan["adam"]
        used = runs / "rooms"
        for made in (used, self.folder):
            made.mkdir(parents=True, exist_ok=True)
        for path in rooms(corpus, "train"):
            if not (used / path.name).exists():
                (used / path.name).symlink_to(path.absolute())
        where = Recordings(corpus / "train/speech", corpus / "train/noise", used, corpus / "dev")
        source, _ = open_corpus(where, recipe)
        frames, cache = plan["frames"], runs / "cache"
        key = digest("paper", row.seed, fingerprint(where))
        self.network = initial_network(recipe, source, cache=cache, key=key)
        self.store = FrameStore(
            source, recipe.front_end, self.network, frames["batch"], frames["frame_stride"], cache, key
        )
        self.distinct = plan["nmf"]["large_batches"] if row.atoms > SMALL else frames["distinct_batches"]
        self.rate = dict(row.settings).get("training.learning_rate", adam["nmf_learning_rate"])
        decay = dict(row.settings).get("training.weight_decay", 0.0)
        if row.rule == "printed":
            self.rule = MultiplicativeDescent(self.network, OBJECTIVE, "multiplicative", momentum=0.0)
            self.every, self.most, self.level = (
                plan["printed"][key] for key in ("score_every", "most_updates", "level_updates")
            )
        else:
            self.rule = GradientDescent(
                self.network, recipe.front_end, OBJECTIVE, 5.0, mixed_precision=False, weight_decay=decay
            )
            self.every, self.most, self.level = (adam[key] for key in ("score_every", "most_steps", "level_steps"))
        self.trained = [p for p in self.network.parameters() if p.requires_grad]
        self.average = [p.detach().clone() for p in self.trained]
        self.curve: list[tuple[int, float]] = []
        self.best: dict[str, Tensor] = {}

    def run(self) -> dict[str, Any]:
        """Train to the plateau and return the results that are kept of the row."""
        spent, first = 0.0, 0
        if (self.folder / "state.safetensors").is_file():
            first, spent = self._load()
        level = self._level()
        for step in range(first, self.most if self.row.rule != "nothing" and not level else 0):
            self._step(step)
            if (step + 1) % self.every == 0:
                self._score(step + 1)
                self._save(step + 1, spent + time.process_time() - self.began)
                if level := self._level():
                    break
        if not self.curve:
            self._score(0)
        self.network.load_weights(self.best)
        checkpoint.save(self.folder / "best.safetensors", self.best, {"row": self.row.full_name})
        best = max(score for _, score in self.curve)
        return {
            "name": self.row.name, "seed": self.row.seed, "parameters": self.network.parameter_counts()[0],
            "trained_parameters": sum(p.numel() for p in self.trained), "settings": dict(self.row.settings),
            "dev_curve": self.curve, "best_step": next(step for step, score in self.curve if score == best),
            "level": level, "dev": scores(self.network, self.dev, ("SDR", "SI-SDR")),
            "cpu_seconds": round(spent + time.process_time() - self.began, 1),
        }  # fmt: skip

    @cached_property
    def dev(self) -> list[Example]:
        """All mixtures of dev, kept because their fixed layers take as long as some hundred steps: about a GB."""
        return list(examples(self.network, self.corpus, "dev"))

    def _step(self, step: int) -> None:
        if self.row.rule == "printed":
            self._printed(step)
            self._take_mean(0.0)
        else:
            torch.manual_seed((self.row.seed << 32) + step)
            rate = self.rate * min(1.0, (step + 1) / 100)
            loss = self.rule.step(self.store[step % self.distinct], rate)
            if not math.isfinite(loss):
                raise SystemExit(f"{self.row.full_name}: step {step + 1} has a loss of {loss}")
            self._take_mean(min(self.plan["adam"]["average"], (1 + step) / (10 + step)))

    @torch.no_grad()
    def _printed(self, update: int) -> None:
        """Update W <- W o N / P with the parts of many batches, equation (38)."""
        total: dict[str, Any] = {}
        count = self.plan["printed"]["batches"]
        for i in range(update * count, (update + 1) * count):
            parts, _ = self.rule.parts(self.store[i % self.distinct])
            total = {name: total[name] + pair if total else pair for name, pair in parts.items()}
        for index, slot in enumerate(self.rule.slots):
            name = f"{DICTIONARY}_{slot}"
            held = getattr(self.network.unfolded.bank, name)
            held.become(self.rule._multiplied(index, held(), total[name]))

    @torch.no_grad()
    def _take_mean(self, keep: float) -> None:
        torch._foreach_lerp_(self.average, self.trained, 1 - keep)

    @torch.no_grad()
    def _score(self, step: int) -> None:
        own = [p.detach().clone() for p in self.trained]
        self._become(self.average)
        score = float(np.mean(scores(self.network, self.dev, ("SI-SDR",))["SI-SDR"]))
        if not self.curve or score > max(s for _, s in self.curve):
            self.best = {name: x.detach().clone() for name, x in self.network.weights().items()}
        self.curve.append((step, round(score, 4)))
        self._become(own)

    @torch.no_grad()
    def _become(self, weights: list[Tensor]) -> None:
        for parameter, weight in zip(self.trained, weights, strict=True):
            parameter.copy_(weight)

    def _level(self) -> bool:
        return has_levelled(self.curve, self.level, self.plan["plateau"]["level_db"])

    def _save(self, step: int, seconds: float) -> None:
        named = {"average": dict(enumerate(self.average)), "best": self.best, "own": self.network.state_dict()}
        named["rule"] = {f"{i}.{name}": x for i, held in self.rule.state().items() for name, x in held.items()}
        tensors = {f"{part}/{name}": x for part, held in named.items() for name, x in held.items()}
        checkpoint.save(self.folder / "state.safetensors", tensors, {"step": step, "s": seconds, "curve": self.curve})

    def _load(self) -> tuple[int, float]:
        tensors, told = checkpoint.load(self.folder / "state.safetensors")
        parts: dict[str, dict[str, Tensor]] = {"average": {}, "best": {}, "own": {}, "rule": {}}
        for name, tensor in tensors.items():
            part, _, rest = name.partition("/")
            parts[part][rest] = tensor
        self.network.load_state_dict(parts["own"])
        self.best, self.average = parts["best"], [parts["average"][str(i)] for i in range(len(self.trained))]
        state: dict[int, dict[str, Tensor]] = {}
        for name, tensor in parts["rule"].items():
            number, _, rest = name.partition(".")
            state.setdefault(int(number), {})[rest] = tensor
        self.rule.load_state(state)
        self.curve = [(step, score) for step, score in told["curve"]]
        return told["step"], told["s"]


def result(row: Row, runs: Path) -> dict[str, Any] | None:
    """Return the results that are kept of a complete row; None for others."""
    folder = runs / row.full_name
    if not (folder / "result.json").is_file():
        return None
    found = json.loads((folder / "result.json").read_text())
    if (folder / "test.json").is_file():
        found["test"] = json.loads((folder / "test.json").read_text())
    return found


def found_of(table: Iterable[Row], runs: Path) -> dict[str, Any]:
    """Return full name -> results of all complete rows."""
    return {row.full_name: found for row in table if (found := result(row, runs)) is not None}


def write(path: Path, value: Any) -> None:
    with checkpoint.atomic_path(path) as partial:
        partial.write_text(json.dumps(value))


def train(table: list[Row], names: tuple[str, ...], plan: dict, corpus: Path, runs: Path) -> None:
    """Train the rows whose names begin with one of `names`, or all, and write what each gives on dev."""
    for row in table:
        if names and not row.full_name.startswith(names):
            continue
        with taken(runs / row.full_name) as free:
            if free and result(row, runs) is None:
                print(row.full_name, flush=True)
                write(runs / row.full_name / "result.json", Training(row, plan, corpus, runs).run())


def score(table: list[Row], kept: dict[str, Any], plan: dict, corpus: Path, runs: Path) -> None:
    """Score on test the rows that the plan names, each once. Raises SystemExit before all rows are trained."""
    named, there = plan["seeds"]["rows"], kept["rows"] | found_of(table, runs)
    missing = [row.full_name for row in table if row.full_name not in there]
    if missing or not named:
        raise SystemExit(f"not scored on test: no results of {missing}, {len(named)} rows are named in [seeds]")
    for row in (row for row in table if row.name in named and "test" not in kept["rows"].get(row.full_name, {})):
        path = runs / row.full_name / "test.json"
        if result(row, runs) is None:
            print(f"{row.full_name} has no weights here, and was not scored", flush=True)
        elif not path.is_file():
            print(row.full_name, flush=True)
            network = Training(row, plan, corpus, runs).network
            network.load_weights(checkpoint.load(path.with_name("best.safetensors"))[0])
            write(path, scores(network, examples(network, corpus, "test"), tuple(METRICS)))


def collect(table: list[Row], kept: dict[str, Any], corpus: Path, runs: Path) -> dict[str, Any]:
    """Return what is kept of all rows, with what runs add to it, and of the mixtures they were scored on."""
    kept["rows"] |= found_of(table, runs)
    for part in ("dev", "test"):
        listed = mixtures(corpus / part)
        kept[part] = {key: [row[key] for row in listed] for key in ("name", "snr_db", "speaker", "noise")}
        if part == "dev" or any("test" in row for row in kept["rows"].values()):
            pairs = [[x.astype(np.float64) for x in pair] for pair in reverberant(corpus, part)]
            kept["noisy"][part] = {"SDR": [round(METRICS["SDR"].compute(*pair, RATE_HZ), 3) for pair in pairs]}
    return kept


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("verb", choices=["train", "score", "collect"])
    for name in ("plan", "corpus", "runs", "sizes"):
        arguments.add_argument(name, type=Path)
    arguments.add_argument("names", nargs="*", help="beginnings of names of rows")
    given = arguments.parse_args()
    torch.set_num_threads(1)
    plan = tomllib.loads(given.plan.read_text())
    sizes = SizesPlan(given.plan.parent / plan["sizes"])
    results = collect_sizes(sizes, given.corpus, given.sizes)["runs"]
    table = rows(plan, sizes, results)
    for seed in range(2, plan["seeds"]["count"] + 1):
        table += [row for row in rows(plan, sizes, results, seed) if row.name in plan["seeds"]["rows"]]
    if given.verb == "train":
        train(table, tuple(given.names), plan, given.corpus, given.runs)
        return
    earlier = given.plan.with_suffix(".json")
    kept: dict[str, Any] = json.loads(earlier.read_text()) if earlier.is_file() else {"rows": {}, "noisy": {}}
    if given.verb == "score":
        score(table, kept, plan, given.corpus, given.runs)
    write(earlier, collect(table, kept, given.corpus, given.runs))


if __name__ == "__main__":
    main()
