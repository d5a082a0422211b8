"""Stretches of a file, and bytes between them, that read as one file: how a part of a recording is decoded alone."""

import io
from collections.abc import Sequence
from typing import BinaryIO

Segment = bytes | tuple[int, int]
"""Bytes of their own, or (start, stop) of the file below."""


class View(io.RawIOBase):
    """`segments` of the open `file` as a read-only file, which takes no more memory than they do."""

    def __init__(self, file: BinaryIO, segments: Sequence[Segment]) -> None:
        super().__init__()
        self._file, self._segments, self._position = file, list(segments), 0
        self._sizes = [len(s) if isinstance(s, bytes) else s[1] - s[0] for s in self._segments]

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: sum(self._sizes)}[whence]
        self._position = max(0, base + offset)
        return self._position

    def readinto(self, buffer: memoryview, /) -> int:
        """Fill `buffer` as far as the view reaches: libsndfile takes less for its end."""
        filled, offset = 0, self._position
        for segment, size in zip(self._segments, self._sizes, strict=True):
            if 0 <= offset < size and filled < len(buffer):
                wanted = min(len(buffer) - filled, size - offset)
                if isinstance(segment, bytes):
                    data = segment[offset : offset + wanted]
                else:
                    self._file.seek(segment[0] + offset)
                    data = self._file.read(wanted)
                buffer[filled : filled + len(data)] = data
                filled, offset = filled + len(data), offset + len(data)
            offset -= size
        self._position += filled
        return filled
