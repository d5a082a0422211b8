"""Raw PCM or WAV through pipes: samples are returned as they arrive, and written as they are given.

What is missing or was left out is known only at the end: see `PipeReader.fault`.

Compressed sound is recognised by its first bytes, so that it is not taken for raw samples.
"""

import os
import struct
from collections.abc import Iterator
from contextlib import suppress
from typing import BinaryIO, Protocol

import numpy as np

from deepnmf_cli.errors import AudioError
from deepnmf_cli.signal.formats import check_shape, is_placeholder
from deepnmf_cli.signal.links import mpeg_frame
from deepnmf_cli.signal.samples import FORMATS, Layout, check_samples, decode, encode
from deepnmf_cli.signal.survey import BEGINNINGS, SURPLUS_BYTES, is_chunk_name, is_unannounced

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

READ_BYTES = 1 << 16
"""Most bytes read from a pipe at once: the capacity of pipes on Linux."""

UNKNOWN = (1 << 32) - 1
"""The size in a WAV header that stands for "until the stream ends"."""

_SAMPLES = {(1, 16): "s16le", (1, 24): "s24le", (1, 32): "s32le", (3, 32): "f32le"}
"""(format tag, bits of a sample) of a WAV header -> sample format."""
_EXTENSIBLE = 0xFFFE

_NOTES = frozenset({
    b"LIST", b"id3 ", b"ID3 ", b"bext", b"iXML", b"axml", b"_PMX", b"cue ", b"plst", b"smpl", b"inst", b"acid", b"fact",
    b"PEAK", b"DISP", b"cart", b"chna", b"umid", b"levl", b"JUNK", b"junk", b"PAD ", b"FLLR", b"afsp",
})  # fmt: skip
"""Chunks that follow samples in WAV files."""

DESCRIPTION_BYTES = 1 << 16
"""More bytes than any description of samples takes; notes may be of any size, as they are not kept."""


class Source(Protocol):
    """A stream of bytes that returns what is available instead of waiting for all that was requested."""

    def read1(self, size: int, /) -> bytes: ...


class PipeReader:
    """Samples from a pipe, raw or after the header of a WAV stream, which is recognised automatically.

    Reads the header at once. `layout` is the one found there, or `raw`; `format_chunk` is the header's description of
    it (None: raw) and `data_bytes` the size of the samples according to it (None: not known, or raw). Live writers
    leave a size of 0: samples follow, unless a chunk of notes does. Raises AudioError for a header that is cut short or
    announces samples of another kind than `samples.FORMATS`, and for what begins like a file of another container,
    unless `surely_raw`.
    """

    def __init__(self, source: Source, raw: Layout, name: str = "standard input", surely_raw: bool = False) -> None:
        self.name, self.layout = name, raw
        self.format_chunk: bytes | None = None
        self.data_bytes: int | None = None
        self.frames = 0
        """Frames returned so far."""
        self.odd_bytes = 0
        """At the end: bytes that did not fill a frame."""
        self.surplus_bytes = 0
        """At the end: bytes after the samples that were left out and are neither notes nor zeros."""
        self._is_joined = False
        self._source, self._held, self._ended = source, bytearray(), False
        self._fill(12)
        if self._held[:4] in (b"RIFF", b"RF64") and self._held[8:12] == b"WAVE":
            self._read_header()
        elif not surely_raw:
            self._refuse_containers()
        check_shape(name, self.layout.channels, self.layout.rate_hz, is_array=False)

    @property
    def missing_frames(self) -> int:
        """Frames that the header announced and that have not been returned."""
        return 0 if self.data_bytes is None else self.data_bytes // self.layout.frame_bytes - self.frames

    def blocks(self, frames: int, check: bool = True) -> Iterator[np.ndarray]:
        """Yield all samples as arrays (channels, n) float32 as soon as at least `frames` >= 1 have arrived.

        An array has more if they have arrived already; only the last one may be shorter. Raises AudioError at a sample
        that is not finite or too large, unless `check` is False.
        """
        size = self.layout.frame_bytes
        while True:
            self._fill(min(frames * size, self._left(frames * size)))
            whole = min(len(self._held), self._left(len(self._held))) // size * size
            if whole == 0:
                break
            block = decode(self._take(whole), self.layout)
            if check:
                check_samples(self.name, block, self.layout.rate_hz, self.frames)
            self.frames += block.shape[1]
            yield block
        self.odd_bytes = len(self._take(min(len(self._held), self._left(len(self._held)))))
        if self.data_bytes is not None:
            self._read_rest(self.data_bytes % 2)

    def fault(self, interrupted: bool = False) -> AudioError | None:
        """At the end, return the error for what came beyond the header's promise, or for what is missing from it.

        Missing samples are no error if the stream was `interrupted`.
        """
        if self.surplus_bytes and (self._is_joined or self.surplus_bytes > SURPLUS_BYTES):
            what = "another recording" if self._is_joined else "something that the header does not announce"
            found = f"{what} behind the first {self._seconds(self.frames)}, {self._about(self.surplus_bytes)}"
            remedy = "It was left out: send recordings one by one, or raw samples, which have no header."
            return AudioError(self.name, found, "the end of the recording, or notes", remedy)
        if self.missing_frames and not interrupted:
            missing = self._about(self.missing_frames * self.layout.frame_bytes)
            found = f"{self._seconds(self.frames)} of sound, {missing} less than promised"
            expected = f"{self._seconds(self.frames + self.missing_frames)} as the header says"
            return AudioError(self.name, found, expected, "All that came was enhanced: send the whole recording again.")
        return None

    def _about(self, size: int) -> str:
        return f"{size} bytes ({self._seconds(size // self.layout.frame_bytes)})"

    def _seconds(self, frames: int) -> str:
        return f"{frames / self.layout.rate_hz:.3f} s"

    def _read_rest(self, pad: int) -> None:
        """Read what follows the samples, to the end, so that the writer does not meet a closed pipe."""
        while True:
            self._fill(pad + 8)
            # Some programs omit the byte that makes a size even.
            ends = [
                at for at in (pad, 0) if len(self._held) >= at + 8 and is_chunk_name(bytes(self._held[at : at + 4]))
            ]
            begin = ends[0] if ends else None
            self._take(pad if begin is None else begin)
            name = bytes(self._held[:4])
            self._is_joined = begin is not None and name in (b"data", *BEGINNINGS)
            if begin is None or self._is_joined:
                break
            (size,) = struct.unpack("<4xI", self._take(8))
            self._skip(size)
            pad = size % 2
        self._fill(SURPLUS_BYTES)
        is_surplus, came = self._is_joined or is_unannounced(bytes(self._held)), len(self._held)
        while not self._ended:
            self._held.clear()
            self._fill(1)
            came += len(self._held)
        self.surplus_bytes = came if is_surplus else 0

    def _left(self, otherwise: int) -> int:
        """Bytes of samples still to come, where that is known."""
        if self.data_bytes is None:
            return otherwise
        return self.data_bytes - self.frames * self.layout.frame_bytes

    def _fill(self, size: int) -> None:
        """Read until at least `size` bytes are held, or the stream ends."""
        while len(self._held) < size and not self._ended:
            data = self._source.read1(READ_BYTES)
            self._held += data
            self._ended = not data

    def _take(self, size: int) -> bytes:
        taken = bytes(self._held[:size])
        del self._held[:size]
        return taken

    def _take_header(self, size: int) -> bytes:
        self._fill(size)
        if len(self._held) < size:
            raise self._unusable("a WAV header that is cut short")
        return self._take(size)

    def _skip(self, size: int) -> bool:
        """Discard `size` bytes of the stream; return whether all of them came."""
        while size > 0:
            self._fill(1)
            if not self._held:
                return False
            size -= len(self._take(min(size, len(self._held))))
        return True

    def _refuse_containers(self) -> None:
        if may_be_mpeg(bytes(self._held)):
            self._fill(PROBE_BYTES)  # a second frame tells it from samples of these values
        if (container := container_of(bytes(self._held))) is not None:
            expected = f"raw PCM, or WAV with samples {', '.join(FORMATS)}"
            remedy = (
                "Use `deepnmf enhance - -o -`, or decode it with `ffmpeg -i - -c:a pcm_s16le -f wav -`;"
                " if these are raw samples, say so by --format."
            )
            raise AudioError(self.name, f"a stream of {container}", expected, remedy)

    def _read_header(self) -> None:
        """Read up to the samples. Chunks are (name, size, body), padded to even sizes."""
        self._take(12)
        body = {}
        while True:
            chunk, size = struct.unpack("<4sI", self._take_header(8))
            if chunk == b"data":
                break
            if chunk in (b"fmt ", b"ds64") and size <= DESCRIPTION_BYTES:
                body[chunk] = self._take_header(size + size % 2)[:size]
            elif not self._skip(size + size % 2):
                raise self._unusable("a WAV header that is cut short")
        self.format_chunk = chunk = body.get(b"fmt ", b"")
        self.layout = self._layout(chunk)
        if b"ds64" in body and len(body[b"ds64"]) >= 16:  # RF64, where the size has 64 bits
            size = int.from_bytes(body[b"ds64"][8:16], "little")
        if size == 0:
            self._fill(8)
            known = bytes(self._held[:4]) in _NOTES and len(self._held) >= 8
            self.data_bytes = 0 if known else None
        else:
            self.data_bytes = None if size >= 1 << 63 or is_placeholder(size) else size

    def _layout(self, chunk: bytes) -> Layout:
        if len(chunk) < 16:
            raise self._unusable("a WAV header without a description of its samples")
        tag, channels, rate_hz, _, frame_bytes, bits = struct.unpack_from("<HHIIHH", chunk)
        if tag == _EXTENSIBLE and len(chunk) >= 26:
            (tag,) = struct.unpack_from("<H", chunk, 24)
        layout = Layout(rate_hz, channels, _SAMPLES.get((tag, bits), ""))
        if not layout.format or layout.frame_bytes != frame_bytes:
            raise self._unusable(f"WAV samples of {bits} bits, format {tag}")
        return layout

    def _unusable(self, found: str) -> AudioError:
        remedy = "Use `deepnmf enhance - -o -`, or convert it with `ffmpeg -i - -c:a pcm_s16le -f wav -`."
        return AudioError(self.name, found, f"raw PCM, or WAV with samples {', '.join(FORMATS)}", remedy)


class PipeWriter:
    """Writes samples to a pipe, in the layout and with the kind of header that `reader` found, every block at once.

    The header is written at once. It states the length if the reader knows it, and 0xFFFFFFFF otherwise. If the target
    is a file, a length that turns out to be wrong is corrected at the end; in a pipe there is no way back.
    """

    def __init__(self, target: BinaryIO, reader: PipeReader) -> None:
        self._target, self._layout = target, reader.layout
        self._written = 0
        chunk = reader.format_chunk
        self._has_header = chunk is not None
        self.clipped = 0
        """Number of samples that were beyond full scale."""
        if chunk is not None:
            size = reader.data_bytes
            self._promised = size if size is None else size - size % reader.layout.frame_bytes
            self._chunk, self._begin = chunk, _place(target)
            self._send(_header(chunk, self._promised))

    def write(self, samples: np.ndarray) -> None:
        """Append samples (channels, n), n >= 0."""
        data, clipped = encode(samples, self._layout)
        self.clipped += clipped
        self._written += len(data)
        self._send(data)

    def finish(self) -> None:
        """End the stream: WAV pads its samples to an even number of bytes."""
        if not self._has_header:
            return
        if self._written % 2:
            self._send(b"\0")
        if self._begin is not None and self._written != self._promised:
            end = self._target.tell()
            self._target.seek(self._begin)
            self._send(_header(self._chunk, self._written))
            self._target.seek(end)

    def _send(self, data: bytes) -> None:
        if data:
            self._target.write(data)
            self._target.flush()


def _place(target: BinaryIO) -> int | None:
    """Position of the next write in a file; None for a pipe, and for a file whose writes all go to its end."""
    with suppress(OSError):
        if fcntl is not None and fcntl.fcntl(target.fileno(), fcntl.F_GETFL) & os.O_APPEND:
            return None
    with suppress(OSError):
        return target.tell() if target.seekable() else None
    return None


def _header(format_chunk: bytes, data_bytes: int | None) -> bytes:
    """A WAV header up to the samples."""
    described = struct.pack("<4sI", b"fmt ", len(format_chunk)) + format_chunk + b"\0" * (len(format_chunk) % 2)
    whole = 4 + len(described) + 8 + (data_bytes or 0) + (data_bytes or 0) % 2
    if data_bytes is None or whole > UNKNOWN:
        whole = data_bytes = UNKNOWN
    return struct.pack("<4sI4s", b"RIFF", whole, b"WAVE") + described + struct.pack("<4sI", b"data", data_bytes)


_SIGNATURES = (
    (0, b"fLaC", "FLAC"),
    (0, b"OggS", "Ogg"),
    (0, b"ID3", "MP3"),
    (0, b"FORM", "AIFF"),
    (0, b"caff", "CAF"),
    (0, b".snd", "AU"),
    (0, b"riff\x2e\x91\xcf\x11", "Wave64"),
    (8, b"AVI ", "AVI"),
    (0, b"BW64", "BW64"),
    (0, b"RIFX", "big-endian WAV"),
    (0, b"\x1a\x45\xdf\xa3", "Matroska or WebM"),
    (4, b"ftyp", "MP4"),
    (4, b"moov", "QuickTime"),
    (4, b"mdat", "QuickTime"),
    (4, b"wide", "QuickTime"),
    (0, b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "WMA"),
    (0, b"#!AMR", "AMR"),
    (0, b"wvpk", "WavPack"),
    (0, b"MAC ", "Monkey's Audio"),
    (0, b"NIST_1A", "NIST SPHERE"),
    (0, b"Creative Voice File", "VOC"),
    (0, b" paf", "PAF"),
    (0, b"fap ", "PAF"),
    (0, b"PVF1", "PVF"),
    (0, b"2BIT", "AVR"),
    (0, b"MATLAB 5.0", "MATLAB"),
    (0, b"Extended Instrument", "XI"),
    (0, b"FLV\x01", "Flash video"),
)
"""(offset, bytes, name). Samples begin with four such bytes by chance once in four thousand million streams."""

_LONGEST_AUDIO_FRAME = 1 << 13
PROBE_BYTES = _LONGEST_AUDIO_FRAME + 4
"""Number of bytes that decides whether a stream begins with frames of MPEG audio, whose sign alone is too short."""


def container_of(start: bytes) -> str | None:
    """The name of the container of a stream that begins with `start`; None for raw samples and WAV.

    Frames of MPEG audio without a tag before them need PROBE_BYTES, or the whole stream.
    """
    for at, sign, name in _SIGNATURES:
        if start[at : at + len(sign)] == sign:
            return name
    for size, name in ((_mpeg_frame, "MP3"), (_adts_frame, "AAC")):
        if (length := size(start)) and size(start[length:]):
            return name
    return None


def may_be_mpeg(start: bytes) -> bool:
    """Return whether `start` could be the beginning of MPEG audio, judged by its first frame."""
    return bool(_mpeg_frame(start) or _adts_frame(start))


def _mpeg_frame(start: bytes) -> int:
    """Bytes of the frame of MPEG-1, 2 or 2.5 audio that `start` begins with, or 0."""
    frame = mpeg_frame(start[:4])
    return frame.size if frame else 0


def _adts_frame(start: bytes) -> int:
    """Bytes of the frame of AAC that `start` begins with, or 0."""
    if len(start) < 6 or start[0] != 0xFF or start[1] & 0xF6 != 0xF0 or start[2] >> 2 & 15 > 12:
        return 0
    length = (start[3] & 3) << 11 | start[4] << 3 | start[5] >> 5
    return length if length >= 7 else 0
