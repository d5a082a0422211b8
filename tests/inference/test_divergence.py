"""The beta-divergence: its values, its limits, its behaviour at and near zero."""

import numpy as np
import pytest
import torch

from deepnmf_cli.inference.divergence import FLOOR, divergence
from tests.reference import nmf_loops

BETAS = [-1, -0.5, 0, 0.5, 1, 1.5, 2, 2.5, 3]


def positive(*shape, seed=0, dtype=torch.float64):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype) + 0.05


@pytest.mark.parametrize("beta", BETAS)
def test_equals_the_textbook_formula(beta):
    m, v = positive(7, 5), positive(7, 5, seed=1)
    assert divergence(m, v, beta).item() == pytest.approx(nmf_loops.divergence(m.numpy(), v.numpy(), beta), rel=1e-10)


def test_special_cases_have_their_names():
    m, v = positive(7, 5), positive(7, 5, seed=1)
    for beta, named in [
        (2, (m - v).square() / 2),
        (1, m * (m / v).log() - m + v),
        (0, m / v - (m / v).log() - 1),
    ]:
        torch.testing.assert_close(divergence(m, v, beta, elementwise=True), named, rtol=0, atol=1e-12)


@pytest.mark.parametrize("special", [0, 1, 2])
def test_is_continuous_at_the_special_betas(special):
    m, v = positive(20, 20), positive(20, 20, seed=1)
    at = divergence(m, v, special, elementwise=True)
    for distance in (1e-4, 1e-8, 1e-12):
        for beta in (special - distance, special + distance):
            near = divergence(m, v, beta, elementwise=True)
            assert (near - at).abs().max() <= 100 * distance + 1e-13


@pytest.mark.parametrize("beta", BETAS)
def test_is_zero_at_equality_and_positive_elsewhere(beta):
    m = positive(50)
    assert divergence(m, m, beta, elementwise=True).abs().max() < 1e-12
    assert (divergence(m, 1.1 * m, beta, elementwise=True) > 0).all()
    assert (divergence(m, m / 1.1, beta, elementwise=True) > 0).all()


@pytest.mark.parametrize("beta", BETAS)
def test_scales_with_the_power_beta(beta):
    m, v = positive(50), positive(50, seed=1)
    torch.testing.assert_close(divergence(7 * m, 7 * v, beta), 7**beta * divergence(m, v, beta))


@pytest.mark.parametrize("beta", BETAS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_zeros_and_denormals_give_finite_values_and_gradients(beta, dtype):
    m = torch.tensor([0.0, 0.0, 1e-42, 1.0, 1.0], dtype=dtype)
    v = torch.tensor([0.0, 1.0, 1e-42, 0.0, 1e-42], dtype=dtype, requires_grad=True)
    terms = divergence(m, v, beta, elementwise=True)
    terms.sum().backward()
    assert terms.dtype == dtype
    assert terms.isfinite().all() and (terms >= 0).all() and terms[0] == 0
    assert v.grad.isfinite().all()


@pytest.mark.parametrize("beta", BETAS)
def test_gradient_is_the_difference_the_updates_use(beta):
    m, v = positive(30), positive(30, seed=1).requires_grad_()
    divergence(m, v, beta).backward()
    torch.testing.assert_close(v.grad, (v ** (beta - 1) - m * v ** (beta - 2)).detach())


def test_floor_leaves_audible_magnitudes_alone():
    m = torch.tensor([2 * FLOOR], dtype=torch.float64)
    assert divergence(m, 2 * m, 0).item() == pytest.approx(0.5 - np.log(0.5) - 1, rel=1e-9)
