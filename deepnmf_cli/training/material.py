"""What a run learns from and is scored on, in a few numbers: whether a resumed run is given the same."""

import hashlib
import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from deepnmf_cli.corpus.dataset import ExampleSource
from deepnmf_cli.corpus.mixing import Samples
from deepnmf_cli.errors import UsageError
from deepnmf_cli.training.dev import Pair
from deepnmf_cli.training.journal import Journal

EXAMPLES = 2
"""Mixtures that stand for all: they change with every file that is added, removed or exchanged, but rarely."""

SAME = 1e-3
"""Relative difference of energies that decoders of different versions and processors stay below."""


def describe_material(source: ExampleSource, dev: Sequence[Pair], init: Path | None) -> dict[str, Any]:
    """Outlines of the training mixtures and of the dev pairs, and the SHA-256 of the model whose weights come first."""
    return {
        "training": _outline(source[i] for i in range(EXAMPLES)),
        "dev": _outline(dev),
        "init": hashlib.sha256(Path(init).read_bytes()).hexdigest() if init else None,
    }


def compare_material(journal: Journal, now: dict[str, Any]) -> Iterator[str]:
    """What to say about a run that is resumed with other recordings than it began with.

    Raises UsageError when its scores could not be compared with the former ones, or with another initial model;
    ModelError when the journal holds no outlines. Journals of earlier versions hold none, and are not compared.
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
    """Number of pairs, samples, and the energies of both parts."""
    found = [
        [1, len(one), *(float(np.square(x, dtype=np.float64).sum()) for x in (one, other))] for one, other in pairs
    ]
    return [float(x) for x in np.sum(found, 0)]


def _close(before: Sequence[float], now: Sequence[float]) -> bool:
    return len(before) == len(now) and all(math.isclose(a, b, rel_tol=SAME) for a, b in zip(before, now))
