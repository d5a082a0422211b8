"""Clips of one channel at one sampling rate: short ones decoded once and kept, long ones read piece by piece."""

import math
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from deepnmf_cli import extras
from deepnmf_cli.corpus.mixing import SILENT_RMS, Samples
from deepnmf_cli.errors import AudioError, CorpusError
from deepnmf_cli.signal.audio import AudioReader
from deepnmf_cli.signal.formats import is_seekable
from deepnmf_cli.workers import available_cpus

CACHE_BYTES = 4 << 30
"""Bytes of decoded audio kept in memory, as 16-bit samples: 37 hours at 16 kHz. The least recently used goes first."""

LONG_S = 600.0
"""Longer recordings are not decoded as a whole if their format tells where each sample lies."""

MARGIN_S = 0.1
"""Margin read on both sides of a piece before it is resampled, longer than the resampler's filter."""

READ_SAMPLES = 1 << 19
"""Number of samples, of all channels together, that are decoded at once: 2 MiB."""

CANCELLED_DB = 12.0
"""If the average of the channels is this much weaker than the loudest, the sound is lost: their signs are opposite."""

BLOCK_S = 0.1
"""Resolution of `ClipCache.audible_starts`."""


Block = tuple[NDArray[np.float32], int]
"""A block (n, channels) of a file, and the file's own sampling rate."""


@dataclass(frozen=True)
class _Long:
    """A recording that is read in pieces: its own sampling rate, and its length at the cache's rate."""

    own_rate_hz: int
    length: int


class Unpacked:
    """Clips that have been decoded into one file of 16-bit samples, which all processes map into their memory."""

    def __init__(self, file: Path, places: dict[Path, tuple[int, int, np.float32]]) -> None:
        """`places`: clip -> its first sample, its end, and the size of one step."""
        self.file, self.places = file, places
        self._samples = np.memmap(file, np.int16, "r")

    def __reduce__(self) -> tuple:
        """Pickle the name of the file and the places; another process maps the file itself."""
        return Unpacked, (self.file, self.places)

    def clip(self, path: Path) -> tuple[np.ndarray, np.float32] | None:
        """Return the clip as 16-bit integers and the size of one step, or None if the clip is not there."""
        if path not in self.places:
            return None
        first, end, step = self.places[path]
        return self._samples[first:end], step


def unpack(paths: Iterable[Path], rate_hz: int, file: Path, first_channel: bool = False) -> Unpacked:
    """Decode clips into `file`, several at a time.

    Raises CorpusError for a clip that cannot be read, and OSError if the disk is full.
    """
    places, end, at_once = {}, 0, 8 * available_cpus()
    with ThreadPoolExecutor(available_cpus()) as pool, file.open("wb") as out:
        paths = sorted(set(paths))
        for first in range(0, len(paths), at_once):  # not all of them: decoded clips wait in memory for their turn
            some = paths[first : first + at_once]
            decoded = pool.map(lambda path: _integers(path, rate_hz, first_channel), some)
            for path, (samples, step) in zip(some, decoded, strict=True):
                out.write(samples.data)
                places[path] = end, end + len(samples), step
                end += len(samples)
    return Unpacked(file, places)


class ClipCache:
    """Clips of one channel at one sampling rate, kept as 16-bit samples up to a number of bytes.

    Recordings longer than `LONG_S`, in a format for which `formats.is_seekable` holds, are not kept: only the part that
    is asked for is decoded, anew each time. It equals the same part of the whole up to the rounding of the resampler
    and to 16 bits; where channels cancel each other, the one that is used is chosen for each part.
    """

    def __init__(
        self,
        rate_hz: int,
        capacity_bytes: int = CACHE_BYTES,
        first_channel: bool = False,
        unpacked: Unpacked | None = None,
    ) -> None:
        """With `first_channel`, the other channels are ignored; otherwise see `one_channel`. Clips in `unpacked` are
        taken from there.
        """
        self.rate_hz, self.capacity_bytes, self.first_channel = rate_hz, capacity_bytes, first_channel
        self._whole_bytes = capacity_bytes
        self.unpacked = unpacked
        self._held: OrderedDict[Path, tuple[np.ndarray, np.float32]] = OrderedDict()
        self._long: dict[Path, _Long | None] = {}
        self._energies: dict[Path, NDArray[np.float32]] = {}
        self._bytes = 0
        self._lock = Lock()

    def divide(self, processes: int) -> None:
        """Keep at most one of `processes` equal parts of the capacity, however often this is called."""
        self.capacity_bytes = self._whole_bytes // processes

    def __getstate__(self) -> dict:
        """Pickle the settings alone, for another process, which fills a cache of its own."""
        given = ("rate_hz", "capacity_bytes", "first_channel", "unpacked")
        return {name: getattr(self, name) for name in given}

    def __setstate__(self, state: dict) -> None:
        self.__init__(**state)

    def length(self, path: Path, like: Path | None = None) -> int:
        """Return the number of samples of the clip."""
        long = self._as_long(path)
        return long.length if long else len(self._clip(path, like)[0])

    def read(self, path: Path, start: int = 0, stop: int | None = None, like: Path | None = None) -> Samples:
        """Return samples start..stop of the clip as float32; `like` decides which channel is used, as in `decode`."""
        if long := self._as_long(path):
            return self._piece(path, long, start, long.length if stop is None else min(stop, long.length), like)
        integers, step = self._clip(path, like)
        return integers[start:stop] * step

    def audible_starts(self, path: Path, length: int) -> NDArray[np.int64]:
        """Return the starts, every `BLOCK_S`, of segments of `length` samples that are probably not silent, ascending.

        A clip shorter than `length` has at most one start, 0.
        """
        block = round(BLOCK_S * self.rate_hz)
        if path not in self._energies:
            self._energies[path] = self._block_energies(path, block)
        total = self.length(path)
        last = max(0, total - length)
        starts = np.minimum(np.arange(0, last + block, block), last)
        edges = np.minimum(block * np.arange(len(self._energies[path]) + 1), total)
        sums = np.concatenate([[0.0], np.cumsum(self._energies[path], dtype=np.float64)])
        energy = np.interp(np.minimum(starts + length, total), edges, sums) - np.interp(starts, edges, sums)
        return np.unique(starts[energy >= length * SILENT_RMS**2])

    def _block_energies(self, path: Path, block: int) -> NDArray[np.float32]:
        """Return the sum of squares of each block of the clip; the last block may be shorter."""
        total, step, found = self.length(path), block * 600, []
        for start in range(0, total, step):
            piece = self.read(path, start, start + step).astype(np.float64)
            found.append(np.add.reduceat(piece**2, np.arange(0, len(piece), block)))
        return np.concatenate(found or [np.empty(0)]).astype(np.float32)

    def _as_long(self, path: Path) -> _Long | None:
        if self.unpacked and path in self.unpacked.places:
            return None
        if path not in self._long:
            with _opened(path) as file:
                info = file.info
                long = info.seconds > LONG_S and is_seekable(info)
                length = info.frames * self.rate_hz // info.rate_hz
                self._long[path] = _Long(info.rate_hz, length) if long else None
        return self._long[path]

    def _piece(self, path: Path, long: _Long, start: int, stop: int, like: Path | None) -> Samples:
        common = math.gcd(long.own_rate_hz, self.rate_hz)
        down, up = long.own_rate_hz // common, self.rate_hz // common  # `down` samples of the file become `up`
        margin = -(-round(MARGIN_S * self.rate_hz) // up) if down != up else 0
        first, last = max(0, start // up - margin), -(-stop // up) + margin
        decoded = decode(path, self.rate_hz, like, self.first_channel, first * down, (last - first) * down)
        return decoded[start - first * up : stop - first * up]

    def _clip(self, path: Path, like: Path | None) -> tuple[np.ndarray, np.float32]:
        """The clip as 16-bit integers and the size of one step: 1/32767, or more where the recording exceeds 1."""
        if self.unpacked and (found := self.unpacked.clip(path)):
            return found
        with self._lock:
            if path in self._held:
                self._held.move_to_end(path)
                return self._held[path]
        clip = _integers(path, self.rate_hz, self.first_channel, like)
        with self._lock:
            if path not in self._held:
                self._held[path] = clip
                self._bytes += clip[0].nbytes
            while self._bytes > self.capacity_bytes and len(self._held) > 1:
                self._bytes -= self._held.popitem(last=False)[1][0].nbytes
        return clip


class Excerpts(ClipCache):
    """A cache in which some recordings are cut to a part of themselves, between two shares of their length."""

    def __init__(
        self, rate_hz: int, parts: dict[Path, tuple[float, float]], unpacked: "Unpacked | None" = None
    ) -> None:
        super().__init__(rate_hz, unpacked=unpacked)
        self.parts = parts

    def __getstate__(self) -> dict:
        return {"rate_hz": self.rate_hz, "parts": self.parts, "unpacked": self.unpacked}

    def length(self, path: Path, like: Path | None = None) -> int:
        first, end = self._ends(path, like)
        return end - first

    def read(self, path: Path, start: int = 0, stop: int | None = None, like: Path | None = None) -> Samples:
        first, end = self._ends(path, like)
        return super().read(path, first + start, end if stop is None else min(end, first + stop), like)

    def _ends(self, path: Path, like: Path | None) -> tuple[int, int]:
        total = super().length(path, like)
        first, end = self.parts.get(path, (0.0, 1.0))
        return round(first * total), round(end * total)


def _integers(
    path: Path, rate_hz: int, first_channel: bool = False, like: Path | None = None
) -> tuple[np.ndarray, np.float32]:
    samples = decode(path, rate_hz, like, first_channel)
    step = np.float32(max(1.0, float(np.abs(samples).max(initial=0))) / 32767)
    return np.round(samples / step).astype(np.int16), step


def decode(
    path: Path,
    rate_hz: int,
    like: Path | None = None,
    first_channel: bool = False,
    start: int = 0,
    frames: int | None = None,
) -> Samples:
    """Return a file, or `frames` frames of it from `start` on, as float32 (samples,) at `rate_hz`.

    This is the only place where several channels become one: their average, or the one that `one_channel` returns.
    `like` is the file, with as many frames, by which that is decided, so that both files of a pair use the same
    channel. Raises CorpusError naming the file.
    """
    with _opened(path) as file:  # once, if that shows which channel to take: opening takes longer than decoding
        first_channel |= like in (None, path) and file.info.channels == 1
        channel = 0 if first_channel else one_channel(like or path, start, frames)
        return _converted(path, _blocks(file, start, frames), channel, rate_hz)


def converted(path: Path, samples: NDArray[np.float32], own_rate_hz: int, rate_hz: int) -> Samples:
    """Return what `decode` returns for a stretch of the file that has been read already, (n, channels)."""
    channel = None if samples.shape[1] == 1 else _loudest_if_lost([samples])
    return _converted(path, [(samples, own_rate_hz)], channel, rate_hz)


def _converted(path: Path, blocks: Iterable[Block], channel: int | None, rate_hz: int) -> Samples:
    pieces, resampler = [], None
    for samples, own_rate in blocks:
        mono = samples.mean(1) if channel is None else samples[:, min(channel, samples.shape[1] - 1)]
        if own_rate != rate_hz:
            extras.require("train", f"{path}: {own_rate} Hz", ("soxr",))
            import soxr

            resampler = resampler or soxr.ResampleStream(own_rate, rate_hz, 1, dtype="float32")
            mono = resampler.resample_chunk(np.ascontiguousarray(mono))
        pieces.append(mono)
    if resampler is not None:
        pieces.append(resampler.resample_chunk(np.empty(0, np.float32), last=True))
    return np.ascontiguousarray(np.concatenate(pieces or [np.empty(0)]), dtype=np.float32)


def one_channel(path: Path, start: int = 0, frames: int | None = None) -> int | None:
    """Return the loudest channel of a recording if the average of all is weaker by `CANCELLED_DB`, else None.

    Averaging would turn stereo of opposite sign into silence. A single silent channel costs the average 6 dB, which is
    no reason not to average.
    """
    with _opened(path) as file:
        if file.info.channels == 1:
            return None
        return _loudest_if_lost(samples for samples, _ in _blocks(file, start, frames))


def _loudest_if_lost(blocks: Iterable[NDArray[np.float32]]) -> int | None:
    energy, average = 0.0, 0.0
    for samples in blocks:
        energy = energy + np.einsum("nc,nc->c", samples, samples, dtype=np.float64)
        mean = samples.mean(1)
        average += float(np.dot(mean, mean))
    loudest = int(np.argmax(energy))
    return loudest if average < 10 ** (-CANCELLED_DB / 10) * np.max(energy) else None


@contextmanager
def _opened(path: Path) -> Iterator[AudioReader]:
    """Yield the open file; its faults are raised as CorpusError."""
    with explaining(path), AudioReader(path) as file:
        yield file


@contextmanager
def explaining(path: Path) -> Iterator[None]:
    """Raise the faults of a file as CorpusError."""
    try:
        yield
    except AudioError as error:
        raise CorpusError(path, error.found, error.expected, error.remedy) from error


def _blocks(file: AudioReader, start: int, frames: int | None) -> Iterator[Block]:
    block, end = max(1, READ_SAMPLES // file.info.channels), None if frames is None else start + frames
    for samples in file.blocks(frames=block, start=min(start, file.info.frames) or None, end=end):
        yield samples.T, file.info.rate_hz
