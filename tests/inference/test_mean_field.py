"""Mean field on graphs: the update against plain sums, the bound, and what sequential updates promise."""

import numpy as np
import pytest
import torch

from deepnmf_cli.inference import mean_field, schedule
from deepnmf_cli.inference.graph import Graph, log_beliefs, readout
from tests.reference import field_enumeration

GRID = Graph.grid(2, 3)


def problem(graph=GRID, states=3, scale=1.0, seed=0, batch=()):
    draw = torch.Generator().manual_seed(seed)
    potentials = scale * torch.randn(*batch, graph.size, states, states, generator=draw, dtype=torch.float64)
    return torch.randn(*batch, graph.nodes, states, generator=draw, dtype=torch.float64), potentials


def test_messages_equal_plain_sums():
    (evidence, potentials), edges = problem(), GRID.edges.T.tolist()
    numbers = potentials.numpy(), evidence.numpy()
    messages = mean_field.start(evidence, potentials)
    twin = {pair: [1 / 3] * 3 for i, j in edges for pair in ((i, j), (j, i))}
    for _ in range(4):
        messages = mean_field.step(messages, evidence, potentials, GRID)
        twin = field_enumeration.new_messages(twin, edges, *numbers, field_enumeration.mean_field_rule)
    found = mean_field.readout(messages, evidence, GRID).numpy()
    np.testing.assert_allclose(found, field_enumeration.beliefs(twin, edges, evidence.numpy()), rtol=1e-10)


@pytest.mark.parametrize("scale", [0.3, 1, 5, 100])
@pytest.mark.parametrize("gamma", [0.1, 0.6, 1.0])
def test_free_energy_never_increases_under_sequential_updates(gamma, scale):
    for seed in range(4):
        evidence, potentials = problem(scale=scale, seed=seed)
        messages = mean_field.start(evidence, potentials)
        energy = first = mean_field.objective(messages, evidence, potentials, GRID)
        for update in schedule.sequential(GRID) * 6:
            messages = mean_field.step(messages, evidence, potentials, GRID, gamma * update)
            previous, energy = energy, mean_field.objective(messages, evidence, potentials, GRID)
            assert energy <= previous + 1e-12 * (1 + previous.abs())
        assert energy < first


def test_nodes_without_an_edge_between_them_may_move_together():
    evidence, potentials = problem(scale=5)
    colour = [torch.isin(GRID.targets, torch.tensor(nodes)).double() for nodes in ([0, 2, 4], [1, 3, 5])]
    messages = mean_field.start(evidence, potentials)
    energy = mean_field.objective(messages, evidence, potentials, GRID)
    for update in colour * 6:
        messages = mean_field.step(messages, evidence, potentials, GRID, update)
        previous, energy = energy, mean_field.objective(messages, evidence, potentials, GRID)
        assert energy <= previous + 1e-12 * previous.abs()


def test_synchronous_updates_may_increase_it():
    """Two units that want to differ, updated at once, keep changing places."""
    pair = Graph.grid(1, 2)
    potentials = torch.tensor([[[-4.0, 4.0], [4.0, -4.0]]])
    evidence = torch.tensor([[0.1, 0.0], [0.1, 0.0]])
    messages = mean_field.infer(evidence, potentials, pair, [1.0] * 11)
    before = mean_field.objective(messages, evidence, potentials, pair)
    assert readout(messages, evidence, pair)[:, 0].std() < 1e-3  # both in the same state: the worst
    calmed = mean_field.infer(evidence, potentials, pair, schedule.sequential(pair) * 11)
    assert mean_field.objective(calmed, evidence, potentials, pair) < before - 4


@pytest.mark.parametrize("scale", [0.3, 3])
def test_free_energy_is_a_bound_for_every_q_and_tight_for_the_posterior_without_edges(scale):
    edges = GRID.edges.T.tolist()
    for seed in range(3):
        evidence, potentials = problem(scale=scale, seed=seed)
        log_z = field_enumeration.log_partition(edges, potentials.numpy(), evidence.numpy())
        draw = torch.Generator().manual_seed(seed)
        log_q = torch.randn(20, 6, 3, dtype=torch.float64, generator=draw).log_softmax(-1)
        assert (mean_field.free_energy(log_q, evidence, potentials, GRID) >= -log_z).all()
        alone = mean_field.free_energy(evidence.log_softmax(-1), evidence, 0 * potentials, GRID)
        torch.testing.assert_close(alone, -evidence.logsumexp(-1).sum())


def test_free_energy_is_the_divergence_from_the_posterior_up_to_log_z():
    graph, (evidence, potentials) = Graph.grid(1, 3), problem(Graph.grid(1, 3), states=2)
    edges, numbers = graph.edges.T.tolist(), (potentials.numpy(), evidence.numpy())
    log_q = torch.randn(3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).log_softmax(-1)
    log_z, divergence = field_enumeration.log_partition(edges, *numbers), 0.0
    for h, score in field_enumeration.configurations(edges, *numbers):
        log_share = sum(log_q[node, value].item() for node, value in enumerate(h))
        divergence += np.exp(log_share) * (log_share - score + log_z)
    energy = mean_field.free_energy(log_q, evidence, potentials, graph)
    assert energy.item() == pytest.approx(divergence - log_z, rel=1e-12)


def test_impossible_states_leave_energy_and_gradients_finite():
    evidence, potentials = problem()
    evidence[0, 1], evidence[3, :2] = -torch.inf, -torch.inf
    potentials.requires_grad_()
    messages = mean_field.start(evidence, potentials)
    for update in schedule.sequential(GRID):
        messages = mean_field.step(messages, evidence, potentials, GRID, update)
    energy = mean_field.objective(messages, evidence, potentials, GRID)
    energy.backward()
    assert energy.isfinite() and potentials.grad.isfinite().all()
    limit = evidence.clamp_min(-600)
    assert energy.item() == pytest.approx(mean_field.objective(messages, limit, potentials, GRID).item(), rel=1e-12)
    assert log_beliefs(messages, evidence, GRID)[0, 1] == -torch.inf


def test_one_set_of_potentials_serves_many_observations():
    evidence, _ = problem(batch=(4,))
    _, potentials = problem()
    together = mean_field.infer(evidence, potentials, GRID, [0.5] * 5)
    alone = torch.stack([mean_field.infer(row, potentials, GRID, [0.5] * 5) for row in evidence])
    torch.testing.assert_close(together, alone, rtol=1e-12, atol=1e-14)
    energies = mean_field.objective(together, evidence, potentials, GRID)
    torch.testing.assert_close(energies[2], mean_field.objective(alone[2], evidence[2], potentials, GRID))
