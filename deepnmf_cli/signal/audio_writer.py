"""Audio files in any format, written atomically in blocks of samples (channels, frames) if there is room for them."""

import errno
import math
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from deepnmf_cli import checkpoint
from deepnmf_cli.checkpoint import atomic_path
from deepnmf_cli.errors import AudioError
from deepnmf_cli.signal import metadata
from deepnmf_cli.signal.audio import BLOCK_FRAMES, SequentialFile, explaining, reason
from deepnmf_cli.signal.formats import (
    FOR_DEEP_SOUNDS,
    LIMITS,
    MEDIA,
    PCM_BITS,
    UNBOUNDED,
    WRITABLE,
    AudioInfo,
    check_limits,
    check_shape,
    data_bytes,
    is_writable,
    least_bytes,
    output_format,
)
from deepnmf_cli.signal.media_writer import MediaWriter, picture_bytes
from deepnmf_cli.signal.metadata import Metadata
from deepnmf_cli.signal.samples import to_steps

WAV_LIMIT_BYTES = (1 << 32) - (1 << 16)
"""Sizes in a WAV header have 32 bits; a larger file becomes RF64, its 64-bit extension, under the same name."""

LIMIT_BYTES = {"AIFF": (1 << 31) - (1 << 16), "AU": WAV_LIMIT_BYTES}
"""Containers whose sizes have 31 or 32 bits, without an extension to more."""


class AudioWriter:
    """An output in progress, made by `open_writer`. `frames` counts what was written, `clipped` the samples clipped."""

    notes: tuple[str, ...] = ()
    """Notes for the user, each the end of a sentence about the file."""

    def __init__(self, path: Path, partial: Path, info: AudioInfo, about: Metadata) -> None:
        self.path, self.frames, self.clipped = path, 0, 0
        self.container, self.subtype = info.container, info.subtype
        self._places = None if info.order is None else np.argsort(info.order)
        if info.order is not None and info.channels > 5:
            self.notes = (FOR_DEEP_SOUNDS.format(info.subtype.title()),)
        size = data_bytes(info)
        if size > (limit := LIMIT_BYTES.get(info.container, size)):
            found, expected = f"{size / 1e9:.1f} GB of samples", f"at most {limit / 1e9:.1f} GB in {info.container}"
            raise AudioError(path, found, expected, "Choose a name that ends in .wav, .w64 or .flac.")
        large = info.container in ("WAV", "WAVEX") and size > WAV_LIMIT_BYTES
        try:
            self._file = SequentialFile(
                partial, "w", info.rate_hz, info.channels, info.subtype, format="RF64" if large else info.container
            )
        except soundfile.SoundFileError as error:
            raise AudioError(
                path,
                f"{info.channels} channel(s) at {info.rate_hz} Hz ({reason(error)})",
                f"a signal that {info.container} ({info.subtype}) can hold",
                "Choose a name that ends in .wav.",
            ) from error
        metadata.write(self._file, about)

    def write(self, samples: np.ndarray) -> np.ndarray:
        """Append samples (channels, n); return them as a reader will find them, float64 (channels, n).

        Integer formats round to their grid and clip to [-1, 1 - one step]; values that lossy codecs (OGG, MP3, mu-law,
        A-law) will change are returned as given. Raises AudioError for samples that are not finite, or beyond the
        peak of `LIMITS`.
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
            self._check_peak(samples)
            if self.subtype not in UNBOUNDED:
                self.clipped += int(np.count_nonzero(np.abs(stored) > 1))
                stored = np.clip(stored, -1, 1)
            encoded = stored if self.subtype == "DOUBLE" else stored.astype(np.float32)
        for start in range(0, samples.shape[1], BLOCK_FRAMES):
            with explaining(self.path):
                checkpoint.reached(f"{self.path.name}: block")
                block = encoded[:, start : start + BLOCK_FRAMES].T
                self._file.write(block if self._places is None else block[:, self._places])
        self.frames += samples.shape[1]
        return stored

    def _check_peak(self, samples: np.ndarray) -> None:
        limits, peak = LIMITS.get(self.subtype), np.abs(samples).max(initial=0)
        if limits and peak > limits.peak:
            found, expected = f"a sample of {peak:g} times full scale", f"at most {limits.peak:g} in {self.container}"
            remedy = "Lower the level of the input, or choose a name that ends in .wav."
            raise AudioError(self.path, found, f"{expected} ({self.subtype})", remedy)

    def close(self, partial: Path) -> None:
        """Close the file. Raises OSError if not all of it is in `partial`."""
        self._file.close()
        partial.stat()  # raises FileNotFoundError where the folder was removed meanwhile
        # Buffers reach the disk when the file is closed, and libsndfile does not always report then that it was full.
        with SequentialFile(partial) as written:
            arrived = written.frames
        if arrived != self.frames:
            raise OSError(errno.ENOSPC, f"{arrived} of {self.frames} frames arrived on the disk")

    def discard(self) -> None:
        """Close after a failure, whose message must not be replaced by one from closing."""
        with suppress(soundfile.SoundFileError):
            self._file.close()


@contextmanager
def open_writer(
    path: str | Path,
    info: AudioInfo,
    about: Metadata = Metadata(),
    overwrite: bool = True,
    source: str | Path | None = None,
) -> Iterator[AudioWriter | MediaWriter]:
    """Write `path` atomically in the container and subtype of `info`; `info.frames` is the length planned.

    The tags and loudspeakers in `about` are written too, as far as the container can hold them; into media also the
    pictures and subtitles of `source`.

    The file appears when the block ends without an error. Raises AudioError when the folder cannot be written, when
    the container cannot hold the signal, when the disk is, or is going to be, full, and without `overwrite` when a
    file has appeared at `path` meanwhile, which stays.
    """
    path = Path(path)
    check_shape(path, info.channels, info.rate_hz)
    check_limits(path, info)
    with ExitStack() as stack:
        with explaining(path):
            is_media = info.container == MEDIA
            require_space([(path, least_bytes(info) + (picture_bytes(source) if is_media else 0))])
            partial = stack.enter_context(atomic_path(path, overwrite))
            media = MediaWriter(path, partial, info, about, source) if is_media else None
        writer = media or AudioWriter(path, partial, info, about)
        stack.callback(writer.discard)
        yield writer
        with explaining(path):
            writer.close(partial)
            stack.close()


def write(path: str | Path, samples: np.ndarray, rate_hz: int, subtype: str = "PCM_16") -> None:
    """Write samples (channels, frames) in the container of the suffix, as `subtype` or the format nearest to it.

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


@dataclass
class _Disk:
    free: int
    taken: int = 0


def require_space(files: Iterable[tuple[Path, int]]) -> None:
    """Raise AudioError unless all files (path, bytes) fit on their disks, when written one after the other.

    Folders need not exist yet. A file that exists is replaced, so that its space becomes free only after that.
    """
    disks: dict[int, _Disk] = {}
    for path, size in files:
        folder = _existing(path.parent)
        number = os.stat(folder).st_dev
        disk = disks.get(number) or disks.setdefault(number, _Disk(shutil.disk_usage(folder).free))
        disk.taken += size
        if disk.taken > disk.free:
            found, expected = (
                f"{_size(disk.free, math.floor)} free on the disk",
                f"at least {_size(disk.taken, math.ceil)}",
            )
            raise AudioError(path, found, expected, "Free some space, or choose an output on another disk.")
        disk.taken -= path.stat().st_size if path.is_file() else 0


def _size(count: int, rounded: Callable[[float], int]) -> str:
    """Format a number of bytes in kB or MB, with one decimal."""
    unit, name = (1e6, "MB") if count >= 1e6 else (1e3, "kB")
    return f"{rounded(10 * count / unit) / 10:,.1f} {name}"


def _existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that exists."""
    return next(path for path in (folder, *folder.absolute().parents) if path.exists())
