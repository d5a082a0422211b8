"""Tasks spread over processes: each process is prepared once, say with a model, and then takes task after task."""

import multiprocessing
import os
import shutil
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Self

from deepnmf_cli.errors import DeepnmfError, lack_of_memory

Progress = Callable[[float], object]
Work = Callable[[Any, Progress], Any]
"""work(task, progress) -> result; raises DeepnmfError for a task that cannot be done. It should call `progress` every
few seconds: that is when a process notices that it shall end."""

_READY, _PROGRESS, _DONE = range(3)


class _Abandoned(BaseException):
    """Ends a worker whose owner has gone, through all the clean-up that is on the way."""


def work_here(tasks: Iterable[Any], work: Work, progress: Progress) -> Iterator[tuple[Any, Any]]:
    """Yield (task, result) for each task in turn, the result being the DeepnmfError of a task that failed."""
    for task in tasks:
        yield task, outcome(work, task, progress)


class Workers:
    """A context manager that holds `count` processes, each of which calls `prepare(*arguments) -> Work` once.

    The processes are spawned and not forked: PyTorch's threads do not survive a fork. `prepare`, `arguments`, tasks
    and results travel between processes; the work itself stays where it was made. Interrupts are left to the owner:
    when it leaves the context, or dies, tasks under way are given up, with the clean-up that an exception brings.
    """

    def __init__(self, count: int, prepare: Callable[..., Work], *arguments: Any) -> None:
        self.count, self._prepare, self._arguments = count, prepare, arguments
        self._processes: dict[Connection, multiprocessing.Process] = {}

    def __enter__(self) -> Self:
        for _ in range(self.count):
            self._start()
        return self

    def __exit__(self, *_: object) -> None:
        for connection in self._processes:
            connection.close()
        for process in self._processes.values():
            process.join()

    def run(
        self, tasks: Iterable[Any], progress: Progress, name: Callable[[Any], str] = str
    ) -> Iterator[tuple[Any, Any]]:
        """Yield (task, result) as tasks are done, the result being the DeepnmfError of a task that failed.

        A process that dies fails its task, which the error calls `name(task)`, and is replaced. Raises DeepnmfError
        when a process cannot be prepared.
        """
        waiting, at_work = deque(tasks), {}
        idle: set[Connection] = set()
        while waiting or at_work:
            for connection in wait([c for c in self._processes if c not in idle]):
                try:
                    kind, content = connection.recv()
                except (EOFError, OSError):
                    self._processes.pop(connection).join()
                    if connection not in at_work:
                        raise lost("workers") from None
                    task = at_work.pop(connection)
                    self._start()
                    yield task, lost(name(task))
                    continue
                if kind == _PROGRESS:
                    progress(content)
                    continue
                if kind == _READY and content is not None:
                    raise content
                if kind == _DONE:
                    yield at_work.pop(connection), content
                if waiting:
                    at_work[connection] = waiting.popleft()
                    connection.send(at_work[connection])
                else:
                    idle.add(connection)

    def _start(self) -> None:
        spawn = multiprocessing.get_context("spawn")
        ours, theirs = spawn.Pipe()
        # A daemon is told to terminate should this process end without leaving the context.
        process = spawn.Process(target=_serve, args=(theirs, self._prepare, self._arguments), daemon=True)
        with interrupts_held():
            process.start()
        theirs.close()
        self._processes[ours] = process


SHARED_MEMORY = Path("/dev/shm")
"""Where files are memory, on Linux."""


def shared_memory(size: int) -> Path | None:
    """Return the folder for files of `size` bytes in all that processes are to share as memory; None where there is
    none, or not twice the room.
    """
    with suppress(OSError):
        if shutil.disk_usage(SHARED_MEMORY).free > 2 * size:
            return SHARED_MEMORY
    return None


def available_cpus() -> int:
    """CPUs that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _serve(connection: Connection, prepare: Callable[..., Work], arguments: tuple) -> None:
    """The life of a process: says that it is ready, or why not, and answers each task by its outcome."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _abandon)

    def send(kind: int, content: Any) -> None:
        try:
            connection.send((kind, content))
        except OSError:
            raise _Abandoned from None

    with suppress(_Abandoned, EOFError, ConnectionResetError):
        work = outcome(prepare, *arguments)
        if isinstance(work, DeepnmfError):
            send(_READY, work)
            return
        send(_READY, None)
        while True:
            task = connection.recv()
            send(_DONE, outcome(work, task, lambda amount: send(_PROGRESS, amount)))


def outcome(work: Callable[..., Any], *arguments: Any) -> Any:
    """Return what a call returns, or the DeepnmfError that it raises, or what stands for it where memory ran out."""
    try:
        return work(*arguments)
    except Exception as error:
        if (known := lack_of_memory(error)) is None and not isinstance(error, DeepnmfError):
            raise
        return known or error


def _abandon(*_: object) -> None:
    raise _Abandoned


def lost(name: str) -> DeepnmfError:
    """The error of a task whose process died."""
    remedy = "Memory may have run out: use fewer with --jobs."
    return DeepnmfError(name, "a process that ended unexpectedly", "one that lasts", remedy)


@contextmanager
def interrupts_held() -> Iterator[None]:
    """Deliver Ctrl-C later, and never to a process that is started here: it could not answer before it is set up."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
