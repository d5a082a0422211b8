"""Repair of live sound: damage is looked for and repaired with a fixed delay."""

from collections import Counter
from collections.abc import Iterable, Iterator

import numpy as np

from deepnmf_cli.repair import CLICKS, CLIPPING, model
from deepnmf_cli.repair.detect import Scanner
from deepnmf_cli.repair.examine import RepairOptions, refuse, wanted
from deepnmf_cli.repair.repairer import Repairer
from deepnmf_cli.repair.spans import GIVEN, SURE, Clipping, Findings, Span

LONGEST_S = 0.04
"""Longest gap that is filled: longer ones cannot be told from pauses without more delay, and are hard to fill."""

LOOK_S = 0.005
"""Damage is looked for each time this much sound has come."""

PIECE_S, MARGIN_S = 0.064, 0.032
"""Pieces and margins for clipping: shorter than those of files, for less delay at twice the cost."""


class LiveRepairer:
    """Repairs one recording without reading all of it first: `feed` samples, get those that are final, then `flush`.

    Gaps and clicks are found and repaired as by `deepnmf repair`, bit for bit. The exceptions are gaps longer than
    `longest_s`, which stay as they are (samples that are not finite become zeros), and others within
    `repairer.GAP_CONTEXT_S` of these. Clipping is restored from a given level on, in shorter pieces. The sizes of the
    blocks that are fed do not change the result.
    """

    def __init__(
        self,
        options: RepairOptions,
        rate_hz: int,
        channels: int,
        longest_s: float = LONGEST_S,
        name: str = "samples",
    ) -> None:
        """`options` must not name a file of gaps; clipping is repaired if they state a level. Raises ModelError."""
        self._options, self._rate_hz, self._name = options, rate_hz, name
        self._level = 10 ** (options.clip_level_db / 20) if options.clip_level_db is not None else np.inf
        clips = CLIPPING in options.fixes and options.clip_level_db is not None
        clipping = [Clipping(channel, self._level, self._level, GIVEN) for channel in range(channels) if clips]
        self._scanner = Scanner(rate_hz, channels, LOOK_S, longest_s, CLICKS in options.fixes, levels=False)
        models = options.load([model.GAPS] + [model.CLIPPING] * bool(clipping))
        self._repairer = Repairer(Findings([], clipping), models, rate_hz, channels, name, longest_s, PIECE_S, MARGIN_S)
        self._came = 0
        self.found: Counter[str] = Counter()
        """Number of findings of each kind of damage other than clipping."""

    @property
    def latency_samples(self) -> int:
        """Samples by which the output lags behind the input, at most."""
        return self._scanner.margin_samples + round(LOOK_S * self._rate_hz) + self._repairer.latency_samples

    @property
    def declipped(self) -> int:
        """Number of clipped samples that were raised."""
        return self._repairer.counts.declipped

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes for the user, such as how much was not finite for too long to be filled, and is silent."""
        return self._repairer.counts.notes

    @property
    def is_below_level(self) -> bool:
        """Whether clipping was to be repaired, but no sample has reached its level."""
        return self._scanner.peak < self._level < np.inf

    def feed(self, samples: np.ndarray) -> np.ndarray:
        """Take samples (C, n), n >= 0; return those (C, m) float64 that are final.

        Raises AudioError for samples that are too large, and, if gaps are not repaired, for those that are not finite.
        """
        samples = samples.astype(np.float64, copy=False)
        refuse(self._name, samples, self._rate_hz, self._came, [], self._options)
        self._came += samples.shape[-1]
        self._scanner.feed(samples)
        spans, known = self._scanner.taken()
        self._mark(spans)
        return self._repairer.feed(samples, known)

    def flush(self) -> np.ndarray:
        """Return the remaining samples."""
        self._mark(self._scanner.finish().spans)
        return self._repairer.flush()

    def require_whole(self) -> None:
        """Raise AudioError where a channel was clipped, or not finite, from beginning to end."""
        self._repairer.require_whole()

    def _mark(self, spans: list[Span]) -> None:
        spans = [span for span in spans if span.confidence >= SURE and wanted(span.kind, self._options)]
        self.found.update(span.kind for span in spans)
        self._repairer.mark(spans)


def repaired_live(blocks: Iterable[np.ndarray], repairer: LiveRepairer) -> Iterator[np.ndarray]:
    """Yield non-empty blocks (C, m) float32 of the repaired recording, as long in total as `blocks` (C, n)."""
    for block in blocks:
        if (done := repairer.feed(block)).size:
            yield done.astype(np.float32)
    if (done := repairer.flush()).size:
        yield done.astype(np.float32)


def warm_up(options: RepairOptions, rate_hz: int, longest_s: float) -> None:
    """Fill a gap in a tone: the first computation of a process takes many times as long as all others."""
    tone = 0.1 * np.sin(np.arange(round(0.2 * rate_hz)) * 2000 / rate_hz)
    tone[len(tone) // 2 :][: round(0.004 * rate_hz)] = 0
    repairer = LiveRepairer(options, rate_hz, 1, longest_s)
    repairer.feed(tone[None])
    repairer.flush()
