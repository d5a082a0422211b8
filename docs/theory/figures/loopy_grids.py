"""Draw how far mean field, belief propagation and what lies between are off: python loopy_grids.py OUTPUT.png

Fields of 4 x 4 units with random evidence and couplings, small enough to enumerate all 65,536 configurations. Prints
the medians that are drawn, and how many runs came to rest.
"""

import itertools
import sys
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor

from deepnmf_cli.checkpoint import atomic_path
from deepnmf_cli.inference import belief
from deepnmf_cli.inference.graph import Graph, readout, tree_probabilities

SIDE, FIELDS, STEPS, DAMPING = 4, 40, 300, 0.5
GRAPH = Graph.grid(SIDE, SIDE)
STRENGTHS = [0.5, 1, 2, 3, 4, 6, 8]
ALPHAS = [0, 0.25, 0.5, 0.75, 1, 1.25, 1.5, 2]
NAMES = {0: "mean field, $\\alpha$ = 0", 0.5: "$\\alpha$ = 0.5", 1: "belief propagation, $\\alpha$ = 1"}
REWEIGHTED = "tree-reweighted, $\\alpha$ = 1/$\\rho$"
COLOURS = ["#b2443c", "#c9912f", "#2f6f9f", "#5a8f4e"]


def random_fields(strength: float, attractive: bool, draw: torch.Generator) -> tuple[Tensor, Tensor]:
    """Units as spins s = 2h - 1: exp(sum w/4 s s + sum f/2 s), w up to `strength`, f in [-1/2, 1/2] as log odds."""
    size = (FIELDS, GRAPH.size)
    couplings = torch.rand(size, generator=draw, dtype=torch.float64) * 2 - 1
    couplings = strength * (couplings.abs() if attractive else couplings)
    log_odds = torch.rand(FIELDS, GRAPH.nodes, generator=draw, dtype=torch.float64) - 0.5
    spins = torch.tensor([-1.0, 1.0], dtype=torch.float64)
    return log_odds[..., None] / 2 * spins, couplings[..., None, None] / 4 * spins[:, None] * spins


def exact(evidence: Tensor, potentials: Tensor) -> Tensor:
    """p(h_i = 1) by enumeration: (fields, V)."""
    h = torch.tensor(list(itertools.product((0, 1), repeat=GRAPH.nodes)))
    (i, j), edges, nodes = GRAPH.edges, torch.arange(GRAPH.size), torch.arange(GRAPH.nodes)
    logs = [psi[edges, h[:, i], h[:, j]].sum(1) + theta[nodes, h].sum(1) for psi, theta in zip(potentials, evidence)]
    return torch.stack(logs).softmax(1) @ h.double()


def errors(evidence: Tensor, potentials: Tensor, alpha: Tensor | float, truth: Tensor) -> tuple[Tensor, Tensor]:
    """Mean absolute error of p(h_i = 1) per field, and whether the damped messages came to rest."""
    messages = belief.infer(evidence, potentials, GRAPH, [DAMPING] * STEPS, alpha, power=0.0)
    change = belief.step(messages, evidence, potentials, GRAPH, alpha) - messages
    error = (readout(messages, evidence, GRAPH)[..., 1] - truth).abs().mean(-1)
    return error, change.abs().amax((-2, -1)) < 1e-3


def main(output: str) -> None:
    torch.set_num_threads(1)
    figure = Figure(figsize=(9, 7), layout="constrained")
    axes = figure.subplots(2, 2, sharey="row", squeeze=False)
    for column, (attractive, title) in enumerate([(True, "attractive couplings"), (False, "couplings of both signs")]):
        draw, medians = torch.Generator().manual_seed(column), {}
        for strength in STRENGTHS:
            fields = random_fields(strength, attractive, draw)
            truth = exact(*fields)
            for alpha in [*ALPHAS, REWEIGHTED]:
                value = 1 / tree_probabilities(GRAPH) if alpha == REWEIGHTED else float(alpha)
                error, rested = errors(*fields, value, truth)
                medians[strength, alpha] = error.median().item()
                rest = rested.double().mean()
                print(f"{title}, up to {strength}, {alpha}: {medians[strength, alpha]:.5f}, at rest {rest:.0%}")
        for alpha, colour in zip([*NAMES, REWEIGHTED], COLOURS, strict=True):
            line = [medians[strength, alpha] for strength in STRENGTHS]
            axes[0, column].plot(STRENGTHS, line, "o-", color=colour, label=NAMES.get(alpha, alpha))
        for strength, shade in zip([1, 2, 4, 8], ["#bbb", "#888", "#555", "#111"], strict=True):
            line = [medians[strength, alpha] for alpha in ALPHAS]
            axes[1, column].plot(ALPHAS, line, "o-", color=shade, label=f"up to {strength}")
        axes[0, column].set_title(title, loc="left")
        axes[0, column].set_xlabel("largest coupling (log odds)")
        axes[1, column].set_xlabel("$\\alpha$")
        for axis in axes[:, column]:
            axis.set_yscale("log")
            axis.grid(alpha=0.3)
    for row in axes:
        row[0].set_ylabel("error of the marginals (median of fields)")
        row[1].legend(fontsize=8)
    with atomic_path(Path(output)) as partial:
        figure.savefig(partial, dpi=100)


if __name__ == "__main__":
    main(*sys.argv[1:])
