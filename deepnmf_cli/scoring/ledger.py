"""Scores written to disk as they come, so that an evaluation that was stopped continues where it was."""

import dataclasses
import hashlib
import importlib.metadata
import json
import math
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from deepnmf_cli import __version__, checkpoint
from deepnmf_cli.checkpoint import atomic_path
from deepnmf_cli.errors import DeepnmfError
from deepnmf_cli.scoring.metrics import METRICS
from deepnmf_cli.scoring.pairing import Pair
from deepnmf_cli.scoring.scorer import Scores

SCORING = 1
"""Version of the way in which scores are computed; raise it with every change that shows in them."""

LEDGER = "unfinished.jsonl"
"""Name of the file in the folder of a report; it is removed when the report is complete."""

_DECIDING = ("fast-bss-eval", "numpy", "onnxruntime", "pesq", "pystoi", "scipy", "soxr", "speechmos")


COMMAND = "command"


def command_of(folder: str | Path) -> str | None:
    """Return the command line whose evaluation was stopped, or None if there is no ledger in the folder."""
    try:
        first = (Path(folder) / LEDGER).read_text(encoding="utf-8", errors="replace").partition("\n")[0]
        return str(json.loads(first)[COMMAND])
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None


class Ledger:
    """The finished scores of an unfinished evaluation: a file of JSON lines, one for each score. A context manager.

    A score is found again only for the same system and the same two files: their paths, sizes and modification times.
    A ledger written by another version of the program or of a package is started anew. A line that is not a score,
    such as one that a crash cut short, is ignored. Raises DeepnmfError if the file cannot be written.
    """

    def __init__(self, folder: str | Path, metrics: Sequence[str] = tuple(METRICS), command: str = "") -> None:
        """`metrics` names the scores that every line must have; `command` is the command line that asks for them."""
        self.path = Path(folder) / LEDGER
        self.found = 0
        """Number of scores that have been taken from the file."""
        versions = {name: importlib.metadata.version(name) for name in _DECIDING}
        header = {"scoring": SCORING, "deepnmf": __version__, **versions}
        self._lines = _read(self.path, header, metrics)
        try:
            with atomic_path(self.path) as partial:
                lines = [header | {COMMAND: command}, *self._lines.values()]
                partial.write_text("".join(map(_text, lines)), encoding="utf-8")
            self._file = self.path.open("a", encoding="utf-8")
        except OSError as error:
            raise self._failure(error) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):  # a full disk, which `add` has already reported
            self._file.close()

    def of(self, *system: str) -> "SystemLedger":
        """Return the part of the ledger that belongs to one system, which is identified by these words."""
        return SystemLedger(self, system)

    def get(self, key: str) -> Scores | None:
        """Return the score that was added with this key, or None."""
        if key not in self._lines:
            return None
        self.found += 1
        return _scores(self._lines[key])

    def add(self, key: str, scores: Scores) -> None:
        """Append a score; it has been handed to the operating system when this returns."""
        try:
            checkpoint.reached(f"{LEDGER}: line")
            self._file.write(_text(_line(key, scores)))
            self._file.flush()
            checkpoint.reached(f"{LEDGER}: appended")
        except OSError as error:
            raise self._failure(error) from error

    def remove(self) -> None:
        """Delete the file, now that the report holds everything."""
        self.path.unlink(missing_ok=True)

    def _failure(self, error: OSError) -> DeepnmfError:
        found, remedy = f"that it cannot be written ({error.strerror})", "Choose another folder, or free some space."
        return DeepnmfError(self.path, found, "a file for the scores as they come", remedy)


class SystemLedger:
    """The scores of one system, in the form that `scorer.score_files` takes as `finished`."""

    def __init__(self, ledger: Ledger, system: tuple[str, ...]) -> None:
        self._ledger, self._system = ledger, system
        self._keys: dict[Pair, str] = {}

    def get(self, pair: Pair) -> Scores | None:
        """Return the score of a pair, or None if there is none or its files have changed since."""
        # The stamps are taken before the files are read, so that what changes meanwhile is scored again next time.
        self._keys[pair] = key = _key(self._system, pair)
        return self._ledger.get(key)

    def add(self, pair: Pair, scores: Scores) -> None:
        """Keep the score of a pair that `get` has been called for."""
        self._ledger.add(self._keys[pair], scores)


def _key(system: tuple[str, ...], pair: Pair) -> str:
    """Return a hash of what decides a score: who made the estimate, the two files, the rate and the transcript."""
    files = [[os.path.abspath(path), *checkpoint.stamp(path)] for path in (pair.reference, pair.estimate) if path]
    speech = pair.speech and dataclasses.astuple(pair.speech)
    return hashlib.sha256(json.dumps([system, pair.name, files, pair.rate_hz, speech]).encode()).hexdigest()


def _line(key: str, scores: Scores) -> dict[str, Any]:
    values = {metric: None if math.isnan(value) else value for metric, value in scores.values.items()}
    return {"key": key, **dataclasses.asdict(scores), "values": values}


def _scores(line: dict[str, Any]) -> Scores:
    scored = line["values"]
    values = {metric: math.nan if value is None else float(value) for metric, value in scored.items()}
    notes = tuple(str(note) for note in line["notes"])
    return Scores(line["name"], values, notes, float(line["seconds"]), int(line["rate_hz"]), float(line["lag_s"]))


def _read(path: Path, header: dict[str, Any], metrics: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return key -> line of a ledger that begins with `header`; an empty dict for any other."""
    try:
        first, *rest = path.read_text(encoding="utf-8", errors="replace").splitlines() or [""]
    except OSError:
        return {}
    try:
        if {key: value for key, value in json.loads(first).items() if key != COMMAND} != header:
            return {}
    except (ValueError, AttributeError, RecursionError):
        return {}
    lines = {}
    for text in rest:
        try:
            line = json.loads(text)
            if set(metrics) <= _scores(line).values.keys():
                lines[line["key"]] = line
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
            continue
    return lines


def _text(line: dict[str, Any]) -> str:
    return json.dumps(line, allow_nan=False) + "\n"
