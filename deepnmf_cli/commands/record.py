"""Records of how outputs were made: a small file beside those of a batch tells `--skip-existing` what is complete."""

import json
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

from deepnmf_cli import checkpoint
from deepnmf_cli.commands.console import Outcome, count
from deepnmf_cli.commands.places import Job
from deepnmf_cli.errors import AudioError, DeepnmfError

RECORD = ".deepnmf-enhanced.jsonl"
"""Name of the file: lines of JSON, one for every output of its folder and every command that made or changed it."""

REDO = "Pass --overwrite beside --skip-existing to make it again."

Stamp = tuple[int, int]
"""Size and modification time (ns) of a file, by which a change is noticed."""


@dataclass(frozen=True)
class State:
    """Whether a job is `needed`, a warning to show, and whether there is a line on the outputs that exist."""

    needed: bool = False
    warning: str = ""
    known: bool = True


class Record:
    """Which outputs of a command need not be made again, and how others were made that may be out of date.

    `facts` is what determines an output besides its input: the hash of the model, and the options, by name. Lines that
    cannot be read, such as one that a crash cut short, are ignored: an output is whole even if its line is not.
    """

    def __init__(self, command: str, facts: dict[str, Any]) -> None:
        self._command = command
        self._facts = json.loads(json.dumps(facts))
        self._lines: dict[Path, dict[str, list[dict[str, Any]]]] = {}
        self._sizes: dict[Path, dict[int, list[list[dict[str, Any]]]]] = {}
        self._begun: dict[Job, Stamp] = {}

    def begin(self, job: Job) -> None:
        """Remember the state of the input, so that a change from here on is noticed next time.

        Raises AudioError if the job replaces its input and no line can be added to the record: without it, the next
        run would change the file once more.
        """
        self._begun[job] = checkpoint.stamp(Path(job.source))
        file = Path(job.target).parent / RECORD
        if job.target == job.source and not os.access(file if file.exists() else file.parent, os.W_OK):
            expected = f"a place to note that {job.source} was changed, which would be changed again next time"
            raise AudioError(file, "no permission to write it", expected, "Make it writable.")

    def state(self, job: Job, replaces: bool) -> "State":
        """Return what exists of the outputs of a job that has begun.

        An output whose line says that it was made from this input as it is, in this way, is complete. One that has no
        line counts as complete if it is as long as the input, of the same rate and channels, and no older. One that
        was made from something else, or in another way, or that lacks something that belongs to it, is kept with a
        warning, unless `replaces`. Raises AudioError for an output that is neither and must not be replaced.
        """
        missing = [path for path in job.outputs if not path.exists()]
        if job.target == job.source:
            return self._state_in_place(job, missing, replaces)
        there, target = [path for path in job.outputs if path not in missing], Path(job.target)
        if not there:
            return State(needed=True)
        line = self._line(target) if target not in missing else None
        if line is not None:
            other = self._changed(line) or self._other_input(line, job)
            problem = incomplete(target, other, missing)
        else:
            problem = _unlike(job, missing)
        if not problem or replaces:
            return State(needed=bool(problem), known=line is not None)
        if line is None:
            raise AudioError(there[0], problem, f"what was made of {job.source}", REDO)
        return State(warning=f"{problem}. {REDO}")

    def _state_in_place(self, job: Job, missing: Sequence[Path], replaces: bool) -> "State":
        """The same for a job whose output replaces its input, which does not permit replacing what goes beside it."""
        lines = self._in_place(Path(job.source))
        self._begun[job] = _as_recorded(lines, Path(job.source), self._begun[job])
        line = _made(lines, list(self._begun[job]), self._command)
        beside = [path for path in job.outputs if path not in missing and path != Path(job.source)]
        if line is None and beside and not replaces:
            raise AudioError(beside[0], "a file that was there before", "a new name", REDO)
        if line is None:
            return State(needed=True)
        other, without = self._changed(line), f"without {missing[0]}" if missing else ""
        how = " and ".join(filter(None, [other, without]))
        return State(warning=f"{job.source} was changed before {how}; its original is gone." if how else "")

    def present(self, job: Job) -> Job:
        """Return the job with the target and those of its other outputs that exist."""
        removed, speech = (place if place and self.exists(place) else None for place in (job.removed, job.speech))
        return replace(job, removed=removed, speech=speech)

    def exists(self, place: str) -> bool:
        """Return whether an output exists."""
        return Path(place).exists()

    def done(self, job: Job) -> None:
        """Append a line for the outputs of a job; if it cannot be written, nothing is lost."""
        target, in_place = Path(job.target), job.target == job.source
        line = {"output": target.name, "stamp": checkpoint.stamp(target), "input": self._begun[job], **self._made_by}
        if in_place:
            line["sha256"] = checkpoint.file_hash(target)
        else:
            line["source"] = os.path.realpath(job.source)
        with suppress(OSError), (target.parent / RECORD).open("a+b") as file:
            checkpoint.reached(f"{RECORD}: line")
            file.write(_after_a_line(file) + json.dumps(line).encode() + b"\n")
            if in_place:  # without its line, the next run would change the file once more
                file.flush()
                os.fsync(file.fileno())

    def close(self) -> None:
        """Do nothing, as nothing is left to be written."""

    @property
    def _made_by(self) -> dict[str, Any]:
        """What a line says about how an output was made."""
        return {"command": self._command, **self._facts}

    def _changed(self, line: dict[str, Any]) -> str:
        if (command := _command_of(line)) != self._command:
            return f"by `deepnmf {command}`"
        names = [name for name, value in self._facts.items() if line.get(name) != value]
        return f"with another {' and another '.join(names)}" if names else ""

    def _other_input(self, line: dict[str, Any], job: Job) -> str:
        """Return of what else an output was made; empty if that was the input as it is, which may have been moved."""
        if line["input"] != list(self._begun[job]):
            return "of an earlier input"
        source = line.get("source")  # which earlier versions did not write
        with suppress(OSError):  # a file that is gone may have been moved here
            if source is not None and not os.path.samefile(source, job.source):
                return f"of {source}"
        return ""

    def _line(self, target: Path) -> dict[str, Any] | None:
        """The line on an output as it is, or as it was before other commands changed it in place."""
        lines, now = self._on(target), list(checkpoint.stamp(target))
        made = _made(lines, now, self._command)
        if made is None and lines and lines[-1]["stamp"][0] == now[0]:  # copies of a folder have other times
            return lines[-1]
        return made

    def _in_place(self, path: Path) -> list[dict[str, Any]]:
        """All lines on a file that was changed in place, the newest last, also if it was called otherwise then."""
        own, now = self._on(path), checkpoint.stamp(path)
        alike = self._by_size(path.parent / RECORD).get(now[0], [])
        if list(now) in [line["stamp"] for line in own] or not alike:
            return own
        content = checkpoint.file_hash(path)
        return next((lines for lines in (own, *alike) if any(line.get("sha256") == content for line in lines)), own)

    def _by_size(self, file: Path) -> dict[int, list[list[dict[str, Any]]]]:
        """Return the lines of a record on each file that was changed in place, by the sizes that it had after that."""
        if file not in self._sizes:
            found = self._sizes[file] = {}
            for lines in self._lines[file].values():
                for size in {line["stamp"][0] for line in lines if "sha256" in line}:
                    found.setdefault(size, []).append(lines)
        return self._sizes[file]

    def _on(self, target: Path) -> list[dict[str, Any]]:
        """All lines on an output, the newest last."""
        file = target.parent / RECORD
        if file not in self._lines:
            self._lines[file] = _read(file)
        return self._lines[file].get(target.name, [])


def _as_recorded(lines: Sequence[dict[str, Any]], path: Path, now: Stamp) -> Stamp:
    """Return the stamp by which lines know a file that was changed in place: copies of it have other times."""
    alike = [line for line in lines if line["stamp"][0] == now[0] and "sha256" in line]
    if alike and list(now) not in [line["stamp"] for line in alike]:
        content = checkpoint.file_hash(path)
        alike = [line for line in alike if line["sha256"] == content]
        return tuple(alike[-1]["stamp"]) if alike else now
    return now


def _after_a_line(file: IO[bytes]) -> bytes:
    """Return the end of line that the end of a file lacks, as one that a crash cut short does."""
    if file.seek(0, os.SEEK_END):
        file.seek(-1, os.SEEK_END)
        return b"" if file.read(1) == b"\n" else b"\n"
    return b""


def incomplete(target: object, other: str, missing: Sequence[object]) -> str:
    """Return why an output is incomplete: made in another way, or lacking what belongs to it; empty if it is not."""
    made = f"{target} was made {other}" if other else ""
    return " and ".join(filter(None, [made, f"{missing[0]} is missing" if missing else ""]))


def _command_of(line: dict[str, Any]) -> str:
    """Return the command that made a line; earlier versions did not write it, but only one of the two has --fix."""
    return line.get("command") or ("repair" if "--fix" in line else "enhance")


def _made(lines: Sequence[dict[str, Any]], now: list[int], command: str) -> dict[str, Any] | None:
    """Return the line on how a command made a file that has this stamp now. Others may have changed the file in place
    since, if each of them found what the one before had left.
    """
    for line in reversed(lines):
        if line["stamp"] == now:
            if _command_of(line) == command:
                return line
            now = line["input"]
    return None


def still_needed(
    jobs: Sequence[Job],
    record: Record,
    skip: bool,
    overwrite: bool,
    outcome: Outcome,
    row: Callable[[Job], dict[str, Any]],
) -> tuple[list[Job], str]:
    """Return the jobs that are left, and a sentence on outputs that count as complete without a line.

    Without `skip` all jobs are left. Those that need not be done, and those whose outputs must not be replaced, go into
    `outcome` with their `row`.
    """
    todo, unknown = [], 0
    for job in jobs:
        try:
            record.begin(job)
            state = record.state(job, overwrite) if skip else State(needed=True)
        except DeepnmfError as error:
            outcome.failed(row(job), error)
            continue
        if state.needed:
            todo.append(job)
        else:
            outcome.skipped(row(record.present(job)), state.warning)
            unknown += not state.known
    taken = f"{count(unknown, 'output')} of unknown origin taken for complete, as long as the input."
    return todo, taken if unknown else ""


def _read(file: Path) -> dict[str, list[dict[str, Any]]]:
    """Return name of an output -> its lines."""
    lines: dict[str, list[dict[str, Any]]] = {}
    with suppress(OSError):
        for text in file.read_text(encoding="utf-8", errors="replace").splitlines():
            with suppress(ValueError, TypeError, KeyError, RecursionError):
                line = json.loads(text)
                if len(line["stamp"]) == len(line["input"]) == 2:
                    lines.setdefault(line["output"], []).append(line)
    return lines


def _unlike(job: Job, missing: Sequence[Path]) -> str:
    """Return why these files cannot be all that was made from the input; empty if nothing speaks against it."""
    from deepnmf_cli.signal import audio

    if missing:
        return f"no {missing[0]} beside it"
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
