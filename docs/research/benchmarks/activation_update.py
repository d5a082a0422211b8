"""One multiplicative update of the activations, Kullback-Leibler: ours against plain torch, scikit-learn and torchnmf.

    python docs/research/benchmarks/activation_update.py [--rounds 15] [--bins 513] [--frames 6000] [--atoms 200]

Contenders take turns within every round, so that whatever else the machine does hits all of them; ratios are medians of
the ratios within rounds, and steadier than the times. The spread is the range from the first to the third quartile.
"""

import argparse
import platform
import statistics
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import numpy as np
import torch
from sklearn.decomposition import _nmf
from threadpoolctl import threadpool_limits

from deepnmf_cli.inference import nmf

OURS, PLAIN, SKLEARN, TORCHNMF = "deepnmf", "plain torch", "scikit-learn", "torchnmf"
PRODUCTS = "the two products alone"


def problem(bins: int, frames: int, atoms: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Mixture (F, T), unit-norm dictionary (F, R) and activations after two updates; random, float32."""
    generator = torch.Generator().manual_seed(0)
    m = torch.rand(bins, frames, generator=generator) ** 3
    w = torch.rand(bins, atoms, generator=generator)
    w = w / w.norm(dim=0)
    return m, w, nmf.infer(m, w, 2)


def contenders(m: torch.Tensor, w: torch.Tensor, h: torch.Tensor) -> dict[str, Callable[[], np.ndarray]]:
    """Name -> one update from h, all of them by equation (33) with beta = 1 and mu = 0, result (R, T)."""
    # scikit-learn keeps frames in rows and updates in place, which the copy makes repeatable; copying h is 5 % of it.
    m_rows, h_rows, w_rows = (np.ascontiguousarray(x.numpy().T) for x in (m, h, w))

    def by_sklearn() -> np.ndarray:
        return _nmf._multiplicative_update_w(m_rows, h_rows.copy(), w_rows, 1, 0, 0, 1.0, update_H=False)[0].T

    runs = {
        OURS: lambda: nmf.step(h, m, w).numpy(),
        PLAIN: lambda: (h * (w.T @ (m / (w @ h))) / w.sum(0)[:, None]).numpy(),
        SKLEARN: by_sklearn,
        PRODUCTS: lambda: (w.T @ (w @ h)).numpy(),
    }
    by_torchnmf = torchnmf_update(m, w, h)
    return runs if by_torchnmf is None else {**runs, TORCHNMF: by_torchnmf}


def torchnmf_update(m: torch.Tensor, w: torch.Tensor, h: torch.Tensor) -> Callable[[], np.ndarray] | None:
    """The same update by torchnmf's trainer, or None where the package is not installed."""
    try:
        from torchnmf.nmf import NMF
        from torchnmf.trainer import BetaMu
    except ImportError:
        return None
    model = NMF(W=w, H=h.T.contiguous(), trainable_W=False)
    trainer, target = BetaMu([model.H], beta=1), m.T.contiguous()

    def closure() -> tuple[torch.Tensor, torch.Tensor]:
        trainer.zero_grad()
        return target, model()

    def run() -> np.ndarray:
        with torch.enable_grad():
            model.H.data.copy_(h.T)
            trainer.step(closure)
        return model.H.detach().numpy().T

    return run


def check(runs: dict[str, Callable[[], np.ndarray]]) -> None:
    """Stop unless all contenders compute the same thing."""
    expected = runs[OURS]()
    for name, run in runs.items():
        if name != PRODUCTS:
            np.testing.assert_allclose(run(), expected, rtol=1e-3, atol=1e-6, err_msg=name)


def measure(runs: dict[str, Callable[[], np.ndarray]], rounds: int) -> dict[str, list[float]]:
    """Name -> seconds, one per round, after one round to warm up.

    Rounds alternate between contenders, so that a drift of the machine meets all alike. Each is called twice and timed
    the second time: the threads of another library's pool spin for some milliseconds after its last product, on the
    cores that the next contender needs.
    """
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds + 1):
        for name, run in runs.items():
            run()
            began = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - began)
    return {name: values[1:] for name, values in seconds.items()}


def report(seconds: dict[str, list[float]], flop: float) -> list[str]:
    """Rows of a Markdown table: median and quartiles in ms, rate, time as a multiple of ours."""
    rows = ["| update | median ms | quartiles ms | GFLOP/s | times ours (quartiles) |", "|---|---|---|---|---|"]
    for name, values in seconds.items():
        low, median, high = statistics.quantiles(values, n=4)
        ratios = statistics.quantiles([theirs / ours for theirs, ours in zip(values, seconds[OURS], strict=True)], n=4)
        rows.append(
            f"| {name} | {1e3 * median:.1f} | {1e3 * low:.1f}-{1e3 * high:.1f} | {flop / median / 1e9:.0f} "
            f"| {ratios[1]:.2f} ({ratios[0]:.2f}-{ratios[2]:.2f}) |"
        )
    return rows


def machine() -> str:
    """Processor and versions, one line."""
    cpu_info = Path("/proc/cpuinfo")
    lines = cpu_info.read_text().splitlines() if cpu_info.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    packages = ("torch", "numpy", "scikit-learn", "torchnmf")
    found = [f"{name} {metadata.version(name)}" for name in packages if installed(name)]
    return ", ".join([f"{len(names)} x {names[0]}" if names else platform.processor(), platform.machine(), *found])


def installed(package: str) -> bool:
    try:
        metadata.version(package)
    except metadata.PackageNotFoundError:
        return False
    return True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for option, value in (("rounds", 15), ("bins", 513), ("frames", 6000), ("atoms", 200)):
        parser.add_argument(f"--{option}", type=int, default=value)
    options = parser.parse_args()
    runs = contenders(*problem(options.bins, options.frames, options.atoms))
    print(f"{options.bins} x {options.frames}, R = {options.atoms}, float32, KL; {options.rounds} rounds. {machine()}")
    for threads in (1, 2):
        torch.set_num_threads(threads)
        with threadpool_limits(threads), torch.no_grad():
            check(runs)
            print(f"\n{threads} thread{'s' * (threads > 1)}\n")
            print("\n".join(report(measure(runs, options.rounds), 4.0 * options.bins * options.frames * options.atoms)))


if __name__ == "__main__":
    main()
