"""The `deepnmf` command as a process: signals, and an exit code for every outcome.

Whatever takes time to import is imported inside `run`, which handles Ctrl-C from its first line on.
"""

import errno
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from deepnmf_cli.signals import ending, handled

REMEDIES = {
    errno.ENOSPC: "Free some space, then repeat.",
    errno.EDQUOT: "Free some space, then repeat.",
    errno.ENAMETOOLONG: "Choose a shorter name.",
    errno.EBADF: "Connect it with a file or a pipe, then repeat.",
}
"""Remedies for those errors of the system that are not about the path."""


def run(arguments: list[str] | None = None) -> None:
    """Entry point of the installed program: every expected error becomes one message and its exit code."""
    with _signals_as_exceptions() as received:
        try:
            from deepnmf_cli.commands import console, group

            console.guard()
            code = group.call(arguments)
        except BaseException as error:
            code, message = _ending(error, received)
            with suppress(OSError):  # the terminal may be gone
                if sys.stderr is not None:
                    print(_coloured(message), file=sys.stderr)
    sys.exit(code)


@contextmanager
def _signals_as_exceptions() -> Iterator[list[int]]:
    """Let signals that end the program raise exceptions, so that temporary files are removed on the way out; yield the
    signals received.
    """
    received: list[int] = []

    def stop(number: int, frame: object) -> None:
        received.append(number)
        raise ending(number)[0]

    with handled(stop):
        yield received


def _coloured(message: str) -> str:
    """Return the message, with a leading "Error:" in red if the terminal may show colours."""
    word, blank, rest = message.partition(" ")
    try:
        from deepnmf_cli.commands.console import coloured

        return f"{coloured(word, 'red')}{blank}{rest}" if word == "Error:" else message
    except Exception:  # the error may be that a library failed to load
        return message


def _ending(error: BaseException, received: list[int]) -> tuple[int, str]:
    """Return the exit code and the message for what stopped the program. Raises an unexpected `error` again."""
    from deepnmf_cli.errors import (
        EXIT_FAILED,
        EXIT_INTERRUPTED,
        EXIT_TERMINATED,
        DeepnmfError,
        Terminated,
        lack_of_memory,
    )

    # A signal that arrives while a library is imported may surface as an error of any kind.
    if isinstance(error, Terminated) or {*received} - {signal.SIGINT}:
        return EXIT_TERMINATED, "Terminated."
    if isinstance(error, KeyboardInterrupt) or received:
        return EXIT_INTERRUPTED, "Interrupted."
    error = lack_of_memory(error) or error
    if isinstance(error, DeepnmfError):
        return error.exit_code, f"Error: {error}"
    if isinstance(error, OSError):  # such as for a disk that fills up or a folder that disappears during the work
        remedy = REMEDIES.get(error.errno or 0, "Mend the path or its permissions, then repeat.")
        return EXIT_FAILED, f"Error: {error.filename or 'system'}: {error.strerror or error}. {remedy}"
    raise error


if __name__ == "__main__":
    run()
