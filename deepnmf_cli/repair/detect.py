"""Detection of damage: clipping by the histogram of peaks, runs of equal samples, and clicks by prediction errors.

Memory is bounded: a recording is scanned in pieces, each together with its surroundings. What is found does not depend
on where the pieces are cut.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from deepnmf_cli.repair.autoregression import predictor, stretches
from deepnmf_cli.repair.spans import (
    CLICK,
    FROZEN,
    HARD,
    NOT_FINITE,
    RESAMPLED,
    SOFT,
    SURE,
    ZEROS,
    Clipping,
    Findings,
    Span,
    joined,
)
from deepnmf_cli.signal.samples import LARGEST

PIECE_S = 8.0
"""Minimum length of a piece that is scanned at once."""

BIN, LOWEST = 0.005, 1e-4
"""Width of the histogram's bins, half a percent of the amplitude, and the lower end of the first, -80 dB."""
BINS = math.ceil(math.log(LARGEST / LOWEST) / BIN)
"""They reach up to the largest sample that is accepted: in a last bin for all that is louder, peaks would pile up."""

LEAST_PEAKS = 10
"""Minimum number of peaks in a pile; fewer may be due to chance."""

SHORTEST_S, LONGEST_S, EDGE_S = 0.002, 1.0, 0.005
"""Shortest and longest run of equal samples that counts as lost, and length of the sound next to it that tells a loss
from a pause.
"""

LEAST_EDGE = 1e-3
"""Minimum RMS of that sound: below -60 dB nobody hears a loss."""

PAST_S = 0.064
"""Length of the sound before a run that gives the quantisation step and the offset. In live sound, what follows the run
may not have arrived yet.
"""

CLOSE_S, COARSE = 0.0005, 2.5
"""Sound of few bits comes to rest at one value by itself: nothing is lost where the samples within CLOSE_S of a run are
within COARSE quantisation steps of its value.
"""

CLICK_FRAME_S, CLICK_ORDER, CLICK_S, CLICK_RATIO = 0.064, 24, 0.0015, 30.0
"""Length of the frames in which clicks are looked for, order of the predictor, length of the longest click, and ratio
of its error to the median error.
"""

ALONE = 0.5
"""Largest error elsewhere in the frame, relative to that of the click: larger ones are pitch pulses, or a burst."""

WEAK, STRONG = 0.05, 0.35
"""Errors near a click, relative to its largest: if those above WEAK reach further than `CLICK_S`, it is a burst; those
above STRONG are the click.
"""


CLICK_AHEAD_S = 0.75 * CLICK_FRAME_S + 2 * CLICK_S + EDGE_S
"""How far after a click its frame, and the samples that reveal losses in that frame, may end."""


class Scanner:
    """Scans one recording for damage: `feed` its blocks (C, n) float64, then `finish`."""

    def __init__(
        self,
        rate_hz: int,
        channels: int,
        piece_s: float = PIECE_S,
        longest_s: float = LONGEST_S,
        clicks: bool = True,
        levels: bool = True,
    ) -> None:
        """Look for runs of up to `longest_s`, at most LONGEST_S, and if asked, for `clicks` and `levels` of clipping.

        Samples are scanned once they are followed by as many as these need, and by `piece_s` more. Longer runs of
        samples that are not finite are found in parts if `longest_s` is LONGEST_S, and left out otherwise.
        """
        self.rate_hz, self.channels = rate_hz, channels
        self._longest, self._piece, self._clicks = longest_s * rate_hz, round(piece_s * rate_hz), clicks
        self._levels, self._by_parts = levels, longest_s >= LONGEST_S
        self._before = round((LONGEST_S + 3 * CLICK_FRAME_S) * rate_hz)
        self._margin = math.ceil(max(longest_s + EDGE_S, CLICK_AHEAD_S * clicks) * rate_hz) + 4
        self._buffer, self._begin, self._done = np.empty((channels, 0)), 0, 0
        self._peaks = np.zeros((channels, 2, BINS + 2))
        self._flat = np.zeros((channels, 2, BINS + 2))
        self._sums = np.zeros(channels)
        self._spans: list[Span] = []
        self.peak = 0.0
        """The highest magnitude so far."""

    def feed(self, block: np.ndarray) -> None:
        self.peak = max(
            self.peak, float(np.abs(block, where=np.isfinite(block), out=np.zeros_like(block)).max(initial=0))
        )
        self._buffer = np.concatenate([self._buffer, block], -1)
        ready = self._begin + self._buffer.shape[-1] - self._margin
        if ready > self._done + self._piece:
            self._look(ready)

    @property
    def margin_samples(self) -> int:
        """Number of samples that must follow a sample before it can be scanned."""
        return self._margin

    def taken(self) -> tuple[list[Span], int]:
        """Take the spans found since the last call, and return them with the position of the first sample that has not
        been scanned yet. All spans that begin before it have been found.
        """
        spans, self._spans = self._spans, []
        return spans, self._done

    def finish(self) -> Findings:
        """Scan the remaining samples; return all that was found and not taken."""
        self._look(self._begin + self._buffer.shape[-1])
        clipping = [found for channel in range(self.channels) if (found := self._clipping(channel)) is not None]
        lost = [span for span in self._spans if span.kind == NOT_FINITE]
        others = [span for span in self._spans if span.kind != NOT_FINITE]
        # Runs that are reported by parts, cut where pieces end, are joined again.
        return Findings(sorted([*joined(lost), *others], key=lambda span: span.first), clipping)

    def _look(self, end: int) -> None:
        """Scan the samples from `_done` to `end`, and forget those that no later piece needs."""
        core = slice(self._done - self._begin, end - self._begin)
        for channel, samples in enumerate(self._buffer):
            valid = np.isfinite(samples)
            known = np.where(valid, samples, 0.0)
            if self._levels:
                self._count(channel, known, core)
                self._sums[channel] += known[core].sum()
            lost, runs = stretches(~valid), _runs(known, self.rate_hz)
            found = [(a, b, NOT_FINITE, 1.0) for a, b in self._not_finite(lost, core)]
            found += [
                (run.first, run.end, FROZEN if run.value else ZEROS, run.confidence)
                for run in runs
                if run.is_lost() and run.end - run.first <= self._longest and not _touches(lost, run.first, run.end)
            ]
            if self._clicks:
                found += _clicks(known, self.rate_hz, lost, runs, self._begin, core)
            for first, last, kind, confidence in found:
                if core.start <= first < core.stop:
                    self._spans.append(Span(first + self._begin, last + self._begin, kind, confidence, channel))
        self._done = end
        keep = max(0, self._done - self._before - self._begin)
        self._buffer, self._begin = self._buffer[:, keep:].copy(), self._begin + keep

    def _not_finite(self, lost: list[tuple[int, int]], core: slice) -> Iterator[tuple[int, int]]:
        for first, end in lost:
            if end - first <= self._longest:
                yield first, end
            elif self._by_parts and first < core.stop and end > core.start:
                yield max(first, core.start), min(end, core.stop)

    def _count(self, channel: int, samples: np.ndarray, core: slice) -> None:
        around = np.pad(samples, 1)[core.start : core.stop + 2]
        before, inside, after = around[:-2], around[1:-1], around[2:]
        for side, sign in enumerate((-1, 1)):
            value = sign * inside
            peak = (value > LOWEST) & (value >= sign * before) & (value >= sign * after)
            flat = peak & ((inside == before) | (inside == after))
            for counts, chosen in ((self._peaks, peak), (self._flat, flat)):
                places = np.log(np.maximum(value[chosen], LOWEST) / LOWEST) / BIN
                counts[channel, side] += np.bincount(np.minimum(places.astype(int), BINS + 1), minlength=BINS + 2)

    def _clipping(self, channel: int) -> Clipping | None:
        """The clipping of a channel, according to its histograms of all peaks and of those that are flat."""
        offset = self._sums[channel] / max(1, self._done)
        found = [
            _pile(self._peaks[channel, side], self._flat[channel, side], (-offset, offset)[side]) for side in (0, 1)
        ]
        kinds = [pile[1] for pile in found if pile is not None]
        if not kinds:
            return None
        low, high = (math.inf if pile is None else pile[0] for pile in found)
        confidence = max(pile[2] for pile in found if pile is not None)
        return Clipping(channel, low, high, min(kinds, key=[HARD, RESAMPLED, SOFT].index), confidence)


def _pile(peaks: np.ndarray, flat: np.ndarray, offset: float) -> tuple[float, str, float] | None:
    """(level, kind, confidence) if peaks pile up below the highest; None if they become rarer, as those of sound do.

    Piles near the `offset` of the recording, on this side, are sound at rest. Where samples were clipped, a pile is
    narrow and its peaks are flat; after a resampler it is as wide as the filter's ripples, and with a soft limit it
    ends at the highest peak.
    """
    highest = int(np.flatnonzero(peaks).max(initial=0))
    # Without an offset, every pile that is looked for lies above this level.
    rest = offset + 0.5 * (_level(highest + 1) - offset)
    total = np.concatenate([[0.0], np.cumsum(peaks)])

    def within(low: float, high: float) -> float:
        first, last = (min(max(0, round(x)), len(peaks)) for x in (low, high))
        return total[last] - total[first]

    end = highest + 1
    narrow = within(end - 2, end)
    level_flat = flat[max(0, end - 2) : end].sum()
    below = within(end - 22, end - 2) / 10
    if level_flat >= LEAST_PEAKS and narrow > 5 * below and _level(end - 2) > rest:
        return _level(end - 2), HARD, _trust(narrow, 5 * below)
    best = None
    for width in (8, 16, 32):  # 4, 8 and 16 percent
        for top in range(highest + 1, max(highest - 60, 3 * width), -2):
            pile, under, above = within(top - width, top), within(top - 3 * width, top - width) / 2, within(top, end)
            if pile >= 5 * LEAST_PEAKS and pile > 3 * under and above < 0.1 * pile and _level(top - width) > rest:
                trust = _trust(pile, 3 * under)
                if best is None or trust > best[2]:
                    soft = top >= highest - 2
                    best = _level(top - width), SOFT if soft else RESAMPLED, trust
    return best


def _level(place: int) -> float:
    """The lower end of a bin of the histograms."""
    return LOWEST * math.exp(BIN * place)


def _trust(found: float, least: float) -> float:
    """Confidence, from SURE where `found` is no more than is required, to 1."""
    return 1 - SURE * math.exp(-(found / max(least, LEAST_PEAKS) - 1))


@dataclass(frozen=True)
class _Run:
    """A run of equal samples, and the sound on both sides of it.

    `abrupt` says for each side how abruptly the sound there ends, from 0 on, or -1 where there is none in sight.
    The `peaks` of that sound and the `height` of the run are relative to the recording's offset.
    """

    first: int
    end: int
    value: float
    abrupt: tuple[float, float]
    height: float
    peaks: tuple[float, float]

    def is_lost(self, sides: int = 2) -> bool:
        """Whether the run lies in the middle of sound, judged by the first `sides` of its two sides."""
        # A clipped vowel also holds a value: that of its highest samples.
        held = self.value == 0 or abs(self.height) < 0.95 * max(self.peaks[:sides])
        return held and min(self.abrupt[:sides]) >= 0

    @property
    def confidence(self) -> float:
        return float(min(1.0, 0.3 + min(self.abrupt)))

    def hides(self, start: int, end: int, longest: float) -> bool:
        """Whether the run may be a loss within [start, end), as far as can be known shortly after `end`."""
        if self.first >= end or self.end <= start or min(self.end, end) - self.first > longest:
            return False
        return self.is_lost(1 if self.end > end else 2)


def _runs(samples: np.ndarray, rate_hz: int) -> list[_Run]:
    """Runs of equal samples, zeros or of another value."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], np.diff(samples) == 0, [False]]).astype(np.int8)))
    # From the second sample of a run on, each equals the one before it.
    firsts, ends = edges[::2], edges[1::2] + 1
    long = ends - firsts >= SHORTEST_S * rate_hz
    edge, past, found = max(1, round(EDGE_S * rate_hz)), round(PAST_S * rate_hz), []
    close = max(1, round(CLOSE_S * rate_hz))
    for first, end in zip(firsts[long].tolist(), ends[long].tolist(), strict=True):
        value, before = float(samples[first]), samples[max(0, first - past) : first]
        distance = np.abs(before - value)
        step = float(distance.min(where=distance > 0, initial=np.inf))
        offset = float(before.mean()) if len(before) else 0.0
        sides = before[-edge:], samples[end : end + edge][::-1]
        abrupt = [_abrupt(side - value, edge, close, step) for side in sides]
        peaks = [float(np.abs(side - offset).max(initial=0)) for side in sides]
        found.append(_Run(first, end, value, (abrupt[0], abrupt[1]), value - offset, (peaks[0], peaks[1])))
    return found


def _abrupt(side: np.ndarray, edge: int, close: int, step: float) -> float:
    """Ratio of the RMS of a side's last samples, those next to a run, to that of the whole side, both relative to the
    run's value; -1 if the side is short or silent, or its `close` samples come to rest in single quantisation steps.
    """
    if len(side) < edge or np.abs(side[-close:]).max() < COARSE * step:
        return -1.0
    loud, near = (np.sqrt(np.mean(part**2)) for part in (side, side[-max(4, 2 * edge // 5) :]))
    return float(near / loud) if loud >= LEAST_EDGE else -1.0


def _touches(spans: list[tuple[int, int]], first: int, end: int) -> bool:
    return any(a < end and first < b for a, b in spans)


def _clicks(
    samples: np.ndarray, rate_hz: int, lost: list[tuple[int, int]], runs: list[_Run], begin: int, core: slice
) -> Iterator[tuple[int, int, str, float]]:
    """Yield the short disturbances that begin in `core`, and perhaps others, as (first, end, kind, confidence).

    A disturbance is the few errors of a frame's predictor that tower above all others. `samples` begin at the sample
    `begin` of the recording, which decides where frames lie.
    """
    size, longest = round(CLICK_FRAME_S * rate_hz), max(2, round(CLICK_S * rate_hz))
    step = size // 2
    # Begin a frame before those that see the core, since it may already take a click on the edge.
    low = max(0, core.start - 3 * step)
    high = min(len(samples) - size, core.stop + 2 * longest)
    taken = -1
    for start in range(low + -(low + begin) % step, high + 1, step):
        frame = samples[start : start + size]
        if np.abs(frame).max() < 10 * LEAST_EDGE or _touches(lost, start, start + size):
            continue
        if any(run.hides(start, start + size, LONGEST_S * rate_hz) for run in runs):
            continue
        errors = np.convolve(frame, predictor(frame, CLICK_ORDER))[:size]
        errors[:CLICK_ORDER] = 0
        size_of = np.abs(errors)
        typical = np.median(size_of)
        at = int(size_of.argmax())
        if not size_of[at] > CLICK_RATIO * max(typical, 1e-5) or not step // 2 <= at < step // 2 + step:
            continue
        near = slice(max(0, at - round(1.3 * longest)), at + round(1.3 * longest))
        others = size_of.copy()
        others[near] = 0
        if others.max() > ALONE * size_of[at] or start + at < taken:
            continue
        if np.ptp(np.flatnonzero(size_of[near] > WEAK * size_of[at])) >= longest:
            continue
        inside = np.flatnonzero(size_of[near] > STRONG * size_of[at]) + near.start
        first, end = start + int(inside[0]), start + min(int(inside[-1]) + 1, at + longest)
        taken = end
        yield max(0, first - 2), end + 2, CLICK, float(min(1.0, size_of[at] / (2 * CLICK_RATIO * max(typical, 1e-5))))
