"""Waveform to waveform: repair of recordings that arrive in pieces; samples that are whole are kept bit for bit."""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np

from deepnmf_cli.errors import AudioError
from deepnmf_cli.repair import autoregression, model
from deepnmf_cli.repair.autoregression import stretches
from deepnmf_cli.repair.model import RepairModel
from deepnmf_cli.repair.projection import Observation
from deepnmf_cli.repair.spans import GAP, SURE, Clipping, Findings, Span

GAP_CONTEXT_S = autoregression.CONTEXT_S
"""Context that a model sees on each side of a gap."""

JOINED_S, GROUP_S = 0.012, 0.02
"""Gaps less than JOINED_S apart are filled together, unless together they are longer than GROUP_S."""

PIECE_S, MARGIN_S, CLIP_CONTEXT_S = 1.0, 0.3, 0.15
"""Lengths of the pieces in which clipping is restored, of the margin on both sides of them, and of the context that a
model sees around a clipped stretch.
"""


@dataclass
class Counts:
    """What was done to a recording, over all channels; durations are in seconds."""

    filled_s: float = 0.0
    silenced_s: float = 0.0
    """Gaps that are too long to be filled, and are silent: at zero, or at the value that was held."""
    declipped: int = 0
    """Number of clipped samples that were restored."""

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes for the user, each the end of a sentence about the recording."""
        return (f"{self.silenced_s:.2f} s of gaps too long to be filled are silent",) if self.silenced_s else ()


@dataclass
class _Channel:
    """Pending gaps of a channel, in order; samples are counted from the start of the recording."""

    spans: deque[tuple[int, int]] = field(default_factory=deque)
    """Gaps that are short enough to be filled, none of which overlap; their samples are missing."""
    groups: deque[tuple[int, int]] = field(default_factory=deque)
    """Groups of these gaps that are filled together."""
    long: deque[tuple[int, int]] = field(default_factory=deque)
    """Other gaps. Those that were found stay as they are: a constant is silence at any level; zero would be a step."""
    erased: deque[tuple[int, int]] = field(default_factory=deque)
    """Those of `long` that the user marked, which are set to zero whatever they contain."""
    end: int = 0
    """End of all that was marked."""
    whole: int = 0
    """Samples that are not missing."""


class Repairer:
    """Repairs one recording: `feed` samples (C, n) float64, get those that are final, then `flush`.

    The sizes of chunks do not change the result: each gap is filled only from what lies within `GAP_CONTEXT_S` of it,
    and clipped sound is cut into pieces at fixed samples.
    """

    def __init__(
        self,
        findings: Findings,
        models: dict[str, RepairModel],
        rate_hz: int,
        channels: int,
        name: str = "samples",
        longest_s: float = autoregression.LONGEST_S,
        piece_s: float = PIECE_S,
        margin_s: float = MARGIN_S,
    ) -> None:
        """`models`, by task, must include those that `findings` need. `name` stands for the recording in messages. Gaps
        of up to `longest_s`, at most `autoregression.LONGEST_S`, are filled. Pieces and margins of clipping may be
        shorter than by default, for less latency.
        """
        self._models, self._rate_hz, self._name = models, rate_hz, name
        self._longest, self._context = round(longest_s * rate_hz), round(GAP_CONTEXT_S * rate_hz)
        self._reach = max(self._longest, round(GROUP_S * rate_hz)) + self._context
        self._gaps = [_Channel() for _ in range(channels)]
        self._samples = self._filled = np.empty((channels, 0))
        self._finite = np.empty((channels, 0), bool)
        self._begin = self._done = 0
        clipping = {found.channel: found for found in findings.clipping if found.confidence >= SURE}
        self._declipper = None
        if clipping:
            self._declipper = _Declipper(clipping, models[model.CLIPPING], rate_hz, channels, piece_s, margin_s)
        self.counts = Counts()
        self.mark(findings.spans)

    @property
    def latency_samples(self) -> int:
        """Samples by which the output lags behind the input, at most."""
        return self._reach + (self._declipper.latency_samples if self._declipper else 0)

    def mark(self, spans: Iterable[Span]) -> None:
        """Add damage that lies after all that was marked so far, but may overlap with it."""
        joined, most = round(JOINED_S * self._rate_hz), round(GROUP_S * self._rate_hz)
        for span in sorted(spans, key=lambda span: (span.first, span.end)):
            if span.confidence < SURE:
                continue
            for gaps in self._gaps if span.channel is None else [self._gaps[span.channel]]:
                first, before = max(span.first, gaps.end), gaps.end
                if span.end <= before:
                    continue
                gaps.end = span.end
                if span.end - first > self._longest:
                    gaps.long.append((first, span.end))
                    if span.kind == GAP:
                        gaps.erased.append((first, span.end))
                    continue
                gaps.spans.append((first, span.end))
                if gaps.groups and first - gaps.groups[-1][1] < joined and span.end - gaps.groups[-1][0] <= most:
                    first = gaps.groups.pop()[0]
                gaps.groups.append((first, span.end))

    def feed(self, samples: np.ndarray, known: int | None = None) -> np.ndarray:
        """Take samples (C, n), n >= 0; return those (C, m) that are final.

        Samples that are not finite, and lie in no gap that is filled, become zeros. All damage that begins before the
        sample `known` must have been marked; None means all damage so far.
        """
        finite = np.isfinite(samples)
        usable = np.where(finite, samples, 0.0)
        self._samples, self._filled = (np.concatenate([x, usable], -1) for x in (self._samples, self._filled))
        self._finite = np.concatenate([self._finite, finite], -1)
        came = self._begin + self._samples.shape[-1]
        seen = came if known is None else min(known, came)
        return self._advance(max(self._done, seen - self._reach), seen)

    def flush(self) -> np.ndarray:
        """Return the remaining samples."""
        end = self._begin + self._samples.shape[-1]
        return self._advance(end, end, last=True)

    def require_whole(self) -> None:
        """Raise AudioError if a channel has had no sample that is whole."""
        source = self._declipper.whole if self._declipper else [gaps.whole for gaps in self._gaps]
        if self._done and not all(source):
            found = f"damage from beginning to end, in channel {int(np.argmin(source)) + 1}"
            remedy = "Raise --clip-level, or leave clipping out of --fix." if self._declipper else "Record it again."
            raise AudioError(self._name, found, "some samples that are whole", remedy)

    def _advance(self, end: int, known: int, last: bool = False) -> np.ndarray:
        """Fill the gaps whose surroundings are `known`, and return the samples from `_done` to `end`."""
        missing, begin = np.zeros((len(self._gaps), end - self._done), bool), self._done - self._begin
        for channel, gaps in enumerate(self._gaps):
            while gaps.groups and (last or gaps.groups[0][1] + self._context <= known):
                self._fill(channel, *gaps.groups.popleft())
            for first, stop in gaps.erased:
                self._filled[channel, max(0, first - self._begin) : max(0, stop - self._begin)] = 0.0
            lost = _marked(gaps.spans, self._done, end)
            silent = _marked(gaps.long, self._done, end) | ~self._finite[channel, begin : end - self._begin]
            silent &= ~lost
            self.counts.filled_s += lost.sum() / self._rate_hz
            self.counts.silenced_s += silent.sum() / self._rate_hz
            missing[channel] = lost | silent
            gaps.whole += int((~missing[channel]).sum())
        final = self._filled[:, begin : end - self._begin].copy()
        self._done = end
        keep = max(0, end - self._context - self._begin)
        self._samples, self._filled = self._samples[:, keep:].copy(), self._filled[:, keep:].copy()
        self._finite = self._finite[:, keep:].copy()
        self._begin += keep
        for gaps in self._gaps:
            for ahead in (gaps.spans, gaps.long, gaps.erased):
                while ahead and ahead[0][1] <= self._begin:
                    ahead.popleft()
        if self._declipper is None:
            return final
        final = self._declipper.feed(final, missing, last)
        self.counts.declipped = self._declipper.declipped
        return final

    def _fill(self, channel: int, first: int, end: int) -> None:
        """Fill the gaps from `first` to `end`."""
        low = max(self._begin, first - self._context)
        high = min(self._begin + self._samples.shape[-1], end + self._context)
        gaps = self._gaps[channel]
        spans, erased = (_marked(marks, low, high) for marks in (gaps.spans, gaps.erased))
        samples = np.where(spans | erased, 0.0, self._samples[channel, low - self._begin : high - self._begin])[None]
        infinite = np.full(samples.shape, np.inf)
        observed = Observation(samples, spans[None], -infinite, infinite)
        found = self._models[model.GAPS].restore(observed, self._rate_hz)[0]
        inside = slice(first - low, end - low)
        target = self._filled[channel, first - self._begin : end - self._begin]
        target[:] = np.where(spans[inside], found[inside], target)


class _Declipper:
    """Restores samples beyond the levels of clipping, in pieces of fixed length."""

    def __init__(
        self,
        clipping: dict[int, Clipping],
        restorer: RepairModel,
        rate_hz: int,
        channels: int,
        piece_s: float,
        margin_s: float,
    ) -> None:
        self._clipping, self._model, self._rate_hz = clipping, restorer, rate_hz
        self._piece, self._margin = round(piece_s * rate_hz), round(margin_s * rate_hz)
        self._buffer, self._missing = np.empty((channels, 0)), np.empty((channels, 0), bool)
        self._begin = self._done = 0
        self.declipped = 0
        self.whole = np.zeros(channels, int)
        """Number of samples that are neither missing nor clipped, by channel."""

    @property
    def latency_samples(self) -> int:
        return self._piece + self._margin

    def feed(self, samples: np.ndarray, missing: np.ndarray, last: bool) -> np.ndarray:
        """Take samples (C, n), and which of them were `missing`; return those that are final, all at the last call."""
        self._buffer = np.concatenate([self._buffer, samples], -1)
        self._missing = np.concatenate([self._missing, missing], -1)
        final = [np.empty((len(samples), 0))]
        while self._begin + self._buffer.shape[-1] >= self._done + self._piece + self._margin:
            final.append(self._advance(self._done + self._piece, self._done + self._piece + self._margin))
        if last:
            end = self._begin + self._buffer.shape[-1]
            final.append(self._advance(end, end))
        return np.concatenate(final, -1)

    def _advance(self, end: int, seen: int) -> np.ndarray:
        """Restore the samples from `_done` to `end`, looking as far as `seen`."""
        core, shown = slice(self._done - self._begin, end - self._begin), seen - self._begin
        final = np.stack([
            self._channel(channel, self._buffer[channel, :shown], self._missing[channel, :shown], core)
            for channel in range(len(self._buffer))
        ])  # fmt: skip
        self._done = end
        keep = max(0, end - self._margin - self._begin)
        self._buffer, self._missing = self._buffer[:, keep:].copy(), self._missing[:, keep:].copy()
        self._begin += keep
        return final

    def _channel(self, channel: int, samples: np.ndarray, missing: np.ndarray, core: slice) -> np.ndarray:
        clipping = self._clipping.get(channel)
        above, below = np.zeros((2, len(samples)), bool)
        if clipping:
            above, below = (samples >= clipping.high) & ~missing, (samples <= -clipping.low) & ~missing
        clipped = above | below
        self.whole[channel] += int((~(clipped | missing))[core].sum())
        self.declipped += int(clipped[core].sum())
        if not clipped[core].any():
            return samples[core]
        lower, upper = np.where(above, samples, -np.inf), np.where(below, samples, np.inf)
        context, restored = round(CLIP_CONTEXT_S * self._rate_hz), samples.copy()
        for first, end in stretches(clipped, 2 * context):
            if end <= core.start or first >= core.stop:
                continue
            part = slice(max(0, first - context), min(len(samples), end + context))
            seen = Observation(*(values[None, part] for values in (samples, clipped, lower, upper)))
            restored[part] = np.where(clipped[part], self._model.restore(seen, self._rate_hz)[0], restored[part])
        return restored[core]


def _marked(spans: Iterable[tuple[int, int]], low: int, high: int) -> np.ndarray:
    """Mask (high - low,) of the samples from `low` to `high` that lie in `spans`, which must be in order."""
    found = np.zeros(high - low, bool)
    for first, end in spans:
        if first >= high:
            break
        found[max(0, first - low) : max(0, end - low)] = True
    return found


def repaired(blocks: Iterable[np.ndarray], repairer: Repairer) -> Iterator[np.ndarray]:
    """Yield blocks (C, m) float64 of the repaired recording, as long in total as `blocks` (C, n).

    Raises AudioError at the end if a channel has no sample that is whole.
    """
    for block in blocks:
        yield repairer.feed(block.astype(np.float64, copy=False))
    yield repairer.flush()
    repairer.require_whole()
