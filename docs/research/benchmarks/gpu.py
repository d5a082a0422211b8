"""What a GPU gives, in one call: training, enhancement, and how near both come to what the device can do.

    python docs/research/benchmarks/gpu.py --pack PACK [--device cuda] [--model base] [--batches 1 16 64]
        [--train-s 60] [--workers N] [--files 256]

1. `deepnmf train --pack` for --train-s seconds with --workers processes that mix: hours of audio heard per minute.
2. The network alone on batches of recordings of 4 s: hours per second; its multiply-adds as a share of a large matrix
   product's, and the bytes that its modules read and write as a share of what a large copy moves.
3. Recordings in memory, as many at once, through the whole path with transforms and masks.
4. Files to files: as many recordings at once, read and written by threads.

Each is measured on the device and, with half as many rounds, on the CPU. Bytes are those of the tensors that go into
and come out of modules without parts: operations that are fused move less, functions outside of modules are not seen.
Recordings that go together are channels which share no mask: at most 64, and the path takes them one after the other,
so that only the first of the four gains by many.
"""

import argparse
import itertools
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import soundfile
import torch

from deepnmf_cli import zoo
from deepnmf_cli.corpus.pack import verify
from deepnmf_cli.corpus.sources import Recordings
from deepnmf_cli.enhancer import BLOCK_S, Enhancer
from deepnmf_cli.experiment import train
from deepnmf_cli.recipe import read_recipe
from deepnmf_cli.signal import audio, audio_writer
from deepnmf_cli.training.time_limit import TimeLimit

MATRIX, COPIED_BYTES = 4096, 1 << 28


def seconds(work: Callable[[], object], device: str, rounds: int) -> float:
    """Median of the wall seconds of `rounds` calls, after two to warm up, each until the device has finished."""
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    taken = []
    for _ in range(rounds + 2):
        wait()
        began = time.perf_counter()
        work()
        wait()
        taken.append(time.perf_counter() - began)
    return statistics.median(taken[2:])


def peaks(device: str, rounds: int) -> tuple[float, float]:
    """Multiply-adds per second of a large product in float32, and bytes per second that a large copy moves."""
    matrix = torch.rand(MATRIX, MATRIX, device=device)
    source = torch.zeros(COPIED_BYTES, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    product = MATRIX**3 / seconds(lambda: matrix @ matrix, device, rounds)
    return product, 2 * COPIED_BYTES / seconds(lambda: target.copy_(source), device, rounds)


def moved_bytes(network: torch.nn.Module, inputs: torch.Tensor) -> int:
    """Bytes that the modules without parts take and give for these inputs, and those of the weights."""
    count = 0

    def tensors(item: object) -> Iterator[torch.Tensor]:
        if isinstance(item, torch.Tensor):
            yield item
        elif isinstance(item, tuple | list):
            yield from itertools.chain.from_iterable(map(tensors, item))

    def see(module: torch.nn.Module, given: object, returned: object) -> None:
        nonlocal count
        count += sum(x.numel() * x.element_size() for x in (*tensors(given), *tensors(returned)))

    leaves = [module for module in network.modules() if not list(module.children())]
    handles = [module.register_forward_hook(see) for module in {*leaves, network}]
    network(inputs)
    for handle in handles:
        handle.remove()
    return count + sum(p.numel() * p.element_size() for p in network.parameters())


def training(pack: Path, model: str, device: str, workers: int, limit_s: float) -> float:
    """Hours heard per minute of training, its start left out."""
    recipe = read_recipe(model, None, ["training.score_every=1000000", "training.steps=1000000"])
    steps: list[tuple[float, int]] = []
    dev = pack / "dev" if (pack / "dev").is_dir() else None
    recordings = Recordings(None, None, None, dev, verify(pack), None, None)
    with tempfile.TemporaryDirectory() as folder:

        def told(report: dict) -> None:
            if "step" in report:
                steps.append((time.perf_counter(), report["step"]))

        def over() -> bool:
            return bool(steps) and steps[-1][0] - steps[0][0] > limit_s

        train(recipe, recordings, Path(folder) / "run", device=device, workers=workers, progress=told, stop=over,
              limit=TimeLimit(10 * limit_s + 600))  # fmt: skip
    steps = steps[min(8, len(steps) // 4) :]  # the first ones are not captured yet
    (began, first), (ended, last) = steps[0], steps[-1]
    hours = (last - first) * recipe.training.batch * recipe.mixing.segment_s / 3600
    return hours / max(1e-9, ended - began) * 60


def together(enhancer: Enhancer, samples: np.ndarray, rate_hz: int) -> np.ndarray:
    """Enhance recordings (B, N) at once."""
    return np.concatenate(list(enhancer.enhance_blocks([samples], rate_hz, len(samples), separate=True)), axis=1)


def file_to_file(enhancer: Enhancer, folder: Path, paths: list[Path], size: int, rate_hz: int) -> float:
    """Hours per second of files of one length, of which `size` go together."""
    began, hours = time.perf_counter(), 0.0
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        groups = [paths[i : i + size] for i in range(0, len(paths), size)]
        ahead = [pool.submit(lambda group: [audio.read(path)[0][0] for path in group], group) for group in groups]
        written = []
        for group, read in zip(groups, ahead):
            samples = np.stack(read.result())
            hours += samples.size / rate_hz / 3600
            for path, sound in zip(group, together(enhancer, samples, rate_hz)):
                written.append(pool.submit(audio_writer.write, folder / "out" / path.name, sound[None], rate_hz))
        for one in written:
            one.result()
    return hours / (time.perf_counter() - began)


@torch.inference_mode()
def enhancement(model: str, device: str, sizes: list[int], files: int, rounds: int) -> None:
    """Print the table of one device."""
    product, copied = peaks(device, rounds)
    print(f"\n{device}: product {product / 1e12:.2f} T multiply-adds/s, copy {copied / 1e9:.1f} GB/s\n")
    print("| recordings at once | network, h/s | of the product | of the copy | from memory, h/s | files, h/s |")
    print("|---|---|---|---|---|---|")
    enhancer = zoo.load_enhancer(model, device, "torch")
    network, front_end = enhancer.backend.network, enhancer.front_end
    frames, rate_hz = round(BLOCK_S * front_end.frames_per_s), front_end.rate_hz
    draw = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "out").mkdir()
        paths = [folder / f"{number}.wav" for number in range(files)]
        for path in paths:
            soundfile.write(path, 0.1 * draw.standard_normal(round(BLOCK_S * rate_hz)), rate_hz)
        for size in sizes:
            spectra = torch.randn(size, front_end.bins, frames, dtype=torch.complex64, device=device)
            inputs = network.features_of(spectra, front_end.window_hops)
            taken = seconds(lambda: network(inputs), device, rounds)
            macs, moved = network.macs_per_frame() * frames * size, moved_bytes(network, inputs)
            samples = (0.1 * draw.standard_normal((size, round(BLOCK_S * rate_hz)))).astype(np.float32)
            whole = seconds(lambda: together(enhancer, samples, rate_hz), device, max(1, rounds // 2))
            through = file_to_file(enhancer, folder, paths, size, rate_hz)
            hours = size * BLOCK_S / 3600
            shares = f"{100 * macs / taken / product:.1f} % | {100 * moved / taken / copied:.1f} %"
            print(f"| {size} | {hours / taken:.3f} | {shares} | {hours / whole:.3f} | {through:.3f} |", flush=True)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--pack", type=Path)
    arguments.add_argument("--device", default="cuda", choices=["cpu", "cuda"])
    arguments.add_argument("--model", default="base")
    arguments.add_argument("--batches", type=int, nargs="+", default=[1, 16, 64])
    arguments.add_argument("--train-s", type=float, default=60.0)
    arguments.add_argument("--workers", type=int, default=max(1, (os.cpu_count() or 2) - 1))
    arguments.add_argument("--files", type=int, default=256)
    arguments.add_argument("--rounds", type=int, default=10)
    given = arguments.parse_args()
    device = zoo.resolve_device(given.device)
    where = torch.cuda.get_device_name() if device == "cuda" else platform.processor() or platform.machine()
    print(f"{where}, {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}, torch {torch.__version__}; medians, seed 0")
    for one, rounds in ((device, given.rounds), *([("cpu", given.rounds // 2)] if device != "cpu" else [])):
        if given.pack:
            rate = training(given.pack, given.model, one, given.workers, given.train_s)
            print(f"\n{one}: training hears {rate:.2f} hours per minute, {given.workers} processes mix")
        enhancement(given.model, one, given.batches, given.files, rounds)


if __name__ == "__main__":
    main()
