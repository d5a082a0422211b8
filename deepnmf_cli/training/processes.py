"""Training of one network by several processes, each on its share of every batch: those that torchrun starts.

Gradients are averaged over all processes before each step, so that a step equals that of one process on the whole
batch, to rounding. The number of processes changes how long a run takes and nothing else.
"""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
from torch import Tensor, distributed

from deepnmf_cli.corpus.dataset import ExampleSource
from deepnmf_cli.corpus.mixing import Samples
from deepnmf_cli.errors import DeepnmfError, UsageError

Given = TypeVar("Given")

LONGEST_WAIT = timedelta(days=1)
"""Longest wait for another process, which may score dev recordings or draw figures. torchrun ends all processes when
one fails."""


FAREWELL_S = 0.2
"""Seconds between the last exchange and the end of a process. gloo's threads let go of what was exchanged a moment
after it, which takes the interpreter; where that is ending already, they abort the process (pytorch/pytorch, pull
request 179291)."""


@dataclass(frozen=True)
class Processes:
    """The processes of one run, as seen by one of them; by default it is alone."""

    rank: int = 0
    """Number of this process. The first one, 0, scores, reports, and writes all files."""
    count: int = 1

    @property
    def first_of_machine(self) -> bool:
        """Whether no process of this machine has a lower number."""
        return self.alone or os.environ.get("LOCAL_RANK", "0") == "0"

    @property
    def alone(self) -> bool:
        return self.count == 1

    def average(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors, which have the same shapes in each process, by their means over all processes, in place."""
        if self.alone:
            return
        joined = torch.cat([x.flatten() for x in tensors])
        with _with_others():
            distributed.all_reduce(joined)
        means = (joined / self.count).split([x.numel() for x in tensors])
        torch._foreach_copy_(list(tensors), [mean.view_as(x) for mean, x in zip(means, tensors, strict=True)])

    def share(self, tensors: Sequence[Tensor]) -> None:
        """Replace the tensors of all other processes by those of the first one, in place."""
        if self.alone:
            return
        with _with_others():
            for tensor in tensors:
                distributed.broadcast(tensor, 0)

    def any(self, *flags: bool) -> list[bool]:
        """Return for each flag whether it is set in any process."""
        if self.alone:
            return [*flags]
        found = torch.tensor(flags, dtype=torch.int32)
        with _with_others():
            distributed.all_reduce(found, distributed.ReduceOp.MAX)
        return [bool(flag) for flag in found]

    def first(self, compute: Callable[[], Given]) -> Given:
        """Return in all processes what `compute` returns in the first one, or raise what it raises there."""
        if self.alone:
            return compute()
        found: list = [None, None]
        if self.rank == 0:
            try:
                found[0] = compute()
            except Exception as error:
                found[1] = error
        with _with_others():
            distributed.broadcast_object_list(found, 0, device=torch.device("cpu"))
        if found[1] is not None:
            raise found[1]
        return found[0]

    def part(self, batch: int) -> int:
        """Return the number of mixtures per process in a batch. Raises UsageError if they cannot be divided equally."""
        if batch % self.count:
            remedy = "Set training.batch to a multiple of the number of processes."
            raise UsageError("training.batch", f"{batch}", f"a number that {self.count} processes can share", remedy)
        return batch // self.count


@contextmanager
def _with_others() -> Iterator[None]:
    """Raise DeepnmfError instead of the RuntimeError of an exchange with a process that has ended."""
    try:
        yield
    except RuntimeError as error:
        found, remedy = "that another process of this run has ended", "See what that one says; then use --resume."
        raise DeepnmfError("torchrun", found, "all processes at work", remedy) from error


class Share:
    """The examples of one process: its part of every batch."""

    def __init__(self, source: ExampleSource, processes: Processes, batch: int) -> None:
        """`batch` is the size of the batches of all processes together."""
        self._source, self._batch = source, batch
        self._size = processes.part(batch)
        self._first = processes.rank * self._size
        self.length = source.length

    def __getitem__(self, index: int) -> tuple[Samples, Samples]:
        """Return example `index` of this process, whose batches are those of all processes divided by their number."""
        number, place = divmod(index, self._size)
        return self._source[number * self._batch + self._first + place]

    def divide(self, processes: int) -> None:
        self._source.divide(processes)


@contextmanager
def joined(device: str) -> Iterator[tuple[Processes, str]]:
    """Join the processes that torchrun has started, if any, and yield them and the device of this one.

    Raises DeepnmfError if the others cannot be reached.
    """
    if not distributed.is_torchelastic_launched():
        yield Processes(), device
        return
    gpu = device.startswith("cuda")
    if gpu:
        device = f"cuda:{os.environ['LOCAL_RANK']}"
        torch.cuda.set_device(device)
    try:
        distributed.init_process_group("cpu:gloo,cuda:nccl" if gpu else "gloo", timeout=LONGEST_WAIT)
    except (RuntimeError, ValueError) as error:
        found, remedy = f"no way to the others ({error})", "See the options --rdzv-* of torchrun."
        raise DeepnmfError("torchrun", found, "processes that reach each other", remedy) from error
    try:
        yield Processes(distributed.get_rank(), distributed.get_world_size()), device
    finally:
        distributed.destroy_process_group()
        time.sleep(FAREWELL_S)
