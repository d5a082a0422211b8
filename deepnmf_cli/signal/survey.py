"""What a file holds, whatever its suffix and its header say: the parts to decode, and what is wrong with them."""

import struct
from dataclasses import dataclass, replace
from typing import BinaryIO, cast

from deepnmf_cli.signal import links
from deepnmf_cli.signal.formats import is_placeholder
from deepnmf_cli.signal.parts import Part, View

_TAGS = (b"TAG", b"ID3", b"APETAGEX")
"""Beginnings of the tags of players, which may follow without being a chunk."""

_MPEG_IN_WAV = 0x55
"""Format number of a WAV file whose samples are MPEG audio, layer III."""

_DATA_WORDS = {"I": (1 << 32) - 1, "Q": (1 << 63) - 1, "q": (1 << 63) - 1}
"""`struct` format of a size field -> the largest size."""


@dataclass(frozen=True)
class Extent:
    """The samples of a file as its header describes them; positions and sizes in bytes."""

    start: int
    """Where the samples begin."""
    size: int | None
    """Size of the samples; None if the header does not state it."""
    end: int | None = None
    """End of all that the header describes, or could describe; None if it is not known."""
    patch: tuple[int, bytes] | None = None
    """(position, bytes) of the size that is missing from a header which was never finished."""
    unfinished: bool = False
    """Whether the size is 0 and samples follow, as in files of a recorder that was switched off."""
    pieces: int = 1
    """Number of stretches of samples; only the first one is described here."""
    is_mpeg: bool = False
    """Whether the samples are MPEG audio."""
    damage: str = ""
    """What is visibly wrong within the samples."""

    def missing(self, file_size: int) -> int:
        """Number of bytes of samples that are promised but missing."""
        return 0 if self.size is None else max(0, self.start + self.size - file_size)

    def surplus(self, file: BinaryIO, file_size: int) -> int:
        """Bytes at the end that the header does not describe, and that are neither a tag nor zeros."""
        if self.end is None or file_size <= self.end:
            return 0
        file.seek(self.end)
        return file_size - self.end if is_unannounced(file.read(1 << 16)) else 0


def is_unannounced(start: bytes) -> bool:
    """Return whether what begins with `start`, after all that a header describes, is neither a tag nor zeros."""
    return any(start) and not start.startswith(_TAGS)


def is_chunk_name(name: bytes) -> bool:
    """Return whether four bytes may name a chunk."""
    return len(name) == 4 and all(32 <= byte < 127 for byte in name)


def examine(file: BinaryIO, file_size: int) -> Extent | None:
    """What the header of `file` promises; None for other formats, and for headers that cannot be understood."""
    file.seek(0)
    magic = file.read(20)
    for begin, parse in _PARSERS.items():
        if magic.startswith(begin):
            try:
                return parse(file, file_size)
            except (struct.error, ValueError, LookupError, ArithmeticError):
                return None  # libsndfile will say what is wrong with it
    return None


@dataclass(frozen=True)
class _Chunks:
    """A container made of chunks, each with a name and a size in `layout`; the first one begins at `first`.

    The chunk called `samples` holds `inside` bytes before the samples. Sizes include `counted` bytes of the chunk's
    head, and chunks begin at multiples of `pad`.
    """

    layout: str
    first: int = 12
    samples: bytes = b"data"
    inside: int = 0
    counted: int = 0
    pad: int = 2

    def __call__(self, file: BinaryIO, file_size: int) -> Extent | None:
        found, large, is_mpeg, position, unpadded = None, None, False, self.first, self.first
        while chunk := self._chunk(file, position, file_size) or self._chunk(file, unpadded, file_size):
            name, body, size = chunk
            if name == b"ds64":  # of RF64: the sizes, in 64 bits
                large = body + 8
            if name == b"fmt ":
                is_mpeg = _at(file, body, self.layout[0] + "H") == (_MPEG_IN_WAV,)
            if found and name in (self.samples, *BEGINNINGS):  # more samples, or another file
                return replace(found, pieces=2)
            if name == self.samples:
                word = self.layout[0] + self.layout[-1]
                field = (body - struct.calcsize(word), word)
                if large and is_placeholder(size):
                    field = (large, "<Q")
                    (size,) = _at(file, *field)
                found = self._extent(file, file_size, body + self.inside, size - self.inside, field)
                found = replace(found, is_mpeg=is_mpeg)
                if found.size is None:
                    return found
            # Some programs omit the byte that makes a size even.
            position, unpadded = self._after(body, size), body + max(size, 0)
        return found and replace(found, end=max(position, found.end or 0))

    def _chunk(self, file: BinaryIO, position: int, file_size: int) -> tuple[bytes, int, int] | None:
        """(name, start of the body, bytes of the body) of the chunk at `position`; None if there is none."""
        body = position + struct.calcsize(self.layout)
        if position < self.first or body > file_size:
            return None
        name, size = _at(file, position, self.layout)
        return (name[:4], body, size - self.counted) if is_chunk_name(name[:4]) else None

    def _after(self, body: int, size: int) -> int:
        return -(-(body + max(size, 0)) // self.pad) * self.pad

    def _extent(self, file: BinaryIO, file_size: int, start: int, size: int, field: tuple[int, str]) -> Extent:
        """The extent of samples at `start`; `size` is what the `field` (position, layout) says of the samples alone."""
        position, word = field
        limit = _DATA_WORDS[word[-1]]
        if size <= 0:
            if self._is_chained(file, start, file_size):
                return Extent(start, 0, start)
            whole = min(file_size - start + self.inside + self.counted, limit)
            unfinished = size + self.inside != -1  # -1 is what CAF has for "until the end"
            return Extent(start, None, start + limit, (position, struct.pack(word, whole)), unfinished)
        if word[-1] == "I" and is_placeholder(size + self.inside):
            return Extent(start, None, start + limit)
        return Extent(start, size, start + size)

    def _is_chained(self, file: BinaryIO, position: int, file_size: int) -> bool:
        """Return whether chunks and nothing else fill the file from `position` on."""
        while chunk := self._chunk(file, position, file_size):
            position = self._after(*chunk[1:])
        return file_size - 1 <= position <= file_size + self.pad


def _form(file: BinaryIO, file_size: int) -> Extent | None:
    """The containers of the Amiga: AIFF, AIFC, and 8SVX or 16SV."""
    if _at(file, 8, "3s")[0] == b"AIF":
        return _Chunks(">4sI", samples=b"SSND", inside=8)(file, file_size)
    return _Chunks(">4sI", samples=b"BODY")(file, file_size)


def _au(file: BinaryIO, file_size: int) -> Extent:
    order = ">" if _at(file, 0, "4s")[0] == b".snd" else "<"
    start, size = _at(file, 4, f"{order}II")
    if size == 0 and file_size > start:
        return Extent(start, None, None, (8, b"\xff" * 4), unfinished=True)
    return Extent(start, None, file_size) if is_placeholder(size) else _sized(start, size)


def _nist(file: BinaryIO, file_size: int) -> Extent:
    (text,) = _at(file, 8, "8s")
    start = int(text)
    (text,) = _at(file, 0, f"{min(start, file_size)}s")
    fields = {words[0]: words[2] for line in text.splitlines() if len(words := line.split()) == 3}
    count, width, channels = (int(fields[key]) for key in (b"sample_count", b"sample_n_bytes", b"channel_count"))
    return _sized(start, count * width * channels)


def _voc(file: BinaryIO, file_size: int) -> Extent | None:
    """Blocks of (type, size in 24 bits); libsndfile reads the first one with samples, and what follows as samples."""
    (position,) = _at(file, 20, "<H")
    while position + 4 <= file_size:
        kind, low, high = _at(file, position, "<BHB")
        body, size = position + 4, low + (high << 16)
        if kind in (1, 9):
            inside = {1: 2, 9: 12}[kind]
            return _sized(body + inside, size - inside)
        position = body + size
    return None


def _avr(file: BinaryIO, file_size: int) -> Extent:
    stereo, bits = _at(file, 12, ">HH")
    (frames,) = _at(file, 26, ">I")
    return _sized(128, frames * (bits // 8) * (2 if stereo else 1))


def _mat4(file: BinaryIO, file_size: int) -> Extent | None:
    """Matrices, each (kind, rows, columns, complex, bytes of its name), its name, and its numbers."""
    order = "<" if _at(file, 0, "4s")[0][3] == 0 else ">"
    position = 0
    while position < file_size:
        kind, rows, columns, _, letters = _at(file, position, f"{order}5I")
        start = position + 20 + letters
        size = rows * columns * (8, 4, 4, 2, 2, 1)[kind // 10 % 10]
        if rows * columns > 1:
            return _sized(start, size)
        position = start + size
    return None


def _mat5(file: BinaryIO, file_size: int) -> Extent | None:
    """Elements (kind, size), padded to eight bytes; a matrix has elements for flags, dimensions, name and numbers."""
    order, position = "<" if _at(file, 126, "2s")[0] == b"IM" else ">", 128
    while position < file_size:
        inside = position + 8
        for _ in range(3):
            inside += _mat5_element(file, inside, order)[1]
        head, whole = _mat5_element(file, inside, order)
        if whole > 16:
            (numbers,) = _at(file, inside + 4, f"{order}I")
            return _sized(inside + head, numbers)
        position = inside + whole
    return None


def _mat5_element(file: BinaryIO, position: int, order: str) -> tuple[int, int]:
    """Bytes of an element's head, and of all of it. Small ones have their size in the upper half of their kind."""
    kind, size = _at(file, position, f"{order}II")
    return (4, 8) if kind >> 16 else (8, 8 + -(-size // 8) * 8)


def _wve(file: BinaryIO, file_size: int) -> Extent:
    return _sized(32, *_at(file, 18, ">I"))


def _xi(file: BinaryIO, file_size: int) -> Extent:
    """An instrument of `count` samples, whose heads of 40 bytes come before their data."""
    (count,) = _at(file, 296, "<H")
    sizes = [size for k in range(count) if (size := _at(file, 298 + 40 * k, "<I")[0])]
    # libsndfile writes a size of 0; other versions of it counted frames instead of bytes.
    return Extent(298 + 40 * count, sum(sizes) or None, pieces=max(1, len(sizes)))


def _mpc2k(file: BinaryIO, file_size: int) -> Extent:
    (stereo,), (frames,) = _at(file, 21, "B"), _at(file, 30, "<I")
    return _sized(42, frames * 2 * (2 if stereo else 1))


def _sds(file: BinaryIO, file_size: int) -> Extent:
    """Packets of 127 bytes with 120 of data, in which a sample takes 2 to 4 bytes of 7 bits."""
    (bits,), groups = _at(file, 6, "B"), _at(file, 10, "3B")
    samples = sum(group << 7 * k for k, group in enumerate(groups))
    size = -(-samples // (120 // -(-bits // 7))) * 127
    extent = _sized(21, size)
    # libsndfile would read on, and print to standard output.
    for start in range(21, min(21 + size, file_size), 127):
        if _at(file, start, "2s")[0] != b"\xf0\x7e":
            return replace(extent, damage=f"a packet of samples without its beginning at byte {start}")
    return extent


def _unsized(file: BinaryIO, file_size: int) -> Extent:
    """The extent for formats without a field for the length."""
    return Extent(0, None)


def _sized(start: int, size: int) -> Extent:
    return Extent(start, size, start + size)


def _at(file: BinaryIO, position: int, layout: str) -> tuple:
    file.seek(position)
    return struct.unpack(layout, file.read(struct.calcsize(layout)))


_WAV = _Chunks("<4sI")
_PARSERS = {
    b"RIFF": _WAV,
    b"RF64": _WAV,
    b"RIFX": _Chunks(">4sI"),
    b"riff": _Chunks("<16sQ", first=40, counted=24, pad=8),  # Wave64
    b"FORM": _form,
    b"caff": _Chunks(">4sq", first=8, inside=4, pad=1),
    b".snd": _au,
    b"dns.": _au,
    b"NIST_1A": _nist,
    b"Creative Voice File": _voc,
    b"2BIT": _avr,
    bytes(4): _mat4,
    b"\0\0\x03\xe8": _mat4,
    b"MATLAB 5.0": _mat5,
    b"ALawSoundFile": _wve,
    b"Extended Instrument": _xi,
    b"\x01\x04": _mpc2k,
    b"\xf0\x7e": _sds,
    b"PVF1": _unsized,
    b" paf": _unsized,
    b"fap ": _unsized,
    b"\x64\xa3": _unsized,  # IRCAM, in its two orders of bytes
    b"\0\0\xa3\x64": _unsized,
}
"""Beginning of a file -> parser of what it promises."""

BEGINNINGS = tuple(_PARSERS)

_UNFINISHED = "its header was never finished and announces no samples: all that follow it were read"
_UNSIZED = "its header does not say how long it is, so an end that is missing cannot be noticed"

NO_FRAMES = (
    "no frames of MPEG audio that follow each other",
    "audio in a format that can be read",
    "Convert it first, for example with `ffmpeg -i FILE converted.wav`.",
)
"""The fault of what may be a format that only FFmpeg knows, such as AAC after a tag."""

SURPLUS_BYTES, NEGLIGIBLE_BYTES = 1 << 16, 64
"""Bytes after the samples above which a file is refused, and up to which nothing is said: seconds, and no sound."""


def survey(file: BinaryIO, size: int) -> list[Part]:
    """The parts, at least one, of the open `file` of `size` bytes."""
    tag = links.after_tags(file, size)
    file.seek(tag)
    magic = file.read(4)
    if magic == b"OggS":
        return links.ogg_parts(file, size) or [Part([(0, size)])]
    described = cast(BinaryIO, View(file, [(tag, size)]))  # as all files of io, which are declared so
    extent = examine(described, size - tag)
    # After a tag, libsndfile takes what it does not know for MPEG audio.
    if links.begins_mpeg(magic) or (extent.is_mpeg if extent else tag and magic != b"fLaC"):
        return links.mp3_parts(file, size) or [Part([(0, size)], fault=NO_FRAMES)]
    whole = Part([(tag, size)])
    if extent is not None:
        _describe(whole, extent, described, tag, size)
    return [whole]


def _describe(part: Part, extent: Extent, file: BinaryIO, tag: int, size: int) -> None:
    """Add to `part` what its header tells; `tag` bytes of something else precede it."""
    surplus = extent.surplus(file, size - tag)
    if extent.pieces > 1:
        part.fault = f"{extent.pieces} stretches of samples", "one recording", "Take them apart."
    elif surplus > SURPLUS_BYTES:
        found = f"{surplus} bytes behind the samples that the header does not announce"
        remedy = "If they are sound, `ffmpeg -ignore_length 1 -i FILE repaired.wav` saves them all from a WAV file."
        part.fault = found, "the end of the file, or tags", remedy
    elif extent.damage:
        part.fault = extent.damage, "packets that follow each other", "The file is damaged: copy it again."
    elif extent.size is not None and extent.missing(size - tag):
        part.cut = size - tag - extent.start, extent.size
    elif extent.patch:
        position, field = extent.patch
        part.segments = [(tag, tag + position), field, (tag + position + len(field), size)]
    if surplus > NEGLIGIBLE_BYTES:
        part.note = f"{surplus} bytes behind its samples, which its header does not announce, were left out"
    elif extent.unfinished:
        part.note = _UNFINISHED
    elif extent.size is None and extent.end is None:
        part.note = _UNSIZED
