"""What holds for every inference algorithm once it is unfolded: one table of cases, one test for each property."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from deepnmf_cli import checkpoint
from deepnmf_cli.inference import algorithms as named_algorithms
from deepnmf_cli.inference import belief, expectations, fista, ista, mean_field, nmf, schedule, wiener
from deepnmf_cli.inference.algorithm import Algorithm, Descent, Parameter
from deepnmf_cli.inference.chain import MESSAGES
from deepnmf_cli.inference.glow import Glow
from deepnmf_cli.inference.glow_prox import GlowProx
from deepnmf_cli.inference.graph import Graph, readout
from deepnmf_cli.inference.grid import GridInference
from deepnmf_cli.inference.grid_field import GridField
from deepnmf_cli.inference.units import Exponent, Field, ReciprocalField, StateLayers, UnitLayers
from deepnmf_cli.unfold.network import Bank, Unfolded
from deepnmf_cli.unfold.recurrent import RecurrentUnfolded
from tests.reference import units as twins
from tests.unfold.sparse_cases import SPARSE_CASES, TO_ROUNDING

BINS, ATOMS, FRAMES, INPUTS, LAYERS = 12, (4, 3), 9, 5, 4
GRAPH = Graph.grid(2, 3)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


DICTIONARY = draw(BINS, sum(ATOMS)) / draw(BINS, sum(ATOMS)).norm(dim=0)
MIXTURE = draw(BINS, FRAMES, seed=1)
OBSERVED = 4 * draw(FRAMES, INPUTS, seed=2) - 2


@dataclass
class Case:
    """An algorithm, the evidence it gets, and K iterations of it by its own functions, without the construction."""

    algorithm: Algorithm
    declared: Callable[[Algorithm, int], dict[str, Parameter]]
    evidence: Any
    classical: Callable[[dict[str, Any], int], Tensor] | None
    """From the parameters of all layers, [theta^0, ..., theta^K], and the number of iterations: the readout."""
    tied: bool = False
    recurrent: bool | None = None
    """None where frames are no sequence."""
    cut: Callable[[Any, int, int], Any] | None = None
    """Frames from .. to of the evidence, where each is a case of its own or `after` says what one begins with."""
    after: Callable[[Any, Any], Any] | None = None
    """The evidence of later frames, which goes on from the state of earlier ones."""
    last: int | None = None
    """Layers that are trained, where not all are."""
    flat: tuple[str, ...] = ()
    """Trained parameters in which the output has no slope, so that training searches them."""

    def network(self, iterations: int = LAYERS) -> Unfolded:
        torch.manual_seed(4)
        bank = Bank.declared(self.declared(self.algorithm, iterations), iterations, self.tied, last=self.last).double()
        if self.recurrent is not None:
            return RecurrentUnfolded(self.algorithm, iterations, bank, self.recurrent)
        return Unfolded(self.algorithm, iterations, bank)


def with_dictionary(algorithm: Any, iterations: int) -> dict[str, Parameter]:
    return algorithm.parameters(iterations, DICTIONARY)


def without(algorithm: Any, iterations: int) -> dict[str, Parameter]:
    return algorithm.parameters(iterations)


def columns(evidence: Tensor, first: int, last: int) -> Tensor:
    return evidence[..., first:last]


def grid_frames(evidence: tuple, first: int, last: int) -> tuple:
    return (evidence[0][first:last], *evidence[1:])


def grid_after(evidence: tuple, state: tuple) -> tuple:
    return (evidence[0], state[2], evidence[2])


def field_frames(evidence: tuple, first: int, last: int) -> tuple:
    return evidence[0][..., first:last], evidence[1]


def rows(evidence: Tensor, first: int, last: int) -> Tensor:
    return evidence[first:last]


def images(evidence: tuple, first: int, last: int) -> tuple:
    return tuple(part[first:last] for part in evidence)


def wiener_masks(h: Tensor) -> Tensor:
    return wiener.masks(nmf.readout(h, DICTIONARY, ATOMS))


def classical_nmf(beta: float) -> Callable:
    return lambda layers, k: wiener_masks(nmf.infer(MIXTURE, DICTIONARY, k, beta, 0.1))


def classical_ista(layers: list[dict], k: int) -> Tensor:
    return wiener_masks(ista.infer(MIXTURE, DICTIONARY, k, 0.02))


def classical_fista(layers: list[dict], k: int) -> Tensor:
    return wiener_masks(fista.infer(MIXTURE, DICTIONARY, k, 0.02))


def recurrent_nmf(layers: list[dict], k: int) -> Tensor:
    """Frame by frame: A h + b o start, then k steps."""
    h, path = torch.zeros(sum(ATOMS), 1, dtype=torch.float64), []
    for t in range(FRAMES):
        m = MIXTURE[:, t : t + 1]
        h = layers[0]["transition"] @ h + layers[0]["fresh"] * nmf.start(m, DICTIONARY)
        for theta in layers[:k]:
            h = nmf.step(h, m, theta["dictionary"], 1.0, theta["penalty"])
        path.append(h)
    return wiener_masks(torch.cat(path, 1))[None]


def recurrent_ista(layers: list[dict], k: int) -> Tensor:
    h, path = torch.zeros(sum(ATOMS), 1, dtype=torch.float64), []
    for t in range(FRAMES):
        h = torch.relu(layers[0]["transition"] @ h)
        for theta in layers[:k]:
            d = theta["dictionary"]
            h = ista.step(h, d.mT @ MIXTURE[:, t : t + 1], d.mT @ d, theta["rate"], theta["penalty"])
        path.append(h)
    return wiener_masks(torch.cat(path, 1))[None]


def unit_layers(alpha: float) -> Callable:
    def run(layers: list[dict], k: int) -> Tensor:
        u = None
        for theta in layers[:k]:
            bias = torch.nn.functional.linear(OBSERVED, theta["evidence"], theta["bias"])
            u = bias if u is None else expectations.field(u, theta["couplings"], bias, alpha)
        return OBSERVED.new_zeros(FRAMES, 0) if u is None else torch.sigmoid(u)

    return run


def state_layers(layers: list[dict], k: int) -> Tensor:
    """(29) by plain sums."""
    log_b = None
    for theta in layers[:k]:
        local = (OBSERVED @ theta["evidence"].T).unflatten(-1, theta["bias"].shape) + theta["bias"]
        if log_b is not None:
            below, n = theta["couplings"].shape[:2]
            psi = theta["couplings"].reshape(below, n, *theta["bias"].shape).permute(2, 0, 3, 1)  # (I, J, n', n)
            terms = psi + log_b[:, None, :, None, :]
            local = terms.logsumexp(-1).sum(-2) + local
        log_b = local.log_softmax(-1)
    return OBSERVED.new_zeros(FRAMES, 0) if log_b is None else log_b.softmax(-1)[..., 1]


def grid_field(accumulating: bool) -> Callable:
    """Mean field on the grid, node by node."""

    def run(layers: list[dict], k: int) -> Tensor:
        before, found = torch.zeros(5, 4, dtype=torch.float64), []
        for frame in FIELD_EVIDENCE[0][0].mT:
            own = (layers[0]["observe_weight"] @ frame.unflatten(0, (3, 5)) + layers[0]["observe_bias"]).mT
            m = torch.zeros_like(before)
            for theta in layers[:k]:
                up, share = theta["upward_weight"], theta["schedule"].sigmoid()
                field, down = own + before @ theta["time_weight"].mT, theta.get("downward_weight", up.mT)
                for n in (0, 2, 4, 1, 3):
                    told = field[n] + (up @ m[n - 1] if n else 0) + (down @ m[n + 1] if n < 4 else 0)
                    m[n] = (1 - share) * m[n] + share * told.tanh()
                    if accumulating:
                        own[n] = told
            before = m
            read = (own if accumulating else m) @ layers[-1]["read_weight"].mT + layers[-1]["read_bias"]
            found.append(torch.sigmoid(read)[None])
        return torch.stack(found)

    return run


def field(layers: list[dict], k: int) -> Tensor:
    u = None
    for theta in [layers[0], *layers[:k]]:
        bias = torch.nn.functional.linear(OBSERVED, theta["evidence"], theta["bias"])
        matrix, (i, j) = torch.zeros(6, 6, dtype=torch.float64), GRAPH.edges
        matrix[i, j] = matrix[j, i] = theta["couplings"]
        u = bias if u is None else expectations.field(u, matrix, bias, 1.0)
    return torch.sigmoid(u[..., -2:])


def reciprocal(layers: list[dict], k: int) -> Tensor:
    """(22) on all pairs of units."""
    messages = torch.zeros(FRAMES, 6, 6, dtype=torch.float64)
    for theta in layers[:k]:
        matrix, (i, j) = torch.zeros(6, 6, dtype=torch.float64), GRAPH.edges
        matrix[i, j] = matrix[j, i] = theta["couplings"]
        messages = twins.messages_step(messages, matrix, OBSERVED @ theta["evidence"].T + theta["bias"])
    last = layers[-1]
    return torch.sigmoid(messages.sum(-1) + OBSERVED @ last["evidence"].T + last["bias"])[:, -2:]


def on_graph(infer: Callable) -> Callable:
    """Messages on the graph by the functions of the module, with tied parameters."""

    def run(layers: list[dict], k: int) -> Tensor:
        theta = layers[0]
        local = (OBSERVED @ theta["evidence"].mT).unflatten(-1, (-1, 3)) + theta["bias"]
        local[:, -2:, 2:] = -torch.inf
        return readout(infer(local, theta["potentials"], k), local, GRAPH)[:, -2:, 1]

    return run


def classical_belief(alpha: float) -> Callable:
    return on_graph(lambda local, potentials, k: belief.infer(local, potentials, GRAPH, [1.0] * k, alpha))


@on_graph
def classical_mean_field(local: Tensor, potentials: Tensor, k: int) -> Tensor:
    return mean_field.infer(local, potentials, GRAPH, [g.double() for g in schedule.sequential(GRAPH) * k])


def glow_prox(layers: list[dict], k: int) -> Tensor:
    """The steps of arXiv:2312.15788, for a flow of one level: its code is one tensor."""
    observed, known = IMAGES
    x = observed
    for theta in layers[:k]:
        x = x - theta["rate"] * torch.where(known > 0, x - observed, 0)
        ((z,), _) = GLOW.forward(x, theta["flow"])
        x = GLOW.inverse([z / (1 + theta["shrinkage"])], theta["flow"])
    return x


GLOW = Glow(1, 1, 2, 4)
KNOWN = (draw(FRAMES, 1, 4, 4, seed=8) < 0.6).double()
IMAGES = KNOWN * draw(FRAMES, 1, 4, 4, seed=9), KNOWN
BELIEF = {alpha: belief.BeliefPropagation(GRAPH, INPUTS, states=3, shown=2, alpha=alpha) for alpha in (0.7, 1.0)}
MEAN_FIELD = mean_field.MeanField(GRAPH, INPUTS, states=3, shown=2)
SEQUENCE = (MIXTURE[None], None)
GRID = {
    name: GridInference(5, 4, observed=3, shown=2, local_fields=True, frame_spins=3, messages=messages)
    for name, messages in MESSAGES.items()
}
FIELD_EVIDENCE = (draw(1, 3 * 5, FRAMES, seed=6), torch.zeros(3, 4, 5, 1).double())
GRID_SPINS = (torch.zeros(1, 5, 4).double(), torch.zeros(1, 3).double())
GRID_EVIDENCE = (draw(FRAMES, 1, 5, 3), (GRID_SPINS,) * LAYERS, None)

CASES = {
    **{
        f"nmf, beta {beta}": Case(
            nmf.SparseNmf(BINS, ATOMS, beta, 0.1, kind), with_dictionary, MIXTURE, classical_nmf(beta), tied, cut=columns
        )
        for beta, kind, tied in ((0.0, "log", False), (1.0, "softplus", True), (1.0, "log", False), (2.0, "log", True))
    },
    "ista": Case(ista.Ista(BINS, ATOMS), with_dictionary, MIXTURE, classical_ista, cut=columns),
    "fista": Case(fista.Fista(BINS, ATOMS), with_dictionary, MIXTURE, classical_fista, cut=columns),
    "ista, tied": Case(ista.Ista(BINS, ATOMS), with_dictionary, MIXTURE, classical_ista, True, cut=columns),
    "fista, tied": Case(fista.Fista(BINS, ATOMS), with_dictionary, MIXTURE, classical_fista, True, cut=columns),
    **{name: Case(**fields, cut=columns) for name, fields in SPARSE_CASES.items()},
    "recurrent nmf": Case(
        nmf.SparseNmf(BINS, ATOMS, 1.0, 0.1, trained_penalty=True, recurrent=True),
        with_dictionary, SEQUENCE, recurrent_nmf, recurrent=True,
    ),
    "recurrent ista": Case(
        ista.Ista(BINS, ATOMS, recurrent=True), with_dictionary, SEQUENCE, recurrent_ista, recurrent=True
    ),
    "ista, no recurrence": Case(
        ista.Ista(BINS, ATOMS), with_dictionary, SEQUENCE, lambda t, k: classical_ista(t, k)[None], recurrent=False
    ),
    **{
        f"units, alpha {alpha}": Case(
            UnitLayers(alpha, INPUTS, sizes=(6, 6, 6, 2)), without, OBSERVED, unit_layers(alpha), cut=rows
        )
        for alpha in (0.0, 1.0)
    },
    "units with a trained alpha": Case(
        UnitLayers(Exponent(0.5), INPUTS, sizes=(6, 6, 6, 2)), without, OBSERVED, unit_layers(0.5), cut=rows
    ),
    "units of three states": Case(
        StateLayers(1.0, INPUTS, sizes=(4, 4, 4, 2), states=3), without, OBSERVED, state_layers, cut=rows
    ),
    "scheduled units": Case(
        UnitLayers(0.0, INPUTS, "unit", sizes=(6, 6, 6, 2)), without, OBSERVED, None, cut=rows
    ),
    "field": Case(Field(1.0, INPUTS, graph=GRAPH, shown=2), without, OBSERVED, field, cut=rows),
    "reciprocal field": Case(
        ReciprocalField(1.0, INPUTS, graph=GRAPH, shown=2), without, OBSERVED, reciprocal, True, cut=rows
    ),
    "belief propagation": Case(BELIEF[1.0], without, OBSERVED, classical_belief(1.0), True, cut=rows),
    "power mean": Case(BELIEF[0.7], without, OBSERVED, classical_belief(0.7), True, cut=rows),
    "mean field": Case(MEAN_FIELD, without, OBSERVED, classical_mean_field, True, cut=rows),
    **{
        f"grid, {name}": Case(algorithm, without, GRID_EVIDENCE, None, cut=grid_frames, after=grid_after)
        for name, algorithm in GRID.items()
    },
    "grid field": Case(
        GridField(5, 4, observed=3, shown=2), without, FIELD_EVIDENCE, grid_field(False), True, True, field_frames,
        lambda evidence, state: (evidence[0], state),
    ),
    "grid field, outside the theory": Case(
        GridField(5, 4, observed=3, shown=2, symmetric=False, accumulating=True), without, FIELD_EVIDENCE,
        grid_field(True), False, True, field_frames, lambda evidence, state: (evidence[0], state),
    ),
    "glow prox": Case(
        GlowProx(GLOW), lambda algorithm, k: algorithm.parameters(k, GLOW.initial(torch.Generator().manual_seed(1))),
        IMAGES, glow_prox, cut=images,
    ),
}  # fmt: skip

EXACT = {"units of three states", "reciprocal field", "grid field", "grid field, outside the theory"} | TO_ROUNDING
"""Whose twin is another formula: equal to rounding."""


def output(y: Any) -> Tensor:
    """The readout, of the grid its marginals."""
    return y[0] if isinstance(y, tuple) else y


def disturbed(network: Unfolded) -> Unfolded:
    """The network with every parameter moved."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3)).to(parameter)
    return network


def test_every_algorithm_with_a_name_is_a_case() -> None:
    kinds = {type(case.algorithm) for case in CASES.values()}
    assert set(named_algorithms(Algorithm).values()) <= kinds
    assert named_algorithms(Algorithm).keys() >= {"ista", "fista"}


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.classical])
def test_the_untrained_network_is_the_classical_algorithm(name: str) -> None:
    case, network = CASES[name], CASES[name].network()
    with torch.no_grad():
        layers = [network.bank.layer(k) for k in range(LAYERS + 1)]
        found, expected = output(network(case.evidence)), case.classical(layers, LAYERS)
    if name in EXACT:
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
    else:
        assert torch.equal(found, expected)


@pytest.mark.parametrize("name", [n for n, case in CASES.items() if case.classical])
@pytest.mark.parametrize("depth", range(LAYERS + 1))
def test_stopped_at_any_depth_it_is_that_many_iterations(name: str, depth: int) -> None:
    case, network = CASES[name], CASES[name].network()
    with torch.no_grad():
        layers = [network.bank.layer(k) for k in range(LAYERS + 1)]
        expected = case.classical(layers, depth)
        # Where frames begin with what the last one ended with, other frames stop there too.
        along = network.trajectory(case.evidence, depth if case.recurrent else None)
        for found in (network.infer(case.evidence, depth=depth)[0], network.readout(case.evidence, along[depth])):
            torch.testing.assert_close(output(found), expected, rtol=1e-10, atol=1e-12)
        assert len(along) == 1 + (depth if case.recurrent else LAYERS)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if name.startswith("recurrent")])
def test_a_trained_transition_leads_from_the_last_frame_to_the_next(name: str) -> None:
    case, network = CASES[name], CASES[name].network()
    with torch.no_grad():
        (transition,) = (p for n, p in network.bank.named_parameters() if n.startswith("transition"))
        transition += draw(*transition.shape, seed=5)  # not symmetric, unlike the one it starts with
        layers = [network.bank.layer(k) for k in range(LAYERS + 1)]
        assert not torch.allclose(layers[0]["transition"], layers[0]["transition"].mT)
        assert torch.equal(output(network(case.evidence)), case.classical(layers, LAYERS))


@pytest.mark.parametrize(
    "name", [n for n, case in CASES.items() if isinstance(case.algorithm, Descent) and case.recurrent is None]
)
def test_the_objective_of_no_example_rises(name: str) -> None:
    case, network = CASES[name], CASES[name].network(12)
    with torch.no_grad():
        theta = network.bank.layer(0)
        costs = [case.algorithm.objective(case.evidence, s, theta) for s in network.trajectory(case.evidence)]
    assert all((after <= before + 1e-12).all() for before, after in itertools.pairwise(costs))
    assert (costs[-1] < costs[0]).all()


@pytest.mark.parametrize("name", CASES)
def test_every_trained_parameter_gets_a_gradient(name: str) -> None:
    network = disturbed(CASES[name].network())
    output(network(CASES[name].evidence)).square().sum().backward()
    found = dict(network.bank.named_parameters())
    without_gradient = {n for n, p in found.items() if p.grad is None or not p.grad.isfinite().all()}
    assert without_gradient == {n for n in found if n.startswith(CASES[name].flat)}


@pytest.mark.parametrize("name", CASES)
def test_a_file_of_its_weights_rebuilds_it(name: str, tmp_path) -> None:
    case, network = CASES[name], disturbed(CASES[name].network())
    checkpoint.save(tmp_path / "bank.safetensors", network.bank.values(), {})
    tensors, _ = checkpoint.load(tmp_path / "bank.safetensors")
    again = case.network()
    again.bank.load_values(tensors)
    with torch.no_grad():
        assert torch.equal(output(again(case.evidence)), output(network(case.evidence)))
    assert len(tensors) == len(network.bank.values()) and all(p.numel() for p in tensors.values())


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.cut or case.recurrent is not None])
@pytest.mark.parametrize("at", [1, 4])
def test_frames_by_pieces_give_what_all_of_them_give(name: str, at: int) -> None:
    case, network = CASES[name], disturbed(CASES[name].network())
    with torch.no_grad():
        whole = output(network(case.evidence))
        if case.after is not None:
            first, state = network.infer(case.cut(case.evidence, 0, at))
            last = network(case.after(case.cut(case.evidence, at, FRAMES), state))
            joined = torch.cat([output(first), output(last)])
        elif case.recurrent is None:
            parts = [output(network(case.cut(case.evidence, *ends))) for ends in ((0, at), (at, FRAMES))]
            joined = torch.cat(parts, -1 if case.cut is columns else 0)
        else:
            frames, before = case.evidence
            first, before = network.infer((frames[..., :at], before))
            joined = torch.cat([first, network.infer((frames[..., at:], before))[0]], -1)
    torch.testing.assert_close(joined, whole, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", CASES)
def test_training_goes_on_from_a_file_as_without_one(name: str) -> None:
    def descend(network: Unfolded) -> None:
        trained = [p for n, p in network.bank.named_parameters() if not n.startswith(CASES[name].flat)]
        loss = output(network(CASES[name].evidence)).square().sum()
        with torch.no_grad():
            for parameter, slope in zip(trained, torch.autograd.grad(loss, trained), strict=True):
                parameter -= 0.01 * slope

    through, resumed = CASES[name].network(), CASES[name].network()
    descend(through)
    resumed.bank.load_values(through.bank.values())
    if any(kind == "softplus" for kind in resumed.bank.kinds.values()):
        return  # its free parameters have another scale from every starting point
    descend(through)
    descend(resumed)
    for key, value in through.bank.values().items():
        torch.testing.assert_close(resumed.bank.values()[key], value, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", CASES)
def test_states_may_be_disturbed_between_layers(name: str) -> None:
    case, network = CASES[name], CASES[name].network()
    seen: list[int] = []

    def nothing(k: int, state: Any) -> Any:
        seen.append(k)
        return state

    def lost(k: int, state: Any) -> Any:
        return torch.zeros_like(state) if k == 2 and isinstance(state, Tensor) else state

    with torch.no_grad():
        plain, same = (network.trajectory(case.evidence, disturb=how) for how in (None, nothing))
        assert output(network.readout(case.evidence, same[-1])).equal(output(network.readout(case.evidence, plain[-1])))
        assert seen == list(range(1, LAYERS + 1)) * (len(seen) // LAYERS)
        if isinstance(plain[-1], Tensor):
            moved = network.trajectory(case.evidence, disturb=lost)
            assert not moved[2].any() and not moved[3].equal(plain[3])


@pytest.mark.parametrize("name", CASES)
def test_all_layers_are_read_out_after_one_pass(name: str) -> None:
    case, network = CASES[name], disturbed(CASES[name].network())
    with torch.no_grad():
        expected = [output(network.readout(case.evidence, state)) for state in network.trajectory(case.evidence)]
        with network.remembered() as trace:
            network(case.evidence)
            network.states = None  # none runs again
            found = [output(network.infer(case.evidence, depth=depth)[0]) for depth in range(LAYERS + 1)]
        assert sorted(trace.states) == list(range(LAYERS + 1))
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))
    assert network.trace is None


def test_what_is_remembered_is_what_a_layer_made_not_what_the_next_one_got() -> None:
    network = CASES["ista"].network()
    with torch.no_grad():
        plain = network.trajectory(MIXTURE)
        with network.remembered(lambda k, state: torch.zeros_like(state) if k == 2 else state) as trace:
            network(MIXTURE)
    assert torch.equal(trace.states[2], plain[2]) and torch.equal(trace.states[3], plain[1])
    assert trace.evidence is MIXTURE and network.disturb is None


def test_a_depth_that_does_not_exist_is_refused() -> None:
    for depth in (-1, LAYERS + 1):
        with pytest.raises(ValueError, match="a depth of"):
            CASES["ista"].network().infer(MIXTURE, depth=depth)
