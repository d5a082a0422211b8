"""Power means: against 80 decimal digits, at and around their limits, and their derivatives."""

import math

import pytest
import torch

from deepnmf_cli.inference.power_mean import LARGE, SMALL, log_power_lerp, log_power_mean
from tests.reference import power_mean_decimal

POWERS = [-50, -1, -0.1, -1e-3, -1e-8, 0, 1e-20, 1e-12, 1e-5, 0.01, 0.099, 0.101, 0.5, 1, 2, 30]
SPANS = [1e-6, 1, 40, 1000]
EPS = {torch.float32: 6e-8, torch.float64: 1.1e-16}


def values(span=1.0, count=4, seed=0, dtype=torch.float64):
    """Log values over about `span`, and log weights down to exp(-span)."""
    draw = torch.Generator().manual_seed(seed)
    log_values = span * (torch.rand(2, count, generator=draw, dtype=torch.float64) - 0.5)
    log_weights = -min(span, 600) * torch.rand(2, count, generator=draw, dtype=torch.float64)
    return log_values.to(dtype), log_weights.to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("span", SPANS)
@pytest.mark.parametrize("power", POWERS)
def test_equals_its_definition_to_rounding(power, span, dtype):
    log_values, log_weights = values(span, dtype=dtype)
    power = torch.tensor(power, dtype=dtype).item()  # what the precision can hold of it
    found = log_power_mean(log_values, log_weights, power)
    for row in range(2):
        weights = log_weights[row].double().exp().tolist()
        expected = power_mean_decimal.log_power_mean(log_values[row].tolist(), weights, power)
        assert abs(found[row].item() - expected) <= 40 * EPS[dtype] * span


@pytest.mark.parametrize("span", SPANS)
def test_never_decreases_in_the_power_and_tends_to_minimum_geometric_mean_and_maximum(span):
    log_values, log_weights = values(span)
    powers = [-1e9, *POWERS, 1e9]
    means = torch.stack([log_power_mean(log_values, log_weights, p / span) for p in powers])
    assert (means.diff(dim=0) >= -1e-13 * span).all()
    near = 3e-9 * (1 + span) * span  # -log w / p
    torch.testing.assert_close(means[0], log_values.amin(-1), rtol=0, atol=near)
    torch.testing.assert_close(means[-1], log_values.amax(-1), rtol=0, atol=near)
    torch.testing.assert_close(means[powers.index(0)], (log_weights.softmax(-1) * log_values).sum(-1))


@pytest.mark.parametrize("power", [0.0, 1e-9, 1e-3, 0.05, 0.2, 1.0, -1.0])
def test_first_and_second_derivatives_are_right_at_the_limits_too(power):
    log_values, log_weights = values(1.3)
    arguments = [log_values, log_weights, torch.full((2,), power, dtype=torch.float64)]
    arguments = [x.requires_grad_() for x in arguments]
    assert torch.autograd.gradcheck(log_power_mean, arguments)
    assert torch.autograd.gradgradcheck(log_power_mean, arguments, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_derivative_by_the_power_does_not_cancel_near_zero(dtype):
    """At p = 0 it is half the variance; the naive quotient loses all digits at p = 1e-8."""
    log_values, log_weights = values(1, dtype=dtype)
    weights = log_weights.softmax(-1)
    mean = (weights * log_values).sum(-1, keepdim=True)
    half_variance = (weights * (log_values - mean).square()).sum(-1) / 2
    for power in (0, 1e-12, -1e-8, 1e-6):
        p = torch.full((2,), power, dtype=dtype, requires_grad=True)
        log_power_mean(log_values, log_weights, p).sum().backward()
        torch.testing.assert_close(p.grad, half_variance, rtol=1e-5, atol=0)


@pytest.mark.parametrize("span", [1, 1000])
def test_nothing_jumps_where_the_formula_changes(span):
    log_values, log_weights = values(span)
    switch = SMALL / (log_values.amax(-1) - log_values.amin(-1))
    sides = []
    for factor in (1 - 1e-12, 1 + 1e-12):
        arguments = [log_values.clone().requires_grad_(), log_weights.clone().requires_grad_(), factor * switch]
        arguments[2].requires_grad_()
        mean = log_power_mean(*arguments)
        mean.sum().backward()
        sides.append([mean.detach(), *(x.grad for x in arguments)])
    for below, above in zip(*sides, strict=True):
        torch.testing.assert_close(below, above, rtol=1e-10, atol=1e-10)


def test_weight_zero_is_no_value_at_all():
    log_values, log_weights = values(30)
    log_values[:, 2], log_weights[:, 2] = 400, -torch.inf
    log_weights.requires_grad_()
    rest = [0, 1, 3]
    for power in (-1, 0, 1e-6, 1e-3, 1):
        mean = log_power_mean(log_values, log_weights, power)
        torch.testing.assert_close(mean, log_power_mean(log_values[:, rest], log_weights[:, rest], power))
        (gradient,) = torch.autograd.grad(mean.sum(), log_weights)
        assert gradient[:, rest].isfinite().all() and gradient[:, rest].any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("power", [-1.0, 0.0, 1e-6, 0.3, 1.0, 5.0])
def test_the_mean_of_two_equals_the_mean_of_many(power, dtype):
    draw = torch.Generator().manual_seed(1)
    for span in SPANS:
        old, new = (span * torch.randn(50, generator=draw, dtype=torch.float64).to(dtype) for _ in range(2))
        gamma = torch.rand(50, generator=draw, dtype=torch.float64).to(dtype)
        expected = log_power_mean(
            torch.stack([old, new], -1).double(), torch.stack([1 - gamma, gamma], -1).double().log(), power
        )
        found = log_power_lerp(old, new, gamma, power)
        torch.testing.assert_close(found.double(), expected, rtol=0, atol=100 * EPS[dtype] * span)


@pytest.mark.parametrize("power", [-2.0, 0.0, 1e-7, 0.5, 1.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_schedule_zero_keeps_and_one_replaces_bit_for_bit_however_far_apart(power, dtype):
    for distance in (0.01, 3, 500, 5000):
        old = torch.tensor([-distance, distance, 0.3], dtype=dtype)
        new = -1.7 * old
        assert torch.equal(log_power_lerp(old, new, 0, power), old)
        assert torch.equal(log_power_lerp(old, new, 1, power), new)


@pytest.mark.parametrize("power", [0.0, 1e-6, 0.5, 1.0, -1.0])
@pytest.mark.parametrize("gamma", [0.2, 0.5, 0.9])
def test_mean_of_two_has_the_right_derivatives(gamma, power):
    old, new = torch.tensor([0.3, -2.0, 1.0]).double(), torch.tensor([0.9, 3.0, 1.0]).double()
    arguments = [old, new, torch.full((3,), gamma).double(), torch.full((3,), power).double()]
    arguments = [x.requires_grad_() for x in arguments]
    # central differences need both sides: at gamma = 1/2 the two sides are two formulas of one smooth function
    assert torch.autograd.gradcheck(log_power_lerp, arguments)


@pytest.mark.parametrize("power", [0.0, 1e-6, 0.5, 1.0, -1.0])
@pytest.mark.parametrize("gamma", [0.0, 1.0])
def test_derivative_by_the_schedule_is_right_at_its_ends(gamma, power):
    old, new = torch.tensor([0.3, -2.0]).double(), torch.tensor([0.9, 3.0]).double()
    weight = torch.full((2,), gamma, dtype=torch.float64, requires_grad=True)
    log_power_lerp(old, new, weight, power).sum().backward()
    distance = new - old
    growth = distance if power == 0 else torch.expm1(power * distance) / power
    torch.testing.assert_close(weight.grad, growth if gamma == 0 else growth * torch.exp(-power * distance))


@pytest.mark.parametrize("gamma", [0.0, 1e-30, 0.5, 1.0])
def test_gradients_stay_finite_in_float32_for_distances_of_a_thousand(gamma):
    old = torch.tensor([500.0, -500.0, 0.0], requires_grad=True)
    new = torch.tensor([-500.0, 500.0, 0.0], requires_grad=True)
    weight, power = torch.full((3,), gamma, requires_grad=True), torch.ones(3, requires_grad=True)
    mean = log_power_lerp(old, new, weight, power)
    mean.sum().backward()
    assert mean.isfinite().all()
    assert all(x.grad.isfinite().all() for x in (old, new, weight, power))
    assert weight.grad.abs().max() <= 1.001 * math.exp(LARGE)


@pytest.mark.parametrize("distance", [85.0, 100.0, 300.0])
@pytest.mark.parametrize("growth", [1e-3, 1.0, 1e3])
def test_a_weight_however_small_counts_for_a_distance_that_is_large_enough(distance, growth):
    """1 + gamma (exp(distance) - 1) where gamma exp(distance) is `growth`."""
    weight = growth * math.exp(-distance)
    found = log_power_lerp(torch.zeros(1).double(), torch.full((1,), distance).double(), weight, 1.0)
    assert found.item() == pytest.approx(math.log1p(weight * math.expm1(distance)), rel=1e-12)
