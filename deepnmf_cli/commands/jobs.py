"""From INPUT... and OUTPUT to pairs of files, and the work on them: a model applied in this process or in several."""

import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepnmf_cli import checkpoint
from deepnmf_cli.commands.options import NoiseProfile, backend_for
from deepnmf_cli.errors import AudioError, UsageError
from deepnmf_cli.workers import Progress, Work, Workers, available_cpus, work_here

if TYPE_CHECKING:
    from deepnmf_cli.signal.formats import AudioInfo
    from deepnmf_cli.signal.rewrite import Rewritten

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
    """Return where the output of `file` goes."""
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


AUDIO_PER_PROCESS_S = 300.0
"""Audio that makes another process worth its start and its memory."""


@dataclass(frozen=True)
class Settings:
    """What all jobs have in common: the model and what it is to do. Travels to other processes."""

    model: str | None
    device: str
    backend: str
    max_attenuation_db: float | None
    mix: float
    noise_profile: NoiseProfile | None = None
    overwrite: bool = False
    depth: int | None = None


@dataclass(frozen=True)
class Enhanced:
    """What became of a job, and how long that took."""

    rewritten: "Rewritten"
    elapsed_s: float


def lengths(jobs: Sequence[Job]) -> dict[Job, "AudioInfo"]:
    """Return what the headers of the inputs say; files that will fail, and standard input, are left out."""
    from deepnmf_cli.signal import audio

    known = {}
    for job in jobs:
        try:
            if job.source != STREAM:
                known[job] = audio.info(job.source)
        except AudioError:
            continue  # it will be said when the turn comes
    return known


def require_space(known: dict[Job, "AudioInfo"]) -> None:
    """Raise AudioError when the disk will be full before all outputs are written."""
    from deepnmf_cli.signal import audio_writer
    from deepnmf_cli.signal.formats import least_bytes, output_format

    def outputs() -> Iterator[tuple[Path, int]]:
        for job, info in known.items():
            for path in job.outputs:
                container, subtype = output_format(path, info)
                size = least_bytes(replace(info, container=container, subtype=subtype))
                yield path, size

    audio_writer.require_space(outputs())


def remove_leftovers(jobs: Sequence[Job]) -> None:
    """Remove what killed processes left in the folders of the outputs."""
    for folder in {Path(os.path.realpath(path)).parent for job in jobs for path in job.outputs}:
        checkpoint.remove_leftovers(folder)


def process_count(asked: int | None, files: int, seconds: float, device: str) -> int:
    """Return how many processes to use: as many as were asked for, or as pay off, and never more than files."""
    if asked is None:
        asked = min(available_cpus(), int(seconds / AUDIO_PER_PROCESS_S))
        if asked > 1 and device != "cpu":
            from deepnmf_cli.zoo import resolve_device

            asked = asked if resolve_device(device) == "cpu" else 1  # a GPU is shared badly
    return max(1, min(asked, files))


def longest_first(jobs: Sequence[Job], known: dict[Job, "AudioInfo"]) -> list[Job]:
    """The order in which several processes end at about the same time: no long file is left to one of them."""
    return sorted(jobs, key=lambda job: known[job].seconds if job in known else 0.0, reverse=True)


def enhance_all(
    jobs: Sequence[Job], settings: Settings, processes: int, progress: Progress
) -> Iterator[tuple[Job, Any]]:
    """Yield (job, Enhanced) as jobs are done, the error in its place for those that failed.

    Raises ModelError and UsageError for a model or device that cannot be used.
    """
    if processes == 1:
        yield from work_here(jobs, prepare(settings), progress)
        return
    threads = max(1, available_cpus() // processes)
    with Workers(processes, prepare, settings, threads) as workers:
        yield from workers.run(jobs, progress, name=lambda job: job.source)


def prepare(settings: Settings, threads: int | None = None) -> Work:
    """Load the model; returns what enhances a job. `threads` bounds those of one process that shares the CPUs."""
    from deepnmf_cli import zoo

    profile = settings.noise_profile
    backend = backend_for(settings.backend, profile)
    enhancer = zoo.load_enhancer(settings.model, settings.device, backend, threads, settings.depth)
    if profile is not None:
        enhancer.require_atoms()
    if profile is not None and profile.file is not None:
        enhancer, profile = profile.teach(enhancer, profile.file, profile.file), None

    def work(job: Job, progress: Progress) -> Enhanced:
        from deepnmf_cli.signal.rewrite import rewrite

        begin = time.perf_counter()
        with _streams_as_files(job) as files:
            name = "standard input" if job.source == STREAM else job.source
            taught = profile.teach(enhancer, files.source, name) if profile is not None else enhancer

            def process(blocks, rate_hz, channels):
                return taught.enhance_blocks(blocks, rate_hz, channels, settings.max_attenuation_db, settings.mix)

            done = rewrite(
                files.source, files.target, process, files.removed,
                name=name, overwrite=settings.overwrite, progress=progress,
            )  # fmt: skip
        return Enhanced(done, time.perf_counter() - begin)

    return work


@contextmanager
def _streams_as_files(job: Job) -> Iterator[Job]:
    """The job with temporary files for standard input and output: headers need seeking, which pipes cannot."""
    import shutil

    if STREAM not in (job.source, job.target):
        yield job
        return
    with checkpoint.temporary_folder() as folder:
        if job.source == STREAM:
            source = folder / "input"
            try:
                with source.open("wb") as file:
                    shutil.copyfileobj(sys.stdin.buffer, file)
            except OSError as error:
                remedy = "Free some space, or set TMPDIR to a folder on another disk."
                raise AudioError(folder, error.strerror, "room for standard input", remedy) from error
            job = replace(job, source=str(source))
        if job.target != STREAM:
            yield job
            return
        target = folder / "output.wav"
        yield replace(job, target=str(target))
        with target.open("rb") as file:
            shutil.copyfileobj(file, sys.stdout.buffer)
        sys.stdout.buffer.flush()
