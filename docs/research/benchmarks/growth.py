"""How time and memory grow with the length of a recording, its channels, the number of files, and K and R of deep NMF.

    python docs/research/benchmarks/growth.py [--lengths 10 60 600 3600] [--channels 1 4 16 64] [--files 1 10 100 1000]
        [--figure growth.png]

Whole processes of `deepnmf enhance`, one thread, CPU seconds and peak memory; K and R in one process, untrained, 10 s.
For each, time = a + b x by least squares of relative errors, and the largest relative residual of all but the smallest
x, where the start of the program rules. Prints Markdown, and draws a panel for each.
"""

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile

ROOT, RATE_HZ = Path(__file__).parents[3], 16000
Points = list[tuple[float, float, float]]
"""(x, CPU seconds, peak memory in MiB)"""


def whole(folder: Path, source: str) -> tuple[float, float]:
    """CPU seconds and peak MiB of one call."""
    command = [sys.executable, "-m", "deepnmf_cli", "enhance", source, "-o", "out/", "--overwrite", "-q", "--jobs", "1"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([*command, "--device", "cpu"], cwd=folder, env=environment)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{source}: exit code {process.returncode}")
    return used.ru_utime + used.ru_stime, used.ru_maxrss / 1024


def write(path: Path, seconds: float, channels: int = 1) -> None:
    """A recording of noise, written second by second."""
    draw = np.random.default_rng(0)
    with soundfile.SoundFile(path, "w", RATE_HZ, channels, "PCM_16") as file:
        for _ in range(round(seconds)):
            file.write(0.1 * draw.standard_normal((RATE_HZ, channels)))


def recordings(lengths: list[float], channels: list[int], files: list[int]) -> dict[str, Points]:
    """Points of whole processes."""
    found: dict[str, Points] = {"seconds of audio": [], "channels, 60 s each": [], "files of 1 s": []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for seconds in lengths:
            write(folder / "in.wav", seconds)
            found["seconds of audio"].append((seconds, *whole(folder, "in.wav")))
        for count in channels:
            write(folder / "in.wav", 60, count)
            found["channels, 60 s each"].append((count, *whole(folder, "in.wav")))
        (folder / "in").mkdir()
        for count in files:
            for number in range(count):
                write(folder / f"in/{number:06}.wav", 1)
            found["files of 1 s"].append((count, *whole(folder, "in")))
    return found


def layers(depths: list[int], atoms: list[int], rounds: int) -> dict[str, Points]:
    """Points of deep NMF: the CPU time of its network alone, the best of some rounds, without its memory."""
    import torch

    from deepnmf_cli.networks import build
    from deepnmf_cli.recipe import read_recipe

    torch.set_num_threads(1)

    def measured(depth: int, size: int) -> float:
        settings = read_recipe(None, "deep-nmf", [f"network.iterations={depth}", f"network.atoms={size}"])
        network = build("deep-nmf", settings.network).eval()
        inputs = torch.rand(1, settings.front_end.bins, round(10 * settings.front_end.frames_per_s))
        taken = []
        with torch.inference_mode():
            for _ in range(rounds + 1):
                began = time.process_time()
                network(inputs)
                taken.append(time.process_time() - began)
        return min(taken[1:])

    return {
        "K, R = 100": [(depth, measured(depth, 100), np.nan) for depth in depths],
        "R, K = 10": [(size, measured(10, size), np.nan) for size in atoms],
    }


def line(points: Points) -> tuple[float, float, float]:
    """a, b of time = a + b x, and the largest relative residual beyond the smallest x."""
    x, y = (np.array(column) for column in list(zip(*points, strict=True))[:2])
    table = np.stack([np.ones_like(x), x], 1)
    (a, b), *_ = np.linalg.lstsq(table / y[:, None], np.ones_like(y), rcond=None)
    return a, b, float(np.abs((a + b * x) / y - 1)[1:].max())


def draw(found: dict[str, Points], path: Path) -> None:
    """A panel for each, time on the left and memory on the right."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 6.5), layout="constrained")
    for axis, (name, points) in zip(figure.subplots(2, 3).flat, found.items(), strict=False):
        x, time_s, memory = zip(*points, strict=True)
        a, b, _ = line(points)
        fine = np.geomspace(min(x), max(x), 200)
        axis.loglog(x, time_s, "o", color="C0")
        axis.loglog(fine, a + b * fine, color="C0", label=f"{a:.3g} s + {b:.3g} s x")
        axis.set(xlabel=name, ylabel="CPU time (s)")
        axis.set_xticks(x, [f"{value:g}" for value in x])
        axis.set_xticks([], minor=True)
        rounded = sorted({float(f"{value:.1g}") for value in np.geomspace(min(time_s), max(time_s), 5)})
        axis.set_yticks(rounded, [f"{value:g}" for value in rounded])
        axis.set_yticks([], minor=True)
        axis.legend(loc="upper left", fontsize="small")
        if np.isfinite(memory).all():
            right = axis.twinx()
            right.plot(x, memory, "s--", color="C1", markersize=4)
            right.set_ylabel("peak memory (MiB)", color="C1")
            right.set_ylim(0, 1.3 * max(memory))
    for axis in figure.axes[len(found) : 6]:
        if not axis.has_data():
            axis.set_axis_off()
    figure.savefig(path, dpi=110)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--lengths", type=float, nargs="+", default=[10, 60, 600, 3600])
    arguments.add_argument("--channels", type=int, nargs="+", default=[1, 4, 16, 64])
    arguments.add_argument("--files", type=int, nargs="+", default=[1, 10, 100, 1000])
    arguments.add_argument("--depths", type=int, nargs="+", default=[5, 10, 20, 40])
    arguments.add_argument("--atoms", type=int, nargs="+", default=[50, 100, 200, 400])
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--figure", type=Path)
    given = arguments.parse_args()
    print(f"{platform.machine()}, {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}; seed 0\n")
    found = recordings(given.lengths, given.channels, given.files)
    found |= layers(given.depths, given.atoms, given.rounds)
    print("| x | CPU s (peak MiB) at x | a, s | b, s | largest residual |\n|---|---|---|---|---|")
    for name, points in found.items():
        cells = ", ".join(f"{x:g}: {t:.3g}" + (f" ({m:.0f})" if np.isfinite(m) else "") for x, t, m in points)
        a, b, residual = line(points)
        print(f"| {name} | {cells} | {a:.3g} | {b:.3g} | {100 * residual:.0f} % |")
    if given.figure:
        draw(found, given.figure)


if __name__ == "__main__":
    main()
