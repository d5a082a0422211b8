"""A layer of belief propagation against the matrix product of the same size: forward and backward, float32.

    python docs/research/benchmarks/belief_layer.py [--rounds 9] [--units 256] [--batch 4096] [--threads 1]

Contenders take turns within every round. With one thread its processor time is measured, which neither counts the time
of other programs nor, on a machine with spare cores, differs from what a clock shows.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))

from activation_update import machine

from deepnmf_cli.inference import binary, expectations
from deepnmf_cli.kernels.unit_sums import compile_unit_kernel

PRODUCT, SIGMOID = "matrix product", "mean-field layer"
GROUPED, KERNEL, PLAIN = "belief propagation, matrix products", "belief propagation, machine code", "one by one"
PLAIN_SHARE = 64
"""The plain sum keeps many numbers per pair of units and batch entry: it gets a part of the batch and is scaled up."""


def contenders(units: int, batch: int) -> dict[str, tuple[float, Callable[[], None]]]:
    """Name -> (factor on the time, one forward and backward pass)."""
    draw = torch.Generator().manual_seed(0)
    log_odds = torch.randn(batch, units, generator=draw).requires_grad_()
    couplings = (0.5 * torch.randn(units, units, generator=draw)).requires_grad_()
    above, bias = torch.randn(batch, units, generator=draw), torch.zeros(units)
    kernel = compile_unit_kernel()

    def run(layer: Callable[[torch.Tensor], torch.Tensor], share: int = 1) -> Callable[[], None]:
        def once() -> None:
            log_odds.grad = couplings.grad = None
            layer(log_odds[: batch // share] if share > 1 else log_odds).backward(above[: batch // share])

        return once

    runs = {
        PRODUCT: (1.0, run(lambda u: torch.nn.functional.linear(u, couplings))),
        SIGMOID: (1.0, run(lambda u: expectations.field(u, couplings, bias, 0.0))),
        GROUPED: (1.0, run(lambda u: expectations.field(u, couplings, bias))),
        PLAIN: (float(PLAIN_SHARE), run(lambda u: binary.field(u, couplings, bias), PLAIN_SHARE)),
    }
    if kernel is not None:
        runs[KERNEL] = (1.0, run(lambda u: expectations.field(u, couplings, bias, 1.0, kernel.sums)))
    return runs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for option, value in (("rounds", 9), ("units", 256), ("batch", 4096), ("threads", 1)):
        parser.add_argument(f"--{option}", type=int, default=value)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    clock = time.thread_time if options.threads == 1 else time.perf_counter
    runs = contenders(options.units, options.batch)
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(options.rounds + 1):
        for name, (factor, once) in runs.items():
            began = clock()
            once()
            seconds[name].append(factor * (clock() - began))
    size = f"{options.units} x {options.units}, batch {options.batch}"
    print(f"{size}, float32; {options.rounds} rounds, {options.threads} thread(s). {machine()}\n")
    print("| layer, forward + backward | median ms (quartiles) | times the product (quartiles) |\n|---|---|---|")
    for name, values in seconds.items():
        low, median, high = statistics.quantiles(values[1:], n=4)
        ratios = [a / b for a, b in zip(values[1:], seconds[PRODUCT][1:], strict=True)]
        least, ratio, most = statistics.quantiles(ratios, n=4)
        print(
            f"| {name} | {1e3 * median:.1f} ({1e3 * low:.1f}-{1e3 * high:.1f}) | {ratio:.2f} ({least:.2f}-{most:.2f}) |"
        )


if __name__ == "__main__":
    main()
