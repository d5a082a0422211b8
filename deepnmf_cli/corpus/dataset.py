"""Mixtures made on the fly: example i is a pure function of i and the seed, so any run can be resumed exactly."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np

from deepnmf_cli.corpus.augment import Augmentation, AugmentationSettings
from deepnmf_cli.corpus.clips import ClipCache, unpack
from deepnmf_cli.corpus.effects import change_speed
from deepnmf_cli.corpus.manifest import Clip
from deepnmf_cli.corpus.mixing import Samples, in_room, is_silent, scale_to_level, scale_to_snr
from deepnmf_cli.errors import CorpusError

Item = TypeVar("Item")

ROOM_CACHE_BYTES = 1 << 28
"""Bytes of room responses kept in memory."""

ATTEMPTS = 20
"""Number of draws that may be silent before the recordings are searched for audible segments."""

SEARCHED_STARTS = 3
"""Largest number of segments of one recording that this search examines."""

Segment = tuple[Samples, Path]
"""Samples, and one of the files that they are from."""


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
    """Share of the speakers, and of the noise clips, that are used at all, to see how much less material would do."""

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
    """Anything that returns example `index` as (speech, noise), each (samples,) float32; the mixture is their sum."""

    length: int
    """Samples per example."""

    def __getitem__(self, index: int) -> tuple[Samples, Samples]: ...

    def divide(self, processes: int) -> None:
        """Use this process's share of the memory, and of the cores; `processes` of them have a copy of the source."""


class MixtureDataset:
    """Speech of a random speaker in a random noise: speakers are drawn uniformly, noises in proportion to duration.

    Speakers differ a hundredfold in their number of clips, and noises in their length; drawing files uniformly would
    let the largest folder and the shortest noises dominate.
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
        self._paths = [clip.path for clip in (*speech, *noise)]
        self.bytes = round(2 * rate_hz * sum(clip.seconds for clip in (*speech, *noise)))
        """Size of all clips as 16-bit samples."""
        self._rooms, self._room_cache = list(rooms), ClipCache(rate_hz, ROOM_CACHE_BYTES, first_channel=True)

    def __getitem__(self, index: int) -> tuple[Samples, Samples]:
        """Return example `index` as (speech, noise), each float32 (segment,)."""
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
        noise += wet - target  # late reverberation: all that is not target counts, so that the mixture stays their sum
        target, noise = change.channel(target, noise)
        return scale_to_level(target, noise, draw.uniform(*s.level_db))

    def divide(self, processes: int) -> None:
        """Keep as many clips as one of `processes` may."""
        self.cache.divide(processes)

    def unpack(self, file: Path) -> None:
        """Decode all clips into `file` at once, for all processes to share: see `clips.unpack`."""
        self.cache.unpacked = unpack(self._paths, self.rate_hz, file)

    def _response(self, path: Path) -> Samples:
        """Return a room response (m,), that of the first microphone. Raises CorpusError if it is all zeros."""
        response = self._room_cache.read(path)
        if not response.any():
            raise CorpusError(path, "digital silence", "a room response", "Remove it.")
        return response

    def speech(self, draw: np.random.Generator, speed: float = 1.0) -> Samples:
        """Return a segment of one speaker (segment,), with utterances joined if one is too short."""

        def segment(length: int) -> Segment:
            speaker = self._speakers[draw.integers(len(self._speakers))]
            return self._fill(lambda: speaker.clip(draw).path, draw, length)

        def audible(length: int) -> Iterator[Segment]:
            for number in draw.permutation(len(self._speakers)):
                speaker = self._speakers[number]
                for clip in speaker.all(draw):
                    yield from self._audible(clip.path, lambda: speaker.clip(draw).path, draw, length)

        return self._at_speed(segment, audible, speed, "speech")

    def noise(self, draw: np.random.Generator, speed: float = 1.0) -> Samples:
        """Return a segment of one noise (segment,), repeated if the clip is too short."""

        def segment(length: int) -> Segment:
            path = self._noise.clip(draw).path
            return self._fill(lambda: path, draw, length)

        def audible(length: int) -> Iterator[Segment]:
            for clip in self._noise.all(draw):
                yield from self._audible(clip.path, lambda: clip.path, draw, length)

        return self._at_speed(segment, audible, speed, "noise")

    def _noises(self, draw: np.random.Generator, speed: float) -> Samples:
        """Return one noise, or the sum of two (segment,)."""
        noise = self.noise(draw, speed)
        if draw.random() < self.settings.second_noise_probability:
            noise = noise + scale_to_snr(noise, self.noise(draw, speed), draw.uniform(-6, 6))
        return noise

    def _at_speed(
        self, segment: Callable[[int], Segment], audible: Callable[[int], Iterable[Segment]], speed: float, what: str
    ) -> Samples:
        def drawn(length: int) -> Samples:
            return _not_silent(lambda: segment(length), audible(length), what)

        return drawn(self.length) if speed == 1 else change_speed(drawn, self.length, speed)

    def _fill(self, next_path: Callable[[], Path], draw: np.random.Generator, length: int) -> Segment:
        """Return one segment (length,) and the last of the files that it is made of."""
        pieces, missing = [], length
        while missing > 0:
            path = next_path()
            start = int(draw.integers(max(1, self.cache.length(path) - missing + 1)))
            pieces.append(self.cache.read(path, start, start + missing))
            if not len(pieces[-1]):
                raise CorpusError(path, "no samples", "at least one sample", "Remove the file.")
            missing -= len(pieces[-1])
        return np.concatenate(pieces), path

    def _audible(
        self, path: Path, next_path: Callable[[], Path], draw: np.random.Generator, length: int
    ) -> Iterator[Segment]:
        """Yield segments (length,) that begin where the file is audible; a short one is completed as in `_fill`."""
        starts = self.cache.audible_starts(path, length)
        for start in draw.permutation(starts)[:SEARCHED_STARTS]:
            piece = self.cache.read(path, int(start), int(start) + length)
            rest = [self._fill(next_path, draw, length - len(piece))[0]] if len(piece) < length else []
            yield np.concatenate([piece, *rest]), path


def _some(items: Sequence[Item], share: float) -> list[Item]:
    """Return a share of the items, the same for every seed; a smaller share is a subset of a larger one."""
    order = np.random.default_rng(0).permutation(len(items))
    return [items[i] for i in sorted(order[: max(1, round(share * len(items)))])]


class _Drawing:
    """Clips drawn with probability proportional to their duration."""

    def __init__(self, clips: Sequence[Clip]) -> None:
        self._clips = list(clips)
        self._ends = np.cumsum([c.seconds for c in clips])

    def all(self, draw: np.random.Generator) -> list[Clip]:
        """Return all clips in a random order in which long ones tend to come early."""
        order = np.argsort(draw.exponential(size=len(self._clips)) / [c.seconds for c in self._clips])
        return [self._clips[i] for i in order]

    def clip(self, draw: np.random.Generator) -> Clip:
        return self._clips[int(np.searchsorted(self._ends, draw.random() * self._ends[-1], side="right"))]


class PairDataset:
    """Segments of ready pairs; the noise is the difference between the noisy and the clean recording."""

    def __init__(self, pairs: Sequence[tuple[Path, Path]], segment_s: float, rate_hz: int, seed: int) -> None:
        self._pairs, self.seed = list(pairs), seed
        self.length = round(segment_s * rate_hz)
        self.cache = ClipCache(rate_hz)

    def __getitem__(self, index: int) -> tuple[Samples, Samples]:
        draw = np.random.default_rng([self.seed, index])

        def segment() -> Segment:
            pair = self._pairs[draw.integers(len(self._pairs))]
            start = int(draw.integers(max(1, self.cache.length(pair[0]) - self.length + 1)))
            return self._at(pair, start)

        def audible() -> Iterator[Segment]:
            for number in draw.permutation(len(self._pairs)):
                pair = self._pairs[number]
                for start in draw.permutation(self.cache.audible_starts(pair[0], self.length))[:SEARCHED_STARTS]:
                    yield self._at(pair, int(start))

        speech, noise = _not_silent(segment, audible(), "speech")
        return speech, noise

    def divide(self, processes: int) -> None:
        """Keep as many clips as one of `processes` may."""
        self.cache.divide(processes)

    def _at(self, pair: tuple[Path, Path], start: int) -> Segment:
        """Return (speech, noise) from `start` on, (2, length), and the clean file."""
        clean, noisy = (self.cache.read(path, start, start + self.length, like=pair[0]) for path in pair)
        return np.pad(np.stack([clean, noisy - clean]), ((0, 0), (0, self.length - len(clean)))), pair[0]


def _not_silent(segment: Callable[[], Segment], audible: Iterable[Segment], what: str) -> Samples:
    """Return the first of `ATTEMPTS` segments that is not silent, or else the first such segment in `audible`.

    Recordings that are mostly silent thus give the segments that endless attempts would find.
    """
    for _ in range(ATTEMPTS):
        samples, path = segment()
        if not _is_silent(samples):
            return samples
    for samples, _ in audible:
        if not _is_silent(samples):
            return samples
    found, remedy = f"only silence, here and in all other recordings of {what}", "Check the recordings."
    raise CorpusError(path, found, f"audible {what}", remedy)


def _is_silent(samples: Samples) -> bool:
    return is_silent(samples[0] if samples.ndim == 2 else samples)
