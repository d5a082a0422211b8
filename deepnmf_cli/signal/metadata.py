"""Metadata of a file's sound: tags such as a title, and the loudspeaker that each channel is for."""

import math
from contextlib import suppress
from dataclasses import dataclass, field

import soundfile

_SOFTWARE = "software"
"""The tag that names the program which wrote a file; every program writes its own."""

TAG_BYTES = {"AIFF": 8_000, "OPUS": 50_000, "FLAC": 16_000_000}
"""Container or subtype -> bytes that all tags may have together; with more, libsndfile writes no file."""

# soundfile has no function for loudspeakers; these are the numbers of libsndfile's commands, fixed in its interface.
_GET_CHANNEL_MAP, _SET_CHANNEL_MAP = 0x1100, 0x1101


@dataclass(frozen=True)
class Metadata:
    """`tags` by libsndfile's names; `speakers`, one of libsndfile's numbers per channel, or empty where not known."""

    tags: dict[str, str] = field(default_factory=dict)
    speakers: tuple[int, ...] = ()


def read(file: soundfile.SoundFile) -> Metadata:
    """Return the metadata of an open file."""
    tags = {name: text for name, text in file.copy_metadata().items() if text and name != _SOFTWARE}
    return Metadata(tags, _channel_map(file, _GET_CHANNEL_MAP, [0] * file.channels))


def write(file: soundfile.SoundFile, metadata: Metadata) -> None:
    """Write metadata into a file, before its samples, as far as its format can hold it; the rest is left out."""
    room = TAG_BYTES.get(file.subtype) or TAG_BYTES.get(file.format, math.inf)
    for name, text in metadata.tags.items():
        size = len(text.encode(errors="surrogateescape"))
        # LAME takes the bytes of UTF-8 for Latin-1, and garbled is worse than missing.
        if size <= room and (file.format != "MP3" or text.isascii()):
            room -= size
            with suppress(soundfile.SoundFileError):
                setattr(file, name, text)
    if metadata.speakers:
        _channel_map(file, _SET_CHANNEL_MAP, metadata.speakers)


def _channel_map(file: soundfile.SoundFile, command: int, values: list[int] | tuple[int, ...]) -> tuple[int, ...]:
    """Get or set the map; empty where the format, the file or this version of soundfile has none."""
    library, cffi = getattr(soundfile, "_snd", None), getattr(soundfile, "_ffi", None)
    if library is None or cffi is None:
        return ()
    numbers = cffi.new("int[]", list(values))
    known = library.sf_command(file._file, command, numbers, cffi.sizeof(numbers))
    return tuple(numbers) if known else ()
