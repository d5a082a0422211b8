"""Audio files of any format, rate and length, read in blocks of samples (channels, frames)."""

import errno
import os
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import soundfile

from deepnmf_cli import extras
from deepnmf_cli.errors import AudioError
from deepnmf_cli.signal import metadata
from deepnmf_cli.signal.formats import UNKNOWN_FRAMES, AudioInfo, check_shape, cut_frames, is_seekable
from deepnmf_cli.signal.links import after_tags, flac_begins
from deepnmf_cli.signal.media import MediaFile
from deepnmf_cli.signal.metadata import Metadata
from deepnmf_cli.signal.parts import INCOMPLETE, Part, View
from deepnmf_cli.signal.samples import check_samples
from deepnmf_cli.signal.survey import NO_FRAMES, survey

BLOCK_FRAMES = 1 << 16
"""Frames read or written at once: small in memory, and libvorbis overflows its stack beyond about a million."""

MOST_FRAMES_PER_BYTE = 1 << 16
"""No codec packs more: a packet of Opus lasts 5,760 frames at most, a block of FLAC 65,535."""

_COUNT_FRAMES = 1 << 12
"""Frames decoded at once to count them; those of a block in which the decoder fails are not counted."""

_FLAC_AHEAD_BYTES = 1 << 20
"""Upper bound of what the FLAC decoder reads ahead."""


_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

SampleType = Literal["float64", "float32", "int32", "int16"]
"""Data types in which samples are read."""


class SequentialFile(soundfile.SoundFile):
    """A SoundFile that never seeks: seeking after each block, as soundfile does, breaks the MP3 decoder's state.

    Nor does it wait for the disk when it is closed, as soundfile does even after reading: `checkpoint.atomic_path`
    waits once for what is written.
    """

    def __init__(self, source: str | Path | View, *arguments: Any, **settings: Any) -> None:
        # Names need not be text; soundfile accepts bytes and any file, but declares neither.
        given: Any = source if isinstance(source, View) else os.fsencode(source)
        super().__init__(given, *arguments, **settings)

    def seekable(self) -> bool:
        return False

    def flush(self) -> None:
        """Do nothing: closing the file writes the samples."""


class _UnknownFormatError(AudioError):
    """A file that libsndfile cannot read, whatever its name says."""


class AudioReader:
    """An open audio file; a context manager.

    `info.frames` is what the file holds: frames are counted if no header states the length. A header that promises
    more is an error; an MP3 header that promises less is noted in `notes`. The links of a chain of Ogg streams, and
    joined MP3 files, are read one after the other. With the extra [media], FFmpeg reads what libsndfile cannot. Raises
    AudioError when the file is missing, empty, incomplete, not audio, or outside 1-64 channels and 1-768 kHz, and when
    its parts differ in rate or channels. `name` stands for the path in messages.
    """

    def __init__(self, path: str | Path, name: str | None = None) -> None:
        self.name = str(path) if name is None else name
        _check_regular(Path(path), self.name)
        self._path = path
        with ExitStack() as stack, _naming(self.name):
            self._raw = stack.enter_context(Path(path).open("rb"))
            self._size = self._raw.seek(0, os.SEEK_END)
            self._parts = survey(self._raw, self._size)
            self._is_media = False
            try:
                self.info, self.metadata = self._examine()
            except _UnknownFormatError as unknown:
                if not extras.has("av"):
                    raise
                self._is_media, self._parts = True, [Part([(0, self._size)], walked=True)]
                try:
                    self.info, self.metadata = self._examine()
                except _UnknownFormatError as error:  # where frames were looked for, that says more
                    raise (unknown if unknown.found == NO_FRAMES[0] else error) from None
            self._file, self._later, self._position = self._open(self._parts[0]), self._parts[1:], 0
            stack.pop_all()
        said = self._file.content.notes if isinstance(self._file, MediaFile) else ()
        self.notes = tuple(dict.fromkeys([*(part.note for part in self._parts if part.note), *said]))
        """Notes for the user, such as on a header that was repaired: each is the end of a sentence about the file."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._file.close()
        self._raw.close()

    def blocks(
        self,
        dtype: SampleType = "float32",
        frames: int = BLOCK_FRAMES,
        start: int | None = None,
        end: int | None = None,
        check: bool = True,
    ) -> Iterator[np.ndarray]:
        """Yield frames `start` (where reading stopped) to `end` (the end) as arrays (channels, n), 1 <= n <= frames.

        Full scale is [-1, 1); "float32" holds up to 24 bits exactly, "float64" every sample format. Finding `start` is
        immediate where seeking is exact; files of other formats are decoded up to there, so that it must lie ahead.
        Raises AudioError when the file ends before its header says and, unless `check` is False, at a sample that is
        not finite in float32 or beyond `samples.LARGEST`.
        """
        if start is not None:
            self._go_to(start)
        end = self.info.frames if end is None else min(end, self.info.frames)
        while self._position < end:
            block = self._read(min(frames, end - self._position), dtype)
            if check:
                check_samples(self.name, block.T, self.info.rate_hz, self._position - len(block))
            yield np.ascontiguousarray(block.T)

    def _go_to(self, frame: int) -> None:
        if is_seekable(self.info) and isinstance(self._file, SequentialFile):
            try:
                soundfile.SoundFile.seek(self._file, frame)
            except soundfile.SoundFileError as error:
                raise self._cut_short(self._position, self.info.frames, reason(error)) from error
            self._position = frame
        while self._position < frame:
            self._read(min(BLOCK_FRAMES, frame - self._position), "float32")

    def _read(self, frames: int, dtype: SampleType) -> np.ndarray:
        """Read the next samples (n, channels), 1 <= n <= frames, of this part or the next one.

        Raises AudioError if there are none.
        """
        because = ""
        try:
            block = self._file.read(frames, dtype=dtype, always_2d=True)
            while not len(block) and self._later:
                self._file.close()
                self._file = self._open(self._later.pop(0))
                block = self._file.read(frames, dtype=dtype, always_2d=True)
        except soundfile.SoundFileError as error:
            because, block = reason(error), np.empty(0)
        if not len(block):
            raise self._cut_short(self._position, self.info.frames, because)
        self._position += len(block)
        return block if self.info.order is None else block[:, self.info.order]

    def _open(self, part: Part) -> SequentialFile | MediaFile:
        if self._is_media:
            return MediaFile(self._path)
        if part.segments == [(0, self._size)]:
            return SequentialFile(self._path)
        file = SequentialFile(View(self._raw, part.segments))
        file.read(part.skipped)
        return file

    def _examine(self) -> tuple[AudioInfo, Metadata]:
        """Return what all parts hold together, and the metadata of the first one. Raises AudioError."""
        infos, about = [], Metadata()
        for part in self._parts:
            if part.fault:
                raise (_UnknownFormatError if part.fault is NO_FRAMES else AudioError)(self.name, *part.fault)
            try:
                with self._open(part) as file:
                    infos.append(self._measure(file, part))
                    if len(infos) == 1:
                        about = file.about if isinstance(file, MediaFile) else metadata.read(file)
            # soundfile raises TypeError for header-less .raw files, whose rate is unknown.
            except (soundfile.SoundFileError, TypeError) as error:
                expected = "WAV, FLAC, OGG, MP3, AIFF, AU or another format of libsndfile"
                remedy = "Convert it first, for example with `ffmpeg -i FILE converted.wav`"
                if self._is_media:
                    expected, remedy = f"{expected} or FFmpeg", f"If it is damaged, copy it again. {remedy}."
                else:
                    remedy = f"{remedy}. To have more formats read, r{extras.install('media')[1:]}"
                found = f"no audio that can be read ({reason(error)})"
                raise _UnknownFormatError(self.name, found, expected, remedy) from error
        for later in infos[1:]:
            if (later.rate_hz, later.channels) != (infos[0].rate_hz, infos[0].channels):
                kinds = [f"{part.channels} channel(s) at {part.rate_hz} Hz" for part in (infos[0], later)]
                remedy = "Take the parts apart, or convert all of them with `ffmpeg -i FILE converted.wav`."
                raise AudioError(self.name, f"parts of {kinds[0]} and of {kinds[1]}", "parts of one kind", remedy)
        return replace(infos[0], frames=sum(info.frames for info in infos)), about

    def _measure(self, file: SequentialFile | MediaFile, part: Part) -> AudioInfo:
        info = AudioInfo(file.samplerate, file.channels, file.frames, file.format, file.subtype)
        check_shape(self.name, info.channels, info.rate_hz, is_array=False)
        if not part.walked and (info.container == "OGG" or info.subtype.startswith("MPEG")):
            found, remedy = (
                f"{info.subtype} behind something else",
                "Convert it first with `ffmpeg -i FILE converted.wav`.",
            )
            raise AudioError(self.name, found, "a file that begins with it", remedy)
        if part.cut:
            raise self._cut_short(*cut_frames(info, *part.cut))
        if isinstance(file, MediaFile) and info.frames < file.content.promised:
            raise self._cut_short(info.frames, file.content.promised)
        if part.frames is not None:
            info = replace(info, frames=part.frames)
        elif file.frames == UNKNOWN_FRAMES:
            info = replace(info, frames=self._count(part))
        elif file.format == "FLAC":
            self._check_flac(info)
        if info.frames > MOST_FRAMES_PER_BYTE * self._size:
            raise self._cut_short(self._count(part), info.frames)
        if info.frames == 0:
            raise AudioError(self.name, "no samples", "at least one sample", "Record it again, or leave the file out.")
        return info

    def _count(self, part: Part) -> int:
        """Number of frames found by decoding; `part` gets a note if the decoder fails before the end."""
        count = 0
        with self._open(part) as file:
            try:
                while block := len(file.read(_COUNT_FRAMES, always_2d=True)):
                    count += block
            except soundfile.SoundFileError as error:
                part.note = f"it is damaged or cut short: decoding failed behind {count} frames ({reason(error)})"
        return count

    def _check_flac(self, info: AudioInfo) -> None:
        """Raise AudioError unless a FLAC file ends where its header says, which is quickly checked by seeking."""
        reached = self._reach(info.frames - 1, info.frames)
        behind = max(after_tags(self._raw, self._size) + 1, (reached or 0) - _FLAC_AHEAD_BYTES)
        if flac_begins(self._raw, self._size, behind):
            raise AudioError(self.name, "a FLAC file behind another", "one recording", "Take them apart.")
        if reached is None:
            raise self._cut_short(self._count(self._parts[0]), info.frames)
        if self._reach(info.frames, info.frames + 1) is not None:
            found, remedy = f"more than {info.frames} frames", "Save them all with `ffmpeg -i FILE repaired.flac`."
            raise AudioError(self.name, found, f"{info.frames} frames as the header says", remedy)

    def _reach(self, frame: int, promised: int) -> int | None:
        """Return how far into a FLAC file, with a header that promises `promised` frames, one reads to find `frame`.

        None if there is no such frame.
        """
        # Eight bytes: rate, channels and bits of a sample in 28 bits, and the number of frames in 36.
        begin = after_tags(self._raw, self._size)
        start = begin + 18
        self._raw.seek(start)
        described = int.from_bytes(self._raw.read(8), "big") >> 36 << 36 | promised
        view = View(self._raw, [(begin, start), described.to_bytes(8, "big"), (start + 8, self._size)])
        with suppress(soundfile.SoundFileError), SequentialFile(view) as file:
            soundfile.SoundFile.seek(file, frame)
            if len(file.read(1)):
                return begin + view.tell()
        return None

    def _cut_short(self, found: int, expected: int, because: str = "") -> AudioError:
        because = f" ({because})" if because else ""
        return AudioError(self.name, f"{found} frames{because}", f"{expected} frames as the header says", INCOMPLETE)


def info(path: str | Path) -> AudioInfo:
    """Rate, channels, length and format of a file, from its header. Raises AudioError as `AudioReader` does."""
    with AudioReader(path) as reader:
        return reader.info


def read(path: str | Path, dtype: SampleType = "float32") -> tuple[np.ndarray, int]:
    """All samples (channels, frames) of a file, full scale being [-1, 1), and its rate in Hz. Raises AudioError."""
    with AudioReader(path) as reader:
        return np.concatenate(list(reader.blocks(dtype)), axis=1), reader.info.rate_hz


Process = Callable[[Iterable[np.ndarray], int, int], Iterator[np.ndarray]]
"""(blocks (channels, n), rate_hz, channels) -> blocks (channels, m), aligned, as long in total."""


def read_stretch(
    path: str | Path, start_s: float, end_s: float, name: str | None = None, process: Process | None = None
) -> tuple[np.ndarray, AudioInfo]:
    """Return samples (channels, n) float32 between two times, fewer if the file ends earlier, and what the file is.

    With a `process`, they are what it makes of the file, of which it gets all the bits, as float64. Raises AudioError
    as `AudioReader` does, and when the file has no sample after `start_s`.
    """
    with AudioReader(path, name) as reader:
        info = reader.info
        first, end = (min(round(s * info.rate_hz), info.frames) for s in (start_s, end_s))
        if first >= end:
            expected, remedy = f"a stretch that begins at {start_s:g} s", "Name seconds inside the recording."
            raise AudioError(reader.name, f"{info.seconds:.2f} s of audio", expected, remedy)
        if process is None:
            return np.concatenate(list(reader.blocks(start=first, end=end)), axis=1), info
        made, at = [], 0
        for block in process(reader.blocks("float64", check=False), info.rate_hz, info.channels):
            made.append(block[:, max(0, first - at) : end - at].astype(np.float32))
            if (at := at + block.shape[1]) >= end:
                break
        return np.concatenate(made, axis=1), info


def _check_regular(path: Path, name: str) -> None:
    """Raise AudioError unless `path` is a file that can be opened and is not empty."""
    with _naming(name):
        # libsndfile says only "System error."; the operating system knows more. Asked first, as a pipe would block.
        if path.exists() and not path.is_file():
            kind = "a folder" if path.is_dir() else "a pipe or device"
            raise AudioError(name, kind, "a regular file", "To read from a pipe, pass - as the input.")
        with path.open("rb") as file:
            empty = not file.read(1)
    if empty:
        raise AudioError(name, "an empty file", "an audio file with at least one sample", "Record or copy it again.")


@contextmanager
def _naming(name: str) -> Iterator[None]:
    """Turn errors of the operating system into an AudioError about `name`."""
    try:
        yield
    except OSError as error:
        raise AudioError(name, f"no readable file ({error.strerror})", "an audio file", "Check the path.") from error


def reason(error: Exception) -> str:
    """Return what went wrong, without the path that libsndfile's and the system's messages repeat."""
    text = getattr(error, "error_string", None) or getattr(error, "strerror", None) or str(error)
    return text.strip().rstrip(".").removeprefix("Error : ")


def _is_of_soundfile(error: BaseException) -> bool:
    """Return whether an error was raised in soundfile itself."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    return frames[-1].f_code.co_filename == soundfile.__file__


@contextmanager
def explaining(path: Path) -> Iterator[None]:
    """Turn what a failing write raises into an AudioError that says why the output could not be written."""
    try:
        yield
    # A disk that fills up shows as a "System error" of libsndfile or as a failed assertion of soundfile.
    except (OSError, soundfile.SoundFileError, AssertionError) as error:
        if isinstance(error, AssertionError) and not _is_of_soundfile(error):
            raise
        if isinstance(error, FileExistsError):
            found, expected = "a file that appeared while the output was made", "a name that is free until the end"
            remedy = "It was left as it is: pass --overwrite to replace it, or choose another name."
            raise AudioError(path, found, expected, remedy) from error
        gone = not path.parent.is_dir()
        if gone or (isinstance(error, OSError) and error.errno not in _FULL):
            why = "its folder is gone" if gone else reason(error)
            found, remedy = f"an output that cannot be written ({why})", "Choose another folder."
        else:
            found, remedy = "a full disk, or an exceeded quota", "Free some space, or use another disk."
        raise AudioError(path, found, "room for the output in a folder that can be written", remedy) from error
