"""What a file costs beside its audio on a cluster, measured here, and what that means for a hundred million.

    python docs/research/benchmarks/scale.py [--tasks 2000] [--files 20000]

Measures the scheduling of a task by Ray, the list of a folder, the memory of a planned file and the work on short and
long files; needs the extra [cluster]. A small simulation makes plans of it: one driver gives tasks to workers, a task
takes the driver's time, then a worker's. Latencies and prices of a store are assumptions, `LATENCY_S` and `PRICE`.
"""

import argparse
import heapq
import os
import resource
import tempfile
import time
import tracemalloc

import fsspec
import numpy as np
import soundfile

from deepnmf_cli.commands import remote
from deepnmf_cli.commands.cluster import RayWorkers, connected
from deepnmf_cli.commands.jobs import Settings, prepare
from deepnmf_cli.commands.places import Job, Places

LATENCY_S = {"GET": 0.03, "PUT": 0.06, "LIST of 1000": 0.15}
PRICE = {"GET": 0.4e-6, "PUT": 5e-6, "LIST of 1000": 5e-6, "core hour": 0.04}
"""Dollars, in the order of what large clouds ask for."""


def nothing():
    """Work that does nothing."""
    return lambda task, progress: task


def scheduling_s(tasks: int) -> tuple[float, float]:
    """Wall and CPU seconds of the driver for a task without work, two workers."""
    with connected(None), RayWorkers(2, 0, nothing) as workers:
        list(workers.run(range(20), lambda amount: None))
        began, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF)
        list(workers.run(range(tasks), lambda amount: None))
        after = resource.getrusage(resource.RUSAGE_SELF)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return (time.perf_counter() - began) / tasks, cpu / tasks


def planning(files: int) -> tuple[float, float]:
    """CPU seconds and bytes of a file in a list and a plan."""
    memory = fsspec.filesystem("memory")
    for number in range(files):
        memory.pipe_file(f"in/{number % 1000:03}/{number:08}.wav", b"")
    tracemalloc.start()
    planned = remote.plan(["memory://in"], Places("memory://out"), may_exist=False)
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    began = time.process_time()
    remote.plan(["memory://in"], Places("memory://out"), may_exist=False)
    return (time.process_time() - began) / len(planned.jobs), held / len(planned.jobs)


def work_s(seconds: float, count: int) -> float:
    """CPU seconds of the work on a file, from file to file."""
    with tempfile.TemporaryDirectory() as folder:
        source, target = f"{folder}/in.wav", f"{folder}/out.wav"
        soundfile.write(source, 0.1 * np.random.default_rng(0).standard_normal(round(16000 * seconds)), 16000)
        work = prepare(Settings(None, "cpu", "onnx", None, 1.0, overwrite=True), 1)
        work(Job(source, target), lambda amount: None)
        began = time.process_time()
        for _ in range(count):
            work(Job(source, target), lambda amount: None)
        return (time.process_time() - began) / count


def simulate(files: int, workers: int, schedule_s: float, mean_s: float, draw: np.random.Generator) -> float:
    """Seconds until the last of `files` is done: times of the work are log-normal, with a deviation of half."""
    work = mean_s * draw.lognormal(-0.125, 0.5, files)
    free, now = [0.0] * workers, 0.0
    for seconds in work:
        now = max(now + schedule_s, free[0])
        heapq.heapreplace(free, now + seconds)
    return max(free)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--tasks", type=int, default=2000)
    arguments.add_argument("--files", type=int, default=20_000)
    given = arguments.parse_args()
    print(f"{os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}; seed 0\n")
    (wall, cpu), (plan_s, plan_bytes) = scheduling_s(given.tasks), planning(given.files)
    print("| measured | |\n|---|---|")
    print(f"| scheduling of a task, wall | {1e3 * wall:.2f} ms |")
    print(f"| the same, CPU time of the driver | {1e3 * cpu:.2f} ms |")
    print(f"| a file in the list and the plan, CPU | {1e6 * plan_s:.0f} us |")
    print(f"| the same, memory | {plan_bytes:.0f} bytes |")
    lengths = {1: 100, 10: 20, 600: 1}
    work = {seconds: work_s(seconds, count) for seconds, count in lengths.items()}
    for seconds, taken in work.items():
        print(f"| work on a file of {seconds} s, CPU | {1e3 * taken:.1f} ms |")
    print("\n10^8 files, one driver and one prefix; the simulation runs 10^5 of them, and time grows in proportion:\n")
    print("| files of | workers | days | share of their time that workers work | dollars per 1000 h of audio |")
    print("|---|---|---|---|---|")
    draw, tried = np.random.default_rng(0), 100_000
    requests = LATENCY_S["GET"] + LATENCY_S["PUT"]
    for seconds, taken in work.items():
        for workers in (16, 256, 4096):
            busy = taken + requests
            total_s = simulate(tried, workers, cpu, busy, draw) / tried * 1e8 + 1e5 * LATENCY_S["LIST of 1000"]
            used = 1e8 * busy / (workers * total_s)
            cores = workers * total_s / 3600 * PRICE["core hour"]
            asked = 1e8 * (PRICE["GET"] + PRICE["PUT"]) + 2e5 * PRICE["LIST of 1000"]
            dollars = (cores + asked) / (1e8 * seconds / 3600 / 1000)
            print(f"| {seconds} s | {workers} | {total_s / 86400:.2f} | {100 * used:.0f} % | {dollars:.2f} |")


if __name__ == "__main__":
    main()
