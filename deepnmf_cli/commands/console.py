"""Output on the terminal: the outcome of a batch with its exit code, the progress bar, and small tables.

A standard stream may be closed, full or gone. A message that cannot be shown is dropped, while a lost result is an
error: a program that loses messages ends as it would have ended otherwise, and one that loses results does not end
with success.
"""

import errno
import io
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Self, TextIO

import click

from deepnmf_cli.errors import (
    EXIT_DONE,
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    EXIT_SOME_FAILED,
    EXIT_TERMINATED,
    DeepnmfError,
    Terminated,
    UsageError,
    count,
)

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer
    from tqdm import tqdm


class Outcome:
    """The outcome of every file in a batch. Errors and warnings are shown at once, counts at the end.

    `rows` holds one JSON-serialisable dict per file, in the order of completion; its "status" is "done", "skipped",
    "planned" or "failed", and its "error" is None or a sentence. Each is passed to `tell` as soon as it is known.
    Everything else goes to standard error, so standard output stays free for data.
    """

    def __init__(self, tell: Callable[[dict[str, Any]], object] = lambda row: None) -> None:
        self.rows: list[dict[str, Any]] = []
        self._tell = tell

    def done(self, row: dict[str, Any], warnings: Sequence[str] = ()) -> None:
        for sentence in warnings:
            warn(sentence)
        self._add({**row, "status": "done", "error": None})

    def planned(self, row: dict[str, Any]) -> None:
        self._add({**row, "status": "planned", "error": None})

    def skipped(self, row: dict[str, Any], warning: str = "") -> None:
        if warning:
            warn(warning)
        self._add({**row, "status": "skipped", "error": None})

    def failed(self, row: dict[str, Any], error: DeepnmfError) -> None:
        fail(str(error))
        self._add({**row, "status": "failed", "error": str(error)})

    def _add(self, row: dict[str, Any]) -> None:
        self.rows.append(row)
        self._tell(row)

    def count(self, status: str) -> int:
        return sum(row["status"] == status for row in self.rows)

    @property
    def exit_code(self) -> int:
        """Return 0 if no file failed, 1 if all did, 3 if only some did."""
        failures = self.count("failed")
        if failures == 0:
            return EXIT_DONE
        return EXIT_FAILED if failures == len(self.rows) else EXIT_SOME_FAILED

    def summary(self, verb: str, whole: int = 0) -> str:
        """Return for example "Enhanced 3 files. 2 files skipped. 1 of 6 files failed."; empty if the only file failed.
        `whole` counts those files that are done in which there was nothing to do.
        """
        total, done, skipped = len(self.rows), self.count("done") - whole, self.count("skipped")
        sentences = [f"{verb} {count(done, 'file')}."] if done or not total else []
        if whole:
            sentences.append(f"Nothing was found in {count(whole, 'file')}.")
        if skipped:
            sentences.append(f"{count(skipped, 'file')} skipped.")
        if (failures := self.count("failed")) and total > 1:
            sentences.append(f"{failures} of {count(total, 'file')} failed.")
        return " ".join(sentences)

    def summary_row(self, seconds: float, elapsed_s: float, stopped: BaseException | None) -> dict[str, Any]:
        """Return the last line of JSON Lines: counts, seconds of audio and of work, and why a run ended early."""
        counts = {status: self.count(status) for status in ("done", "skipped", "failed")}
        word, code = _ending(stopped, self)
        return {
            "type": "summary", "files": len(self.rows), **counts, "seconds": seconds, "elapsed_s": elapsed_s,
            "stopped": word, "exit_code": code,
        }  # fmt: skip


@contextmanager
def ended_by(end: Callable[[BaseException | None], object]) -> Iterator[None]:
    """Call end(None) after a batch, or end(error) if Ctrl-C or an error stops it: what was done by then is reported as
    well.
    """
    try:
        yield
    except (KeyboardInterrupt, DeepnmfError) as error:
        end(error)
        raise
    end(None)


def _ending(stopped: BaseException | None, outcome: Outcome) -> tuple[str | None, int]:
    """Return why a run ended early, in one word, or None if it did not; and the exit code."""
    if stopped is None:
        return None, outcome.exit_code
    if isinstance(stopped, DeepnmfError):
        return "failed", stopped.exit_code
    return ("terminated", EXIT_TERMINATED) if isinstance(stopped, Terminated) else ("interrupted", EXIT_INTERRUPTED)


def refuse_input(remedy: str) -> None:
    """Raise UsageError if audio from standard input would have to be typed, or cannot arrive."""
    _refuse("standard input", sys.stdin, "audio from a pipe or a file", remedy)


def refuse_output(remedy: str) -> None:
    """Raise UsageError if what goes to standard output would be lost, or if audio would be printed on a screen."""
    _refuse("standard output", sys.stdout, "a pipe or a file", remedy)


def _refuse(name: str, stream: TextIO | None, expected: str, remedy: str) -> None:
    if stream is None or isinstance(stream, Closed):  # closed before the program started
        raise UsageError(name, "a closed stream", expected, remedy)
    if stream.isatty():
        raise UsageError(name, "a terminal", expected, remedy)


def say(text: str) -> None:
    """Print a line on standard error, above a progress bar if one is shown."""
    if "tqdm" not in sys.modules:  # importing it would take a tenth of the time for a short file
        sys.stderr.write(f"{text}\n")
        return
    from tqdm import tqdm

    tqdm.write(text, file=sys.stderr)


def warn(sentence: str) -> None:
    """Print a warning on standard error."""
    say(f"{coloured('Warning:', 'yellow')} {sentence}")


def fail(sentence: str) -> None:
    """Print an error on standard error."""
    say(f"{coloured('Error:', 'red')} {sentence}")


def coloured(word: str, colour: str) -> str:
    """Return the word in a colour if standard error is a terminal that may show one (see https://no-color.org)."""
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb" or not sys.stderr.isatty()
    return word if plain else click.style(word, fg=colour, bold=True)


def log() -> None:
    """Print what the library logs about its work on standard error, for --verbose."""
    import logging

    class Said(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            say(self.format(record))

    logger = logging.getLogger("deepnmf_cli")
    if not logger.handlers:
        logger.addHandler(Said())
    logger.setLevel(logging.INFO)


def announce(text: str) -> None:
    """Print a line on standard output that says where the result is; unlike a result, it may be lost."""
    with suppress(OSError):
        click.echo(text)


def echo_json(document: Any) -> None:
    """Print one JSON document on standard output."""
    click.echo(json.dumps(document, indent=2, allow_nan=False))


def json_lines() -> Callable[[dict[str, Any]], None]:
    """Return a function that prints one line of JSON Lines, flushed at once, on what is standard output now."""
    output = sys.stdout
    return lambda row: click.echo(json.dumps(row, allow_nan=False), file=output)


def progress(hidden: bool) -> "tqdm | Lines":
    """Return a bar on standard error that counts seconds of audio; without a terminal, a line from time to time.

    Give it the total with `reset(total=...)`, which is worth finding out only if the bar is not `disable`d.
    """
    if hidden or not sys.stderr.isatty():
        return Lines(_audio_line, hidden)
    from tqdm import tqdm

    class AudioBar(tqdm):
        """tqdm that shows its count and total as times; the total may be unknown, or turn out too small."""

        @property
        def format_dict(self) -> dict[str, Any]:
            known = super().format_dict
            total = tqdm.format_interval(known["total"]) if known["total"] else "?"
            return {**known, "done": tqdm.format_interval(known["n"]), "whole": total}

    layout = "{desc}{percentage:3.0f} %|{bar}| {done}/{whole} of audio [{elapsed}<{remaining}]"
    return AudioBar(bar_format=layout, file=sys.stderr, leave=False, dynamic_ncols=True)


class Lines:
    """A progress bar for log files: a line on standard error after 10 s, and then whenever another tenth is done or a
    minute has passed, but none within 10 s of the last one. It has those of tqdm's methods that the commands use.

    `describe(done, total, amount_per_s)` makes the line; the total is None if it is unknown.
    """

    SHORTEST_S, LONGEST_S, PARTS = 10.0, 60.0, 10

    def __init__(
        self,
        describe: Callable[[float, float | None, float], str],
        disable: bool = False,
        total: float | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.disable, self.n, self.total = disable, 0.0, total
        self._describe, self._now, self._before = describe, now, ""
        self._began = self._shown = now()
        self._begins_at, self._part = 0.0, -1.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Do nothing, as there is nothing to clean up."""

    def reset(self, total: float | None) -> None:
        """Start again, with another total."""
        self.total, self._part = total, -1.0
        self.start(0.0)

    def start(self, amount: float) -> None:
        """Start counting at `amount`, as what was done before says nothing about the rate."""
        self.n = self._begins_at = amount
        self._began = self._shown = self._now()

    def set_description_str(self, text: str) -> None:
        self._before = text

    def update(self, amount: float) -> None:
        self.n += amount
        since = self._now() - self._shown
        part = self.n // (self.total / self.PARTS) if self.total else 0.0
        if self.disable or since < self.SHORTEST_S or (part <= self._part and since < self.LONGEST_S):
            return
        self._shown, self._part = self._now(), part
        say(self._before + self._describe(self.n, self.total, self._per_s))

    def left(self) -> str:
        """Return the time that is left, in the words of `time_left`."""
        return time_left(self.n, self.total, self._per_s)

    @property
    def _per_s(self) -> float:
        return (self.n - self._begins_at) / max(self._now() - self._began, 1e-9)


def time_left(done: float, total: float | None, per_s: float) -> str:
    """Return for example ", 02:30 left"; empty if the time is unknown."""
    from tqdm import tqdm

    if total is None or not per_s > 0:
        return ""
    return f", {tqdm.format_interval(max(0.0, (total - done) / per_s))} left"


def _audio_line(done: float, total: float | None, per_s: float) -> str:
    from tqdm import tqdm

    whole = f"/{tqdm.format_interval(total)}" if total else ""
    share = f" ({100 * done / total:.0f} %)" if total else ""
    return (
        f"{tqdm.format_interval(done)}{whole} of audio{share}, {per_s:.1f} s each second{time_left(done, total, per_s)}"
    )


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table with columns as wide as their widest cell; those of numbers (or "-") only are right-aligned."""
    columns = list(zip(header, *rows, strict=True))
    widths = [max(map(len, column)) for column in columns]
    aligned = [str.rjust if rows and all(map(_is_number, column[1:])) else str.ljust for column in columns]

    def line(cells: Sequence[str]) -> str:
        return "  ".join(align(cell, width) for align, cell, width in zip(aligned, cells, widths, strict=True)).rstrip()

    return "\n".join(map(line, [header, ["-" * width for width in widths], *rows]))


def size(number: int) -> str:
    """Return a number of bytes in words: 12 kB, 1.2 MB."""
    return f"{number / 1e6:.1f} MB" if number >= 1e6 else f"{number / 1e3:.0f} kB"


def _is_number(cell: str) -> bool:
    return cell == "-" or cell.lstrip("+-")[:1].isdigit()


OUTPUT = "standard output"


class Closed(io.TextIOBase):
    """Standard output that was closed before the program started: raises OSError when something is written."""

    encoding = "utf-8"

    def write(self, text: str) -> int:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF), OUTPUT)


# These are buffers and not raw files on purpose: a signal that arrives when a raw file written in Python has just been
# written to would make the buffer above it write the same once more.


class _Messages(io.BufferedWriter):
    """Standard error: what cannot be written to it is dropped."""

    def write(self, data: "ReadableBuffer", /) -> int:
        with suppress(OSError):
            super().write(data)
        return memoryview(data).nbytes

    def flush(self) -> None:
        with suppress(OSError):
            super().flush()


class _Results(io.BufferedWriter):
    """Standard output: the first loss raises an OSError that names it; later ones, such as at the exit, are silent."""

    _lost = False

    def write(self, data: "ReadableBuffer", /) -> int:
        with self._losing_once():
            super().write(data)
        return memoryview(data).nbytes

    def flush(self) -> None:
        with self._losing_once():
            super().flush()

    @contextmanager
    def _losing_once(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if not self._lost:
                self._lost, error.filename = True, OUTPUT
                raise


def guard() -> None:
    """Replace `sys.stdout` and `sys.stderr` by streams that behave so, unless they have been replaced already."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:  # closed: the next file opened would get this number, and what is meant for the stream
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    if sys.stderr is sys.__stderr__ and _is_plain(sys.stderr):
        sys.stderr = _text(_Messages(io.FileIO(2, "w", closefd=False)), sys.stderr)
    if sys.stdout is None:
        sys.stdout = Closed()
    elif sys.stdout is sys.__stdout__ and _is_plain(sys.stdout):
        # Results get a descriptor of their own, as C decoders print to the usual one, which becomes that of messages.
        sys.stdout = _text(_Results(io.FileIO(os.dup(1), "w")), sys.stdout)
        os.dup2(2, 1)


def _is_plain(stream: TextIO | None) -> bool:
    """Return whether a stream is a file for the operating system, or closed; a console of Windows is neither."""
    buffer = getattr(stream, "buffer", None)
    return stream is None or isinstance(getattr(buffer, "raw", buffer), io.FileIO)


def _text(buffer: io.BufferedWriter, before: TextIO | None) -> TextIO:
    encoding, errors = (before.encoding, before.errors) if before else ("utf-8", "backslashreplace")
    errors = "backslashreplace" if errors == "strict" else errors  # names of files may hold what it cannot encode
    lines = before is None or bool(before.line_buffering)
    return io.TextIOWrapper(buffer, encoding, errors, line_buffering=lines)
