"""Fewer layers while time is short, so that a stream keeps up with its sound at the cost of more noise in it."""

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Self

import numpy as np

from deepnmf_cli.enhancer import Enhancer
from deepnmf_cli.errors import UsageError
from deepnmf_cli.streaming import Backend, SeparateChannels, StreamingEnhancer, WholePath

PATIENCE_S, LONGEST_PATIENCE_S = 1.0, 60.0
"""Seconds without delay before one more layer is tried: at first, and at most. They double after each failed try."""

logger = logging.getLogger(__name__)


class Pace:
    """The number of layers of a network that run, decided between blocks by how long the last ones took.

    A block that takes longer to compute than it lasts puts the stream behind, and a faster one lets it catch up. The
    delay is never negative, as sound that has not arrived yet cannot be computed early. While the stream is more than a
    block behind, every block that is too slow removes a layer; a while without delay adds one again.
    """

    def __init__(self, backends: Sequence[Backend], clock: Callable[[], float] | None = None) -> None:
        """`backends` run 1, 2, ... all layers of one network, each from the state that any other left; `clock` returns
        seconds, by default those of real time.
        """
        self._backends, self._clock = backends, clock or time.perf_counter
        self.depth = self.least = len(backends)
        self.shortened_s = 0.0
        """Seconds of sound that were not processed by all layers."""
        self._arrived: float | None = None
        self._behind_s = self._without_delay_s = 0.0
        self._patience_s, self._tried = PATIENCE_S, False

    @classmethod
    def of(cls, enhancer: Enhancer) -> Self:
        """Return a `Pace` for the network of an enhancer.

        Raises UsageError for an exported network, for machine code, which does not change its depth within a recording,
        and for a network that has masks only after its last layer.
        """
        backend = enhancer.require_stoppable("--keep-up")
        if isinstance(backend, WholePath):
            raise UsageError("--keep-up", "machine code", "a network that torch runs", "Choose --backend torch.")
        if len(backend.depths) < 2:
            found, expected = "a network that cannot be stopped early", "one that gives masks after every layer"
            raise UsageError("--keep-up", found, expected, "Leave it out, or choose another model.")
        return cls([backend.at_depth(depth) for depth in backend.depths])

    @property
    def layers(self) -> int:
        """Return the number of all layers."""
        return len(self._backends)

    def arriving(self, blocks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """Yield the blocks; what is done with one of them before it comes to `feed` counts as time spent on it."""
        for block in blocks:
            self._arrived = self._clock()
            yield block

    def feed(self, stream: StreamingEnhancer | SeparateChannels, block: np.ndarray, rate_hz: int) -> np.ndarray:
        """Return the output of `stream.feed` for a block (C, n), with as many layers as there is time for."""
        stream.run_by(self._backends[self.depth - 1])
        begin, self._arrived = self._clock() if self._arrived is None else self._arrived, None
        speech = stream.feed(block)
        self.account(self._clock() - begin, block.shape[-1] / rate_hz)
        return speech

    def account(self, spent_s: float, lasts_s: float) -> None:
        """Decide on the next depth after a block that took `spent_s` to compute and lasts `lasts_s`."""
        if self.depth < self.layers:
            self.shortened_s += lasts_s
        self._behind_s = max(0.0, self._behind_s + spent_s - lasts_s)
        self._without_delay_s = 0.0 if self._behind_s else self._without_delay_s + lasts_s
        if self._behind_s > lasts_s and spent_s > lasts_s and self.depth > 1:
            if self._tried:
                self._patience_s = min(2 * self._patience_s, LONGEST_PATIENCE_S)
            self._take(self.depth - 1, tried=False)
        elif self.depth < self.layers and self._without_delay_s >= self._patience_s:
            self._take(self.depth + 1, tried=True)
        elif self._without_delay_s >= LONGEST_PATIENCE_S:
            self._patience_s, self._tried = PATIENCE_S, False

    def _take(self, depth: int, tried: bool) -> None:
        logger.info("%d of %d layers: %.0f ms behind", depth, self.layers, 1000 * self._behind_s)
        self.depth, self.least, self._tried = depth, min(depth, self.least), tried
        self._without_delay_s = 0.0
