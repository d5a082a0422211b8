"""`deepnmf enhance`: remove the noise from recordings."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from deepnmf_cli.commands import console, remote
from deepnmf_cli.commands.jobs import Call, Engine, Settings, enhance_all, headers, process_count
from deepnmf_cli.commands.options import (
    AUTO,
    FIXES,
    SEPARATE,
    TOGETHER,
    backend_option,
    clip_level_option,
    depth_option,
    device_option,
    fix_option,
    gaps_option,
    max_attenuation_option,
    mix_option,
    model_option,
    noise_profile_option,
    overwrite_option,
    quiet_option,
    refuse_without_repair,
    repair_options,
    skip_existing_option,
    verbose_option,
)
from deepnmf_cli.commands.places import STREAM, Job, Places, Plan, plan, refuse_streams
from deepnmf_cli.commands.record import Record
from deepnmf_cli.errors import UsageError
from deepnmf_cli.workers import Progress

if TYPE_CHECKING:
    from deepnmf_cli.treatment import Enhanced, NoiseProfile

MASKS = {TOGETHER: False, SEPARATE: True, AUTO: None}
"""What --channels means for `Treatment.separate`."""


@click.command()
@click.argument("inputs", metavar="INPUT...", nargs=-1, required=True, type=click.Path(allow_dash=True))
@click.option(
    "-o", "--output", metavar="OUTPUT", type=click.Path(allow_dash=True),
    help="The enhanced file; for several inputs a folder; - for standard output (WAV).  [default: NAME.enhanced.SUFFIX"
    " beside each file, NAME.enhanced/ beside each folder]",
)  # fmt: skip
@click.option("--in-place", is_flag=True, help="Replace each input once its enhanced file is complete.")
@click.option(
    "--noise-out", metavar="FILE", type=click.Path(),
    help="Also write what was removed: speech + noise = input. For several inputs, a folder.",
)  # fmt: skip
@click.option(
    "--vad", is_flag=True,
    help="Also write where there is speech: NAME.vad.txt beside each output, with start (s), end (s) and probability"
    " on each line. Audacity reads it as labels.",
)  # fmt: skip
@skip_existing_option
@overwrite_option
@click.option("--dry-run", is_flag=True, help="List what would be done without writing anything.")
@model_option
@max_attenuation_option
@mix_option
@click.option(
    "--channels", "channel_mode", type=click.Choice([AUTO, TOGETHER, SEPARATE]), default=AUTO, show_default=True,
    help="together: one mask for all channels, which keeps the stereo image. separate: a mask for each channel, as for"
    " calls with one speaker per channel. auto decides by whether the channels share sound.",
)  # fmt: skip
@noise_profile_option
@click.option(
    "--loudness", "loudness_lufs", metavar="LUFS", type=float,
    help="Normalise each output to this loudness (EBU R 128; -16 for podcasts, -23 for broadcasts) as far as its true"
    " peak stays below -1 dBTP. Needs the extra [media].",
)  # fmt: skip
@click.option(
    "--repair", is_flag=True,
    help="First fill gaps, remove clicks and restore clipped sound, as `deepnmf repair` does with --fix, --gaps and"
    " --clip-level.",
)  # fmt: skip
@fix_option
@gaps_option
@clip_level_option
@depth_option
@device_option
@backend_option
@click.option(
    "--jobs", metavar="N", type=click.IntRange(min=1), show_default="one per 5 minutes of audio, at most one per CPU",
    help="How many files to enhance at the same time, each in its own process.",
)  # fmt: skip
@click.option(
    "--engine", type=click.Choice(["local", "ray"]), default="local", show_default=True,
    help="local: processes on this machine. ray: workers of a Ray cluster, one per CPU, or per GPU where networks run"
    " on GPUs; needs the extra [cluster].",
)  # fmt: skip
@click.option(
    "--address", metavar="HOST:PORT",
    help="Cluster for --engine ray; auto is the one running on this machine.  [default: RAY_ADDRESS, or else this"
    " machine alone]",
)  # fmt: skip
@click.option(
    "--json", "as_json", is_flag=True,
    help="Print JSON Lines on standard output instead of text: one object per finished file, and a summary.",
)  # fmt: skip
@quiet_option
@verbose_option
def command(
    inputs: tuple[str, ...],
    output: str | None,
    in_place: bool,
    noise_out: str | None,
    vad: bool,
    skip_existing: bool,
    overwrite: bool,
    dry_run: bool,
    model: str | None,
    max_attenuation_db: float | None,
    mix: float,
    channel_mode: str,
    noise_profile: "NoiseProfile | None",
    loudness_lufs: float | None,
    repair: bool,
    fixes: tuple[str, ...],
    gaps: str,
    clip_level_db: float | None,
    depth: int | None,
    device: str,
    backend: str,
    jobs: int | None,
    engine: str,
    address: str | None,
    as_json: bool,
    quiet: bool,
    verbose: bool,
) -> int:
    """Remove noise from recordings.

    INPUT is an audio file (WAV, FLAC, OGG, MP3, AIFF, AU and more; with the extra [media] also M4A and films), a folder
    (its tree is kept below OUTPUT), or - for standard input, at any sampling rate and with up to 64 channels. The
    output keeps the rate, channels, length and bit depth of its input; its suffix selects the container.

    \b
    Examples:
      deepnmf enhance noisy.wav
      deepnmf enhance noisy.wav -o clean.wav
      deepnmf enhance recordings/ -o enhanced/ --skip-existing
      deepnmf enhance noisy.wav -o speech.wav --noise-out noise.wav
      cat noisy.wav | deepnmf enhance - > clean.wav

    Exit code: 0 done, 1 failed, 2 wrong usage (nothing was done), 3 some inputs failed, 130 interrupted, 143
    terminated.
    """
    if noise_out == STREAM:
        raise UsageError("--noise-out", "-", "a file name", "Name a file for the noise.")
    if loudness_lufs is not None:
        from deepnmf_cli.signal import loudness

        loudness.check(loudness_lufs, noise_out)
    if repair and noise_out is not None:
        raise UsageError("--repair", "--noise-out beside it", "one of the two", "Repair first, with `deepnmf repair`.")
    if not repair and (fixes != FIXES or gaps != AUTO or clip_level_db is not None):
        refuse_without_repair("--fix, --gaps, --clip-level")
    if vad:
        _check_masks(model, depth)
    if verbose:
        console.log()
    if address is not None and engine != "ray":
        raise UsageError("--address", "no --engine ray", "both", "Add --engine ray, or leave --address out.")
    if engine == "ray" and gaps != AUTO:  # marks one recording, in a file that other machines may not see
        raise UsageError("--gaps", "--engine ray beside it", "one recording on this machine", "Leave --engine out.")
    runner = Engine(jobs, engine == "ray", address)
    profile = noise_profile.file if noise_profile is not None else None
    read = tuple(path for path in (profile, None if gaps == AUTO else gaps) if path is not None)
    places = Places(_plain(output), _plain(noise_out), in_place, speech=vad, read=read)
    planned = _plan([remote.plain(path) for path in inputs], places, overwrite or skip_existing, runner)
    refuse_streams(planned.jobs, as_json, skip_existing)
    from deepnmf_cli.treatment import Treatment

    fixed = repair_options(inputs, fixes, gaps, clip_level_db) if repair else None
    treatment = Treatment(max_attenuation_db, mix, MASKS[channel_mode], noise_profile, fixed, loudness_lufs)
    settings = Settings(model, device, backend, treatment, overwrite, depth, verbose)
    batch = _Enhancing(planned, settings, runner, console.json_lines() if as_json else None, quiet, dry_run)
    several = len(planned.jobs) + len(planned.unreadable) > 1
    record = None
    with console.ended_by(batch.end):
        try:
            if several or skip_existing:
                facts = _facts(settings, channel_mode, noise_out)
                far = isinstance(planned, remote.RemotePlan)
                record = remote.RemoteRecord("enhance", facts, planned) if far else Record("enhance", facts)
            todo = batch.begin(record, skip_existing, overwrite)
            if dry_run:
                batch.list(todo)
            elif todo:
                batch.run(todo, record)
        finally:
            if record is not None:
                record.close()
    return batch.outcome.exit_code


def _check_masks(model: str | None, depth: int | None) -> None:
    """Raise UsageError if masks are known to leave too much noise for detecting speech by them, and warn if that is not
    known.
    """
    from deepnmf_cli import zoo
    from deepnmf_cli.signal.activity import MEASURED

    if depth is not None:
        raise UsageError("--vad", "--depth beside it", "all layers of the network", "Leave one of them out.")
    model = model or zoo.DEFAULT_MODEL
    names = f"{', '.join(MEASURED[:-1])} or {MEASURED[-1]}"
    if model not in MEASURED and any(model == shipped.name for shipped in zoo.available()):
        raise UsageError("--vad", f"--model {model}, whose masks leave too much noise", names, "Choose one of these.")
    if model not in MEASURED:
        console.warn(f"--vad was measured with {names}: where {model} leaves more noise, that may be taken for speech.")


class _Enhancing(Call):
    """The work of one call."""

    def __init__(self, planned: Plan, settings: Settings, engine: Engine, tell: Any, quiet: bool, dry: bool) -> None:
        super().__init__(planned, tell, quiet, dry)
        self._settings, self._engine = settings, engine

    def list(self, jobs: Sequence[Job]) -> None:
        """Report what `run` would do."""
        known = headers(jobs)
        for job in jobs:
            info = known.get(job)
            size = (
                ""
                if info is None
                else f" ({info.seconds:.1f} s, {info.rate_hz} Hz, {console.count(info.channels, 'channel')})"
            )
            beside = "".join(f", {path}" for path in (job.removed, job.speech) if path is not None)
            row = self.row(job.source, job)
            if info is not None:
                row |= {"seconds": info.seconds, "rate_hz": info.rate_hz, "channels": info.channels}
            self.outcome.planned(row)
            if self.tell is None:
                console.announce(f"{job.source} -> {job.target}{beside}{size}")

    def are_spread(self, files: int, seconds: float) -> bool:
        where = self._settings.device, self._settings.backend
        return self._engine.ray or process_count(self._engine.jobs, files, seconds, *where) > 1

    def results(self, jobs: Sequence[Job], seconds: float, progress: Progress) -> Iterator[tuple[Job, Any]]:
        return enhance_all(jobs, self._settings, self._engine, seconds, progress)

    def report(self, job: Job, done: "Enhanced") -> None:
        self.elapsed_s += done.elapsed_s
        info, clipped, notes = done.rewritten.info, done.rewritten.clipped, list(done.rewritten.notes)
        loudness = None
        if done.loudness is not None:
            loudness = {"before": done.loudness.before, "after": done.loudness.after}
            notes += filter(None, [done.loudness.note])
        row = self.row(job.source, job) | {
            "seconds": info.seconds, "rate_hz": info.rate_hz, "channels": info.channels,
            "channel_mode": SEPARATE if done.separate else TOGETHER, "clipped": sum(clipped.values()),
            "real_time_factor": done.elapsed_s / info.seconds, "notes": notes, "loudness": loudness,
            "speech": None if done.speech is None else [_spoken(stretch) for stretch in done.speech],
        }  # fmt: skip
        if self._settings.treatment.separate is None and done.separate:
            self.say(f"{job.source}: the channels have little in common; each was enhanced on its own.")
        warnings = [f"{job.source}: {note}." for note in notes]
        self.outcome.done(row, warnings + [_clipping(path, samples) for path, samples in clipped.items() if samples])

    def summary(self, seconds: float) -> str:
        outcome = self.outcome
        if self.dry:
            return f"{console.count(outcome.count('planned'), 'file')} to enhance; nothing was written."
        text = outcome.summary("Enhanced") if outcome.rows else ""
        if text and outcome.count("done"):
            speed = f"a real-time factor of {self.elapsed_s / seconds:.3f}"
            text += f" {seconds:.1f} s of audio in {self.elapsed_s:.1f} s, {speed}."
        return text

    def row(self, source: str, job: Job | None = None) -> dict[str, Any]:
        from deepnmf_cli import zoo  # takes seconds, in which other processes already work

        target, removed, speech = (job.target, job.removed, job.speech) if job else (None, None, None)
        model = (self._settings.model or zoo.DEFAULT_MODEL) if job else None
        return {
            "type": "file", "input": source, "output": target, "noise": removed, "seconds": None, "rate_hz": None,
            "channels": None, "channel_mode": None, "model": model, "clipped": None, "real_time_factor": None,
            "notes": [], "loudness": None, "vad": speech, "speech": None,
        }  # fmt: skip


def _plain(path: str | None) -> str | None:
    return None if path is None else remote.plain(path)


def _plan(inputs: Sequence[str], places: Places, may_exist: bool, engine: Engine) -> Plan:
    """Return the plan of a call, whose inputs and outputs may be URLs."""
    addresses = [path for path in (*inputs, places.output, places.removed) if remote.is_url(path)]
    if engine.ray and STREAM in (*inputs, places.output):
        raise UsageError("--engine ray", "standard input or output", "files", "Name files, or leave --engine out.")
    if not addresses:
        return plan(inputs, places, may_exist)
    for address in addresses:
        remote.require(address)
        if address.partition("://")[0] in remote.PRIVATE and (engine.ray or (engine.jobs or 1) > 1):
            remedy = "Choose another store, or one process of this machine."
            raise UsageError(address, "what only one process sees", "a store that all of them see", remedy)
    return remote.plan(inputs, places, may_exist)


def _facts(settings: Settings, channel_mode: str, removed: str | None) -> dict[str, Any]:
    """Return what determines an output besides its input, by names that a message can quote."""
    from deepnmf_cli import zoo
    from deepnmf_cli.checkpoint import file_hash

    def content(named: Any, key: str) -> dict[str, Any] | None:
        """A dataclass as a table, with the hash of the file that it names in the place of its path."""
        table = named and asdict(named)
        return table and {
            **table,
            key: file_hash(file) if table[key] and (file := Path(table[key])).is_file() else None,
        }

    done = settings.treatment
    return {
        "model": file_hash(zoo.find(settings.model)), "--max-attenuation": done.max_attenuation_db,
        "--mix": done.mix, "--depth": settings.depth, "--channels": channel_mode, "--loudness": done.loudness_lufs,
        "--repair": content(done.repair, "gaps"), "--noise-profile": content(done.noise_profile, "file"),
        "--noise-out": removed is not None,
    }  # fmt: skip


def _spoken(stretch: Any) -> dict[str, float]:
    return {**asdict(stretch), "probability": round(stretch.probability, 3)}


def _clipping(path: Path, samples: int) -> str:
    return f"{path}: {console.count(samples, 'sample')} beyond full scale clipped. Lower the level of the input."
