"""Standard streams that are closed, full or gone: a message that nobody can read is left out, a lost result is an error.

So a program whose messages are lost ends as it would have ended, and one whose results are lost does not end with
success.
"""

import errno
import io
import os
import sys
from typing import TextIO

OUTPUT = "standard output"


class Closed(io.TextIOBase):
    """Standard output that was closed before the program started: raises OSError when something is written."""

    encoding = "utf-8"

    def write(self, text: str) -> int:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF), OUTPUT)


class _Messages(io.FileIO):
    """Standard error: what it does not take is left out."""

    def write(self, data: bytes) -> int:
        try:
            return super().write(data) or len(data)
        except OSError:
            return len(data)


class _Results(io.FileIO):
    """Standard output: the first loss is an OSError that names it, later ones are silent, such as those at the exit."""

    _lost = False

    def write(self, data: bytes) -> int | None:
        if self._lost:
            return len(data)
        try:
            return super().write(data)
        except OSError as error:
            self._lost, error.filename = True, OUTPUT
            raise


def guard() -> None:
    """Put streams that behave so in the place of `sys.stdout` and `sys.stderr`, unless somebody has replaced them."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:  # closed: the next file to be opened would get this number, and what is meant for the stream
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    if sys.stderr is sys.__stderr__ and _is_plain(sys.stderr):
        sys.stderr = _text(_Messages(2, "w", closefd=False), sys.stderr)
    if sys.stdout is None:
        sys.stdout = Closed()
    elif sys.stdout is sys.__stdout__ and _is_plain(sys.stdout):
        # Results get a descriptor of their own: decoders in C print on the usual one, which becomes that of messages.
        sys.stdout = _text(_Results(os.dup(1), "w"), sys.stdout)
        os.dup2(2, 1)


def _is_plain(stream: TextIO | None) -> bool:
    """Whether a stream is a file for the operating system, or closed; a console of Windows is another thing."""
    buffer = getattr(stream, "buffer", None)
    return stream is None or isinstance(getattr(buffer, "raw", buffer), io.FileIO)


def _text(raw: io.FileIO, before: TextIO | None) -> TextIO:
    encoding, errors = (before.encoding, before.errors) if before else ("utf-8", "backslashreplace")
    lines = before is None or before.line_buffering
    return io.TextIOWrapper(io.BufferedWriter(raw), encoding, errors, line_buffering=lines)
