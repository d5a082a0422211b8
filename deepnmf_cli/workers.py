"""Tasks spread over processes: each process is prepared once, say with a model, and then takes task after task."""

import multiprocessing
import os
import shutil
import signal
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any, Self, cast

from deepnmf_cli.errors import DeepnmfError, lack_of_memory
from deepnmf_cli.signals import TERMINAL, leave_to_owner

Progress = Callable[[float], object]
Work = Callable[[Any, Progress], Any]
"""work(task, progress) -> result; raises DeepnmfError for a task that cannot be done. It should call `progress` every
few seconds, which is when a process notices that it has to end."""

_READY, _PROGRESS, _DONE = range(3)

GRACE_S = 3.0
"""Time for a process that was told to end, before it is terminated."""


class _Abandoned(BaseException):
    """Ends a worker whose owner has gone, or told it to end, running all clean-up on the way."""


def work_here(tasks: Iterable[Any], work: Work, progress: Progress) -> Iterator[tuple[Any, Any]]:
    """Yield (task, result) for each task in turn; the result of a failed task is its DeepnmfError."""
    for task in tasks:
        yield task, outcome(work, task, progress)


class Workers:
    """A context manager that holds `count` processes, each of which calls `prepare(*arguments) -> Work` once.

    The processes are spawned rather than forked, as PyTorch's threads do not survive a fork. `prepare`, `arguments`,
    tasks and results are sent between processes; the work itself stays where it was made. `None` cannot be a task.
    Interrupts are left to the owner: when it leaves the context, or dies, tasks in progress are abandoned, with the
    clean-up that an exception brings.
    """

    def __init__(self, count: int, prepare: Callable[..., Work], *arguments: Any) -> None:
        self.count, self._prepare, self._arguments = count, prepare, arguments
        self._processes: dict[Connection, SpawnProcess] = {}
        self.died = False
        """Whether a process has ended on its own, which leaves what it was writing."""

    def __enter__(self) -> Self:
        try:
            for _ in range(self.count):
                self._start()
        except BaseException:  # such as a limit on processes
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for connection in self._processes:
            connection.close()
        for process in self._processes.values():
            process.join()

    def run(
        self, tasks: Iterable[Any], progress: Progress, name: Callable[[Any], str] = str
    ) -> Iterator[tuple[Any, Any]]:
        """Yield (task, result) as tasks are done; the result of a failed task is its DeepnmfError. Call it once.

        If a process dies, its task fails with an error that calls it `name(task)`, and the process is replaced. After
        Ctrl-C, tasks that are completed before their processes notice are yielded too, and then KeyboardInterrupt is
        raised. Raises DeepnmfError if a process cannot be prepared.
        """
        at_work: dict[Connection, Any] = {}
        try:
            yield from self._results(deque(tasks), at_work, progress, name)
        except KeyboardInterrupt:
            yield from self._stop(at_work)
            raise

    def _results(
        self, waiting: deque[Any], at_work: dict[Connection, Any], progress: Progress, name: Callable[[Any], str]
    ) -> Iterator[tuple[Any, Any]]:
        """Yield what `run` yields; `at_work` holds the tasks in progress."""
        idle: set[Connection] = set()
        prepared: set[Connection] = set()
        while waiting or at_work:
            for connection in _ready([c for c in self._processes if c not in idle]):
                try:
                    kind, content = connection.recv()
                except (EOFError, OSError):
                    self._processes.pop(connection).join()
                    self.died = True
                    if connection not in prepared:
                        raise lost("workers") from None
                    self._start()
                    if connection in at_work:
                        yield (task := at_work.pop(connection)), lost(name(task))
                    continue
                if kind == _PROGRESS:
                    progress(content)
                    continue
                if kind == _READY and content is not None:
                    raise content
                prepared.add(connection)
                if kind == _DONE:
                    yield at_work.pop(connection), content
                if not waiting:
                    idle.add(connection)
                    continue
                try:
                    connection.send(waiting[0])
                except OSError:  # the process has died since; the next round replaces it
                    continue
                at_work[connection] = waiting.popleft()

    def _stop(self, at_work: dict[Connection, Any]) -> Iterator[tuple[Any, Any]]:
        """End the tasks in progress. Yields those that are done before: their outputs exist, and must be reported."""
        for connection in at_work:
            with suppress(OSError):
                connection.send(None)
        end = time.monotonic() + GRACE_S
        while at_work and (heard := _ready(list(at_work), max(0.0, end - time.monotonic()))):
            for connection in heard:
                try:
                    kind, content = connection.recv()
                except (EOFError, OSError):
                    at_work.pop(connection)
                    continue
                if kind == _DONE:
                    yield at_work.pop(connection), content
        for connection in at_work:  # which have not called `progress` for long
            self._processes[connection].terminate()

    def _start(self) -> None:
        spawn = multiprocessing.get_context("spawn")
        ours, theirs = spawn.Pipe()
        # A daemon is told to terminate if this process ends without leaving the context.
        process = spawn.Process(target=_serve, args=(theirs, self._prepare, self._arguments), daemon=True)
        with interrupts_held():
            process.start()
        theirs.close()
        self._processes[ours] = process


def _ready(connections: list[Connection], timeout_s: float | None = None) -> list[Connection]:
    """Return those of the connections that have something to say, once one has, or after the time-out."""
    return cast("list[Connection]", wait(connections, timeout_s))  # its type allows sockets and numbers too


SHARED_MEMORY = Path("/dev/shm")
"""Folder whose files are kept in memory, on Linux."""


def shared_memory(size: int) -> Path | None:
    """Return the folder for files of `size` bytes in total that processes share as memory; None if there is none, or
    not twice the room.
    """
    with suppress(OSError):
        if shutil.disk_usage(SHARED_MEMORY).free > 2 * size:
            return SHARED_MEMORY
    return None


def available_cpus() -> int:
    """Return the number of CPUs that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _serve(connection: Connection, prepare: Callable[..., Work], arguments: tuple) -> None:
    """Run a worker process: report that it is ready, or why not, then answer each task with its outcome."""
    leave_to_owner()
    signal.signal(signal.SIGTERM, _abandon)

    def send(kind: int, content: Any) -> None:
        try:
            connection.send((kind, content))
        except OSError:
            _abandon()

    def progress(amount: float) -> None:
        if connection.poll():  # during a task only the request to end can arrive, or the end of the owner
            _abandon()
        send(_PROGRESS, amount)

    with suppress(_Abandoned, EOFError, ConnectionResetError):
        work = outcome(prepare, *arguments)
        if isinstance(work, DeepnmfError):
            send(_READY, work)
            return
        send(_READY, None)
        while (task := connection.recv()) is not None:
            send(_DONE, outcome(work, task, progress))


def outcome(work: Callable[..., Any], *arguments: Any) -> Any:
    """Return what a call returns, or the DeepnmfError that it raises, or one in its place if memory ran out."""
    try:
        return work(*arguments)
    except Exception as error:
        if (known := lack_of_memory(error)) is None and not isinstance(error, DeepnmfError):
            raise
        return known or error


def _abandon(*_: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second request to end would interrupt the clean-up
    raise _Abandoned from None


def lost(name: str) -> DeepnmfError:
    """Return the error of a task whose process died."""
    remedy = "Memory may have run out: use fewer with --jobs."
    return DeepnmfError(name, "a process that ended unexpectedly", "one that lasts", remedy)


@contextmanager
def interrupts_held() -> Iterator[None]:
    """Delay Ctrl-C, and never deliver it to a process started here, which could not handle it before it is set up."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    # Spawning the first process would start the tracker, which lets interrupts through again.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, TERMINAL)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
