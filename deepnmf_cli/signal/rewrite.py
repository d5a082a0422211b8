"""Processing of one audio file into another, block by block, with what was removed in a file of its own."""

import logging
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np

from deepnmf_cli.checkpoint import atomic_path, make_folder
from deepnmf_cli.errors import AudioError
from deepnmf_cli.signal.audio import AudioReader, Process, explaining
from deepnmf_cli.signal.audio_writer import open_writer
from deepnmf_cli.signal.formats import EXACT, AudioInfo, output_format

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Rewritten:
    """Result of `rewrite`: the source, how many samples it had to clip in each output, and notes on files."""

    info: AudioInfo
    clipped: dict[Path, int]
    notes: tuple[str, ...] = ()


class Stopwatch:
    """Measures the seconds spent inside its context, or waiting for the items of an iterable."""

    def __init__(self) -> None:
        self.seconds, self._began = 0.0, 0.0

    def __enter__(self) -> Self:
        self._began = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds += time.perf_counter() - self._began

    def over(self, items: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """Yield the items, measuring the time spent waiting for them."""
        iterator = iter(items)
        while True:
            with self:
                item = next(iterator, None)
            if item is None:
                return
            yield item


class _Waiting:
    """Queue of samples that were read, but not yet returned by the process: first in, first out."""

    def __init__(self, channels: int) -> None:
        self._samples = np.empty((channels, 0))

    def put(self, block: np.ndarray) -> None:
        self._samples = np.concatenate([self._samples, block], axis=1)

    def take(self, count: int) -> np.ndarray:
        taken, self._samples = self._samples[:, :count], self._samples[:, count:]
        return taken


def rewrite(
    source: str | Path,
    target: str | Path,
    process: Process,
    removed: str | Path | None = None,
    *,
    name: str | None = None,
    overwrite: bool = True,
    in_place: bool = False,
    exact: bool = False,
    progress: Callable[[float], object] = lambda seconds: None,
    before_end: Callable[[AudioInfo], object] = lambda info: None,
) -> Rewritten:
    """Write process(source) to `target` and, when asked, source - target to `removed`, in bounded memory.

    Rate, channels and length are kept, tags if the container can hold them, and the sample format as `output_format`
    says. The difference is taken after `target` has been rounded and clipped to its sample format, so target + removed
    = source exactly where all three hold integers and the difference fits; otherwise to the precision of the formats
    (lossy codecs excepted).

    `progress` receives the seconds of audio done since its last call. `before_end` is called when all is done, before
    any output exists: if it raises, none is left. Missing folders of the outputs are made once the source has been
    opened. With `exact`, the process gets all the bits of the source as float64, including samples that are not finite.
    Raises AudioError; without `overwrite` also for a file that exists at the end, unless it is the target `in_place`,
    and for a source that is replaced by the target and has changed since it was opened. Nothing half-written stays.
    """
    with AudioReader(source, name) as reader, ExitStack() as outputs:
        info, begun = reader.info, _state(source) if _is_one_file(source, target) else None
        for path in filter(None, (target, removed)):
            make_folder(Path(path).parent, "the outputs", AudioError)
        replaces = overwrite or in_place
        rest = None
        if removed:
            rest = outputs.enter_context(open_writer(removed, _like(info, removed), reader.metadata, overwrite, source))
        # Opened last, so that it gets its name first: if it cannot, the other output is deleted too.
        writer = outputs.enter_context(open_writer(target, _like(info, target), reader.metadata, replaces, source))
        waiting = _Waiting(info.channels)
        reading, writing = Stopwatch(), Stopwatch()
        begin = time.perf_counter()

        def blocks() -> Iterator[np.ndarray]:
            # Single precision is what networks take; the difference needs all the bits of the source.
            wide = rest is not None or exact
            for block in reading.over(reader.blocks("float64" if wide else "float32", check=not exact)):
                if rest:
                    waiting.put(block)
                yield block if exact else block.astype(np.float32, copy=False)

        for block in process(blocks(), info.rate_hz, info.channels):
            with writing:
                stored = writer.write(block)
                if rest:
                    rest.write(waiting.take(block.shape[1]) - stored)
            progress(block.shape[1] / info.rate_hz)
        elapsed_s = time.perf_counter() - begin
        logger.info(
            "%s: %.1f s, %d channel(s) at %g Hz (%s, %s) in %.3f s: %.3f s reading, %.3f s computing, %.3f s writing",
            reader.name, info.seconds, info.channels, info.rate_hz, info.container, info.subtype, elapsed_s,
            reading.seconds, elapsed_s - reading.seconds - writing.seconds, writing.seconds,
        )  # fmt: skip
        if writer.frames != info.frames:
            raise ValueError(f"the process returned {writer.frames} frames for {info.frames}")
        if begun is not None and _state(source) != begun:
            expected, remedy = "one that stays as it is until its result replaces it", "It was left alone: try again."
            raise AudioError(reader.name, "a file that has changed meanwhile", expected, remedy)
        before_end(info)
        clipped = {out.path: out.clipped for out in (writer, rest) if out is not None}
        return Rewritten(info, clipped, tuple(dict.fromkeys((*reader.notes, *writer.notes))))


def copied(source: str | Path, target: str | Path, overwrite: bool = True) -> Rewritten | None:
    """Copy a file byte by byte, atomically; a file that is its own target is left as it is. Raises AudioError as
    `rewrite` does.

    Does nothing and returns None if the suffix of `target` asks for another container or sample format than that of
    `source`, or if `source` is damaged and `rewrite` makes a whole file with the same samples of it.
    """
    with AudioReader(source) as reader:
        info, notes = reader.info, reader.notes
    if Path(source).suffix.lower() != Path(target).suffix.lower() or _like(info, target) != info:
        return None
    if notes and info.subtype in EXACT:
        return None
    make_folder(Path(target).parent, "the outputs", AudioError)
    if not (overwrite and _is_one_file(source, target)):
        with explaining(Path(target)), atomic_path(target, overwrite) as partial:
            shutil.copyfile(source, partial)
    return Rewritten(info, {}, notes)


def _is_one_file(source: str | Path, target: str | Path) -> bool:
    with suppress(OSError):  # such as a target that is not there, or a name that is too long
        return Path(target).samefile(source)
    return False


def _state(path: str | Path) -> tuple[int, int, int]:
    """Return what changes with the content of a file, or when another takes its name."""
    try:
        found = Path(path).stat()
    except OSError as error:
        raise AudioError(path, f"a file that is gone ({error.strerror})", "one that stays", "Try again.") from error
    return found.st_ino, found.st_size, found.st_mtime_ns


def _like(info: AudioInfo, path: str | Path) -> AudioInfo:
    container, subtype = output_format(path, info)
    return replace(info, container=container, subtype=subtype)
