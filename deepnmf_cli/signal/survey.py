"""What a file holds, whatever its suffix and its header say: the parts to decode, and what is wrong with them."""

from typing import BinaryIO

from deepnmf_cli.signal import headers, links
from deepnmf_cli.signal.part import Part
from deepnmf_cli.signal.view import View

_UNFINISHED = "its header was never finished and announces no samples: all that follow it were read"
_UNSIZED = "its header does not say how long it is, so an end that is missing cannot be noticed"

_NO_FRAMES = (
    "no frames of MPEG audio that follow each other",
    "audio in a format that can be read",
    "Convert it first, for example with `ffmpeg -i FILE converted.wav`.",
)

_SURPLUS_BYTES, _NEGLIGIBLE_BYTES = 1 << 16, 64
"""Bytes behind the samples beyond which a file is refused, and up to which nothing is said: seconds, and no sound."""


def survey(file: BinaryIO, size: int) -> list[Part]:
    """The parts, at least one, of the open `file` of `size` bytes."""
    tag = links.after_tags(file, size)
    file.seek(tag)
    magic = file.read(4)
    if magic == b"OggS":
        return links.ogg_parts(file, size) or [Part([(0, size)])]
    extent = headers.examine(View(file, [(tag, size)]), size - tag)
    # libsndfile takes for MPEG audio what it does not know behind a tag.
    if links.begins_mpeg(magic) or (extent.is_mpeg if extent else tag and magic != b"fLaC"):
        return links.mp3_parts(file, size) or [Part([(0, size)], fault=_NO_FRAMES)]
    whole = Part([(tag, size)])
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
    elif extent.damage:
        part.fault = extent.damage, "packets that follow each other", "The file is damaged: copy it again."
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
