"""Training of repair models: layers of consistent projection, on clean speech that is damaged while it is read.

The loss is the mean of -10 log10 |x|^2 / |x - y|^2 over examples, taken over the samples that are reconstructed. This
is minus the signal-to-noise ratio there in decibels, so that loud examples count no more than others.
"""

import csv
import dataclasses
import json
import time
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deepnmf_cli import checkpoint
from deepnmf_cli.corpus.clips import ClipCache
from deepnmf_cli.errors import CorpusError, DeepnmfError, ModelError, RecipeError, UsageError, count, shortened
from deepnmf_cli.repair import model
from deepnmf_cli.repair.model import RepairSettings
from deepnmf_cli.repair.projection import Observation, Problem, problem, unit_gain
from deepnmf_cli.repair.unfolded import ConsistentProjection, network
from deepnmf_cli.settings import apply_override, refuse_unknown, section
from deepnmf_cli.signal.formats import scan
from deepnmf_cli.training.journal import checksum, locked, require

LAST = "last.safetensors"
DECIMALS = ("loss", "dev_snr_db")
QUIET = 1e-3**0.5
"""Damage in parts whose mean power is below this share of that of the clip (-15 dB) is not learned from: nobody hears a
gap in a pause."""


@dataclass(frozen=True)
class DamageSettings:
    """How clean segments are damaged."""

    rate_hz: int = 16000
    segment_s: float = 0.192
    gap_ms: tuple[float, ...] = (5.0, 10.0, 20.0, 40.0)
    """Lengths of gaps; each example has one gap, in its middle."""
    sdr_db: tuple[float, float] = (1.0, 15.0)
    """For clipping: range of the input's signal-to-distortion ratio."""

    def __post_init__(self) -> None:
        if self.rate_hz < 1 or not self.gap_ms or not 0 < min(self.gap_ms) <= max(self.gap_ms) < 1000 * self.segment_s:
            raise ValueError("rate_hz must be at least 1, and gap_ms longer than 0 and shorter than segment_s")
        if self.sdr_db[0] > self.sdr_db[1]:
            raise ValueError("sdr_db is a range, the lower end first")


@dataclass(frozen=True)
class ScheduleSettings:
    """How a model is trained."""

    examples: int = 4000
    """Number of training examples, made once from the seed."""
    held_out: int = 200
    """Number of further examples, of other speakers, that score the model."""
    batch: int = 16
    steps: int = 2000
    learning_rate: float = 0.02
    score_every: int = 100
    seed: int = 0

    def __post_init__(self) -> None:
        least = min(self.examples, self.held_out, self.batch, self.steps, self.score_every)
        if least < 1 or self.learning_rate < 0 or self.seed < 0:
            raise ValueError("examples, held_out, batch, steps and score_every must be at least 1, others not negative")


@dataclass(frozen=True)
class StartSettings:
    """Where training starts; None stands for the algorithm's own value."""

    highest: float | None = None
    """Threshold of the first layer."""
    lowest: float | None = None
    """Threshold of the last layer."""
    momentum: float | None = None
    """Momentum of all layers."""


@dataclass(frozen=True)
class RepairRecipe:
    """Recipe of a repair model."""

    repair: RepairSettings = dataclasses.field(default_factory=RepairSettings)
    start: dict[str, float] = dataclasses.field(default_factory=dict)
    """Initial thresholds of the first and the last layer, `highest` and `lowest`, and initial `momentum` of all
    layers."""
    damage: DamageSettings = dataclasses.field(default_factory=DamageSettings)
    training: ScheduleSettings = dataclasses.field(default_factory=ScheduleSettings)


def read_recipe(path: Path, overrides: tuple[str, ...] = ()) -> RepairRecipe:
    """Read the recipe in a TOML file and apply overrides "section.key=value". Raises RecipeError."""
    try:
        table: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise RecipeError(path, f"no TOML ({error})", "a recipe of repair", "Mend the recipe.") from error
    for override in overrides:
        apply_override(table, override)
    kinds = {"repair": RepairSettings, "damage": DamageSettings, "training": ScheduleSettings}
    refuse_unknown(table, [*kinds, "start"], str(path))
    built = {name: section(kind, table.get(name, {}), f"{path} [{name}]") for name, kind in kinds.items()}
    start = dataclasses.asdict(section(StartSettings, table.get("start", {}), f"{path} [start]"))
    return RepairRecipe(start={key: value for key, value in start.items() if value is not None}, **built)


@dataclass(frozen=True)
class Examples:
    """Damaged segments: clean samples (B, N) at the level of the network, and the problem that it is given."""

    clean: Tensor
    problem: Problem

    def part(self, rows: Tensor | slice) -> "Examples":
        """Return some of the examples."""
        old = self.problem
        observed = Observation(*(getattr(old.observation, f.name)[rows] for f in dataclasses.fields(Observation)))
        picked = dataclasses.replace(old, observation=observed, lost=old.lost[rows], start=old.start[rows])
        return Examples(self.clean[rows], picked)

    def snr_db(self, estimate: Tensor) -> Tensor:
        """Return the signal-to-noise ratio in dB of each example over its missing samples."""
        missing = self.problem.observation.missing
        error = ((self.clean - estimate).square() * missing).sum(-1)
        return 10 * torch.log10((self.clean.square() * missing).sum(-1) / (error + 1e-9))


def clip_level(samples: np.ndarray, sdr_db: float) -> float:
    """Return the level at which clipping leaves this signal-to-distortion ratio, found by bisection."""
    low, high = 0.0, float(np.abs(samples).max())
    power = (samples**2).sum()
    for _ in range(30):
        level = (low + high) / 2
        error = (np.maximum(np.abs(samples) - level, 0) ** 2).sum()
        low, high = (low, level) if power > error * 10 ** (sdr_db / 10) else (level, high)
    return (low + high) / 2


def clipped_at(samples: np.ndarray, level: np.ndarray | float) -> Observation:
    """Return what is known of samples (..., N) clipped at +-level: those that reach it are bounded on one side."""
    above, below = samples >= level, samples <= -np.asarray(level)
    lower = np.where(above, level, -np.inf)
    upper = np.where(below, -np.asarray(level), np.inf)
    return Observation(np.clip(samples, -np.asarray(level), level), above | below, lower, upper)


def gap_at(samples: np.ndarray, missing: np.ndarray) -> Observation:
    """Return what is known of samples (..., N) outside gaps."""
    infinite = np.full_like(samples, np.inf)
    return Observation(np.where(missing, 0, samples), missing, -infinite, infinite)


def _recipe_of(note: Path) -> Any:
    """Read the recipe of a run. Raises UsageError if it is damaged."""
    try:
        return json.loads(note.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        found, remedy = f"no readable recipe ({shortened(error)})", "Restore the file, or begin in another folder."
        raise UsageError(note, found, "JSON", remedy) from error


def make_examples(paths: list[Path], recipe: RepairRecipe, count: int, stream: int) -> Examples:
    """Return `count` examples of speakers and clips drawn at random; `stream` tells one drawing from another.

    Raises CorpusError if too few segments are neither too short nor too quiet.
    """
    made, damage = recipe.repair, recipe.damage
    draw, cache = np.random.default_rng([recipe.training.seed, stream]), ClipCache(damage.rate_hz)
    size = round(damage.segment_s * damage.rate_hz)
    speakers: dict[Path, list[Path]] = {}
    for path in paths:
        speakers.setdefault(path.parent, []).append(path)
    folders, clean, known = list(speakers.values()), [], []
    for _ in range(50 * count):
        if len(clean) == count:
            break
        folder = folders[draw.integers(len(folders))]
        samples = cache.read(folder[draw.integers(len(folder))]).astype(np.float64)
        if len(samples) <= size:
            continue
        first = draw.integers(len(samples) - size)
        segment, whole = samples[first : first + size], (samples**2).mean()
        if made.task == model.GAPS:
            length = round(1e-3 * damage.gap_ms[draw.integers(len(damage.gap_ms))] * damage.rate_hz)
            missing = np.zeros(size, bool)
            missing[(size - length) // 2 :][:length] = True
            observed = gap_at(segment, missing)
        else:
            observed = clipped_at(segment, clip_level(segment, draw.uniform(*damage.sdr_db)))
        if observed.missing.any() and (segment[observed.missing] ** 2).mean() > QUIET * whole + 1e-9:
            clean.append(segment)
            known.append(observed)
    if len(clean) < count:
        raise CorpusError("--speech", f"{len(clean)} usable segments", f"{count}", "Give more speech.")
    samples = np.stack(clean)
    observed = Observation(*(np.stack([getattr(o, f.name) for o in known]) for f in dataclasses.fields(Observation)))
    gain = unit_gain(observed.samples, observed.missing)
    scaled = observed.scaled(gain)
    start = made.start(scaled, damage.rate_hz)
    fields = (getattr(scaled, f.name) for f in dataclasses.fields(Observation))
    tensors = Observation(*(torch.from_numpy(v if v.dtype == bool else v.astype(np.float32)) for v in fields))
    begun = problem(tensors, made.frame(damage.rate_hz), damage.rate_hz, torch.from_numpy(start.astype(np.float32)))
    return Examples(torch.from_numpy((gain * samples).astype(np.float32)), begun)


def train(
    recipe: RepairRecipe,
    speech: Path,
    output: Path,
    resume: bool = False,
    progress: Callable[[dict], object] = lambda report: None,
    stop: Callable[[], bool] = lambda: False,
) -> bool:
    """Train a model into the folder `output`; returns whether the last step was reached.

    The folder gets recipe.json, history.csv, the best model by its score on held-out speakers, and a resume point.
    Raises UsageError for a folder that holds another run, or in which another process trains, and to resume where there
    is none.
    """
    clips = scan(speech, follow_links=True).audio
    if len(clips) < 2:
        raise CorpusError(speech, count(len(clips), "recording"), "at least two", "Give more speech.")
    held = sorted({path.parent for path in clips})[::20] if len({p.parent for p in clips}) > 1 else []
    dev_clips = [p for p in clips if p.parent in held] or clips[-1:]
    clips = [p for p in clips if p not in set(dev_clips)]
    output.mkdir(parents=True, exist_ok=True)
    with locked(output):
        facts = json.loads(json.dumps(dataclasses.asdict(recipe)))
        note = output / "recipe.json"
        if note.exists() and not resume:
            raise UsageError(output, "a run", "an empty folder", "Pass --resume to go on, or choose another folder.")
        if not note.exists() and any((output / name).exists() for name in (model.BEST, LAST)):
            remedy = "Choose another, or move the model away."
            raise UsageError(output, "a model that is of no run", "an empty or new folder", remedy)
        if resume and not note.exists():
            raise UsageError(output, "no run to resume", f"a folder with {note.name}", "Leave out --resume.")
        if resume and _recipe_of(note) != facts:
            raise UsageError(output, "a run by another recipe", "the same recipe", "Choose another folder.")
        run = _Run(recipe, facts, output)
        if resume:
            run.restore()
        examples = make_examples(clips, recipe, recipe.training.examples, 0)
        dev = make_examples(dev_clips, recipe, recipe.training.held_out, 1)
        _write(note, json.dumps(facts, indent=1))  # from here on the folder holds a run
        return run.continued(examples, dev, progress, stop)


class _Run:
    """The state of a run, and its files."""

    def __init__(self, recipe: RepairRecipe, facts: dict[str, Any], folder: Path) -> None:
        self.recipe, self.facts, self.folder = recipe, facts, folder
        torch.manual_seed(recipe.training.seed)
        self.unfolded = network(ConsistentProjection(recipe.repair.prox, **recipe.start), recipe.repair.layers)
        parameters = self.unfolded.parameters()
        self.optimizer = torch.optim.Adam(parameters, recipe.training.learning_rate, betas=(0.9, 0.99))
        self.step, self.best = 0, -np.inf
        self.losses: list[float] = []
        """Losses since the last score."""
        self.rows: list[dict[str, Any]] = []
        """Rows of history.csv, one for each score."""
        self._cpu_s = -time.process_time()

    def continued(
        self, examples: Examples, dev: Examples, progress: Callable[[dict], object], stop: Callable[[], bool]
    ) -> bool:
        """Train until the last step, or until `stop`; returns whether the last step was reached."""
        schedule = self.recipe.training
        if not self.rows:
            self._score(dev, progress)
        while self.step < schedule.steps and not stop():
            for group in self.optimizer.param_groups:  # falls to zero along a cosine
                group["lr"] = schedule.learning_rate * (0.5 + 0.5 * np.cos(np.pi * self.step / schedule.steps))
            rows = np.random.default_rng([schedule.seed, 2, self.step]).integers(schedule.examples, size=schedule.batch)
            batch = examples.part(torch.from_numpy(rows))
            loss = -batch.snr_db(self.unfolded(batch.problem)).mean()
            if not loss.isfinite():
                found = f"a loss of {loss.item()}"
                remedy = f"Lower training.learning_rate; the run in {self.folder} keeps its last resume point."
                raise DeepnmfError(f"step {self.step + 1}", found, "a finite loss", remedy)
            self.optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.unfolded.parameters(), 10.0)
            self.optimizer.step()
            self.step += 1
            self.losses.append(loss.item())
            if self.step % schedule.score_every == 0 or self.step == schedule.steps:
                self._score(dev, progress)
            else:
                progress({"step": self.step, "loss": self.losses[-1], "best": self.best, "row": None})
        if self.step < schedule.steps:
            self._save()
        return self.step >= schedule.steps

    def _score(self, dev: Examples, progress: Callable[[dict], object]) -> None:
        """Score the weights, and keep them if they are the best; write the resume point and the history."""
        with torch.no_grad():
            parts = [dev.part(slice(i, i + 50)) for i in range(0, len(dev.clean), 50)]
            score = float(torch.cat([part.snr_db(self.unfolded(part.problem)) for part in parts]).mean())
        if score > self.best:
            self.best = score
            seconds = self.recipe.training.batch * self.recipe.damage.segment_s * self.step
            provenance = {"recipe": self.facts, "step": self.step, "dev_snr_db": score, "seconds_heard": seconds}
            model.save(self.folder / model.BEST, self.recipe.repair, self.unfolded.bank.values(), provenance)
        loss = float(np.mean(self.losses)) if self.losses else None
        self.losses.clear()
        self.rows.append({"step": self.step, "loss": loss, "dev_snr_db": score, "cpu_s": self._spent_s()})
        self._save()
        row = {"step": self.step, "loss": loss, "dev_score": score}
        progress({"step": self.step, "loss": loss, "best": self.best, "row": row})

    def _spent_s(self) -> float:
        """Return the processor time of the run in seconds, that before a resume included."""
        return round(self._cpu_s + time.process_time(), 1)

    def _save(self) -> None:
        tensors = {f"weight.{name}": p.detach() for name, p in self.unfolded.named_parameters()}
        for number, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"adam.{number}.{key}": torch.as_tensor(value) for key, value in state.items()}
        kept = {"step": self.step, "best": self.best, "losses": self.losses, "rows": self.rows}
        kept["cpu_s"] = self._spent_s()
        checkpoint.save(self.folder / LAST, tensors, kept | {"checksum": checksum(tensors, kept)})
        with checkpoint.atomic_path(self.folder / "history.csv") as partial, open(partial, "w", newline="") as file:
            writer = csv.DictWriter(file, ["step", "loss", "dev_snr_db", "cpu_s"])
            writer.writeheader()
            for row in self.rows:
                writer.writerow(row | {k: f"{row[k]:.4f}" for k in DECIMALS if row[k] is not None})

    def restore(self) -> None:
        """Take the state from the resume point, if the run has come to one. Raises ModelError for a damaged one."""
        if not (path := self.folder / LAST).exists():
            return
        tensors, kept = checkpoint.load(path)
        kept.pop("format")
        try:
            if "checksum" in kept:  # which earlier versions did not write
                require(kept.pop("checksum") == checksum(tensors, kept), "another content than was written")
            state: dict[int, dict[str, Tensor]] = {}
            for name, parameter in self.unfolded.named_parameters():
                parameter.data.copy_(tensors.pop(f"weight.{name}"))
            for key, value in tensors.items():
                _, number, name = key.split(".", 2)
                state.setdefault(int(number), {})[name] = value
            self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": state})
            self.step, self.best, self.losses, self.rows = (kept[key] for key in ("step", "best", "losses", "rows"))
            self._cpu_s += kept["cpu_s"]
        except (KeyError, ValueError, TypeError, RuntimeError) as error:
            found, remedy = f"a damaged resume point ({shortened(error)})", "Restore it, or begin in another folder."
            raise ModelError(path, found, "one that this version wrote", remedy) from error


def _write(path: Path, text: str) -> None:
    with checkpoint.atomic_path(path) as partial:
        partial.write_text(text)
