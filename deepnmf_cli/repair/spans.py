"""Damage to a recording and where it lies, either found in it or stated by a user."""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from deepnmf_cli.errors import AudioError, shortened

GAP, ZEROS, FROZEN, NOT_FINITE, CLICK = "gap", "zeros", "frozen", "not finite", "click"
"""Kinds of spans: the first is marked by the user, the others are found."""

HARD, RESAMPLED, SOFT, GIVEN = "hard", "resampled", "soft", "given"
"""Kinds of clipping: samples at the level; around it, as after a resampler or a codec; compressed below it; and at a
level stated by the user.
"""

SURE = 0.5
"""Minimum confidence of damage that is repaired."""

LARGEST_FILE_BYTES = 1 << 24
"""Largest file of gaps that is read: about half a million lines."""


@dataclass(frozen=True)
class Span:
    """Samples [first, end) of a channel, or of all channels if `channel` is None."""

    first: int
    end: int
    kind: str
    confidence: float = 1.0
    channel: int | None = None

    def row(self, rate_hz: float) -> dict[str, Any]:
        """Return a row for JSON, with times in seconds and channels from 1."""
        times = {"start_s": round(self.first / rate_hz, 6), "end_s": round(self.end / rate_hz, 6)}
        channel = None if self.channel is None else self.channel + 1
        return {**times, "channel": channel, "kind": self.kind, "confidence": round(self.confidence, 3)}


@dataclass(frozen=True)
class Clipping:
    """The levels beyond which samples of a channel are clipped: -`low` and `high`, infinite where there is none."""

    channel: int
    low: float
    high: float
    kind: str
    confidence: float = 1.0

    def row(self) -> dict[str, Any]:
        """Return a row for JSON, with levels in dB of full scale, None where there is none."""
        levels = {
            name: round(20 * math.log10(level), 2) if math.isfinite(level) else None
            for name, level in (("low_db", self.low), ("high_db", self.high))
        }
        return {"channel": self.channel + 1, **levels, "kind": self.kind, "confidence": round(self.confidence, 3)}


@dataclass(frozen=True)
class Findings:
    """All damage to a recording."""

    spans: list[Span] = field(default_factory=list)
    clipping: list[Clipping] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.spans or self.clipping)

    @property
    def are_sure(self) -> bool:
        """Whether any of the damage is sure enough to be repaired."""
        return any(found.confidence >= SURE for found in (*self.spans, *self.clipping))


_DECIMAL_COMMA = re.compile(r"-?\d*,\d+")
"""A time as spreadsheets write it in many languages. Beside a second time it cannot be START,END."""


def read_gaps(path: str | Path, rate_hz: float, frames: int, name: str) -> list[Span]:
    """Read the gaps that a file marks in a recording of `frames` frames called `name`.

    Each line has two times in seconds, where a gap starts and ends, separated by blanks, tabs, commas or semicolons;
    anything may follow, as in labels of Audacity. Lines that begin with # are left out, and gaps between two samples.
    Raises AudioError for what is no such file, and for gaps that overlap, do not end after they start, or lie outside
    the recording.
    """
    try:
        if (size := Path(path).stat().st_size) > LARGEST_FILE_BYTES:
            raise AudioError(path, f"{size:,} bytes", f"at most {LARGEST_FILE_BYTES:,}", "Name a file of gaps.")
        lines = Path(path).read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        found = f"no text that can be read ({getattr(error, 'strerror', None) or 'not UTF-8'})"
        raise AudioError(path, found, "lines of START END in seconds", "Check the path.") from error
    found, seconds = [], frames / rate_hz
    for number, line in enumerate(lines, 1):
        words = re.split(r"[;\s]+", line.strip())
        if words[0][:1] in ("", "#", "\\"):  # Audacity writes frequencies of a label in a line that begins with \
            continue
        where = f"{path} line {number}"
        times = [word for word in words[:2] if re.fullmatch(r"-?[\d.,]+", word)]
        if len(times) == 2 and any(map(_DECIMAL_COMMA.fullmatch, times)):
            raise AudioError(where, shortened(repr(line), 60), "times with a decimal point", "Write 0.5 for 0,5.")
        words = re.split(r"[,;\s]+", line.strip())
        try:
            start, end = float(words[0]), float(words[1])
        except (ValueError, IndexError):
            raise AudioError(where, shortened(repr(line), 60), "START END in seconds", "Mend the line.") from None
        if not 0 <= start < end < math.inf:
            raise AudioError(where, f"{start:g} to {end:g} s", "a start from 0 on and a later end", "Mend the line.")
        first, last = round(start * rate_hz), round(end * rate_hz)
        if last > frames:
            expected = f"times within the {seconds:g} s of {name}"
            raise AudioError(where, f"a gap that ends at {end:g} s", expected, "Mend the line.")
        if first < last:
            found.append((first, last, where))
    found.sort()
    for (_, end, earlier), (first, _, later) in pairwise(found):
        if first < end:
            raise AudioError(later, f"a gap that overlaps with that of {earlier}", "gaps apart", "Join the two.")
    return joined([Span(first, end, GAP) for first, end, _ in found])


def joined(spans: Iterable[Span]) -> list[Span]:
    """Return spans of each channel in order, those of one kind that touch as one."""
    found: list[Span] = []
    for span in sorted(spans, key=lambda span: (span.channel or 0, span.kind, span.first)):
        last = found[-1] if found else None
        if last and (last.channel, last.kind, last.end) == (span.channel, span.kind, span.first):
            found[-1] = replace(last, end=span.end)
        else:
            found.append(span)
    return found
