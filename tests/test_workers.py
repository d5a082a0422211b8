"""Tasks in several processes: prepared once, isolated from each other, gone with their owner."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

SCRIPT = """
import os, signal, sys, threading, time
from pathlib import Path
from deepnmf_cli.errors import AudioError, ModelError
from deepnmf_cli import workers
from deepnmf_cli.workers import Workers

workers.GRACE_S = float(os.environ.get("GRACE_S", "30"))

def prepare(name):
    if name == "unfit":
        raise ModelError(name, "a", "b", "c")
    Path(f"prepared-{os.getpid()}").touch()

    def work(task, progress):
        if task == "bad":
            raise AudioError(task, "a", "b", "c")
        if task in ("late", "deaf"):
            try:
                Path(f"partial-{os.getpid()}").touch()
                while task == "deaf" or not Path("go").exists():
                    time.sleep(0.01)
                time.sleep(0.3)
                return name + task
            finally:
                Path(f"partial-{os.getpid()}").unlink()
        if task == "last":
            threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGKILL)).start()
            return name + task
        if task == "deadly":
            os.kill(os.getpid(), signal.SIGKILL)
        if task == "endless":
            try:
                Path(f"partial-{os.getpid()}").touch()
                while True:
                    progress(1.0)
                    time.sleep(0.01)
            finally:
                Path(f"partial-{os.getpid()}").unlink()
        progress(2.0)
        return name + task

    return work

if __name__ == "__main__":
    name, *tasks = sys.argv[1:]
    total = 0.0
    def count(amount):
        global total
        total += amount
    with Workers(2, prepare, name) as workers:
        for task, result in workers.run(tasks, count):
            print(task, "->", result, flush=True)
            time.sleep(0.5 if task == "last" else 0)
    print("progress", total)
    print("died", workers.died, file=sys.stderr if os.environ.get("TELL") else open(os.devnull, "w"))
"""


@pytest.fixture
def start(tmp_path):
    """start(*arguments) -> Popen of the script in an empty folder of its own."""
    (tmp_path / "script.py").write_text(SCRIPT)
    (tmp_path / "folder").mkdir()
    running = []

    def popen(*arguments: str, **environment: str) -> subprocess.Popen:
        running.append(
            subprocess.Popen(
                [sys.executable, str(tmp_path / "script.py"), *arguments], cwd=tmp_path / "folder", text=True,
                stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
            )
        )  # fmt: skip
        return running[-1]

    yield popen
    for process in running:
        process.kill()
        process.communicate()


def wait_for(condition, seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_each_process_is_prepared_once_and_a_failure_stays_its_own(start, tmp_path):
    process = start("x", *"abcdef", "bad", "g", TELL="1")
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0 and err == "died False\n"
    *results, total = out.splitlines()
    assert sorted(results) == sorted(
        [*(f"{t} -> x{t}" for t in "abcdefg"), "bad -> bad: found a; expected b. c"]
    )  # fmt: skip
    assert total == "progress 14.0"
    assert 1 <= len(list(tmp_path.glob("folder/prepared-*"))) <= 2


def test_a_process_that_dies_fails_its_task_and_is_replaced(start, tmp_path):
    out, err = start("x", "deadly", "a", "deadly", "b", "deadly", "c", TELL="1").communicate(timeout=60)
    assert err == "died True\n" and all(f"{t} -> x{t}" in out for t in "abc")
    assert out.count("deadly -> deadly: found a process that ended unexpectedly") == 3


def test_a_process_that_dies_between_two_tasks_costs_none(start):
    """Its owner was busy with a result meanwhile, and finds that out when it sends the next task."""
    out, err = start("x", "last", "last", "a", "b").communicate(timeout=60)
    assert err == "" and sorted(out.split("\n")[:-2]) == ["a -> xa", "b -> xb", "last -> xlast", "last -> xlast"]


def test_preparation_that_fails_is_raised_in_the_owner(start):
    process = start("unfit", "a", "b", "c")
    out, err = process.communicate(timeout=60)
    assert process.returncode == 1 and out == ""
    assert err.count("ModelError: unfit: found a") == 1


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGKILL])
def test_tasks_under_way_are_cleaned_up_when_the_owner_ends(start, tmp_path, ending):
    process = start("x", "endless", "endless", "a")

    def partial():
        return list(tmp_path.glob("folder/partial-*"))

    wait_for(lambda: len(partial()) == 2)
    workers = [int(path.name.partition("-")[2]) for path in partial()]
    process.send_signal(ending)
    process.wait(30)
    wait_for(lambda: not partial() and not any(map(alive, workers)))


def interrupted(process, folder, tasks: int) -> str:
    """What it printed until it ended, after Ctrl-C while so many tasks were under way; nothing of them is left."""
    wait_for(lambda: len(list(folder.glob("partial-*"))) == tasks)
    process.send_signal(signal.SIGINT)
    (folder / "go").touch()
    out, err = process.communicate(timeout=30)
    assert "KeyboardInterrupt" in err.splitlines()[-1] and not list(folder.glob("partial-*"))
    return out


def test_what_is_done_before_its_process_notices_is_told(start, tmp_path):
    assert interrupted(start("x", "late", "late", "a"), tmp_path / "folder", 2) == "late -> xlate\n" * 2


def test_a_task_that_does_not_notice_is_ended(start, tmp_path):
    assert interrupted(start("x", "deaf", GRACE_S="0.1"), tmp_path / "folder", 1) == ""


@pytest.mark.skipif(not hasattr(signal, "pthread_sigmask"), reason="no masks of signals here")
def test_no_interrupt_reaches_the_first_process_that_is_spawned():
    script = """
import signal
from multiprocessing import get_context
from deepnmf_cli.workers import interrupts_held

if __name__ == "__main__":
    with interrupts_held():
        process = get_context("spawn").Process()
        process.start()
        assert signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, [])
    process.join()
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])
"""
    subprocess.run([sys.executable, "-c", script], check=True, env={**os.environ, "PYTHONPATH": str(ROOT)})


def alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{process}/stat").read_text().split()[2] != "Z" if Path("/proc").exists() else True
