"""The record of a training run: recipe, history, curves, best weights and a resume point, each written atomically."""

import csv
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from deepnmf_cli import checkpoint
from deepnmf_cli.errors import ModelError, UsageError

try:
    import fcntl
except ImportError:  # Windows, where nothing keeps two processes out of one folder
    fcntl = None

CHANGEABLE = {"training.steps", "training.score_every", "training.patience"}
"""What a resumed run may have set differently: it lasts longer or shorter, on the learning rate's new schedule."""

COLUMNS = ("step", "hours", "loss", "dev_score", "dev_si_sdr", "dev_pesq", "learning_rate", "seconds")


class Journal:
    """The folder of one run."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.rows: list[dict[str, float]] = []

    @property
    def best_path(self) -> Path:
        """The model with the best dev score so far."""
        return self.folder / "best.safetensors"

    @property
    def recipe_path(self) -> Path:
        """The recipe as JSON, with all defaults filled in."""
        return self.folder / "recipe.json"

    @property
    def resume_path(self) -> Path:
        """Everything a continued run needs."""
        return self.folder / "resume.safetensors"

    def check(self, recipe: Mapping[str, Any], resume: bool, complete: Callable[[dict], dict] = dict) -> None:
        """Find out, without writing, whether the run can begin or be resumed with this recipe.

        A resumed recipe may differ in what is CHANGEABLE; `complete` gives a recipe written by an earlier version the
        settings that have been added since. Raises UsageError naming what is in the way.
        """
        if not resume:
            if self.resume_path.exists() or self.best_path.exists():
                remedy = (
                    "Continue it with --resume, or choose another." if self.resume_path.exists() else "Choose another."
                )
                raise UsageError(self.folder, "a run", "an empty or new folder", remedy)
            return
        if not self.resume_path.is_file():
            found = "a complete run" if self.best_path.exists() else "no run to resume"
            raise UsageError(
                self.folder, found, "a folder with resume.safetensors", "Leave out --resume, or choose another."
            )
        try:
            before = complete(json.loads(self.recipe_path.read_text(encoding="utf-8")))
        except (OSError, ValueError) as error:
            remedy = "Restore the file; it must hold the recipe that the run began with."
            raise UsageError(self.recipe_path, f"no readable recipe ({error})", "JSON", remedy) from error
        before, now = (json.loads(json.dumps(r)) for r in (before, recipe))
        if changed := [key for key in _differences(before, now) if key not in CHANGEABLE]:
            remedy = "Resume with the same settings, or start a new run folder."
            found = f"other values of {', '.join(changed)}"
            raise UsageError(self.recipe_path, found, "the recipe that the run began with", remedy)

    @contextmanager
    def begin(self, recipe: Mapping[str, Any]) -> Iterator[None]:
        """Make the folder, keep other processes out of it while the context lasts, and write the recipe.

        Raises UsageError when the folder cannot be made, or another process trains in it.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            found = f"that it cannot be made ({error.strerror})"
            raise UsageError(self.folder, found, "a folder for the run", "Choose another folder.") from error
        with _held(self.folder):
            checkpoint.remove_leftovers(self.folder)
            with checkpoint.atomic_path(self.recipe_path) as partial:
                partial.write_text(json.dumps(recipe, indent=2) + "\n", encoding="utf-8")
            yield

    def add(self, row: Mapping[str, float]) -> None:
        """Append one line of history and rewrite history.csv."""
        self.rows.append({name: row[name] for name in COLUMNS})
        with checkpoint.atomic_path(self.folder / "history.csv") as partial, open(partial, "w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(self.rows)

    def plot(self) -> None:
        """Draw loss and dev score over hours of audio into curves.png."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(7, 5), layout="constrained")
        axes = figure.subplots(2, 1, sharex=True)
        hours = [row["hours"] for row in self.rows]
        for axis, column, label in zip(axes, ("loss", "dev_score"), ("training loss", "dev score (dB)")):
            axis.plot(hours, [row[column] for row in self.rows], marker="." if len(hours) < 40 else None)
            axis.set_ylabel(label)
            axis.grid(alpha=0.3)
        axes[-1].set_xlabel("audio seen (hours)")
        with checkpoint.atomic_path(self.folder / "curves.png") as partial:
            figure.savefig(partial, dpi=120)

    def save_resume(
        self, model: dict[str, Tensor], average: dict[str, Tensor], optimiser: dict, progress: dict
    ) -> None:
        """Write weights, their average, the optimiser's state and the progress to the resume file."""
        tensors = {f"model.{k}": v for k, v in model.items()} | {f"average.{k}": v for k, v in average.items()}
        for index, held in optimiser.items():
            tensors |= {f"optimiser.{index}.{k}": torch.as_tensor(v) for k, v in held.items()}
        checkpoint.save(self.resume_path, tensors, {"progress": progress, "history": self.rows})

    def load_resume(self) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[int, dict[str, Tensor]], dict]:
        """(model, average, optimiser state, progress) as saved; the history is restored."""
        tensors, meta = checkpoint.load(self.resume_path)
        if "progress" not in meta:
            raise ModelError(self.resume_path, "a model", "a resume file", "Name the run folder, not a model.")
        self.rows = meta["history"]
        parts: dict[str, dict] = {"model": {}, "average": {}, "optimiser": {}}
        for key, tensor in tensors.items():
            part, name = key.split(".", 1)
            if part == "optimiser":
                index, name = name.split(".", 1)
                parts[part].setdefault(int(index), {})[name] = tensor
            else:
                parts[part][name] = tensor
        return parts["model"], parts["average"], parts["optimiser"], meta["progress"]


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Lock the folder: a second process would take turns with this one in overwriting its files. The lock ends with the
    process, however that ends. Raises UsageError when another one has it."""
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


def _differences(before: Any, now: Any, prefix: str = "") -> list[str]:
    if not (isinstance(before, dict) and isinstance(now, dict)):
        return [] if before == now else [prefix]
    keys = sorted(before.keys() | now.keys())
    return [d for k in keys for d in _differences(before.get(k), now.get(k), f"{prefix}.{k}".lstrip("."))]
