"""`deepnmf repair`: fill gaps, remove clicks, and restore clipped sound."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from deepnmf_cli.checkpoint import file_hash
from deepnmf_cli.commands import console
from deepnmf_cli.commands.jobs import Call, on_this_machine, process_count, streams_as_files
from deepnmf_cli.commands.options import (
    AUTO,
    clip_level_option,
    counted,
    fix_option,
    gaps_option,
    overwrite_option,
    quiet_option,
    repair_options,
    skip_existing_option,
    verbose_option,
)
from deepnmf_cli.commands.places import STREAM, Job, Places, Plan, plan, refuse_streams
from deepnmf_cli.commands.record import Record
from deepnmf_cli.commands.remote import is_url
from deepnmf_cli.errors import UsageError
from deepnmf_cli.workers import Progress, Work

if TYPE_CHECKING:
    from deepnmf_cli.repair.examine import RepairOptions
    from deepnmf_cli.signal.rewrite import Rewritten

REPAIRED = ".repaired"
"""What is added to the names of inputs to name their outputs, if no names are given."""


@click.command()
@click.argument("inputs", metavar="INPUT...", nargs=-1, required=True, type=click.Path(allow_dash=True))
@click.option(
    "-o", "--output", metavar="OUTPUT", type=click.Path(allow_dash=True),
    help="The repaired file; for several inputs a folder; - for standard output (WAV).  [default: NAME.repaired.SUFFIX"
    " beside each file, NAME.repaired/ beside each folder]",
)  # fmt: skip
@click.option("--in-place", is_flag=True, help="Replace each input once its repaired file is complete.")
@skip_existing_option
@overwrite_option
@fix_option
@gaps_option
@clip_level_option
@click.option(
    "--model", "models", metavar="FILE", multiple=True,
    help="A model written by `deepnmf train fill-gaps` or declip, instead of the one that ships.",
)  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Report what is found without writing anything.")
@click.option(
    "--jobs", metavar="N", type=click.IntRange(min=1), show_default="one per 5 minutes of audio, at most one per CPU",
    help="How many files to repair at the same time.",
)  # fmt: skip
@click.option(
    "--json", "as_json", is_flag=True,
    help="Print JSON Lines on standard output instead of text: one object per file, with every interval and how sure it"
    " is, and a summary.",
)  # fmt: skip
@quiet_option
@verbose_option
def command(
    inputs: tuple[str, ...],
    output: str | None,
    in_place: bool,
    skip_existing: bool,
    overwrite: bool,
    fixes: tuple[str, ...],
    gaps: str,
    clip_level_db: float | None,
    models: tuple[str, ...],
    dry_run: bool,
    jobs: int | None,
    as_json: bool,
    quiet: bool,
    verbose: bool,
) -> int:
    """Fill gaps, remove clicks, and restore clipped sound.

    INPUT is a file, a folder, or - for standard input, as for `deepnmf enhance`. Undamaged samples are kept bit for
    bit, and a file without damage is copied. Noise is kept too: `deepnmf enhance --repair` repairs and then removes it.

    \b
    Examples:
      deepnmf repair noisy.wav
      deepnmf repair noisy.wav -o whole.wav --fix clipping
      deepnmf repair noisy.wav -o filled.wav --gaps labels.txt
      deepnmf repair recordings/ --dry-run --json
      deepnmf repair recordings/ -o repaired/ --skip-existing

    Exit code: 0 done, 1 failed, 2 wrong usage (nothing was done), 3 some inputs failed, 130 interrupted, 143
    terminated.
    """
    if verbose:
        console.log()
    if address := next((place for place in (*inputs, output) if place and is_url(place)), None):
        raise UsageError(address, "an address", "a file or folder", "Copy recordings from and to there, or mount it.")
    options = repair_options(inputs, fixes, gaps, clip_level_db, models)
    places = Places(output, None, in_place, REPAIRED, read=() if gaps == AUTO else (gaps,))
    planned = plan(inputs, places, may_exist=overwrite or skip_existing or dry_run)
    refuse_streams(planned.jobs, as_json, skip_existing)
    settings = Settings(options, overwrite or in_place, dry_run, verbose)
    batch = _Repairing(planned, settings, jobs, console.json_lines() if as_json else None, quiet)
    with console.ended_by(batch.end):
        several = len(planned.jobs) > 1 or skip_existing
        record = Record("repair", _facts(options)) if several else None
        if todo := batch.begin(record, skip_existing, overwrite):
            batch.run(todo, None if dry_run else record)
    return batch.outcome.exit_code


@dataclass(frozen=True)
class Settings:
    """What all jobs have in common. Sent to other processes."""

    options: "RepairOptions"
    overwrite: bool
    dry: bool
    verbose: bool = False


@dataclass(frozen=True)
class Done:
    """What was found in a file, and what became of it."""

    seconds: float
    rate_hz: int
    channels: int
    intervals: list[dict[str, Any]]
    clipping: list[dict[str, Any]]
    clipped: dict[Path, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    declipped: int = 0
    filled_s: float = 0.0


class _Repairing(Call):
    """The work of one call; in a dry run, files are examined only."""

    def __init__(self, planned: Plan, settings: Settings, asked: int | None, tell: Any, quiet: bool) -> None:
        """`asked` is the number of processes that were asked for."""
        super().__init__(planned, tell, quiet, settings.dry)
        self._settings, self._asked = settings, asked

    def are_spread(self, files: int, seconds: float) -> bool:
        return self._processes(files, seconds) > 1

    def results(self, jobs: Sequence[Job], seconds: float, progress: Progress) -> Iterator[tuple[Job, Any]]:
        return on_this_machine(jobs, prepare, self._settings, self._processes(len(jobs), seconds), progress)

    def _processes(self, files: int, seconds: float) -> int:
        return process_count(self._asked, files, seconds, "cpu")

    def report(self, job: Job, done: Done) -> None:
        row = self.row(job.source, job) | {
            "seconds": done.seconds, "rate_hz": done.rate_hz, "channels": done.channels,
            "intervals": done.intervals, "clipping": done.clipping, "declipped": done.declipped,
            "filled_s": done.filled_s, "clipped": sum(done.clipped.values()), "notes": list(done.notes),
        }  # fmt: skip
        self.say(f"{job.source}: {_told(done)}")
        if self.dry:
            self.outcome.planned(row)
            return
        beyond = [
            f"{path}: {console.count(samples, 'sample')} beyond full scale clipped again. Lower the level of the input"
            " first, or write WAV in floating point."
            for path, samples in done.clipped.items()
            if samples
        ]
        self.outcome.done(row, [f"{job.source}: {note}." for note in done.notes] + beyond)

    def summary(self, seconds: float) -> str:
        if self.dry:
            return "Nothing was written."
        rows = self.outcome.rows
        return self.outcome.summary("Repaired", sum(map(_is_whole, rows))) if rows else ""

    def row(self, source: str, job: Job | None = None) -> dict[str, Any]:
        return {
            "type": "file", "input": source, "output": job.target if job else None, "seconds": None,
            "rate_hz": None, "channels": None, "intervals": [], "clipping": [], "declipped": None, "filled_s": None,
            "clipped": None, "notes": [],
        }  # fmt: skip


def prepare(settings: Settings, threads: int | None = None) -> Work:
    """Return what repairs a job."""
    if settings.verbose:
        console.log()

    def work(job: Job, progress: Progress) -> Done:
        from deepnmf_cli.repair.examine import examine, repairer
        from deepnmf_cli.repair.repairer import Counts, Repairer, repaired
        from deepnmf_cli.signal import audio
        from deepnmf_cli.signal.rewrite import copied, rewrite

        with streams_as_files(job) as files:
            name = "standard input" if job.source == STREAM else job.source
            findings = examine(files.source, settings.options, name, progress)
            info = audio.info(files.source)
            told = (
                info.seconds, info.rate_hz, info.channels,
                [span.row(info.rate_hz) for span in findings.spans], [found.row() for found in findings.clipping],
            )  # fmt: skip
            if settings.dry:
                return Done(*told)
            done: Rewritten | None = None
            if not findings.are_sure:
                done = copied(files.source, files.target, settings.overwrite)
            used: Repairer | None = None

            def process(blocks: Any, rate_hz: int, channels: int) -> Iterator[Any]:
                nonlocal used
                used = repairer(findings, settings.options, rate_hz, channels, name)
                yield from repaired(blocks, used)

            if done is None:
                done = rewrite(
                    files.source, files.target, process,
                    name=name, overwrite=settings.overwrite, exact=True, progress=progress,
                )  # fmt: skip
        counts = used.counts if used else Counts()
        return Done(*told, done.clipped, (*done.notes, *counts.notes), counts.declipped, counts.filled_s)

    return work


def _facts(options: "RepairOptions") -> dict[str, Any]:
    """Return what determines an output besides its input, by names that a message can quote."""
    return {
        "--fix": sorted(options.fixes), "--clip-level": options.clip_level_db,
        "--gaps": options.gaps and file_hash(Path(options.gaps)),
        "--model": {task: file_hash(Path(file)) for task, file in options.models},
    }  # fmt: skip


def _told(done: Done) -> str:
    """Return what was found, in a sentence."""
    parts = counted(Counter(row["kind"] for row in done.intervals if _is_sure(row)))
    for row in filter(_is_sure, done.clipping):
        levels = [row[side] for side in ("low_db", "high_db") if row[side] is not None]
        parts.append(f"{row['kind']} clipping at {max(levels):.1f} dB in channel {row['channel']}")
    return f"found {', '.join(parts)}." if parts else "nothing was found; its sound stays as it is."


def _is_sure(found: dict[str, Any]) -> bool:
    """Return whether an interval or a level of clipping is sure enough to be repaired."""
    from deepnmf_cli.repair.spans import SURE

    return found["confidence"] >= SURE


def _is_whole(row: dict[str, Any]) -> bool:
    """Return whether a file is done in which nothing was found."""
    return row["status"] == "done" and not any(map(_is_sure, (*row["intervals"], *row["clipping"])))
