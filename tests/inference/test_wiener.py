"""Masks of models of the sources: they share the mixture out, all of it."""

import numpy as np
import pytest
import torch

from deepnmf_cli.inference.wiener import apply_masks, masks
from tests.reference import nmf_loops


def parts(sources=2, batch=(3,), dtype=torch.float32):
    return torch.rand(*batch, sources, 6, 5, generator=torch.Generator().manual_seed(0), dtype=dtype) ** 8


@pytest.mark.parametrize("sources", [2, 3, 5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_masks_sum_to_one(sources, dtype):
    shares = masks(parts(sources, dtype=dtype))
    assert shares.dtype == dtype and shares.min() >= 0 and shares.max() <= 1
    assert (shares.sum(-3) - 1).abs().max() <= sources * torch.finfo(dtype).eps


def test_equals_its_loop_written_twin():
    models = parts(3, (), torch.float64)
    models[:, 2, 2] = 0
    np.testing.assert_allclose(masks(models).numpy(), nmf_loops.masks(models.numpy()), rtol=1e-12)


def test_silent_bins_are_shared_equally():
    models = parts(4)
    models[..., 2, 1] = 0
    models[..., 3, 1] = 1e-42
    shares = masks(models)
    assert (shares[..., 2:4, 1] == 0.25).all()


def test_gradient_is_finite_in_silence():
    models = parts()
    models[..., 2, 1] = 0
    models.requires_grad_()
    masks(models)[:, 0].sum().backward()
    assert models.grad.isfinite().all() and (models.grad[..., 2, 1] == 0).all()


@pytest.mark.parametrize("gain_db", [-40, 20])
def test_masks_do_not_depend_on_the_level(gain_db):
    models = parts() + 1e-6
    torch.testing.assert_close(masks(models * 10 ** (gain_db / 20)), masks(models))


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_estimates_sum_to_the_mixture(dtype):
    mixture = torch.randn(3, 6, 5, dtype=dtype, generator=torch.Generator().manual_seed(1))
    estimates = apply_masks(masks(parts(dtype=torch.float64)), mixture)
    assert estimates.shape == (3, 2, 6, 5)
    torch.testing.assert_close(estimates.sum(-3), mixture, rtol=1e-14, atol=1e-15)


def test_a_bin_is_silent_up_to_a_level_of_minus_200_decibels():
    models = torch.tensor([[1e-10, 1.01e-10], [0, 0]], dtype=torch.float64)[..., None]
    torch.testing.assert_close(masks(models)[0, :, 0], torch.tensor([0.5, 1.0], dtype=torch.float64))
