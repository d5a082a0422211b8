"""The parts of Ogg and MP3 files, each of which is decoded separately, found by walking over all pages or frames.

Ogg streams can be chained, and MP3 files joined. Decoding such a file as one yields only its beginning, as neither has
a header for the whole. The length that libsndfile reports for an MP3 file without a Xing header is an estimate, which
is replaced by the count.
"""

import functools
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import BinaryIO, NamedTuple

from deepnmf_cli.signal.parts import INCOMPLETE, Part

_WINDOW_BYTES = 1 << 18


class _Window:
    """Random access to small pieces of a file that lie near each other."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file, self.size = file, size
        self._start, self._held = 0, b""

    def at(self, position: int, count: int) -> bytes:
        """`count` bytes, fewer at the end of the file."""
        if not self._start <= position <= position + count <= self._start + len(self._held):
            self._file.seek(position)
            self._start, self._held = position, self._file.read(max(count, _WINDOW_BYTES))
        return self._held[position - self._start : position - self._start + count]

    def find(self, wanted: bytes, position: int) -> int:
        """Return the next position of `wanted` from `position` on; the end of the file if there is none."""
        while position + len(wanted) <= self.size:
            self.at(position, len(wanted))
            if (offset := self._held.find(wanted, position - self._start)) >= 0:
                return self._start + offset
            position = max(position + 1, self._start + len(self._held) - len(wanted) + 1)
        return self.size


# Ogg: pages of (head of 27 bytes, table of sizes, body), each with the number of its stream and its own number.

_OGG_BEGINS, _OGG_ENDS = 2, 4
_BITS_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
_BEGINS_LATE = "its first pages with samples are missing"
_OGG_AUDIO = (b"\x01vorbis", b"OpusHead", b"\x7fFLAC", b"Speex   ")


class _Page(NamedTuple):
    start: int
    stop: int
    flags: int
    has_samples: bool
    serial: bytes
    number: int
    body: bytes
    """The first bytes of the body."""
    behind_damage: bool
    """Whether bytes that are no page lie between this page and the one before it."""


@dataclass
class _Stream:
    """A logical stream, as far as its pages have been read."""

    is_audio: bool = True
    lost: bool = True
    """Whether pages are missing; true as long as the stream has not begun."""
    next_number: int = 0
    has_samples: bool = False
    begins_late: bool = False
    """Whether pages are missing between its headers and its first samples."""
    ended: bool = False


@dataclass
class _Link:
    """Streams that begin together, and the stretch of the file that they fill."""

    start: int
    stop: int = 0
    streams: dict[bytes, _Stream] = field(default_factory=dict)
    has_begun: bool = False

    def add(self, page: _Page) -> None:
        begins = bool(page.flags & _OGG_BEGINS)
        if begins:
            self.streams[page.serial] = _Stream(page.body.startswith(_OGG_AUDIO), False)
        self.stop, self.has_begun = page.stop, self.has_begun or not begins
        stream = self.streams.setdefault(page.serial, _Stream())
        # A radio station on the Internet sends the headers, and then what is on air while one listens.
        has_gap = page.number != stream.next_number
        is_lost = has_gap and (stream.has_samples or page.behind_damage)
        stream.lost |= is_lost
        stream.begins_late |= has_gap and not is_lost
        stream.has_samples |= page.has_samples
        stream.next_number, stream.ended = (page.number + 1) % (1 << 32), bool(page.flags & _OGG_ENDS)

    def part(self) -> Part:
        audio = [stream for stream in self.streams.values() if stream.is_audio]
        fault = None
        if any(stream.lost for stream in audio):
            fault = "an Ogg stream from which pages are missing", "all of its pages", INCOMPLETE
        elif len(audio) > 1:
            remedy = "Take one of them out with `ffmpeg -i FILE -map 0:a:0 one.wav`."
            fault = f"{len(audio)} Ogg streams that play at the same time", "one", remedy
        elif not all(stream.ended for stream in audio):
            fault = "an Ogg stream that breaks off", "the page that ends it", INCOMPLETE
        note = _BEGINS_LATE if any(stream.begins_late for stream in audio) else ""
        return Part([(self.start, self.stop)], fault, note=note, walked=True)


def ogg_parts(file: BinaryIO, size: int) -> list[Part]:
    """The links of a chain of Ogg streams."""
    links: list[_Link] = []
    for page in _ogg_pages(_Window(file, size)):
        if not links or (page.flags & _OGG_BEGINS and links[-1].has_begun):
            links.append(_Link(page.start))
        links[-1].add(page)
    return [link.part() for link in links]


def _ogg_pages(window: _Window) -> Iterator[_Page]:
    """Yield all pages that are whole: the decoder silently skips the others."""
    position = end = 0
    while (position := window.find(b"OggS", position)) + 27 <= window.size:
        head = window.at(position, 27)
        table = window.at(position + 27, head[26])
        body = position + 27 + len(table)
        stop = body + sum(table)
        if stop > window.size or not _has_its_checksum(window.at(position, stop - position)):
            position += 1
            continue
        granule, number = (int.from_bytes(head[a:b], "little") for a, b in ((6, 14), (18, 22)))
        has_samples = 0 < granule < 1 << 63  # -1: no packet ends here
        begin = window.at(body, 8)
        yield _Page(position, stop, head[5], has_samples, head[14:18], number, begin, position != end)
        position = end = stop


def _has_its_checksum(page: bytes) -> bool:
    """Return whether the checksum in the head of a page matches all its bytes."""
    # The CRC of zlib, but with the bits of each byte reversed, and with an initial value of 0 instead of ones.
    found = zlib.crc32((page[:22] + bytes(4) + page[26:]).translate(_BITS_REVERSED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return found.to_bytes(4, "big").translate(_BITS_REVERSED) == page[22:26]


# MP3: frames of (head of four bytes, samples). Tags may stand before, between and after them.

_MPEG_RATES_HZ = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}
"""Version -> sampling rates; 3 is MPEG-1, 2 and 0 halve and quarter its rates."""
_MPEG_KBPS = {
    (True, 1): (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (True, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, 3): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
"""(whether MPEG-1, layer) -> bit rates."""
_MPEG_HEADERS = (b"Xing", b"Info")
_XING_BYTES = 120
"""Minimum size of a Xing header."""


class _Frame(NamedTuple):
    """What the head of a frame says."""

    kind: tuple[int, int, int, bool]
    """MPEG version, layer, rate in Hz, and whether it has one channel: what stays the same within a recording."""
    size: int
    samples: int
    side_at: int
    """Offset of the side information, whose first bits are 0 in a frame that needs none of the frames before it."""
    info_at: int
    """Offset of the Xing header in a frame that is one."""


@functools.lru_cache(4096)
def mpeg_frame(head: bytes) -> _Frame | None:
    """The frame that a head of four bytes announces; None if they are something else."""
    if len(head) < 4 or head[0] != 0xFF or head[1] >> 5 != 7:
        return None
    version, layer, bitrate, rate = head[1] >> 3 & 3, 4 - (head[1] >> 1 & 3), head[2] >> 4, head[2] >> 2 & 3
    if version == 1 or layer == 4 or bitrate in (0, 15) or rate == 3:
        return None
    first, mono = version == 3, head[3] >> 6 == 3
    slot = 4 if layer == 1 else 1
    samples = 384 if layer == 1 else 576 if layer == 3 and not first else 1152
    rate_hz, bits_s = _MPEG_RATES_HZ[version][rate], 1000 * _MPEG_KBPS[first, layer][bitrate - 1]
    size = slot * (samples // 8 // slot * bits_s // rate_hz + (head[2] >> 1 & 1))
    side_bytes = (17 if mono else 32) if first else (9 if mono else 17)
    return _Frame((version, layer, rate_hz, mono), size, samples, 4 if head[1] & 1 else 6, 4 + side_bytes)


@dataclass
class _Recording:
    """One of the recordings that make up an MP3 file."""

    frame: _Frame
    """Its first frame."""
    head: bytes
    tags: list[tuple[int, int]]
    """Tags that stand before it."""
    header: list[tuple[int, int]] = field(default_factory=list)
    """The frame that is a Xing header, if there is one."""
    runs: list[tuple[int, int]] = field(default_factory=list)
    """Stretches of frames and tags, without anything else between them, more than 1 kB of which stops the decoder."""
    promised: int | None = None
    """Number of frames according to its Xing header."""
    frames: int = 0

    def part(self) -> Part:
        whole: list[tuple[int, int]] = []
        for stretch in (*self.tags, *self.header, *self.runs):
            _append(whole, *stretch)
        # Some programs count the header as a frame.
        if self.promised is not None and self.promised > self.frames + 1:
            return Part(whole, cut=(self.frames, self.promised), walked=True)
        if self.promised == self.frames:
            return Part(whole, walked=True)
        samples = self.frames * self.frame.samples
        counted = f"{self.frames} MP3 frames ({samples / self.frame.kind[2]:.2f} s) were counted"
        note = f"its header promises {self.promised} MP3 frames, but {counted}"
        if self.promised is None:
            note = f"{counted}; its header does not say how long it is, so an end that is missing cannot be noticed"
        # The decoder estimates the number of frames from the first: the smallest possible makes it estimate enough.
        smallest = bytes([self.head[0], self.head[1] | 1, 0x10 | self.head[2] & 0x0C, self.head[3]])
        quiet = mpeg_frame(smallest)
        silence = smallest.ljust(quiet.size if quiet else 0, b"\0")
        segments = [*self.tags, silence, *self.runs]
        return Part(segments, note=note, frames=samples, skipped=self.frame.samples, walked=True)


def mp3_parts(file: BinaryIO, size: int) -> list[Part]:
    """The recordings of an MP3 file, or of another file with MPEG audio; empty if there is no frame."""
    window, found, tags = _Window(file, size), [], []
    position = 0
    while position < size:
        begin = window.at(position, 48)  # as far as a Xing header reaches
        head = begin[:4]
        frame = mpeg_frame(head)
        goes_on = found and frame and not tags and frame.kind == found[-1].frame.kind
        if not (frame and position + frame.size <= size and (goes_on or _is_confirmed(window, position, frame))):
            stop = _after_tag(window, position)
            if head[:3] == b"ID3" and stop:
                tags.append((position, stop))
            elif head[:3] == b"TAG" and stop and found:
                _append(found[-1].runs, position, stop)
            position = stop or _next_frame(window, position + 1)
            continue
        info = begin[frame.info_at : frame.info_at + 12]
        has_header = _is_xing(begin, frame)
        if goes_on and found[-1].promised == found[-1].frames:  # more than were promised: another recording?
            goes_on = begin[frame.side_at] != 0
        if has_header or not goes_on:
            found.append(_Recording(frame, head, tags))
            tags = []
        stop = position + frame.size
        if has_header:
            found[-1].header = [(position, stop)]
            found[-1].promised = int.from_bytes(info[8:12], "big") if info[7] & 1 else None
        else:
            _append(found[-1].runs, position, stop)
            found[-1].frames += 1
        position = stop
    return [recording.part() for recording in found]


def _is_xing(begin: bytes, frame: _Frame) -> bool:
    """Return whether the decoder takes a frame for a Xing header.

    A frame that only looks like one makes it estimate the length.
    """
    is_empty = not any(begin[6 : frame.info_at]) and frame.size >= frame.info_at + _XING_BYTES
    return is_empty and frame.kind[1] == 3 and begin[frame.info_at : frame.info_at + 4] in _MPEG_HEADERS


def _append(stretches: list[tuple[int, int]], start: int, stop: int) -> None:
    """Append a stretch of the file to others, merged with the last one if it continues that."""
    if stretches and stretches[-1][1] == start:
        start, _ = stretches.pop()
    stretches.append((start, stop))


def begins_mpeg(magic: bytes) -> bool:
    """Return whether libsndfile takes a file that begins with `magic` for MPEG audio."""
    return len(magic) > 1 and magic[0] == 0xFF and magic[1] >> 5 == 7


def flac_begins(file: BinaryIO, size: int, start: int) -> bool:
    """Return whether a FLAC file begins somewhere from `start` on."""
    window, position = _Window(file, size), start
    while (position := window.find(b"fLaC", position)) < size:
        if window.at(position + 5, 3) == b"\0\0\x22":  # the size of the first block
            return True
        position += 1
    return False


def after_tags(file: BinaryIO, size: int) -> int:
    """Return the end of the ID3 tags at the beginning of the file, as libsndfile finds it; 0 if there are none."""
    position = 0
    while True:
        file.seek(position)
        head = file.read(10)
        stop = position + _id3_bytes(head) if head[:3] == b"ID3" and len(head) == 10 else size
        if stop >= size:
            return position
        position = stop


def _is_confirmed(window: _Window, position: int, frame: _Frame) -> bool:
    """Return whether a frame, another tag or the end follows a frame, so that it is not a coincidence of bytes."""
    after = position + frame.size
    follows = mpeg_frame(window.at(after, 4))
    return after >= window.size or _after_tag(window, after) > 0 or (follows is not None and follows.kind == frame.kind)


def _next_frame(window: _Window, position: int) -> int:
    """Return where the next confirmed frame begins, from `position` on; the size of the file if there is none."""
    while (position := window.find(b"\xff", position)) < window.size:
        frame = mpeg_frame(window.at(position, 4))
        if frame and position + frame.size < window.size and _is_confirmed(window, position, frame):
            return position
        position += 1
    return window.size


def _after_tag(window: _Window, position: int) -> int:
    """Return the end of the ID3 or APE tag at `position`; 0 if there is none, or its end is not in the file."""
    head = window.at(position, 16)
    stop = 0
    if head[:3] == b"ID3" and len(head) == 16 and max(head[6:10]) < 128:
        stop = position + _id3_bytes(head) + (head[5] & 16 and 10)
    if head[:3] == b"TAG":
        stop = position + 128
    if head[:8] == b"APETAGEX":
        stop = position + 32 + int.from_bytes(head[12:16], "little")
    return stop if stop <= window.size else 0


def _id3_bytes(head: bytes) -> int:
    """Size of an ID3 tag in bytes, without its optional footer."""
    return 10 + sum((byte & 127) << 7 * k for k, byte in enumerate(head[9:5:-1]))
