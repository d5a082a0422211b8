"""Mean field on the grid against the free energy of the whole grid, written out over all pairs of spins."""

import itertools

import pytest
import torch
from torch import Tensor

from deepnmf_cli.inference.grid_field import NOW, GridField
from deepnmf_cli.unfold.network import Bank
from deepnmf_cli.unfold.recurrent import RecurrentUnfolded

FRAMES, CHANNELS, OBSERVED, ITERATIONS = 4, 3, 2, 5


def network(nodes: int, iterations: int = ITERATIONS, **more: bool) -> RecurrentUnfolded:
    """With strong couplings of random sign, and another schedule for every spin."""
    torch.manual_seed(nodes)
    algorithm = GridField(nodes, CHANNELS, OBSERVED, shown=2, **more)
    bank = Bank.declared(algorithm.parameters(iterations), iterations, tied=True).double()
    for parameter in bank.parameters():
        torch.nn.init.normal_(parameter)
    return RecurrentUnfolded(algorithm, iterations, bank.requires_grad_(False), recurrent=True)


def evidence(nodes: int) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(1)
    frames = torch.randn(1, OBSERVED * nodes, FRAMES, generator=draw, dtype=torch.float64)
    return frames, torch.zeros(3, CHANNELS, nodes, 1, dtype=torch.float64)


def whole_grid(field: RecurrentUnfolded, nodes: int) -> tuple[Tensor, Tensor]:
    """(theta, W) of all spins of all frames, by frame, node and channel; W is symmetric."""
    given, (frames, _) = field.bank.layer(0), evidence(nodes)
    observed = frames[0].unflatten(0, (OBSERVED, nodes))
    theta = torch.einsum("ce,ent->tnc", given["observe_weight"], observed) + given["observe_bias"].mT
    joined = torch.zeros(FRAMES, nodes, CHANNELS, FRAMES, nodes, CHANNELS, dtype=torch.float64)
    for t, n in itertools.product(range(FRAMES), range(nodes)):
        if t:
            joined[t, n, :, t - 1, n] = given["time_weight"]
            joined[t - 1, n, :, t, n] = given["time_weight"].mT
        if n:
            joined[t, n, :, t, n - 1] = given["upward_weight"]
            joined[t, n - 1, :, t, n] = given["upward_weight"].mT
    spins = theta.numel()
    return theta.flatten(), joined.reshape(spins, spins)


def free_energy(theta: Tensor, coupling: Tensor, mean: Tensor) -> float:
    entropy = -sum(torch.xlogy(p, p) for p in ((1 + mean) / 2, (1 - mean) / 2))
    return float(-theta @ mean - mean @ coupling @ mean / 2 - entropy.sum())


def natural(state: Tensor) -> Tensor:
    """Expectations (N, C) of the state of one frame, in the order of nodes."""
    spins = state[NOW, :, :, 0].mT
    even = (len(spins) + 1) // 2
    return torch.stack([spins[n // 2 + n % 2 * even] for n in range(len(spins))])


def path(field: RecurrentUnfolded, nodes: int) -> list[tuple[int, Tensor]]:
    """(frame, expectations of the whole grid) after every iteration, frame by frame, from nothing but zeros."""
    seen: list[Tensor] = []
    field.trajectory(evidence(nodes), disturb=lambda k, state: seen.append(state) or state)
    mean = torch.zeros(FRAMES, nodes, CHANNELS, dtype=torch.float64)
    found = [(0, mean.flatten())]
    for number, state in enumerate(seen):
        mean = mean.clone()
        mean[number // field.iterations] = natural(state)
        found.append((number // field.iterations, mean.flatten()))
    return found


@pytest.mark.parametrize("nodes", [2, 4, 5])
def test_no_update_raises_the_free_energy_of_the_whole_grid(nodes: int) -> None:
    """Each is the relaxed step of the page, for even nodes and then for odd ones, with messages from all neighbours: those
    of later frames have the expectation 0.
    """
    field = network(nodes)
    theta, coupling = whole_grid(field, nodes)
    schedule = field.bank.layer(0)["schedule"].sigmoid().repeat(FRAMES * nodes)
    frame, node, _ = (x.flatten() for x in torch.meshgrid(*map(torch.arange, (FRAMES, nodes, CHANNELS)), indexing="ij"))
    energies = []
    for (_, mean), (t, after) in itertools.pairwise(path(field, nodes)):
        for parity in (0, 1):
            energies.append(free_energy(theta, coupling, mean))
            group = (frame == t) & (node % 2 == parity)
            step = torch.lerp(mean, (theta + coupling @ mean).tanh(), schedule)
            mean = torch.where(group, step, mean)
        torch.testing.assert_close(after, mean)
        energies.append(free_energy(theta, coupling, after))
    assert len(energies) == FRAMES * ITERATIONS * 3
    assert all(after <= before + 1e-12 for before, after in itertools.pairwise(energies))
    assert energies[-1] < energies[0] - 1


def test_the_objective_of_a_frame_is_the_free_energy_of_the_grid_up_to_what_does_not_change() -> None:
    nodes = 5
    field = network(nodes)
    theta, coupling = whole_grid(field, nodes)
    of_frames = [
        field.algorithm.objective(evidence(nodes)[0], s, field.bank.layer(0)) for s in field.trajectory(evidence(nodes))
    ]
    steps = path(field, nodes)[1:]
    for number in range(FRAMES * ITERATIONS - 1):
        (t, before), (later, after) = steps[number : number + 2]
        if t == later:
            k = number % ITERATIONS + 1
            changed = free_energy(theta, coupling, after) - free_energy(theta, coupling, before)
            assert float(of_frames[k + 1][t, 0] - of_frames[k][t, 0]) == pytest.approx(changed, abs=1e-10)


def test_a_full_step_lowers_the_free_energy_by_the_divergence_from_the_old_expectations() -> None:
    """F(q) - F(q*) = KL(q || q*) for spins without couplings among them, here the even nodes of the first frame."""
    nodes = 4
    field = network(nodes)
    theta, coupling = whole_grid(field, nodes)
    old = torch.rand(len(theta), generator=torch.Generator().manual_seed(2), dtype=torch.float64) * 2 - 1
    node = torch.arange(len(theta)) // CHANNELS
    group = (node < nodes) & (node % 2 == 0)
    new = torch.where(group, (theta + coupling @ old).tanh(), old)
    divergence = sum(torch.xlogy((1 + s * old) / 2, (1 + s * old) / (1 + s * new)).sum() for s in (-1, 1))
    lost = free_energy(theta, coupling, old) - free_energy(theta, coupling, new)
    assert lost == pytest.approx(float(divergence), rel=1e-9)


def test_without_couplings_it_is_the_closed_form() -> None:
    """(1 - (1 - g)^K) tanh(theta): the same for every frame."""
    nodes = 5
    field = network(nodes)
    for name in ("time_weight_0", "upward_weight_0"):
        getattr(field.bank, name).zero_()
    theta, _ = whole_grid(field, nodes)
    schedule = field.bank.layer(0)["schedule"].sigmoid().repeat(FRAMES * nodes)
    expected = (1 - (1 - schedule) ** ITERATIONS) * theta.tanh()
    torch.testing.assert_close(path(field, nodes)[-1][1], expected)


def test_many_iterations_end_where_the_gradient_is_zero() -> None:
    """m_t = tanh(theta + W m) for the frame that was updated last."""
    nodes = 4
    field = network(nodes, 400)
    theta, coupling = whole_grid(field, nodes)
    mean = path(field, nodes)[-1][1]
    last = slice(-nodes * CHANNELS, None)
    torch.testing.assert_close(mean[last], (theta + coupling @ mean).tanh()[last], rtol=0, atol=1e-9)


@pytest.mark.parametrize("broken", ["symmetric", "accumulating"])
def test_outside_the_theory_the_free_energy_rises(broken: str) -> None:
    """What the two settings cost: without them the test above would not hold."""
    field = network(4, **{broken: broken == "accumulating"})
    theta, coupling = whole_grid(field, 4)
    energies = [free_energy(theta, coupling, mean) for _, mean in path(field, 4)]
    assert any(after > before + 0.01 for before, after in itertools.pairwise(energies))
