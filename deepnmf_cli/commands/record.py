"""How outputs were made: a small file beside those of a batch, by which `--skip-existing` knows what is complete."""

import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deepnmf_cli import checkpoint
from deepnmf_cli.commands.console import Outcome, count
from deepnmf_cli.commands.places import Job
from deepnmf_cli.errors import AudioError, DeepnmfError

RECORD = ".deepnmf-enhanced.jsonl"
"""Name of the file: lines of JSON, one for every output of its folder, of which the last one counts."""

REDO = "Pass --overwrite beside --skip-existing to make it again."

Stamp = tuple[int, int]
"""Size and time of change (ns) of a file: what shows that it is another one than before."""


@dataclass(frozen=True)
class State:
    """Whether a job is `needed`, what to tell of it, and whether there is a line on the outputs that are there."""

    needed: bool = False
    warning: str = ""
    known: bool = True


class Record:
    """Which outputs need not be made again, and why others were made that may be out of date.

    `facts` is what decides an output beside its input: the hash of the model, and the options, by name. Lines that
    cannot be read, such as one that a crash cut short, are left out: an output is whole even where its line is not.
    """

    def __init__(self, facts: dict[str, Any]) -> None:
        self._facts = json.loads(json.dumps(facts))
        self._lines: dict[Path, dict[str, Any]] = {}
        self._begun: dict[Job, Stamp] = {}

    def begin(self, job: Job) -> None:
        """Remember the state of the input: what changes from here on is noticed next time."""
        self._begun[job] = checkpoint.stamp(Path(job.source))

    def state(self, job: Job, replaces: bool) -> "State":
        """What is there of the outputs of a job that has begun.

        An output whose line says that it was made of this input as it is, in this way, is complete. One that has no
        line counts as complete where it is as long as the input, of the same rate and channels, and no older. One
        that was made of something else, or in another way, is kept unless `replaces`, and it is told. Raises AudioError
        for an output that is neither and must not be replaced.
        """
        source, line = self._begun[job], self._line(Path(job.target))
        there = [path for path in job.outputs if path.exists()]
        if job.target == job.source:
            if line is None or line["stamp"] != list(source):
                return State(needed=True)
            other = self._changed(line)
            return State(warning=f"{job.source} was changed before {other}; its original is gone." if other else "")
        if not there:
            return State(needed=True)
        if line is not None and len(there) == len(job.outputs) and line["stamp"][0] == there[0].stat().st_size:
            other = self._changed(line) or ("of an earlier input" if line["input"] != list(source) else "")
            problem = other and f"{there[0]} was made {other}"
        else:
            line, problem = None, _unlike(job, there)
        if not problem or replaces:
            return State(needed=bool(problem), known=line is not None)
        if line is None:
            raise AudioError(there[0], problem, f"what was made of {job.source}", REDO)
        return State(warning=f"{problem}. {REDO}")

    def done(self, job: Job) -> None:
        """Append a line for the outputs of a job; without one, where it cannot be written, nothing is lost."""
        target = Path(job.target)
        line = {"output": target.name, "stamp": checkpoint.stamp(target), "input": self._begun[job], **self._facts}
        with suppress(OSError), (target.parent / RECORD).open("a", encoding="utf-8") as file:
            checkpoint.reached(f"{RECORD}: line")
            file.write(json.dumps(line) + "\n")

    def close(self) -> None:
        """Nothing is left to be written."""

    def _changed(self, line: dict[str, Any]) -> str:
        names = [name for name, value in self._facts.items() if line.get(name) != value]
        return f"with another {' and another '.join(names)}" if names else ""

    def _line(self, target: Path) -> dict[str, Any] | None:
        file = target.parent / RECORD
        if file not in self._lines:
            self._lines[file] = _read(file)
        return self._lines[file].get(target.name)


def still_needed(
    jobs: Sequence[Job],
    record: Record,
    skip: bool,
    overwrite: bool,
    outcome: Outcome,
    row: Callable[[Job], dict[str, Any]],
) -> tuple[list[Job], str]:
    """Return the jobs that are left, all of them without `skip`, and a sentence on outputs that count as complete
    without a line. Those that need not be done, and those whose outputs may not be replaced, go into `outcome` with
    their `row`.
    """
    todo, unknown = [], 0
    for job in jobs:
        record.begin(job)
        try:
            state = record.state(job, overwrite) if skip else State(needed=True)
        except DeepnmfError as error:
            outcome.failed(row(job), error)
            continue
        if state.needed:
            todo.append(job)
        else:
            outcome.skipped(row(job), state.warning)
            unknown += not state.known
    taken = f"{count(unknown, 'output')} of unknown origin taken for complete, as long as the input."
    return todo, taken if unknown else ""


def _read(file: Path) -> dict[str, Any]:
    """Name of an output -> its last line."""
    lines = {}
    with suppress(OSError):
        for text in file.read_text(encoding="utf-8", errors="replace").splitlines():
            with suppress(ValueError, TypeError, KeyError, RecursionError):
                line = json.loads(text)
                if len(line["stamp"]) == len(line["input"]) == 2:
                    lines[line["output"]] = line
    return lines


def _unlike(job: Job, there: list[Path]) -> str:
    """What speaks against these files being all that was made of the input; empty where nothing does."""
    from deepnmf_cli.signal import audio

    if len(there) < len(job.outputs):
        return f"{len(there)} of {len(job.outputs)} outputs"
    source = audio.info(job.source)
    for path in job.recordings:
        try:
            found = audio.info(path)
        except AudioError as error:
            return error.found
        if (found.frames, found.rate_hz, found.channels) != (source.frames, source.rate_hz, source.channels):
            return f"{found.frames} frames, {found.channels} channel(s) at {found.rate_hz} Hz"
        if path.stat().st_mtime_ns < Path(job.source).stat().st_mtime_ns:
            return "a file that is older than the input"
    return ""
