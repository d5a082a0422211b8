"""The grid's compiled layer against the layer as PyTorch runs it."""

import pytest
import torch

from deepnmf_cli.inference.grid import GridInference
from deepnmf_cli.kernels import grid_layer, machine_code
from deepnmf_cli.networks.grid import Grid
from deepnmf_cli.networks.grid_settings import GridSettings

WEIGHTS = ("time_weight", "time_bias", "frequency_weight", "frequency_bias", "frequency_join")

pytestmark = pytest.mark.skipif(grid_layer.compile_kernel(8) is None, reason="there is no C++ compiler")


def layer(channels: int = 8, frames: int = 7, nodes: int = 11, scale: float = 1.0, local: bool = False) -> tuple:
    """Field, starting spins and the weights of a layer, all of them trained."""
    torch.manual_seed(channels + frames)
    settings = GridSettings(single_bands=nodes, wide_bands=nodes, channels=channels, iterations=1, local_fields=local)
    grid = Grid(settings)
    for bias in ("time_bias_0", "frequency_bias_0"):
        torch.nn.init.normal_(getattr(grid.unfolded.bank, bias))
    parameters = {name: tensor.detach().requires_grad_() for name, tensor in grid.unfolded.bank.layer(0).items()}
    field = (scale * torch.randn(frames, 3, nodes, channels)).requires_grad_()
    return field, torch.rand(3, nodes, channels).requires_grad_(), parameters


def run(kernel: grid_layer.GridKernel | None, field, start, parameters) -> tuple:
    """The new field, the last spins, and the gradients of everything for fixed gradients of these two."""
    *_, nodes, channels = field.shape
    algorithm = GridInference(nodes, channels, observed=1, shown=1, kernel=kernel)
    out, _, ((spins,),) = algorithm.step(None, (field, ((start,),), ()), parameters)
    draw = torch.Generator().manual_seed(1)
    arrived = [torch.randn(x.shape, generator=draw) for x in (out, spins)]
    trained = [field, start, *(parameters[name] for name in WEIGHTS)]
    return out, spins, *torch.autograd.grad([out, spins], trained, arrived)


@pytest.mark.parametrize("local", [False, True])
@pytest.mark.parametrize("channels,frames,nodes", [(8, 1, 1), (8, 7, 11), (24, 9, 17), (32, 3, 8), (40, 4, 7)])
def test_values_and_gradients_equal_those_of_the_step(channels: int, frames: int, nodes: int, local: bool) -> None:
    tensors = layer(channels, frames, nodes, local=local)
    for ours, theirs in zip(run(grid_layer.compile_kernel(channels), *tensors), run(None, *tensors), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=2e-6 * theirs.abs().max().item())


def test_saturated_spins_have_finite_gradients() -> None:
    tensors = layer(scale=1e4)
    results = run(grid_layer.compile_kernel(8), *tensors)
    assert all(torch.isfinite(x).all() for x in results)
    torch.testing.assert_close(results[0], run(None, *tensors)[0], rtol=1e-4, atol=1e-4)


def test_what_is_not_a_number_stays_so() -> None:
    field, start, parameters = layer()
    with torch.no_grad():
        field[0, 0, 0, 0] = float("nan")
    assert not torch.isfinite(run(grid_layer.compile_kernel(8), field, start, parameters)[0][-1, 0]).any()


def test_results_do_not_depend_on_the_number_of_threads() -> None:
    tensors, before = layer(), torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = run(grid_layer.compile_kernel(8), *tensors)
        torch.set_num_threads(2)
        together = run(grid_layer.compile_kernel(8), *tensors)
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(alone, together, strict=True))


def test_an_accelerated_grid_is_the_same_grid() -> None:
    settings = GridSettings(bins=33, single_bands=8, wide_bands=8, channels=8, iterations=2)
    grid, heard = Grid(settings), torch.rand(2, 33, 20)
    expected, _ = grid(heard)
    assert grid.accelerate() and grid.unfolded.algorithm.kernel
    torch.testing.assert_close(grid(heard)[0], expected, rtol=0, atol=2e-6)
    first, state = grid(heard[..., :7])
    torch.testing.assert_close(torch.cat([first, grid(heard[..., 7:], state)[0]], -1), expected, rtol=0, atol=2e-6)


def test_without_a_compiler_or_with_odd_channels_pytorch_runs_the_step(monkeypatch: pytest.MonkeyPatch) -> None:
    assert grid_layer.compile_kernel(12) is None
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.setattr(machine_code.shutil, "which", lambda name: None)
    assert grid_layer.compile_kernel.__wrapped__(16) is None
    grid = Grid(GridSettings(bins=33, single_bands=8, wide_bands=8, channels=12, iterations=1))
    assert not grid.accelerate()
    assert torch.isfinite(grid(torch.rand(1, 33, 5))[0]).all()


def test_double_precision_runs_in_pytorch() -> None:
    grid = Grid(GridSettings(bins=33, single_bands=8, wide_bands=8, channels=8, iterations=1)).double()
    grid.accelerate()
    assert grid(torch.rand(1, 33, 5, dtype=torch.float64))[0].dtype == torch.float64
