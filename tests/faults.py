"""Faults between any two steps of a write: the points that a command passes, and what ends it at one of them.

In this process:

    with faults.at() as names:              # the points of what is done here
        ...
    with faults.at("ENOSPC", 3):            # the fault at the fourth of them
        ...

In a process of its own, which a kill ends as it would end the program:

    names, ended = faults.run("SIGKILL", 3, "enhance", "noisy.wav", "-o", "clean.wav")

A kind of fault is "" for none, "stop" (an exception that nothing expects), the name of a signal that the process sends
to itself (SIGKILL, SIGINT, SIGTERM), or that of an error of the system (ENOSPC, EIO). A full disk stays full: ENOSPC
comes again at every later point. All others come once.
"""

import errno
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from deepnmf_cli import checkpoint

ROOT = Path(__file__).parents[1]


class Stop(Exception):
    """Ends what runs into it, as an error in the program would."""


def fault(kind: str, number: int, saw: Callable[[str], object]) -> Callable[[str], None]:
    """What to put in the place of `checkpoint.reached`: tells `saw` each point, and faults at point `number`, from
    0."""
    passed = 0

    def reached(point: str) -> None:
        nonlocal passed
        here, passed = passed, passed + 1
        saw(point)
        if not kind or (here != number and not (kind == "ENOSPC" and here > number)):
            return
        if kind.startswith("SIG"):
            os.kill(os.getpid(), getattr(signal, kind))
        elif kind == "stop":
            raise Stop(point)
        else:
            code = getattr(errno, kind)
            raise OSError(code, os.strerror(code), point)

    return reached


@contextmanager
def at(kind: str = "", number: int = 0) -> Iterator[list[str]]:
    """Fault at the point of that number; yields the list that the points get into as they are passed."""
    names: list[str] = []
    before = checkpoint.reached
    checkpoint.reached = fault(kind, number, names.append)
    try:
        yield names
    finally:
        checkpoint.reached = before


def run(
    kind: str, number: int, *arguments: object, cwd: Path | None = None, timeout_s: float = 120, stdin: bytes = b""
) -> tuple[list[str], subprocess.CompletedProcess]:
    """The program with these arguments in a process of its own, with a fault: the points that it passed, and its end.

    Processes that it spawns, as those of `--jobs`, count points and fault each on their own.
    """
    with tempfile.TemporaryDirectory() as folder:
        record = Path(folder) / "points"
        record.touch()
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
        environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
        environment |= {"FAULT_KIND": kind, "FAULT_NUMBER": str(number), "FAULT_RECORD": str(record)}
        command = [sys.executable, "-m", "tests.faults", *map(str, arguments)]
        ended = subprocess.run(
            command, cwd=cwd, env=environment, input=stdin, capture_output=True, timeout=timeout_s
        )  # fmt: skip
        return record.read_text(encoding="utf-8", errors="surrogateescape").splitlines(), ended


def _install() -> None:
    """In a process that `run` started, or that such a one spawned, which runs this module as __mp_main__."""
    record = os.environ["FAULT_RECORD"]

    def saw(point: str) -> None:
        with open(record, "a", encoding="utf-8", errors="surrogateescape") as file:
            file.write(point + "\n")

    checkpoint.reached = fault(os.environ["FAULT_KIND"], int(os.environ["FAULT_NUMBER"]), saw)


if __name__ in ("__main__", "__mp_main__"):
    _install()
if __name__ == "__main__":
    from deepnmf_cli import main

    main.run(sys.argv[1:])
