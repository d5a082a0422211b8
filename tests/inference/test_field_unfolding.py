"""Inference on graphs fits the unfolding: untrained layers are iterations, and any layer's settings can be trained."""

import itertools

import pytest
import torch

from deepnmf_cli.inference import belief, binary, mean_field, schedule
from deepnmf_cli.inference.graph import Graph, readout
from deepnmf_cli.unfold.network import Bank, Unfolded
from deepnmf_cli.unfold.ties import Ties

GRID = Graph.grid(2, 3)
LAYERS = 5


class Messages:
    """Message passing on a given graph as an `Algorithm`; theta = potentials, alpha and the schedule's logits."""

    def start(self, evidence, parameters):
        return belief.start(evidence, parameters["potentials"])

    def step(self, evidence, state, parameters):
        gamma = torch.sigmoid(parameters["schedule"])
        return belief.step(state, evidence, parameters["potentials"], GRID, parameters["alpha"], gamma=gamma)

    def readout(self, evidence, state, parameters):
        return readout(state, evidence, GRID)

    def objective(self, evidence, state, parameters):
        return -belief.log_partition(state, evidence, parameters["potentials"], GRID, parameters["alpha"]).sum()


class Sequential(Messages):
    """One sweep of mean field over all nodes as a step."""

    def step(self, evidence, state, parameters):
        for gamma in schedule.sequential(GRID):
            state = mean_field.step(state, evidence, parameters["potentials"], GRID, gamma)
        return state

    def objective(self, evidence, state, parameters):
        return mean_field.objective(state, evidence, parameters["potentials"], GRID).sum()


def problem(alpha=0.7):
    draw = torch.Generator().manual_seed(0)
    evidence = torch.randn(4, 6, 2, generator=draw, dtype=torch.float64)
    parameters = {
        "potentials": torch.randn(GRID.size, 2, 2, generator=draw, dtype=torch.float64),
        "alpha": torch.full((GRID.size,), alpha, dtype=torch.float64),
        "schedule": torch.randn(2 * GRID.size, generator=draw, dtype=torch.float64),
    }
    return evidence, parameters


def unfolded(parameters, ties, algorithm):
    initial = {name: [value] * ties.count for name, value in parameters.items()}
    return Unfolded(algorithm, LAYERS, Bank(dict.fromkeys(initial, ties), initial, dict.fromkeys(initial, "free")))


@pytest.mark.parametrize("alpha", [0.0, 0.7, 1.0])
@pytest.mark.parametrize("ties", [Ties.tied(LAYERS + 1, trained=False), Ties.tied(LAYERS + 1), Ties.untied(LAYERS + 1)])
def test_the_untrained_network_is_the_classical_algorithm_bit_for_bit(ties, alpha):
    evidence, parameters = problem(alpha)
    gamma = torch.sigmoid(parameters["schedule"])
    messages = belief.infer(evidence, parameters["potentials"], GRID, [gamma] * LAYERS, parameters["alpha"])
    network = unfolded(parameters, ties, Messages())
    assert torch.equal(network(evidence), readout(messages, evidence, GRID))


def test_an_untied_network_learns_potentials_alphas_and_schedules_of_every_layer():
    evidence, parameters = problem()
    target = torch.rand(4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).round()
    network = unfolded(parameters, Ties.untied(LAYERS + 1), Messages())
    parameters = list(network.bank.parameters())

    def loss():
        return torch.nn.functional.binary_cross_entropy(network(evidence)[..., 1], target)

    before = loss()
    gradients = torch.autograd.grad(before, parameters, allow_unused=True)
    moved = [name for (name, _), slope in zip(network.bank.named_parameters(), gradients) if slope is not None]
    assert moved == [f"{kind}_{layer}" for kind in ("potentials", "alpha", "schedule") for layer in range(LAYERS)]
    with torch.no_grad():
        for parameter, slope in zip(parameters, gradients, strict=True):
            if slope is not None:
                assert slope.any()
                parameter -= 0.5 * slope
    assert loss() < before


def test_the_objective_never_rises_along_untrained_sweeps_of_mean_field():
    evidence, parameters = problem()
    network = unfolded(parameters, Ties.tied(LAYERS + 1), Sequential())
    costs = [network.algorithm.objective(evidence, s, parameters).item() for s in network.trajectory(evidence)]
    assert all(after <= before + 1e-12 for before, after in itertools.pairwise(costs))
    assert costs[-1] < costs[0]


def test_a_sigmoid_network_is_mean_field_from_nothing_with_evidence_for_the_first_layer_only():
    """(20) with q^0 = 0 and A^k = 0 for k > 1."""
    draw = torch.Generator().manual_seed(0)
    x, first = torch.randn(5, 4, generator=draw), torch.randn(3, 4, generator=draw)
    weights, biases = torch.randn(2, 3, 3, generator=draw), torch.randn(3, 3, generator=draw)
    network = torch.sigmoid(x @ first.T + biases[0])
    for weight, bias in zip(weights, biases[1:], strict=True):
        network = torch.sigmoid(network @ weight.T + bias)
    log_odds = torch.full((5, 3), -torch.inf)
    for k, coupling in enumerate([torch.ones(3, 3), *weights]):
        log_odds = binary.field(log_odds, coupling, biases[k] + (x @ first.T if k == 0 else 0), 0.0)
    torch.testing.assert_close(log_odds.sigmoid(), network)
