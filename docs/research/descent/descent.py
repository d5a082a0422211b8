"""LISTA under descent constraints, reduced from the first experiment of arXiv:2312.15788; see index.md.

    python docs/research/descent/descent.py toy OUT      # 50 x 100, synthetic codes; says whether its gates hold
    python docs/research/descent/descent.py patches OUT  # 8 x 8 patches of two photographs that scikit-learn ships
    python docs/research/descent/descent.py draw OUT     # the figures

A network that has its rows in OUT/layers.csv is not trained again.
"""

import argparse
import csv
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from deepnmf_cli.inference import fista, ista
from deepnmf_cli.inference.lista import Lista
from deepnmf_cli.training.primal_dual import Multipliers, slack
from deepnmf_cli.unfold.network import Bank, Unfolded

LAYERS, DUAL_RATE = 10, 0.01
FASTER = 10
"""Rate of the logarithms of thresholds over that of matrices: a step moves a threshold by a share of itself."""
TARGET_STEPS = 400
"""Of FISTA, which make the target; how far it is from a fixed point is printed."""
NOISES = (0.0, 0.03, 0.1, 0.3, 1.0, 3.0)
"""Between layers at test time, relative to the root mean square of the targets."""
PERTURBATIONS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6)
"""Standard deviation of noise on inputs in [0, 1], which are clamped afterwards."""


@dataclass(frozen=True)
class Task:
    """A dictionary (E, R), a penalty, and inputs (E, N) for training and testing."""

    dictionary: Tensor
    penalty: float
    inputs: dict[str, Tensor]

    def targets(self, x: Tensor) -> Tensor:
        """The sparse codes (R, N) that the networks are to find."""
        rate, d = ista.largest_rate(self.dictionary), self.dictionary
        correlation, gram = d.mT @ x, d.mT @ d
        h = ahead = torch.zeros_like(correlation)
        for momentum in fista.momenta(TARGET_STEPS):
            later = ista.step(ahead, correlation, gram, rate, self.penalty, signed=True)
            h, ahead = later, later + momentum * (later - h)
        return h

    def gradient(self, h: Tensor, x: Tensor) -> Tensor:
        """The length (N,) of the step of ISTA from h, which is zero at the target alone."""
        d, rate = self.dictionary, ista.largest_rate(self.dictionary)
        return (ista.step(h, d.mT @ x, d.mT @ d, rate, self.penalty, signed=True) - h).square().sum(0).add(1e-16).sqrt()

    def cost(self, h: Tensor, x: Tensor) -> Tensor:
        """The objective (N,)."""
        return (x - self.dictionary @ h).square().sum(0) / 2 + self.penalty * h.abs().sum(0)


def toy(draw: torch.Generator) -> Task:
    """Codes with one entry in ten."""
    dictionary = torch.randn(50, 100, generator=draw)
    dictionary /= dictionary.norm(dim=0)

    def inputs(count: int) -> Tensor:
        present = torch.rand(100, count, generator=draw) < 0.1
        return dictionary @ (torch.randn(100, count, generator=draw) * present)

    return Task(dictionary, 0.1, {"train": inputs(8192), "test": inputs(1000)})


def patches(draw: torch.Generator) -> Task:
    """Grey patches in [0, 1]; those of training and test come from stripes of the photographs with a gap between."""
    from sklearn.datasets import load_sample_images

    found: dict[str, list[Tensor]] = {"train": [], "test": []}
    for image in load_sample_images().images:
        grey = torch.from_numpy(image @ np.array([0.299, 0.587, 0.114]) / 255).float()
        for part, (first, last), count in (("train", (0, 480), 2048), ("test", (500, 640), 500)):
            stripe = grey[:, first:last].unfold(0, 8, 1).unfold(1, 8, 1).flatten(0, 1).flatten(1)
            found[part].append(stripe[torch.randperm(len(stripe), generator=draw)[:count]])
    dictionary = torch.randn(64, 77, generator=draw)
    return Task(dictionary / dictionary.norm(dim=0), 0.5, {part: torch.cat(x).T for part, x in found.items()})


@dataclass(frozen=True)
class Plan:
    """How one network is trained."""

    start: str = "random"
    """Weights of N(0, .01^2), or those of "ista"."""
    epsilon: float = 0.0
    kind: str = "target"
    noise: float = 0.0
    layerwise: bool = False
    deep: bool = False
    """Deep supervision: the mean of the losses of all layers."""


PLANS = {
    "random start, plain": Plan(),
    "random start, eps .05": Plan(epsilon=0.05),
    "ISTA start, plain": Plan("ista"),
    "ISTA start, eps .2": Plan("ista", 0.2),
    "ISTA start, eps .2, noise": Plan("ista", 0.2, noise=0.3),
    "ISTA start, noise": Plan("ista", noise=0.3),
    "ISTA start, deep supervision": Plan("ista", deep=True),
    "random start, eps .05, noise": Plan(epsilon=0.05, noise=0.3),
    "random start, noise": Plan(noise=0.3),
    "random start, deep supervision": Plan(deep=True),
    "random start, layer by layer": Plan(layerwise=True),
    "random start, eps .05, gradient": Plan(epsilon=0.05, kind="gradient"),
    "ISTA start, eps .05": Plan("ista", 0.05),
    "random start, eps .2": Plan(epsilon=0.2),
    "random start, eps .2, noise": Plan(epsilon=0.2, noise=0.3),
}
GATED = ("ISTA start, eps .2", "ISTA start, eps .05")


def network(task: Task, start: str, draw: torch.Generator) -> Unfolded:
    """LISTA of untied layers; the first activations are none, so that the first layer is judged like the others."""
    atoms = task.dictionary.shape[1]
    algorithm = Lista(len(task.dictionary), (atoms, 0), task.penalty, signed=True)
    parameters = algorithm.parameters(LAYERS, task.dictionary)
    parameters.pop("dictionary")  # of the readout, which nothing here reads
    made = Unfolded(algorithm, LAYERS, Bank.declared(parameters, LAYERS))
    if start == "random":
        with torch.no_grad():
            for name, parameter in made.bank.named_parameters():
                if parameter.dim() == 2 and not name.startswith("threshold"):
                    parameter.copy_(0.01 * torch.randn(parameter.shape, generator=draw))
    return made


def noisy(size: float, scale: Tensor, draw: torch.Generator) -> Callable[[int, Tensor], Tensor] | None:
    """What adds noise of `size` times `scale` to all that a layer gets from another."""
    if not size:
        return None
    return lambda k, h: h if k == LAYERS else h + size * scale * torch.randn(h.shape, generator=draw)


def walk(made: Unfolded, x: Tensor, disturb: Callable | None = None) -> list[Tensor]:
    """[y_0, ..., y_K], each before any noise on it."""
    with made.remembered(disturb) as trace:
        state = made.start(x)
        for _ in made.states(x, state):
            pass
    return [state, *(trace.states[k] for k in range(1, LAYERS + 1))]


def measures(task: Task, plan: Plan, states: list[Tensor], x: Tensor, target: Tensor) -> Tensor:
    if plan.kind == "gradient":
        return torch.stack([task.gradient(h, x).mean() for h in states])
    return torch.stack([(h - target).square().sum(0).add(1e-12).sqrt().mean() for h in states])


def train(task: Task, plan: Plan, steps: int, batch: int, seed: int, targets: Tensor) -> tuple[Unfolded, list[list]]:
    """The network after the last step, and rows (step, layer, multiplier, slack of the batch)."""
    draw = torch.Generator().manual_seed(seed)
    made, x = network(task, plan.start, draw), task.inputs["train"]
    scale, multipliers, rows = targets.square().mean().sqrt(), Multipliers(LAYERS, DUAL_RATE), []
    by_kind: dict[bool, list] = {True: [], False: []}
    for name, parameter in made.named_parameters():
        by_kind["threshold" in name].append(parameter)
    optimiser = torch.optim.Adam(
        [{"params": found, "faster": FASTER if kind else 1} for kind, found in by_kind.items()]
    )
    disturb = noisy(plan.noise, scale, draw)
    for step in range(steps):
        chosen = torch.randint(x.shape[1], (batch,), generator=draw)
        given, target = x[:, chosen], targets[:, chosen]
        states = walk(made, given, disturb)
        losses = torch.stack([(h - target).square().sum(0).mean() / 2 for h in states[1:]])
        for group in optimiser.param_groups:
            group["lr"] = group["faster"] * 2e-3 * (0.01 + 0.99 * 0.5 * (1 + np.cos(np.pi * step / steps)))
        optimiser.zero_grad()
        if plan.layerwise:
            layer = step * LAYERS // steps
            losses[layer].backward()
            for name, parameter in made.named_parameters():
                if not name.split(".")[1].endswith(f"_{_slot(name, layer)}"):
                    parameter.grad = None
        else:
            loss = losses.mean() if plan.deep else losses[-1]
            if plan.epsilon:
                found = slack(measures(task, plan, states, given, target), plan.epsilon)
                loss = multipliers.lagrangian(loss, found)
                multipliers.ascend(found)
                if step % (steps // 100 or 1) == 0 or step == steps - 1:
                    values = zip(multipliers.values.tolist(), found.tolist())
                    rows += [[step, k, *pair] for k, pair in enumerate(values, start=1)]
            loss.backward()
        optimiser.step()
    return made, rows


def _slot(name: str, layer: int) -> int:
    """The slot of a layer; the first layer has no recurrence."""
    return layer - ("recurrence" in name)


Perturbed = dict[float, tuple[Tensor, Tensor]]
"""Size of a perturbation -> test inputs with it, and their own targets."""


def perturbed(task: Task, sizes: tuple[float, ...], draw: torch.Generator) -> Perturbed:
    x, found = task.inputs["test"], {}
    for p in sizes:
        moved = (x + p * torch.randn(x.shape, generator=draw)).clamp(0, 1) if p else x
        found[p] = moved, task.targets(moved)
    return found


@torch.no_grad()
def judge(task: Task, made: Unfolded, name: str, tests: Perturbed, seed: int) -> dict[str, list[dict]]:
    """Tables of one network on the test inputs."""
    (x, target), draw = tests[0.0], torch.Generator().manual_seed(seed)
    size, scale = target.norm(dim=0).mean(), target.square().mean().sqrt()
    states = walk(made, x)
    distances = torch.stack([(h - target).norm(dim=0) for h in states])
    costs, best = torch.stack([task.cost(h, x) for h in states]), task.cost(target, x)
    excess = (costs - best).mean(1) / (costs[0] - best).mean()
    falls = distances[1:] <= distances[:-1]
    layers = [
        {
            "network": name, "layer": k, "distance": float(distances[k].mean() / size), "excess": float(excess[k]),
            "gradient": float(task.gradient(states[k], x).mean() / task.gradient(states[0], x).mean()),
            "descend": float(falls[k - 1].float().mean()) if k else "",
            "descend_so_far": float(falls[:k].all(0).float().mean()) if k else "",
            "l1": float(states[k].abs().sum(0).mean() / target.abs().sum(0).mean()),
        }
        for k in range(LAYERS + 1)
    ]  # fmt: skip
    noises = []
    for sigma in NOISES:
        last = walk(made, x, noisy(sigma, scale, draw))[-1]
        noises.append({"network": name, "noise": sigma, "distance": float((last - target).norm(dim=0).mean() / size)})
    inputs = []
    for p, (moved, wanted) in tests.items():
        found = walk(made, moved)
        error = torch.stack([(h - wanted).norm(dim=0) for h in found])
        inputs.append(
            {
                "network": name, "perturbation": p, "distance": float(error[-1].mean() / wanted.norm(dim=0).mean()),
                "to_unperturbed": float((found[-1] - target).norm(dim=0).mean() / size),
                "descend": float((error[1:] <= error[:-1]).float().mean()),
            }
        )  # fmt: skip
    return {"layers": layers, "noise": noises, "perturbed": inputs}


def run(kind: str, folder: Path, steps: int, batch: int, seed: int, names: list[str]) -> None:
    """Train and judge the networks that are missing."""
    folder.mkdir(parents=True, exist_ok=True)
    task = (toy if kind == "toy" else patches)(torch.Generator().manual_seed(seed))
    done = {row["network"] for row in read(folder / "layers.csv")}
    if set(names) <= done:
        return
    targets = task.targets(task.inputs["train"])
    tests = perturbed(task, PERTURBATIONS if kind == "patches" else (0.0,), torch.Generator().manual_seed(seed))
    rest = task.gradient(targets, task.inputs["train"]).mean() / targets.norm(dim=0).mean()
    print(f"{kind}: targets are {rest:.1e} of their length away from a fixed point", flush=True)
    for name in [name for name in names if name not in done]:
        begin, plan = time.process_time(), PLANS.get(name, Plan("ista"))
        made, rows = train(task, plan, 0 if name == "ISTA" else steps, batch, seed, targets)
        tables = judge(task, made, name, tests, seed)
        multipliers = [dict(zip(("network", "step", "layer", "multiplier", "slack"), (name, *row))) for row in rows]
        for table, found in {**tables, "multipliers": multipliers}.items():
            append(folder / f"{table}.csv", found)
        last = tables["layers"][-1]
        took = time.process_time() - begin
        print(
            f"{name}: distance {last['distance']:.3f}, all layers {last['descend_so_far']:.1%}, {took:.0f} s",
            flush=True,
        )


def gates(folder: Path) -> bool:
    """What the toy is expected to show, each with whether it does."""
    layers, multipliers = read(folder / "layers.csv"), read(folder / "multipliers.csv")
    strong = [row for row in layers if row["network"] == GATED[0]]
    weak = max(float(row["multiplier"]) for row in multipliers[-LAYERS:] if row["network"] == GATED[1])
    found = {
        "eps .2: distance after 5 layers at most .35": float(strong[5]["distance"]) <= 0.35,
        "eps .2: distance after 10 layers at most .11": float(strong[10]["distance"]) <= 0.11,
        "eps .2: 95 % of the samples descend in all layers": float(strong[10]["descend_so_far"]) >= 0.95,
        "eps .05: all multipliers end at zero, to within .01": weak <= 0.01,
    }
    for sentence, holds in found.items():
        print(f"{'holds' if holds else 'FAILS'}: {sentence}")
    return all(found.values())


def read(path: Path) -> list[dict[str, str]]:
    if not path.is_file():
        return []
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def append(path: Path, rows: list[dict]) -> None:
    if not rows:
        return
    new = not path.is_file()
    with open(path, "a", newline="") as file:
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerows({k: f"{v:.5g}" if isinstance(v, float) else v for k, v in row.items()} for row in rows)


def by_network(rows: list[dict[str, str]]) -> Iterator[tuple[str, list[dict[str, str]]]]:
    for name in dict.fromkeys(row["network"] for row in rows):
        yield name, [row for row in rows if row["network"] == name]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["toy", "patches", "draw"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, help="by default 2000 for toy and 1500 for patches")
    parser.add_argument("--batch", type=int, help="by default 256 for toy and 64 for patches")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--networks", nargs="+", choices=["ISTA", *PLANS])
    given = parser.parse_args()
    if given.what == "draw":
        from figures import draw_all

        draw_all(given.folder)
        return 0
    everything = [*GATED] if given.what == "toy" else ["ISTA", *PLANS]
    steps, batch = (2000, 256) if given.what == "toy" else (1500, 64)
    run(
        given.what, given.folder, given.steps or steps, given.batch or batch, given.seed, given.networks or everything
    )  # fmt: skip
    return 0 if given.what == "patches" or gates(given.folder) else 1


if __name__ == "__main__":
    raise SystemExit(main())
