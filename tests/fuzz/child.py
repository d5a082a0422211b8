"""One case, run in a forked child of a process that has imported what the case needs."""

import contextlib
import json
import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

CPU_S = 5
"""Seconds of computing that a case may take, imports not counted."""
WALL_S = 60.0
"""Seconds after which a child that waits for something is killed."""
ADDRESS_BYTES = 3 << 30
"""Address space that a child may take beyond what its parent has."""


@dataclass(frozen=True)
class Outcome:
    """What a child left. `code` is None for a child that was ended, by `signal`; `timed_out`: by this program."""

    code: int | None
    signal: int | None
    timed_out: bool
    cpu_s: float
    peak_bytes: int
    out: bytes
    err: str


class _Late(Exception):
    pass


def run(
    call: Callable[[], int | None],
    folder: Path,
    pieces: Sequence[bytes] = (),
    cpu_s: float = CPU_S,
    wall_s: float = WALL_S,
) -> Outcome:
    """Call `call` in a child whose working folder is `folder`/work; its streams and temporary files lie beside that.

    `pieces` come one by one on its standard input. It is killed after `wall_s` seconds.
    """
    for name in ("work", "home", "temporary"):
        (folder / name).mkdir(exist_ok=True)
    for name in ("out", "err"):
        (folder / name).write_bytes(b"")  # it may be killed before it has opened them
    source, sink = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        os.close(sink)
        _live(call, folder, source, cpu_s)
    os.close(source)
    timed_out = False
    try:
        with _alarm(wall_s):
            _feed(sink, pieces)
            os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)  # it stays, so that it can be killed even now
    except _Late:
        timed_out = True
        os.kill(child, signal.SIGKILL)
    _, status, used = os.wait4(child, 0)
    _end_group(child)
    ended = os.WTERMSIG(status) if os.WIFSIGNALED(status) else None
    timed_out = timed_out and ended is not None
    return Outcome(
        None if ended else os.WEXITSTATUS(status), ended, timed_out, used.ru_utime + used.ru_stime,
        used.ru_maxrss * 1024, (folder / "out").read_bytes(), (folder / "err").read_text("utf-8", "replace"),
    )  # fmt: skip


def measure(question: Callable[[], object], folder: Path) -> object:
    """The answer to a question that may crash or not end, as JSON can hold it; None where there is no answer."""

    def answer() -> None:
        print(json.dumps(question()))

    done = run(answer, folder)
    return json.loads(done.out) if done.code == 0 and done.out else None


def _feed(sink: int, pieces: Sequence[bytes]) -> None:
    try:
        for number, piece in enumerate(pieces):
            if number and len(pieces) > 2:
                time.sleep(0.0005)
            left = memoryview(piece)
            while left:
                left = left[os.write(sink, left) :]
    except BrokenPipeError:
        pass  # it need not read all
    finally:
        os.close(sink)


@contextmanager
def _alarm(seconds: float) -> Iterator[None]:
    def late(*_: object) -> None:
        raise _Late

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _end_group(child: int) -> None:
    """End what the child has started and left behind."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child, signal.SIGKILL)


def _live(call: Callable[[], int | None], folder: Path, source: int, cpu_s: float) -> None:
    """The life of a child; does not return."""
    code = 70
    try:
        os.setpgid(0, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        for number, opened in enumerate((source, os.open(folder / "out", flags), os.open(folder / "err", flags))):
            os.dup2(opened, number)
        sys.stdin, sys.stdout = os.fdopen(0, closefd=False), os.fdopen(1, "w", encoding="utf-8", closefd=False)
        sys.stderr = os.fdopen(2, "w", 1, "utf-8", "backslashreplace", closefd=False)
        os.environ |= {"HOME": str(folder / "home"), "TMPDIR": str(folder / "temporary")}
        import tempfile

        tempfile.tempdir = None
        os.chdir(folder / "work")
        _limit(cpu_s)
        try:
            code = call() or 0
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
        except BaseException:
            traceback.print_exc()
            code = 1
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)


def _limit(cpu_s: float) -> None:
    used = time.process_time()
    seconds = int(used + cpu_s + 1)
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    pages = int(Path("/proc/self/statm").read_text().split()[0]) if sys.platform == "linux" else 0
    if pages:
        limit = pages * resource.getpagesize() + ADDRESS_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
