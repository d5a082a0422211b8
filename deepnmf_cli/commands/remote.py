"""Recordings at URLs such as s3://bucket/folder, through fsspec: listings, copies, and records of batches."""

import json
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Any, TypeGuard
from uuid import uuid4

from deepnmf_cli import extras
from deepnmf_cli.commands.places import STREAM, Job, Places, Plan, refuse_existing, refuse_shared, suffix_of
from deepnmf_cli.commands.record import REDO, Record, State, incomplete
from deepnmf_cli.errors import AudioError, DeepnmfError, UsageError, shortened

RECORDS = ".deepnmf-enhanced"
"""Name of the folder below the outputs that holds a record: files of JSON Lines, which are never changed."""

LINES, SECONDS = 1000, 60.0
"""Outputs, or seconds, after which the record gets a file. A stop costs at most that many lines, and no output."""

WHOLE = {"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "memory"}
"""Protocols whose files appear when they are complete. With others, a file is written under another name first."""

PRIVATE = {"memory"}
"""Protocols whose files only one process sees."""


def is_url(path: str | None) -> TypeGuard[str]:
    """Return whether a place is a URL."""
    return path is not None and "://" in path


def plain(path: str) -> str:
    """Return a place, the URL of a local file as its path. Raises UsageError for a URL without a path."""
    if not path.startswith(("file://", "local://")):
        return path
    if not (local := path.partition("://")[2]):  # which would be the current folder
        raise UsageError(path, "an address without a path", "a path behind it", "Name a file or a folder.")
    return local


@dataclass(frozen=True)
class Entry:
    """What a listing says about a file: its version, which changes with its content, and when it was written (s)."""

    version: str
    time_s: float | None


@dataclass(frozen=True)
class RemotePlan(Plan):
    """A plan with what the listings say about the inputs and about the outputs that exist, by place."""

    entries: dict[str, Entry] = field(default_factory=dict)
    root: str = ""
    """The folder of the outputs, below which the record lies."""


def plan(inputs: Sequence[str], places: Places, may_exist: bool) -> RemotePlan:
    """Pair inputs with outputs, as `places.plan` does, if at least one of them is a URL.

    Each folder is listed once. Raises UsageError where `places.plan` does, and for what cannot go with URLs: standard
    input or output, --in-place, and a missing output.
    """
    output = places.output
    if output is None or places.in_place or STREAM in (*inputs, output):
        address = next(path for path in (*inputs, output, places.removed) if is_url(path))
        found = "--in-place" if places.in_place else "no output"
        if STREAM in (*inputs, output):
            found = "standard input or output"
        raise UsageError(address, f"{found} beside an address", "-o and a place for the outputs", "Name one by -o.")
    files: list[tuple[str, PurePosixPath]] = []
    entries: dict[str, Entry] = {}
    failures: list[tuple[str, AudioError]] = []
    several = len(inputs) > 1
    for given in inputs:
        try:
            found, is_folder = _list(given)
        except AudioError as error:
            failures.append((given, error))
            continue
        several |= is_folder
        if is_folder:
            found = {place: x for place, x in found.items() if not _is_output(place, given, places)}
        audio, unreadable = _audio(found) if is_folder else (found, [])
        if is_folder and not audio and not unreadable:
            from deepnmf_cli.signal.formats import nothing_in

            unreadable = [nothing_in(given)]
        failures += [(error.where, error) for error in unreadable]
        files += [(place, relative) for place, (relative, _) in audio.items()]
        entries |= {place: entry for place, (_, entry) in audio.items()}

    jobs = [
        places.job(place, _target(output, name, several), places.removed and _target(places.removed, name, several))
        for place, name in files
    ]
    _check(jobs, places.read)
    folder, slash, _ = output.rpartition("/")
    root = output if several else folder + slash or "."
    there: dict[str, Entry] = {}
    beside = [] if several else [job.speech for job in jobs]  # what a listing of the output alone does not hold
    for folder in filter(None, [output, places.removed, *beside]):
        with suppress(AudioError):  # what cannot be listed is reported when it is written
            there |= {place: entry for place, (_, entry) in _list(folder)[0].items()}
    existing = [path for job in jobs for path in job.written if path in there]
    if existing and not may_exist:
        refuse_existing(existing)
    return RemotePlan(jobs, failures, [], there | entries, root)


def _is_output(place: str, given: str, places: Places) -> bool:
    """Return whether a place below an input lies in a folder of the outputs, which may lie below it too."""
    folders = [folder.rstrip("/") for folder in (places.output, places.removed) if folder]
    return any(place.startswith(f"{folder}/") for folder in folders if folder != given.rstrip("/"))


def _target(output: str, relative: PurePosixPath, several: bool) -> str:
    if several or output.endswith("/"):
        return f"{output.rstrip('/')}/{relative.with_suffix(suffix_of(relative))}"
    if suffix_of(path := PurePosixPath(output)) != path.suffix:
        raise UsageError(output, "a name that ends in no format that can be written", "one such as .wav", "Change it.")
    return output


def _check(jobs: Sequence[Job], read: Sequence[str]) -> None:
    sources, seen = {job.source for job in jobs}, dict[str, Job]()
    kept = {os.path.realpath(path) for path in read}
    for job in jobs:
        for path in job.written:
            if path in sources or (not is_url(path) and os.path.realpath(path) in kept):
                raise UsageError(path, "an output that is an input", "another file", "Choose another name or folder.")
            if path in seen:
                refuse_shared(path, seen[path], job)
            seen[path] = job


def _list(place: str) -> tuple[dict[str, tuple[PurePosixPath, Entry]], bool]:
    """Return the files below a place, each with its name there, and whether that is a folder. Raises AudioError."""
    with explaining(place, "listed"):
        filesystem, root = _open(place)
        filesystem.invalidate_cache()
        found = filesystem.find(root, detail=True)
        is_folder = list(found) != [root]
        if not found and not filesystem.exists(root):
            raise FileNotFoundError(2, "No such file or directory")
    files = {}
    for name, info in found.items():
        relative = PurePosixPath(name).relative_to(root) if is_folder else PurePosixPath(PurePosixPath(name).name)
        path = f"{place.rstrip('/')}/{relative}" if is_folder else place
        files[path] = relative, _entry(info)
    return files, is_folder


def _audio(found: dict[str, tuple[PurePosixPath, Entry]]) -> tuple[dict, list[AudioError]]:
    """Return the files of a listing that hold audio by their suffix, and errors for media that cannot be read."""
    from deepnmf_cli.signal.formats import UNREADABLE, audio_suffixes, unreadable_media

    seen = {place: x for place, x in found.items() if not any(part.startswith(".") for part in x[0].parts)}
    suffixes = audio_suffixes()
    audio = {place: x for place, x in seen.items() if x[0].suffix.lower() in suffixes}
    return audio, [unreadable_media(place) for place, x in seen.items() if x[0].suffix.lower() in UNREADABLE - suffixes]


def _entry(info: dict[str, Any]) -> Entry:
    """Return what a listing says about a file, whatever names its file system uses: each has its own."""
    stamp = next(
        (info[k] for k in ("LastModified", "mtime", "last_modified", "updated", "created") if info.get(k)), None
    )
    if isinstance(stamp, str):
        stamp = datetime.fromisoformat(stamp)
    time_s = stamp.timestamp() if isinstance(stamp, datetime) else stamp
    content = next((info[k] for k in ("ETag", "etag", "md5Hash") if info.get(k)), time_s)
    return Entry(f"{info.get('size')} {content}", time_s)


def _open(place: str) -> tuple[Any, str]:
    """Return the file system of a place, and its name there."""
    from fsspec.core import url_to_fs

    return url_to_fs(place)


def require(address: str) -> None:
    """Raise MissingExtraError if fsspec or the package of a protocol is missing, UsageError for an unknown protocol."""
    extras.require("cluster", address, ("fsspec",))
    from fsspec.registry import known_implementations

    protocol = address.partition("://")[0].rpartition("::")[2]
    from fsspec import available_protocols

    if protocol not in available_protocols():
        raise UsageError(address, f"the protocol {protocol}", "one that fsspec knows, such as s3 or gs", "Change it.")
    known = known_implementations.get(protocol, {})
    package = known.get("class", "").partition(".")[0]
    if package and not extras.has(package):
        remedy = f"{known.get('err', f'Install {package}')}: `pip install {package}`."
        raise extras.MissingExtraError(address, f"no package {package}", "what this protocol needs", remedy)


@contextmanager
def explaining(place: str, verb: str) -> Iterator[None]:
    """Turn whatever a file system raises into AudioError, as each has error types of its own."""
    try:
        yield
    except DeepnmfError:
        raise
    except FileNotFoundError as error:
        raise AudioError(place, "nothing there", "a file or a folder", "Check the address.") from error
    except PermissionError as error:
        found = f"no right to this ({shortened(error)})"
        remedy = "Check the credentials of this machine, and of every worker."
        raise AudioError(place, found, f"what can be {verb}", remedy) from error
    except Exception as error:
        said = shortened(getattr(error, "strerror", None) or error) or type(error).__name__
        remedy = "Check the store, then go on with --skip-existing."
        raise AudioError(place, f"that it cannot be {verb} ({said})", "a store that answers", remedy) from error


def fetch(place: str, path: Path) -> None:
    """Copy a remote file to a local one, piece by piece. Raises AudioError."""
    with explaining(place, "read"):
        filesystem, name = _open(place)
        filesystem.get_file(name, str(path))


def deliver(path: Path, place: str) -> None:
    """Copy a local file to a place, where it appears complete or not at all. Raises AudioError."""
    with explaining(place, "written"):
        filesystem, name = _open(place)
        if place.partition("://")[0] in WHOLE:
            filesystem.put_file(str(path), name)
            return
        folder, _, last = name.rpartition("/")
        partial = f"{folder}/.{last}-{uuid4().hex[:8]}.deepnmf-partial"
        filesystem.makedirs(folder, exist_ok=True)
        try:
            filesystem.put_file(str(path), partial)
            filesystem.mv(partial, name)
        except BaseException:
            with suppress(Exception):
                filesystem.rm_file(partial)
            raise


@contextmanager
def as_files(job: Job, folder: Path) -> Iterator[Job]:
    """Yield the job with files in `folder` instead of URLs: fetched before the work, delivered after it."""
    places = (job.source, job.target, job.removed, job.speech)
    local = {
        place: folder / f"{what}{PurePosixPath(place).suffix}"
        for what, place in zip(("input", "output", "noise", "speech"), places, strict=True)
        if is_url(place)
    }
    if job.source in local:
        fetch(job.source, local[job.source])
    source, target = (str(local.get(place, place)) for place in (job.source, job.target))
    removed, speech = (place and str(local.get(place, place)) for place in (job.removed, job.speech))
    try:
        yield Job(source, target, removed, speech)
    except AudioError as error:
        names = {str(path): place for place, path in local.items()}
        where = names.get(error.where, error.where)
        raise type(error)(where, error.found, error.expected, error.remedy) from error
    for place in (job.speech, job.removed, job.target):  # the enhanced file last: if it exists, all of them do
        if place in local:
            deliver(local[place], place)


class RemoteRecord(Record):
    """A `Record` for outputs at URLs, which takes what it knows from listings that were made before.

    Objects cannot be appended to, so the lines are in files of their own below the folder of outputs, one for every
    `LINES` outputs or `SECONDS`.
    """

    def __init__(self, command: str, facts: dict[str, Any], planned: RemotePlan) -> None:
        super().__init__(command, facts)
        self._entries, self._root = planned.entries, planned.root.removesuffix("/")
        self._new: list[str] = []
        self._written, self._run, self._files = time.monotonic(), uuid4().hex[:12], 0
        self._known: dict[str, dict[str, Any]] | None = None

    def begin(self, job: Job) -> None:
        """Do nothing, as the listing has the state of the input."""

    def state(self, job: Job, replaces: bool) -> State:
        """Return what exists of the outputs of a job. One that has no line is complete if it is no older than the
        input, as outputs appear whole.
        """
        missing = [place for place in job.written if not self.exists(place)]
        beside = [place for place in job.written if place not in missing and place != job.target]
        if job.target in missing and beside and not replaces:
            raise AudioError(beside[0], f"no {job.target} beside it", f"what was made of {job.source}", REDO)
        if job.target in missing:
            return State(needed=True)
        source, target, line = self._entries[job.source], self._entries[job.target], self._known_line(job.target)
        if line is not None:
            other = self._changed(line) or ("of an earlier input" if line["input"] != source.version else "")
            problem = incomplete(job.target, other, missing)
        elif missing:
            problem = f"no {missing[0]} beside it"
        else:
            is_older = source.time_s is not None and target.time_s is not None and target.time_s < source.time_s
            problem = "a file that is older than the input" if is_older else ""
        if not problem or replaces:
            return State(needed=bool(problem), known=line is not None)
        if line is None:
            raise AudioError(job.target, problem, f"what was made of {job.source}", REDO)
        return State(warning=f"{problem}. {REDO}")

    def exists(self, place: str) -> bool:
        """Return whether the listings have named an output."""
        return place in self._entries

    def done(self, job: Job) -> None:
        """Remember a line for the outputs of a job."""
        line = {"output": job.target, "input": self._entries[job.source].version, **self._made_by}
        self._new.append(json.dumps(line))
        if len(self._new) >= LINES or time.monotonic() - self._written > SECONDS:
            self.close()

    def close(self) -> None:
        """Write the lines that are new; if they cannot be written, no output is lost."""
        if not self._new:
            return
        with suppress(Exception):  # of unknown types
            filesystem, folder = _open(f"{self._root}/{RECORDS}")
            filesystem.makedirs(folder, exist_ok=True)
            filesystem.pipe_file(f"{folder}/{self._run}-{self._files}.jsonl", "\n".join(self._new).encode())
            self._new, self._files = [], self._files + 1
        self._written = time.monotonic()

    def _known_line(self, target: str) -> dict[str, Any] | None:
        if self._known is None:
            self._known = {}
            with suppress(Exception):
                filesystem, folder = _open(f"{self._root}/{RECORDS}")
                found = filesystem.find(folder, detail=True)
                for name in sorted(found, key=lambda name: _entry(found[name]).time_s or 0.0):
                    for text in filesystem.cat_file(name).decode(errors="replace").splitlines():
                        with suppress(ValueError, TypeError, KeyError, RecursionError):
                            line = json.loads(text)
                            self._known[line["output"]] = line | {"input": line["input"]}
        return self._known.get(target)
