"""Real-time factor of `deepnmf enhance` on one core, and where the time goes.

    python tests/benchmarks/realtime_factor.py [--model NAME|FILE ...] [--seconds 60] [--rate 16000] [--rounds 5]

The real-time factor is processing time over duration of the audio; CPU time of one thread is used, which other work on
the machine disturbs less than wall time. Loading the program and the model is shown apart.
"""

import argparse
import os
import platform
import statistics
import tempfile
import time
from pathlib import Path

BEGAN = time.process_time()

import numpy as np  # noqa: E402
import soundfile  # noqa: E402
import torch  # noqa: E402

from deepnmf_cli import library  # noqa: E402
from deepnmf_cli.enhancer import BLOCK_S  # noqa: E402
from deepnmf_cli.signal.rewrite import rewrite  # noqa: E402


def measure(work, rounds: int) -> list[float]:
    """CPU seconds of each of `rounds` calls, after one that is not counted."""
    work()
    seconds = []
    for _ in range(rounds):
        began = time.process_time()
        work()
        seconds.append(time.process_time() - began)
    return seconds


def show(name: str, seconds: list[float], duration_s: float) -> None:
    low, middle, high = (f(seconds) / duration_s for f in (min, statistics.median, max))
    print(f"  {name:34s} {middle:.4f}   ({low:.4f} .. {high:.4f})")


def stages(enhancer, samples: torch.Tensor, rate_hz: int) -> dict[str, callable]:
    """The steps of the data path, each on the whole recording cut into the blocks of the enhancer."""
    pair, size = enhancer.front_end.pair(rate_hz), round(BLOCK_S * rate_hz)
    blocks = list(samples.split(size, -1))
    spectra = [pair.analysis(block) for block in blocks]
    heard = [s.abs().mean(0)[None, : enhancer.front_end.bins] for s in spectra]

    def network() -> None:
        state = None
        for magnitude in heard:
            _, state = enhancer.backend(magnitude, state)

    return {
        "analysis": lambda: [pair.analysis(block) for block in blocks],
        "network": network,
        "synthesis": lambda: [pair.synthesis(s, block.shape[-1]) for s, block in zip(spectra, blocks)],
    }


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--model", action="append", help="repeat to compare; default: the shipped default")
    arguments.add_argument("--seconds", type=float, default=60.0)
    arguments.add_argument("--rate", type=int, default=16000)
    arguments.add_argument("--rounds", type=int, default=5)
    given = arguments.parse_args()
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} CPUs, 1 thread, torch {torch.__version__}")
    print(f"{given.seconds:g} s of audio at {given.rate} Hz, {given.rounds} rounds; median (min .. max)")
    print(f"imports: {time.process_time() - BEGAN:.2f} s of CPU time")
    draw = np.random.default_rng(0)
    samples = (0.1 * draw.standard_normal((1, round(given.seconds * given.rate)))).clip(-1, 1).astype(np.float32)
    for name in given.model or [None]:
        began = time.process_time()
        enhancer = library.load_enhancer(name, "cpu")
        print(f"{name or library.DEFAULT_MODEL}: loaded in {time.process_time() - began:.2f} s of CPU time")
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder, "in.wav")
            soundfile.write(source, samples.T, given.rate, subtype="PCM_16")
            target = Path(folder, "out.wav")

            def whole() -> None:
                rewrite(source, target, enhancer.enhance_blocks)

            show("file to file", measure(whole, given.rounds), given.seconds)
        show("samples to samples", measure(lambda: enhancer.enhance(samples, given.rate), given.rounds), given.seconds)
        for stage, work in stages(enhancer, torch.from_numpy(samples), given.rate).items():
            show(f"  {stage}", measure(work, given.rounds), given.seconds)


if __name__ == "__main__":
    main()
