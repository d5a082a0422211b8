"""Throughput of `deepnmf enhance` on a folder with one and with several processes.

    python docs/research/benchmarks/folder_throughput.py [--jobs 1 2] [--files 8] [--seconds 60] [--rounds 3] [--model
    NAME]

Runs the command as a user does, start of the program included. On a machine that does other work at the same time wall
time says little; the CPU time of all processes is shown beside it, and the load that was found.
"""

import argparse
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile

ROOT = Path(__file__).parents[3]
RATE = 16000


def run(folder: Path, jobs: int, model: str | None) -> tuple[float, float]:
    """Wall and CPU seconds of one call."""
    command = [sys.executable, "-m", "deepnmf_cli.main", "enhance", "in", "-o", "out", "--overwrite", "-q"]
    command += ["--device", "cpu", "--jobs", str(jobs), *(["--model", model] if model else [])]
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True)
    wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--jobs", type=int, nargs="+", default=[1, 2])
    arguments.add_argument("--files", type=int, default=8)
    arguments.add_argument("--seconds", type=float, default=60.0)
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--model")
    given = arguments.parse_args()
    audio_s = given.files * given.seconds
    print(f"{platform.machine()}, {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f} before; {audio_s:g} s of audio")
    draw, times = np.random.default_rng(0), {jobs: [] for jobs in given.jobs}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "in").mkdir()
        for number in range(given.files):
            noise = 0.1 * draw.standard_normal(round(given.seconds * RATE))
            soundfile.write(folder / "in" / f"{number}.wav", noise, RATE)
        for _ in range(given.rounds):
            for jobs in given.jobs:  # in turn, so that a drift of the machine meets all alike
                times[jobs].append(run(folder, jobs, given.model))
    print("| processes | wall s | CPU s | seconds of audio per second | times the first |\n|---|---|---|---|---|")
    first = statistics.median(wall for wall, _ in times[given.jobs[0]])
    for jobs, measured in times.items():
        walls, cpus = zip(*measured)
        wall = statistics.median(walls)
        print(
            f"| {jobs} | {wall:.2f} ({min(walls):.2f}-{max(walls):.2f}) | {statistics.median(cpus):.2f} |"
            f" {audio_s / wall:.0f} | {first / wall:.2f} |"
        )


if __name__ == "__main__":
    main()
