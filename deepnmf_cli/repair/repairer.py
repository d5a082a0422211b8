"""Waveform to waveform: repair of recordings that arrive by pieces, with samples that are whole kept bit for bit."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from deepnmf_cli.errors import AudioError
from deepnmf_cli.repair import autoregression, model
from deepnmf_cli.repair.autoregression import stretches
from deepnmf_cli.repair.detect import SURE
from deepnmf_cli.repair.model import RepairModel
from deepnmf_cli.repair.projection import Observation
from deepnmf_cli.repair.spans import Findings

PIECE_S, MARGIN_S = 1.0, 0.3
"""Repaired at once, and seen on both sides of it: together the latency."""

GAP_CONTEXT_S, CLIP_CONTEXT_S = 0.08, 0.15
"""What a model sees on both sides of a stretch that it repairs."""

GAPS, CLIPPING, CLICKS = "gaps", "clipping", "clicks"
FIXES = (GAPS, CLIPPING, CLICKS)


@dataclass
class Counts:
    """What became of a recording: seconds of each, over all channels."""

    filled_s: float = 0.0
    silenced_s: float = 0.0
    """Of gaps that are too long to be filled, and are silent now."""
    declipped: int = 0
    """Samples."""


class Repairer:
    """Repairs one recording: `feed` samples (C, n) float64, get as many as are final, then `flush`.

    Cuts between pieces lie at fixed samples, so that the sizes of chunks change nothing.
    """

    def __init__(
        self, findings: Findings, models: dict[str, RepairModel], rate_hz: int, channels: int, name: str = "samples"
    ) -> None:
        """`models` by task: those of `findings` are needed. `name` stands for the recording in messages."""
        self._models, self._rate_hz, self._channels, self._name = models, rate_hz, channels, name
        self._whole = np.zeros(channels, int)
        self._spans = [span for span in findings.spans if span.confidence >= SURE]
        self._clipping = {found.channel: found for found in findings.clipping if found.confidence >= SURE}
        self._piece, self._margin = round(PIECE_S * rate_hz), round(MARGIN_S * rate_hz)
        self._buffer, self._begin, self._done = np.empty((channels, 0)), 0, 0
        self.counts = Counts()

    @property
    def latency_samples(self) -> int:
        """Samples by which the output lags behind the input, at most."""
        return self._piece + self._margin

    def feed(self, samples: np.ndarray) -> np.ndarray:
        """Take samples (C, n), n >= 0; return those (C, m) that are final."""
        self._buffer = np.concatenate([self._buffer, samples], -1)
        final = [np.empty((self._channels, 0))]
        while self._begin + self._buffer.shape[-1] >= self._done + self._piece + self._margin:
            final.append(self._advance(self._done + self._piece, self._done + self._piece + self._margin))
        return np.concatenate(final, -1)

    def flush(self) -> np.ndarray:
        """Return the samples that are still under way. Raises AudioError where a channel has none that is
        whole.
        """
        end = self._begin + self._buffer.shape[-1]
        final = self._advance(end, end)
        if end and not self._whole.all():
            found = f"damage from beginning to end, in channel {int(self._whole.argmin()) + 1}"
            remedy = "Raise --clip-level, or leave clipping out of --fix."
            raise AudioError(self._name, found, "some samples that are whole", remedy)
        return final

    def _advance(self, end: int, seen: int) -> np.ndarray:
        """Repair the samples from `_done` to `end`, looking as far as `seen`."""
        window = self._buffer[:, : seen - self._begin]
        core = slice(self._done - self._begin, end - self._begin)
        final = window[:, core].copy()
        for channel in range(self._channels):
            final[channel] = self._channel(channel, window[channel], core)
        self._done = end
        keep = max(0, end - self._margin - self._begin)
        self._buffer, self._begin = self._buffer[:, keep:].copy(), self._begin + keep
        return final

    def _channel(self, channel: int, samples: np.ndarray, core: slice) -> np.ndarray:
        missing = np.zeros(len(samples), bool)
        for span in self._spans:
            if span.channel in (None, channel):
                missing[max(0, span.first - self._begin) : max(0, span.end - self._begin)] = True
        clipping = self._clipping.get(channel)
        # What is in gaps need not be a number.
        samples = np.where(missing, 0.0, samples)
        above, below = (samples >= clipping.high, samples <= -clipping.low) if clipping else (missing, missing)
        clipped = (above | below) & ~missing
        self._whole[channel] += (~(clipped | missing))[core].sum()
        if not (missing[core].any() or clipped[core].any()):
            return samples[core]
        infinite = np.full(len(samples), np.inf)
        filled = self._fill(samples, missing, core)
        if clipping is None or not clipped[core].any():
            return filled[core]
        lower, upper = np.where(above, samples, -infinite), np.where(below, samples, infinite)
        self.counts.declipped += int(clipped[core].sum())
        observed = Observation(filled, clipped, lower, upper)
        return self._restored(observed, model.CLIPPING, CLIP_CONTEXT_S, core)[core]

    def _fill(self, samples: np.ndarray, missing: np.ndarray, core: slice) -> np.ndarray:
        longest = autoregression.LONGEST_S * self._rate_hz
        short = missing.copy()
        for first, end in stretches(missing):
            if end - first > longest:
                short[first:end] = False
        self.counts.filled_s += short[core].sum() / self._rate_hz
        self.counts.silenced_s += (missing & ~short)[core].sum() / self._rate_hz
        infinite = np.full(len(samples), np.inf)
        return self._restored(Observation(samples, short, -infinite, infinite), model.GAPS, GAP_CONTEXT_S, core)

    def _restored(self, observed: Observation, task: str, context_s: float, core: slice) -> np.ndarray:
        """The samples of an observation, each stretch that is missing restored with its context."""
        context = round(context_s * self._rate_hz)
        restored = observed.samples.copy()
        for first, end in stretches(observed.missing, 2 * context):
            if end <= core.start or first >= core.stop:
                continue
            part = slice(max(0, first - context), min(len(restored), end + context))
            seen = Observation(*(getattr(observed, f)[None, part] for f in ("samples", "missing", "lower", "upper")))
            restored[part] = np.where(
                seen.missing[0], self._models[task].restore(seen, self._rate_hz)[0], restored[part]
            )
        return restored


def repaired(blocks: Iterable[np.ndarray], repairer: Repairer) -> Iterator[np.ndarray]:
    """Blocks (C, m) float64 of the repaired recording, as long in all as `blocks` (C, n)."""
    for block in blocks:
        yield repairer.feed(block.astype(np.float64, copy=False))
    yield repairer.flush()
