"""Common principal components: eigenvectors that covariances share are found, and what they share least wrong."""

import pytest
import torch
from torch import Tensor

from deepnmf_cli.inference.common_components import (
    common_components,
    common_sketch,
    deviation,
    disjoint_pairs,
)


def drawn(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def orthogonal(size: int, seed: int = 0) -> Tensor:
    return torch.linalg.qr(drawn(size, size, seed=seed)).Q


def groups(count: int, size: int, noise: float = 0.0) -> tuple[Tensor, Tensor]:
    """Covariances (count, size, size) whose eigenvalues have other orders in each, and their eigenvectors, by energy."""
    basis, values = orthogonal(size), drawn(count, size, seed=1).exp()
    spread = noise * drawn(count, size, size, seed=2)
    order = (values / values.mean(1, keepdim=True)).mean(0).argsort(descending=True)
    return basis @ torch.diag_embed(values) @ basis.mT + spread @ spread.mT, basis[:, order]


@pytest.mark.parametrize("size", [2, 5, 12])
def test_known_common_eigenvectors_are_recovered_in_the_order_of_their_energy(size: int) -> None:
    covariances, basis = groups(4, size)
    found = common_components(covariances)
    torch.testing.assert_close((found.mT @ basis).abs(), torch.eye(size).double(), rtol=0, atol=1e-8)


def test_they_are_found_where_the_mean_covariance_has_no_direction() -> None:
    """Nor has a pair of columns at 45 degrees to them, which the method would leave as it is."""
    covariances = torch.tensor([[[2.5, 1.5], [1.5, 2.5]], [[2.5, -1.5], [-1.5, 2.5]]], dtype=torch.float64)
    assert torch.equal(covariances.mean(0), 2.5 * torch.eye(2).double())
    turned = common_components(covariances).mT @ covariances @ common_components(covariances)
    torch.testing.assert_close(turned[:, 0, 1], torch.zeros(2).double(), rtol=0, atol=1e-9)


def test_where_none_are_common_the_equations_of_flury_hold() -> None:
    """b_l^T [sum_i (lambda_il - lambda_ij) / (lambda_il lambda_ij) S_i] b_j = 0 for all pairs of components."""
    covariances, _ = groups(5, 8, noise=0.3)
    covariances = covariances / covariances.diagonal(dim1=1, dim2=2).mean(1)[:, None, None]
    found = common_components(covariances)
    torch.testing.assert_close(found.mT @ found, torch.eye(8).double())
    values = torch.stack([torch.diag(found.mT @ s @ found) for s in covariances])
    for i in range(8):
        for j in range(i):
            weight = (values[:, i] - values[:, j]) / (values[:, i] * values[:, j])
            assert abs(found[:, i] @ (weight[:, None, None] * covariances).sum(0) @ found[:, j]) < 1e-6
    pooled = torch.linalg.eigh(covariances.sum(0)).eigenvectors
    assert 0 < deviation(covariances, found) < 0.95 * deviation(covariances, pooled)
    for seed in range(20):  # a minimum: no small rotation lowers it
        turn = torch.matrix_exp(1e-3 * (drawn(8, 8, seed=seed) - drawn(8, 8, seed=seed).mT))
        assert deviation(covariances, found @ turn) > deviation(covariances, found)


def test_a_sketch_has_orthonormal_rows_and_keeps_the_most_energy() -> None:
    covariances, basis = groups(3, 9)
    sketch = common_sketch(covariances.float(), 4)
    assert sketch.shape == (4, 9) and sketch.dtype == torch.float32
    torch.testing.assert_close(sketch @ sketch.mT, torch.eye(4), rtol=0, atol=1e-6)
    torch.testing.assert_close(sketch.mT @ sketch, (basis[:, :4] @ basis[:, :4].mT).float(), rtol=0, atol=1e-4)


@pytest.mark.parametrize("count", [2, 7, 8])
def test_all_pairs_have_one_turn_in_sets_without_a_common_column(count: int) -> None:
    rounds = [list(zip(p.tolist(), q.tolist(), strict=True)) for p, q in disjoint_pairs(count)]
    assert sorted(pair for found in rounds for pair in found) == [
        (i, j) for i in range(count) for j in range(i + 1, count)
    ]
    assert all(len({c for pair in found for c in pair}) == 2 * len(found) for found in rounds)
