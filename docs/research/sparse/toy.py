"""Errors of sparse codes on the customary toy, for the table in index.md: python docs/research/sparse/toy.py

Gaussian dictionaries of 50 rows and 100 atoms of unit norm; codes of Gaussian entries, a tenth of which are not zero;
no noise. Trained networks have ten layers. Each is trained on codes of that density and measured on 2000 others, also
of other densities: error in dB of the codes' energy, the mean over three dictionaries and its standard deviation.
"""

import statistics

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor

from deepnmf_cli.inference import alista, fista, hyperlista, ista, lista, psista
from deepnmf_cli.inference.ista import SparseCoding
from deepnmf_cli.unfold.network import Bank, Unfolded

ROWS, ATOMS, LAYERS, DENSITIES = 50, 100, 10, (0.1, 0.2, 0.05)
STEPS, BATCH = 250, 64


def dictionary(seed: int) -> Tensor:
    columns = torch.randn(ROWS, ATOMS, generator=torch.Generator().manual_seed(seed))
    return columns / columns.norm(dim=0)


def codes(count: int, density: float, seed: int) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(ATOMS, count, generator=draw) * (torch.rand(ATOMS, count, generator=draw) < density)


def relative_error(found: Tensor, true: Tensor) -> Tensor:
    return (found - true).square().sum() / true.square().sum()


def decibels(found: Tensor, true: Tensor) -> float:
    return float(10 * torch.log10(relative_error(found, true)))


def trained(algorithm: SparseCoding, atoms: Tensor, rate: float, *sketch: Tensor):
    """Adam on the error of the codes after the last layer; returns what codes evidence."""
    network = Unfolded(algorithm, LAYERS, Bank.declared(algorithm.parameters(LAYERS, atoms, *sketch), LAYERS))
    optimiser = torch.optim.Adam(network.parameters(), rate)
    for step in range(STEPS):
        optimiser.param_groups[0]["lr"] = rate * (1 - step / STEPS)
        true = codes(BATCH, DENSITIES[0], 1000 + step)
        optimiser.zero_grad()
        relative_error(network.trajectory(atoms @ true)[-1], true).backward()
        optimiser.step()
    return torch.no_grad()(lambda x: network.trajectory(x)[-1])


def searched(atoms: Tensor):
    """Nelder-Mead on the three constants of HyperLISTA, for 500 codes."""
    true = codes(500, DENSITIES[0], 999)

    def run(x: Tensor, logarithms: np.ndarray) -> Tensor:
        return hyperlista.infer(x, atoms, LAYERS, tuple(np.exp(logarithms)), signed=True)

    begin = np.log([0.03, 0.01, 0.1])
    options = {"initial_simplex": begin + np.vstack([np.zeros(3), np.eye(3)]), "maxfev": 100}
    best = minimize(lambda v: decibels(run(atoms @ true, v), true), begin, method="Nelder-Mead", options=options).x
    return lambda x: run(x, best)


def main() -> None:
    torch.set_num_threads(1)
    rows: dict[str, list[list[float]]] = {}
    for seed in (1, 2, 3):
        atoms = dictionary(seed)
        sketch = torch.linalg.qr(torch.randn(ROWS, ROWS // 2, generator=torch.Generator().manual_seed(seed)))[0].mT
        shape, how = (ROWS, (60, 40)), {"signed": True}
        ways = {
            "ISTA, 10 iterations": lambda x: ista.infer(x, atoms, 10, 0.02, signed=True),
            "FISTA, 10 iterations": lambda x: fista.infer(x, atoms, 10, 0.02, signed=True),
            "FISTA, 100 iterations": lambda x: fista.infer(x, atoms, 100, 0.02, signed=True),
            "LISTA, 10 layers": trained(lista.Lista(*shape, 0.1, **how), atoms, 1e-3),
            "periodic sketched ISTA": trained(psista.Psista(*shape, 0.1, **how), atoms, 3e-3, sketch),
            "ALISTA, 20 numbers": trained(alista.Alista(*shape, 0.15, **how), atoms, 0.05),
            "HyperLISTA, 3 numbers": searched(atoms),
        }
        for name, way in ways.items():
            tests = [codes(2000, density, 50 + seed) for density in DENSITIES]
            rows.setdefault(name, []).append([decibels(way(atoms @ true), true) for true in tests])
    print("| network | " + " | ".join(f"density {d:g}" for d in DENSITIES) + " |\n|---|" + "---|" * len(DENSITIES))
    for name, found in rows.items():
        cells = [f"{statistics.mean(x):.1f} ± {statistics.stdev(x):.1f}" for x in zip(*found, strict=True)]
        print(f"| {name} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
