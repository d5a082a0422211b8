"""Belief-propagation layers in machine code against the plain sums."""

import pytest
import torch

from deepnmf_cli.inference import binary, expectations
from deepnmf_cli.kernels import machine_code, unit_sums

KERNEL = unit_sums.compile_unit_kernel()

pytestmark = pytest.mark.skipif(KERNEL is None, reason="there is no C++ compiler")


def layer(units, targets, count, scale=1.0):
    draw = torch.Generator().manual_seed(units)
    log_odds = (3 * torch.randn(count, units, generator=draw)).requires_grad_()
    return log_odds, (scale * torch.randn(targets, units, generator=draw)).requires_grad_(), torch.zeros(targets)


@pytest.mark.parametrize("units, targets, count", [(1, 1, 1), (4, 16, 3), (50, 33, 131), (256, 20, 70)])
@pytest.mark.parametrize("alpha", [0.3, 1.0])
def test_values_and_gradients_equal_those_of_the_plain_sum(units, targets, count, alpha):
    arguments = layer(units, targets, count)
    found = expectations.field(*arguments, alpha, KERNEL.sums)
    expected = binary.field(*(x.double() for x in arguments), alpha).float()
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-7 * units / alpha)
    weights = torch.randn(found.shape, generator=torch.Generator().manual_seed(1))
    ours, theirs = (torch.autograd.grad((x * weights).sum(), arguments[:2]) for x in (found, expected))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=2e-6 * other.abs().max().item())


def test_strongest_couplings_and_sure_units_stay_finite():
    log_odds, couplings, bias = layer(8, 3, 6)
    with torch.no_grad():
        couplings.copy_(19.9 * couplings.sign())
        log_odds[0], log_odds[1], log_odds[2] = torch.inf, -torch.inf, 90.0
    found = expectations.field(log_odds, couplings, bias, 1.0, KERNEL.sums)
    torch.testing.assert_close(found, binary.field(log_odds, couplings, bias), rtol=1e-5, atol=1e-5)
    assert all(x.isfinite().all() for x in torch.autograd.grad(found.sum(), (log_odds, couplings)))


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_what_is_not_a_number_stays_so(wrong):
    log_odds, couplings, _bias = (x.detach() for x in layer(8, 3, 6))
    log_odds[2, 5] = float("nan")
    assert KERNEL.sums(log_odds, couplings)[2].isnan().all() and KERNEL.sums(log_odds, couplings)[1].isfinite().all()
    log_odds[2, 5], couplings[1, 3] = 0.0, wrong
    assert not KERNEL.sums(log_odds, couplings)[:, 1].isfinite().any()


def test_any_number_of_threads_gives_the_same_bits():
    arguments, results = layer(20, 16, 200), []
    before = torch.get_num_threads()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            out = KERNEL.sums(*arguments[:2])
            results.append([out, *torch.autograd.grad(out.square().sum(), arguments[:2])])
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_without_a_compiler_there_is_no_kernel(monkeypatch):
    monkeypatch.setattr(machine_code.shutil, "which", lambda name: None)
    assert unit_sums.compile_unit_kernel.__wrapped__() is None
