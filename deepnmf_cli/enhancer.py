"""Waveform to waveform: a trained network applied to whole recordings or to a sequence of blocks."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol, runtime_checkable

import numpy as np

from deepnmf_cli.errors import UsageError
from deepnmf_cli.signal.activity import SpeechActivity
from deepnmf_cli.signal.arrays import InNumpy
from deepnmf_cli.signal.formats import check_shape
from deepnmf_cli.signal.samples import as_samples
from deepnmf_cli.signal.stft import FrontEnd
from deepnmf_cli.streaming import Backend, SeparateChannels, StreamingEnhancer

BLOCK_S = 4.0
"""Seconds processed at once: long enough for efficient matrix products, short enough for memory that does not grow."""

Feed = Callable[[StreamingEnhancer | SeparateChannels, np.ndarray, int], np.ndarray]
"""Passes a block (C, n) at a sampling rate in Hz to a stream, in place of its `feed`."""


@runtime_checkable
class LearnsNoise(Protocol):
    """Additional interface of a `Backend` whose network can be given further knowledge of a noise."""

    def require_atoms(self) -> None:
        """Raise UsageError for a network that cannot learn a noise."""

    def with_noise(self, magnitude: np.ndarray) -> Backend:
        """Return the same backend with knowledge of a noise, whose magnitudes (F, N) are those its network takes."""
        ...


@runtime_checkable
class OpensLater(Protocol):
    """Additional interface of a `Backend` that opens files when they are first needed."""

    def open_all(self) -> None:
        """Open every file now."""


@runtime_checkable
class Stoppable(Protocol):
    """Additional interface of a `Backend` whose network can be stopped after any layer."""

    @property
    def depths(self) -> range:
        """Return the numbers of layers after which it can be stopped."""
        ...

    def at_depth(self, depth: int) -> Backend:
        """Return the same, stopped after `depth` layers. Raises UsageError for a depth that the network lacks."""
        ...


class Enhancer:
    """A network that is ready to run with its front end, for recordings of any rate, length and number of channels.

    Threads may share an enhancer, as each call and each stream is independent. It can be pickled, for processes that
    are spawned: networks of torch travel with their weights, all others are opened again from their files.

    Examples:
        >>> import numpy as np
        >>> from deepnmf_cli import load_enhancer
        >>> with load_enhancer("tiny", device="cpu") as enhancer:
        ...     print(enhancer)
        ...     speech = enhancer.enhance(np.zeros((2, 44100), np.float32), rate_hz=44100)
        Enhancer('tiny', ONNX Runtime, 1 thread)
        >>> speech.shape
        (2, 44100)
    """

    def __init__(self, backend: Backend, front_end: FrontEnd, depth: int | None = None, name: str = "") -> None:
        """With `depth`, stop the network after that many layers, at least 1, which is faster and removes less noise.

        Raises UsageError for a depth that the network does not have, and for an exported network, whose depth is fixed.
        `name` is the name of the model where the enhancer is shown.
        """
        self._backend: Backend | None = backend
        self.front_end, self.name = front_end, name
        if depth is not None:
            self._backend = self.require_stoppable("--depth").at_depth(depth)

    @property
    def backend(self) -> Backend:
        """The backend that computes the network. Raises UsageError once the enhancer has been closed."""
        if self._backend is None:
            raise UsageError("Enhancer", "one that was closed", "an open one", "Load the model again.")
        return self._backend

    def open_all(self) -> None:
        """Read every file of the network that would be opened later, so that all of them may be deleted."""
        if isinstance(self.backend, OpensLater):
            self.backend.open_all()

    def close(self) -> None:
        """Release the network and its memory; the end of a `with` statement does the same.

        Streams that have begun can be used to their end. Any other use raises UsageError; closing twice is allowed.
        """
        self._backend = None

    def __enter__(self) -> "Enhancer":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Enhancer({self.name!r}, {'closed' if self._backend is None else self._backend})"

    def require_stoppable(self, option: str) -> Stoppable:
        """Return the backend. Raises UsageError, which names `option`, if its depth is fixed."""
        if not isinstance(self.backend, Stoppable):
            found, remedy = "a model that was exported, whose depth is fixed", "Choose --backend torch."
            raise UsageError(option, found, "one that torch or machine code runs", remedy)
        return self.backend

    def stream(
        self,
        rate_hz: int,
        channels: int,
        max_attenuation_db: float | None = None,
        mix: float = 1.0,
        separate: bool = False,
        activity: SpeechActivity | None = None,
    ) -> StreamingEnhancer | SeparateChannels:
        """Start one recording that arrives in pieces; see `StreamingEnhancer` for the arguments.

        All channels share one mask, or with `separate` each has its own. Raises UsageError for an `activity` that has
        already been used for a recording.
        """
        count, each = (channels, 1) if separate and channels > 1 else (1, channels)
        check_shape("samples", channels, rate_hz)
        begun = [
            StreamingEnhancer(self.backend, self.front_end, rate_hz, each, max_attenuation_db, mix, activity)
            for _ in range(count)
        ]
        return begun[0] if count == 1 else SeparateChannels(begun, rate_hz)

    def enhance_blocks(
        self,
        blocks: Iterable[np.ndarray],
        rate_hz: int,
        channels: int,
        max_attenuation_db: float | None = None,
        mix: float = 1.0,
        at_once: bool = False,
        separate: bool = False,
        feed: Feed | None = None,
        activity: SpeechActivity | None = None,
    ) -> Iterator[np.ndarray]:
        """Enhance blocks (C, n) float32 of one recording; the yielded blocks (C, m) have the same total length.

        Short blocks are joined to `BLOCK_S`, which is faster, and the last of these is held back until the end is
        known. With `at_once` each block is enhanced as it comes instead, as live sound needs, and a `feed` may be
        given, such as that of a `pace.Pace`. `separate` and `activity` are those of `stream`.
        """
        stream = self.stream(rate_hz, channels, max_attenuation_db, mix, separate, activity)
        if at_once:
            for block in blocks:
                yield stream.feed(block) if feed is None else feed(stream, block, rate_hz)
            yield stream.flush()
            return
        last = np.empty((channels, 0), np.float32)
        blocks = (as_samples(block, channels) for block in blocks)
        for block in _gathered(blocks, round(BLOCK_S * rate_hz)):
            if last.size:
                yield stream.feed(last)
            last = block
        # Together with what the end adds: its one or two frames alone would open a graph for single frames.
        yield stream.flush(last)

    def enhance(
        self,
        samples: np.ndarray,
        rate_hz: int,
        max_attenuation_db: float | None = None,
        mix: float = 1.0,
        separate: bool = False,
        progress: Callable[[float], object] | None = None,
        activity: SpeechActivity | None = None,
    ) -> np.ndarray:
        """Enhance a recording (C, N) float32 in [-1, 1] (larger values are allowed) and return aligned speech (C, N).

        All channels share one mask, which keeps the stereo image, or with `separate` each has its own. C is 1 to 64 and
        `rate_hz` 1 to 768 kHz. `progress` is called every `BLOCK_S` with the seconds of audio that were done since the
        last call, and `activity` records when there is speech. Raises AudioError for another shape or rate, and for
        samples that are not finite or beyond `samples.LARGEST`, and UsageError for other values out of range.
        """
        samples = as_samples(samples)
        check_shape("samples", len(samples), rate_hz)
        size = max(1, round(BLOCK_S * rate_hz))
        blocks = (samples[:, i : i + size] for i in range(0, samples.shape[1], size))
        pieces = []
        given = (rate_hz, len(samples), max_attenuation_db, mix)
        for piece in self.enhance_blocks(blocks, *given, separate=separate, activity=activity):
            pieces.append(piece)
            if progress is not None:
                progress(piece.shape[-1] / rate_hz)
        return np.concatenate(pieces, -1)

    def with_noise(self, samples: np.ndarray, rate_hz: int) -> "Enhancer":
        """Return this enhancer with additional knowledge of a noise, learned from samples (C, N) of that noise alone.

        Models with atoms (deep NMF, discriminative NMF, sparse NMF) that torch runs can learn a noise. Raises
        UsageError for others, and AudioError for samples that are silent or shorter than about a sixth of a second.
        """
        backend = self.require_atoms().with_noise(self._heard(samples, rate_hz))
        return Enhancer(backend, self.front_end, name=self.name)

    def require_atoms(self) -> LearnsNoise:
        """Return the backend. Raises UsageError for a model that does not support `with_noise`."""
        backend = self.backend
        if not isinstance(backend, LearnsNoise):
            found, remedy = "a model that was exported", "Choose --backend torch."
            raise UsageError("--noise-profile", found, "one whose atoms can be added to", remedy)
        backend.require_atoms()
        return backend

    def _heard(self, samples: np.ndarray, rate_hz: int) -> np.ndarray:
        """Magnitudes (F, T) that the network receives for samples (C, N), without the frames that reach beyond them."""
        listener = _Listener()
        Enhancer(listener, self.front_end).enhance(samples, rate_hz)
        edge = self.front_end.window_hops - 1
        return np.concatenate(listener.inputs, -1)[
            :, edge : samples.shape[1] // self.front_end.pair(rate_hz).hop_samples
        ]


class _Listener(InNumpy):
    """A `Backend` that stores its input and lets everything pass: its masks are one everywhere."""

    def __init__(self) -> None:
        self.inputs: list[np.ndarray] = []

    @property
    def uses_phase(self) -> bool:
        return False

    def __call__(self, inputs: np.ndarray, state: Any) -> tuple[np.ndarray, None]:
        self.inputs.append(inputs[0])
        return np.ones((1, 2, *inputs.shape[1:]), np.float32), None


def _gathered(blocks: Iterable[np.ndarray], size: int) -> Iterator[np.ndarray]:
    """Yield the same samples in blocks of at least `size`, except the last, as short blocks cause much overhead."""
    waiting: list[np.ndarray] = []
    held = 0
    for block in blocks:
        waiting.append(block)
        held += block.shape[-1]
        if held >= size:
            yield np.concatenate(waiting, -1)
            waiting, held = [], 0
    if waiting:
        yield np.concatenate(waiting, -1)
