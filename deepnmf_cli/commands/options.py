"""Options that several commands share, so that they read and behave alike."""

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from deepnmf_cli.commands import console
from deepnmf_cli.errors import UsageError
from deepnmf_cli.repair import CLIPPING, FIXES, GAPS

if TYPE_CHECKING:
    from deepnmf_cli.repair.examine import RepairOptions
    from deepnmf_cli.treatment import NoiseProfile


class NumberRange(click.FloatRange):
    """A range of numbers without NaN, which click's ranges accept: comparisons with it are all false."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        number = super().convert(value, param, ctx)
        if math.isnan(number):
            self.fail("nan is not a number.", param, ctx)
        return number


def refuse_endless(context: click.Context, option: click.Parameter, value: float | None) -> float | None:
    """A callback for numbers that must be finite."""
    if value is not None and not math.isfinite(value):
        what = "a number" if math.isnan(value) else "finite"
        raise click.BadParameter(f"{value} is not {what}.", context, option)
    return value


model_option = click.option(
    "--model",
    metavar="NAME|FILE",
    help="A model of `deepnmf models`, or a .safetensors file that `deepnmf train` wrote.",
    show_default="the one marked * in `deepnmf models`",
)
device_option = click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="auto",
    show_default=True,
    help="Where the network runs; auto uses a GPU if there is one.",
)
backend_option = click.option(
    "--backend",
    type=click.Choice(["auto", "native", "onnx", "torch"]),
    default="auto",
    show_default=True,
    help="What computes the network. On a CPU, auto uses the library that `deepnmf build-native` compiled if it can run"
    " the model, else the model's ONNX file if there is one, else torch; on a GPU it uses torch.",
)
max_attenuation_option = click.option(
    "--max-attenuation",
    "max_attenuation_db",
    metavar="DB",
    type=NumberRange(min=0),
    show_default="no limit",
    help="Attenuate no sound by more than this. It leaves some noise and sounds more natural; 12 to 20 is common.",
)
mix_option = click.option(
    "--mix",
    metavar="SHARE",
    type=NumberRange(0, 1),
    default=1.0,
    show_default=True,
    help="Share of the enhanced sound in the output; the rest is the input. 0.8 leaves some noise.",
)
DEPTH = click.IntRange(min=1)
depth_option = click.option(
    "--depth",
    metavar="K",
    type=DEPTH,
    show_default="all layers",
    help="Stop the network after its first K layers: faster, but removes less noise. Needs the backend torch or"
    " native.",
)
skip_existing_option = click.option(
    "--skip-existing", is_flag=True,
    help="Resume an interrupted run: skip files that are complete, and warn if the input, the model or an option has"
    " changed since. With --overwrite, redo those.",
)  # fmt: skip
overwrite_option = click.option("--overwrite", is_flag=True, help="Replace existing outputs.")
json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON document on standard output instead of text."
)
VERBOSE = {"is_flag": True, "help": "Log each step to standard error, and where the time goes."}
verbose_option = click.option("-v", "--verbose", **VERBOSE)


def _log(context: click.Context, option: click.Parameter, value: bool) -> None:
    if value:
        console.log()


logging_option = click.option("-v", "--verbose", **VERBOSE, expose_value=False, callback=_log)
"""The same for commands that do all their work in this process."""

TOGETHER, SEPARATE, AUTO = "together", "separate", "auto"
"""How the channels of a recording are enhanced: with one mask, each with its own, or as their coherence decides."""
quiet_option = click.option(
    "-q", "--quiet", is_flag=True, help="Print only errors and warnings: no progress bar, no summary."
)


_STRETCH = re.compile(r"(\d*\.?\d*):(\d*\.?\d*)")


def stretch_of(text: str) -> tuple[float, float | None] | None:
    """Return START and END of a text START:END in seconds: 0 and None where they are left out; None for other texts.

    Raises ValueError, which says what is wrong, for a lone dot and for an end that does not lie behind the start.
    """
    if (match := _STRETCH.fullmatch(text)) is None:
        return None
    if "." in match.groups():
        raise ValueError(f"{text!r} is neither START:END in seconds nor a file.")
    start, end = float(match[1] or 0), float(match[2]) if match[2] else None
    if end is not None and end <= start:
        raise ValueError(f"{text!r} ends before it starts.")
    return start, end


def _profile(context: click.Context, option: click.Parameter, value: str | None) -> "NoiseProfile | None":
    """A callback for the option: START:END in seconds, either of which may be left out, or the name of a file."""
    if value is None:
        return None
    from deepnmf_cli.treatment import NoiseProfile

    try:
        found = stretch_of(value)
    except ValueError as error:
        raise click.BadParameter(str(error), context, option) from error
    return NoiseProfile(value) if found is None else NoiseProfile(None, *found)


_ATOMS = "There must be no speech in it. For models with atoms, such as deep-nmf."
noise_profile_option = click.option(
    "--noise-profile", metavar="START:END|FILE", callback=_profile,
    help=f"Learn the noise from these seconds of each input, or from this file. {_ATOMS}",
)  # fmt: skip
live_noise_profile_option = click.option(
    "--noise-profile", metavar="FILE", callback=_profile, help=f"Learn the noise from this file. {_ATOMS}"
)


def backend_for(backend: str, profile: "NoiseProfile | None", changes_depth: bool = False) -> str:
    """Return the backend that can learn from a profile, or change its depth, if the choice is free: an exported model
    can do neither.
    """
    return "torch" if (profile is not None or changes_depth) and backend == "auto" else backend


def require_file(profile: "NoiseProfile | None") -> None:
    """Raise UsageError for a stretch of an input that has not arrived yet."""
    if profile is not None and profile.file is None:
        raise UsageError(
            "--noise-profile", "seconds of the input", "a file, as the input is still to come", "Name one."
        )


WORDS = {
    "gap": ("marked gap", "marked gaps"),
    "zeros": ("interval of zeros", "intervals of zeros"),
    "frozen": ("interval of held samples", "intervals of held samples"),
    "not finite": ("interval of non-finite samples", "intervals of non-finite samples"),
    "click": ("click", "clicks"),
}
"""Singular and plural of each kind of damage."""


def _fixes(context: click.Context, option: click.Parameter, value: str) -> tuple[str, ...]:
    """A callback for words separated by commas."""
    words = [word.strip() for word in value.split(",")]
    for word in words:
        if word not in FIXES:
            raise click.BadParameter(f"{word!r} is none of {', '.join(FIXES)}.", context, option)
    return tuple(word for word in FIXES if word in words)


def _level(context: click.Context, option: click.Parameter, value: str | None) -> float | None:
    """A callback for decibels, or auto."""
    if value in (None, AUTO):
        return None
    try:
        level = float(value)
    except ValueError:
        raise click.BadParameter(f"{value!r} is neither {AUTO} nor a number of decibels.", context, option) from None
    refuse_endless(context, option, level)
    if not -100 <= level <= 100:
        raise click.BadParameter(f"{value} is beyond 100 dB.", context, option)
    return level


fix_option = click.option(
    "--fix", "fixes", metavar="WHAT", default=",".join(FIXES), show_default=True, callback=_fixes,
    help="What to repair, separated by commas.",
)  # fmt: skip
gaps_option = click.option(
    "--gaps", metavar="FILE|auto", default=AUTO, show_default=True,
    help="A text file with START and END of each gap in seconds, one gap per line; auto finds lost packets, frozen"
    " samples and NaN.",
)  # fmt: skip
clip_level_option = click.option(
    "--clip-level", "clip_level_db", metavar="DB|auto", default=AUTO, show_default=True, callback=_level,
    help="Level above which samples are clipped, in dB relative to full scale; auto detects it.",
)  # fmt: skip

live_clip_level_option = click.option(
    "--clip-level", "clip_level_db", metavar="DB", callback=_level,
    help="With --repair: level above which samples are clipped, in dB relative to full scale. Without it clipping is"
    " not repaired, since the level can only be detected in whole recordings.",
)  # fmt: skip

LONGEST_GAP_MS = 40.0
"""Longest gap that streams fill unless told otherwise."""

longest_gap_option = click.option(
    "--longest-gap", "longest_gap_ms", metavar="MS", type=NumberRange(5, 100), default=LONGEST_GAP_MS,
    show_default=True,
    help="With --repair: longest gap to fill. It adds a delay: 129 ms for 20, 149 ms for 40, 258 ms for 100.",
)  # fmt: skip


def counted(kinds: Mapping[str, int]) -> list[str]:
    """Return how much there is of each kind of damage, in words."""
    return [f"{number} {WORDS[kind][number != 1]}" for kind, number in kinds.items()]


def refuse_without_repair(options: str) -> NoReturn:
    """Raise UsageError for options that say how to repair, where nothing is to be repaired."""
    raise UsageError(options, "no --repair", "--repair beside them", "Add it.")


def live_options(fixes: tuple[str, ...], clip_level_db: float | None) -> "RepairOptions":
    """Return what the options ask for in a stream, where clipping is repaired only if its level is given.

    Raises UsageError for a level if clipping is not to be repaired, and for clipping alone without a level.
    """
    if fixes == (CLIPPING,) and clip_level_db is None:
        found, expected = "clipping alone, and no --clip-level", "the level, which a stream cannot know beforehand"
        raise UsageError("--fix", found, expected, "Tell it by --clip-level.")
    return repair_options(["-"], fixes, AUTO, clip_level_db)


def repair_options(
    inputs: Sequence[str], fixes: tuple[str, ...], gaps: str, clip_level_db: float | None, models: Sequence[str] = ()
) -> "RepairOptions":
    """Return what the options ask for. Raises UsageError for a file of gaps with several inputs, and ModelError."""
    from deepnmf_cli.repair import model
    from deepnmf_cli.repair.examine import RepairOptions

    if gaps != AUTO and (len(inputs) > 1 or Path(inputs[0]).is_dir()):
        raise UsageError("--gaps", "one file of gaps for several inputs", "one input", "Repair them one by one.")
    if gaps != AUTO and GAPS not in fixes:
        raise UsageError("--gaps", "--fix without gaps", "gaps among --fix", "Leave one of them out.")
    if clip_level_db is not None and CLIPPING not in fixes:
        raise UsageError("--clip-level", "--fix without clipping", "clipping among --fix", "Leave one of them out.")
    found = [model.find(name) for name in models]
    files = tuple((model.load(file).settings.task, str(file)) for file in found)
    if len(tasks := [task for task, _ in files]) > len(set(tasks)):
        raise UsageError("--model", f"two models for {max(tasks, key=tasks.count)}", "one for each", "Leave one out.")
    return RepairOptions(fixes, None if gaps == AUTO else gaps, clip_level_db, files)
