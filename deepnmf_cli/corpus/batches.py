"""Batches of mixtures, made ahead of the training loop: by a thread, or by processes where a GPU learns faster than that."""

import signal
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from deepnmf_cli.corpus.dataset import ExampleSource
from deepnmf_cli.errors import DeepnmfError

AHEAD = 2
"""Batches that each thread or process has ready."""

Batch = tuple[Tensor, Tensor]
"""Speech and noise, (size, samples) each."""


def batches(
    source: ExampleSource, size: int, first: int, last: int, workers: int, distinct: int = 0
) -> Iterator[Batch]:
    """Batches `first`..`last` - 1 as (speech, noise), each (size, samples), made by one thread or several processes.

    Batch b holds the examples b * size .. (b + 1) * size - 1, whatever the number of workers. With `distinct` batch b
    equals batch b modulo `distinct`. Raises the DeepnmfError that made a batch fail, in its turn.
    """
    made = _Batches(source, size, distinct)
    numbers = range(first, last)
    stream = _by_processes(made, numbers, workers) if workers > 1 else _by_thread(made, numbers)
    for batch in stream:
        if isinstance(batch, DeepnmfError):
            raise batch
        yield batch


class _Batches(Dataset):
    """Batch by number, or why there is none: an exception would not cross the border of a process unchanged."""

    def __init__(self, source: ExampleSource, size: int, distinct: int) -> None:
        self.source, self.size, self.distinct = source, size, distinct

    def __getitem__(self, number: int) -> Batch | DeepnmfError:
        first = self.size * (number % self.distinct if self.distinct else number)
        try:
            examples = [self.source[first + i] for i in range(self.size)]
        except DeepnmfError as error:
            return error
        return tuple(torch.from_numpy(np.stack(part)) for part in zip(*examples))


def _by_thread(made: _Batches, numbers: range) -> Iterator[Batch | DeepnmfError]:
    with ThreadPoolExecutor(1) as pool:
        waiting = deque(pool.submit(made.__getitem__, number) for number in numbers[:AHEAD])
        try:
            for number in range(numbers.start + AHEAD, numbers.stop + AHEAD):
                if not waiting:
                    return
                ready = waiting.popleft().result()
                if number < numbers.stop:
                    waiting.append(pool.submit(made.__getitem__, number))
                yield ready
        finally:
            for future in waiting:
                future.cancel()


def _by_processes(made: _Batches, numbers: range, workers: int) -> Iterator[Batch | DeepnmfError]:
    # Pinned memory reaches a GPU without waiting for it.
    loader = DataLoader(
        made, batch_size=None, sampler=numbers, num_workers=workers, prefetch_factor=AHEAD,
        worker_init_fn=_prepare_process, pin_memory=torch.cuda.is_available(),
    )  # fmt: skip
    try:
        yield from loader
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        remedy = "Memory may have run out: use fewer with --workers."
        raise DeepnmfError("workers", "a process that ended unexpectedly", "one that lasts", remedy) from error


def _prepare_process(_: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the training loop, which ends its workers
    worker = get_worker_info()
    worker.dataset.source.cache.capacity_bytes //= worker.num_workers
