"""Audio files of any format, rate and length, read and written in blocks of samples (channels, frames)."""

import errno
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import numpy as np
import soundfile

from deepnmf_cli.checkpoint import atomic_path
from deepnmf_cli.errors import AudioError
from deepnmf_cli.signal import metadata
from deepnmf_cli.signal.disk import require_space
from deepnmf_cli.signal.formats import (
    PCM_BITS,
    UNBOUNDED,
    UNKNOWN_FRAMES,
    WRITABLE,
    AudioInfo,
    announced_frames,
    check_shape,
    data_bytes,
    is_writable,
    output_format,
)
from deepnmf_cli.signal.metadata import Metadata
from deepnmf_cli.signal.pcm import to_steps

BLOCK_FRAMES = 1 << 16
"""Frames read or written at once: small in memory, and libvorbis overflows its stack beyond about a million."""

WAV_LIMIT_BYTES = (1 << 32) - (1 << 16)
"""Sizes in a WAV header have 32 bits; a larger file becomes RF64, its 64-bit extension, under the same name."""

LIMIT_BYTES = {"AIFF": (1 << 31) - (1 << 16), "AU": WAV_LIMIT_BYTES}
"""Containers whose sizes have 31 or 32 bits, without an extension to more."""

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_INCOMPLETE = "The file is incomplete: copy it again, or save what is there with `ffmpeg -i FILE repaired.wav`."


class _SequentialFile(soundfile.SoundFile):
    """A SoundFile that is never sought: seeking after each block, as soundfile does, breaks the MP3 decoder's state."""

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
            self._file = file = _SequentialFile(path)
            frames = _count_frames(path) if file.frames == UNKNOWN_FRAMES else file.frames
        # soundfile raises TypeError for header-less .raw files, whose rate nobody knows.
        except (soundfile.SoundFileError, TypeError) as error:
            raise AudioError(
                self.name,
                f"no audio that can be read ({_reason(error)})",
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

    def __enter__(self) -> "AudioReader":
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
            raise self._cut_short(found, self.info.frames, _reason(error)) from error

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

    def _cut_short(self, found: int, expected: int, reason: str = "") -> AudioError:
        because = f" ({reason})" if reason else ""
        return AudioError(self.name, f"{found} frames{because}", f"{expected} frames as the header says", _INCOMPLETE)


class AudioWriter:
    """An output under way, made by `open_writer`. `frames` counts what was written, `clipped` the samples cut."""

    def __init__(self, path: Path, partial: Path, info: AudioInfo, about: Metadata) -> None:
        self.path, self.frames, self.clipped = path, 0, 0
        self.subtype = info.subtype
        size = data_bytes(info)
        if size > (limit := LIMIT_BYTES.get(info.container, size)):
            found, expected = f"{size / 1e9:.1f} GB of samples", f"at most {limit / 1e9:.1f} GB in {info.container}"
            raise AudioError(path, found, expected, "Choose a name that ends in .wav, .w64 or .flac.")
        large = info.container in ("WAV", "WAVEX") and size > WAV_LIMIT_BYTES
        try:
            self._file = _SequentialFile(
                partial, "w", info.rate_hz, info.channels, info.subtype, format="RF64" if large else info.container
            )
        except soundfile.SoundFileError as error:
            raise AudioError(
                path,
                f"{info.channels} channel(s) at {info.rate_hz} Hz ({_reason(error)})",
                f"a signal that {info.container} ({info.subtype}) can hold",
                "Choose a name that ends in .wav.",
            ) from error
        metadata.write(self._file, about)

    def write(self, samples: np.ndarray) -> np.ndarray:
        """Append samples (channels, n); returns them as a reader will find them, float64 (channels, n).

        Integer formats round to their grid and clip to [-1, 1 - one step]; values that lossy codecs (OGG, MP3, mu-law,
        A-law) will change are returned as given.
        """
        if not np.isfinite(samples).all():
            remedy = "Check the input's level and the model."
            raise AudioError(self.path, "samples that are not finite to write", "finite samples", remedy)
        stored = samples.astype(np.float64)
        bits = PCM_BITS.get(self.subtype)
        if bits:
            # libsndfile scales floats by 2^(bits-1) - 1 and truncates; left-justified integers are stored as they are.
            steps, clipped = to_steps(samples, bits)
            self.clipped += clipped
            stored = steps / (1 << (bits - 1))
            encoded = steps << (32 - bits)
        else:
            if self.subtype not in UNBOUNDED:
                self.clipped += int(np.count_nonzero(np.abs(stored) > 1))
                stored = np.clip(stored, -1, 1)
            encoded = stored if self.subtype == "DOUBLE" else stored.astype(np.float32)
        for start in range(0, samples.shape[1], BLOCK_FRAMES):
            with _explaining(self.path):
                self._file.write(encoded[:, start : start + BLOCK_FRAMES].T)
        self.frames += samples.shape[1]
        return stored

    def close(self) -> None:
        self._file.close()

    def discard(self) -> None:
        """Close after a failure, which has its own message and must not be replaced by that of the closing."""
        with suppress(soundfile.SoundFileError):
            self._file.close()


@contextmanager
def open_writer(path: str | Path, info: AudioInfo, about: Metadata = Metadata()) -> Iterator[AudioWriter]:
    """Write `path` atomically in the container and subtype of `info`; `info.frames` is the length planned.

    What the container can hold of the tags and loudspeakers in `about` is written too.

    The file appears when the block ends without an error. Raises AudioError when the folder cannot be written, when
    the container cannot hold the signal, and when the disk is, or is going to be, full.
    """
    path = Path(path)
    check_shape(path, info.channels, info.rate_hz)
    with ExitStack() as stack:
        with _explaining(path):
            require_space([(path, data_bytes(info))])
            partial = stack.enter_context(atomic_path(path))
        writer = AudioWriter(path, partial, info, about)
        stack.callback(writer.discard)
        yield writer
        with _explaining(path):
            writer.close()
            # Buffers reach the disk at closing, where libsndfile does not always report that it was full.
            if (arrived := soundfile.info(partial).frames) != writer.frames:
                raise OSError(errno.ENOSPC, f"{arrived} of {writer.frames} frames arrived on the disk")
            stack.close()


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
        for block in reader.blocks():  # read through, and not sought: see _SequentialFile
            found.append(block[:, max(0, first - position) : end - position])
            position += block.shape[1]
            if position >= end:
                break
        return np.concatenate(found, axis=1), reader.info.rate_hz


def write(path: str | Path, samples: np.ndarray, rate_hz: int, subtype: str = "PCM_16") -> None:
    """Write samples (channels, frames) in the container of the suffix, as `subtype` or what comes nearest to it.

    Raises AudioError for an unknown suffix, a shape that is not (channels, frames), and as `open_writer` does.
    """
    if not is_writable(path):
        expected = f"one that ends in {', '.join(WRITABLE)}"
        raise AudioError(path, "a name of no audio format", expected, "Change the suffix.")
    if samples.ndim != 2:
        raise AudioError(path, f"an array of shape {samples.shape}", "(channels, frames)", "Add a channel axis.")
    channels, frames = samples.shape
    wanted = AudioInfo(rate_hz, channels, frames, "", subtype)
    container, subtype = output_format(path, wanted)
    with open_writer(path, AudioInfo(rate_hz, channels, frames, container, subtype)) as writer:
        writer.write(samples)


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
    with _SequentialFile(path) as file:
        while block := len(file.read(BLOCK_FRAMES, always_2d=True)):
            count += block
    return count


@contextmanager
def _explaining(path: Path) -> Iterator[None]:
    """Turn what a failing write raises into an AudioError that says why the output could not be written."""
    try:
        yield
    # A disk that fills up shows as a "System error" of libsndfile or as a failed assertion of soundfile.
    except (OSError, soundfile.SoundFileError, AssertionError) as error:
        if isinstance(error, OSError) and error.errno not in _FULL:
            found, remedy = f"an output that cannot be written ({_reason(error)})", "Choose another folder."
        else:
            found, remedy = "a full disk, or an exceeded quota", "Free some space, or use another disk."
        raise AudioError(path, found, "room for the output in a folder that can be written", remedy) from error


def _reason(error: Exception) -> str:
    """What went wrong, without the path that libsndfile's and the system's messages repeat."""
    text = getattr(error, "error_string", None) or getattr(error, "strerror", None) or str(error)
    return text.strip().rstrip(".").removeprefix("Error : ")
