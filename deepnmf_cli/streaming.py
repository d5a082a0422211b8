"""Streaming enhancement: feed samples in, get samples out, at any sampling rate and in chunks of any size."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np

from deepnmf_cli.errors import UsageError
from deepnmf_cli.signal.activity import SpeechActivity
from deepnmf_cli.signal.arrays import Array, copy, namespace
from deepnmf_cli.signal.features import features
from deepnmf_cli.signal.formats import check_shape
from deepnmf_cli.signal.masks import AboveBands, AboveState, above_gains, at_least, complex_masks
from deepnmf_cli.signal.offset import Offset
from deepnmf_cli.signal.samples import as_samples, check_samples
from deepnmf_cli.signal.stft import FrontEnd, StftPair


class Backend(Protocol):
    """A network that is ready to run, whatever library computes it, on that library's arrays."""

    @property
    def uses_phase(self) -> bool:
        """Return whether the network takes `signal.features.phase_features` (1, 5, F, T) instead of magnitudes."""
        ...

    def __call__(self, inputs: Array, state: Any) -> tuple[Array, Any]:
        """Return masks (1, 2, F, T) of magnitudes (1, F, T), or (1, 3, F, T) of features, and the next state.

        T is at least 1; see `MaskNetwork`.
        A state may be passed on only once, as a backend may overwrite it with the next one.
        """
        ...

    def from_numpy(self, samples: np.ndarray) -> Array:
        """Return the samples as an array of the library, and on the device, that computes the network."""
        ...

    def to_numpy(self, samples: Array) -> np.ndarray:
        """Return the samples as a NumPy array."""
        ...

    def running(self) -> AbstractContextManager:
        """Return a context for all computation, for example to switch off the recording of gradients."""
        ...


@runtime_checkable
class WholePath(Protocol):
    """Additional interface of a `Backend` that goes from waveform to waveform by itself."""

    def path(
        self, rate_hz: int, channels: int, max_attenuation_db: float | None, mix: float
    ) -> Callable[[np.ndarray], np.ndarray]:
        """Start a recording at a whole number of Hz.

        Return a function that takes whole hops (C, T * hop) float32, T >= 1, and returns as many samples, which lag
        behind by one hop and agree with those of `StreamingEnhancer` to 1e-5.
        """
        ...


@runtime_checkable
class Hearing(Protocol):
    """Additional interface of a `Backend` whose network can leave out frequencies that a recording does not have."""

    def hearing(self, bins: int) -> Backend:
        """Return the same backend for recordings that have only the lowest `bins` frequencies; the others are still
        passed as zeros, and their masks are meaningless.
        """
        ...


@dataclass
class _State:
    """What is kept between two chunks: C channels, hop samples per frame."""

    pending: np.ndarray  # (C, < hop) samples that do not fill a hop yet
    history: Array  # (C, window - hop) what the next window begins with
    overlap: Array  # (C, hop) second half of the last synthesised window
    before: Array | None  # (C, F', 1) the last spectrum, for networks that use phase
    offset: Offset
    network: Any  # the network's own state
    above: AboveState | None  # state of the gains above the network's reach
    received: int  # samples fed so far
    delivered: int  # samples returned so far
    begun: bool  # whether the hop before the first sample has been dropped


class StreamingEnhancer:
    """Enhance one recording, chunk by chunk; the concatenated output is aligned with the input, sample by sample.

    Every chunk of whole hops runs analysis, network, mask and synthesis once, so offline enhancement is the same code
    fed with large chunks. All channels share one mask per frame and frequency, computed from the mean of their
    magnitudes and, for networks that use phase, of products of their spectra. This keeps the stereo image, and channels
    of opposite phase do not cancel before they reach the network.

    Examples:
        >>> import numpy as np
        >>> from deepnmf_cli import load_enhancer
        >>> stream = load_enhancer("tiny", device="cpu").stream(rate_hz=16000, channels=1)
        >>> stream.latency_samples
        512
        >>> pieces = [stream.feed(np.zeros((1, 500), np.float32)) for _ in range(4)]
        >>> [piece.shape[1] for piece in pieces]
        [0, 512, 512, 512]
        >>> stream
        StreamingEnhancer(16000 Hz, 1 channel, 0.12 s in, 0.10 s out)
        >>> stream.flush().shape
        (1, 464)
    """

    def __init__(
        self,
        backend: Backend,
        front_end: FrontEnd,
        rate_hz: int,
        channels: int,
        max_attenuation_db: float | None = None,
        mix: float = 1.0,
        activity: SpeechActivity | None = None,
    ) -> None:
        """`max_attenuation_db` >= 0 limits how far any bin is attenuated; None sets no limit.

        The output is `mix` times the sound enhanced in this way, plus 1 - `mix` times the input, `mix` in [0, 1].
        `activity` records when there is speech in this recording, whatever limit and mix are. Raises AudioError for
        rates and channels that `formats.check_shape` rejects, and UsageError for other values out of range.
        """
        check_shape("samples", channels, rate_hz)
        if max_attenuation_db is not None and not max_attenuation_db >= 0:
            raise UsageError("max_attenuation_db", f"{max_attenuation_db}", "decibels >= 0, or None", "Correct it.")
        if not 0 <= mix <= 1:
            raise UsageError("mix", f"{mix}", "a share from 0 to 1", "Correct it.")
        self.channels, self._rate_hz = channels, rate_hz
        self.pair: StftPair = front_end.pair(rate_hz)
        self.bins = front_end.bins
        self._take(backend)
        self._bands = AboveBands(self.pair, self.bins)
        self._floor = 0.0 if max_attenuation_db is None else 10 ** (-max_attenuation_db / 20)
        self._mix, self._max_attenuation_db = mix, max_attenuation_db
        self.reset()
        if activity is not None:
            self._hear, self._path = activity.listener(self.pair, rate_hz), None

    def __repr__(self) -> str:
        came, went = (count / self._rate_hz for count in (self._state.received, self._state.delivered))
        channels = f"{self.channels} channel{'s' * (self.channels != 1)}"
        return f"StreamingEnhancer({self._rate_hz} Hz, {channels}, {came:.2f} s in, {went:.2f} s out)"

    @property
    def latency_samples(self) -> int:
        """Samples by which the output lags behind the input: one synthesis window."""
        return self.pair.latency_samples

    def run_by(self, backend: Backend) -> None:
        """Compute the next chunks with another backend, which continues from the state of the one before.

        Raises UsageError while machine code computes the whole way from waveform to waveform.
        """
        if self._path is not None:
            remedy = 'Load the model with backend="torch".'
            raise UsageError("run_by", "a stream of native code", "one that passes its state on", remedy)
        if backend is not self._given:
            self._take(backend)

    def _take(self, backend: Backend) -> None:
        lower, self._given = self.pair.bins < self.bins, backend
        self.backend = backend.hearing(self.pair.bins) if lower and isinstance(backend, Hearing) else backend

    def reset(self) -> None:
        """Forget the recording; the next chunk starts a new one, which an `activity` does not hear."""
        hop = self.pair.hop_samples
        pending, overlap, history = (
            np.zeros((self.channels, n), np.float32) for n in (0, hop, self.pair.window_samples - hop)
        )
        history, overlap = self.backend.from_numpy(history), self.backend.from_numpy(overlap)
        offset = Offset(self.channels, hop)
        self._state = _State(pending, history, overlap, None, offset, None, None, received=0, delivered=0, begun=False)
        self._path, self._hear = None, None
        if isinstance(self.backend, WholePath) and float(self._rate_hz).is_integer():
            self._path = self.backend.path(self._rate_hz, self.channels, self._max_attenuation_db, self._mix)

    def feed(self, samples: np.ndarray) -> np.ndarray:
        """Take samples (C, n) float32, n >= 0, and return the enhanced samples (C, m) that have become final.

        Raises AudioError for another shape, and for samples that are not finite or beyond `samples.LARGEST`; none of
        them is taken then, and the stream can continue with what follows.
        """
        samples = self._checked(samples)
        state, hop = self._state, self.pair.hop_samples
        state.received += samples.shape[-1]
        waiting = np.concatenate([state.pending, samples], -1) if state.pending.size else samples
        whole = waiting.shape[-1] // hop * hop
        # A copy, as a view would keep all samples of this chunk in memory.
        state.pending = waiting[:, whole:].copy()
        return self._advance(waiting[:, :whole])

    def flush(self, samples: np.ndarray | None = None) -> np.ndarray:
        """Return the samples (C, m) that are left, and reset; in all, as many samples come out as went in.

        The last `samples` (C, n) may be given here instead of to `feed`.
        """
        state, hop = self._state, self.pair.hop_samples
        samples = self._checked(np.empty((self.channels, 0)) if samples is None else samples)
        length = state.received + samples.shape[-1]
        missing = -length % hop + hop
        rest = self.feed(np.concatenate([samples, np.zeros((self.channels, missing), np.float32)], -1))
        rest = rest[:, : length - (state.delivered - rest.shape[-1])]
        self.reset()
        return rest

    def _checked(self, samples: np.ndarray) -> np.ndarray:
        """Return the samples as (C, n) float32. Raises AudioError for what cannot be enhanced."""
        samples = as_samples(samples, self.channels)
        check_samples("samples", samples, self._rate_hz, self._state.received)
        return samples

    def _advance(self, samples: np.ndarray) -> np.ndarray:
        """Run whole hops (C, T * hop) through the network and return what became final."""
        state, hop = self._state, self.pair.hop_samples
        if samples.shape[-1] == 0:
            return samples
        final = self._enhanced(samples) if self._path is None else self._path(samples)
        if not state.begun:
            state.begun, final = True, final[:, hop:]
        state.delivered += final.shape[-1]
        return final

    def _enhanced(self, samples: np.ndarray) -> np.ndarray:
        """Enhanced samples (C, T * hop), one hop late, of whole hops (C, T * hop)."""
        state, hop = self._state, self.pair.hop_samples
        with self.backend.running():
            hops = self.backend.from_numpy(state.offset.remove(samples))
            recent = namespace(hops).concatenate([state.history, hops], -1)
            spectrum = self.pair.frames(recent)
            mask = self._mask(spectrum)
            if self._hear is not None:
                self._hear(self.backend.to_numpy(spectrum), self.backend.to_numpy(mask))
            mask = at_least(mask, self._floor)
            # Synthesis is linear and exact, so masks can be mixed instead of signals.
            mixed = mask if self._mix == 1 else self._mix * mask + (1 - self._mix)
            enhanced = self.pair.overlap_add(spectrum * mixed)
            final = enhanced[:, :-hop]
            final[:, :hop] += state.overlap
            state.history, state.overlap = copy(recent[:, hops.shape[-1] :]), copy(enhanced[:, -hop:])
            smallest = np.abs(self.backend.to_numpy(mask)).min(0)
            return state.offset.restore(self.backend.to_numpy(final), smallest, self._mix)

    def _mask(self, spectrum: Array) -> Array:
        """The speech mask (F', T) of spectra (C, F', T): F' bins of this sampling rate, from the network's F bins."""
        inputs = self._inputs(spectrum)
        arrays, missing = namespace(inputs), self.bins - inputs.shape[-2]
        if missing > 0:
            silence = arrays.zeros_like(inputs[..., :1, :])
            silence = arrays.broadcast_to(silence, (*inputs.shape[:-2], missing, inputs.shape[-1]))
            inputs = arrays.concatenate([inputs, silence], -2)
        else:
            inputs = inputs[..., : self.bins, :]
        masks, self._state.network = self.backend(inputs[None], self._state.network)
        mask = complex_masks(masks)[0, 0]
        if missing > 0:
            mask = mask[:-missing]
        elif missing < 0:
            mask = arrays.concatenate([mask, self._above(spectrum, mask)])
        return mask

    def _above(self, spectrum: Array, mask: Array) -> Array:
        """The mask (F' - F, T) above the network's reach, computed from the mask below (F, T)."""
        power, bands, held = (abs(spectrum) ** 2).mean(0), self._bands, self.backend.to_numpy
        below, above = power[: self.bins], power[self.bins :]
        kept = below * abs(mask) ** 2
        gains, self._state.above = above_gains(
            held(bands.below(below)),
            held(bands.below(kept)),
            held(bands.above(above)),
            bands.present,
            self._state.above,
        )
        by_bin = self.backend.from_numpy(gains[self._bands.band_of_bin])
        return by_bin + 0 * mask[:1]  # of the kind of the mask, complex or real

    def _inputs(self, spectrum: Array) -> Array:
        """Return the network's input for spectra (C, F', T): (F', T), or (5, F', T) with phase."""
        inputs = features(spectrum, self._state.before, self.pair.window_hops, self.backend.uses_phase)
        if self.backend.uses_phase:
            self._state.before = copy(spectrum[..., -1:])
        return inputs


class SeparateChannels:
    """A `StreamingEnhancer` for each channel, with a mask of its own, for channels that hold different sources, such as
    the two sides of a call. It is used like a single one, and costs as much as one for each channel.
    """

    def __init__(self, channels: Sequence[StreamingEnhancer], rate_hz: int) -> None:
        """`channels` are enhancers of one channel each."""
        self._each, self._rate_hz, self._received = channels, rate_hz, 0
        self.channels = len(channels)

    def __repr__(self) -> str:
        return f"SeparateChannels({self.channels} x {self._each[0]!r})"

    @property
    def latency_samples(self) -> int:
        """See `StreamingEnhancer.latency_samples`."""
        return self._each[0].latency_samples

    def run_by(self, backend: Backend) -> None:
        """See `StreamingEnhancer.run_by`."""
        for one in self._each:
            one.run_by(backend)

    def reset(self) -> None:
        """Forget the recording; the next chunk starts a new one."""
        self._received = 0
        for one in self._each:
            one.reset()

    def feed(self, samples: np.ndarray) -> np.ndarray:
        """See `StreamingEnhancer.feed`."""
        samples = self._checked(samples)
        self._received += samples.shape[-1]
        return np.concatenate([one.feed(samples[k : k + 1]) for k, one in enumerate(self._each)])

    def flush(self, samples: np.ndarray | None = None) -> np.ndarray:
        """See `StreamingEnhancer.flush`."""
        samples = self._checked(np.empty((self.channels, 0)) if samples is None else samples)
        self._received = 0
        return np.concatenate([one.flush(samples[k : k + 1]) for k, one in enumerate(self._each)])

    def _checked(self, samples: np.ndarray) -> np.ndarray:
        # All channels are checked first, so that none has taken its samples when another refuses.
        samples = as_samples(samples, self.channels)
        check_samples("samples", samples, self._rate_hz, self._received)
        return samples
