"""Tensors that an ONNX file keeps in another file (external data), found in its bytes before anything opens it.

ONNX Runtime would open whatever path a file names. This module reads the wire format of protocol buffers, fields of
(number, type, value), and follows those that hold messages with tensors, wherever they are nested.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

FLOAT = 1
"""ONNX's number for float32."""

_TENSORS = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
}
"""Kind of ONNX message -> its fields in which there are tensors: number -> kind of message that the field holds."""

_DIMS, _TYPE, _NAME, _EXTERNAL, _LOCATION = 1, 2, 8, 13, 14
"""Numbers of the fields of a tensor."""

_KEY = b"location"
"""Key that names the file. Without it no tensor is in another file, and searching for it is quicker than following all
messages."""

_VARINT, _EIGHT, _BYTES, _FOUR = 0, 1, 2, 5
"""Wire types of fields."""


class ExternalTensor(NamedTuple):
    """Where the numbers of a tensor are stored."""

    name: str
    shape: tuple[int, ...]
    location: str
    """The other file, as the ONNX file names it."""
    offset: int
    """Bytes before the first number."""
    weight: bool
    """Whether it is a float32 initialiser of the graph itself, as `deepnmf export` writes them."""

    @property
    def size(self) -> int:
        """Size of all numbers in bytes, as float32."""
        return 4 * math.prod(self.shape)


def external_tensors(content: bytes) -> list[ExternalTensor]:
    """Return an ONNX file's tensors that are not stored in it. Raises ValueError for bytes that are no such file."""
    found, waiting = [], [("model", 0, len(content), 0)]
    while waiting:
        kind, begin, end, depth = waiting.pop()
        if content.find(_KEY, begin, end) < 0:
            continue
        if kind == "tensor":
            found += _external(content, begin, end, depth == 2)
            continue
        below = _TENSORS[kind]
        for number, value, start, stop in _fields(content, begin, end):
            if value is None and number in below:
                waiting.append((below[number], start, stop, depth + 1))
    return found


def _external(content: bytes, begin: int, end: int, of_graph: bool) -> list[ExternalTensor]:
    """Return the tensor in these bytes, if its numbers are stored elsewhere."""
    shape, entries, name, kind, elsewhere = [], {}, "", 0, False
    for number, value, start, stop in _fields(content, begin, end):
        if number == _DIMS:
            shape += [value] if value is not None else _varints(content, start, stop)
        elif number == _TYPE:
            kind = value
        elif number == _NAME:
            name = content[start:stop].decode()
        elif number == _EXTERNAL:
            key, text = (content[i:j].decode() for _, _, i, j in _fields(content, start, stop))
            entries[key], elsewhere = text, True
        elif number == _LOCATION:
            elsewhere = elsewhere or bool(value)
    if not elsewhere:
        return []
    offset, weight = int(entries.get("offset", "0")), of_graph and kind == FLOAT
    tensor = ExternalTensor(name, tuple(shape), entries.get("location", ""), offset, weight)
    if "length" in entries and int(entries["length"]) != tensor.size:
        raise ValueError(f"{tensor.size} bytes in {entries['length']}")
    return [tensor]


def _fields(content: bytes, at: int, end: int) -> Iterator[tuple[int, int | None, int, int]]:
    """Yield (number, value, begin, end) of the fields of a message; for bytes the value is None."""
    while at < end:
        key, at = _varint(content, at, end)
        number, kind, value, start = key >> 3, key & 7, None, at
        if kind == _VARINT:
            value, at = _varint(content, at, end)
        elif kind == _BYTES:
            size, start = _varint(content, at, end)
            at = start + size
        elif kind in (_EIGHT, _FOUR):
            value, at = 0, at + (8 if kind == _EIGHT else 4)  # numbers that nothing here needs
        else:
            raise ValueError("no protocol buffer")
        if at > end:
            raise ValueError("a field beyond the end of its message")
        yield number, value, start, at


def _varints(content: bytes, at: int, end: int) -> list[int]:
    found = []
    while at < end:
        value, at = _varint(content, at, end)
        found.append(value)
    return found


def _varint(content: bytes, at: int, end: int) -> tuple[int, int]:
    """Return a number that is stored with seven bits per byte, and where it ends."""
    if at < end and content[at] < 0x80:  # as most are
        return content[at], at + 1
    value = 0
    for shift in range(0, 70, 7):
        if at >= end:
            break
        byte = content[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError("a number without an end")
