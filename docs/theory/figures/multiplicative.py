"""Compare rules for training deep NMF on toy data: python docs/theory/figures/multiplicative.py OUTPUT.png

Prints the tables of docs/theory/multiplicative.md and draws its figure. About ten minutes on one core.
"""

import itertools
import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor

from deepnmf_cli.checkpoint import atomic_path
from deepnmf_cli.inference import nmf
from deepnmf_cli.inference.nmf import DICTIONARY, SparseNmf
from deepnmf_cli.unfold.network import Bank, Unfolded
from deepnmf_cli.unfold.split import Parts, split_gradient, wiener_parts
from deepnmf_cli.unfold.ties import Ties

BINS, ATOMS, FRAMES, LAYERS, STEPS = 32, 10, 150, 8, 150
DEPTHS = (1, 2, 4, LAYERS + 1)
RATES = (0.05, 0.1, 0.2, 0.4)
CHOOSING_SEEDS, SEEDS, CHOOSING_DEPTH = (0, 4), (1, 2, 3), 4
LARGEST = 3.0
"""Times the rate: the largest change of one entry under the rule that bounds changes."""

TINY = 1e-30


@dataclass
class Toy:
    """Mixtures of two sources that are NMF models with overlapping atoms and multiplicative noise."""

    seed: int
    depth: int

    def __post_init__(self) -> None:
        draw = torch.Generator().manual_seed(self.seed)
        frequency = torch.arange(BINS)[:, None, None] / BINS
        sources, dictionaries = [], []
        for _ in range(2):
            centres, widths = torch.rand(2, ATOMS, 4, generator=draw)
            w = torch.exp(-(((frequency - centres) / (0.02 + 0.1 * widths)) ** 2)).sum(-1) + 1e-3
            active = torch.rand(ATOMS, 2 * FRAMES, generator=draw) < 0.25
            h = torch.empty(ATOMS, 2 * FRAMES).exponential_(generator=draw) * active
            rough = torch.empty(BINS, 2 * FRAMES).exponential_(generator=draw).sqrt()
            dictionaries.append(w)
            sources.append(w @ h * rough + 1e-4)
        w = torch.cat(dictionaries, 1) * torch.exp(0.3 * torch.randn(BINS, 2 * ATOMS, generator=draw))
        ties = Ties.last(LAYERS + 1, self.depth)
        bank = Bank({DICTIONARY: ties}, {DICTIONARY: [w / w.norm(dim=0)] * ties.count}, {DICTIONARY: "free"})
        self.network = Unfolded(SparseNmf(BINS, (ATOMS, ATOMS), 1.0, 0.1), LAYERS, bank)
        self.weights = dict(bank.named_parameters())
        self.targets, self.unseen = torch.stack(sources).split(FRAMES, -1)

    def error(self, targets: Tensor) -> Tensor:
        """(37) with beta2 = 2 for the first source, (2, F, T) -> scalar."""
        mixture = targets.sum(0)
        return (self.network(mixture)[0] * mixture - targets[0]).square().sum() / 2

    def parts(self) -> dict[str, Parts]:
        mixture, speech_alone = self.targets.sum(0), torch.tensor([1.0, 0.0])[:, None, None]

        def readout(state: Tensor, parameters: dict[str, Tensor]) -> tuple[Tensor, Parts]:
            models = nmf.readout(state, parameters[DICTIONARY], (ATOMS, ATOMS))
            return models, wiener_parts(models.detach(), mixture, self.targets, speech_alone)

        return split_gradient(self.network, mixture, readout)

    def quotients(self) -> dict[str, Tensor]:
        """log(N / P) per dictionary."""
        return {name: torch.log((p.negative + TINY) / (p.positive + TINY)) for name, p in self.parts().items()}

    def slopes(self) -> dict[str, Tensor]:
        """-dE/d(log W) per dictionary."""
        gradients = torch.autograd.grad(self.error(self.targets), list(self.weights.values()))
        return {name: -w.detach() * g for (name, w), g in zip(self.weights.items(), gradients, strict=True)}


class Rule:
    """From what is known of each dictionary to the change of its logarithm; `rate` already follows the schedule."""

    def __init__(self, source: Callable[[Toy], dict[str, Tensor]], momentum: float = 0.0, scaled: str = "") -> None:
        self.source, self.momentum, self.scaled = source, momentum, scaled

    def start(self) -> None:
        self.count, self.mean, self.square = 0, {}, {}

    def changes(self, toy: Toy, rate: float) -> dict[str, Tensor]:
        self.count += 1
        return {name: self._change(name, value, rate) for name, value in self.source(toy).items()}

    def _change(self, name: str, value: Tensor, rate: float) -> Tensor:
        if not self.scaled:
            return value
        mean = self.mean[name] = self.momentum * self.mean.get(name, 0) + (1 - self.momentum) * value
        if self.scaled == "dictionary":
            return rate * mean / mean.abs().mean()
        if self.scaled == "dictionary, bounded":
            return rate * (mean / mean.abs().mean()).clamp(-LARGEST, LARGEST)
        square = self.square[name] = 0.99 * self.square.get(name, 0) + 0.01 * value.square()
        mean, square = mean / (1 - self.momentum**self.count), square / (1 - 0.99**self.count)
        return rate * mean / (square.sqrt() + TINY)


def halved_readout(toy: Toy) -> dict[str, Tensor]:
    last = f"{DICTIONARY}_{toy.depth}" if toy.depth <= LAYERS else f"{DICTIONARY}_{LAYERS}"
    return {name: value / 2 if name == last else value for name, value in toy.quotients().items()}


RULES = {
    "(38)": Rule(Toy.quotients),
    "(38), readout to the power 1/2": Rule(halved_readout),
    "exponent per dictionary": Rule(Toy.quotients, 0.0, "dictionary"),
    "the same, momentum": Rule(Toy.quotients, 0.9, "dictionary"),
    "the same, momentum, bounded": Rule(Toy.quotients, 0.9, "dictionary, bounded"),
    "exponent per entry, momentum": Rule(Toy.quotients, 0.9, "entry"),
    "Adam on log W": Rule(Toy.slopes, 0.9, "entry"),
}


def run(rule: Rule, depth: int, seed: int, rate: float) -> tuple[list[float], float, float]:
    """(training errors, error on unseen mixtures over its start, seconds per step)."""
    toy, errors, began = Toy(seed, depth), [], time.process_time()
    unseen = toy.error(toy.unseen).item()
    rule.start()
    for step in range(STEPS):
        errors.append(toy.error(toy.targets).item())
        changes = rule.changes(toy, rate * (0.02 + 0.49 * (1 + math.cos(math.pi * step / STEPS))))
        with torch.no_grad():
            for name, change in changes.items():
                toy.weights[name].mul_(change.exp())
    seconds = (time.process_time() - began) / STEPS
    return [*errors, toy.error(toy.targets).item()], toy.error(toy.unseen).item() / unseen, seconds


def main(output: str) -> None:
    torch.set_num_threads(1)
    rates = {}
    print(f"Training error over its start at depth {CHOOSING_DEPTH}, seeds {CHOOSING_SEEDS}, for rates {RATES}\n")
    for name, rule in RULES.items():
        if rule.scaled:
            found = {}
            for rate in RATES:
                errors = [run(rule, CHOOSING_DEPTH, seed, rate)[0] for seed in CHOOSING_SEEDS]
                found[rate] = sum(e[-1] / e[0] for e in errors) / len(errors)
            rates[name] = min(found, key=found.get)
            print(f"| {name} | " + " | ".join(f"{found[rate]:.3f}" for rate in RATES) + " |", flush=True)
    print("\nError over its start: training, unseen (steps that raised it, all seeds); ms per step at the last depth\n")
    curves = {}
    for name, rule in RULES.items():
        cells = []
        for depth in DEPTHS:
            runs = [run(rule, depth, seed, rates.get(name, 0.0)) for seed in SEEDS]
            trained = sum(e[-1] / e[0] for e, _, _ in runs) / len(runs)
            unseen = sum(u for _, u, _ in runs) / len(runs)
            rises = sum(b > a * (1 + 1e-6) for e, _, _ in runs for a, b in itertools.pairwise(e))
            cells.append(f"{trained:.3f}, {unseen:.3f} ({rises})")
            if depth == CHOOSING_DEPTH:
                curves[name] = [sum(e) / len(runs) for e in zip(*([x / r[0] for x in r] for r, _, _ in runs))]
        milliseconds = 1e3 * sum(s for _, _, s in runs) / len(runs)
        print(f"| {name} | {rates.get(name, '')} | " + " | ".join(cells) + f" | {milliseconds:.0f} |", flush=True)
    draw(curves, output)


def draw(curves: dict[str, list[float]], output: str) -> None:
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    for step, marker in ((0, "o"), (50, "s")):
        toy = Toy(1, LAYERS + 1)
        for _ in range(step):
            with torch.no_grad():
                for name, change in toy.quotients().items():
                    toy.weights[name].mul_(change.exp())
        sizes = [value.abs().mean().item() for _, value in sorted(toy.quotients().items())]
        left.semilogy(range(LAYERS + 1), sizes, marker=marker, label=f"after {step} steps of (38)")
        print(f"\nmean |log N/P| per layer after {step} steps: " + ", ".join(f"{x:.2g}" for x in sizes))
    left.set_xlabel(f"layer ({LAYERS} is the reconstruction)")
    left.set_ylabel("mean |log N/P|: the step of (38)")
    left.legend(fontsize=8)
    for name, values in curves.items():
        right.semilogy(values, label=name)
    right.set_xlabel("step")
    right.set_ylabel(f"training error over its start, C = {CHOOSING_DEPTH}")
    right.legend(fontsize=7)
    with atomic_path(Path(output)) as partial:
        figure.savefig(partial, dpi=90)


if __name__ == "__main__":
    main(*sys.argv[1:])
