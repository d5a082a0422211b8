"""`deepnmf stream --live`: from the microphone through a model to the loudspeaker."""

import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from deepnmf_cli.commands import console
from deepnmf_cli.errors import EXIT_DONE, EXIT_INTERRUPTED, EXIT_TERMINATED, Terminated

if TYPE_CHECKING:
    import numpy as np

    from deepnmf_cli.enhancer import Enhancer

METER_CELLS, METER_RANGE_DB, METER_PERIOD_S = 20, 60.0, 0.1


def list_devices() -> None:
    """Print the sound devices: number, name, channels; > marks the default input, < the default output."""
    from deepnmf_cli.signal.sound_card import sounddevice

    click.echo(str(sounddevice().query_devices()))


def run(
    enhancer: "Enhancer",
    rate_hz: int | None,
    channels: int,
    block_s: float,
    max_attenuation_db: float | None,
    mix: float,
    devices: tuple[str | None, str | None],
    quiet: bool,
) -> int:
    """Enhance until Ctrl-C or SIGTERM; returns the exit code. Warns when blocks come late."""
    import numpy as np

    from deepnmf_cli.signal.sound_card import SoundCard, default_rate_hz

    microphone, loudspeaker = map(_device, devices)
    rate_hz = rate_hz or default_rate_hz(microphone)
    size = max(1, round(block_s * rate_hz))
    latency_samples = enhancer.stream(rate_hz, channels).latency_samples
    card = SoundCard(rate_hz, channels, size, latency_samples, microphone, loudspeaker)
    # The first computation of a process takes many times as long as all others.
    enhancer.enhance(np.zeros((channels, size), np.float32), rate_hz)
    if not quiet:
        delay_ms = 1000 * card.delay_blocks * size / rate_hz
        console.say(
            f"Live at {rate_hz} Hz, {console.count(channels, 'channel')}: {delay_ms:.0f} ms behind, of which the"
            f" model's {1000 * latency_samples / rate_hz:.0f} ms, plus what the devices add. Ctrl-C ends."
        )
    meter, code = _Meter(quiet), EXIT_DONE

    def recorded() -> Iterator["np.ndarray"]:
        for block in card.blocks():
            meter.hear(block)
            yield block

    try:
        with card:
            for speech in enhancer.enhance_blocks(recorded(), rate_hz, channels, max_attenuation_db, mix, True):
                card.play(speech)
                meter.show(speech, card.late)
    except KeyboardInterrupt as stopped:
        code = EXIT_TERMINATED if isinstance(stopped, Terminated) else EXIT_INTERRUPTED
    finally:
        meter.clear()
    if card.late or card.lost:
        console.say(
            f"Warning: of {console.count(card.recorded, 'block')}, {card.late} came too late and {card.lost} were lost."
            f" Choose a larger --block than {1000 * block_s:g} or a smaller model, or end other programs."
        )
    return code


class _Meter:
    """The levels of both sides on one line of the terminal, redrawn in place; elsewhere only the first late block."""

    def __init__(self, quiet: bool) -> None:
        self._quiet, self._drawing = quiet, not quiet and sys.stderr.isatty()
        self._recorded: np.ndarray | None = None
        self._drawn, self._warned = 0.0, False

    def hear(self, block: "np.ndarray") -> None:
        self._recorded = block

    def show(self, speech: "np.ndarray", late: int) -> None:
        from deepnmf_cli.signal.sound_card import level_dbfs

        if self._drawing and time.monotonic() - self._drawn >= METER_PERIOD_S:
            self._drawn = time.monotonic()
            warning = f"  {late} late" if late else ""
            line = f"\rin {_bar(level_dbfs(self._recorded))}  out {_bar(level_dbfs(speech))}{warning}"
            click.echo(line, err=True, nl=False)
        elif late and not (self._drawing or self._quiet or self._warned):
            self._warned = True
            console.say("Warning: a block came too late; silence was played instead.")

    def clear(self) -> None:
        if self._drawn:
            click.echo(err=True)


def _bar(level_dbfs: float) -> str:
    """For example "[########............] -36 dB"."""
    filled = round(METER_CELLS * min(1.0, max(0.0, 1 + level_dbfs / METER_RANGE_DB)))
    return f"[{'#' * filled}{'.' * (METER_CELLS - filled)}] {level_dbfs:3.0f} dB"


def _device(given: str | None) -> int | str | None:
    return int(given) if given and given.isdecimal() else given
