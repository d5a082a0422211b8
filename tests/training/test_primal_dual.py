"""Descent constraints: multipliers that are known in closed form, and what they do to unfolded sparse coding."""

import math
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from deepnmf_cli.inference import fista, ista
from deepnmf_cli.inference.algorithm import Algorithm, Parameter
from deepnmf_cli.inference.lista import Lista
from deepnmf_cli.training.primal_dual import ARRIVED, ConstraintSettings, Multipliers, slack
from deepnmf_cli.unfold.network import Bank, Unfolded

DEPTH = 4


def solve(loss, constraints, x: list[float], steps: int = 1000, clip: float | None = None) -> tuple[Tensor, Tensor]:
    """Where gradient descent on the Lagrangian and ascent in the multipliers end: (x, lambda)."""
    x = torch.tensor(x, dtype=torch.float64, requires_grad=True)
    multipliers = Multipliers(len(constraints(x)), 0.1)
    multipliers.values = multipliers.values.double()
    for _ in range(steps):
        found = constraints(x)
        (gradient,) = torch.autograd.grad(multipliers.lagrangian(loss(x), found), x)
        if clip is not None:
            gradient = gradient * (clip / gradient.norm()).clamp_max(1)
        with torch.no_grad():
            x -= 0.1 * gradient
        multipliers.ascend(found)
    return x.detach(), multipliers.values


@pytest.mark.parametrize("clip", [None, 0.5])
@pytest.mark.parametrize("wanted", [3.0, -1.0])
def test_a_bound_on_a_parabola(wanted: float, clip: float | None) -> None:
    """min (x - a)^2/2 with x <= 1: x = min(a, 1), lambda = max(a - 1, 0). Clipping the Lagrangian changes neither."""
    x, multipliers = solve(lambda x: (x - wanted).square().sum() / 2, lambda x: x - 1, [0.0], clip=clip)
    assert x.tolist() == pytest.approx([min(wanted, 1)], abs=1e-3)
    assert multipliers.tolist() == pytest.approx([max(wanted - 1, 0)], abs=1e-3)


def test_layers_that_would_rather_stay_where_they_are() -> None:
    """min sum_k (m_k - a_k)^2/2 over m_1, m_2 with m_0 = 1 and m_k <= r m_{k-1}. With a = (.7, .9) and r = .8 only the
    second binds: m_1 = (a_1 + r a_2)/(1 + r^2) = .8659 would break the first, so both do: m = (r, r^2), and
    lambda_2 = m_1 (a_2 - m_2), lambda_1 = a_1 - m_1 + lambda_2 m_2/m_1^2 (the slope of m_2/m_1 in m_1 is -m_2/m_1^2).
    """
    wanted, r = torch.tensor([0.7, 0.9], dtype=torch.float64), 0.8

    def constraints(m: Tensor) -> Tensor:
        return slack(torch.cat([m.new_ones(1), m]), 1 - r)

    m, multipliers = solve(lambda m: (m - wanted).square().sum() / 2, constraints, [0.7, 0.9])
    second = r * (0.9 - r * r)
    assert m.tolist() == pytest.approx([r, r * r], abs=1e-4)
    assert multipliers.tolist() == pytest.approx([0.7 - r + second, second], abs=1e-4)


def test_one_of_two_layers_binds() -> None:
    """As above with a = (.5, .45): m_1 = (a_1 + r a_2)/(1 + r^2), m_2 = r m_1, lambda = (0, m_1 (a_2 - m_2))."""
    wanted, r = torch.tensor([0.5, 0.45], dtype=torch.float64), 0.8
    first = (0.5 + r * 0.45) / (1 + r * r)
    m, multipliers = solve(
        lambda m: (m - wanted).square().sum() / 2,
        lambda m: slack(torch.cat([m.new_ones(1), m]), 1 - r),
        [0.5, 0.45],
    )
    assert m.tolist() == pytest.approx([first, r * first], abs=1e-4)
    assert multipliers.tolist() == pytest.approx([0.0, first * (0.45 - r * first)], abs=1e-4)


def test_slack_is_the_ratio_less_what_it_may_be() -> None:
    found = slack(torch.tensor([2.0, 1.0, 0.9]), 0.25)
    assert found.tolist() == pytest.approx([0.5 - 0.75, 0.9 - 0.75])


def test_slack_asks_for_as_much_of_a_negative_objective() -> None:
    assert slack(torch.tensor([-2.0, -3.0, -3.0]), 0.25).tolist() == pytest.approx([-0.25, 0.25])


def test_what_has_arrived_need_not_fall_further() -> None:
    tiny = ARRIVED * 1e-3
    measures = torch.tensor([1.0, tiny, 2 * tiny, 2 * tiny], requires_grad=True)
    found = slack(measures, 0.2)
    (slope,) = torch.autograd.grad(found[1], measures)
    assert found[1:].tolist() == pytest.approx([1e-3, 0]) and slope.isfinite().all()
    assert slack(torch.zeros(3), 0.2).tolist() == [0, 0]
    assert slack(torch.tensor([1.0, 2 * ARRIVED, 2 * ARRIVED]), 0.2)[1].item() == pytest.approx(0.2)


def test_a_multiplier_never_goes_below_zero_and_none_leaves_the_loss_as_it_is() -> None:
    multipliers, loss = Multipliers(2, 0.5), torch.tensor(1.0)
    multipliers.ascend(torch.tensor([-3.0, 0.2]))
    assert multipliers.values.tolist() == pytest.approx([0.0, 0.1])
    multipliers.ascend(torch.tensor([1.0, -3.0]))
    assert multipliers.values.tolist() == pytest.approx([0.5, 0.0])
    assert multipliers.lagrangian(loss, torch.tensor([0.2, 9.0])).item() == pytest.approx(1.1)
    assert Multipliers(2, 0.5).lagrangian(loss, torch.tensor([math.inf, math.nan])) is loss


def test_a_total_is_shared_by_the_layers() -> None:
    assert ConstraintSettings(kind="target", total=0.25).share(2) == pytest.approx(0.5)
    assert ConstraintSettings(kind="target", epsilon=0.1).share(2) == 0.1


def test_noise_may_fall_from_layer_to_layer() -> None:
    constant, falling = ConstraintSettings(noise=0.6), ConstraintSettings(noise=0.6, noise_schedule="falling")
    assert [constant.noise_after(k) for k in (1, 2, 3)] == [0.6, 0.6, 0.6]
    assert [falling.noise_after(k) for k in (1, 2, 3)] == pytest.approx([0.6, 0.3, 0.2])


def codes(x: Tensor, dictionary: Tensor) -> Tensor:
    """Sparse codes (R, N) by FISTA."""
    rate, h = ista.largest_rate(dictionary), x.new_zeros(dictionary.shape[1], x.shape[1])
    correlation, gram, ahead = dictionary.mT @ x, dictionary.mT @ dictionary, h
    for momentum in fista.momenta(150):
        later = ista.step(ahead, correlation, gram, rate, 0.1, signed=True)
        h, ahead = later, later + momentum * (later - h)
    return h


def lista(epsilon: float | None, steps: int) -> tuple[list[Tensor], Tensor, Tensor]:
    """LISTA of four layers, 50 x 100, that starts as ISTA: weights and multipliers after some training, and distances
    to the targets by layer, on other inputs.
    """
    draw = torch.Generator().manual_seed(0)
    dictionary = torch.randn(50, 100, generator=draw)
    dictionary /= dictionary.norm(dim=0)
    x = dictionary @ (torch.randn(100, 900, generator=draw) * (torch.rand(100, 900, generator=draw) < 0.1))
    target, algorithm = codes(x, dictionary), Lista(50, (100, 0), 0.1, signed=True)
    parameters = {name: p for name, p in algorithm.parameters(DEPTH, dictionary).items() if name != "dictionary"}
    network, multipliers = Unfolded(algorithm, DEPTH, Bank.declared(parameters, DEPTH)), Multipliers(DEPTH, 0.05)
    optimiser = torch.optim.Adam(network.parameters(), 2e-3)

    def distances(chosen: Tensor | slice) -> tuple[Tensor, Tensor]:
        errors = [(h - target[:, chosen]).square().sum(0) for h in network.trajectory(x[:, chosen])]
        return errors[-1].mean() / 2, torch.stack([e.add(1e-12).sqrt().mean() for e in errors])

    for _ in range(steps):
        loss, measured = distances(torch.randint(800, (32,), generator=draw))
        if epsilon is not None:
            found = slack(measured, epsilon)
            loss = multipliers.lagrangian(loss, found)
            multipliers.ascend(found)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    with torch.no_grad():
        return list(network.parameters()), multipliers.values, distances(slice(800, 900))[1]


def test_layers_that_descend_by_themselves_are_trained_as_without_constraints() -> None:
    plain, bound = lista(None, 10), lista(0.01, 10)
    assert all(torch.equal(a, b) for a, b in zip(plain[0], bound[0], strict=True)) and not bound[1].any()


@dataclass(frozen=True)
class Approach(Algorithm):
    """y <- y + a_k (x - y): every layer goes a share of the way to x."""

    def parameters(self, iterations: int) -> dict[str, Parameter]:
        return {"share": Parameter(range(iterations), lambda _: torch.zeros(1))}

    def start(self, evidence, parameters):
        return torch.zeros_like(evidence)

    def step(self, evidence, state, parameters):
        return state + parameters["share"] * (evidence - state)

    def readout(self, evidence, state, parameters):
        return state


def test_layers_whose_steps_cost_something_go_exactly_as_far_as_they_are_asked_to() -> None:
    """The distance after layer k is 1 - a_k of that before, so that c_k = epsilon - a_k: the least sum_k a_k^2/2 is at
    a_k = epsilon, with lambda_k = epsilon.
    """
    network, x = Unfolded(Approach(), 3, Bank.declared(Approach().parameters(3), 3)), torch.tensor([1.0, -2.0])
    shares, multipliers = list(network.parameters()), Multipliers(3, 0.1)
    optimiser = torch.optim.SGD(shares, 0.1)
    for _ in range(300):
        measured = torch.stack([(x - y).norm() for y in network.trajectory(x)])
        found, loss = slack(measured, 0.3), torch.cat(shares).square().sum() / 2
        optimiser.zero_grad()
        multipliers.lagrangian(loss, found).backward()
        optimiser.step()
        multipliers.ascend(found)
    assert torch.cat(shares).tolist() == pytest.approx([0.3] * 3, abs=1e-4)
    assert multipliers.values.tolist() == pytest.approx([0.3] * 3, abs=1e-4)
    assert measured.tolist() == pytest.approx([5**0.5 * 0.7**k for k in range(4)], rel=1e-3)
