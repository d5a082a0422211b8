"""The record of a training run: recipe, history, curves, best weights and a resume point, each written atomically."""

import csv
import hashlib
import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from deepnmf_cli import checkpoint, extras
from deepnmf_cli.corpus.dataset import ExampleSource
from deepnmf_cli.corpus.mixing import Samples
from deepnmf_cli.errors import ModelError, UsageError
from deepnmf_cli.errors import count as counted
from deepnmf_cli.training.dev import Pair

if TYPE_CHECKING:
    from matplotlib.figure import Figure

try:
    import fcntl
except ImportError:  # Windows, where nothing keeps two processes out of one folder
    fcntl = None

CHANGEABLE = {"training.steps", "training.score_every", "training.patience"}
"""Settings that may differ in a resumed run: it lasts longer or shorter, on the learning rate's new schedule."""

_RECIPE = "recipe of the run"
"""Key of the recipe in a resume file, which would be taken for a model file if it used the key of one."""

COLUMNS = (
    "step", "hours", "loss", "dev_score", "dev_si_sdr", "dev_pesq", "dev_pesq_estimated", "learning_rate", "seconds"
)  # fmt: skip
OPTIONAL = ("loss", "dev_pesq", "dev_pesq_estimated")
"""Columns in which the number may be missing."""

CONSTRAINT_COLUMNS = ("step", "layer", "multiplier", "slack", "dev_slack")
"""The slack of layer k is c_k, which is <= 0 if the layer descends as required: `slack` is its mean over the training
batches since the last dev score, `dev_slack` that of the averaged weights on dev pairs."""


class Journal:
    """The folder of one run.

    `resume.safetensors` records what the run is and how far it has come, and is written before anything that is derived
    from it: best.safetensors, history.csv and curves.png are made again from it. However a process ended, the folder is
    therefore in one of three states: with neither this file nor a model, a run can begin (recipe.json alone says that
    one is preparing); with this file, the run can continue; with a model only, the folder is no run of this version and
    is left alone.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.rows: list[dict[str, Any]] = []
        self.constraints: list[dict[str, float]] = []
        """Rows of CONSTRAINT_COLUMNS, one for each layer and dev score of a run with constraints."""
        self.recipe: dict[str, Any] = {}
        self.material: dict[str, Any] | None = None
        """Material of the run, see `describe_material`, as `check` found it in a run to resume; None in runs of earlier
        versions."""
        self.noisy: float | None = None
        """Dev score of the noisy recordings; None until it has been computed."""
        self._is_new = False
        """Whether `check` found the folder ready for a new run."""
        self.best_row = 0
        """Index of the best model's row in `rows`."""

    @property
    def best_path(self) -> Path:
        """The model with the best dev score so far."""
        return self.folder / "best.safetensors"

    @property
    def last_path(self) -> Path:
        """The model with the weights at which the run was stopped."""
        return self.folder / "last.safetensors"

    @property
    def recipe_path(self) -> Path:
        """The recipe as JSON, with all defaults filled in, for people to read."""
        return self.folder / "recipe.json"

    @property
    def resume_path(self) -> Path:
        """The file with everything that a resumed run needs."""
        return self.folder / "resume.safetensors"

    def check(self, recipe: Mapping[str, Any], resume: bool, complete: Callable[[dict], dict] = dict) -> None:
        """Check, without writing, whether the run can begin or be resumed with this recipe.

        The recipe of a resumed run may differ in the CHANGEABLE settings; `complete` adds to a recipe that an earlier
        version wrote the settings introduced since. Raises UsageError naming what is in the way, and ModelError for a
        damaged resume point.
        """
        self._is_new = not resume
        if not resume:
            if self.resume_path.exists():
                remedy = "Continue it with --resume, or choose another."
                raise UsageError(self.folder, "a run", "an empty or new folder", remedy)
            if self.best_path.exists() or self.last_path.exists():
                remedy = "Choose another, or move the model away."
                raise UsageError(self.folder, "a model without a resume point", "an empty or new folder", remedy)
            return
        if not self.resume_path.is_file():
            found, remedy = "no run to resume", "Leave out --resume, or choose another."
            if self.best_path.exists():
                found = "a model without a resume point"
                remedy = f"Begin a run in another folder; --init {self.best_path} begins with its weights."
            raise UsageError(self.folder, found, "a folder with resume.safetensors", remedy)
        held = self._load()[1]
        self.material = held.get("material")
        if _RECIPE in held:
            try:
                stored = complete(held[_RECIPE])
            except (ValueError, TypeError, AttributeError) as error:
                raise self.damaged(error) from error
            if self.recipe_path.exists() and _changed(stored, self._written_recipe(complete)):
                found, expected = "another recipe than that of the run", f"a copy of that in {self.resume_path.name}"
                raise UsageError(self.recipe_path, found, expected, "Remove the file: it is made again.")
        else:
            stored = self._written_recipe(complete)
        if changed := _changed(stored, recipe):
            remedy = "Resume with the same settings, or start a new run folder."
            found = f"other values of {_listed(changed)}"
            raise UsageError(self.recipe_path, found, "the recipe that the run began with", remedy)

    def _written_recipe(self, complete: Callable[[dict], dict]) -> dict:
        """Read recipe.json and add the settings that it lacks. Raises UsageError or RecipeError if it is no recipe."""
        try:
            return complete(json.loads(self.recipe_path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
            remedy = "Restore the file; it must hold the recipe that the run began with."
            raise UsageError(self.recipe_path, f"no readable recipe ({error})", "JSON", remedy) from error

    @contextmanager
    def begin(self, recipe: Mapping[str, Any], material: Mapping[str, Any] | None = None) -> Iterator[None]:
        """Create the folder, lock it against other processes while the context lasts, and write the recipe.

        Raises UsageError if the folder cannot be created, or if another process trains in it.
        """
        checkpoint.make_folder(self.folder, "the run", UsageError)
        with locked(self.folder):
            if self._is_new and self.resume_path.exists():
                found, remedy = "a run that began meanwhile", "Continue it with --resume, or choose another."
                raise UsageError(self.folder, found, "an empty or new folder", remedy)
            checkpoint.remove_leftovers(self.folder)
            checkpoint.reached("run: held")
            self.recipe, self.material = dict(recipe), dict(material or {})
            with checkpoint.atomic_path(self.recipe_path) as partial:
                partial.write_text(json.dumps(recipe, indent=2) + "\n", encoding="utf-8")
            yield

    def write_history(self) -> None:
        """Write the rows to history.csv, and plot loss and dev score over hours of audio in curves.png.

        Rows of constraints go to constraints.csv and constraints.png. Figures are left out without matplotlib.
        """
        self._write_table("history.csv", COLUMNS, self.rows)
        self._write_figure("curves.png", self._draw)
        if self.constraints:
            self._write_table("constraints.csv", CONSTRAINT_COLUMNS, self.constraints)
            self._write_figure("constraints.png", self._draw_constraints)

    def _write_table(self, name: str, columns: Sequence[str], rows: Iterable[dict]) -> None:
        with checkpoint.atomic_path(self.folder / name) as partial, open(partial, "w", newline="") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(rows)

    def _write_figure(self, name: str, draw: Callable[[], "Figure"]) -> None:
        if extras.has("matplotlib"):
            with checkpoint.atomic_path(self.folder / name) as partial:
                draw().savefig(partial, dpi=120)

    def _draw_constraints(self) -> "Figure":
        from matplotlib.figure import Figure

        figure = Figure(figsize=(7, 6), layout="constrained")
        axes = figure.subplots(2, 1, sharex=True)
        layers = sorted({row["layer"] for row in self.constraints})
        for layer in layers:
            rows = [row for row in self.constraints if row["layer"] == layer]
            for axis, column in zip(axes, ("multiplier", "dev_slack"), strict=True):
                axis.plot([row["step"] for row in rows], [row[column] for row in rows], label=f"layer {layer}")
        for axis, label in zip(axes, ("multiplier", "slack on dev (met below 0)"), strict=True):
            axis.set_ylabel(label)
            axis.grid(alpha=0.3)
        axes[1].axhline(0, color="black", linewidth=0.8)
        axes[0].legend(fontsize="small", ncols=2)
        axes[1].set_xlabel("steps")
        return figure

    def _draw(self) -> "Figure":
        from matplotlib.figure import Figure

        figure = Figure(figsize=(7, 5), layout="constrained")
        axes = figure.subplots(2, 1, sharex=True)
        hours = [row["hours"] for row in self.rows]
        for axis, column, label in zip(axes, ("loss", "dev_score"), ("training loss", "dev score (dB)"), strict=True):
            values = [math.nan if row[column] is None else row[column] for row in self.rows]
            axis.plot(hours, values, marker="." if len(hours) < 40 else None)
            axis.set_ylabel(label)
            axis.grid(alpha=0.3)
        if self.noisy is not None:
            axes[1].axhline(self.noisy, color="0.5", linestyle="--", label=f"noisy input: {self.noisy:.2f} dB")
        if self.rows:
            best = self.rows[self.best_row]
            label = f"best: {best['dev_score']:.2f} dB at step {best['step']}"
            axes[1].plot(best["hours"], best["dev_score"], "*", color="C3", markersize=11, label=label)
            axes[1].legend(fontsize="small")
        axes[-1].set_xlabel("audio seen (hours)")
        return figure

    def save_resume(
        self, model: dict[str, Tensor], average: dict[str, Tensor], optimiser: dict, progress: dict
    ) -> None:
        """Write the resume file: weights, their average, the optimiser's state, the progress, and what the run is."""
        tensors = {f"model.{k}": v for k, v in model.items()} | {f"average.{k}": v for k, v in average.items()}
        for index, held in optimiser.items():
            tensors |= {f"optimiser.{index}.{k}": torch.as_tensor(v) for k, v in held.items()}
        meta = {"progress": progress, "history": self.rows, _RECIPE: self.recipe, "material": self.material}
        if self.constraints:
            meta["constraints"] = self.constraints
        if self.noisy is not None:
            meta["noisy"] = self.noisy
        checkpoint.save(self.resume_path, tensors, meta | {"checksum": checksum(tensors, meta)})

    def load_resume(self) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[int, dict[str, Tensor]], dict]:
        """Return (model, average, optimiser state, progress) as saved, and restore the history.

        Raises ModelError if the file is no resume file, or is not as it was written; KeyError, TypeError, ValueError or
        AttributeError if a file without a checksum holds something else.
        """
        tensors, meta = self._load()
        # Histories of earlier versions have no estimates.
        self.rows = [{"dev_pesq_estimated": None, **row} for row in meta["history"]]
        progress = meta["progress"]
        for row in self.rows:
            require(row.keys() == set(COLUMNS), "another history")
            _require_numbers(v for k, v in row.items() if k not in OPTIONAL or v is not None)
        self.noisy = meta.get("noisy")
        _require_numbers([] if self.noisy is None else [self.noisy])
        self.constraints = meta.get("constraints", [])
        for row in self.constraints:
            require(row.keys() == set(CONSTRAINT_COLUMNS), "another history of constraints")
            _require_numbers(row.values())
        for count in (progress["step"], progress["since_best"], *(row["step"] for row in self.rows)):
            require(type(count) is int and count >= 0, f"{count} steps")
        _require_numbers([progress["best"], progress["seconds"], *progress["losses"]])
        _require_numbers(progress.get("began", {}).values())
        scored = self.rows[-1]["step"] if self.rows else 0
        require(len(progress["losses"]) == progress["step"] - scored, "the losses of other steps")
        parts: dict[str, dict] = {"model": {}, "average": {}, "optimiser": {}}
        for key, tensor in tensors.items():
            part, name = key.split(".", 1)
            if part == "optimiser":
                index, name = name.split(".", 1)
                parts[part].setdefault(int(index), {})[name] = tensor
            else:
                parts[part][name] = tensor
        return parts["model"], parts["average"], parts["optimiser"], progress

    def _load(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        tensors, meta = checkpoint.load(self.resume_path)
        if "progress" not in meta:
            raise ModelError(self.resume_path, "a model", "a resume file", "Name the run folder, not a model.")
        meta.pop("format")
        # Files of earlier versions have no checksum.
        if "checksum" in meta and meta.pop("checksum") != checksum(tensors, meta):
            raise self.damaged("another content than was written")
        return tensors, meta

    def damaged(self, found: object) -> ModelError:
        """Return the error for a resume file that cannot be what the run wrote."""
        remedy = f"Restore it, or begin a run in another folder with --init {self.best_path}."
        lines = str(found).splitlines() or [type(found).__name__]
        return ModelError(self.resume_path, f"a damaged resume point ({lines[0]})", "one that a run wrote", remedy)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Lock the folder, since this process and a second one would overwrite each other's files.

    The lock ends with the process, however that ends. Raises UsageError if another process holds it.
    """
    if fcntl is None:
        yield
        return
    lock = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            remedy = "Wait until it has ended, or choose another folder."
            raise UsageError(folder, "a run that another process is training", "one of its own", remedy) from error
        except OSError:
            pass  # a file system without locks
        yield
    finally:
        os.close(lock)


def require(holds: bool, found: str) -> None:
    """Raise ValueError, naming what was found, unless a condition holds."""
    if not holds:
        raise ValueError(found)


def _require_numbers(values: Iterable[Any]) -> None:
    for value in values:
        require(type(value) in (int, float), f"{value!r} in the place of a number")


def checksum(tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> str:
    """Return the checksum of what a resume file holds, as it will be read again."""
    found = hashlib.sha256(json.dumps(meta, sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        found.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        found.update(tensor.flatten().view(torch.uint8).numpy().data)
    return found.hexdigest()


def _changed(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return the names of the settings that differ, except for those that may."""
    before, now = (json.loads(json.dumps(recipe)) for recipe in (before, now))
    return [key for key in _differences(before, now) if key not in CHANGEABLE]


MOST_NAMED = 5
"""Number of settings that an error names; the others are counted."""


def _listed(changed: list[str]) -> str:
    """Return names of settings for a sentence: `model` alone if it is among them, as it changes most of the others."""
    named = ["model"] if "model" in changed else changed[:MOST_NAMED]
    more = len(changed) - len(named)
    return ", ".join(named) + (f" and {counted(more, 'other setting')}" if more else "")


def _differences(before: Any, now: Any, prefix: str = "") -> list[str]:
    if not (isinstance(before, dict) and isinstance(now, dict)):
        return [] if before == now else [prefix]
    keys = sorted(before.keys() | now.keys())
    return [d for k in keys for d in _differences(before.get(k), now.get(k), f"{prefix}.{k}".lstrip("."))]


EXAMPLES = 2
"""Number of mixtures that represent all of them: these change, with rare exceptions, with every file that is added,
removed or exchanged."""

SAME = 1e-3
"""Relative tolerance for energies: those of decoders of different versions and processors differ by less."""


def describe_material(source: ExampleSource, dev: Sequence[Pair], init: Path | None) -> dict[str, Any]:
    """Return outlines of training mixtures and dev pairs, and the SHA-256 of the model with the initial weights."""
    return {
        "training": _outline(source[i] for i in range(EXAMPLES)),
        "dev": _outline(dev),
        "init": checkpoint.file_hash(Path(init)) if init else None,
    }


def compare_material(journal: Journal, now: dict[str, Any]) -> Iterator[str]:
    """Yield notes about a run that is resumed with other recordings than those that it began with.

    Raises UsageError if its scores could not be compared with the earlier ones, or if the initial model is another one;
    ModelError if the material in the journal holds no outlines. Journals of earlier versions hold no material, and are
    not compared.
    """
    before = journal.material
    if before is None:
        if now["init"]:
            yield "--init is left aside: the run goes on from its resume point."
        return
    try:
        same = {part: _close(before[part], now[part]) for part in ("training", "dev")}
        began = before["init"]
    except (KeyError, TypeError) as error:
        raise journal.damaged(error) from error
    if not same["dev"]:
        remedy = f"Name the same, or begin a run in another folder with --init {journal.best_path}."
        expected = "those that the run began with, for scores to be compared"
        raise UsageError(journal.folder, "other dev recordings", expected, remedy)
    if now["init"] not in (None, began):
        raise UsageError("--init", "another model", "the one that the run began with, or none", "Leave it out.")
    if not same["training"]:
        yield f"{journal.folder}: the recordings are not those that the run began with. It goes on with the new ones."


def _outline(pairs: Iterable[tuple[Samples, Samples]]) -> list[float]:
    """Return the number of pairs, the number of samples, and the energies of both parts, over all pairs."""
    found = [
        [1, len(one), *(float(np.square(x, dtype=np.float64).sum()) for x in (one, other))] for one, other in pairs
    ]
    return [float(x) for x in np.sum(found, 0)]


def _close(before: Sequence[float], now: Sequence[float]) -> bool:
    return len(before) == len(now) and all(math.isclose(a, b, rel_tol=SAME) for a, b in zip(before, now, strict=True))
