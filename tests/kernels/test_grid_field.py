"""Mean field on the grid in machine code against the same in PyTorch, which works in double precision here."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from deepnmf_cli.inference.grid_field import GridField
from deepnmf_cli.kernels import grid_field
from deepnmf_cli.networks.grid_field import GridFieldNetwork
from deepnmf_cli.networks.grid_settings import GridFieldSettings
from deepnmf_cli.unfold.network import Bank
from deepnmf_cli.unfold.recurrent import RecurrentUnfolded

BATCH, OBSERVED, ITERATIONS = 3, 2, 3

pytestmark = pytest.mark.skipif(grid_field.compile_kernel(8) is None, reason="there is no C++ compiler")


def results(kind: torch.dtype, channels: int, frames: int, nodes: int, tied: bool, **more: bool) -> list[Tensor]:
    """States of all frames, by the kernel for single precision, and the gradients of everything they come from."""
    torch.manual_seed(channels + frames)
    algorithm = GridField(nodes, channels, OBSERVED, 1, kernel=grid_field.compile_kernel(channels), **more)
    bank = Bank.declared(algorithm.parameters(ITERATIONS), ITERATIONS, tied)
    with torch.no_grad():
        for parameter in bank.parameters():
            parameter += 0.5 * torch.randn(parameter.shape) / channels**0.5
    bank = bank.to(kind)
    inputs = torch.randn(BATCH, OBSERVED * nodes, frames).to(kind).requires_grad_()
    before = (torch.rand(3, channels, nodes, BATCH) - 0.5).to(kind).requires_grad_()
    arrived = torch.randn(3, channels, nodes, frames, BATCH).to(kind)
    states = algorithm.in_machine_code(inputs, before, [bank.layer(k) for k in range(ITERATIONS)])
    assert (states is None) == (kind == torch.float64)
    if states is None:
        states = RecurrentUnfolded(algorithm, ITERATIONS, bank, recurrent=True).trajectory((inputs, before))[-1]
    trained = [inputs, before, *(p for name, p in bank.named_parameters() if not name.startswith("read"))]
    return [states, *torch.autograd.grad(states, trained, arrived)]


@pytest.mark.parametrize("more", [{}, {"symmetric": False}, {"symmetric": False, "accumulating": True}])
@pytest.mark.parametrize("channels,frames,nodes,tied", [(8, 1, 2, True), (8, 7, 5, False), (24, 5, 8, True)])
def test_values_and_gradients_equal_those_of_pytorch(
    channels: int, frames: int, nodes: int, tied: bool, more: dict[str, bool]
) -> None:
    exact = results(torch.float64, channels, frames, nodes, tied, **more)
    for found, expected in zip(results(torch.float32, channels, frames, nodes, tied, **more), exact, strict=True):
        torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-5 * expected.abs().max().item())


def test_the_gradient_in_pytorch_is_that_of_finite_differences() -> None:
    torch.manual_seed(0)
    algorithm = GridField(3, 2, OBSERVED, 1)
    bank = Bank.declared(algorithm.parameters(2), 2, tied=True).double()
    names = [name for name, _ in bank.named_parameters()]
    before = torch.zeros(3, 2, 3, 1, dtype=torch.float64)

    def run(inputs: Tensor, *values: Tensor) -> Tensor:
        unfolded = RecurrentUnfolded(algorithm, 2, bank, recurrent=True)
        given = {f"bank.{name}": value for name, value in zip(names, values, strict=True)}
        return torch.func.functional_call(unfolded, given, ((inputs, before),))

    inputs = torch.randn(1, OBSERVED * 3, 2, dtype=torch.float64, requires_grad=True)
    values = [p.detach().clone().requires_grad_() for p in bank.parameters()]
    assert torch.autograd.gradcheck(run, (inputs, *values))


def test_what_is_not_a_number_stays_so() -> None:
    algorithm = GridField(4, 8, 1, 1, kernel=grid_field.compile_kernel(8))
    layer = Bank.declared(algorithm.parameters(1), 1).layer(0)
    inputs = torch.full((1, 4, 2), float("nan"))
    assert algorithm.in_machine_code(inputs, torch.zeros(3, 8, 4, 1), [layer]).isnan().any((0, 1, 2, 4)).all()


def test_an_accelerated_network_is_the_same_network() -> None:
    settings = GridFieldSettings(bins=33, single_bands=8, wide_bands=8, channels=8, iterations=2)
    network, heard = GridFieldNetwork(settings), torch.rand(2, 33, 20)
    expected, _ = network(heard)
    assert network.accelerate() and network.unfolded.algorithm.kernel
    torch.testing.assert_close(network(heard)[0], expected, rtol=0, atol=2e-6)
    first, state = network(heard[..., :7])
    parts = torch.cat([first, network(heard[..., 7:], state)[0]], -1)
    torch.testing.assert_close(parts, expected, rtol=0, atol=2e-6)
    network.unfolded.algorithm = replace(network.unfolded.algorithm, kernel=None)
    torch.testing.assert_close(network(heard[..., 7:], state)[0], expected[..., 7:], rtol=0, atol=2e-6)
