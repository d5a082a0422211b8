"""The work on files: a model is applied to one after the other, in this process or in several, and each is reported."""

import os
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepnmf_cli import checkpoint
from deepnmf_cli.commands import console
from deepnmf_cli.commands.options import backend_for
from deepnmf_cli.commands.places import STREAM, Job, Plan, remove_leftovers
from deepnmf_cli.commands.record import Record, still_needed
from deepnmf_cli.commands.remote import as_files, is_url
from deepnmf_cli.errors import AudioError, DeepnmfError, ModelError
from deepnmf_cli.workers import Progress, Work, Workers, available_cpus, work_here

if TYPE_CHECKING:
    from deepnmf_cli.signal.formats import AudioInfo
    from deepnmf_cli.treatment import Enhanced, Treatment

AUDIO_PER_PROCESS_S = 300.0
"""Length of audio that makes another process worth its start-up time and its memory."""


@dataclass(frozen=True)
class Settings:
    """What all jobs have in common: the model and what it is to do. Sent to other processes."""

    model: str | None
    device: str
    backend: str
    treatment: "Treatment"
    overwrite: bool = False
    depth: int | None = None
    verbose: bool = False


@dataclass(frozen=True)
class Engine:
    """What runs the jobs: a number of processes on this machine, or the workers of a Ray cluster at an address."""

    jobs: int | None = None
    """Jobs at the same time; None: as many as pay off, or as the cluster has CPUs (or GPUs)."""
    ray: bool = False
    address: str | None = None


def headers(jobs: Sequence[Job]) -> dict[Job, "AudioInfo"]:
    """Return what the headers of the inputs say; files that will fail, standard input and URLs are left out."""
    from deepnmf_cli.signal import audio

    known = {}
    for job in jobs:
        try:
            if job.source != STREAM and not is_url(job.source):
                known[job] = audio.info(job.source)
        except AudioError:
            continue  # reported when its turn comes
    return known


def require_space(known: dict[Job, "AudioInfo"]) -> None:
    """Raise AudioError when the disk will be full before all outputs are written."""
    from deepnmf_cli.signal import audio_writer
    from deepnmf_cli.signal.formats import least_bytes, output_format

    def outputs() -> Iterator[tuple[Path, int]]:
        for job, info in known.items():
            for path in job.recordings if not is_url(job.target) else ():
                container, subtype = output_format(path, info)
                size = least_bytes(replace(info, container=container, subtype=subtype))
                yield path, size

    audio_writer.require_space(outputs())


ON_CPUS = ("onnx", "native")
"""Backends that compute on CPUs, whatever the device."""


def process_count(asked: int | None, files: int, seconds: float, device: str, backend: str = "auto") -> int:
    """Return how many processes to use: as many as were asked for, or as pay off, and never more than files."""
    if asked is None:
        asked = min(available_cpus(), int(seconds / AUDIO_PER_PROCESS_S))
        if asked > 1 and device != "cpu" and backend not in ON_CPUS:
            from deepnmf_cli.zoo import resolve_device

            asked = asked if resolve_device(device) == "cpu" else 1  # processes share a GPU badly
    return max(1, min(asked, files))


def longest_first(jobs: Sequence[Job], known: dict[Job, "AudioInfo"]) -> list[Job]:
    """Return the jobs, longest first, so that processes end at about the same time: none has a long file left."""
    return sorted(jobs, key=lambda job: known[job].seconds if job in known else 0.0, reverse=True)


def enhance_all(
    jobs: Sequence[Job], settings: Settings, engine: Engine, seconds: float, progress: Progress
) -> Iterator[tuple[Job, Any]]:
    """Yield (job, Enhanced) as jobs are done, or (job, error) for those that failed.

    `seconds` is the length of their audio, as far as it is known. Raises ModelError and UsageError for a model or
    device that cannot be used, and ClusterError for such a cluster.
    """
    if engine.ray:
        with _cluster(settings, engine, len(jobs)) as workers:
            yield from _shared_out(jobs, workers, progress)
        return
    processes = process_count(engine.jobs, len(jobs), seconds, settings.device, settings.backend)
    yield from on_this_machine(jobs, prepare, settings, processes, progress)


def on_this_machine(
    jobs: Sequence[Job], prepare: Callable[..., Work], settings: Any, processes: int, progress: Progress
) -> Iterator[tuple[Job, Any]]:
    """Yield (job, result) of the work that `prepare` makes of the settings, in this process or in several."""
    if processes == 1:
        yield from work_here(jobs, prepare(settings), progress)
        return
    threads = max(1, available_cpus() // processes)
    with Workers(processes, prepare, settings, threads) as workers:
        yield from _shared_out(jobs, workers, progress)


def _shared_out(jobs: Sequence[Job], workers: Any, progress: Progress) -> Iterator[tuple[Job, Any]]:
    """Yield (job, result) of the work of several processes; what those left that died is removed at the end."""
    try:
        yield from workers.run(jobs, progress, name=lambda job: job.source)
    finally:
        if workers.died:
            remove_leftovers(jobs)


@contextmanager
def _cluster(settings: Settings, engine: Engine, files: int) -> Iterator[Any]:
    """Yield the workers of the cluster: one for each GPU if networks run on GPUs, else one for each CPU."""
    from deepnmf_cli.commands.cluster import RayWorkers, connected

    shipped = Shipped.of(settings)
    with connected(engine.address) as (cpus, gpus):
        on_gpus = gpus > 0 and settings.device != "cpu" and settings.backend not in ON_CPUS
        count = engine.jobs or (gpus if on_gpus else cpus) or 1
        with RayWorkers(min(count, files), int(on_gpus), prepare_shipped, shipped) as workers:
            yield workers


@dataclass(frozen=True)
class Shipped:
    """Settings with the content of the files that they name, for machines that have other files."""

    settings: Settings
    sha256: str
    """Hash of the model file; models that ship have one too."""
    model: dict[str, bytes]
    """Name -> content of the model file, and of what was exported from it; empty for a model that ships."""
    noise: tuple[str, bytes] | None
    folder: str
    """Where paths begin that are not absolute."""

    @classmethod
    def of(cls, settings: Settings) -> "Shipped":
        """Read the files. Raises ModelError for a model that is not there, and AudioError for such a noise profile."""
        from deepnmf_cli import zoo

        path, profile = zoo.find(settings.model), settings.treatment.noise_profile
        files = [] if path.is_relative_to(zoo.models_folder()) else [path, *zoo.exports_of(path)]
        noise = None
        if profile is not None and profile.file is not None:
            from deepnmf_cli.signal import audio

            audio.info(profile.file)
            noise = Path(profile.file).name, Path(profile.file).read_bytes()
        return cls(
            settings, checkpoint.file_hash(path), {file.name: file.read_bytes() for file in files}, noise, os.getcwd()
        )


def prepare_shipped(shipped: Shipped) -> Work:
    """Call `prepare` on another machine, with one thread. Raises ModelError if its model is a different one."""
    from deepnmf_cli import zoo

    settings = shipped.settings
    with suppress(OSError):  # without a common file system only URLs are found
        os.chdir(shipped.folder)
    with checkpoint.temporary_folder() as here:  # removed once the model is in memory
        for name, content in [*shipped.model.items(), *([shipped.noise] if shipped.noise else [])]:
            (here / name).write_bytes(content)
        if shipped.model:
            settings = replace(settings, model=str(here / next(iter(shipped.model))))
        if shipped.noise and (profile := settings.treatment.noise_profile):
            here_too = replace(profile, file=str(here / shipped.noise[0]))
            settings = replace(settings, treatment=replace(settings.treatment, noise_profile=here_too))
        path = zoo.find(settings.model)
        if checkpoint.file_hash(path) != shipped.sha256:
            remedy = "Install the same version of deepnmf on all machines."
            raise ModelError(path, "another model of this name", "that of the machine that gives the work", remedy)
        return prepare(settings, 1, in_memory=True)


def prepare(settings: Settings, threads: int | None = None, in_memory: bool = False) -> Work:
    """Load the model and return what enhances a job.

    `threads` limits those of a process that shares the CPUs. With `in_memory`, files of the model are not needed again.
    """
    from deepnmf_cli import zoo
    from deepnmf_cli.treatment import enhance_file

    if settings.verbose:
        console.log()
    treatment = settings.treatment
    profile = treatment.noise_profile
    backend = backend_for(settings.backend, profile)
    enhancer = zoo.load_enhancer(settings.model, settings.device, backend, threads, settings.depth)
    if in_memory:
        enhancer.open_all()
    if profile is not None:
        enhancer.require_atoms()
    if profile is not None and profile.file is not None:
        enhancer, treatment = profile.of_file(enhancer), replace(treatment, noise_profile=None)

    def work(job: Job, progress: Progress) -> "Enhanced":
        with streams_as_files(job) as files:
            return enhance_file(
                enhancer, files.source, files.target, treatment,
                removed=files.removed, speech=files.speech,
                name="standard input" if job.source == STREAM else job.source,
                overwrite=settings.overwrite, in_place=job.target == job.source, progress=progress,
            )  # fmt: skip

    return work


@contextmanager
def streams_as_files(job: Job) -> Iterator[Job]:
    """Yield the job with temporary files for pipes and URLs, as headers need seeking, which those do not allow."""
    import shutil

    if any(map(is_url, (job.source, job.target, job.removed))):
        with checkpoint.temporary_folder() as folder, as_files(job, folder) as files:
            yield files
        return
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
                raise AudioError(folder, error.strerror or str(error), "room for standard input", remedy) from error
            job = replace(job, source=str(source))
        if job.target != STREAM:
            yield job
            return
        target = folder / "output.wav"
        yield replace(job, target=str(target))
        with target.open("rb") as file:
            shutil.copyfileobj(file, sys.stdout.buffer)
        sys.stdout.buffer.flush()


class Call(ABC):
    """The work of one call. Reports are rows of JSON to `tell`, or sentences if that is None."""

    def __init__(
        self, planned: Plan, tell: Callable[[dict[str, Any]], object] | None, quiet: bool, dry: bool = False
    ) -> None:
        """With `dry`, nothing is written."""
        self.outcome = console.Outcome(tell or (lambda row: None))
        self.planned, self.tell, self.dry = planned, tell, dry
        self.silent = quiet or tell is not None
        self.elapsed_s = 0.0

    @abstractmethod
    def row(self, source: str, job: Job | None = None) -> dict[str, Any]:
        """Return the row of an input in the JSON Lines, with null for what is not known before its job is done."""

    @abstractmethod
    def are_spread(self, files: int, seconds: float) -> bool:
        """Return whether so many files with so much sound are shared out among several processes."""

    @abstractmethod
    def results(self, jobs: Sequence[Job], seconds: float, progress: Progress) -> Iterator[tuple[Job, Any]]:
        """Yield (job, result) as jobs are done, or (job, error) for those that failed."""

    @abstractmethod
    def report(self, job: Job, done: Any) -> None:
        """Add a result to `outcome`. In one process, its part of the time may be added to `elapsed_s`."""

    @abstractmethod
    def summary(self, seconds: float) -> str:
        """Return the last sentence; `seconds` is the length of the sound in the files that are done."""

    def begin(self, record: Record | None, skip: bool, overwrite: bool) -> list[Job]:
        """Report what cannot be done, and what need not be done; return the jobs that are left."""
        for path, error in self.planned.unreadable:
            self.outcome.failed(self.row(path), error)
        for sentence in self.planned.left_out:
            self.say(sentence)
        if record is None:
            return self.planned.jobs
        todo, told = still_needed(self.planned.jobs, record, skip, overwrite, self.outcome, self._row_of)
        self.say(told)
        return todo

    def run(self, jobs: Sequence[Job], record: Record | None) -> None:
        """Do all jobs, and report the outcome of each."""
        known = headers(jobs)
        if not self.dry:
            remove_leftovers(self.planned.jobs)
            require_space(known)
        seconds = sum(info.seconds for info in known.values())
        spread = self.are_spread(len(jobs), seconds)
        if spread:
            jobs = longest_first(jobs, known)
        begin = time.perf_counter()
        try:
            with console.progress(self.silent) as bar:
                bar.set_description_str(_done(0, jobs))
                bar.reset(total=seconds)
                for finished, (job, done) in enumerate(self.results(jobs, seconds, bar.update), 1):
                    if isinstance(done, DeepnmfError):
                        self.outcome.failed(self._row_of(job), done)
                    else:
                        if record is not None:
                            record.done(job)
                        self.report(job, done)
                    bar.set_description_str(_done(finished, jobs))
        finally:
            if spread or not self.elapsed_s:
                self.elapsed_s = time.perf_counter() - begin

    def end(self, stopped: BaseException | None) -> None:
        """Report the summary. `stopped` is what ended the work early, if anything did."""
        rows = [row for row in self.outcome.rows if row["status"] in ("done", "planned")]
        seconds = sum(row["seconds"] or 0.0 for row in rows)
        if self.tell is not None:
            speed = self.elapsed_s / seconds if seconds and not self.dry else None
            self.tell({**self.outcome.summary_row(seconds, self.elapsed_s, stopped), "real_time_factor": speed})
        else:
            self.say(self.summary(seconds))

    def say(self, sentence: str) -> None:
        """Print a sentence, unless it is empty or nothing is to be printed."""
        if sentence and not self.silent:
            console.say(sentence)

    def _row_of(self, job: Job) -> dict[str, Any]:
        return self.row(job.source, job)


def _done(finished: int, jobs: Sequence[Job]) -> str:
    """Return the text in front of the progress bar."""
    if len(jobs) > 1:
        return f"{finished}/{len(jobs)} files "
    return "" if jobs[0].source == STREAM else f"{Path(jobs[0].source).name} "
