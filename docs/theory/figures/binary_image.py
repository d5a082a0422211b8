"""Denoise a binary image by mean field, belief propagation and trained networks: python binary_image.py OUTPUT.png

Scenes of random shapes are made here, for choosing the coupling and for training; the picture shown is not among them.
Prints the share of wrong pixels in the picture and in fresh scenes. Takes about a minute.
"""

import math
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextPath
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from deepnmf_cli.checkpoint import atomic_path
from deepnmf_cli.inference import binary
from deepnmf_cli.inference.graph import Graph
from deepnmf_cli.unfold.network import Bank, Parameters, Unfolded
from deepnmf_cli.unfold.ties import Ties

SIDE, DEVIATION = 48, 1.2
"""Pixels of -1 and +1 with normal noise: one in five has the wrong sign."""

DIRECTIONS = [(0, 1), (1, 0), (1, 1), (1, -1)]
ROUNDS, DAMPED_ROUNDS, STEPS, BATCH = 8, 40, 120, 6
COUPLINGS = [0.2, 0.4, 0.6, 0.8, 1.0, 1.3, 1.6, 2.0]


def edges_by_direction(side: int) -> list[Tensor]:
    """Pairs of pixels (2, E') that are neighbours in each of the four directions."""
    index = torch.arange(side**2).reshape(side, side)
    pairs = []
    for down, right in DIRECTIONS:
        first = index[: side - down, max(0, -right) : side - max(0, right)]
        second = index[down:, max(0, right) : side + min(0, right)]
        pairs.append(torch.stack([first.flatten(), second.flatten()]))
    return pairs


PAIRS = edges_by_direction(SIDE)
GRAPH = Graph(SIDE**2, torch.cat(PAIRS, 1))
SIZES = torch.tensor([pairs.shape[1] for pairs in PAIRS])


@dataclass(frozen=True)
class Pixels:
    """Message passing between neighbouring pixels as an `Algorithm`; the state is the messages (N, 2E), log odds.

    Parameters: `couplings` (4,), the log odds by which neighbours in each direction want to be alike; `trust` in the
    noisy pixel; `schedule`, the logit of gamma; `alpha`, 0 for mean field and 1 for belief propagation.
    """

    def start(self, evidence: Tensor, parameters: Parameters) -> Tensor:
        return evidence.new_zeros(len(evidence), 2 * GRAPH.size)

    def fields(self, evidence: Tensor, messages: Tensor, parameters: Parameters) -> Tensor:
        """Log odds (N, V). Units are 0 or 1: half of every coupling goes to the bias, so that neither is favoured."""
        half = -parameters["couplings"].repeat_interleave(SIZES).repeat(2) / 2
        own = parameters["trust"] * 2 / DEVIATION**2 * evidence
        return own.index_add(-1, GRAPH.targets, messages + half)

    def step(self, evidence: Tensor, state: Tensor, parameters: Parameters) -> Tensor:
        alpha, against = parameters["alpha"], state.roll(GRAPH.size, -1)
        sending = self.fields(evidence, state, parameters)[:, GRAPH.sources] - alpha * against
        new = binary.message(sending, parameters["couplings"].repeat_interleave(SIZES).repeat(2), alpha)
        return torch.lerp(state, new, torch.sigmoid(parameters["schedule"]))

    def readout(self, evidence: Tensor, state: Tensor, parameters: Parameters) -> Tensor:
        """Log odds of 1."""
        return self.fields(evidence, state, parameters)


def unfolded(coupling: float, alpha: float, rounds: int, gamma: float, untied: bool, trained: bool) -> Unfolded:
    """`rounds` rounds from a coupling that is the same in all directions, trusting the noise model."""
    table = Ties.untied(rounds + 1) if untied else Ties.tied(rounds + 1, trained)
    fixed = Ties(table.slots, frozenset())
    initial = {"couplings": torch.full((4,), coupling), "trust": torch.tensor(1.0), "alpha": torch.tensor(alpha)}
    initial["schedule"] = torch.tensor(gamma).logit()
    ties = {name: fixed if name == "alpha" else table for name in initial}
    values = {name: [value] * table.count for name, value in initial.items()}
    return Unfolded(Pixels(), rounds, Bank(ties, values, dict.fromkeys(initial, "free")))


def scenes(count: int, draw: torch.Generator) -> Tensor:
    """Pictures (N, V) of 0 and 1: discs, rings and bars, laid over one another as exclusive or."""
    rows, columns = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    pictures = torch.zeros(count, SIDE, SIDE, dtype=torch.bool)
    for picture in pictures:
        for _ in range(6):
            kind, y, x, size, angle, width = torch.rand(6, generator=draw).tolist()
            down, right = rows - SIDE * y, columns - SIDE * x
            distance, size = (down**2 + right**2).sqrt(), 5 + 12 * size
            along = down * math.sin(math.pi * angle) + right * math.cos(math.pi * angle)
            across = down * math.cos(math.pi * angle) - right * math.sin(math.pi * angle)
            if kind < 0.3:
                picture ^= distance < size
            elif kind < 0.6:
                picture ^= (distance < size) & (distance > size - 3 - 4 * width)
            else:
                picture ^= (across.abs() < 1.5 + 2 * width) & (along.abs() < 2 * size)
    return pictures.flatten(1).float()


def picture_shown() -> Tensor:
    """Letters over a ring and a bar, (1, V)."""
    centres = torch.stack(torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij"), -1) + 0.5
    rows, columns = centres.unbind(-1)
    letters = TextPath((0, 0), "MRF", size=17, prop=FontProperties(family="DejaVu Sans", weight="bold"))
    box = letters.get_extents()
    places = torch.stack([columns - 3 + box.x0, 18 - rows + box.y0], -1).flatten(0, 1)
    picture = torch.from_numpy(letters.contains_points(places.numpy())).reshape(SIDE, SIDE)
    distance = ((rows - 33) ** 2 + (columns - 14) ** 2).sqrt()
    picture |= (distance < 11) & (distance > 6)
    picture |= ((rows + columns - 70).abs() < 4) & (rows > 24) & (rows < 45)
    return picture.flatten()[None].float()


def noisy(pictures: Tensor, draw: torch.Generator) -> Tensor:
    return 2 * pictures - 1 + DEVIATION * torch.randn(pictures.shape, generator=draw)


def wrong(log_odds: Tensor, pictures: Tensor) -> Tensor:
    """Share of pixels with the wrong sign, picture by picture."""
    return ((log_odds > 0) != (pictures > 0)).float().mean(1)


def surprise(log_odds: Tensor, pictures: Tensor) -> Tensor:
    """Bits per pixel that the truth costs somebody who believes the marginals."""
    return binary_cross_entropy_with_logits(log_odds, pictures, reduction="none").mean(1) / math.log(2)


def tuned(alpha: float, draw: torch.Generator) -> tuple[Unfolded, float]:
    """The algorithm with the coupling that leaves the fewest wrong pixels in some scenes."""
    pictures = scenes(8, draw)
    evidence = noisy(pictures, draw)
    networks = [unfolded(c, alpha, DAMPED_ROUNDS, 0.5, False, False) for c in COUPLINGS]
    with torch.no_grad():
        errors = [wrong(network(evidence), pictures).mean().item() for network in networks]
    best = errors.index(min(errors))
    return networks[best], COUPLINGS[best]


def trained(network: Unfolded, draw: torch.Generator) -> Unfolded:
    """Its parameters after some steps of Adam on the cross-entropy of new scenes."""
    parameters = [p for p in network.parameters() if p.requires_grad]
    adam = torch.optim.Adam(parameters, lr=0.03)
    for step in range(STEPS):
        adam.param_groups[0]["lr"] = 0.03 * (1 - step / STEPS)
        pictures = scenes(BATCH, draw)
        loss = binary_cross_entropy_with_logits(network(noisy(pictures, draw)), pictures)
        adam.zero_grad()
        loss.backward()
        adam.step()
    return network


def main(output: str) -> None:
    torch.set_num_threads(1)
    networks = {}
    for alpha, name in ((0.0, "mean field"), (1.0, "belief propagation")):
        network, coupling = tuned(alpha, torch.Generator().manual_seed(1))
        networks[f"{name}, {DAMPED_ROUNDS} rounds"] = network
        print(f"{name}: coupling {coupling}")
    for alpha, name in ((0.0, "mean field"), (1.0, "belief prop.")):
        for untied in (False, True):
            start = unfolded(0.6, alpha, ROUNDS, 0.8, untied, True)
            label = f"{name}, {ROUNDS} rounds, trained {'untied' if untied else 'tied'}"
            networks[label] = trained(start, torch.Generator().manual_seed(2))
            count = sum(p.numel() for p in start.parameters())
            first = [f"{x:.2f}" for x in start.bank.value("couplings", 0).tolist()]
            print(f"{label}: {count} parameters, first couplings {', '.join(first)}")

    draw = torch.Generator().manual_seed(3)
    shown, fresh = picture_shown(), scenes(40, draw)
    seen, evidence = noisy(shown, draw), noisy(fresh, draw)
    panels, errors = {"picture": shown}, {}
    for label, network in {"with noise": lambda x: 2 / DEVIATION**2 * x, **networks}.items():
        with torch.no_grad():
            here, there = network(seen), network(evidence)
        panels[label], errors[label] = here.sigmoid(), wrong(here, shown).item()
        row = [f"{wrong(here, shown).item():.1%}"]
        for measure, form in ((wrong, ".1%"), (surprise, ".3f")):
            each = measure(there, fresh)
            row.append(f"{each.mean().item():{form}} +- {each.std().item() / len(each) ** 0.5:{form}}")
        print(f"| {label} | {' | '.join(row)} |")

    figure = Figure(figsize=(11, 6.2), layout="constrained")
    for axis, (label, picture) in zip(figure.subplots(2, 4).flat, panels.items(), strict=True):
        axis.imshow(picture.reshape(SIDE, SIDE), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        line = f"{errors[label]:.1%} of pixels wrong" if label in errors else ""
        axis.set_title(f"{label.replace(' rounds, ', ' rounds,' + chr(10))}\n{line}", fontsize=9)
        axis.set_axis_off()
    with atomic_path(Path(output)) as partial:
        figure.savefig(partial, dpi=90)


if __name__ == "__main__":
    main(*sys.argv[1:])
