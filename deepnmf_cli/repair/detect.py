"""Detection of damage: clipping by the histogram of peaks, runs of equal samples, and clicks by errors of prediction.

Memory is bounded: a recording goes through by pieces, each looked at with what surrounds it.
"""

import math
from collections.abc import Iterator

import numpy as np

from deepnmf_cli.repair.autoregression import predictor, stretches
from deepnmf_cli.repair.spans import (
    CLICK,
    FROZEN,
    HARD,
    NOT_FINITE,
    RESAMPLED,
    SOFT,
    ZEROS,
    Clipping,
    Findings,
    Span,
)

PIECE_S, MARGIN_S = 4.0, 0.3
"""A piece, and what is seen on both sides of it."""

SURE = 0.5
"""Confidence from which on damage is repaired."""

BIN, LOWEST = 0.005, 1e-4
"""Width of the histogram's bins, half a percent of the amplitude, and where they begin, -80 dB."""
BINS = math.ceil(math.log(1e5) / BIN)

LEAST_PEAKS = 10
"""In a pile: fewer are chance."""

SHORTEST_S, LONGEST_S, EDGE_S = 0.002, 1.0, 0.005
"""Runs of equal samples that count as lost; and the sound next to them that tells a loss from a pause."""

LEAST_EDGE = 1e-3
"""Its RMS: below -60 dB nobody hears a loss."""

CLICK_FRAME_S, CLICK_ORDER, CLICK_S, CLICK_RATIO = 0.064, 24, 0.0015, 30.0
"""Frames in which clicks are looked for, order of the predictor, longest click, and its error over the median error."""

ALONE = 0.5
"""Errors elsewhere in the frame, over that of the click: more of them are pitch pulses, or a burst."""

WEAK, STRONG = 0.05, 0.35
"""The same near a click: where errors above the first reach further than `CLICK_S`, it is a burst; those above the
second are the click.
"""


class Scanner:
    """Looks through one recording: `feed` its blocks (C, n) float64, then `finish`."""

    def __init__(self, rate_hz: int, channels: int) -> None:
        self.rate_hz, self.channels = rate_hz, channels
        self._margin, self._piece = round(MARGIN_S * rate_hz), round(PIECE_S * rate_hz)
        self._buffer, self._begin, self._done = np.empty((channels, 0)), 0, 0
        self._peaks = np.zeros((channels, 2, BINS + 2))
        self._flat = np.zeros((channels, 2, BINS + 2))
        self._spans: list[Span] = []
        self.peak = 0.0
        """The highest magnitude so far."""

    def feed(self, block: np.ndarray) -> None:
        self.peak = max(
            self.peak, float(np.abs(block, where=np.isfinite(block), out=np.zeros_like(block)).max(initial=0))
        )
        self._buffer = np.concatenate([self._buffer, block], -1)
        while self._begin + self._buffer.shape[-1] >= self._done + self._piece + self._margin:
            self._look(self._done + self._piece)

    def finish(self) -> Findings:
        """All that was found."""
        self._look(self._begin + self._buffer.shape[-1])
        clipping = [
            found
            for channel in range(self.channels)
            if (found := _clipping(channel, self._peaks[channel], self._flat[channel])) is not None
        ]
        return Findings(sorted(self._spans, key=lambda span: span.first), clipping)

    def _look(self, end: int) -> None:
        """Look at samples from `_done` to `end`, and forget what no later piece needs."""
        for channel, samples in enumerate(self._buffer):
            valid = np.isfinite(samples)
            known = np.where(valid, samples, 0.0)
            core = slice(self._done - self._begin, end - self._begin)
            self._count(channel, known, core)
            lost = [(first, last, NOT_FINITE, 1.0) for first, last in stretches(~valid)]
            lost += _runs(known, self.rate_hz, lost)
            lost += _clicks(known, self.rate_hz, lost)
            for first, last, kind, confidence in lost:
                if core.start <= first < core.stop:
                    place = first + self._begin
                    self._spans.append(Span(place, last + self._begin, kind, confidence, channel))
        self._done = end
        keep = max(0, self._done - self._margin - self._begin)
        self._buffer, self._begin = self._buffer[:, keep:].copy(), self._begin + keep

    def _count(self, channel: int, samples: np.ndarray, core: slice) -> None:
        around = np.pad(samples, 1)
        before, after = around[:-2], around[2:]
        for side, sign in enumerate((-1, 1)):
            value = sign * samples
            peak = (value > LOWEST) & (value >= sign * before) & (value >= sign * after)
            flat = peak & ((samples == before) | (samples == after))
            for counts, chosen in ((self._peaks, peak), (self._flat, flat)):
                places = np.log(np.maximum(value[core][chosen[core]], LOWEST) / LOWEST) / BIN
                counts[channel, side] += np.bincount(np.minimum(places.astype(int), BINS + 1), minlength=BINS + 2)


def _clipping(channel: int, peaks: np.ndarray, flat: np.ndarray) -> Clipping | None:
    """The clipping of a channel by its histograms (2, bins) of all peaks and of those that are flat."""
    found = [_pile(peaks[side], flat[side]) for side in range(2)]
    kinds = [pile[1] for pile in found if pile is not None]
    if not kinds:
        return None
    low, high = (math.inf if pile is None else pile[0] for pile in found)
    confidence = max(pile[2] for pile in found if pile is not None)
    return Clipping(channel, low, high, min(kinds, key=[HARD, RESAMPLED, SOFT].index), confidence)


def _pile(peaks: np.ndarray, flat: np.ndarray) -> tuple[float, str, float] | None:
    """(level, kind, confidence) where peaks pile up below the highest; None where they grow rarer, as those of sound.

    A pile is narrow and its peaks are flat where samples were clipped; after a resampler it is as wide as the filter's
    ripples, and with a soft limit it has its end at the highest peak.
    """
    highest = int(np.flatnonzero(peaks).max(initial=0))
    total = np.concatenate([[0.0], np.cumsum(peaks)])

    def within(low: float, high: float) -> float:
        first, last = (min(max(0, round(x)), len(peaks)) for x in (low, high))
        return total[last] - total[first]

    end = highest + 1
    narrow = within(end - 2, end)
    level_flat = flat[max(0, end - 2) : end].sum()
    below = within(end - 22, end - 2) / 10
    if level_flat >= LEAST_PEAKS and narrow > 5 * below:
        return LOWEST * math.exp(BIN * (end - 2)), HARD, _trust(narrow, 5 * below)
    best = None
    for width in (8, 16, 32):  # 4, 8 and 16 percent
        for top in range(highest + 1, max(highest - 60, 3 * width), -2):
            pile, under, above = within(top - width, top), within(top - 3 * width, top - width) / 2, within(top, end)
            if pile >= 5 * LEAST_PEAKS and pile > 3 * under and above < 0.1 * pile:
                trust = _trust(pile, 3 * under)
                if best is None or trust > best[2]:
                    soft = top >= highest - 2
                    best = LOWEST * math.exp(BIN * (top - width)), SOFT if soft else RESAMPLED, trust
    return best


def _trust(found: float, least: float) -> float:
    """Confidence from SURE, where as much was found as must be, to 1."""
    return 1 - SURE * math.exp(-(found / max(least, LEAST_PEAKS) - 1))


def _runs(samples: np.ndarray, rate_hz: int, lost: list[tuple]) -> Iterator[tuple[int, int, str, float]]:
    """Runs of zeros, or of another value, that begin and end in the middle of sound: lost packets, held samples."""
    equal = np.concatenate([[False], np.diff(samples) == 0])
    edge, most = max(1, round(EDGE_S * rate_hz)), LONGEST_S * rate_hz
    for first, end in stretches(equal):
        first -= 1
        if not SHORTEST_S * rate_hz <= end - first <= most or any(a < end and first < b for a, b, *_ in lost):
            continue
        value = samples[first]
        sides = (samples[max(0, first - edge) : first], samples[end : end + edge][::-1])
        if any(len(side) < edge for side in sides):
            continue
        # A clipped vowel also holds a value: that of its highest samples.
        if value and abs(value) >= 0.95 * max(np.abs(side).max() for side in sides):
            continue
        loud = [np.sqrt(np.mean(side**2)) for side in sides]
        near = [np.sqrt(np.mean(side[-max(4, 2 * edge // 5) :] ** 2)) for side in sides]
        if min(loud) < LEAST_EDGE:
            continue
        abrupt = min(a / b for a, b in zip(near, loud, strict=True))
        yield first, end, FROZEN if value else ZEROS, float(min(1.0, 0.3 + abrupt))


def _clicks(samples: np.ndarray, rate_hz: int, lost: list[tuple]) -> Iterator[tuple[int, int, str, float]]:
    """Short disturbances: the few errors of a frame's predictor that tower above all others."""
    size, longest = round(CLICK_FRAME_S * rate_hz), max(2, round(CLICK_S * rate_hz))
    step = size // 2
    taken = -1
    for start in range(0, len(samples) - size + 1, step):
        frame = samples[start : start + size]
        if np.abs(frame).max() < 10 * LEAST_EDGE or any(a < start + size and start < b for a, b, *_ in lost):
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
