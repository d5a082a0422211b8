"""Raw PCM or WAV through pipes: samples are given out as they come, and written as they are given."""

import struct
from collections.abc import Iterator
from typing import BinaryIO, Protocol

import numpy as np

from deepnmf_cli.errors import AudioError
from deepnmf_cli.signal.containers import PROBE_BYTES, container_of, may_be_mpeg
from deepnmf_cli.signal.formats import check_shape, is_placeholder
from deepnmf_cli.signal.pcm import FORMATS, Layout, decode, encode
from deepnmf_cli.signal.samples import check_samples

READ_BYTES = 1 << 16
"""Bytes taken from a pipe at once, if it holds so many: what pipes hold on Linux."""

UNKNOWN = (1 << 32) - 1
"""The size in a WAV header that stands for "until the stream ends"."""

_SAMPLES = {(1, 16): "s16le", (1, 24): "s24le", (1, 32): "s32le", (3, 32): "f32le"}
"""(format tag, bits of a sample) of a WAV header -> sample format."""
_EXTENSIBLE = 0xFFFE

DESCRIPTION_BYTES = 1 << 16
"""More than any description of samples takes; notes may be of any size, for they are not kept."""


class Source(Protocol):
    """A stream of bytes that gives what there is instead of waiting for all that was asked for."""

    def read1(self, size: int, /) -> bytes: ...


class PipeReader:
    """Samples from a pipe, raw or after the header of a WAV stream, which is recognised by itself.

    Reads the header at once. `layout` is the one found there, or `raw`; `format_chunk` is what the header says about
    it (None: raw) and `data_bytes` how long it says the samples are (None: not known, or raw). Raises AudioError for a
    header that is cut short or announces samples of another kind than `pcm.FORMATS`, and for what begins like a file of
    another container, unless `surely_raw`.
    """

    def __init__(self, source: Source, raw: Layout, name: str = "standard input", surely_raw: bool = False) -> None:
        self.name, self.layout = name, raw
        self.format_chunk: bytes | None = None
        self.data_bytes: int | None = None
        self.frames = 0
        """Frames given out so far."""
        self.odd_bytes = 0
        """At the end: bytes that did not fill a frame."""
        self._source, self._held, self._ended = source, bytearray(), False
        self._fill(12)
        if self._held[:4] in (b"RIFF", b"RF64") and self._held[8:12] == b"WAVE":
            self._read_header()
        elif not surely_raw:
            self._refuse_containers()
        check_shape(name, self.layout.channels, self.layout.rate_hz)

    @property
    def missing_frames(self) -> int:
        """Frames that the header announced and that have not been given out."""
        return 0 if self.data_bytes is None else self.data_bytes // self.layout.frame_bytes - self.frames

    def blocks(self, frames: int) -> Iterator[np.ndarray]:
        """Yield all samples as arrays (channels, n) float32 as soon as at least `frames` >= 1 have come.

        More are given together when they have come already; only the last array may be shorter. Raises AudioError at a
        sample that is not finite.
        """
        size = self.layout.frame_bytes
        while True:
            self._fill(min(frames * size, self._left(frames * size)))
            whole = min(len(self._held), self._left(len(self._held))) // size * size
            if whole == 0:
                break
            block = decode(self._take(whole), self.layout)
            check_samples(self.name, block, self.layout.rate_hz, self.frames)
            self.frames += block.shape[1]
            yield block
        self.odd_bytes = min(len(self._held), self._left(len(self._held)))
        while not self._ended:  # Notes after the samples: whoever writes them must not meet a closed pipe.
            self._held.clear()
            self._fill(1)

    def _left(self, otherwise: int) -> int:
        """Bytes of samples still to come, where that is known."""
        if self.data_bytes is None:
            return otherwise
        return self.data_bytes - self.frames * self.layout.frame_bytes

    def _fill(self, size: int) -> None:
        """Hold at least `size` bytes, unless the stream ends before."""
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

    def _skip(self, size: int) -> None:
        """Take bytes off the stream without holding them."""
        while size > 0:
            self._fill(1)
            if not self._held:
                raise self._unusable("a WAV header that is cut short")
            size -= len(self._take(min(size, len(self._held))))

    def _refuse_containers(self) -> None:
        if may_be_mpeg(self._held):
            self._fill(PROBE_BYTES)  # a second frame tells it from samples of these values
        if (container := container_of(self._held)) is not None:
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
            else:
                self._skip(size + size % 2)
        self.format_chunk = body.get(b"fmt ", b"")
        self.layout = self._layout(self.format_chunk)
        if b"ds64" in body and len(body[b"ds64"]) >= 16:  # RF64, where the size has 64 bits
            size = int.from_bytes(body[b"ds64"][8:16], "little")
        self.data_bytes = None if size == 0 or size >= 1 << 63 or is_placeholder(size) else size

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
    """Samples to a pipe, in the layout and with the kind of header that `reader` found; every block goes out at once.

    The header is written at once. It states the length where the reader knows it, and 0xFFFFFFFF else, as there is no
    way back to correct it.
    """

    def __init__(self, target: BinaryIO, reader: PipeReader) -> None:
        self._target, self._layout = target, reader.layout
        self._written = 0
        self._has_header = reader.format_chunk is not None
        self.clipped = 0
        """Samples that were beyond full scale."""
        if self._has_header:
            size = reader.data_bytes
            self._send(_header(reader.format_chunk, size if size is None else size - size % reader.layout.frame_bytes))

    def write(self, samples: np.ndarray) -> None:
        """Append samples (channels, n), n >= 0."""
        data, clipped = encode(samples, self._layout)
        self.clipped += clipped
        self._written += len(data)
        self._send(data)

    def finish(self) -> None:
        """End the stream: WAV pads its samples to an even number of bytes."""
        if self._has_header and self._written % 2:
            self._send(b"\0")

    def _send(self, data: bytes) -> None:
        if data:
            self._target.write(data)
            self._target.flush()


def _header(format_chunk: bytes, data_bytes: int | None) -> bytes:
    """A WAV header up to the samples."""
    described = struct.pack("<4sI", b"fmt ", len(format_chunk)) + format_chunk + b"\0" * (len(format_chunk) % 2)
    whole = 4 + len(described) + 8 + (data_bytes or 0) + (data_bytes or 0) % 2
    if data_bytes is None or whole > UNKNOWN:
        whole = data_bytes = UNKNOWN
    return struct.pack("<4sI4s", b"RIFF", whole, b"WAVE") + described + struct.pack("<4sI", b"data", data_bytes)
