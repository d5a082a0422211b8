"""Fewer layers while time is short: a stream that keeps up with its sound, at the price of more noise in it."""

import logging
import time
from collections.abc import Callable, Sequence
from typing import Self

import numpy as np

from deepnmf_cli.enhancer import Enhancer
from deepnmf_cli.errors import UsageError
from deepnmf_cli.streaming import Backend, SeparateChannels, StreamingEnhancer, WholePath

PATIENCE_S, LONGEST_PATIENCE_S = 1.0, 60.0
"""Seconds without delay before one more layer is tried. Twice as many after each try that failed."""

logger = logging.getLogger(__name__)


class Pace:
    """How many layers of a network run, decided between blocks by how long the last ones took.

    A block that takes longer than it lasts puts the stream behind, and a quicker one lets it catch up; what is behind
    is not less than nothing, as sound that has not come yet cannot be done early. More than a block behind, every one
    that is too slow takes a layer away; a while without delay brings one back.
    """

    def __init__(self, backends: Sequence[Backend], clock: Callable[[], float] | None = None) -> None:
        """`backends` run 1, 2, ... all layers of one network, each from the state that any other left; `clock` gives
        seconds, by default those that pass.
        """
        self._backends, self._clock = backends, clock or time.perf_counter
        self.depth = self.least = len(backends)
        self.shortened_s = 0.0
        """Seconds of sound that not all layers have seen."""
        self._behind_s = self._without_delay_s = 0.0
        self._patience_s, self._tried = PATIENCE_S, False

    @classmethod
    def of(cls, enhancer: Enhancer) -> Self:
        """Return that of an enhancer's network. Raises UsageError for an exported one, for machine code, which does not
        change its depth within a recording, and for a network that has masks after its last layer alone.
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

    def feed(self, stream: StreamingEnhancer | SeparateChannels, block: np.ndarray, rate_hz: int) -> np.ndarray:
        """Return what `stream.feed` makes of a block (C, n), with as many layers as there is time for."""
        stream.run_by(self._backends[self.depth - 1])
        begin = self._clock()
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
