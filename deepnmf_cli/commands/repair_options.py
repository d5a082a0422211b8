"""Options of repair, which `repair`, `enhance` and `stream` share."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from deepnmf_cli.commands.options import AUTO, refuse_endless
from deepnmf_cli.errors import UsageError
from deepnmf_cli.repair import CLIPPING, FIXES, GAPS

if TYPE_CHECKING:
    from deepnmf_cli.repair.examine import RepairOptions

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
    "--longest-gap", "longest_gap_ms", metavar="MS", type=click.FloatRange(5, 100), default=LONGEST_GAP_MS,
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
    files = tuple((model.load(Path(file)).settings.task, file) for file in models)
    if len(tasks := [task for task, _ in files]) > len(set(tasks)):
        raise UsageError("--model", f"two models for {max(tasks, key=tasks.count)}", "one for each", "Leave one out.")
    return RepairOptions(fixes, None if gaps == AUTO else gaps, clip_level_db, files)
