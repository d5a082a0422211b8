"""Mixtures on the fly: example i of a seed is a pure function of both, so any run can be resumed exactly."""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Protocol, TypeVar

import numpy as np

from deepnmf_cli.corpus.augment import Augmentation, AugmentationSettings
from deepnmf_cli.corpus.effects import change_speed
from deepnmf_cli.corpus.manifest import Clip
from deepnmf_cli.corpus.mixing import Samples, in_room, is_silent, scale_to_level, scale_to_snr
from deepnmf_cli.errors import AudioError, CorpusError
from deepnmf_cli.signal import audio

Item = TypeVar("Item")

CACHE_BYTES = 4 << 30
"""Decoded audio kept in memory, as 16-bit samples: 35 hours at 16 kHz. What is used least recently goes first."""

ATTEMPTS = 20
"""Draws after which a corpus that gives nothing but silence is given up."""


@dataclass(frozen=True)
class MixingSettings:
    """How mixtures are made."""

    segment_s: float = 4.0
    snr_db: tuple[float, float] = (-8.0, 12.0)
    level_db: tuple[float, float] = (-35.0, -15.0)
    room_probability: float = 0.3
    """Share of the mixtures whose speech is heard through a room response, where responses are given."""
    room_target: str = "early"
    """What to recover from reverberant speech: "early" (with early reflections) or "reverberant" (all of it)."""
    second_noise_probability: float = 0.3
    """Share of the mixtures that hold two noises at once."""
    clean_probability: float = 0.03
    """Share of the mixtures with noise 40 dB below speech, so that clean input stays clean."""
    material_share: float = 1.0
    """Share of the speakers, and of the clips of noise, that are used at all: how much less material would do."""

    def __post_init__(self) -> None:
        if not self.segment_s >= 0.1:
            raise ValueError("segment_s must be at least 0.1")
        if self.snr_db[0] > self.snr_db[1] or self.level_db[0] > self.level_db[1]:
            raise ValueError("snr_db and level_db are ranges, the lower end first")
        if self.room_target not in ("early", "reverberant"):
            raise ValueError(f"room_target {self.room_target!r} is neither early nor reverberant")
        if not all(0 <= p <= 1 for p in (self.room_probability, self.second_noise_probability, self.clean_probability)):
            raise ValueError("probabilities lie between 0 and 1")
        if not 0 < self.material_share <= 1:
            raise ValueError("material_share must be above 0 and at most 1")


class ExampleSource(Protocol):
    """Anything that gives example `index` as (speech, noise), each (samples,) float32, the mixture being their sum."""

    length: int
    """Samples per example."""
    cache: "ClipCache"
    """Where its clips are kept."""

    def __getitem__(self, index: int) -> tuple[Samples, Samples]: ...


class ClipCache:
    """Whole clips decoded to one channel at one sampling rate, kept as 16-bit samples up to a number of bytes."""

    def __init__(self, rate_hz: int, capacity_bytes: int = CACHE_BYTES) -> None:
        self.rate_hz, self.capacity_bytes = rate_hz, capacity_bytes
        self._held: OrderedDict[Path, tuple[np.ndarray, np.float32]] = OrderedDict()
        self._bytes = 0
        self._lock = Lock()

    def __getstate__(self) -> dict:
        """For another process, which fills a cache of its own."""
        return {"rate_hz": self.rate_hz, "capacity_bytes": self.capacity_bytes}

    def __setstate__(self, state: dict) -> None:
        self.__init__(**state)

    def length(self, path: Path) -> int:
        """Samples of the clip."""
        return len(self._clip(path)[0])

    def read(self, path: Path, start: int = 0, stop: int | None = None) -> Samples:
        """Samples start..stop of the clip as float32."""
        integers, step = self._clip(path)
        return integers[start:stop] * step

    def _clip(self, path: Path) -> tuple[np.ndarray, np.float32]:
        """The clip as 16-bit integers and the size of one step: 2^-15, or more where the recording exceeds 1."""
        with self._lock:
            if path in self._held:
                self._held.move_to_end(path)
                return self._held[path]
        samples = decode(path, self.rate_hz)
        step = np.float32(max(1.0, float(np.abs(samples).max(initial=0))) / 32767)
        clip = np.round(samples / step).astype(np.int16), step
        with self._lock:
            if path not in self._held:
                self._held[path] = clip
                self._bytes += clip[0].nbytes
            while self._bytes > self.capacity_bytes and len(self._held) > 1:
                self._bytes -= self._held.popitem(last=False)[1][0].nbytes
        return clip


def decode(path: Path, rate_hz: int) -> Samples:
    """A whole file as float32 (samples,) at `rate_hz`, channels averaged. Raises CorpusError naming the file."""
    try:
        samples, own_rate = audio.read(path)
    except AudioError as error:
        raise CorpusError(path, error.found, error.expected, error.remedy) from error
    mono = samples.mean(0)
    if own_rate != rate_hz and len(mono):
        import soxr

        mono = soxr.resample(mono, own_rate, rate_hz)
    return np.ascontiguousarray(mono, dtype=np.float32)


class MixtureDataset:
    """Speech of a random speaker in a random noise: speakers are drawn evenly, noises by their duration.

    Clips differ a hundredfold in number per speaker and in length per noise; drawing files evenly would let the largest
    folder and the shortest noises dominate.
    """

    def __init__(
        self,
        speech: Sequence[Clip],
        noise: Sequence[Clip],
        rooms: Sequence[Clip],
        settings: MixingSettings,
        rate_hz: int,
        seed: int,
        cache: ClipCache | None = None,
        augmentation: AugmentationSettings = AugmentationSettings(),
    ) -> None:
        self.settings, self.rate_hz, self.seed = settings, rate_hz, seed
        self.augmentation = augmentation
        self.length = round(settings.segment_s * rate_hz)
        self.cache = cache or ClipCache(rate_hz)
        groups: dict[str, list[Clip]] = {}
        for clip in speech:
            groups.setdefault(clip.group, []).append(clip)
        self._speakers = [_Drawing(clips) for _, clips in _some(sorted(groups.items()), settings.material_share)]
        self._noise = _Drawing(_some(noise, settings.material_share))
        self._rooms = list(rooms)

    def __getitem__(self, index: int) -> tuple[Samples, Samples]:
        """Example `index` as (speech, noise), each float32 (segment,)."""
        draw = np.random.default_rng([self.seed, index])
        change = Augmentation(self.augmentation, self.seed, index, self.rate_hz)
        s = self.settings
        wet = target = change.speech(self.speech(draw, change.speech_speed()))
        snr_db = 40.0 if draw.random() < s.clean_probability else draw.uniform(*s.snr_db)
        response = change.response()
        if response is None and self._rooms and draw.random() < s.room_probability:
            response = self._response(self._rooms[draw.integers(len(self._rooms))].path)
        if response is not None:
            wet, dry = in_room(target, response, self.rate_hz), target
            target = in_room(dry, response, self.rate_hz, early_only=True) if s.room_target == "early" else wet
        noise = change.noise(self._noises(draw, change.noise_speed()), self.speech, self.noise)
        noise = scale_to_snr(wet, noise, snr_db)
        wet, target = change.pause(wet, target)
        # What is not the target is noise: the mixture stays the sum of both, late reverberation included.
        target, noise = change.channel(target, noise + (wet - target))
        return scale_to_level((target, noise), draw.uniform(*s.level_db))

    def _response(self, path: Path) -> Samples:
        """A room response (m,). Raises CorpusError where there is nothing in it."""
        response = self.cache.read(path)
        if not response.any():
            raise CorpusError(path, "digital silence", "a room response", "Remove it.")
        return response

    def speech(self, draw: np.random.Generator, speed: float = 1.0) -> Samples:
        """A segment of one speaker (segment,), utterances joined where one is too short."""

        def segment(length: int) -> tuple[Samples, Path]:
            speaker = self._speakers[draw.integers(len(self._speakers))]
            return self._fill(lambda: speaker.clip(draw).path, draw, length)

        return self._at_speed(segment, speed, "speech")

    def noise(self, draw: np.random.Generator, speed: float = 1.0) -> Samples:
        """A segment of one noise (segment,), repeated where the clip is too short."""

        def segment(length: int) -> tuple[Samples, Path]:
            path = self._noise.clip(draw).path
            return self._fill(lambda: path, draw, length)

        return self._at_speed(segment, speed, "noise")

    def _noises(self, draw: np.random.Generator, speed: float) -> Samples:
        """One noise or two (segment,)."""
        noise = self.noise(draw, speed)
        if draw.random() < self.settings.second_noise_probability:
            noise = noise + scale_to_snr(noise, self.noise(draw, speed), draw.uniform(-6, 6))
        return noise

    def _at_speed(self, segment: Callable[[int], tuple[Samples, Path]], speed: float, what: str) -> Samples:
        if speed == 1:
            return _not_silent(lambda: segment(self.length), what)
        return change_speed(lambda length: _not_silent(lambda: segment(length), what), self.length, speed)

    def _fill(self, next_path: Callable[[], Path], draw: np.random.Generator, length: int) -> tuple[Samples, Path]:
        """One segment (length,), and the last of the files it is made of."""
        pieces, missing = [], length
        while missing > 0:
            path = next_path()
            start = int(draw.integers(max(1, self.cache.length(path) - missing + 1)))
            pieces.append(self.cache.read(path, start, start + missing))
            if not len(pieces[-1]):
                raise CorpusError(path, "no samples", "at least one sample", "Remove the file.")
            missing -= len(pieces[-1])
        return np.concatenate(pieces), path


def _some(items: Sequence[Item], share: float) -> list[Item]:
    """A share of the items, the same for every seed; a smaller share is part of a larger one."""
    order = np.random.default_rng(0).permutation(len(items))
    return [items[i] for i in sorted(order[: max(1, round(share * len(items)))])]


class _Drawing:
    """Clips drawn with probability proportional to their duration."""

    def __init__(self, clips: Sequence[Clip]) -> None:
        self._clips = list(clips)
        self._ends = np.cumsum([c.seconds for c in clips])

    def clip(self, draw: np.random.Generator) -> Clip:
        return self._clips[int(np.searchsorted(self._ends, draw.random() * self._ends[-1], side="right"))]


class PairDataset:
    """Segments of ready pairs: the noise is what the noisy recording has beyond the clean one."""

    def __init__(self, pairs: Sequence[tuple[Path, Path]], segment_s: float, rate_hz: int, seed: int) -> None:
        self._pairs, self.seed = list(pairs), seed
        self.length = round(segment_s * rate_hz)
        self.cache = ClipCache(rate_hz)

    def __getitem__(self, index: int) -> tuple[Samples, Samples]:
        draw = np.random.default_rng([self.seed, index])

        def segment() -> tuple[Samples, Path]:
            pair = self._pairs[draw.integers(len(self._pairs))]
            start = int(draw.integers(max(1, self.cache.length(pair[0]) - self.length + 1)))
            clean, noisy = (self.cache.read(path, start, start + self.length) for path in pair)
            return np.pad(np.stack([clean, noisy - clean]), ((0, 0), (0, self.length - len(clean)))), pair[0]

        speech, noise = _not_silent(segment, "speech")
        return speech, noise


def _not_silent(segment: Callable[[], tuple[Samples, Path]], what: str) -> Samples:
    for _ in range(ATTEMPTS):
        samples, path = segment()
        if not is_silent(samples[0] if samples.ndim == 2 else samples):
            return samples
    found, remedy = f"only silence in {ATTEMPTS} segments, the last of them from here", "Check the recordings."
    raise CorpusError(path, found, f"audible {what}", remedy)
