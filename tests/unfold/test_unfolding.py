"""The general construction: tie tables, exact parameterisations, and the identity with the classical algorithm."""

import itertools

import pytest
import torch

from deepnmf_cli.inference import nmf, wiener
from deepnmf_cli.inference.algorithm import Algorithm, Parameter
from deepnmf_cli.inference.nmf import DICTIONARY, SparseNmf
from deepnmf_cli.unfold.network import Bank, Unfolded
from deepnmf_cli.unfold.nonnegative import NonNegative
from deepnmf_cli.unfold.ties import Ties

BINS, ATOMS, FRAMES, LAYERS = 12, 4, 15, 6


def problem(seed: int = 0, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
    """Evidence (1, F, T) and a dictionary (F, 2R)."""
    draw = torch.Generator().manual_seed(seed)
    evidence = torch.rand(1, BINS, FRAMES, generator=draw, dtype=dtype)
    dictionary = torch.rand(BINS, 2 * ATOMS, generator=draw, dtype=dtype)
    return evidence, dictionary / dictionary.norm(dim=0)


def unfolded(dictionary: torch.Tensor, ties: Ties, beta: float = 1.0, kind: str = "log") -> Unfolded:
    bank = Bank({DICTIONARY: ties}, {DICTIONARY: [dictionary] * ties.count}, {DICTIONARY: kind})
    return Unfolded(SparseNmf(BINS, (ATOMS, ATOMS), beta, 0.1), LAYERS, bank)


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0, 2.0, 3.0])
@pytest.mark.parametrize("ties", [Ties.tied(LAYERS + 1), Ties.untied(LAYERS + 1), Ties.last(LAYERS + 1, 3)])
@pytest.mark.parametrize("kind", ["log", "softplus"])
def test_untrained_network_equals_classical_iterations_bit_for_bit(beta: float, ties: Ties, kind: str) -> None:
    evidence, dictionary = problem()
    activations = nmf.infer(evidence, dictionary, LAYERS, beta, 0.1)
    classical = wiener.masks(nmf.readout(activations, dictionary, (ATOMS, ATOMS)))
    assert torch.equal(unfolded(dictionary, ties, beta, kind)(evidence), classical)


def test_trajectory_holds_every_classical_state() -> None:
    evidence, dictionary = problem()
    states = unfolded(dictionary, Ties.untied(LAYERS + 1)).trajectory(evidence)
    assert len(states) == LAYERS + 1
    for iterations, state in enumerate(states):
        assert torch.equal(state, nmf.infer(evidence, dictionary, iterations, 1.0, 0.1))


def test_objective_never_increases_along_the_untrained_trajectory() -> None:
    evidence, dictionary = problem(dtype=torch.float64)
    network = unfolded(dictionary, Ties.tied(LAYERS + 1, trained=False))
    costs = [
        float(network.algorithm.objective(evidence, state, network.bank.layer(0)))
        for state in network.trajectory(evidence)
    ]
    assert all(after <= before + 1e-12 for before, after in itertools.pairwise(costs))


@pytest.mark.parametrize("kind", ["log", "softplus"])
def test_tied_gradient_equals_the_sum_of_untied_gradients(kind: str) -> None:
    evidence, dictionary = problem(dtype=torch.float64)
    gradients = []
    for ties in (Ties.tied(LAYERS + 1), Ties.untied(LAYERS + 1)):
        network = unfolded(dictionary, ties, kind=kind)
        network(evidence)[:, 0].square().sum().backward()
        gradients.append(sum(p.grad for p in network.parameters()))
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-10, atol=1e-14)


def test_layers_below_the_trained_ones_record_no_graph() -> None:
    evidence, dictionary = problem()
    states = unfolded(dictionary, Ties.last(LAYERS + 1, 2)).trajectory(evidence)
    assert [state.requires_grad for state in states] == [False] * LAYERS + [True]


@pytest.mark.parametrize("kind", ["log", "softplus"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_nonnegative_parameter_starts_exactly_at_its_reference(kind: str, dtype: torch.dtype) -> None:
    reference = torch.tensor([0.0, 1e-12, 1e-4, 0.3, 1.0, 50.0], dtype=dtype)
    parameter = NonNegative(reference, kind)
    assert torch.equal(parameter(), reference)


def test_softplus_parameter_moves_additively_and_log_parameter_multiplicatively() -> None:
    reference = torch.tensor([0.5, 20.0], dtype=torch.float64)
    moved = torch.log1p(torch.e * torch.expm1(reference))  # softplus(softplus^-1(r) + 1), about r + 1 for large r
    for kind, expected in (("log", reference * torch.e), ("softplus", moved)):
        parameter = NonNegative(reference, kind)
        parameter.free.data.fill_(1.0)
        torch.testing.assert_close(parameter(), expected, rtol=1e-8, atol=0)
    assert float(moved[1] - reference[1]) == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("kind", ["log", "softplus"])
def test_nonnegative_parameter_stays_nonnegative_and_folds_exactly(kind: str) -> None:
    parameter = NonNegative(torch.rand(5, 7), kind)
    parameter.free.data.normal_(std=5.0)
    moved = parameter().detach()
    assert (moved >= 0).all()
    parameter.fold(moved)
    assert torch.equal(parameter(), moved)


def test_a_log_parameter_becomes_the_value_it_is_given_and_its_reference_stays() -> None:
    parameter = NonNegative(torch.tensor([0.5, 2.0, 0.0, 1.0], dtype=torch.float64))
    parameter.become(torch.tensor([1.5, 0.1, 7.0, 0.0], dtype=torch.float64))
    torch.testing.assert_close(parameter(), torch.tensor([1.5, 0.1, 0.0, 0.0], dtype=torch.float64))
    assert parameter.reference.tolist() == [0.5, 2.0, 0.0, 1.0] and parameter.free.isfinite().all()
    with pytest.raises(ValueError, match="of the kind log"):
        NonNegative(torch.ones(1), "softplus").become(torch.ones(1))


def test_negative_reference_and_unknown_kind_are_refused() -> None:
    with pytest.raises(ValueError, match="non-negative reference"):
        NonNegative(torch.tensor([-1.0]))
    with pytest.raises(ValueError, match="choose log or softplus"):
        NonNegative(torch.ones(1), "square")


def test_tie_tables_count_trained_layers_from_the_output() -> None:
    assert Ties.last(5, 2) == Ties((0, 0, 0, 1, 2), frozenset({1, 2}))
    assert Ties.last(5, 0) == Ties.tied(5, trained=False)
    assert Ties.last(5, 5) == Ties.untied(5)
    assert Ties.untied(3).slots == (0, 1, 2)


@pytest.mark.parametrize("slots,trained", [((0, 2), {0}), ((0, 1), {3})])
def test_inconsistent_tie_tables_are_refused(slots: tuple[int, ...], trained: set[int]) -> None:
    with pytest.raises(ValueError, match="slots"):
        Ties(slots, frozenset(trained))


def test_bank_values_load_back_exactly_and_other_shapes_are_refused() -> None:
    _, dictionary = problem()
    network = unfolded(dictionary, Ties.last(LAYERS + 1, 2))
    for parameter in network.parameters():
        parameter.data.normal_()
    values = network.bank.values()
    fresh = unfolded(dictionary, Ties.last(LAYERS + 1, 2))
    fresh.bank.load_values(values)
    assert all(torch.equal(values[key], value) for key, value in fresh.bank.values().items())
    with pytest.raises(RuntimeError, match="expected the tensors"):
        fresh.bank.load_values({key: value[:1] for key, value in values.items()})


def test_wrong_numbers_of_layers_and_slots_are_refused() -> None:
    _, dictionary = problem()
    with pytest.raises(ValueError, match="table entries"):
        unfolded(dictionary, Ties.tied(LAYERS))
    with pytest.raises(ValueError, match="initial values"):
        Bank({DICTIONARY: Ties.untied(2)}, {DICTIONARY: [dictionary]}, {DICTIONARY: "log"})


def test_a_bank_may_hold_modules() -> None:
    """Such as the coupling layers of a flow, which an algorithm calls."""

    class Affine(Algorithm):
        def parameters(self, iterations: int) -> dict[str, Parameter]:
            return {"map": Parameter(range(iterations), lambda k: torch.nn.Linear(3, 3))}

        def start(self, evidence, parameters):
            return evidence

        def step(self, evidence, state, parameters):
            return parameters["map"](state)

        def readout(self, evidence, state, parameters):
            return state

    def network() -> Unfolded:
        return Unfolded(Affine(), 2, Bank.declared(Affine().parameters(2), 2))

    one, other, x = network(), network(), torch.rand(4, 3)
    assert set(one.bank.values()) == {"map_0.weight", "map_0.bias", "map_1.weight", "map_1.bias"}
    other.bank.load_values(one.bank.values())
    assert torch.equal(one(x), other(x))
