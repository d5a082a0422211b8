"""Where the parts and the numbers of an audio file lie, and what can be done to them."""

import re
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random

INTERESTING = (0, 1, 2, 3, 8, 64, 65, 255, 999, 1000, 44_100, 65_535, 768_000, 768_001, 999_999_999)
"""Values for a field of a header: limits of channels, rates and widths, and what lies beside them."""

_FIELDS = 96
"""Bytes at the start of a header part in which numbers are looked for."""


@dataclass(frozen=True)
class Number:
    """An unsigned integer in a header."""

    offset: int
    width: int
    order: str

    def read(self, data: bytes) -> int:
        return int.from_bytes(data[self.offset : self.offset + self.width], self.order)

    def write(self, data: bytearray, value: int) -> None:
        value %= 1 << (8 * self.width)
        data[self.offset : self.offset + self.width] = value.to_bytes(self.width, self.order)


@dataclass(frozen=True)
class Outline:
    """`cuts`: where parts (chunks, pages, frames) begin; `numbers`: fields that a reader believes."""

    cuts: list[int]
    numbers: list[Number]


def outline(data: bytes) -> Outline:
    """The structure of a file, as far as it is recognised by its first bytes."""
    head = data[:4]
    if head in (b"RIFF", b"RF64", b"RIFX"):
        return _chunked(data, 12, 4, Number(4, 4, "big" if head == b"RIFX" else "little"), 2)
    if head == b"FORM":
        return _chunked(data, 12, 4, Number(4, 4, "big"), 2)
    if head == b"riff":
        return _chunked(data, 40, 16, Number(16, 8, "little"), 8, counted=24)
    if head == b"caff":
        return _chunked(data, 8, 4, Number(4, 8, "big"), 1)
    if head == b"fLaC":
        return _flac(data)
    if head == b"OggS":
        return _ogg(data)
    if head[:3] == b"ID3" or head[:1] == b"\xff":
        return _mp3(data)
    order = "big" if head == b".snd" else "little"
    return Outline([0, min(24, len(data))], _fields(0, len(data), order) + _fields(0, len(data), "big"))


def seal(data: bytes) -> bytes:
    """The file with the checksums of its Ogg pages put right; readers look no further where they are wrong."""
    sealed = bytearray(data)
    for start, end in _pages(data):
        sealed[start + 22 : start + 26] = b"\0\0\0\0"
        mirrored = bytes(sealed[start:end]).translate(_MIRROR)
        crc = zlib.crc32(mirrored, 0xFFFFFFFF) ^ 0xFFFFFFFF
        sealed[start + 22 : start + 26] = crc.to_bytes(4, "big").translate(_MIRROR)
    return bytes(sealed)


_MIRROR = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def _fields(start: int, size: int, order: str) -> list[Number]:
    end = start + min(size, _FIELDS)
    return [
        Number(at, width, order) for width in (1, 2, 4, 8) for at in range(start, end - width + 1, max(1, width // 2))
    ]


def _chunked(data: bytes, start: int, name: int, size: Number, align: int, counted: int = 0) -> Outline:
    """Chunks of `name` bytes, a size, and a body; `counted` bytes of the header are a part of the size."""
    cuts, numbers, at = [0], [size], start
    while at + name + size.width <= len(data):
        field = Number(at + name, size.width, size.order)
        body = at + name + size.width
        cuts.append(at)
        numbers.append(field)
        length = field.read(data) - counted
        if not 0 <= length <= len(data) - body:
            length = len(data) - body
        if data[at : at + 4] not in (b"data", b"SSND"):
            numbers += _fields(body, length, size.order)
        at = body + length + -length % align
    return Outline(cuts, numbers)


def _flac(data: bytes) -> Outline:
    cuts, numbers, at, last = [0], [], 4, False
    while not last and at + 4 <= len(data):
        last = data[at] >= 128
        length = Number(at + 1, 3, "big")
        cuts.append(at)
        numbers += [Number(at, 1, "big"), length, *_fields(at + 4, min(length.read(data), 34), "big")]
        at += 4 + length.read(data)
    cuts += [at + match.start() for match in re.finditer(rb"\xff[\xf8\xf9]", data[at:])]
    return Outline(cuts, numbers)


def _pages(data: bytes) -> Iterator[tuple[int, int]]:
    for match in re.finditer(rb"OggS\0", data):
        start = match.start()
        if start + 27 <= len(data):
            segments = data[start + 27 : start + 27 + data[start + 26]]
            yield start, min(len(data), start + 27 + len(segments) + sum(segments))


def _ogg(data: bytes) -> Outline:
    cuts, numbers = [0], []
    for index, (start, _) in enumerate(_pages(data)):
        cuts.append(start)
        numbers += [Number(start + at, width, "little") for at, width in ((5, 1), (6, 8), (14, 4), (18, 4), (26, 1))]
        if index < 2:
            numbers += _fields(start + 28, len(data) - start - 28, "little")
    return Outline(sorted(set(cuts)), numbers)


def _mp3(data: bytes) -> Outline:
    cuts, numbers, tag = [0], [], 0
    if data[:3] == b"ID3":
        numbers += [Number(6, 4, "big"), Number(3, 2, "big")]
        tag = 10 + int.from_bytes(bytes(data[6:10]), "big")
    for match in re.finditer(rb"\xff[\xe2-\xff]", data[tag : 1 << 17]):
        start = tag + match.start()
        cuts.append(start)
        numbers.append(Number(start, 4, "big"))
    for name in (b"Xing", b"Info", b"VBRI"):
        if (at := data.find(name)) >= 0:
            numbers += _fields(at + 4, len(data) - at - 4, "big") * 4
    return Outline(sorted(set(cuts)), numbers)


Mutation = Callable[[bytes, Random], bytes]


def set_number(data: bytes, random: Random) -> bytes:
    numbers = outline(data).numbers
    if not numbers:
        return data
    number, changed = random.choice(numbers), bytearray(data)
    if number.offset + number.width > len(data):
        return data
    most, value = (1 << (8 * number.width)) - 1, number.read(data)
    near = [value + 1, value - 1, value * 2, value // 2, value + 1000]
    number.write(changed, random.choice([*INTERESTING, *near * 2, most, most - 1, most // 2, random.randint(0, most)]))
    return bytes(changed)


def part(data: bytes, random: Random) -> tuple[int, int]:
    cuts = [*outline(data).cuts, len(data)]
    index = random.randrange(len(cuts) - 1)
    return cuts[index], cuts[min(len(cuts) - 1, index + random.choice([1, 1, 1, 3, 20]))]


def drop_part(data: bytes, random: Random) -> bytes:
    start, end = part(data, random)
    return data[:start] + data[end:]


def repeat_part(data: bytes, random: Random) -> bytes:
    start, end = part(data, random)
    return data[:end] + data[start:end] * random.choice([1, 1, 2, 50 if end - start < 5000 else 1]) + data[end:]


def move_part(data: bytes, random: Random) -> bytes:
    start, end = part(data, random)
    moved, rest = data[start:end], data[:start] + data[end:]
    to = random.choice([cut for cut in [*outline(data).cuts, len(rest)] if cut <= len(rest)])
    return rest[:to] + moved + rest[to:]


def insert_chunk(data: bytes, random: Random) -> bytes:
    """A chunk of another kind, whose size may be a lie."""
    name = random.choice([b"JUNK", b"LIST", b"fact", b"bext", b"data", b"fmt ", b"ds64", b"COMM", b"SSND", b"id3 "])
    body = random.choice([b"", b"\0", b"\0" * 28, b"x" * 1001, b"data : 99999 (should be 1)\n"])
    size = random.choice([len(body), len(body), 0, 1, 0x7FFFFFFF, 0xFFFFFFF0, 0xFFFFFFFF])
    at = random.choice(outline(data).cuts)
    width, order = (8, "big") if data[:4] == b"caff" else (4, "big" if data[:4] == b"FORM" else "little")
    return data[:at] + name + size.to_bytes(width, order) + body + b"\0" * (len(body) % 2) + data[at:]


def flip_bits(data: bytes, random: Random) -> bytes:
    changed = bytearray(data)
    for _ in range(random.choice([1, 1, 4, 30])):
        changed[random.randrange(len(data))] ^= 1 << random.randrange(8)
    return bytes(changed)


def overwrite(data: bytes, random: Random) -> bytes:
    start, size = random.randrange(len(data)), random.choice([1, 4, 16, 300, 5000])
    fill = random.choice([b"\0", b"\xff", b"\x80", b"OggS", b"RIFF"])
    return data[:start] + (fill * size)[: min(size, len(data) - start)] + data[start + size :]


def truncate(data: bytes, random: Random) -> bytes:
    cuts = outline(data).cuts
    return data[
        : random.choice([random.randrange(len(data)), random.choice(cuts), random.choice(cuts) + 3, len(data) - 1])
    ]


def shorten(data: bytes, random: Random) -> bytes:
    """Cut off between a tenth and a half, as a broken download does."""
    return data[: int(len(data) * random.uniform(0.5, 0.9))]


def join(data: bytes, random: Random) -> bytes:
    return data + data


def append(data: bytes, random: Random) -> bytes:
    size = random.choice([1, 2, 128, 4096, 70_000])
    return data + random.choice(
        [b"\0" * size, b"\xff" * size, random.randbytes(size), b"TAG" + b" " * 125, data[:size]]
    )


def prepend(data: bytes, random: Random) -> bytes:
    size = random.choice([1, 4, 100, 4096])
    return (
        random.choice([b"\0" * size, random.randbytes(size), b"ID3\4\0\0\0\0\0\x7f", b"ID3\4\0\0\x7f\x7f\x7f\x7f"])
        + data
    )


MUTATIONS: dict[Mutation, int] = {
    set_number: 8, drop_part: 2, repeat_part: 2, move_part: 2, insert_chunk: 2, flip_bits: 3, overwrite: 2, truncate: 2,
    shorten: 1, join: 1, append: 1, prepend: 1,
}  # fmt: skip
"""Mutation -> how often it is drawn beside the others."""


def mutate(data: bytes, random: Random) -> tuple[bytes, list[str]]:
    """The file after up to four mutations, and their names; one in twelve files stays whole."""
    names = []
    for _ in range(random.choice([0, 1, 1, 1, 1, 1, 1, 2, 2, 2, 3, 4])):
        mutation = random.choices(list(MUTATIONS), MUTATIONS.values())[0]
        data = mutation(data, random) or b"\0"
        names.append(mutation.__name__)
    return (seal(data) if random.random() < 0.8 else data), names
