"""`deepnmf enhance`: remove the noise from recordings."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from deepnmf_cli.commands import console
from deepnmf_cli.commands.jobs import STREAM, Job, plan
from deepnmf_cli.commands.options import (
    device_option,
    json_option,
    max_attenuation_option,
    mix_option,
    model_option,
    overwrite_option,
    quiet_option,
)
from deepnmf_cli.errors import AudioError, DeepnmfError, UsageError

if TYPE_CHECKING:
    from deepnmf_cli.signal.rewrite import Process, Rewritten


@click.command()
@click.argument("inputs", metavar="INPUT...", nargs=-1, required=True, type=click.Path(allow_dash=True))
@click.option(
    "-o", "--output", metavar="OUTPUT", required=True, type=click.Path(allow_dash=True),
    help="The enhanced file; a folder for several inputs; - for standard output (WAV).",
)  # fmt: skip
@model_option
@device_option
@max_attenuation_option
@mix_option
@click.option(
    "--noise-out", metavar="FILE", type=click.Path(),
    help="Also write what was removed: speech + noise = input. A folder when OUTPUT is one.",
)  # fmt: skip
@overwrite_option
@json_option
@quiet_option
def command(
    inputs: tuple[str, ...],
    output: str,
    model: str | None,
    device: str,
    max_attenuation_db: float | None,
    mix: float,
    noise_out: str | None,
    overwrite: bool,
    as_json: bool,
    quiet: bool,
) -> int:
    """Remove the noise from recordings.

    INPUT is an audio file (WAV, FLAC, OGG, MP3, AIFF, AU and more), a folder, whose tree is kept below OUTPUT, or - for
    standard input. Any sampling rate and up to 64 channels. The output has the rate, the channels, the length and the
    bit depth of its input; its suffix chooses the container.

    \b
    Examples:
      deepnmf enhance noisy.wav -o clean.wav
      deepnmf enhance recordings/ -o enhanced/
      deepnmf enhance noisy.wav -o speech.wav --noise-out noise.wav
      cat noisy.wav | deepnmf enhance - -o - > clean.wav

    Exit code: 0 done, 1 failed, 2 wrong usage (nothing was done), 3 some inputs failed, 130 interrupted.
    """
    if as_json and output == STREAM:
        raise UsageError("--json", "the audio on standard output too", "one of the two there", "Name an output file.")
    if noise_out == STREAM:
        raise UsageError("--noise-out", "-", "a file name", "Name a file for the noise.")
    jobs, unreadable = plan(inputs, output, noise_out, overwrite)
    _refuse_terminal(jobs)

    outcome = console.Outcome()
    for path, error in unreadable:
        outcome.failed(_row(path), error)
    if jobs:
        from deepnmf_cli import library

        enhancer = library.load_enhancer(model, device)
        name = model or library.DEFAULT_MODEL

        def process(blocks, rate_hz, channels):
            return enhancer.enhance_blocks(blocks, rate_hz, channels, max_attenuation_db, mix)

        _enhance_all(jobs, process, name, outcome, hidden=as_json or quiet)

    if as_json:
        console.echo_json({"files": outcome.rows, "failed": outcome.failures})
    elif not quiet and (summary := _summary(outcome)):
        console.say(summary)
    return outcome.exit_code


def _enhance_all(
    jobs: list[Job], process: "Process", model: str | None, outcome: console.Outcome, hidden: bool
) -> None:
    with console.progress(hidden) as bar:
        if not bar.disable:
            bar.reset(total=sum(map(_seconds, jobs)))
        for job in jobs:
            bar.set_description_str(f"{Path(job.source).name} " if job.source != STREAM else "")
            begin = time.perf_counter()
            try:
                result = _enhance(job, process, bar.update)
            except DeepnmfError as error:
                outcome.failed(_row(job.source, job.target, job.removed, model=model), error)
                continue
            elapsed_s = time.perf_counter() - begin
            info = result.info
            row = _row(
                job.source, job.target, job.removed, seconds=info.seconds, rate_hz=info.rate_hz, channels=info.channels,
                model=model, clipped=sum(result.clipped.values()), real_time_factor=elapsed_s / info.seconds,
            )  # fmt: skip
            outcome.done(row, [_clipping(path, samples) for path, samples in result.clipped.items() if samples])


def _enhance(job: Job, process: "Process", progress: Callable[[float], object]) -> "Rewritten":
    from deepnmf_cli.signal.rewrite import rewrite

    with _streams_as_files(job) as files:
        return rewrite(files.source, files.target, process, files.removed, name=_name(job.source), progress=progress)


@contextmanager
def _streams_as_files(job: Job) -> Iterator[Job]:
    """The job with temporary files for standard input and output: headers need seeking, which pipes cannot."""
    import shutil
    import tempfile

    if STREAM not in (job.source, job.target):
        yield job
        return
    with tempfile.TemporaryDirectory(prefix="deepnmf-") as folder:
        if job.source == STREAM:
            source = Path(folder) / "input"
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
        target = Path(folder) / "output.wav"
        yield replace(job, target=str(target))
        with target.open("rb") as file:
            shutil.copyfileobj(file, sys.stdout.buffer)
        sys.stdout.buffer.flush()


def _refuse_terminal(jobs: list[Job]) -> None:
    """Raise UsageError instead of waiting for audio from a keyboard, or printing it on a screen."""
    for job in jobs:
        if job.source == STREAM and sys.stdin.isatty():
            raise UsageError("standard input", "a terminal", "audio from a pipe or a file", "Try `... - < noisy.wav`.")
        if job.target == STREAM and sys.stdout.isatty():
            raise UsageError("standard output", "a terminal", "a pipe or a file", "Try `... -o - > clean.wav`.")


def _seconds(job: Job) -> float:
    """The length of a job's audio for the progress bar; 0 where it is not known, or the file will fail anyway."""
    from deepnmf_cli.signal import audio

    try:
        return 0.0 if job.source == STREAM else audio.info(job.source).seconds
    except AudioError:
        return 0.0


def _row(
    source: str,
    target: str | None = None,
    removed: str | None = None,
    *,
    seconds: float | None = None,
    rate_hz: int | None = None,
    channels: int | None = None,
    model: str | None = None,
    clipped: int | None = None,
    real_time_factor: float | None = None,
) -> dict[str, Any]:
    """One file in the JSON document: what is not known is null."""
    return {
        "input": source, "output": target, "noise": removed, "seconds": seconds, "rate_hz": rate_hz,
        "channels": channels, "model": model, "clipped": clipped, "real_time_factor": real_time_factor,
    }  # fmt: skip


def _summary(outcome: console.Outcome) -> str:
    done = [row for row in outcome.rows if row["error"] is None]
    seconds = sum(row["seconds"] for row in done)
    if not done:
        return outcome.summary("Enhanced")
    elapsed_s = sum(row["seconds"] * row["real_time_factor"] for row in done)
    speed = f"{seconds:.1f} s of audio in {elapsed_s:.1f} s, a real-time factor of {elapsed_s / seconds:.3f}."
    return f"{outcome.summary('Enhanced')} {speed}"


def _clipping(path: Path, samples: int) -> str:
    return f"{path}: {console.count(samples, 'sample')} beyond full scale clipped. Lower the level of the input."


def _name(source: str) -> str:
    return "standard input" if source == STREAM else source
