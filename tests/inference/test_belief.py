"""Belief propagation and the family it belongs to: exactness on trees, limits, bounds, numbers that stay finite."""

import numpy as np
import pytest
import torch

from deepnmf_cli.inference import belief, mean_field, schedule
from deepnmf_cli.inference.graph import Graph, readout, tree_probabilities
from tests.reference import field_enumeration

GRID = Graph.grid(2, 3)
ALPHAS = [0.0, 1e-6, 0.01, 0.5, 1.6]
TEMPERATURES = [0.0, 0.01, 1.0, 2.0]


def problem(graph=GRID, states=3, scale=1.0, seed=0, batch=()):
    draw = torch.Generator().manual_seed(seed)
    potentials = scale * torch.randn(*batch, graph.size, states, states, generator=draw, dtype=torch.float64)
    return torch.randn(*batch, graph.nodes, states, generator=draw, dtype=torch.float64), potentials


def random_tree(nodes, seed):
    """Each node hangs on a random earlier one; the ends of its edges and its nodes are shuffled."""
    draw = torch.Generator().manual_seed(seed)
    parents = torch.tensor([int(torch.randint(node, (), generator=draw)) for node in range(1, nodes)])
    edges = torch.randperm(nodes, generator=draw)[torch.stack([parents, torch.arange(1, nodes)])]
    turned = torch.rand(nodes - 1, generator=draw) < 0.5
    return Graph(nodes, torch.where(turned, edges.flip(0), edges))


def enumerated(graph, evidence, potentials):
    return graph.edges.T.tolist(), potentials.numpy(), evidence.numpy()


@pytest.mark.parametrize("states, nodes", [(2, 8), (3, 6), (5, 4)])
@pytest.mark.parametrize("seed", range(4))
def test_sum_product_is_exact_on_random_trees(seed, states, nodes):
    graph = random_tree(nodes, seed)
    evidence, potentials = problem(graph, states, 3.0, seed)
    messages = belief.infer(evidence, potentials, graph, [1.0] * nodes)
    numbers = enumerated(graph, evidence, potentials)
    single, pair = field_enumeration.marginals(*numbers)
    np.testing.assert_allclose(readout(messages, evidence, graph).numpy(), single, atol=1e-10)
    np.testing.assert_allclose(belief.edge_beliefs(messages, evidence, potentials, graph).numpy(), pair, atol=1e-10)
    log_z = belief.log_partition(messages, evidence, potentials, graph)
    assert log_z.item() == pytest.approx(field_enumeration.log_partition(*numbers), abs=1e-10)


@pytest.mark.parametrize("states, nodes", [(2, 8), (3, 6)])
@pytest.mark.parametrize("seed", range(4))
def test_max_product_finds_the_most_probable_configuration_of_random_trees(seed, states, nodes):
    graph = random_tree(nodes, seed)
    evidence, potentials = problem(graph, states, 3.0, seed)
    messages = belief.infer(evidence, potentials, graph, [1.0] * nodes, temperature=0.0)
    configuration, _ = field_enumeration.most_probable(*enumerated(graph, evidence, potentials))
    assert readout(messages, evidence, graph).argmax(-1).tolist() == list(configuration)


@pytest.mark.parametrize(
    "rule, alpha, temperature",
    [
        (field_enumeration.sum_product_rule, 1.0, 1.0),
        (field_enumeration.max_product_rule, 1.0, 0.0),
        (field_enumeration.mean_field_rule, 0.0, 1.0),
        *((field_enumeration.family_rule(a, t), a, t) for a, t in [(0.3, 1.0), (1.7, 1.0), (1.0, 0.4), (0.6, 2.0)]),
    ],
)
def test_messages_equal_plain_sums(rule, alpha, temperature):
    (evidence, potentials), edges = problem(), GRID.edges.T.tolist()
    messages = belief.start(evidence, potentials)
    twin = {pair: [1 / 3] * 3 for i, j in edges for pair in ((i, j), (j, i))}
    for _ in range(3):
        messages = belief.step(messages, evidence, potentials, GRID, alpha, temperature)
        twin = field_enumeration.new_messages(twin, edges, potentials.numpy(), evidence.numpy(), rule)
    rows = [twin[source, target] for source, target in zip(GRID.sources.tolist(), GRID.targets.tolist(), strict=True)]
    np.testing.assert_allclose(messages.exp().numpy(), rows, rtol=1e-10)


def test_belief_propagation_is_what_is_computed_where_no_alpha_is_named():
    evidence, potentials = problem()
    messages = belief.step(belief.start(evidence, potentials), evidence, potentials, GRID)
    for function in (belief.step, belief.edge_beliefs, belief.log_partition):
        arguments = [messages, evidence, potentials, GRID]
        torch.testing.assert_close(function(*arguments), function(*arguments, 1.0), rtol=0, atol=0)


@pytest.mark.parametrize("scale", [0.5, 2.0])
def test_alpha_near_zero_is_mean_field_and_alpha_one_belief_propagation(scale):
    evidence, potentials = problem(scale=scale)
    steps = [0.5] * 8
    field = readout(mean_field.infer(evidence, potentials, GRID, steps), evidence, GRID)
    for alpha, tolerance in ((0.0, 1e-13), (1e-6, 1e-4 * scale**2), (-1e-9, 1e-7 * scale**2)):
        near = readout(belief.infer(evidence, potentials, GRID, steps, alpha, power=0.0), evidence, GRID)
        torch.testing.assert_close(near, field, rtol=0, atol=tolerance)
    full, close = (belief.infer(evidence, potentials, GRID, steps, alpha) for alpha in (1.0, 1 + 1e-9))
    torch.testing.assert_close(full, close, rtol=0, atol=1e-7)
    assert (readout(full, evidence, GRID) - field).abs().max() > 0.01


def test_low_temperature_tends_to_max_product():
    evidence, potentials = problem()
    cold, limit = (belief.infer(evidence, potentials, GRID, [1.0] * 4, 0.7, t) for t in (1e-6, 0.0))
    torch.testing.assert_close(cold, limit, rtol=0, atol=1e-4)
    assert (limit - belief.infer(evidence, potentials, GRID, [1.0] * 4, 0.7)).abs().max() > 0.1


@pytest.mark.parametrize("alpha", [0.0, -0.5])
def test_temperature_zero_needs_a_positive_alpha(alpha):
    evidence, potentials = problem()
    with pytest.raises(ValueError, match="alpha > 0"):
        belief.infer(evidence, potentials, GRID, [1.0], alpha, 0.0)


def test_alpha_above_one_is_tree_reweighted_propagation():
    """Its messages to the power rho are ours for alpha = 1/rho."""
    (evidence, potentials), edges, rho = problem(), GRID.edges.T.tolist(), tree_probabilities(GRID)
    messages = belief.start(evidence, potentials)
    twin = {pair: [1 / 3] * 3 for i, j in edges for pair in ((i, j), (j, i))}
    for _ in range(3):
        messages = belief.step(messages, evidence, potentials, GRID, 1 / rho)
        twin = field_enumeration.reweighted_messages(twin, edges, potentials.numpy(), evidence.numpy(), rho.tolist())
    pairs = zip(GRID.sources.tolist(), GRID.targets.tolist(), strict=True)
    theirs = torch.tensor([twin[pair] for pair in pairs]).log() * torch.cat([rho, rho])[:, None]
    torch.testing.assert_close(messages, theirs.log_softmax(-1))


@pytest.mark.parametrize("scale", [0.3, 1.0, 3.0])
def test_estimates_of_log_z_are_bounds_below_for_mean_field_and_above_for_trees_reweighted(scale):
    evidence, potentials = problem(scale=scale, batch=(3,))
    numbers = [enumerated(GRID, *pair) for pair in zip(evidence, potentials, strict=True)]
    log_z = torch.tensor([field_enumeration.log_partition(*entry) for entry in numbers], dtype=torch.float64)

    alpha = 1 / tree_probabilities(GRID)
    messages = belief.infer(evidence, potentials, GRID, schedule.synchronous(GRID, 500, 0.5), alpha)
    again = belief.step(messages, evidence, potentials, GRID, alpha)
    torch.testing.assert_close(again, messages, rtol=0, atol=1e-6)  # at rest, as the bound asks
    above = belief.log_partition(messages, evidence, potentials, GRID, alpha)

    messages = mean_field.infer(evidence, potentials, GRID, schedule.sequential(GRID) * 30)
    below = belief.log_partition(messages, evidence, potentials, GRID, 0.0)
    torch.testing.assert_close(below, -mean_field.objective(messages, evidence, potentials, GRID))
    assert (below < log_z).all() and (log_z < above).all()
    if scale < 1:
        messages = belief.infer(evidence, potentials, GRID, [1.0] * 30)
        error = (belief.log_partition(messages, evidence, potentials, GRID) - log_z).abs()
        assert (error < 0.2 * torch.minimum(above - log_z, log_z - below)).all()


@pytest.mark.parametrize("alpha", [1e-5, 0.4, 1.0, 1.5])
def test_edge_beliefs_agree_with_beliefs_when_messages_rest(alpha):
    evidence, potentials = problem(scale=0.7)
    messages = belief.infer(evidence, potentials, GRID, [0.5] * 200, alpha)
    single, (i, j) = readout(messages, evidence, GRID), GRID.edges
    pair = belief.edge_beliefs(messages, evidence, potentials, GRID, alpha)
    torch.testing.assert_close(pair.sum(-1), single[i], rtol=0, atol=1e-9)
    torch.testing.assert_close(pair.sum(-2), single[j], rtol=0, atol=1e-9)
    information = (pair * (pair / (single[i, :, None] * single[j, None, :])).log()).sum()
    energy = (single * (single.log() - evidence)).sum() - (pair * potentials).sum() + information / alpha
    found = belief.log_partition(messages, evidence, potentials, GRID, alpha)
    torch.testing.assert_close(found, -energy, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("alpha", [0.0, 0.4, 1.0, 1.5])
def test_messages_at_rest_are_a_stationary_point_of_the_estimate_of_log_z(alpha):
    evidence, potentials = problem(scale=0.7)
    slopes = []
    for steps in (2, 200):
        messages = belief.infer(evidence, potentials, GRID, [0.5] * steps, alpha).requires_grad_()
        estimate = belief.log_partition(messages, evidence, potentials, GRID, alpha)
        slopes.append(torch.autograd.grad(estimate, messages)[0].abs().max())
    assert slopes[0] > 1e-3 and slopes[1] < 1e-9


@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_potentials_of_five_hundred_stay_finite_and_normalised(alpha, temperature, dtype):
    if temperature == 0 and alpha == 0:
        alpha = 1e-4
    evidence, potentials = problem()
    evidence = (500 * evidence.sign()).to(dtype).requires_grad_()
    potentials = (500 * potentials.sign()).to(dtype).requires_grad_()
    messages = belief.start(evidence, potentials)
    for _ in range(5):
        messages = belief.step(messages, evidence, potentials, GRID, alpha, temperature, 0.5)
    assert messages.dtype == dtype and messages.isfinite().all()
    torch.testing.assert_close(messages.exp().sum(-1), torch.ones(14, dtype=dtype))
    readout(messages, evidence, GRID).square().sum().backward()
    assert evidence.grad.isfinite().all() and potentials.grad.isfinite().all()


def test_marginals_of_a_tree_with_potentials_of_hundreds_are_exact_in_float32_where_they_are_decided():
    graph = random_tree(8, 0)
    evidence, potentials = problem(graph, 3, 150.0)
    messages = belief.infer(evidence.float(), potentials.float(), graph, [1.0] * 8)
    single, _ = field_enumeration.marginals(*enumerated(graph, evidence, potentials))
    np.testing.assert_allclose(readout(messages, evidence.float(), graph).numpy(), single, atol=2e-3)


@pytest.mark.parametrize("alpha", [0.0, 1e-7, 0.3, 1.0])
@pytest.mark.parametrize("temperature, power", [(1.0, 0.0), (0.5, 1.0)])
def test_two_steps_are_differentiable_in_everything(alpha, temperature, power):
    graph = Graph(3, torch.tensor([[0, 1, 2], [1, 2, 0]]))
    evidence, potentials = problem(graph, 2)
    settings = [torch.full((3,), value, dtype=torch.float64) for value in (alpha, temperature)]
    gamma = torch.linspace(0.1, 0.9, 6, dtype=torch.float64)
    power = torch.tensor(power, dtype=torch.float64)

    def two_steps(evidence, potentials, alpha, temperature, gamma, power):
        messages = belief.start(evidence, potentials)
        for _ in range(2):
            messages = belief.step(messages, evidence, potentials, graph, alpha, temperature, gamma, power)
        return messages, belief.log_partition(messages, evidence, potentials, graph, alpha)

    arguments = [x.requires_grad_() for x in (evidence, potentials, *settings, gamma, power)]
    assert torch.autograd.gradcheck(two_steps, arguments)


def test_a_gradient_of_log_z_is_the_marginal_on_a_tree():
    graph = random_tree(6, 1)
    evidence, potentials = problem(graph)
    evidence.requires_grad_()
    messages = belief.start(evidence, potentials)
    for _ in range(6):
        messages = belief.step(messages, evidence, potentials, graph)
    (gradient,) = torch.autograd.grad(belief.log_partition(messages, evidence, potentials, graph), evidence)
    torch.testing.assert_close(gradient, readout(messages, evidence, graph).detach())


@pytest.mark.parametrize("alpha, temperature", [(1.0, 1.0), (0.4, 1.0), (0.0, 1.0), (1.0, 0.0), (0.5, 0.3)])
def test_batched_equals_looped(alpha, temperature):
    evidence, potentials = problem(batch=(2, 3))
    steps = schedule.random(GRID, 5, 0.5, torch.Generator().manual_seed(0))
    together = belief.infer(evidence, potentials, GRID, steps, alpha, temperature)
    for index in np.ndindex(2, 3):
        alone = belief.infer(evidence[index], potentials[index], GRID, steps, alpha, temperature)
        torch.testing.assert_close(together[index], alone, rtol=1e-12, atol=1e-14)
    shared = belief.infer(evidence, potentials[1, 1], GRID, steps, alpha, temperature)
    torch.testing.assert_close(shared[1, 1], together[1, 1], rtol=1e-12, atol=1e-14)
