"""Waveform to waveform: a trained network applied to whole recordings or to a sequence of blocks."""

from collections.abc import Iterable, Iterator

import numpy as np

from deepnmf_cli.signal.stft import FrontEnd
from deepnmf_cli.streaming import Backend, StreamingEnhancer

BLOCK_S = 4.0
"""Seconds processed at once: long enough for efficient matrix products, short enough for memory that does not grow."""


class Enhancer:
    """A network that is ready to run with its front end, for recordings of any rate, length and number of channels."""

    def __init__(self, backend: Backend, front_end: FrontEnd) -> None:
        self.backend, self.front_end = backend, front_end

    def stream(
        self, rate_hz: int, channels: int, max_attenuation_db: float | None = None, mix: float = 1.0
    ) -> StreamingEnhancer:
        """Begin one recording that arrives by pieces; see `StreamingEnhancer` for the arguments."""
        return StreamingEnhancer(self.backend, self.front_end, rate_hz, channels, max_attenuation_db, mix)

    def enhance_blocks(
        self,
        blocks: Iterable[np.ndarray],
        rate_hz: int,
        channels: int,
        max_attenuation_db: float | None = None,
        mix: float = 1.0,
        at_once: bool = False,
    ) -> Iterator[np.ndarray]:
        """Enhance blocks (C, n) float32 of one recording; the yielded blocks (C, m) have the same total length.

        Short blocks are gathered, which is quicker, unless each is to be enhanced `at_once`, as one that is heard live.
        """
        stream = self.stream(rate_hz, channels, max_attenuation_db, mix)
        for block in blocks if at_once else _gathered(blocks, round(BLOCK_S * rate_hz)):
            yield stream.feed(block)
        yield stream.flush()

    def enhance(
        self, samples: np.ndarray, rate_hz: int, max_attenuation_db: float | None = None, mix: float = 1.0
    ) -> np.ndarray:
        """Enhance a recording (C, N) float32 in [-1, 1] (larger values are fine); returns speech (C, N), aligned."""
        size = max(1, round(BLOCK_S * rate_hz))
        blocks = (samples[:, i : i + size] for i in range(0, samples.shape[1], size))
        return np.concatenate(list(self.enhance_blocks(blocks, rate_hz, samples.shape[0], max_attenuation_db, mix)), -1)


def _gathered(blocks: Iterable[np.ndarray], size: int) -> Iterator[np.ndarray]:
    """The same samples in blocks of at least `size`, but for the last: short blocks cost a network much overhead."""
    waiting: list[np.ndarray] = []
    for block in blocks:
        waiting.append(block)
        if sum(b.shape[-1] for b in waiting) >= size:
            yield np.concatenate(waiting, -1)
            waiting.clear()
    if waiting:
        yield np.concatenate(waiting, -1)
