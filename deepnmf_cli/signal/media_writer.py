"""Sound in M4A, MP4, MOV, MKV and WebM files, encoded by FFmpeg, with the pictures and subtitles of its source."""

import struct
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from fractions import Fraction
from pathlib import Path
from typing import Any, Self

import numpy as np

from deepnmf_cli import checkpoint
from deepnmf_cli.errors import AudioError
from deepnmf_cli.signal.audio import explaining
from deepnmf_cli.signal.formats import FOR_DEEP_SOUNDS, AudioInfo, is_media
from deepnmf_cli.signal.media import TAGS, MediaError, MediaFile, open_container, reason
from deepnmf_cli.signal.metadata import Metadata

_CONTAINERS = {".m4a": "ipod", ".mp4": "mp4", ".mov": "mov", ".mkv": "matroska", ".webm": "webm"}
"""Suffix -> FFmpeg's name of the container."""

LAYOUTS = {1: "mono", 2: "stereo", 3: "3.0", 4: "4.0", 5: "5.0", 6: "5.1", 7: "6.1", 8: "7.1"}
"""Channels -> FFmpeg's name of the loudspeakers that they are for."""

_ENCODERS = {"AAC": ("aac", "fltp"), "OPUS": ("libopus", "flt")}
"""Codec -> encoder, and the format of samples that it takes."""

_BITS_PER_CHANNEL = 128_000
"""Bit rate in bit/s for each channel; the encoders use less at low sampling rates."""

_BLOCK_FRAMES = 1 << 14
"""Frames encoded at once, before the pictures of that time are copied."""


class MediaWriter:
    """An output in progress, made by `open_writer`, with the interface of `AudioWriter`.

    All pictures, covers and subtitles of `source` that the container holds are copied, packet by packet, and
    keep their times; the sound begins when that of `source` does. An M4A file has only sound and covers. Raises
    AudioError for a container other than M4A if there are no pictures, and for what the container cannot hold.
    """

    def __init__(
        self, path: Path, partial: Path, info: AudioInfo, about: Metadata, source: str | Path | None = None
    ) -> None:
        import av

        self.path, self.frames, self.clipped = path, 0, 0
        self.container, self.subtype, self.notes = info.container, info.subtype, ()
        self._rate_hz = info.rate_hz
        self._waiting: Any = None
        suffix, (encoder, self._kind) = path.suffix.lower(), _ENCODERS[info.subtype]
        with ExitStack() as stack:
            self._raw = stack.enter_context(partial.open("wb"))
            # Edit lists count in this unit, so that they give the beginning of the sound to the sample.
            options = {} if suffix in (".mkv", ".webm") else {"movie_timescale": str(info.rate_hz)}
            self._file: Any = av.open(self._raw, "w", format=_CONTAINERS[suffix], container_options=options)
            stack.callback(self._abandon)
            self._copy = stack.enter_context(_Copy(source))
            with self._explaining():
                self._copy.choose(self._file, path, suffix)
                if suffix != ".m4a" and not self._copy.has_pictures:
                    remedy = "Choose a name that ends in .m4a, .wav or .flac."
                    raise AudioError(path, "no pictures in the input", f"a video for {suffix}", remedy)
                told = {theirs: about.tags[ours] for theirs, ours in TAGS.items() if ours in about.tags}
                self._file.metadata.update(self._copy.tags or told)
                self._add_sound(encoder, info)
            self.notes = self._copy.notes
            if info.channels > 5 and (source is None or not is_media(source)):
                self.notes += (FOR_DEEP_SOUNDS.format(info.subtype),)
            self._start = round(self._copy.start_s * info.rate_hz) if self._copy.has_pictures else 0
            self._open = stack.pop_all()

    def write(self, samples: np.ndarray) -> np.ndarray:
        """Append samples (channels, n), clipped to [-1, 1]; return the clipped samples, float64.

        Raises AudioError for samples that are not finite.
        """
        if not np.isfinite(samples).all():
            remedy = "Check the input's level and the model."
            raise AudioError(self.path, "samples that are not finite to write", "finite samples", remedy)
        self.clipped += int(np.count_nonzero(np.abs(samples) > 1))
        stored = np.clip(samples.astype(np.float64), -1, 1)
        for first in range(0, samples.shape[1], _BLOCK_FRAMES):
            with self._explaining():
                checkpoint.reached(f"{self.path.name}: block")
                self._encode(stored[:, first : first + _BLOCK_FRAMES])
        return stored

    def close(self, partial: Path) -> None:
        """Close the file. Raises OSError if it is gone."""
        with self._explaining():
            self._mux(self._sound.encode(None))
            self._mux_last()
            for packet in self._copy.until(None):
                self._file.mux(packet)
            self._file.close()
            self._raw.close()
        partial.stat()

    def discard(self) -> None:
        """Close after a failure."""
        self._open.close()

    def _abandon(self) -> None:
        from av.error import FFmpegError

        with suppress(FFmpegError, OSError, ValueError):  # the file may be closed, or its disk full
            self._file.close()

    def _add_sound(self, encoder: str, info: AudioInfo) -> None:
        if info.channels not in LAYOUTS:
            found, remedy = f"{info.channels} channels", "Choose a name that ends in .wav."
            raise AudioError(self.path, found, f"at most {len(LAYOUTS)} in {info.subtype}", remedy)
        layout = LAYOUTS[info.channels]
        self._sound = self._file.add_stream(encoder, rate=info.rate_hz, layout=layout, format=self._kind)
        self._sound.bit_rate = min(_BITS_PER_CHANNEL * info.channels, 510_000)  # the limit of Opus, and plenty for AAC
        if encoder == "aac":  # tones and speech come out closer to the input than with the default
            self._sound.options = {"aac_coder": "fast"}
        self._sound.metadata.update(self._copy.sound_tags)
        self._file.start_encoding()

    def _encode(self, samples: np.ndarray) -> None:
        import av

        # Packed for all encoders, which convert by themselves: PyAV cannot fill eight planes of a frame.
        values = np.ascontiguousarray(samples.T, np.float32).reshape(1, -1)
        frame = av.AudioFrame.from_ndarray(values, format="flt", layout=self._sound.codec_context.layout)
        frame.rate, frame.time_base = self._rate_hz, Fraction(1, self._rate_hz)
        frame.pts = self._start + self.frames
        self.frames += samples.shape[1]
        self._mux(self._sound.encode(frame))

    def _mux(self, packets: list[Any]) -> None:
        """Write packets of sound, each after the copied packets that come before it; the last one waits for the end."""
        for packet in packets:
            if self._waiting is not None:
                self._mux_sound(self._waiting)
            self._waiting = packet

    def _mux_last(self) -> None:
        """Write the last packet, and how much of it is sound: Matroska stores that, other containers have durations."""
        from av.packet import PacketSideData, packet_sidedata_type_from_literal

        packet = self._waiting
        if packet is None:
            return
        size = self._sound.codec_context.frame_size
        surplus = packet.pts + size - self._start - self.frames
        if self.subtype == "AAC" and 0 < surplus < size:
            make: Any = PacketSideData  # whose arguments PyAV does not declare
            told = make(packet_sidedata_type_from_literal("skip_samples"), 10)
            told.update(struct.pack("<IIBB", 0, surplus, 0, 0))
            packet.set_sidedata(told)
        self._mux_sound(packet)

    def _mux_sound(self, packet: Any) -> None:
        if packet.pts is not None:
            for other in self._copy.until(packet.pts * packet.time_base):
                self._file.mux(other)
        self._file.mux(packet)

    @contextmanager
    def _explaining(self) -> Iterator[None]:
        from av.error import FFmpegError

        try:
            with explaining(self.path):
                yield
        except FFmpegError as error:
            found = f"an output that cannot be written ({reason(error)})"
            expected = f"pictures and sound that {self.path.suffix} holds"
            raise AudioError(self.path, found, expected, "Choose a name that ends in .mkv, or in .wav.") from error


_OF_THE_FILE = {"major_brand", "minor_version", "compatible_brands", "encoder", "duration"}
"""Tags that describe the file, and not its content."""


class _Copy:
    """What is copied from a source: packets of pictures and subtitles, tags, and when the sound begins."""

    def __init__(self, source: str | Path | None) -> None:
        self.tags: dict[str, str] = {}
        self.sound_tags: dict[str, str] = {}
        self.notes: tuple[str, ...] = ()
        self.start_s, self.has_pictures = 0.0, False
        self._chosen: dict[int, Any] = {}
        self._packets: Iterator[Any] = iter(())
        self._next: Any = None
        self._input: Any = None
        with ExitStack() as stack:
            if source is not None:
                with suppress(MediaError):
                    with MediaFile(source) as file:
                        begins_s = file.content.start_s
                    self._input = open_container(stack.enter_context(open(source, "rb")))
                    stack.enter_context(self._input)
                    self._shift_s = Fraction(self._input.start_time or 0, 1_000_000)
                    self.start_s = begins_s - float(self._shift_s)
                    self.tags = _own_tags(self._input)
                    self.sound_tags = _own_tags(self._input.streams.audio[0])
            self._open = stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def choose(self, output: Any, path: Path, suffix: str) -> None:
        """Add streams to `output` for those of the source that it can hold."""
        if self._input is None:
            return
        supported = output.supported_codecs
        for stream in self._input.streams:
            cover = stream.type == "video" and bool(stream.disposition & _attached())
            wanted = cover if suffix == ".m4a" else stream.type in ("video", "subtitle")
            if not wanted or (cover and suffix in (".mkv", ".webm")):
                continue
            codec = stream.codec_context.name if stream.codec_context else "an unknown codec"
            is_picture = stream.type == "video" and not cover
            if codec in supported:
                self._chosen[stream.index] = copy = output.add_stream_from_template(stream)
                copy.metadata.update(_own_tags(stream))
                copy.disposition = stream.disposition
                self.has_pictures |= is_picture
            elif is_picture:
                found, remedy = (
                    f"pictures in {codec}",
                    "Choose .mkv, or .wav for the sound alone.",
                )
                raise AudioError(path, found, f"a codec that {suffix} holds", remedy)
            else:
                self.notes += (f"a {stream.type} stream ({codec}) was left out, as {suffix} does not hold it",)
        if self._chosen:
            self._packets = self._input.demux([self._input.streams[index] for index in self._chosen])
            self._advance()
        if suffix != ".m4a" and (chapters := self._input.chapters()):
            output.set_chapters(chapters)

    def until(self, time_s: Fraction | None) -> Iterator[Any]:
        """Yield the packets that come before a time, or all that are left if it is None."""
        while self._next is not None:
            packet = self._next
            if time_s is not None and packet.dts is not None and packet.dts * packet.time_base > time_s:
                return
            self._advance()
            yield packet

    def _advance(self) -> None:
        while (packet := next(self._packets, None)) is not None and not packet.size:
            pass  # PyAV marks the end of a stream by an empty packet
        if packet is not None:
            shift = round(self._shift_s / packet.time_base)
            packet.stream = self._chosen[packet.stream.index]
            if packet.pts is not None:
                packet.pts -= shift
            if packet.dts is not None:
                packet.dts -= shift
        self._next = packet


def picture_bytes(source: str | Path | None) -> int:
    """Return the bytes that the pictures and subtitles of a file take; 0 for a file that is not read by FFmpeg."""
    if source is not None:
        with suppress(MediaError), MediaFile(source) as file:
            return file.content.other_bytes
    return 0


def _attached() -> Any:
    from av.stream import Disposition

    return Disposition.attached_pic


def _own_tags(thing: Any) -> dict[str, str]:
    return {name: text for name, text in thing.metadata.items() if name.lower() not in _OF_THE_FILE}
