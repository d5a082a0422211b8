"""Exact filtering along a chain of spins, against enumeration and finite differences."""

import itertools

import pytest
import torch

from deepnmf_cli.inference.chain import LONGEST
from deepnmf_cli.kernels.recursion import combine


def chain(length: int = 7) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(3)
    evidence, start = (2 * torch.rand(*n, 2, 3, generator=draw, dtype=torch.float64) - 1 for n in ((length,), ()))
    return evidence, torch.rand(length, 2, 3, generator=draw, dtype=torch.float64), start


def filtered(evidence: torch.Tensor, keep: torch.Tensor, begin: float) -> torch.Tensor:
    """Expectation of the last spin of every beginning of the chain, given the evidence so far, by its definition."""
    means = []
    for length in range(1, len(evidence) + 1):
        total = mean = 0.0
        for spins in itertools.product((-1, 1), repeat=length + 1):  # the first is the start
            probability = (1 + begin * spins[0]) / 2
            for t in range(length):
                probability *= (1 + keep[t] * spins[t] * spins[t + 1]) / 2 * (1 + evidence[t] * spins[t + 1]) / 2
            total, mean = total + probability, mean + probability * spins[-1]
        means.append(mean / total)
    return torch.stack(means)


def test_filtering_gives_the_marginals_of_a_chain_that_keeps_its_sign() -> None:
    evidence, keep, _ = (x.flatten(1)[:5, 0] if x.dim() > 2 else x for x in chain())
    expected = filtered(evidence, keep, 0.3)
    torch.testing.assert_close(combine(evidence, keep, torch.tensor(0.3, dtype=torch.float64)), expected)


@pytest.mark.parametrize("length", [1, 2, 5])
@pytest.mark.parametrize("reverse", [False, True])
def test_gradients_equal_finite_differences(length: int, reverse: bool) -> None:
    tensors = [x.requires_grad_() for x in chain(length)]
    assert torch.autograd.gradcheck(lambda *x: combine(*x, reverse), tensors)


def test_evidence_against_certainty_is_heard() -> None:
    """Two certainties that disagree: finite values and slopes, and the newer one wins."""
    evidence = torch.tensor([1.0] * 5 + [-1.0] * 5)[:, None].requires_grad_()
    path = combine(evidence, torch.full((10, 1), LONGEST), torch.zeros(1))
    path.sum().backward()
    assert float(path[4].detach()) == 1 and float(path[-1].detach()) == -1
    assert torch.isfinite(path).all() and torch.isfinite(evidence.grad).all()
