"""Graphs, evidence, schedules: what every message-passing algorithm here shares."""

import numpy as np
import pytest
import torch

from deepnmf_cli.inference import belief, schedule
from deepnmf_cli.inference.graph import Graph, fold, log_beliefs, readout, start, tree_probabilities
from tests.reference import field_enumeration


def problem(graph, states=3, scale=1.0, batch=(), seed=0):
    draw = torch.Generator().manual_seed(seed)
    potentials = scale * torch.randn(*batch, graph.size, states, states, generator=draw, dtype=torch.float64)
    return torch.randn(*batch, graph.nodes, states, generator=draw, dtype=torch.float64), potentials


def chain(nodes):
    return Graph.grid(1, nodes)


@pytest.mark.parametrize(
    "edges, said",
    [
        ([[0, 1], [1, 3]], "outside 0 .. 2"),
        ([[0, 1], [1, 1]], "to itself"),
        ([[0, 1], [1, 0]], "same pair"),
        ([[0, 1, 2]], r"\(1, 3\)"),
    ],
)
def test_impossible_graphs_are_refused(edges, said):
    with pytest.raises(ValueError, match=said):
        Graph(3, torch.tensor(edges))


def test_edges_of_other_types_are_refused():
    with pytest.raises(ValueError, match="float32"):
        Graph(3, torch.tensor([[0.0], [1.0]]))


def test_grid_joins_neighbours_and_complete_joins_all():
    assert Graph.grid(2, 3).edges.T.tolist() == [[0, 1], [1, 2], [3, 4], [4, 5], [0, 3], [1, 4], [2, 5]]
    assert Graph.complete(4).edges.T.tolist() == [[0, 1], [0, 2], [0, 3], [1, 2], [1, 3], [2, 3]]
    assert Graph.grid(1, 1).size == Graph.complete(1).size == 0


def test_a_message_goes_to_where_its_reverse_comes_from():
    graph = Graph.grid(2, 2)
    assert torch.equal(graph.targets, graph.sources.roll(graph.size))
    numbers = torch.arange(8.0).reshape(1, 8, 1).expand(2, 8, 3)
    assert graph.reverse(numbers)[0, :, 0].tolist() == [4, 5, 6, 7, 0, 1, 2, 3]


def test_start_knows_the_evidence_only():
    graph = Graph.grid(2, 2)
    evidence, potentials = problem(graph, batch=(5,))
    messages = start(evidence, potentials[0])
    assert messages.shape == (5, 8, 3)
    torch.testing.assert_close(messages.exp().sum(-1), torch.ones(5, 8, dtype=torch.float64))
    torch.testing.assert_close(readout(messages, evidence, graph), evidence.softmax(-1))


def test_observations_fold_into_evidence():
    """The posterior given visible variables equals the conditional of the joint field, enumerated."""
    hidden, values, (evidence, potentials) = chain(3), 4, problem(chain(3), states=2)
    draw = torch.Generator().manual_seed(4)
    links = torch.tensor([0, 2, 2])
    seen = torch.randn(3, 2, values, generator=draw, dtype=torch.float64)
    observed = torch.tensor([[3, 0, 1], [1, 1, 2]])
    folded = fold(evidence, links, seen, observed)
    assert folded.shape == (2, 3, 2)
    for row in range(2):
        expected = evidence.clone()
        for d in range(3):
            for h in range(2):
                expected[links[d], h] += seen[d, h, observed[row, d]]
        torch.testing.assert_close(folded[row], expected)
    batch = fold(folded, links, seen, observed)  # evidence may have rows of its own
    torch.testing.assert_close(batch, 2 * folded - evidence)
    messages = belief.infer(folded, potentials, hidden, [1.0] * 3)
    for row in range(2):
        single, _ = field_enumeration.marginals(hidden.edges.T.tolist(), potentials.numpy(), folded[row].numpy())
        np.testing.assert_allclose(readout(messages, folded, hidden)[row].numpy(), single, atol=1e-12)


def test_known_values_and_smaller_state_spaces_are_evidence_of_minus_infinity():
    graph = chain(4)
    evidence, potentials = problem(graph)
    evidence[1, 2] = -torch.inf  # a node with two states
    evidence[2, :2] = -torch.inf  # a node known to be in state 2
    single, pair = field_enumeration.marginals(
        graph.edges.T.tolist(), potentials.numpy(), np.maximum(evidence.numpy(), -600)
    )
    potentials.requires_grad_(), evidence.requires_grad_()
    messages = belief.start(evidence, potentials)
    for _ in range(4):
        messages = belief.step(messages, evidence, potentials, graph)
    found = readout(messages, evidence, graph)
    np.testing.assert_allclose(found.detach().numpy(), single, atol=1e-12)
    edges = belief.edge_beliefs(messages, evidence, potentials, graph)
    np.testing.assert_allclose(edges.detach().numpy(), pair, atol=1e-12)
    assert found[1, 2] == 0 and found[2, 2] == 1
    (found * torch.arange(3)).sum().backward()
    assert potentials.grad.isfinite().all() and potentials.grad.any()


def test_untrained_links_weigh_as_one_over_the_root_of_the_number_of_neighbours():
    torch.manual_seed(0)
    for graph, neighbours in ((Graph.complete(6), 5), (chain(2), 1)):
        potentials = belief.BeliefPropagation(graph, 4, states=40).parameters(1)["potentials"].initial(0)
        assert potentials.std().item() == pytest.approx(neighbours**-0.5, rel=0.05)


def test_tree_probabilities_are_those_of_all_spanning_trees():
    assert torch.allclose(tree_probabilities(chain(5)), torch.ones(4, dtype=torch.float64))
    cycle = Graph(5, torch.tensor([[0, 1, 2, 3, 4], [1, 2, 3, 4, 0]]))
    assert torch.allclose(tree_probabilities(cycle), torch.full((5,), 4 / 5, dtype=torch.float64))
    assert torch.allclose(tree_probabilities(Graph.complete(6)), torch.full((15,), 2 / 6, dtype=torch.float64))
    assert tree_probabilities(Graph.grid(3, 4)).sum().item() == pytest.approx(11)


@pytest.mark.parametrize("power", [-1.0, 0.0, 0.5, 1.0])
def test_mixed_messages_are_normalised_and_lie_between(power):
    draw = torch.Generator().manual_seed(0)
    old, new = (torch.randn(4, 6, 2, generator=draw, dtype=torch.float64).log_softmax(-1) for _ in range(2))
    gamma = torch.rand(6, generator=draw, dtype=torch.float64)
    mixed = schedule.mix(old, new, gamma, power)
    torch.testing.assert_close(mixed.exp().sum(-1), torch.ones(4, 6, dtype=torch.float64))
    odds, ends = (mixed[..., 1] - mixed[..., 0]), torch.stack([old[..., 1] - old[..., 0], new[..., 1] - new[..., 0]])
    assert (odds >= ends.amin(0) - 1e-12).all() and (odds <= ends.amax(0) + 1e-12).all()


def test_mixing_is_arithmetic_for_one_and_log_linear_for_zero():
    old, new = torch.tensor([[0.2, 0.8]]).double().log(), torch.tensor([[0.6, 0.4]]).double().log()
    arithmetic = schedule.mix(old, new, 0.25, 1).exp()
    torch.testing.assert_close(arithmetic, torch.tensor([[0.3, 0.7]]).double())
    geometric = schedule.mix(old, new, torch.tensor([0.25]), torch.tensor([0.0]))
    torch.testing.assert_close(geometric, (0.75 * old + 0.25 * new).log_softmax(-1))


@pytest.mark.parametrize("power", [0.0, 1.0])
def test_mixing_by_a_number_keeps_for_zero_and_replaces_for_one(power):
    old, new = torch.tensor([[0.2, 0.8]]).double().log(), torch.tensor([[0.6, 0.4]]).double().log()
    torch.testing.assert_close(schedule.mix(old, new, 0, power), old)
    assert schedule.mix(old, new, 1, power) is new


def test_sequential_schedule_updates_one_node_after_the_other():
    graph = Graph.grid(2, 2)
    sweep = schedule.sequential(graph)
    assert len(sweep) == 4 and torch.equal(torch.stack(sweep).sum(0), torch.ones(8))
    assert all(set(graph.targets[step == 1].tolist()) == {node} for node, step in enumerate(sweep))
    backwards = schedule.sequential(graph, [3, 1])
    assert torch.equal(backwards[0], sweep[3]) and torch.equal(backwards[1], sweep[1])


def test_random_schedule_is_reproducible_and_has_its_share():
    graph = Graph.grid(5, 5)
    draws = [schedule.random(graph, 50, 0.3, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)]
    assert torch.equal(torch.stack(draws[0]), torch.stack(draws[1]))
    assert not torch.equal(torch.stack(draws[0]), torch.stack(draws[2]))
    assert abs(torch.stack(draws[0]).mean() - 0.3) < 0.02


@pytest.mark.parametrize("kind", ["synchronous", "damped", "sequential", "random", "given"])
def test_every_schedule_finds_the_marginals_of_a_tree(kind):
    graph = chain(5)
    evidence, potentials = problem(graph, seed=3)
    draw = torch.Generator().manual_seed(2)
    steps = {
        "synchronous": schedule.synchronous(graph, 5),
        "damped": schedule.synchronous(graph, 120, 0.7),
        "sequential": schedule.sequential(graph) + schedule.sequential(graph, reversed(range(5))),
        "random": schedule.random(graph, 60, 0.4, draw),
        "given": list(torch.rand(200, 8, generator=draw)),
    }[kind]
    messages = belief.infer(evidence, potentials, graph, steps)
    single, _ = field_enumeration.marginals(graph.edges.T.tolist(), potentials.numpy(), evidence.numpy())
    np.testing.assert_allclose(log_beliefs(messages, evidence, graph).exp().numpy(), single, atol=1e-10)
