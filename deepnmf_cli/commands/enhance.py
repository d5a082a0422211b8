"""`deepnmf enhance`: remove the noise from recordings."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from deepnmf_cli.commands import console
from deepnmf_cli.commands.jobs import (
    STREAM,
    Enhanced,
    Job,
    Settings,
    enhance_all,
    lengths,
    longest_first,
    plan,
    process_count,
    remove_leftovers,
    require_space,
)
from deepnmf_cli.commands.options import (
    NoiseProfile,
    backend_option,
    depth_option,
    device_option,
    json_option,
    max_attenuation_option,
    mix_option,
    model_option,
    noise_profile_option,
    overwrite_option,
    quiet_option,
)
from deepnmf_cli.errors import DeepnmfError, UsageError


@click.command()
@click.argument("inputs", metavar="INPUT...", nargs=-1, required=True, type=click.Path(allow_dash=True))
@click.option(
    "-o", "--output", metavar="OUTPUT", required=True, type=click.Path(allow_dash=True),
    help="The enhanced file; a folder for several inputs; - for standard output (WAV).",
)  # fmt: skip
@model_option
@device_option
@backend_option
@depth_option
@max_attenuation_option
@mix_option
@noise_profile_option
@click.option(
    "--noise-out", metavar="FILE", type=click.Path(),
    help="Also write what was removed: speech + noise = input. A folder when OUTPUT is one.",
)  # fmt: skip
@click.option(
    "--jobs", type=click.IntRange(min=1), show_default="one for every 5 minutes of audio, at most one for each CPU",
    help="Files to enhance at the same time, each in a process with the model of its own.",
)  # fmt: skip
@overwrite_option
@json_option
@quiet_option
def command(
    inputs: tuple[str, ...],
    output: str,
    model: str | None,
    device: str,
    backend: str,
    depth: int | None,
    max_attenuation_db: float | None,
    mix: float,
    noise_profile: NoiseProfile | None,
    noise_out: str | None,
    jobs: int | None,
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
      deepnmf enhance recordings/ -o enhanced/ --jobs 2
      deepnmf enhance noisy.wav -o speech.wav --noise-out noise.wav
      cat noisy.wav | deepnmf enhance - -o - > clean.wav

    Exit code: 0 done, 1 failed, 2 wrong usage (nothing was done), 3 some inputs failed, 130 interrupted, 143
    terminated.
    """
    if as_json and output == STREAM:
        raise UsageError("--json", "the audio on standard output too", "one of the two there", "Name an output file.")
    if noise_out == STREAM:
        raise UsageError("--noise-out", "-", "a file name", "Name a file for the noise.")
    planned, unreadable = plan(inputs, output, noise_out, overwrite)
    _refuse_streams(planned)

    outcome, elapsed_s, stopped = console.Outcome(), 0.0, None
    for path, error in unreadable:
        outcome.failed(_row(path), error)
    if planned:
        settings = Settings(model, device, backend, max_attenuation_db, mix, noise_profile, overwrite, depth)
        begin = time.perf_counter()
        try:
            elapsed_s = _enhance_all(planned, settings, jobs, outcome, hidden=as_json or quiet)
        except KeyboardInterrupt as signal:  # what was done by then is told like all else
            stopped, elapsed_s = signal, time.perf_counter() - begin

    if as_json:
        console.echo_json({"files": outcome.rows, "failed": outcome.failures})
    elif not quiet and (summary := _summary(outcome, elapsed_s)):
        console.say(summary)
    if stopped is not None:
        raise stopped
    return outcome.exit_code


def _enhance_all(
    jobs: list[Job], settings: Settings, asked: int | None, outcome: console.Outcome, hidden: bool
) -> float:
    """Enhance all jobs and put what became of each into `outcome`; returns the seconds that all took together."""
    remove_leftovers(jobs)
    known = lengths(jobs)
    require_space(known)
    seconds = sum(info.seconds for info in known.values())
    processes = process_count(asked, len(jobs), seconds, settings.device)
    if processes > 1:
        jobs = longest_first(jobs, known)
    begin, elapsed_s = time.perf_counter(), 0.0
    with console.progress(hidden) as bar:
        bar.set_description_str(_done(0, jobs))
        bar.reset(total=seconds)
        for finished, (job, done) in enumerate(enhance_all(jobs, settings, processes, bar.update), 1):
            from deepnmf_cli import zoo  # seconds in which other processes work already

            model = settings.model or zoo.DEFAULT_MODEL
            if isinstance(done, DeepnmfError):
                outcome.failed(_row(job.source, job.target, job.removed, model=model), done)
            else:
                elapsed_s += done.elapsed_s
                _report(job, done, model, outcome)
            bar.set_description_str(_done(finished, jobs))
    return elapsed_s if processes == 1 else time.perf_counter() - begin


def _done(finished: int, jobs: list[Job]) -> str:
    """Return what stands before the progress bar."""
    if len(jobs) > 1:
        return f"{finished}/{len(jobs)} files "
    return "" if jobs[0].source == STREAM else f"{Path(jobs[0].source).name} "


def _report(job: Job, done: Enhanced, model: str, outcome: console.Outcome) -> None:
    info, clipped = done.rewritten.info, done.rewritten.clipped
    row = _row(
        job.source, job.target, job.removed, seconds=info.seconds, rate_hz=info.rate_hz, channels=info.channels,
        model=model, clipped=sum(clipped.values()), real_time_factor=done.elapsed_s / info.seconds,
        notes=done.rewritten.notes,
    )  # fmt: skip
    warnings = [f"{job.source}: {note}." for note in done.rewritten.notes]
    outcome.done(row, warnings + [_clipping(path, samples) for path, samples in clipped.items() if samples])


def _refuse_streams(jobs: list[Job]) -> None:
    """Raise UsageError instead of waiting for audio from a keyboard, or printing it on a screen."""
    for job in jobs:
        if job.source == STREAM:
            console.refuse_input("Try `... - < noisy.wav`.")
        if job.target == STREAM:
            console.refuse_output("Try `... -o - > clean.wav`.")


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
    notes: Sequence[str] = (),
) -> dict[str, Any]:
    """One file in the JSON document: what is not known is null."""
    return {
        "input": source, "output": target, "noise": removed, "seconds": seconds, "rate_hz": rate_hz,
        "channels": channels, "model": model, "clipped": clipped, "real_time_factor": real_time_factor,
        "notes": list(notes),
    }  # fmt: skip


def _summary(outcome: console.Outcome, elapsed_s: float) -> str:
    done = [row for row in outcome.rows if row["error"] is None]
    seconds = sum(row["seconds"] for row in done)
    if not done:
        return outcome.summary("Enhanced")
    speed = f"{seconds:.1f} s of audio in {elapsed_s:.1f} s, a real-time factor of {elapsed_s / seconds:.3f}."
    return f"{outcome.summary('Enhanced')} {speed}"


def _clipping(path: Path, samples: int) -> str:
    return f"{path}: {console.count(samples, 'sample')} beyond full scale clipped. Lower the level of the input."
