"""Pairs of files from INPUT... and the options for outputs: what `deepnmf enhance` reads, and where it writes."""

import errno
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import NoReturn

from deepnmf_cli import checkpoint, extras
from deepnmf_cli.commands import console
from deepnmf_cli.errors import AudioError, UsageError

STREAM = "-"
"""Stands for standard input or standard output."""

ENHANCED = ".enhanced"
"""What is added to the names of inputs to name their outputs, if no names are given."""

SPEECH = ".vad.txt"
"""What the names of files with times of speech end in, instead of the suffix of the output."""


@dataclass(frozen=True)
class Job:
    """One input with its outputs; `source` and `target` may be STREAM."""

    source: str
    target: str
    removed: str | None = None
    speech: str | None = None
    """Where times of speech go, as text."""

    @property
    def written(self) -> list[str]:
        """Everything that the job writes, as paths or URLs; not standard output."""
        return [place for place in (self.target, self.removed, self.speech) if place not in (None, STREAM)]

    @property
    def recordings(self) -> list[Path]:
        return [Path(path) for path in (self.target, self.removed) if path not in (None, STREAM)]

    @property
    def outputs(self) -> list[Path]:
        return [Path(place) for place in self.written]


@dataclass(frozen=True)
class Places:
    """Where outputs go: to `output`, beside the inputs if that is None, or in their place; and where the noise goes."""

    output: str | None = None
    removed: str | None = None
    in_place: bool = False
    added: str = ENHANCED
    """What is added to the names of inputs to name their outputs, if no names are given."""
    speech: bool = False
    """Whether times of speech go beside the outputs."""
    read: tuple[str, ...] = ()
    """Other files that the call reads, which are no more replaced than its inputs."""

    def job(self, source: str, target: str, removed: str | None) -> Job:
        """Return the job of an input. Raises UsageError for times of speech beside standard output."""
        if not self.speech:
            return Job(source, target, removed)
        if target == STREAM:
            expected = "a file, beside which the times of speech can lie"
            raise UsageError("--vad", "standard output", expected, "Name an output file.")
        return Job(source, target, removed, target.removesuffix(PurePath(target).suffix) + SPEECH)


@dataclass(frozen=True)
class Plan:
    """The jobs, the inputs that cannot become jobs with the reason, and sentences on inputs that were left out."""

    jobs: list[Job]
    unreadable: list[tuple[str, AudioError]]
    left_out: list[str]


@dataclass(frozen=True)
class _Input:
    path: str
    relative: Path
    """The name below a folder of outputs."""
    given: str
    """The file or folder as named by the user, from which `path` comes."""


def plan(inputs: Sequence[str], places: Places, may_exist: bool) -> Plan:
    """Pair inputs with outputs; nothing is written.

    One file goes to one file, or files and folders go to a folder, below which the trees are kept. Without an output, a
    file goes to NAME.enhanced.SUFFIX beside it, the tree of a folder to NAME.enhanced, and standard input to standard
    output. Inputs that are the outputs of others are then left out, as `*.wav` matches both the second time.

    Raises UsageError if an output exists already (unless outputs `may_exist`), is an input, is written twice, has a
    folder that cannot be made, or has a suffix that cannot be written.
    """
    if STREAM in inputs and len(inputs) > 1:
        raise UsageError("standard input", "other inputs beside it", "standard input alone", "Enhance them one by one.")
    if places.in_place and places.output is not None:
        raise UsageError("--in-place", "-o beside it", "one of the two", "Leave one of them out.")
    if places.in_place and STREAM in inputs:
        raise UsageError("--in-place", "standard input", "files", "Name files, or leave --in-place out.")
    several = len(inputs) > 1 or Path(inputs[0]).is_dir()
    files, failures = _find(inputs, skip=[Path(path) for path in (places.output, places.removed) if path])
    if places.in_place:
        files, unwritable = _writable(files)
        failures += unwritable
    jobs = [places.job(file.path, _target(places, file, several), _removed(places, file, several)) for file in files]
    jobs, unnameable = _nameable(jobs)
    failures += unnameable
    left_out = []
    if places.output is None and not places.in_place:
        jobs, left_out = _without_outputs(jobs)
    _check_outputs(jobs, places, may_exist)
    return Plan(jobs, failures, left_out)


def remove_leftovers(jobs: Sequence[Job]) -> None:
    """Remove what killed processes left in the folders of the outputs."""
    for folder in {Path(os.path.realpath(path)).parent for job in jobs for path in job.outputs}:
        checkpoint.remove_leftovers(folder)


def _find(inputs: Sequence[str], skip: Sequence[Path]) -> tuple[list[_Input], list[tuple[str, AudioError]]]:
    """Expand folders. Outputs inside an input folder are skipped, so that a second run does not enhance them again."""
    from deepnmf_cli.signal.formats import nothing_in, scan

    files, failures = [], []
    for given in inputs:
        path = Path(given)
        if not path.is_dir():
            files.append(_Input(given, Path(path.name), given))
            continue
        found = scan(path, skip)
        files += [_Input(str(file), file.relative_to(path), given) for file in found.audio]
        failures += [(error.where, error) for error in found.unreadable]
        if not found.audio and not found.unreadable:
            failures.append((given, nothing_in(path)))
    return files, failures


def _writable(files: Sequence[_Input]) -> tuple[list[_Input], list[tuple[str, AudioError]]]:
    """Return the files that can be replaced by their outputs, and why the others cannot."""
    from deepnmf_cli.signal.formats import WRITABLE, is_writable

    chosen, failures = [], []
    for file in files:
        if is_writable(file.path):
            chosen.append(file)
            continue
        found, expected = f"a {Path(file.path).suffix} file, which cannot be written", f"one of {' '.join(WRITABLE)}"
        failures.append((file.path, AudioError(file.path, found, expected, "Leave --in-place out.")))
    return chosen, failures


def _target(places: Places, file: _Input, several: bool) -> str:
    if places.in_place:
        return file.path
    return _beside(file, places.added) if places.output is None else _place(places.output, file, several)


def _removed(places: Places, file: _Input, several: bool) -> str | None:
    return None if places.removed is None else _place(places.removed, file, several)


def _beside(file: _Input, added: str) -> str:
    """Return where the output of `file` goes if it has no name: beside the file or folder that was given."""
    if file.path == STREAM:
        return STREAM
    given = Path(os.path.abspath(file.given)) if Path(file.given).name in ("", "..") else Path(file.given)
    if not given.name:
        raise UsageError(file.given, "no folder beside it", "-o OUTPUT", "Name a folder for the outputs.")
    if file.path == file.given:
        return str(given.with_name(f"{given.stem}{added}{suffix_of(given)}"))
    return str(given.with_name(f"{given.name}{added}") / file.relative.with_suffix(suffix_of(file.relative)))


def suffix_of(path: PurePath) -> str:
    """Return the suffix of the output for an input: its own, or that of WAV if its own cannot be written."""
    from deepnmf_cli.signal.formats import is_writable

    return path.suffix if is_writable(path.name) else ".wav"


def _place(output: str, file: _Input, several: bool) -> str:
    """Return where the output of `file` goes, as `output` says."""
    from deepnmf_cli.signal.formats import WRITABLE, is_media, is_writable

    path = Path(output)
    if output == STREAM and not several:
        return output
    if several or path.is_dir() or output.endswith((os.sep, "/")):
        if file.path == STREAM:
            raise UsageError(output, "a folder", "a file name, as standard input has none", "Name the file.")
        if output == STREAM or (path.exists() and not path.is_dir()):
            because = ", as there are several inputs" if several else ""
            raise UsageError(output, "no folder", f"a folder{because}", "Name a folder.")
        return str(path / file.relative.with_suffix(suffix_of(file.relative)))
    if file.path != STREAM and not os.path.exists(file.path):
        return output  # what is wrong is the input: a folder of this name would have had a folder as its output
    if is_media(path):
        extras.require("media", str(path))
    elif not is_writable(path):
        found = f"the suffix {path.suffix!r}" if path.suffix else "a name without a suffix"
        remedy = "Choose such a name, or an existing folder."
        raise UsageError(output, found, f"one of {' '.join(WRITABLE)}", remedy)
    # Missing folders are made once the input has been opened.
    nearest = next(folder for folder in path.absolute().parents if folder.exists())
    if not nearest.is_dir():
        raise UsageError(nearest, "a file", f"a folder for the output {path.name}", "Choose another.")
    return output


def _is_too_long(path: Path) -> bool:
    try:
        path.lstat()
    except OSError as error:
        return error.errno == errno.ENAMETOOLONG
    return False


def _nameable(jobs: Sequence[Job]) -> tuple[list[Job], list[tuple[str, AudioError]]]:
    """Return the jobs whose outputs can have their names, and the others with the reason."""
    chosen, failures = [], []
    for job in jobs:
        too_long = next((path for path in job.outputs if _is_too_long(path)), None)
        if too_long is None:
            chosen.append(job)
        else:
            found, remedy = "a name that is too long for a file there", "Name the output, or rename the input."
            failures.append((job.source, AudioError(too_long, found, "a shorter one", remedy)))
    return chosen, failures


def _without_outputs(jobs: Sequence[Job]) -> tuple[list[Job], list[str]]:
    """Return the jobs whose input is not an output of another job, and a sentence for each of the others."""
    makers = {os.path.realpath(path): job for job in jobs for path in job.outputs}
    chosen, left_out = [], []
    for job in jobs:
        maker = makers.get(os.path.realpath(job.source)) if job.source != STREAM else None
        if maker is None or maker is job:
            chosen.append(job)
        else:
            left_out.append(f"{job.source}: left out, as it is the output of {maker.source}.")
    return chosen, left_out


def _check_outputs(jobs: Sequence[Job], places: Places, may_exist: bool) -> None:
    sources = [Path(path) for path in (*(job.source for job in jobs), *places.read) if path != STREAM]
    # The path tells an input that an output will be once a folder exists: NEW/../name.
    inputs = {_identity(path) for path in sources} - {None} | {os.path.realpath(path) for path in sources}
    outputs: list[Path] = []
    seen: dict[str, Job] = {}
    for job, path in [(each, path) for each in jobs for path in each.outputs]:
        place = os.path.realpath(path)  # unlike Path.resolve, it leaves circular links as they are
        if place in seen:
            refuse_shared(path, seen[place], job)
        seen[place] = job
        if places.in_place and path == Path(job.source):
            continue
        outputs.append(path)
        # The identity is the same through a symbolic or hard link, whatever the two are called.
        if place in inputs or _identity(path) in inputs:
            remedy = "Choose another name or folder, or pass --in-place."
            raise UsageError(path, "an output that is an input", "another file", remedy)
        if path.exists() and not path.is_file():
            remedy = "Choose another name; standard output is -."
            raise UsageError(path, "a folder or a device", "a file that can be replaced", remedy)
    existing = [path for path in outputs if os.path.lexists(os.path.realpath(path))]  # circular links, too
    if existing and not may_exist:
        refuse_existing(existing)


def refuse_shared(path: str | Path, first: Job, second: Job) -> NoReturn:
    """Raise UsageError for a path that two outputs share, even if both belong to one job."""

    def same(one: str | None, other: str | Path) -> bool:
        return one is not None and os.path.realpath(one) == os.path.realpath(other)

    remedy = "Rename an input, or use two folders."
    if first is second or same(first.removed, path) != same(second.removed, path):
        remedy = "Choose another --noise-out."
    elif same(first.source, second.source):
        remedy = "Name that input once."
    found = f"two outputs of this name, of {first.source} and of {second.source}"
    raise UsageError(path, found, "one", remedy)


def refuse_existing(outputs: Sequence[str | Path]) -> NoReturn:
    """Raise UsageError for outputs that exist."""
    more = f" (and {len(outputs) - 1} more)" if len(outputs) > 1 else ""
    remedy = "Pass --overwrite to replace it, --skip-existing to go on with the rest, or choose another name."
    raise UsageError(outputs[0], f"an existing file{more}", "a new name", remedy)


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def refuse_streams(jobs: Sequence[Job], as_json: bool, skip_existing: bool) -> None:
    """Raise UsageError instead of waiting for audio from a keyboard, or printing it on a screen."""
    for job in jobs:
        if job.source == STREAM:
            console.refuse_input("Try `... - < noisy.wav`.")
        if job.target == STREAM and as_json:
            expected, remedy = "one of the two there", "Name an output file."
            raise UsageError("--json", "the audio on standard output too", expected, remedy)
        if job.target == STREAM:
            console.refuse_output("Try `... -o - > clean.wav`.")
        if skip_existing and STREAM in (job.source, job.target):
            raise UsageError("--skip-existing", "a stream, which is never there", "files", "Leave the option out.")
