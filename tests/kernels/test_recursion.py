"""Relaxed updates along a chain: finite differences, limits, precision and direction."""

import pytest
import torch

from deepnmf_cli.inference.chain import relax_both_ways, relax_spins
from deepnmf_cli.kernels.recursion import relax


def chain(length: int = 7) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(3)
    target, schedule = (torch.rand(length, 2, 3, generator=draw, dtype=torch.float64) for _ in range(2))
    return target, schedule, torch.rand(2, 3, generator=draw, dtype=torch.float64)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("length", [1, 2, 5])
def test_gradients_equal_finite_differences(length: int, reverse: bool) -> None:
    tensors = [x.requires_grad_() for x in chain(length)]
    assert torch.autograd.gradcheck(lambda *x: relax(*x, reverse), tensors)


def test_schedule_one_is_synchronous_and_zero_keeps_the_start() -> None:
    target, schedule, start = chain()
    assert torch.equal(relax(target, torch.ones_like(schedule), start), target)
    assert torch.equal(relax(target, torch.zeros_like(schedule), start), start.expand_as(target))


def test_spins_keep_single_precision_under_autocast() -> None:
    field, weight, bias = torch.randn(5, 3), torch.randn(8, 3), torch.randn(8)
    with torch.autocast("cpu", torch.bfloat16):
        spins = relax_spins(field, weight, bias, torch.zeros(4))
    assert spins.dtype == torch.float32
    torch.testing.assert_close(spins, relax_spins(field, weight, bias, torch.zeros(4)), rtol=0, atol=0.05)


def test_both_ways_hear_what_is_before_and_what_comes_after() -> None:
    field, weight, bias = torch.randn(9, 2, 5), torch.randn(12, 5), torch.randn(9, 1, 12)
    paths = relax_both_ways(field, weight, bias)
    assert paths.shape == (9, 2, 6)
    changed = field.clone()
    changed[4] += 1
    moved = (relax_both_ways(changed, weight, bias) != paths).any(1)
    assert moved[4:, :3].all() and not moved[:4, :3].any()
    assert moved[:5, 3:].all() and not moved[5:, 3:].any()
