"""`deepnmf stream`: remove the noise from sound as it arrives, through pipes or from a microphone to a loudspeaker."""

import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from types import FrameType
from typing import TYPE_CHECKING, Any, Self, cast

import click

from deepnmf_cli.commands import console
from deepnmf_cli.commands.options import (
    FIXES,
    LONGEST_GAP_MS,
    SEPARATE,
    TOGETHER,
    NumberRange,
    backend_for,
    backend_option,
    counted,
    depth_option,
    device_option,
    fix_option,
    live_clip_level_option,
    live_noise_profile_option,
    live_options,
    logging_option,
    longest_gap_option,
    max_attenuation_option,
    mix_option,
    model_option,
    quiet_option,
    refuse_without_repair,
    require_file,
)
from deepnmf_cli.errors import EXIT_DONE, EXIT_FAILED, EXIT_INTERRUPTED, EXIT_TERMINATED, Terminated, UsageError
from deepnmf_cli.signals import ending, handled

if TYPE_CHECKING:
    import numpy as np

    from deepnmf_cli.enhancer import Enhancer
    from deepnmf_cli.repair.examine import RepairOptions
    from deepnmf_cli.repair.live import LiveRepairer
    from deepnmf_cli.signal.pipe import PipeReader, Source
    from deepnmf_cli.signal.samples import Layout
    from deepnmf_cli.treatment import NoiseProfile

RATE_HZ, CHANNELS, FORMAT = 16000, 1, "s16le"
"""Layout that raw samples are assumed to have unless options say otherwise."""


@dataclass(frozen=True)
class _Sound:
    """What options say about raw samples, None where they say nothing, and whether each channel has its own mask."""

    rate_hz: int | None
    channels: int | None
    format: str | None
    separate: bool


@dataclass
class _Repair:
    """What is to be repaired before the noise is removed, and once `begin` has been called, what was repaired."""

    options: "RepairOptions"
    longest_s: float
    arriving: Callable[[Iterable["np.ndarray"]], Iterable["np.ndarray"]] = iter
    """Notes when blocks arrive, so that the time that repair takes counts as well."""
    repairer: "LiveRepairer | None" = None

    def begin(self, rate_hz: int, channels: int, name: str) -> int:
        """Begin a recording; return by how many samples repair delays it."""
        from deepnmf_cli.repair.live import LiveRepairer, warm_up

        warm_up(self.options, rate_hz, self.longest_s)
        self.repairer = LiveRepairer(self.options, rate_hz, channels, self.longest_s, name)
        return self.repairer.latency_samples

    def before(self, enhance: Callable[..., Iterator["np.ndarray"]]) -> Callable[..., Iterator["np.ndarray"]]:
        """Return `enhance` with the repair in front of it."""
        from deepnmf_cli.repair.live import repaired_live

        assert self.repairer is not None
        repairer = self.repairer
        return lambda blocks, *rest: enhance(repaired_live(self.arriving(blocks), repairer), *rest)

    def tell(self, quiet: bool) -> None:
        """Tell what was repaired. Raises AudioError if a channel was damaged throughout; all was written before."""
        assert self.repairer is not None
        kinds = counted(self.repairer.found)
        if self.repairer.declipped:
            kinds.append(f"{console.count(self.repairer.declipped, 'clipped sample')}")
        if not quiet and (kinds or not self.repairer.notes):
            console.say(f"Repaired {', '.join(kinds)}." if kinds else "There was nothing to repair.")
        for note in self.repairer.notes:
            console.warn(f"{note}.")
        if self.repairer.is_below_level:
            console.warn(f"no sample has reached the --clip-level of {self.options.clip_level_db:g} dB.")
        self.repairer.require_whole()


def _channels(context: click.Context, option: click.Parameter, value: str) -> tuple[int | None, bool]:
    """A callback for the option: the number of channels, if given, and whether each has a mask of its own."""
    from deepnmf_cli.signal.formats import MAX_CHANNELS

    mode = f"{TOGETHER}|{SEPARATE}"
    match = re.fullmatch(rf"(?P<alone>{mode})|(?P<number>-?\d{{1,99}})(?:,(?P<mode>{mode}))?", value)
    if match is None:
        raise click.BadParameter(
            f"{value!r} is not a number, {TOGETHER}, {SEPARATE}, or a number and one of these.", context, option
        )
    number = int(match["number"]) if match["number"] else None
    if number is not None and not 1 <= number <= MAX_CHANNELS:
        raise click.BadParameter(f"{number} is not in the range 1 to {MAX_CHANNELS}.", context, option)
    return number, SEPARATE in (match["alone"], match["mode"])


@click.command()
@model_option
@click.option(
    "--rate", "rate_hz", metavar="HZ", type=click.IntRange(min=1),
    show_default=f"{RATE_HZ}; with --live the microphone's own", help="Sampling rate of raw samples.",
)  # fmt: skip
@click.option(
    "--channels", metavar="[N,]MODE", callback=_channels, default=TOGETHER,
    show_default=f"{CHANNELS},{TOGETHER}",
    help=f"Number of channels of raw samples, and whether all share one mask ({TOGETHER}) or each has its own"
    f" ({SEPARATE}). For example 2, {SEPARATE} or 2,{SEPARATE}.",
)  # fmt: skip
@click.option(
    "--format", "sample_format", type=click.Choice(["s16le", "s24le", "s32le", "f32le"]), show_default=FORMAT,
    help="Format of raw samples, by ffmpeg's names: signed integer or float, bits, little-endian. Unless it is given,"
    " input that looks like a compressed file is refused.",
)  # fmt: skip
@click.option(
    "--block", "block_ms", metavar="MS", type=NumberRange(1, 10_000), default=16, show_default=True,
    help="Length of the blocks to process. Longer blocks need less computation and add delay.",
)  # fmt: skip
@max_attenuation_option
@mix_option
@live_noise_profile_option
@device_option
@backend_option
@depth_option
@click.option(
    "--keep-up", is_flag=True,
    help="Skip layers while the computer is too slow: leaves more noise instead of causing gaps and delay. Needs the"
    " backend torch, and is meant for models that were trained to be stopped early.",
)  # fmt: skip
@click.option(
    "--repair", "is_repairing", is_flag=True,
    help="First fill gaps and remove clicks, as `deepnmf repair` does, and restore what was clipped above a"
    " --clip-level. Adds about 150 ms of delay, with --clip-level 250 ms.",
)  # fmt: skip
@fix_option
@live_clip_level_option
@longest_gap_option
@click.option("--live", "is_live", is_flag=True, help="From the microphone to the loudspeaker, until Ctrl-C.")
@click.option("--input-device", metavar="N|NAME", help="With --live: the microphone, by number or part of its name.")
@click.option("--output-device", metavar="N|NAME", help="With --live: the loudspeaker.")
@click.option("--list-devices", is_flag=True, help="List the microphones and loudspeakers, then exit.")
@quiet_option
@logging_option
def command(
    model: str | None,
    rate_hz: int | None,
    channels: tuple[int | None, bool],
    sample_format: str | None,
    block_ms: float,
    max_attenuation_db: float | None,
    mix: float,
    noise_profile: "NoiseProfile | None",
    device: str,
    backend: str,
    depth: int | None,
    keep_up: bool,
    is_repairing: bool,
    fixes: tuple[str, ...],
    clip_level_db: float | None,
    longest_gap_ms: float,
    is_live: bool,
    input_device: str | None,
    output_device: str | None,
    list_devices: bool,
    quiet: bool,
) -> int:
    """Remove noise from sound as it arrives, from standard input to standard output.

    The input is WAV, which is detected and states its own rate, channels and format, or raw samples. The output has the
    same format and length and is written as the input arrives. Memory use is constant.

    \b
    Examples:
      cat noisy.wav | deepnmf stream > clean.wav
      deepnmf stream --block 100 --max-attenuation 20 < noisy.wav > clean.wav
      deepnmf stream --repair < noisy.wav > clean.wav

    \b
    With a sound card:
      arecord -f S16_LE -r 16000 -t raw | deepnmf stream | aplay -f S16_LE -r 16000 -t raw
      deepnmf stream --live

    Exit code: 0 done, 1 failed, or the input was not as long as its header says, 2 wrong usage, 130 ended by Ctrl-C, or
    143 by SIGTERM, after everything received had been enhanced.
    """
    if list_devices:
        _list_devices()
        return EXIT_DONE
    require_file(noise_profile)
    if is_live and sample_format:
        remedy = "Leave --format out: devices have their own."
        raise UsageError("--format", "--live beside it", "one of the two", remedy)
    if keep_up and depth is not None:
        raise UsageError("--keep-up", "--depth beside it", "one of the two", "Leave --depth out: it changes by itself.")
    repair = None
    if is_repairing:
        repair = _Repair(live_options(fixes, clip_level_db), longest_gap_ms / 1000)
    elif fixes != FIXES or clip_level_db is not None or longest_gap_ms != LONGEST_GAP_MS:
        refuse_without_repair("--fix, --clip-level, --longest-gap")
    if not is_live:
        if input_device or output_device:
            option = "--input-device" if input_device else "--output-device"
            raise UsageError(option, "no --live", "--live with it", "Add --live, or leave it out.")
        console.refuse_input("Try `deepnmf stream < noisy.wav > clean.wav`, or --live for a microphone.")
        console.refuse_output("Try `... > clean.wav`, or `... | aplay`.")

    from deepnmf_cli import zoo
    from deepnmf_cli.pace import Pace

    # Blocks are small: a second thread would cost more by waiting than it could gain.
    chosen = backend_for(backend, noise_profile, changes_depth=keep_up)
    enhancer = zoo.load_enhancer(model, device, chosen, threads=1, depth=depth)
    if noise_profile is not None and noise_profile.file is not None:
        enhancer = noise_profile.of_file(enhancer)
    block_s, sound = block_ms / 1000, _Sound(rate_hz, channels[0], sample_format, channels[1])
    enhance = partial(
        enhancer.enhance_blocks, max_attenuation_db=max_attenuation_db, mix=mix, at_once=True, separate=sound.separate
    )
    pace = Pace.of(enhancer) if keep_up else None
    if pace is not None:
        enhance = partial(enhance, feed=pace.feed)
        if repair is not None:
            repair.arriving = pace.arriving
    if is_live:
        code = _live(enhancer, enhance, sound, block_s, repair, (input_device, output_device), quiet)
    else:
        code = _pipe(enhancer, enhance, sound, block_s, repair, quiet)
    if pace is not None and pace.shortened_s:
        console.warn(
            f"{pace.shortened_s:.1f} s of the sound were not seen by all {pace.layers} layers, but by {pace.least} at"
            " the least, as the computer was too slow. Choose a smaller model or a larger --block."
        )
    return code


def _pipe(
    enhancer: "Enhancer",
    enhance: Callable[..., Iterator["np.ndarray"]],
    sound: _Sound,
    block_s: float,
    repair: _Repair | None,
    quiet: bool,
) -> int:
    """Enhance standard input to standard output and return the exit code."""
    from deepnmf_cli.signal.pipe import PipeReader, PipeWriter
    from deepnmf_cli.signal.samples import Layout

    # `read1` is missing in typeshed's type of the buffer.
    with _UntilInterrupted(cast("Source", sys.stdin.buffer)) as source:
        raw = Layout(sound.rate_hz or RATE_HZ, sound.channels or CHANNELS, sound.format or FORMAT)
        reader = PipeReader(source, raw, surely_raw=sound.format is not None)
        layout = reader.layout
        rate_hz, channels = layout.rate_hz, layout.channels
        if reader.format_chunk is not None:
            _refuse_contradictions(sound, layout)
        delay = 0
        if repair is not None:
            delay, enhance = repair.begin(rate_hz, channels, reader.name), repair.before(enhance)
        if not quiet:
            latency_s = (delay + enhancer.stream(rate_hz, channels).latency_samples) / rate_hz
            repairing = f" of which {1000 * delay / rate_hz:.0f} ms are for repair," if delay else ""
            console.say(
                f"Streaming {'raw' if reader.format_chunk is None else 'WAV'} {layout.format} at {rate_hz} Hz,"
                f" {console.count(channels, 'channel')}: {1000 * latency_s:.0f} ms behind,{repairing} plus the block."
            )
        writer = PipeWriter(sys.stdout.buffer, reader)
        # Samples that are not finite are gaps for the repair, and are refused only without it.
        blocks = reader.blocks(max(1, round(block_s * rate_hz)), check=repair is None)
        for speech in enhance(blocks, rate_hz, channels):
            writer.write(speech)
        writer.finish()
    for warning in _warnings(reader, writer.clipped, source.interrupted):
        console.warn(warning)
    fault = reader.fault(source.interrupted)
    if fault is not None:
        console.fail(str(fault))
    if repair is not None:
        repair.tell(quiet)
    return source.exit_code or (EXIT_DONE if fault is None else EXIT_FAILED)


def _warnings(reader: "PipeReader", clipped: int, interrupted: bool) -> list[str]:
    from deepnmf_cli.signal.survey import NEGLIGIBLE_BYTES

    found = []
    if clipped:
        found.append(f"{console.count(clipped, 'sample')} beyond full scale clipped. Lower the level of the input.")
    if reader.odd_bytes and not reader.missing_frames:
        size = reader.layout.frame_bytes
        bytes_left = console.count(reader.odd_bytes, "byte")
        found.append(
            f"{bytes_left} left over at the end, as a sample of all channels has {size}. Check --format and --channels."
        )
    if reader.surplus_bytes > NEGLIGIBLE_BYTES and reader.fault() is None:
        found.append(
            f"{reader.surplus_bytes} bytes behind the samples, which the header does not announce, were left out."
        )
    if not interrupted and not reader.frames:
        found.append("there were no samples on standard input.")
    return found


def _refuse_contradictions(sound: _Sound, found: "Layout") -> None:
    """Raise UsageError if an option contradicts the header of the WAV stream."""
    for option, wanted, value in (
        ("--rate", sound.rate_hz, found.rate_hz),
        ("--channels", sound.channels, found.channels),
        ("--format", sound.format, found.format),
    ):
        if wanted not in (None, value):
            remedy = f"Leave {option} out: the header knows."
            raise UsageError(option, f"{wanted} for a WAV stream of {value}", f"{value}", remedy)


class _UntilInterrupted:
    """A context manager for standard input that Ctrl-C or SIGTERM ends; what was read is still enhanced and written.

    The signal interrupts only the wait for data, never a computation. A second one ends the program at once.
    """

    def __init__(self, source: "Source") -> None:
        self._source, self._waiting, self._handling = source, False, handled(self._handle)
        self.exit_code = EXIT_DONE

    @property
    def interrupted(self) -> bool:
        return self.exit_code != EXIT_DONE

    def __enter__(self) -> Self:
        self._handling.__enter__()
        return self

    def __exit__(self, *exception: Any) -> None:
        self._handling.__exit__(*exception)

    def read1(self, size: int, /) -> bytes:
        """See `BufferedIOBase.read1`; empty once a signal has arrived."""
        if self.interrupted:
            return b""
        try:
            self._waiting = True
            return self._source.read1(size)
        except KeyboardInterrupt:
            return b""
        finally:
            self._waiting = False

    def _handle(self, number: int, frame: FrameType | None) -> None:
        (kind, code), again = ending(number), self.interrupted
        self.exit_code = code
        if again or self._waiting:
            raise kind


METER_CELLS, METER_RANGE_DB, METER_PERIOD_S = 20, 60.0, 0.1


def _list_devices() -> None:
    """Print the sound devices: number, name, channels; > marks the default input, < the default output."""
    from deepnmf_cli.signal.sound_card import sounddevice

    click.echo(str(sounddevice().query_devices()))


def _live(
    enhancer: "Enhancer",
    enhance: Callable[..., Iterator["np.ndarray"]],
    sound: _Sound,
    block_s: float,
    repair: _Repair | None,
    devices: tuple[str | None, str | None],
    quiet: bool,
) -> int:
    """Enhance until Ctrl-C or SIGTERM and return the exit code. Warns when blocks come late."""
    import numpy as np

    from deepnmf_cli.signal.sound_card import SoundCard, default_rate_hz

    microphone, loudspeaker = map(_device, devices)
    rate_hz, channels = sound.rate_hz or default_rate_hz(microphone), sound.channels or CHANNELS
    size = max(1, round(block_s * rate_hz))
    latency_samples, delay = enhancer.stream(rate_hz, channels).latency_samples, 0
    if repair is not None:
        delay, enhance = repair.begin(rate_hz, channels, "microphone"), repair.before(enhance)
    card = SoundCard(rate_hz, channels, size, latency_samples + delay, microphone, loudspeaker)
    # The first computation of a process takes many times as long as all others.
    enhancer.enhance(np.zeros((channels, size), np.float32), rate_hz)
    if not quiet:
        delay_ms = 1000 * card.delay_blocks * size / rate_hz
        repairing = f" and the repair's {1000 * delay / rate_hz:.0f} ms" if delay else ""
        console.say(
            f"Live at {rate_hz} Hz, {console.count(channels, 'channel')}: {delay_ms:.0f} ms behind, of which the"
            f" model's {1000 * latency_samples / rate_hz:.0f} ms{repairing}, plus what the devices add. Ctrl-C ends."
        )
    meter, code = _Meter(quiet), EXIT_DONE

    def recorded() -> Iterator["np.ndarray"]:
        for block in card.blocks():
            meter.hear(block)
            yield block

    try:
        with card:
            for speech in enhance(recorded(), rate_hz, channels):
                card.play(speech)
                meter.show(speech, card.late)
    except KeyboardInterrupt as stopped:
        code = EXIT_TERMINATED if isinstance(stopped, Terminated) else EXIT_INTERRUPTED
    finally:
        meter.clear()
    if card.late or card.lost:
        console.warn(
            f"of {console.count(card.recorded, 'block')}, {card.late} came too late and {card.lost} were lost."
            f" Choose a larger --block than {1000 * block_s:g} or a smaller model, or end other programs."
        )
    if repair is not None:
        repair.tell(quiet)
    return code


class _Meter:
    """Input and output levels on one line of the terminal, redrawn in place; elsewhere only the first late block."""

    def __init__(self, quiet: bool) -> None:
        self._quiet, self._drawing = quiet, not quiet and sys.stderr.isatty()
        self._recorded: np.ndarray | None = None
        self._drawn, self._warned = 0.0, False

    def hear(self, block: "np.ndarray") -> None:
        self._recorded = block

    def show(self, speech: "np.ndarray", late: int) -> None:
        from deepnmf_cli.signal.sound_card import level_dbfs

        if self._drawing and self._recorded is not None and time.monotonic() - self._drawn >= METER_PERIOD_S:
            self._drawn = time.monotonic()
            warning = f"  {late} late" if late else ""
            line = f"\rin {_bar(level_dbfs(self._recorded))}  out {_bar(level_dbfs(speech))}{warning}"
            click.echo(line, err=True, nl=False)
        elif late and not (self._drawing or self._quiet or self._warned):
            self._warned = True
            console.warn("a block came too late; silence was played instead.")

    def clear(self) -> None:
        if self._drawn:
            click.echo(err=True)


def _bar(level_dbfs: float) -> str:
    """For example "[########............] -36 dB"."""
    filled = round(METER_CELLS * min(1.0, max(0.0, 1 + level_dbfs / METER_RANGE_DB)))
    return f"[{'#' * filled}{'.' * (METER_CELLS - filled)}] {level_dbfs:3.0f} dB"


def _device(given: str | None) -> int | str | None:
    return int(given) if given and given.isdecimal() else given
