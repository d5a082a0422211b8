"""Markov-random-field networks: what they equal, and what their settings do."""

import itertools
import random

import pytest
import torch

from deepnmf_cli.inference import belief, binary, units
from deepnmf_cli.inference.graph import Graph, readout
from deepnmf_cli.kernels import machine_code
from deepnmf_cli.kernels.unit_sums import compile_unit_kernel
from deepnmf_cli.networks import NETWORKS
from deepnmf_cli.networks.dnn import Dnn, DnnSettings
from deepnmf_cli.networks.mrf import BeliefPropagation, MeanField, PowerMean
from deepnmf_cli.networks.mrf_settings import BeliefPropagationSettings, MeanFieldSettings, PowerMeanSettings

SMALL = {"bins": 9, "context": 3}
NAMES = ("mean-field", "belief-propagation", "power-mean")
VARIANTS = [
    {"hidden": (6, 6, 5)},
    {"hidden": (6, 6), "evidence": "first"},
    {"hidden": (6, 6, 5), "schedule": "layer"},
    {"hidden": (6, 6, 6), "schedule": "unit"},
    {"hidden": (5,), "states": 3},
    {"hidden": (5, 5), "states": 4, "schedule": "unit"},
    {"hidden": (4,), "graph": "complete", "iterations": 3},
    {"hidden": (4,), "graph": "complete", "iterations": 3, "tied": True, "schedule": "unit"},
    {"hidden": (3,), "graph": "bands", "reach": 2, "iterations": 3, "schedule": "layer"},
    {"hidden": (), "graph": "grid", "iterations": 3},
    {"hidden": (1,), "graph": "edges", "edges": ((1, 0), (0, 9), (4, 5), (3, 5)), "iterations": 2},
]
OWN = {
    "mean-field": [{}],
    "belief-propagation": [{}],
    "power-mean": [{"alphas": "fixed", "alpha": 0.3}, {"alphas": "trained"}],
}
ALL = [
    *((name, a | b) for name in NAMES for a, b in itertools.product(VARIANTS, OWN[name])),
    ("belief-propagation", {"hidden": (5,), "temperature": 0.0}),
    ("belief-propagation", {"hidden": (5, 4), "temperature": 0.5, "states": 3}),
    *((n, {"hidden": (), "graph": "chain", "reciprocal": True, "schedule": "unit"}) for n in NAMES[1:]),
    ("belief-propagation", {"hidden": (3,), "graph": "complete", "schedule": "unit", "mean": "arithmetic"}),
    ("belief-propagation", {"hidden": (), "graph": "grid", "schedule": "layer", "mean": "arithmetic", "tied": True}),
]


def network(name: str, **settings):
    torch.manual_seed(3)
    kind, described = NETWORKS[name]
    return kind(described(**SMALL | settings))


def frames(count: int = 20) -> torch.Tensor:
    return torch.rand(27, count, generator=torch.Generator().manual_seed(1)) ** 3


def randomise(built) -> None:
    """Give every parameter a value, those too that start at zero."""
    with torch.no_grad():
        for name, parameter in built.named_parameters():
            if "alpha" not in name:
                parameter += 0.3 * torch.randn_like(parameter)


@pytest.mark.parametrize("name, settings", ALL)
def test_every_variant_makes_masks_and_passes_gradients_to_all_it_trains(name: str, settings: dict) -> None:
    built = network(name, **settings)
    randomise(built)
    masks = built.frame_masks(frames())
    assert masks.shape == (2, 9, 20) and (masks >= 0).all()
    torch.testing.assert_close(masks.sum(0), torch.ones(9, 20))
    masks[0].square().sum().backward()
    # In a reciprocal field the last evidence and bias are read too; nothing else is left without a gradient.
    assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.any() for p in built.parameters())


@pytest.mark.parametrize("name, settings", ALL)
def test_every_variant_is_rebuilt_from_its_weights_and_counts_its_work(name: str, settings: dict) -> None:
    built, other = network(name, **settings), NETWORKS[name][0](NETWORKS[name][1](**SMALL | settings))
    randomise(built)
    other.load_weights(built.weights())
    assert torch.equal(built.frame_masks(frames()), other.frame_masks(frames()))
    assert built.macs_per_frame() > 0


def test_conventional_mean_field_equals_the_dnn_weight_by_weight() -> None:
    torch.manual_seed(0)
    dnn = Dnn(DnnSettings(**SMALL, hidden=(6, 5)))
    built = network("mean-field", hidden=(6, 5), evidence="first")
    bank = built.unfolded.bank
    first, *upper = dnn.layers
    with torch.no_grad():
        for layer in dnn.layers:
            layer.bias.normal_()
        bank.value("evidence", 0).copy_(first.weight)
        for slot, layer in enumerate(upper):
            bank.value("couplings", slot).copy_(layer.weight)
        for slot, layer in enumerate(dnn.layers):
            bank.value("bias", slot).copy_(layer.bias)
    assert built.parameter_counts() == dnn.parameter_counts()
    torch.testing.assert_close(built.frame_masks(frames()), dnn.frame_masks(frames()), rtol=0, atol=1e-6)


def test_evidence_for_every_layer_starts_as_the_conventional_network() -> None:
    every, first = network("mean-field", hidden=(6, 5)), network("mean-field", hidden=(6, 5), evidence="first")
    for slot in range(3):
        for name in ("couplings", "bias"):
            if name == "bias" or slot < 2:
                first.unfolded.bank.value(name, slot).data.copy_(every.unfolded.bank.value(name, slot).data)
    first.unfolded.bank.value("evidence", 0).data.copy_(every.unfolded.bank.value("evidence", 0).data)
    torch.testing.assert_close(every.frame_masks(frames()), first.frame_masks(frames()))


@pytest.mark.parametrize("alpha, name", [(0.0, "mean-field"), (1.0, "belief-propagation")])
@pytest.mark.parametrize("settings", VARIANTS)
def test_power_mean_with_alpha_zero_is_mean_field_and_with_one_belief_propagation(alpha, name, settings) -> None:
    end = network(name, **settings)
    randomise(end)
    between = network("power-mean", **settings, alpha=alpha, alphas="fixed")
    between.load_weights(between.weights() | end.weights())
    torch.testing.assert_close(between.frame_masks(frames()), end.frame_masks(frames()), rtol=0, atol=2e-6)


@pytest.mark.parametrize("settings", [{}, {"states": 3}, {"temperature": 0.0}])
def test_units_start_as_undecided_as_those_of_mean_field(settings: dict) -> None:
    built = network("belief-propagation", hidden=(200, 200), **settings)
    state = built.unfolded.trajectory(built.features(frames()).mT)[2]
    log_odds = state[..., 1] - state[..., 0] if state.dim() == 3 else state
    drift = built.unfolded.bank.value("bias", 1)
    drift = drift[:, 1] - drift[:, 0] if drift.dim() == 2 else drift
    assert log_odds.mean().abs() < 0.3 * log_odds.std()
    if not settings:
        assert (log_odds - drift).mean() > 0.6 * log_odds.std()  # so it would be without


def test_units_with_three_states_of_which_one_is_forbidden_are_units_with_two() -> None:
    """And the log form (29) with two states is the unit of log odds."""
    two = network("belief-propagation", hidden=(5,))
    randomise(two)
    bank = two.unfolded.bank
    three = network("belief-propagation", hidden=(5,), states=3)
    other, w = three.unfolded.bank, bank.value("couplings", 0).data
    with torch.no_grad():
        for k, n in ((0, 3), (1, 2)):  # states of the layer
            rows, bias = (torch.zeros(x, n, *y) for x, y in (((5, 9)[k], (27,)), ((5, 9)[k], ())))
            rows[:, 1], bias[:, 1] = bank.value("evidence", k), bank.value("bias", k)
            if n == 3:
                bias[:, 2] = -1e4
            other.value("evidence", k).copy_(rows.flatten(0, 1))
            other.value("bias", k).copy_(bias)
        potentials = torch.zeros(5, 3, 9, 2)
        potentials[:, 1, :, 1] = w.T
        other.value("couplings", 0).copy_(potentials.flatten(2))
    torch.testing.assert_close(three.frame_masks(frames()), two.frame_masks(frames()), rtol=0, atol=1e-5)


def test_an_untrained_tied_field_is_synchronous_message_passing_on_its_graph() -> None:
    for alpha, name in ((0.0, "mean-field"), (1.0, "belief-propagation")):
        built = network(name, hidden=(2,), graph="complete", tied=True, iterations=4)
        bank, features = built.unfolded.bank, built.features(frames()).mT
        own = features @ bank.value("evidence", 0).T + bank.value("bias", 0)
        graph, w = Graph.complete(11), torch.zeros(11, 11)
        w[graph.edges[0], graph.edges[1]] = bank.value("couplings", 0).data
        log_odds = own
        for _ in range(4):
            log_odds = binary.field(log_odds, w + w.T, own, alpha)
        torch.testing.assert_close(built.frame_masks(frames())[0], log_odds.sigmoid()[:, -9:].mT)


@pytest.mark.parametrize("alpha", [0.4, 1.0])
def test_reciprocal_messages_are_those_of_the_graph_and_exact_on_its_chain(alpha: float) -> None:
    fixed = {"alpha": alpha, "alphas": "fixed"}
    settings = {"hidden": (), "graph": "bands", "reciprocal": True, "tied": True, "iterations": 9}
    built = network("power-mean", **settings, **fixed).double()
    bank, features = built.unfolded.bank, built.features(frames().double()).mT
    graph = Graph.grid(1, 9)
    potentials = torch.zeros(8, 2, 2, dtype=torch.float64)
    potentials[:, 1, 1] = bank.value("couplings", 0).data
    own = features @ bank.value("evidence", 0).T + bank.value("bias", 0)
    evidence = torch.stack([torch.zeros_like(own), own], -1)
    messages = belief.infer(evidence, potentials, graph, [1.0] * 9, alpha)
    found = built.frame_masks(frames().double())[0].mT
    torch.testing.assert_close(found, readout(messages, evidence, graph)[..., 1], rtol=0, atol=1e-10)
    if alpha == 1:
        configurations = torch.tensor(list(itertools.product((0.0, 1.0), repeat=9)), dtype=torch.float64)
        pairs = (configurations[:, :-1] * configurations[:, 1:]) @ bank.value("couplings", 0)
        weights = (configurations @ own.T + pairs[:, None]).softmax(0)
        torch.testing.assert_close(found, weights.T @ configurations, rtol=0, atol=1e-10)


def on_edges(edges: list[tuple[int, int]], hidden: int, **settings):
    """Sum-product on a field of these edges, with random parameters: the network in float64, evidence and couplings."""
    bins = max(map(max, edges)) + 1 - hidden
    shape = {"bins": bins, "hidden": (hidden,) * bool(hidden), "graph": "edges", "edges": tuple(edges), "tied": True}
    built = network("belief-propagation", **shape, reciprocal=True, **settings).double()
    bank = built.unfolded.bank
    with torch.no_grad():
        bank.value("couplings", 0).copy_(2 * torch.randn(len(edges)).double())
        bank.value("bias", 0).copy_(torch.randn(hidden + bins).double())
    own = observed(built) @ bank.value("evidence", 0).T + bank.value("bias", 0)
    return built, own.detach(), bank.value("couplings", 0).detach().clone()


def observed(built) -> torch.Tensor:
    return built.features(
        torch.rand(3 * built.settings.bins, 4, generator=torch.Generator().manual_seed(7)).double()
    ).mT


def beliefs(built) -> torch.Tensor:
    return built.unfolded(observed(built)).detach()


def marginals(edges: list[tuple[int, int]], own: torch.Tensor, couplings: torch.Tensor) -> torch.Tensor:
    """p(h_i = 1) (N, V) by enumeration."""
    h = torch.tensor(list(itertools.product((0.0, 1.0), repeat=own.shape[1])), dtype=torch.float64)
    i, j = torch.tensor(edges).T
    return (h @ own.T + ((h[:, i] * h[:, j]) @ couplings)[:, None]).softmax(0).T @ h


@pytest.mark.parametrize("seed", range(6))
def test_sum_product_on_a_random_tree_of_given_edges_is_exact(seed: int) -> None:
    draw, nodes = random.Random(seed), 9
    order = draw.sample(range(nodes), nodes)
    edges = [(order[k], draw.choice(order[:k])) for k in range(1, nodes)]
    built, own, couplings = on_edges(edges, hidden=seed % 4, iterations=nodes - 1)
    wanted = marginals(edges, own, couplings)[:, seed % 4 :]
    torch.testing.assert_close(beliefs(built), wanted, rtol=0, atol=1e-10)


@pytest.mark.parametrize("edges", [[(0, 1), (1, 2), (2, 0)], [(0, 1), (1, 2), (2, 3), (3, 0), (3, 4)]])
def test_on_a_loop_it_is_loopy_propagation_of_the_graph_and_close_for_weak_couplings(edges: list) -> None:
    built, own, couplings = on_edges(edges, hidden=1, iterations=60)
    graph = Graph(own.shape[1], torch.tensor(edges).T)
    evidence = torch.stack([torch.zeros_like(own), own], -1)
    potentials = torch.zeros(len(edges), 2, 2, dtype=torch.float64)
    potentials[:, 1, 1] = couplings
    messages = belief.infer(evidence, potentials, graph, [1.0] * 60)
    torch.testing.assert_close(beliefs(built), readout(messages, evidence, graph)[..., 1:, 1], rtol=0, atol=1e-10)
    apart = []
    for share in (1.0, 0.25):
        with torch.no_grad():
            built.unfolded.bank.value("couplings", 0).copy_(share * couplings)
        apart.append((beliefs(built) - marginals(edges, own, share * couplings)[:, 1:]).abs().max())
    assert apart[0] > 1e-4 and apart[1] < 0.1 * apart[0]


def test_chain_and_grid_are_graphs_of_neighbours_and_the_mask_is_the_present_frame() -> None:
    chain, grid = (network("belief-propagation", hidden=(), graph=g) for g in ("chain", "grid"))
    pairs = {tuple(pair) for pair in chain.unfolded.algorithm.graph.edges.T.tolist()}
    assert pairs == {(f, f + 1) for f in range(8)}
    pairs = {tuple(pair) for pair in grid.unfolded.algorithm.graph.edges.T.tolist()}
    wanted = {(9 * t + f, 9 * t + f + 1) for t in range(3) for f in range(8)}
    assert pairs == wanted | {(9 * t + f, 9 * t + f + 9) for t in range(2) for f in range(9)}
    last = grid.unfolded.trajectory(grid.features(frames()).mT)[-1]
    assert last.shape == (20, 27)
    torch.testing.assert_close(grid.frame_masks(frames())[0], last[:, -9:].sigmoid().mT)


@pytest.mark.parametrize("name", NAMES[:2])
def test_messages_one_by_one_on_a_graph_of_few_edges_are_those_of_its_matrix(name: str, monkeypatch) -> None:
    built = network(name, bins=45, context=1, hidden=(), graph="chain")
    assert built.unfolded.algorithm.by_edges and not built.accelerate()
    evidence = torch.rand(45, 6)
    one_by_one = built.frame_masks(evidence)
    monkeypatch.setattr(units, "MATRIX_ADVANTAGE", 1e9)
    assert not built.unfolded.algorithm.by_edges
    torch.testing.assert_close(one_by_one, built.frame_masks(evidence), rtol=0, atol=1e-6)


def scheduled(built) -> list[torch.Tensor]:
    """The gammas of all rounds, drawn anew."""
    bank = built.unfolded.bank
    slots = range(bank.ties["schedule"].count)
    with torch.no_grad():
        for slot in slots:
            bank.value("schedule", slot).copy_(2 * torch.randn(bank.value("schedule", slot).shape).double())
    return [bank.value("schedule", slot).detach().sigmoid() for slot in slots]


@pytest.mark.parametrize("schedule", ["unit", "layer"])
def test_an_arithmetic_schedule_is_the_mean_of_old_and_new_messages_25(schedule: str) -> None:
    edges = [(0, 1), (1, 2), (2, 3), (3, 0), (1, 4)]
    built, own, couplings = on_edges(edges, hidden=1, iterations=5, schedule=schedule, mean="arithmetic")
    (gamma,), graph = scheduled(built), Graph(5, torch.tensor(edges).T)
    m = torch.full((4, 10, 2), 0.5, dtype=torch.float64)  # messages of sum one, by plain sums
    for _ in range(5):
        new = torch.empty_like(m)
        for row, (i, j) in enumerate(zip(graph.targets.tolist(), graph.sources.tolist(), strict=True)):
            b = torch.stack([torch.ones(4).double(), own[:, j].exp()], -1)
            for other in range(10):
                if graph.targets[other] == j and graph.sources[other] != i:
                    b = b * m[:, other]
            w = couplings[row % 5]
            new[:, row] = torch.stack([b.sum(-1), b[:, 0] + b[:, 1] * w.exp()], -1)
        new = new / new.sum(-1, keepdim=True)
        share = gamma[graph.targets][:, None] if schedule == "unit" else gamma
        m = (1 - share) * m + share * new
    log_odds = own.index_add(1, graph.targets, (m[..., 1] / m[..., 0]).log())
    torch.testing.assert_close(beliefs(built), log_odds.sigmoid()[:, 1:], rtol=0, atol=1e-12)


@pytest.mark.parametrize("graph", [{"graph": "complete", "hidden": (2,)}, {"graph": "grid", "hidden": ()}])
def test_without_what_came_the_other_way_the_mean_message_25_is_that_of_the_mean_belief(graph: dict) -> None:
    settings = {**graph, "tied": True, "iterations": 4, "schedule": "unit", "mean": "arithmetic"}
    built = network("belief-propagation", **settings).double()
    gamma, bank = scheduled(built)[0], built.unfolded.bank
    edges, couplings = built.unfolded.algorithm.graph.edges, bank.value("couplings", 0).detach()
    x = observed(built)
    own = (x @ bank.value("evidence", 0).T + bank.value("bias", 0)).detach()
    nodes = own.shape[1]
    w = torch.zeros(nodes, nodes, dtype=torch.float64)
    w[edges[0], edges[1]] = w[edges[1], edges[0]] = couplings
    m, u = torch.ones(4, nodes, nodes, dtype=torch.float64), own  # m(1)/m(0), from the last dimension to the one before
    for _ in range(4):
        new = 1 + u.sigmoid()[:, None] * torch.expm1(w)
        m = (1 - gamma) * m + gamma * new  # gamma of the unit that sends
        u = own + m.log().sum(-1)
    torch.testing.assert_close(beliefs(built), u.sigmoid()[:, -9:], rtol=0, atol=1e-10)


@pytest.mark.parametrize("reciprocal", [False, True])
def test_a_gamma_of_one_makes_an_arithmetic_schedule_synchronous(reciprocal: bool) -> None:
    shape = {"hidden": (2,), "graph": "bands", "reach": 2, "iterations": 3, "reciprocal": reciprocal}
    plain = network("belief-propagation", **shape)
    randomise(plain)
    mixed = network("belief-propagation", **shape, schedule="unit", mean="arithmetic")
    mixed.load_weights(mixed.weights() | plain.weights())
    for slot in range(3):
        mixed.unfolded.bank.value("schedule", slot).data.fill_(100.0)
    torch.testing.assert_close(mixed.frame_masks(frames()), plain.frame_masks(frames()), rtol=0, atol=2e-6)


def test_gamma_of_one_is_synchronous_and_of_zero_keeps_the_layer_below() -> None:
    plain, mixed = network("mean-field", hidden=(6, 6)), network("mean-field", hidden=(6, 6), schedule="unit")
    randomise(plain)
    mixed.load_weights(mixed.weights() | plain.weights())
    logit = mixed.unfolded.bank.value("schedule", 0).data
    assert logit.shape == (6,)
    logit.fill_(100.0)
    torch.testing.assert_close(mixed.frame_masks(frames()), plain.frame_masks(frames()))
    logit.fill_(-100.0)
    layers = mixed.unfolded.trajectory(mixed.features(frames()).mT)
    torch.testing.assert_close(layers[2], layers[1])


def test_annealed_alpha_goes_to_its_end_and_stays_there() -> None:
    built = network("power-mean", hidden=(6, 6), alphas="annealed", alpha=0.0, anneal_part=0.5)
    assert built.annealing and not any("alpha" in name for name, _ in built.named_parameters())
    for progress, expected in ((0.0, 0.0), (0.25, 0.5), (0.5, 1.0), (0.9, 1.0)):
        built.anneal(progress)
        assert built.alphas == pytest.approx([expected] * 2)
        assert built.annealing == (expected < 1)
    for alphas in ("fixed", "trained"):
        other = network("power-mean", hidden=(6, 6), alphas=alphas)
        other.anneal(1.0)
        assert other.alphas == [0.5, 0.5] and not other.annealing


def test_accelerated_networks_are_the_same_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    if compile_unit_kernel() is None:
        pytest.skip("there is no C++ compiler")
    for name in NAMES:
        built = network(name, hidden=(6, 5))
        randomise(built)
        before = built.frame_masks(frames())
        assert built.accelerate() == (name != "mean-field")
        torch.testing.assert_close(built.frame_masks(frames()), before, rtol=0, atol=1e-6)
    monkeypatch.setattr(machine_code.shutil, "which", lambda name: None)
    compile_unit_kernel.cache_clear()
    assert not network("belief-propagation").accelerate()
    compile_unit_kernel.cache_clear()


@pytest.mark.parametrize(
    "kind, wrong",
    [
        (MeanFieldSettings, {"hidden": ()}),
        (MeanFieldSettings, {"graph": "tree"}),
        (MeanFieldSettings, {"tied": True}),
        (MeanFieldSettings, {"states": 1}),
        (MeanFieldSettings, {"schedule": "unit", "hidden": (5, 6)}),
        (MeanFieldSettings, {"graph": "complete"}),
        (MeanFieldSettings, {"graph": "complete", "hidden": (5,), "evidence": "first"}),
        (BeliefPropagationSettings, {"reciprocal": True}),
        (BeliefPropagationSettings, {"graph": "complete", "hidden": (5,), "mean": "arithmetic"}),
        (BeliefPropagationSettings, {"schedule": "unit", "mean": "arithmetic"}),
        (BeliefPropagationSettings, {"mean": "harmonic"}),
        (MeanFieldSettings, {"graph": "chain", "hidden": (5,)}),
        (MeanFieldSettings, {"graph": "edges", "hidden": (5,)}),
        (MeanFieldSettings, {"edges": ((0, 1),)}),
        (MeanFieldSettings, {"graph": "edges", "hidden": (), "edges": ((0, 257),)}),
        (MeanFieldSettings, {"graph": "edges", "hidden": (), "edges": ((0, 1), (1, 0))}),
        (MeanFieldSettings, {"graph": "edges", "hidden": (), "edges": ((1, 1),)}),
        (BeliefPropagationSettings, {"temperature": 2.0}),
        (PowerMeanSettings, {"alphas": "guessed"}),
        (PowerMeanSettings, {"anneal_part": 0.0}),
    ],
)
def test_impossible_settings_are_refused(kind: type, wrong: dict) -> None:
    with pytest.raises(ValueError):
        kind(**wrong)


def test_names_and_defaults() -> None:
    assert [kind().settings for kind in (MeanField, BeliefPropagation, PowerMean)] == [
        MeanFieldSettings(),
        BeliefPropagationSettings(),
        PowerMeanSettings(),
    ]
