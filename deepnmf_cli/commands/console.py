"""What the terminal shows: the outcome of a batch with its exit code, the progress bar, and small tables.

A standard stream may be closed, full or gone. A message that nobody can read is left out, and a lost result is an
error: a program whose messages are lost ends as it would have ended, and one whose results are lost does not end with
success.
"""

import errno
import io
import json
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TextIO

import click

from deepnmf_cli.errors import EXIT_DONE, EXIT_FAILED, EXIT_SOME_FAILED, DeepnmfError, UsageError

if TYPE_CHECKING:
    from tqdm import tqdm


class Outcome:
    """What became of every file of a batch. Errors and warnings are shown at once, counts at the end.

    `rows` holds one JSON-serialisable dict per file, in the order of their completion; its "error" is None or a
    sentence. Everything but the JSON document goes to standard error, so standard output stays free for data.
    """

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def done(self, row: dict[str, Any], warnings: Sequence[str] = ()) -> None:
        self.rows.append({**row, "error": None})
        for warning in warnings:
            say(f"Warning: {warning}")

    def failed(self, row: dict[str, Any], error: DeepnmfError) -> None:
        self.rows.append({**row, "error": str(error)})
        say(f"Error: {error}")

    @property
    def failures(self) -> int:
        return sum(row["error"] is not None for row in self.rows)

    @property
    def exit_code(self) -> int:
        """0 when every file was done, 1 when none was, 3 when only some were."""
        if self.failures == 0:
            return EXIT_DONE
        return EXIT_FAILED if self.failures == len(self.rows) else EXIT_SOME_FAILED

    def summary(self, verb: str) -> str:
        """For example "Enhanced 3 files. 1 of 4 files failed."; empty when the only file failed."""
        total, failures = len(self.rows), self.failures
        sentences = [f"{verb} {count(total - failures, 'file')}."] if failures < total else []
        if failures and total > 1:
            sentences.append(f"{failures} of {count(total, 'file')} failed.")
        return " ".join(sentences)


def refuse_input(remedy: str) -> None:
    """Raise UsageError where audio from standard input would have to be typed, or cannot come."""
    _refuse("standard input", sys.stdin, "audio from a pipe or a file", remedy)


def refuse_output(remedy: str) -> None:
    """Raise UsageError where what goes to standard output would be lost, or audio be printed on a screen."""
    _refuse("standard output", sys.stdout, "a pipe or a file", remedy)


def _refuse(name: str, stream: TextIO | None, expected: str, remedy: str) -> None:
    if stream is None or isinstance(stream, Closed):  # as it was when the program started
        raise UsageError(name, "a closed stream", expected, remedy)
    if stream.isatty():
        raise UsageError(name, "a terminal", expected, remedy)


def say(text: str) -> None:
    """Print a line on standard error, above a progress bar if one is shown."""
    from tqdm import tqdm

    tqdm.write(text, file=sys.stderr)


def announce(text: str) -> None:
    """Print a line on standard output that says where the result is: unlike a result, it may be lost."""
    with suppress(OSError):
        click.echo(text)


def echo_json(document: Any) -> None:
    """Print one JSON document on standard output."""
    click.echo(json.dumps(document, indent=2))


def progress(hidden: bool) -> "tqdm":
    """A bar on standard error that counts seconds of audio; never shown where standard error is no terminal.

    Give it the total with `reset(total=...)`, which is worth finding out only when it is not `disable`d.
    """
    from tqdm import tqdm

    class AudioBar(tqdm):
        """tqdm that shows its count and total as times; the total may be unknown, or turn out too small."""

        @property
        def format_dict(self) -> dict[str, Any]:
            known = super().format_dict
            total = tqdm.format_interval(known["total"]) if known["total"] else "?"
            return {**known, "done": tqdm.format_interval(known["n"]), "whole": total}

    layout = "{desc}{percentage:3.0f} %|{bar}| {done}/{whole} of audio [{elapsed}<{remaining}]"
    hidden = hidden or not sys.stderr.isatty()
    return AudioBar(bar_format=layout, file=sys.stderr, disable=hidden, leave=False, dynamic_ncols=True)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as their widest cell; those that hold numbers (or "-") only are aligned to the right."""
    columns = list(zip(header, *rows, strict=True))
    widths = [max(map(len, column)) for column in columns]
    aligned = [str.rjust if rows and all(map(_is_number, column[1:])) else str.ljust for column in columns]

    def line(cells: Sequence[str]) -> str:
        return "  ".join(align(cell, width) for align, cell, width in zip(aligned, cells, widths, strict=True)).rstrip()

    return "\n".join(map(line, [header, ["-" * width for width in widths], *rows]))


def count(number: int, noun: str) -> str:
    """Return a count in words: 1 file, 2 files."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _is_number(cell: str) -> bool:
    return cell == "-" or cell.lstrip("+-")[:1].isdigit()


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
    """Return whether a stream is a file for the operating system, or closed; a console of Windows is another thing."""
    buffer = getattr(stream, "buffer", None)
    return stream is None or isinstance(getattr(buffer, "raw", buffer), io.FileIO)


def _text(raw: io.FileIO, before: TextIO | None) -> TextIO:
    encoding, errors = (before.encoding, before.errors) if before else ("utf-8", "backslashreplace")
    lines = before is None or before.line_buffering
    return io.TextIOWrapper(io.BufferedWriter(raw), encoding, errors, line_buffering=lines)
