"""Enhancement on a GPU: hours of audio per second, and how near that comes to what the device can do.

    python docs/research/benchmarks/gpu.py [--device cuda] [--model NAME|FILE ...] [--batches 1 16 64 256] [--folder
    DIR]

Networks run on batches of recordings of 4 s, as a program that enhances a folder on a GPU would have to: one recording
alone leaves the device idle. With --folder the files of a folder also go through `Enhancer`, one after the other, as
`deepnmf enhance --device cuda` does it. Training steps are measured by training_throughput.py --device cuda.

Prepared without a GPU at hand: it has been run with --device cpu only, and no figure of a GPU is reported anywhere yet.
"""

import argparse
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

from deepnmf_cli import zoo
from deepnmf_cli.enhancer import BLOCK_S
from deepnmf_cli.signal import audio, formats

MATRIX = 4096


def seconds(work: Callable[[], object], device: str, rounds: int) -> list[float]:
    """Wall seconds of each of `rounds` calls, after two to warm up, each waiting until the device has finished."""
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    taken = []
    for _ in range(rounds + 2):
        wait()
        began = time.perf_counter()
        work()
        wait()
        taken.append(time.perf_counter() - began)
    return taken[2:]


def peak_macs_per_s(device: str, rounds: int) -> float:
    """Multiply-adds per second of a large matrix product in float32, as networks compute it."""
    matrix = torch.rand(MATRIX, MATRIX, device=device)
    return MATRIX**3 / statistics.median(seconds(lambda: matrix @ matrix, device, rounds))


@torch.inference_mode()
def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--device", default="cuda", choices=["cpu", "cuda"])
    arguments.add_argument("--model", action="append", help="repeat to compare; default: all that ship")
    arguments.add_argument("--batches", type=int, nargs="+", default=[1, 16, 64, 256])
    arguments.add_argument("--folder", type=Path)
    arguments.add_argument("--rounds", type=int, default=10)
    given = arguments.parse_args()
    device = zoo.resolve_device(given.device)
    where = torch.cuda.get_device_name() if device == "cuda" else platform.processor() or platform.machine()
    peak = peak_macs_per_s(device, given.rounds)
    print(f"{where}, torch {torch.__version__}, CUDA {torch.version.cuda}; {given.rounds} rounds, medians (min-max)")
    print(f"matrix product of {MATRIX} x {MATRIX}, float32: {peak / 1e12:.2f} T multiply-adds per second\n")
    print("| model | recordings at once | hours of audio per second | share of that product |\n|---|---|---|---|")
    for name in given.model or [model.name for model in zoo.available()]:
        enhancer = zoo.load_enhancer(name, device, "torch")
        network, front_end = enhancer.backend.network, enhancer.front_end
        frames = round(BLOCK_S * front_end.frames_per_s)
        for size in given.batches:
            spectra = torch.randn(size, front_end.bins, frames, dtype=torch.complex64, device=device)
            inputs = network.features_of(spectra, front_end.window_hops)
            taken = seconds(lambda: network(inputs), device, given.rounds)
            hours = [size * BLOCK_S / 3600 / value for value in taken]
            share = network.macs_per_frame() * frames * size / statistics.median(taken) / peak
            spread = f"{min(hours):.3f}-{max(hours):.3f}"
            print(f"| {name} | {size} | {statistics.median(hours):.3f} ({spread}) | {100 * share:.1f} % |")
        if given.folder:
            files = [audio.read(path) for path in formats.find(given.folder)]
            hours = sum(samples.shape[1] / rate_hz for samples, rate_hz in files) / 3600
            began = time.perf_counter()
            for samples, rate_hz in files:
                enhancer.enhance(samples, rate_hz)
            elapsed = time.perf_counter() - began
            print(f"| {name} | one file after the other, with STFT and copies | {hours / elapsed:.3f} | - |")


if __name__ == "__main__":
    main()
