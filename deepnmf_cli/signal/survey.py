"""What a file holds, whatever its suffix and its header say: the parts to decode, and what is wrong with them."""

from typing import BinaryIO

from deepnmf_cli.signal import headers, links
from deepnmf_cli.signal.part import Part
from deepnmf_cli.signal.view import View

_UNFINISHED = "its header was never finished and announces no samples: all that follow it were read"
_UNSIZED = "its header does not say how long it is, so an end that is missing cannot be noticed"

_SURPLUS_BYTES, _NEGLIGIBLE_BYTES = 1 << 16, 64
"""Bytes behind the samples beyond which a file is refused, and up to which nothing is said: seconds, and no sound."""


def survey(file: BinaryIO, size: int) -> list[Part]:
    """The parts, at least one, of the open `file` of `size` bytes."""
    whole = Part([(0, size)])
    file.seek(0)
    magic = file.read(4)
    if magic == b"OggS":
        return links.ogg_parts(file, size) or [whole]
    if magic[:1] == b"\xff" or (magic[:3] == b"ID3" and links.is_mp3(file, size)):
        return links.mp3_parts(file, size) or [whole]
    tag = links.after_tag(file, size) if magic[:3] == b"ID3" else 0
    extent = headers.examine(View(file, [(tag, size)]), size - tag)
    if extent is not None:
        _describe(whole, extent, View(file, [(tag, size)]), tag, size)
    return [whole]


def _describe(part: Part, extent: headers.Extent, file: View, tag: int, size: int) -> None:
    """Add to `part` what its header tells; `tag` bytes of something else stand before it."""
    surplus = extent.surplus(file, size - tag)
    if extent.pieces > 1:
        part.fault = f"{extent.pieces} stretches of samples", "one recording", "Take them apart."
    elif surplus > _SURPLUS_BYTES:
        found = f"{surplus} bytes behind the samples that the header does not announce"
        remedy = "If they are sound, `ffmpeg -ignore_length 1 -i FILE repaired.wav` saves them all from a WAV file."
        part.fault = found, "the end of the file, or tags", remedy
    elif extent.missing(size - tag):
        part.cut = size - tag - extent.start, extent.size
    elif extent.patch:
        position, field = extent.patch
        part.segments = [(tag, tag + position), field, (tag + position + len(field), size)]
    if surplus > _NEGLIGIBLE_BYTES:
        part.note = f"{surplus} bytes behind its samples, which its header does not announce, were left out"
    elif extent.unfinished:
        part.note = _UNFINISHED
    elif extent.size is None and extent.end is None:
        part.note = _UNSIZED
