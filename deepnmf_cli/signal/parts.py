"""Parts of a file, each of which makes one recording, and views that let a part be decoded as a file of its own."""

import io
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import BinaryIO

Segment = bytes | tuple[int, int]
"""Literal bytes, or (start, stop) of the underlying file."""


class View(io.RawIOBase):
    """`segments` of the open `file` as a read-only file, which takes no more memory than they do."""

    def __init__(self, file: BinaryIO, segments: Sequence[Segment]) -> None:
        super().__init__()
        self._file, self._segments, self._position = file, list(segments), 0
        sizes = [len(s) if isinstance(s, bytes) else s[1] - s[0] for s in self._segments]
        self._starts = list(accumulate(sizes, initial=0))

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._starts[-1]}[whence]
        self._position = max(0, base + offset)
        return self._position

    def readinto(self, buffer: memoryview, /) -> int:
        """Fill `buffer` as far as the view reaches: libsndfile takes fewer bytes for its end."""
        filled = 0
        while filled < len(buffer) and self._position < self._starts[-1]:
            number = bisect_right(self._starts, self._position) - 1
            segment, offset = self._segments[number], self._position - self._starts[number]
            wanted = min(len(buffer) - filled, self._starts[number + 1] - self._position)
            if isinstance(segment, bytes):
                data = segment[offset : offset + wanted]
            else:
                self._file.seek(segment[0] + offset)
                data = self._file.read(wanted)
            if not data:  # the underlying file has become shorter
                break
            buffer[filled : filled + len(data)] = data
            filled, self._position = filled + len(data), self._position + len(data)
        return filled


INCOMPLETE = "The file is incomplete: copy it again, or save what is there with `ffmpeg -i FILE repaired.wav`."


@dataclass
class Part:
    """Stretches of the file that make one recording, including the headers at its beginning."""

    segments: Sequence[Segment]
    fault: tuple[str, str, str] | None = None
    """What makes it unusable: what was found, what was expected, and the remedy."""
    cut: tuple[int, int] | None = None
    """Bytes, or packets, of samples that are there and that the header promises, if these are more."""
    note: str = ""
    """Note for the user: the end of a sentence that begins with the name of the file."""
    frames: int | None = None
    """Number of frames, if the decoder only estimates it."""
    skipped: int = 0
    """Number of frames at the beginning that are not part of the recording."""
    walked: bool = False
    """Whether its frames or pages were read to the end: only then is the length of MPEG audio and Ogg known."""
