"""The sound of media that libsndfile cannot read, decoded by FFmpeg: M4A, MP4, MKV, WebM, WMA, AMR and more.

PyAV is an extra and takes a tenth of a second to import, so nothing here imports it before a file is opened.
"""

import os
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, Self

import numpy as np
import soundfile

from deepnmf_cli.errors import shortened
from deepnmf_cli.signal.formats import MEDIA
from deepnmf_cli.signal.metadata import Metadata
from deepnmf_cli.signal.parts import View
from deepnmf_cli.signal.samples import to_steps

_WITH_LENGTH = (
    "mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "asf", "avi", "flv", "ape", "wv", "tta", "tak", "mpc8", "dsf", "rm",
)  # fmt: skip
"""Containers, by FFmpeg's names, whose headers state their length."""

_WITHOUT_LENGTH = (
    "aac", "ac3", "amr", "dss", "dts", "dtshd", "eac3", "iff", "loas", "mlp", "mpc", "mpeg", "mpegts", "mxf",
    "ogg", "qcp", "shn", "truehd",
)  # fmt: skip
"""Containers whose length FFmpeg estimates. Playlists are in neither list: they name other files."""

_ROUNDING_S, _JUMP_S = 0.002, 0.05
"""Longest gap between two frames that does not count as missing sound: after a packet that could not be decoded, and
elsewhere. Times may be rounded, to milliseconds in many containers.
"""

_TAIL_S, _CUT_TAIL_S = 0.5, 0.02
"""Length that headers of containers may announce beyond the last packet, as some round, or count what is left out: in
files that seem to be whole, and in those from which bytes are missing.
"""

_LONGEST_FILL_S = 600.0
"""Most silence, in total, that replaces missing sound in a file whose header states no length."""

_DAMAGED = 0.1
"""Share of packets that cannot be decoded above which a file is refused."""

_ASF, _ASF_PROPERTIES = b"0&\xb2u\x8ef\xcf\x11", bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
"""Beginning of ASF files, and the identifier of the object that holds the size of the file, at offset 40."""

_FILL_FRAMES = 1 << 16

_FULL_SCALE = {"u8": 1 << 7, "s16": 1 << 15, "s32": 1 << 31, "s64": 1 << 63}
"""FFmpeg's integer formats -> full scale. The others are float, and all may end in "p", for planar."""

TAGS = {
    "title": "title", "copyright": "copyright", "artist": "artist", "comment": "comment", "date": "date",
    "album": "album", "license": "license", "track": "tracknumber", "genre": "genre",
}  # fmt: skip
"""FFmpeg's names of tags -> libsndfile's."""


class MediaError(soundfile.SoundFileError):
    """An error of FFmpeg about a file; a subclass of libsndfile's errors, as callers need not tell them apart."""


@dataclass(frozen=True)
class Content:
    """What was found by decoding all of a file."""

    frames: int
    promised: int
    """Frames that the header announces, if they are more than those found; otherwise `frames`."""
    start_s: float
    """When the sound begins, on the clock of the file."""
    other_bytes: int
    """Bytes that pictures and subtitles take."""
    notes: tuple[str, ...]


class MediaFile:
    """The first audio stream of a file, with as much of the interface of SoundFile as `AudioReader` uses.

    Samples that an encoder put before the beginning, and those that an edit list leaves out, are skipped as by FFmpeg;
    so is the padding of a codec's last block if the file states its length. Where timestamps show that sound is
    missing, silence takes its place, so that what follows stays in time. Raises MediaError.
    """

    format = MEDIA

    def __init__(self, path: str | Path) -> None:
        with ExitStack() as stack:
            raw = stack.enter_context(open(path, "rb"))
            missing = missing_bytes(raw)
            self.container = stack.enter_context(open_container(raw))
            self._decoder = _Decoder(self.container, missing)
            self._blocks = self._decoder.blocks()
            self._held = next(self._blocks, np.empty((0, 0), np.float32))
            if not len(self._held):
                raise MediaError("no sound in it that can be decoded")
            self._path, self._status = os.fspath(path), os.fstat(raw.fileno())
            self._open = stack.pop_all()
        self.channels, self.samplerate = self._held.shape[1], self._decoder.rate_hz
        self.subtype = _subtype(self._decoder.stream.codec_context.codec, self._decoder.kind)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._open.close()

    @property
    def content(self) -> Content:
        """What the file holds, for which all of it is decoded once. Raises MediaError if too much is damaged."""
        return _content(self._path, self._status.st_size, self._status.st_mtime_ns)

    @property
    def frames(self) -> int:
        return self.content.frames

    @property
    def about(self) -> Metadata:
        """Tags by libsndfile's names."""
        tags = {name.lower(): text for name, text in self._decoder.stream.metadata.items()}
        tags |= {name.lower(): text for name, text in self.container.metadata.items()}
        return Metadata({ours: tags[theirs] for theirs, ours in TAGS.items() if tags.get(theirs)})

    def read(self, frames: int, dtype: str = "float64", always_2d: bool = True) -> np.ndarray:
        """The next samples (n, channels), n = `frames` except at the end; full scale is [-1, 1)."""
        pieces, wanted = [self._held[:0]], frames
        while wanted and self._fill():
            pieces.append(self._held[:wanted])
            self._held = self._held[wanted:]
            wanted -= len(pieces[-1])
        samples = np.concatenate(pieces)
        if np.dtype(dtype).kind == "f":
            return samples.astype(dtype, copy=False)
        bits = 8 * np.dtype(dtype).itemsize
        return to_steps(samples, bits)[0].astype(dtype)

    def _fill(self) -> bool:
        if not len(self._held):
            self._held = next(self._blocks, self._held)
        return len(self._held) > 0


def open_container(raw: BinaryIO) -> Any:
    """Open the container in an open file with FFmpeg. Raises MediaError for what is not media."""
    import av
    from av.error import FFmpegError

    # Without a protocol, other files and addresses that a file names cannot be opened.
    options = {"format_whitelist": ",".join(_WITH_LENGTH + _WITHOUT_LENGTH), "protocol_whitelist": "none"}
    # A view accepts positions before its beginning, which FFmpeg asks for in damaged files.
    view = View(raw, [(0, raw.seek(0, os.SEEK_END))])
    try:
        return av.open(view, options=options, metadata_errors="replace")
    except FFmpegError as error:
        raise MediaError(reason(error)) from error


def missing_bytes(raw: BinaryIO) -> int:
    """Return how many bytes are missing at the end of MP4 boxes, the segment of Matroska, the chunks of AVI, or ASF."""
    size = raw.seek(0, os.SEEK_END)
    begin = _at(raw, 0, 12)
    if begin.startswith(_ASF):
        head = _at(raw, 0, 1 << 16)
        about = head.find(_ASF_PROPERTIES)
        live = about < 0 or head[about + 88 : about + 89] not in (b"\0", b"\2")  # its size is not known then
        return 0 if live else max(0, int.from_bytes(head[about + 40 : about + 48], "little") - size)
    if begin[:4] == b"RIFF":
        return max(0, 8 + int.from_bytes(begin[4:8], "little") - size)
    if begin[:4] == b"\x1aE\xdf\xa3":
        _, body, length = _ebml(raw, 0)
        name, body, length = _ebml(raw, body + length)
        known = name == b"\x18S\x80g" and length != (1 << 56) - 1
        return max(0, body + length - size) if known else 0
    end = 0
    while begin[4:8] in (b"ftyp", b"moov", b"moof", b"mdat", b"free", b"skip", b"wide", b"uuid", b"sidx", b"styp"):
        length = int.from_bytes(begin[:4], "big")
        if length == 1:
            length = int.from_bytes(_at(raw, end + 8, 8), "big")
        if length < 8:  # a box of size 0 ends with the file
            return 0
        end += length
        begin = _at(raw, end, 12)
    return max(0, end - size)


def _at(raw: BinaryIO, position: int, count: int) -> bytes:
    raw.seek(position)
    return raw.read(count)


def _ebml(raw: BinaryIO, position: int) -> tuple[bytes, int, int]:
    """(name, start of its content, bytes of content) of an element, RFC 8794; sizes have up to 56 bits."""
    head = _at(raw, position, 12)
    if len(head) < 12 or not head[4]:
        return b"", position, 0
    width = 9 - head[4].bit_length()
    length = int.from_bytes(head[4 : 4 + width], "big") - (1 << 7 * width)
    return head[:4], position + 4 + width, length


class _Decoder:
    """Decoder of the first audio stream of a container, with a record of what it met."""

    def __init__(self, container: Any, missing_bytes: int) -> None:
        self.container, self.streams = container, len(container.streams.audio)
        if not self.streams:
            raise MediaError("no sound in it")
        self.stream = container.streams.audio[0]
        if self.stream.codec_context is None:
            raise MediaError("no decoder for its sound")
        self.rate_hz = self.channels = 0
        self.kind = ""
        """FFmpeg's name of the sample format, whether or not it is planar."""
        self.start_s: float | None = None
        self.end_s = 0.0
        """Where the last packet of any stream ends."""
        self.packets = self.failed = self.filled = self.other_bytes = 0
        self.stopped = ""
        """Why FFmpeg stopped before the end."""
        has_length = container.format.name in _WITH_LENGTH
        self.length_s = (container.duration or 0) / 1e6 if has_length else 0.0
        """Length according to the header; 0 if it states none."""
        self._begin_s = (container.start_time or 0) / 1e6
        self.missing_bytes = missing_bytes
        self._expected: int | None = None
        self._lost = False

    def blocks(self) -> Iterator[np.ndarray]:
        """Yield samples (n, channels) float, one frame of the codec after the other."""
        waiting = None
        for frame in self._frames():
            if waiting is not None:
                yield from self._in_time(waiting)
            waiting = frame
        if waiting is not None:
            yield from self._in_time(waiting, last=True)

    def _frames(self) -> Iterator[Any]:
        from av.error import FFmpegError

        for packet in self._packets():
            try:
                frames = packet.decode()
            except FFmpegError:
                frames = []
                self.failed += packet.size > 0
                self._lost = True
            for frame in frames:
                if not self.kind:
                    self.rate_hz, self.channels, self.kind = frame.sample_rate, _channels(frame), _kind(frame)
                if (frame.sample_rate, _channels(frame)) == (self.rate_hz, self.channels):
                    yield frame
                else:
                    self.failed += 1
                    self._lost = True

    def _packets(self) -> Iterator[Any]:
        """Yield the packets of the sound; those of other streams are only examined."""
        from av.error import FFmpegError

        packets = self.container.demux()
        while True:
            try:
                packet = next(packets, None)
            except FFmpegError as error:
                self.stopped = reason(error)
                return
            except IndexError:  # PyAV flushes streams that it does not know, as they began late; all is read then
                return
            if packet is None:
                return
            if packet.pts is not None:
                self.end_s = max(self.end_s, float((packet.pts + (packet.duration or 0)) * packet.time_base))
            if packet.stream.index == self.stream.index:  # flushing packets have no index of their own
                self.packets += packet.size > 0
                yield packet
            else:
                self.other_bytes += packet.size

    def _in_time(self, frame: Any, last: bool = False) -> Iterator[np.ndarray]:
        """Yield the samples of a frame, after silence if some are missing before it."""
        samples = _samples(frame)
        if frame.pts is not None:
            start = round(frame.pts * frame.time_base * self.rate_hz)
            if self.start_s is None:
                self.start_s = start / self.rate_hz
            if self._expected is not None:
                yield from self._silence(start - self._expected)
            self._expected = start
        if self._expected is not None:
            self._expected += len(samples)
        self._lost = False
        # Where times count samples, the duration of the last frame is that of the sound in it.
        counted = frame.time_base is not None and frame.time_base * self.rate_hz == 1
        yield samples[: frame.duration or None] if last and counted else samples

    def _silence(self, frames: int) -> Iterator[np.ndarray]:
        least = (_ROUNDING_S if self._lost else _JUMP_S) * self.rate_hz
        most = (self.length_s or _LONGEST_FILL_S) * self.rate_hz - self.filled
        if not least < frames <= most:
            return
        self.filled += frames
        for start in range(0, frames, _FILL_FRAMES):
            yield np.zeros((min(_FILL_FRAMES, frames - start), self.channels), np.float32)

    def missing_s(self) -> float:
        """Seconds that the header announces but that are missing."""
        missing = self._begin_s + self.length_s - self.end_s
        return missing if missing > (_CUT_TAIL_S if self.missing_bytes else _TAIL_S) else 0.0


@lru_cache(1 << 16)
def _content(path: str, size: int, mtime_ns: int) -> Content:
    """Decode a file. Its `size` and `mtime_ns` are arguments so that a file that changes is decoded again."""
    with MediaFile(path) as file:
        frames = 0
        while block := len(file.read(_FILL_FRAMES)):
            frames += block
        decoder = file._decoder
    rate_hz, failed, packets = decoder.rate_hz, decoder.failed, decoder.packets
    if failed > _DAMAGED * packets:
        raise MediaError(f"{failed} of {packets} packets of sound cannot be decoded, or are of another kind")
    notes = []
    if decoder.streams > 1:
        notes.append(f"it holds {decoder.streams} audio streams, of which the first was read")
    if failed:
        notes.append(f"it is damaged: {failed} of {packets} packets could not be decoded")
    if decoder.filled:
        notes.append(f"{decoder.filled / rate_hz:.2f} s of sound are missing in it, for which silence was put in")
    if decoder.stopped:
        notes.append(f"it is damaged or cut short: reading failed behind {frames} frames ({decoder.stopped})")
    elif decoder.missing_bytes:
        notes.append(f"{decoder.missing_bytes} bytes of it, at the end, are missing")
    elif not decoder.length_s:
        notes.append("its header does not say how long it is, so an end that is missing cannot be noticed")
    promised = frames + round(decoder.missing_s() * rate_hz)
    return Content(frames, promised, decoder.start_s or 0.0, decoder.other_bytes, tuple(notes))


_CRASHING_PLANES = 8
"""From so many planes on, PyAV 18 reads one more than a frame has, and the process crashes."""


def _channels(frame: Any) -> int:
    return frame.layout.nb_channels


def _kind(frame: Any) -> str:
    return frame.format.name.removesuffix("p")


def _samples(frame: Any) -> np.ndarray:
    """The samples (n, channels) of a frame, float32 where that holds them exactly."""
    kind = _kind(frame)
    if frame.format.is_planar and _channels(frame) >= _CRASHING_PLANES:
        from av import AudioResampler

        (frame,) = AudioResampler(format=kind).resample(frame)
    array = frame.to_ndarray()
    array = array.T if frame.format.is_planar else array.reshape(-1, _channels(frame))
    scale = _FULL_SCALE.get(kind)
    if scale is None:
        return array
    wide = array.astype(np.float32 if kind in ("u8", "s16") else np.float64)
    return (wide - scale if kind == "u8" else wide) / scale


_STORED = {"pcm_mulaw": "ULAW", "pcm_alaw": "ALAW", "pcm_f32le": "FLOAT", "pcm_f32be": "FLOAT"}
_DEPTH = {"u8": "PCM_U8", "s16": "PCM_16", "s32": "PCM_24", "flt": "FLOAT", "dbl": "DOUBLE"}


def _subtype(codec: Any, kind: str) -> str:
    """How samples are stored: for lossless codecs libsndfile's name of a format as deep, else the name of the codec."""
    if codec.name in _STORED:
        return _STORED[codec.name]
    if codec.name.startswith("pcm_s32"):
        return "PCM_32"
    if codec.lossless and (not codec.lossy or codec.name == "wavpack"):
        return _DEPTH.get(kind, "PCM_24")
    return codec.canonical_name.upper()


def reason(error: Exception) -> str:
    """Return what FFmpeg says is wrong."""
    return shortened(getattr(error, "strerror", None) or error)
