"""Batches from a thread and from processes: no shared memory, waits that end, processes that die."""

import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from deepnmf_cli.corpus import batches as batches_module
from deepnmf_cli.corpus.batches import batches
from deepnmf_cli.corpus.dataset import ClipCache
from deepnmf_cli.errors import DeepnmfError

ROOT = Path(__file__).parents[2]


class Counting:
    """Example i is i and -i."""

    length = 16000

    def __init__(self) -> None:
        self.cache = ClipCache(8000)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        return np.full(self.length, index, np.float32), np.full(self.length, -index, np.float32)

    def divide(self, processes: int) -> None:
        self.cache.divide(processes)


class Hanging(Counting):
    """A source on a disk that does not answer after its first four examples."""

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        if index >= 4:
            time.sleep(600)
        return super().__getitem__(index)


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes that are spawned import this module to get at its sources."""
    monkeypatch.syspath_prepend(str(ROOT))


class Enough(Exception):
    """Ends a wait."""


def test_batches_are_the_same_through_shared_memory_and_through_pipes(monkeypatch: pytest.MonkeyPatch) -> None:
    given = []
    for folder in (batches_module.shared_memory, lambda size: None):
        monkeypatch.setattr(batches_module, "shared_memory", folder)
        given.append([[part[:, 0].tolist() for part in batch] for batch in batches(Counting(), 3, 1, 12, 2)])
    assert given[0] == given[1] and given[0][10] == [[33, 34, 35], [-33, -34, -35]]


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("distinct,expected", [(0, [2, 3, 4, 5]), (3, [2, 0, 1, 2])])
def test_batches_are_numbered_and_repeat_where_asked(workers: int, distinct: int, expected: list[int]) -> None:
    found = [speech[:, 0].tolist() for speech, _ in batches(Counting(), 2, 2, 6, workers, distinct)]
    assert found == [[2.0 * number, 2.0 * number + 1] for number in expected]


@pytest.mark.parametrize("workers", [1, 2])
def test_a_wait_for_a_source_that_hangs_can_be_ended(workers: int) -> None:
    began, got, waited = time.monotonic(), [], []

    def waiting() -> None:
        waited.append(1)
        if len(got) == 2 and len(waited) > 3:
            raise Enough

    with pytest.raises(Enough):
        for speech, _ in batches(Hanging(), 2, 0, 9, workers, waiting=waiting):
            got.append(speech[:, 0].tolist())
            waited.clear()
    assert got == [[0, 1], [2, 3]] and time.monotonic() - began < 300
    assert not multiprocessing.active_children()


def test_a_process_that_is_killed_is_an_error_where_its_batch_is_awaited() -> None:
    stream = batches(Counting(), 2, 0, 400, 2)
    with pytest.raises(DeepnmfError, match="workers: found a process that ended unexpectedly.*--workers"):
        for number, (speech, noise) in enumerate(stream):
            assert speech[1, 0] == 2 * number + 1 == -noise[1, 0]
            if number == 3:
                os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)
    assert not multiprocessing.active_children()


class Unreadable:
    """A source whose disk fails."""

    length = 10

    def __getitem__(self, index: int) -> None:
        raise OSError(5, "Input/output error", "clip.wav")

    def divide(self, processes: int) -> None:
        pass


@pytest.mark.parametrize("workers", [1, 2])
def test_errors_of_the_system_reach_the_training_loop_as_well(workers: int) -> None:
    with pytest.raises(OSError, match="Input/output error: 'clip.wav'"):
        list(batches(Unreadable(), 2, 0, 4, workers))


class Deadly:
    """A source that ends whoever asks it for an example, after it has told that it was asked."""

    length = 10

    def __init__(self, told: Path) -> None:
        self.told = told

    def __getitem__(self, index: int) -> None:
        self.told.touch()
        os.kill(os.getpid(), signal.SIGTERM)

    def divide(self, processes: int) -> None:
        pass


def test_a_worker_that_ends_is_an_error_with_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(DeepnmfError, match="found a process that ended unexpectedly"):
        list(batches(Deadly(tmp_path / "told"), 2, 0, 4, 2))
    assert (tmp_path / "told").exists()


SMALL = f"""
import os, sys
sys.path.insert(0, {str(ROOT)!r})
from itertools import islice
from deepnmf_cli.corpus.batches import batches
from tests.corpus.test_batches import Counting
if __name__ == "__main__":
    room = os.statvfs("/dev/shm")
    print(room.f_blocks * room.f_frsize)
    print([int(speech[1, 0]) for speech, _ in islice(batches(Counting(), 32, 0, 9, 2), 3)])
"""


@pytest.mark.skipif(not shutil.which("unshare") or not Path("/dev/shm").is_dir(), reason="needs unshare and /dev/shm")
def test_processes_need_no_room_in_shared_memory(tmp_path: Path) -> None:
    mount = "mount -t tmpfs -o size=64k tmpfs /dev/shm"
    if subprocess.run(["unshare", "-rm", "sh", "-c", mount], capture_output=True).returncode:
        pytest.skip("mounting is not permitted here")
    (tmp_path / "small.py").write_text(SMALL)
    command = ["unshare", "-rm", "sh", "-c", f'{mount} && exec "$0" "$1"', sys.executable, str(tmp_path / "small.py")]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert ended.stdout.splitlines() == [str(1 << 16), "[1, 33, 65]"], ended.stderr
    assert ended.stderr == ""


def test_processes_share_the_room_for_clips(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    made = batches_module._Batches(Counting(), 2, 0)
    whole = made.source.cache.capacity_bytes
    batches_module._serve(None, made, range(0), 4, None)
    assert made.source.cache.capacity_bytes == whole // 4
