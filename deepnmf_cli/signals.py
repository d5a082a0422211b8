"""The signals that end the program: Ctrl-C, SIGTERM, and SIGHUP, by which a terminal says that it closes.

Nothing else of the package is imported before it is needed: these signals are handled from the first line on.
"""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

TERMINAL = [signal.SIGINT, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])]  # which Windows lacks
"""Those that a terminal sends to all processes of a command at once."""


def ending(number: int) -> tuple[type[KeyboardInterrupt], int]:
    """Return the exception that a signal becomes, and the exit code."""
    from deepnmf_cli.errors import EXIT_INTERRUPTED, EXIT_TERMINATED, Terminated

    return (KeyboardInterrupt, EXIT_INTERRUPTED) if number == signal.SIGINT else (Terminated, EXIT_TERMINATED)


@contextmanager
def kept() -> Iterator[dict[int, Any]]:
    """Restore the handlers of these signals afterwards; yield them.

    Signals that the program was told to ignore when it was started, as by nohup, and those whose handlers are not
    Python's, are left out and should stay as they are.
    """
    found: dict[int, Any] = {number: signal.getsignal(number) for number in (*TERMINAL, signal.SIGTERM)}
    before = {number: handler for number, handler in found.items() if handler not in (signal.SIG_IGN, None)}
    try:
        yield before
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def handled(handler: Callable[[int, FrameType | None], object]) -> Iterator[dict[int, Any]]:
    """Call `handler` for these signals; yield the handlers that are replaced, see `kept`."""
    with kept() as before:
        for number in before:
            signal.signal(number, handler)
        yield before


def leave_to_owner() -> None:
    """Ignore, in a process that another one ends, what the terminal sends to both."""
    for number in TERMINAL:
        signal.signal(number, signal.SIG_IGN)
