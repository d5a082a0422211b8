"""Batches of mixtures, made ahead of the training loop: by a thread, or by processes where a GPU outpaces a thread."""

import math
import multiprocessing
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from pathlib import Path
from queue import Empty, Full, Queue
from threading import Event, Thread
from typing import TYPE_CHECKING, Any

import numpy as np

from deepnmf_cli.checkpoint import temporary_folder
from deepnmf_cli.corpus.dataset import ExampleSource
from deepnmf_cli.errors import DeepnmfError
from deepnmf_cli.signals import leave_to_owner
from deepnmf_cli.workers import interrupts_held, shared_memory

if TYPE_CHECKING:
    from torch import Tensor

# torch is imported only where tensors are made: the processes that mix do not need it, and start faster without it.

AHEAD = 2
"""Number of batches kept ready for each thread or process."""

PATIENCE_S = 0.1
"""Seconds between two checks of whether a wait is to end."""

Batch = tuple["Tensor", "Tensor"]
"""Speech and noise, (size, samples) each."""

Arrays = tuple[np.ndarray, np.ndarray]


def batches(
    source: ExampleSource,
    size: int,
    first: int,
    last: int,
    workers: int,
    distinct: int = 0,
    waiting: Callable[[], None] = lambda: None,
) -> Generator[Batch, None, None]:
    """Yield batches `first` to `last` - 1 as (speech, noise), each (size, samples), made by a thread or by processes.

    Batch b holds the examples b * size .. (b + 1) * size - 1, whatever the number of workers. With `distinct`, batch b
    equals batch b modulo `distinct`. `waiting` is called every `PATIENCE_S` while no batch is ready, and ends the wait
    by raising. If a batch fails, its error is raised when its turn comes. Raises DeepnmfError if a process has ended.
    """
    made, numbers = _Batches(source, size, distinct), range(first, last)
    if workers == 1:
        yield from _ahead(made.__getitem__, numbers, AHEAD, waiting)
        return
    with _processes(made, numbers, workers) as receive:
        yield from _ahead(receive, numbers, AHEAD * workers, waiting)


FAREWELL_S = 3.0
"""Seconds given to the thread to finish its batch at the end: longer than a batch takes."""


class _Batches:
    """The batches of a source, by number."""

    def __init__(self, source: ExampleSource, size: int, distinct: int) -> None:
        self.source, self.size, self.distinct = source, size, distinct

    def __getitem__(self, number: int) -> Arrays:
        first = self.size * (number % self.distinct if self.distinct else number)
        speech, noise = zip(*(self.source[first + i] for i in range(self.size)), strict=True)
        return np.stack(speech), np.stack(noise)


def _ahead(make: Callable[[int], Arrays], numbers: range, count: int, waiting: Callable[[], None]) -> Iterator[Batch]:
    """Yield what `make` returns for each number, as tensors, made by a thread up to `count` numbers ahead.

    At the end the thread gets FAREWELL_S to finish its batch, since a process that exits inside a library call may be
    aborted. A file that cannot be read to its end must not hold up the program for longer.
    """
    ready: Queue[Batch | Exception] = Queue(count)
    ended = Event()

    def fill() -> None:
        for number in numbers:
            try:
                speech, noise = make(number)
                item = _tensor(speech), _tensor(noise)
            except Exception as error:
                item = error
            while not ended.is_set():
                with suppress(Full):
                    ready.put(item, timeout=PATIENCE_S)
                    break
            if ended.is_set() or isinstance(item, Exception):
                return

    thread = Thread(target=fill, daemon=True, name="batches")
    thread.start()
    try:
        for _ in numbers:
            while True:
                with suppress(Empty):
                    item = ready.get(timeout=PATIENCE_S)
                    break
                waiting()
            if isinstance(item, Exception):
                raise item
            yield item
    finally:
        ended.set()
        thread.join(FAREWELL_S)


def _tensor(part: np.ndarray) -> "Tensor":
    """Return the array as a tensor; if there is a GPU, in pinned memory, which is copied to it without waiting."""
    import torch

    given = torch.from_numpy(part)
    return given.pin_memory() if torch.cuda.is_available() else given


@contextmanager
def _processes(made: _Batches, numbers: range, count: int) -> Iterator[Callable[[int], Arrays]]:
    """Start `count` processes that make the numbers in turn; yield a function that returns the batch of a number.

    Batches arrive through shared memory or, where there is little of it, as in containers, through pipes, which cost
    the receiving process seven times the work. The processes are spawned, not forked, so that they hold nothing of
    this process and are held by nothing but the pipe; they end with it, and leave no files.
    """
    spawn, connections, processes = multiprocessing.get_context("spawn"), [], []

    def receive(number: int) -> Arrays:
        turn, one = divmod(number - numbers.start, count)
        try:
            given: Any = connections[one].recv()
            if (slot := slots[one]) is not None and given is None:
                given = tuple(slot.batch(turn).copy())
                with suppress(OSError):  # a process that has sent its last batch no longer listens
                    connections[one].send(None)
        except (EOFError, OSError) as error:
            remedy = "Memory may have run out: use fewer with --workers."
            raise DeepnmfError("workers", "a process that ended unexpectedly", "one that lasts", remedy) from error
        if isinstance(given, Exception):
            raise given
        return given

    with _slots(made, count) as slots:
        try:
            for i in range(count):
                ours, theirs = spawn.Pipe()
                given = theirs, made, numbers[i::count], count, slots[i]
                process = spawn.Process(target=_serve, args=given, daemon=True)
                with interrupts_held():
                    process.start()
                theirs.close()
                connections.append(ours)
                processes.append(process)
            yield receive
        finally:
            for process in processes:
                process.kill()
                process.join()


class _Slots:
    """Room for AHEAD batches of one process in a memory-mapped file.

    A batch overwrites the last but one, once that has been taken out.
    """

    def __init__(self, file: Path, shape: tuple[int, ...]) -> None:
        """`shape` is the shape of a batch, (2, size, samples)."""
        self.file, self.shape = file, shape
        self._batches = np.memmap(file, np.float32, "r+" if file.exists() else "w+", shape=(AHEAD, *shape))

    def __reduce__(self) -> tuple:
        """Pickle the name of the file and the shape; another process maps the file itself."""
        return _Slots, (self.file, self.shape)

    def batch(self, turn: int) -> np.ndarray:
        """Return the place of the process's batch number `turn`, counted from 0."""
        return self._batches[turn % AHEAD]


@contextmanager
def _slots(made: _Batches, count: int) -> Iterator[list[_Slots | None]]:
    """Yield the slots of each process, or None for each if there is no shared memory for them."""
    shape = (2, made.size, made.source.length)
    folder = shared_memory(count * AHEAD * 4 * math.prod(shape))
    if folder is None:
        yield [None] * count
        return
    with temporary_folder(folder) as inside:
        yield [_Slots(inside / str(i), shape) for i in range(count)]


def _serve(connection: Connection, made: _Batches, numbers: range, count: int, slots: _Slots | None) -> None:
    """Run one of `count` processes: send its batches in turn, or the error of the first that fails."""
    leave_to_owner()
    made.source.divide(count)
    with suppress(OSError, EOFError):  # nobody listens any more
        for turn, number in enumerate(numbers):
            try:
                batch = made[number]
            except Exception as error:  # which the training process raises, as it would its own
                connection.send(error)
                return
            if slots is not None:
                if turn >= AHEAD:
                    connection.recv()  # the batch that was in this slot has been taken out
                slots.batch(turn)[:] = batch
            connection.send(batch if slots is None else None)
