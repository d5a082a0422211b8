"""Layers of belief propagation made of matrix products, against the plain sums of `binary` and `power_mean`."""

import pytest
import torch

from deepnmf_cli.inference import binary, expectations
from deepnmf_cli.inference.power_mean import log_power_mean
from tests.reference import units

ALPHAS = [0.0, 1e-6, 0.01, 0.3, 1.0, 2.5]


def layer(units=11, targets=7, batch=(5,), scale=1.0, dtype=torch.float64, seed=0):
    draw = torch.Generator().manual_seed(seed)
    log_odds = 3 * torch.randn(*batch, units, generator=draw, dtype=dtype)
    couplings = scale * torch.randn(targets, units, generator=draw, dtype=dtype)
    return log_odds, couplings, torch.randn(targets, generator=draw, dtype=dtype)


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("units", [1, 2, 3, 11])
def test_field_equals_the_plain_sum(alpha, units):
    log_odds, couplings, bias = layer(units, batch=(2, 5))
    for setting in (alpha, torch.tensor(alpha, dtype=torch.float64)):
        found = expectations.field(log_odds, couplings, bias, setting)
        torch.testing.assert_close(found, binary.field(log_odds, couplings, bias, setting), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("alpha", [0.01, 0.3, 1.0])
def test_error_in_float32_is_a_few_roundings_of_the_couplings_and_of_one_by_alpha(alpha):
    log_odds, couplings, bias = layer(256, 32, scale=0.5, dtype=torch.float32)
    exact = binary.field(log_odds.double(), couplings.double(), bias.double(), alpha)
    error = (expectations.field(log_odds, couplings, bias, alpha) - exact).abs()
    assert (error <= 6e-8 * (couplings.abs().sum(1) + 60 / alpha)).all()


@pytest.mark.parametrize("alpha", ALPHAS)
def test_derivatives_equal_those_of_the_plain_sum(alpha):
    arguments = [x.requires_grad_() for x in (*layer(), torch.tensor(alpha, dtype=torch.float64))]
    weights = torch.randn(5, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    found, expected = (
        torch.autograd.grad((function(*arguments) * weights).sum(), arguments)
        for function in (expectations.field, binary.field)
    )
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("strength", [0.005, 0.0199, 0.0201, 0.039, 0.1])
def test_weak_couplings_keep_eleven_digits(strength):
    """Where the series takes over from the logarithms, too: its error is below (0.02/pi)^5."""
    log_odds = torch.linspace(-4, 4, 33, dtype=torch.float64)[:, None]
    couplings = torch.tensor([[strength], [-strength]], dtype=torch.float64)
    found = expectations.field(log_odds, couplings, torch.zeros(2, dtype=torch.float64))
    exact = torch.log1p(torch.sigmoid(log_odds) * torch.expm1(couplings.mT))
    torch.testing.assert_close(found, exact, rtol=1.04e-11, atol=0)


def test_derivatives_equal_finite_differences():
    log_odds, couplings, bias = layer(5, 3, (2,))
    alpha = torch.tensor(0.7, dtype=torch.float64)
    assert torch.autograd.gradcheck(
        expectations.field, [x.requires_grad_() for x in (log_odds, couplings, bias, alpha)]
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("strong", [19.0, 21.0, 45.0, 500.0])
@pytest.mark.parametrize("alpha", [0.5, 1.0])
def test_strong_couplings_and_sure_units_stay_finite_and_right(dtype, strong, alpha):
    log_odds, couplings, bias = layer(9, 4, dtype=dtype)
    log_odds[0], log_odds[1] = torch.inf, -torch.inf
    log_odds[2], log_odds[3] = 300.0, -300.0
    couplings[:, 2], couplings[:, 4], couplings[0] = strong, -strong, strong
    arguments = [x.requires_grad_() for x in (log_odds, couplings)]
    found = expectations.field(*arguments, bias, alpha)
    exact = binary.field(*(x.detach().double() for x in arguments), bias.double(), alpha)
    torch.testing.assert_close(found.double(), exact, rtol=2e-6 if dtype == torch.float32 else 1e-12, atol=1e-5)
    gradients = torch.autograd.grad(found.sum(), arguments)
    expected = torch.autograd.grad(binary.field(*arguments, bias, alpha).sum(), arguments)
    torch.testing.assert_close(gradients, expected, rtol=1e-4, atol=1e-5)


def test_continuous_at_alpha_zero():
    log_odds, couplings, bias = layer()
    alpha = torch.tensor(0.0, dtype=torch.float64, requires_grad=True)
    at_zero = expectations.field(log_odds, couplings, bias, alpha)
    torch.testing.assert_close(at_zero, expectations.field(log_odds, couplings, bias, 0.0), rtol=1e-12, atol=1e-12)
    near = expectations.field(log_odds, couplings, bias, 1e-5)
    slope = torch.autograd.grad(at_zero.sum(), alpha)[0]
    torch.testing.assert_close((near - at_zero).sum() / 1e-5, slope, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("states", [2, 3, 4, 10])
@pytest.mark.parametrize("alpha", [0.0, 1e-4, 0.5, 1.0])
@pytest.mark.parametrize("strong", [False, True])
def test_units_of_n_states_equal_the_power_mean(states, alpha, strong):
    draw = torch.Generator().manual_seed(states)
    log_b = (2 * torch.randn(6, 5, states, generator=draw, dtype=torch.float64)).log_softmax(-1)
    potentials = torch.randn(5, states, 4, generator=draw, dtype=torch.float64)
    if strong:
        potentials[2, -1] += 500
    arguments = [x.requires_grad_() for x in (log_b, potentials)]
    found = expectations.sum_log_expectations(*arguments, alpha)
    expected = log_power_mean(potentials.permute(2, 0, 1), log_b.unsqueeze(-3), alpha).sum(-1)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    # Towards normalised beliefs: log_power_mean normalises, so that its gradient knows no other direction.
    steps = [torch.autograd.grad(x.square().sum(), arguments) for x in (found, expected)]
    torch.testing.assert_close(steps[0][1], steps[1][1], rtol=1e-8, atol=1e-8)
    free = steps[0][0] - log_b.exp() * steps[0][0].sum(-1, keepdim=True)
    torch.testing.assert_close(free, steps[1][0], rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("temperature", [0.0, 0.5, 1.0])
def test_sums_of_expectations_and_maxima_are_softmaxout_units(temperature):
    """(29) and (30), up to a constant for all of them where beliefs are not normalised."""
    draw = torch.Generator().manual_seed(0)
    log_b = torch.randn(4, 5, 3, generator=draw, dtype=torch.float64)
    potentials = torch.randn(2, 5, 3, 3, generator=draw, dtype=torch.float64)
    expected = units.softmaxout(log_b, potentials, torch.zeros(2, 3, dtype=torch.float64), temperature)
    flat = potentials.permute(1, 3, 0, 2).flatten(-2)
    if temperature:
        sharp = (log_b / temperature).log_softmax(-1)
        found = expectations.sum_log_expectations(sharp, flat, 1 / temperature)
    else:
        found = expectations.sum_maxima(log_b, flat)
    found = found.unflatten(-1, (2, 3))
    torch.testing.assert_close(found.log_softmax(-1), expected.log_softmax(-1))


def test_blocks_of_any_size_give_the_same_sums(monkeypatch):
    arguments = [x.requires_grad_() for x in layer(20, 6, (33,))]
    whole = expectations.field(*arguments)
    gradients = torch.autograd.grad(whole.square().sum(), arguments)
    monkeypatch.setitem(expectations.ROWS, "cpu", 7)
    monkeypatch.setitem(expectations.BLOCK, "cpu", 100)
    parts = expectations.field(*arguments)
    torch.testing.assert_close(parts, whole)
    torch.testing.assert_close(torch.autograd.grad(parts.square().sum(), arguments), gradients)


def test_memory_does_not_grow_with_pairs_of_units():
    """What the backward pass keeps: arguments and joint states, not one number per pair of units and batch entry."""
    log_odds, couplings, bias = (x.requires_grad_() for x in layer(128, 128, (64,)))
    kept = 0

    def count(tensor):
        nonlocal kept
        kept += tensor.numel()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        expectations.field(log_odds, couplings, bias)
    assert kept <= 20 * (log_odds.numel() + couplings.numel()) < 64 * 128 * 128


@pytest.mark.parametrize("sources", [6, 100])
def test_units_of_strong_and_of_weak_potentials_are_right_in_single_precision(sources):
    """A product of three exponentials of 50 would be too large."""
    draw = torch.Generator().manual_seed(0)
    log_b = torch.randn(3, sources, 2, generator=draw, dtype=torch.float64).log_softmax(-1)
    potentials = torch.randn(sources, 2, 4, generator=draw, dtype=torch.float64)
    potentials[:4, 1] += 50
    expected = (log_b[..., None] + potentials).logsumexp(-2).sum(-2)
    found = expectations.sum_log_expectations(log_b.float(), potentials.float())
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)
