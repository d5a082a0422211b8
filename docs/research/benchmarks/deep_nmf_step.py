"""One training step of deep NMF: fixed layers without a record, and kept, against autograd through all layers.

    python docs/research/benchmarks/deep_nmf_step.py [--frames 2000] [--rounds 7] [--threads 1]

K = 25, C = 3, R = 100 per source, T = 9, 257 bins. Three ways to the same gradient, each in a process of its own so
that its peak memory is its own (Linux), on the same synthetic frames; then the times, measured in turns in one process.
"""

import argparse
import multiprocessing
import os
import platform
import re
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from deepnmf_cli.networks.base import SPEECH
from deepnmf_cli.networks.deep_nmf import DICTIONARY, DeepNmf, DeepNmfSettings
from deepnmf_cli.training.objectives import relative_error

SETTINGS = DeepNmfSettings(trained_layers=3)


def problem(frames: int) -> tuple[DeepNmf, Tensor, Tensor]:
    """A network, evidence (2313, frames) and target (257, frames)."""
    torch.manual_seed(0)
    network = DeepNmf(SETTINGS)
    activations = torch.rand(2 * SETTINGS.atoms, frames).pow(4)
    evidence = network.unfolded.bank.value(DICTIONARY, 0) @ activations
    return network, evidence, evidence[-SETTINGS.bins :] * torch.rand(SETTINGS.bins, frames)


def gradient(network: DeepNmf, run: Callable[[], Tensor], evidence: Tensor, target: Tensor) -> Tensor:
    """Gradient of the masked magnitude's error at all trained entries, after one forward and one backward pass."""
    for parameter in network.parameters():
        parameter.grad = None
    estimate = run()[SPEECH] * evidence[-SETTINGS.bins :]
    relative_error(estimate[None], target[None]).backward()
    return torch.cat([p.grad.flatten() for p in network.parameters()])


def ways(network: DeepNmf, evidence: Tensor) -> dict[str, Callable[[], Tensor]]:
    """Name -> forward pass."""
    unfolded = network.unfolded
    kept = network.fixed_state(evidence)

    def naive() -> Tensor:
        lowest = unfolded.bank.value(DICTIONARY, 0).detach().requires_grad_()
        parameters = [unfolded.bank.layer(k) for k in range(unfolded.iterations + 1)]
        parameters = [p if k >= network.fixed_layers else {DICTIONARY: lowest} for k, p in enumerate(parameters)]
        state = unfolded.algorithm.start(evidence, parameters[0])
        for k in range(unfolded.iterations):
            state = unfolded.algorithm.step(evidence, state, parameters[k])
        return unfolded.algorithm.readout(evidence, state, parameters[-1])

    return {
        "autograd through all layers": naive,
        "fixed layers not recorded": lambda: network.frame_masks(evidence),
        "fixed layers kept": lambda: network.frame_masks(evidence, kept),
    }


def peak_mib(frames: int, way: str) -> float:
    """What one step adds to the peak memory of its process, in MiB."""
    torch.set_num_threads(1)
    network, evidence, target = problem(frames)
    run = ways(network, evidence)[way]
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak of the set-up
    before = status_mib("VmRSS")
    gradient(network, run, evidence, target)
    return status_mib("VmHWM") - before


def status_mib(key: str) -> float:
    """A number of /proc/self/status, in MiB."""
    return int(re.search(rf"{key}:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) / 1024


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--frames", type=int, default=2000)
    arguments.add_argument("--rounds", type=int, default=7)
    arguments.add_argument("--threads", type=int, default=1)
    given = arguments.parse_args()
    torch.set_num_threads(given.threads)
    print(f"{platform.machine()}, {os.cpu_count()} CPUs, {given.threads} threads, torch {torch.__version__}")
    print(f"{given.frames} frames, medians (min .. max) of {given.rounds} rounds in turns")
    network, evidence, target = problem(given.frames)
    candidates = ways(network, evidence)
    gradients, seconds = {}, {name: [] for name in candidates}
    for round_ in range(given.rounds + 1):
        for name, run in candidates.items():
            began = time.perf_counter()
            gradients[name] = gradient(network, run, evidence, target)
            if round_:  # the first is a warm-up
                seconds[name].append(time.perf_counter() - began)
    exact = gradients["autograd through all layers"]
    context = multiprocessing.get_context("spawn")
    for name, times in seconds.items():
        with context.Pool(1) as pool:
            memory = pool.apply(peak_mib, (given.frames, name))
        ratios = [a / b for a, b in zip(seconds["autograd through all layers"], times, strict=True)]
        error = float((gradients[name] - exact).norm() / exact.norm())
        print(
            f"{name:28s} {statistics.median(times):7.3f} s ({min(times):.3f} .. {max(times):.3f}), "
            f"{statistics.median(ratios):5.2f} times as fast, peak +{memory:.0f} MiB, relative difference {error:.1e}"
        )


if __name__ == "__main__":
    main()
