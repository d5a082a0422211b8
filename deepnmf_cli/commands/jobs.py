"""From INPUT... and OUTPUT to pairs of files: what is read, and where what comes of it goes."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from deepnmf_cli.errors import AudioError, UsageError

STREAM = "-"
"""Stands for standard input or standard output."""


@dataclass(frozen=True)
class Job:
    """One input with its outputs; `source` and `target` may be STREAM."""

    source: str
    target: str
    removed: str | None = None

    @property
    def outputs(self) -> list[Path]:
        return [Path(path) for path in (self.target, self.removed) if path not in (None, STREAM)]


@dataclass(frozen=True)
class _Input:
    path: str
    relative: Path
    """The name below a folder of outputs."""


def plan(
    inputs: Sequence[str], output: str, removed: str | None, overwrite: bool
) -> tuple[list[Job], list[tuple[str, AudioError]]]:
    """The jobs, and the inputs that cannot be one with the reason.

    One file to one file; or files and folders to a folder, below which the trees are kept. Nothing is written.
    Raises UsageError when an output exists already (unless `overwrite`), is an input, is written twice, is in a
    folder that does not exist, or has a suffix that cannot be written.
    """
    if STREAM in inputs and len(inputs) > 1:
        raise UsageError("standard input", "other inputs beside it", "standard input alone", "Enhance them one by one.")
    several = len(inputs) > 1 or Path(inputs[0]).is_dir()
    files, failures = _find(inputs, skip=[Path(path) for path in (output, removed) if path])
    jobs = [Job(file.path, _place(output, file, several), removed and _place(removed, file, several)) for file in files]
    _check_outputs(jobs, overwrite)
    return jobs, failures


def _find(inputs: Sequence[str], skip: Sequence[Path]) -> tuple[list[_Input], list[tuple[str, AudioError]]]:
    """Expand folders. Outputs inside an input folder are skipped, so that a second run does not enhance them again."""
    from deepnmf_cli.signal.formats import nothing_in, scan

    files, failures = [], []
    for given in inputs:
        path = Path(given)
        if not path.is_dir():
            files.append(_Input(given, Path(path.name)))
            continue
        found = scan(path, skip)
        files += [_Input(str(file), file.relative_to(path)) for file in found.audio]
        failures += [(error.where, error) for error in found.unreadable]
        if not found.audio and not found.unreadable:
            failures.append((given, nothing_in(path)))
    return files, failures


def _place(output: str, file: _Input, several: bool) -> str:
    """Where the output of `file` goes."""
    from deepnmf_cli.signal.formats import WRITABLE, is_writable

    path = Path(output)
    if output == STREAM and not several:
        return output
    if several or path.is_dir() or output.endswith((os.sep, "/")):
        if file.path == STREAM:
            raise UsageError(output, "a folder", "a file name, as standard input has none", "Name the file.")
        if output == STREAM or (path.exists() and not path.is_dir()):
            because = ", as there are several inputs" if several else ""
            raise UsageError(output, "no folder", f"a folder{because}", "Name a folder.")
        return str(path / (file.relative if is_writable(file.relative) else file.relative.with_suffix(".wav")))
    if not is_writable(path):
        found = f"the suffix {path.suffix!r}" if path.suffix else "a name without a suffix"
        remedy = "Choose such a name, or an existing folder."
        raise UsageError(output, found, f"one of {' '.join(WRITABLE)}", remedy)
    if not path.parent.is_dir():
        parent = path.parent
        found, remedy = ("a file", "Choose another.") if parent.exists() else ("no folder", f"Run `mkdir -p {parent}`.")
        raise UsageError(parent, found, f"the folder of the output {path.name}", remedy)
    return output


def _check_outputs(jobs: Sequence[Job], overwrite: bool) -> None:
    inputs = {_identity(Path(job.source)) for job in jobs if job.source != STREAM} - {None}
    sources = [(path, job.source) for job in jobs for path in job.outputs]
    outputs = [path for path, _ in sources]
    seen: dict[str, str] = {}
    for path, source in sources:
        if (place := os.path.realpath(path)) in seen:  # unlike Path.resolve, it takes links in a circle as they are
            found = f"two outputs of this name, of {seen[place]} and of {source}"
            raise UsageError(path, found, "one", "Rename an input, change --noise-out, or use two folders.")
        seen[place] = source
        # The identity is the same through a symbolic or hard link, whatever the two are called.
        if _identity(path) in inputs:
            raise UsageError(path, "an output that is an input", "another file", "Choose another name or folder.")
        if path.exists() and not path.is_file():
            remedy = "Choose another name; standard output is -."
            raise UsageError(path, "a folder or a device", "a file that can be replaced", remedy)
    existing = [path for path in outputs if os.path.lexists(os.path.realpath(path))]  # links in a circle, too
    if existing and not overwrite:
        more = f" (and {len(existing) - 1} more)" if len(existing) > 1 else ""
        remedy = "Pass --overwrite to replace it, or choose another name."
        raise UsageError(existing[0], f"an existing file{more}", "a new name", remedy)


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino
