"""Relaxed updates along a chain, against their definition and finite differences."""

import pytest
import torch

from deepnmf_cli.unfold.relaxation import relax


def chain(length: int = 7) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(3)
    target, schedule = (torch.rand(length, 2, 3, generator=draw, dtype=torch.float64) for _ in range(2))
    return target, schedule, torch.rand(2, 3, generator=draw, dtype=torch.float64)


def by_definition(target, schedule, start, reverse):
    path, state = [None] * len(target), start
    for t in reversed(range(len(target))) if reverse else range(len(target)):
        path[t] = state = (1 - schedule[t]) * state + schedule[t] * target[t]
    return torch.stack(path)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("length", [1, 2, 7])
def test_path_equals_its_definition(length: int, reverse: bool) -> None:
    tensors = chain(length)
    torch.testing.assert_close(relax(*tensors, reverse), by_definition(*tensors, reverse), rtol=1e-14, atol=0)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("length", [1, 2, 5])
def test_gradients_equal_finite_differences(length: int, reverse: bool) -> None:
    tensors = [x.requires_grad_() for x in chain(length)]
    assert torch.autograd.gradcheck(lambda *x: relax(*x, reverse), tensors)


def test_schedule_one_is_synchronous_and_zero_keeps_the_start() -> None:
    target, schedule, start = chain()
    assert torch.equal(relax(target, torch.ones_like(schedule), start), target)
    assert torch.equal(relax(target, torch.zeros_like(schedule), start), start.expand_as(target))
