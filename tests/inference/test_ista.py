"""Sparse coding against its definition and its optimality conditions."""

import itertools

import numpy as np
import pytest
import torch

from deepnmf_cli.inference import ista


def problem() -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(2)
    dictionary = torch.rand(12, 7, generator=draw, dtype=torch.float64)
    return torch.rand(2, 12, 5, generator=draw, dtype=torch.float64), dictionary / dictionary.norm(dim=0)


def test_a_step_equals_its_definition_in_loops() -> None:
    x, dictionary = problem()
    draw = torch.Generator().manual_seed(3)
    h, rate, penalty = torch.rand(2, 7, 5, generator=draw, dtype=torch.float64), 0.2, 0.3
    after = ista.step(h, dictionary.mT @ x, dictionary.mT @ dictionary, rate, penalty)
    d = dictionary.numpy()
    for b in range(2):
        for t in range(5):
            rest = d @ h[b, :, t].numpy() - x[b, :, t].numpy()
            for r in range(7):
                expected = max(0.0, float(h[b, r, t]) - rate * (sum(d[:, r] * rest) + penalty))
                assert float(after[b, r, t]) == pytest.approx(expected, rel=1e-12, abs=1e-14)


def test_the_objective_never_rises() -> None:
    x, dictionary = problem()
    costs = [ista.objective(ista.infer(x, dictionary, k, 0.1), x, dictionary, 0.1) for k in range(12)]
    assert all((later <= earlier + 1e-12).all() for earlier, later in itertools.pairwise(costs))
    assert (costs[-1] < 0.5 * costs[0]).all()


def test_the_limit_satisfies_the_optimality_conditions() -> None:
    x, dictionary = problem()
    h = ista.infer(x, dictionary, 3000, 0.1)
    slope = dictionary.mT @ (dictionary @ h - x) + 0.1  # zero where h > 0, not negative where h = 0
    assert slope[h > 1e-6].abs().max() < 1e-6 and slope.min() > -1e-6
    assert (h == 0).any() and (h > 0).any()


def test_the_largest_rate_is_one_over_the_largest_eigenvalue() -> None:
    _, dictionary = problem()
    largest = np.linalg.eigvalsh(dictionary.numpy().T @ dictionary.numpy()).max()
    assert float(ista.largest_rate(dictionary)) == pytest.approx(1 / largest)
