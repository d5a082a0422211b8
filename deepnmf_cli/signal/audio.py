"""Audio files of any format, rate and length, read in blocks of samples (channels, frames)."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import numpy as np
import soundfile

from deepnmf_cli.errors import AudioError
from deepnmf_cli.signal import metadata
from deepnmf_cli.signal.formats import UNKNOWN_FRAMES, AudioInfo, announced_frames, check_shape

BLOCK_FRAMES = 1 << 16
"""Frames read or written at once: small in memory, and libvorbis overflows its stack beyond about a million."""

_INCOMPLETE = "The file is incomplete: copy it again, or save what is there with `ffmpeg -i FILE repaired.wav`."


class SequentialFile(soundfile.SoundFile):
    """A SoundFile that is never sought: seeking after each block, as soundfile does, breaks the MP3 decoder's state."""

    def __init__(self, path: str | Path, *arguments: Any, **settings: Any) -> None:
        super().__init__(os.fsencode(path), *arguments, **settings)  # names need not be text

    def seekable(self) -> bool:
        return False


class AudioReader:
    """An open audio file; a context manager.

    Raises AudioError when the file is missing, empty, cut short, not audio, or outside 1-64 channels and 1-768 kHz.
    `name` stands for the path in messages.
    """

    def __init__(self, path: str | Path, name: str | None = None) -> None:
        self.name = str(path) if name is None else name
        _check_regular(Path(path), self.name)
        try:
            self._file = file = SequentialFile(path)
            frames = _count_frames(path) if file.frames == UNKNOWN_FRAMES else file.frames
        # soundfile raises TypeError for header-less .raw files, whose rate nobody knows.
        except (soundfile.SoundFileError, TypeError) as error:
            raise AudioError(
                self.name,
                f"no audio that can be read ({reason(error)})",
                "WAV, FLAC, OGG, MP3, AIFF, AU or another format of libsndfile",
                "Convert it first, for example with `ffmpeg -i FILE converted.wav`.",
            ) from error
        self.info = AudioInfo(file.samplerate, file.channels, frames, file.format, file.subtype)
        try:
            self._check()
        except AudioError:
            file.close()
            raise
        self.metadata = metadata.read(file)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def blocks(self, dtype: str = "float32", frames: int = BLOCK_FRAMES) -> Iterator[np.ndarray]:
        """Yield the rest of the file as arrays (channels, n), 1 <= n <= frames, full scale being [-1, 1).

        "float32" holds up to 24 bits exactly; "float64" every sample format. Raises AudioError at a sample that is not
        finite in float32, and when the file ends before its header says.
        """
        found = 0
        while len(block := self._read(frames, dtype, found)):
            self._check_finite(block, found)
            found += len(block)
            yield np.ascontiguousarray(block.T)
        if found < self.info.frames:
            raise self._cut_short(found, self.info.frames)

    def _read(self, frames: int, dtype: str, found: int) -> np.ndarray:
        try:
            return self._file.read(frames, dtype=dtype, always_2d=True)
        except soundfile.SoundFileError as error:
            raise self._cut_short(found, self.info.frames, reason(error)) from error

    def _check(self) -> None:
        info = self.info
        check_shape(self.name, info.channels, info.rate_hz)
        announced = announced_frames(self._file.extra_info, info)
        if announced > info.frames:
            raise self._cut_short(info.frames, announced)
        if info.frames == 0:
            raise AudioError(self.name, "no samples", "at least one sample", "Record it again, or leave the file out.")

    def _check_finite(self, block: np.ndarray, start: int) -> None:
        # One comparison finds NaN, infinity, and doubles that single precision cannot hold.
        finite = np.abs(block) <= np.finfo(np.float32).max
        if not finite.all():
            frame, channel = np.argwhere(~finite)[0]
            raise AudioError(
                self.name,
                f"a sample that is not finite ({block[frame, channel]}) at {(start + frame) / self.info.rate_hz:.3f} s "
                f"(sample {start + frame}, channel {channel + 1})",
                "finite samples",
                "Export the recording again, or replace such samples by zeros.",
            )

    def _cut_short(self, found: int, expected: int, because: str = "") -> AudioError:
        because = f" ({because})" if because else ""
        return AudioError(self.name, f"{found} frames{because}", f"{expected} frames as the header says", _INCOMPLETE)


def info(path: str | Path) -> AudioInfo:
    """Rate, channels, length and format of a file, from its header. Raises AudioError as `AudioReader` does."""
    with AudioReader(path) as reader:
        return reader.info


def read(path: str | Path, dtype: str = "float32") -> tuple[np.ndarray, int]:
    """All samples (channels, frames) of a file, full scale being [-1, 1), and its rate in Hz. Raises AudioError."""
    with AudioReader(path) as reader:
        return np.concatenate(list(reader.blocks(dtype)), axis=1), reader.info.rate_hz


def read_stretch(path: str | Path, start_s: float, end_s: float, name: str | None = None) -> tuple[np.ndarray, int]:
    """Samples (channels, n) float32 between two moments, and the rate in Hz; fewer where the file ends before.

    Raises AudioError as `AudioReader` does, and when the file has no sample after `start_s`.
    """
    with AudioReader(path, name) as reader:
        first, end = (min(round(s * reader.info.rate_hz), reader.info.frames) for s in (start_s, end_s))
        if first >= end:
            expected, remedy = f"a stretch that begins at {start_s:g} s", "Name seconds inside the recording."
            raise AudioError(reader.name, f"{reader.info.seconds:.2f} s of audio", expected, remedy)
        found, position = [], 0
        for block in reader.blocks():  # read through, and not sought: see SequentialFile
            found.append(block[:, max(0, first - position) : end - position])
            position += block.shape[1]
            if position >= end:
                break
        return np.concatenate(found, axis=1), reader.info.rate_hz


def _check_regular(path: Path, name: str) -> None:
    """Raise AudioError unless `path` is a file that can be opened and is not empty."""
    remedy = "Check the path."
    try:
        # libsndfile says only "System error."; the operating system knows more. Asked first, for a pipe would block.
        if path.exists() and not path.is_file():
            kind = "a folder" if path.is_dir() else "a pipe or device"
            raise AudioError(name, kind, "a regular file", "To read from a pipe, pass - as the input.")
        with path.open("rb") as file:
            empty = not file.read(1)
    except OSError as error:
        raise AudioError(name, f"no readable file ({error.strerror})", "an audio file", remedy) from error
    if empty:
        raise AudioError(name, "an empty file", "an audio file with at least one sample", "Record or copy it again.")


def _count_frames(path: str | Path) -> int:
    """The length of a file whose header does not say it, found by decoding all of it."""
    count = 0
    with SequentialFile(path) as file:
        while block := len(file.read(BLOCK_FRAMES, always_2d=True)):
            count += block
    return count


def reason(error: Exception) -> str:
    """What went wrong, without the path that libsndfile's and the system's messages repeat."""
    text = getattr(error, "error_string", None) or getattr(error, "strerror", None) or str(error)
    return text.strip().rstrip(".").removeprefix("Error : ")
