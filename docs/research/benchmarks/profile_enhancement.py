"""Where the time of enhancement goes, and how it grows; one thread, CPU time.

    python docs/research/benchmarks/profile_enhancement.py [--model NAME] [--seconds 60] [--rate 16000] [--rounds 5]

The stages of the data path, in blocks as the program has them, against the rate of large matrix products; then the cost
of recordings of several lengths and of deep NMF with several numbers of atoms R and of iterations K.
"""

import argparse
import os
import platform
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

from deepnmf_cli import zoo
from deepnmf_cli.enhancer import BLOCK_S
from deepnmf_cli.signal import audio, audio_writer
from deepnmf_cli.signal.features import phase_features
from deepnmf_cli.signal.rewrite import rewrite


def measure(work, rounds: int) -> list[float]:
    """CPU seconds of each of `rounds` calls, after one that is not counted."""
    work()
    seconds = []
    for _ in range(rounds):
        began = time.process_time()
        work()
        seconds.append(time.process_time() - began)
    return seconds


def show(name: str, seconds: list[float], duration_s: float, macs_per_s: float | None = None) -> None:
    """A row: milliseconds per second of audio, and billions of multiply-adds per second."""
    low, middle, high = (1000 * f(seconds) / duration_s for f in (min, statistics.median, max))
    speed = "" if macs_per_s is None else f"{macs_per_s / middle / 1e6:.1f}"
    print(f"| {name} | {middle:.2f} ({low:.2f}-{high:.2f}) | {speed} |")


def peak_macs_per_s(rounds: int) -> float:
    """Multiply-adds per second of a large matrix product in single precision."""
    a = np.random.default_rng(0).standard_normal((768, 768)).astype(np.float32)
    return a.shape[0] ** 3 / min(measure(lambda: a @ a, 3 * rounds))


def features_of(spectrum: np.ndarray, backend, window_hops: int) -> np.ndarray:
    """What the network takes of spectra (C, F, T)."""
    if not backend.uses_phase:
        return np.abs(spectrum).mean(0)
    return phase_features(spectrum, np.zeros_like(spectrum[..., :1]), window_hops)


def stages(enhancer, samples: np.ndarray, rate_hz: int, folder: Path) -> dict:
    """The steps of the data path, each on the whole recording cut into the blocks of the enhancer."""
    pair, size, backend = enhancer.front_end.pair(rate_hz), round(BLOCK_S * rate_hz), enhancer.backend
    blocks = [samples[:, i : i + size] for i in range(0, samples.shape[1], size)]
    spectra = [pair.analysis(block) for block in blocks]
    given = [features_of(spectrum, backend, pair.window_hops) for spectrum in spectra]
    inputs = [x[None, ..., : enhancer.front_end.bins, :] for x in given]

    def network() -> None:
        state = None
        for block in inputs:
            _, state = backend(block, state)

    source, target = folder / "in.wav", folder / "out.wav"
    return {
        "reading": lambda: audio.read(source),
        "analysis": lambda: [pair.analysis(block) for block in blocks],
        "features, masks applied": lambda: [(features_of(x, backend, pair.window_hops), x * x)[1] for x in spectra],
        "network": network,
        "synthesis": lambda: [pair.synthesis(x, block.shape[1]) for x, block in zip(spectra, blocks)],
        "writing": lambda: audio_writer.write(target, samples, rate_hz),
        "all, file to file": lambda: rewrite(source, target, enhancer.enhance_blocks),
    }


def deep_nmf(atoms: int, iterations: int, rounds: int) -> tuple[list[float], float]:
    """CPU seconds for ten seconds of audio, and multiply-adds per second of audio."""
    import torch

    from deepnmf_cli.networks.deep_nmf import DeepNmf, DeepNmfSettings

    torch.set_num_threads(1)
    network = DeepNmf(DeepNmfSettings(atoms=atoms, iterations=iterations)).eval()
    magnitude = torch.rand(1, 257, 625)
    with torch.inference_mode():
        return measure(lambda: network(magnitude), rounds), network.macs_per_frame() * 62.5


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--model")
    arguments.add_argument("--seconds", type=float, default=60.0)
    arguments.add_argument("--rate", type=int, default=16000)
    arguments.add_argument("--rounds", type=int, default=5)
    given = arguments.parse_args()
    draw = np.random.default_rng(0)
    enhancer, info = zoo.load_enhancer(given.model, "cpu", "onnx"), zoo.info(zoo.find(given.model))
    peak = peak_macs_per_s(given.rounds)
    print(f"{platform.machine()}, {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}; one thread, CPU time;", end=" ")
    print(f"matrix products reach {peak / 1e9:.1f} billion multiply-adds per second")
    print(f"\n| {info.name}, {given.rate} Hz | ms per s of audio | 10^9 multiply-adds/s |\n|---|---|---|")
    samples = (0.1 * draw.standard_normal((1, round(given.seconds * given.rate)))).clip(-1, 1).astype(np.float32)
    with tempfile.TemporaryDirectory() as folder:
        audio_writer.write(Path(folder, "in.wav"), samples, given.rate)
        for stage, work in stages(enhancer, samples, given.rate, Path(folder)).items():
            macs = info.macs_per_s if stage == "network" else None
            show(stage, measure(work, given.rounds), given.seconds, macs)
    print(f"| the network's {info.macs_per_s / 1e6:.1f} million multiply-adds at that peak |", end=" ")
    print(f"{1000 * info.macs_per_s / peak:.2f} | {peak / 1e9:.1f} |")
    for seconds in (15, 60, 240):
        long = np.tile(samples[:, : 15 * given.rate], seconds // 15)
        show(f"{seconds} s, samples to samples", measure(lambda: enhancer.enhance(long, given.rate), 3), seconds)
    for atoms, iterations in ((50, 10), (100, 10), (200, 10), (100, 20), (100, 40)):
        taken, macs = deep_nmf(atoms, iterations, 3)
        show(f"deep NMF, R = {atoms}, K = {iterations}, torch", taken, 10, macs)


if __name__ == "__main__":
    main()
