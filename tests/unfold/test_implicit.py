"""Implicit differentiation of sparse NMF at rest: finite differences and long unrolling are the oracles."""

import pytest
import torch
from torch import Tensor

from deepnmf_cli.inference import nmf, wiener
from deepnmf_cli.networks.deep_nmf import DeepNmf, DeepNmfSettings, DnmfSettings
from deepnmf_cli.unfold.implicit import Settled, settled, solve_adjoint

BINS, ATOMS, FRAMES = 10, (3, 2), 4


class Problem:
    """Mixture, target and dictionary of a small bi-level problem (35)-(36), in float64."""

    def __init__(self, beta: float, mu: float, seed: int = 4) -> None:
        draw = torch.Generator().manual_seed(seed)
        m, s, w, self.direction = (torch.rand(*shape, generator=draw, dtype=torch.float64) for shape in SHAPES)
        self.m, self.s, w = m.square() + 0.01, s * m, w.pow(4) + 0.001
        self.w = w / w.norm(dim=0)
        self.beta, self.mu = beta, mu
        self.algorithm = nmf.SparseNmf(BINS, ATOMS, beta, mu)

    def rest(self, w: Tensor, steps: int) -> Tensor:
        return nmf.infer(self.m, w, steps, self.beta, self.mu)

    def error(self, h: Tensor, w: Tensor) -> Tensor:
        """(35) with the estimate (34), for speech."""
        return (wiener.masks(nmf.readout(h, w, ATOMS))[0] * self.m - self.s).square().sum() / 2

    def implicit(self, steps: int) -> tuple[Tensor, Tensor]:
        """Gradient by the dictionary, and the activations."""
        w = self.w.clone().requires_grad_()
        h = self.rest(self.w, steps)
        rested = settled(self.algorithm, self.m, h, {"dictionary": w}, 1e-12, 200)
        return torch.autograd.grad(self.error(rested, w), w)[0], h


SHAPES = ((BINS, FRAMES), (BINS, FRAMES), (BINS, sum(ATOMS)), (BINS, sum(ATOMS)))


@pytest.mark.parametrize("beta, mu", [(1.0, 0.0), (1.0, 0.3), (2.0, 0.1), (0.5, 0.3)])
def test_gradient_at_rest_equals_finite_differences_with_activations_at_zero_and_above(beta: float, mu: float) -> None:
    problem, steps = Problem(beta, mu), 1500
    gradient, h = problem.implicit(steps)
    # The dictionary moves in proportion to itself, as all its entries stay positive then.
    change = 1e-5 * problem.direction * problem.w
    above, below = (problem.error(problem.rest(w, steps), w) for w in (problem.w + change, problem.w - change))
    assert (gradient * change).sum() == pytest.approx(float(above - below) / 2, rel=1e-6)
    idle = (h < 1e-9).double().mean()
    assert 0.2 <= idle < 0.8  # the boundary of h >= 0 is where most mistakes would be made


def test_gradient_at_rest_is_what_ever_longer_unrolling_tends_to() -> None:
    problem = Problem(1.0, 0.3)
    wanted, _ = problem.implicit(2000)
    apart = []
    for steps in (10, 100, 1000):
        w = problem.w.clone().requires_grad_()
        h = nmf.start(problem.m, w)
        for _ in range(steps):
            h = nmf.step(h, problem.m, w, 1.0, 0.3)
        unrolled = torch.autograd.grad(problem.error(h, w), w)[0]
        apart.append(float((unrolled - wanted).norm() / wanted.norm()))
    assert apart[0] > 5 * apart[1] > 50 * apart[2] and apart[2] < 1e-4


@pytest.mark.parametrize("seed", range(3))
def test_adjoint_equation_is_solved_also_where_frames_need_different_numbers_of_steps(seed: int) -> None:
    """I - J^T = A diag(metric) with a symmetric A for each column; entries at their bound stay 0."""
    draw = torch.Generator().manual_seed(seed)
    root = torch.randn(7, 6, 6, generator=draw, dtype=torch.float64) / 3
    hessian = root @ root.mT
    metric = torch.rand(6, 7, generator=draw, dtype=torch.float64) + 0.1
    metric[:2, 3] = 0
    gradient = torch.randn(6, 7, generator=draw, dtype=torch.float64)
    gradient[:, 5] = 0

    def pull(a: Tensor) -> Tensor:
        return a - torch.einsum("nrs,sn->rn", hessian, metric * a)

    found = solve_adjoint(pull, gradient, metric, 1e-12, 100)
    for n in range(7):
        active = metric[:, n] > 0
        matrix = (hessian[n] * metric[:, n])[active][:, active]
        wanted = torch.linalg.solve(matrix, gradient[active, n])
        torch.testing.assert_close(found[active, n], wanted, rtol=1e-6, atol=1e-9)
    assert not found[:2, 3].any() and not found[:, 5].any()


def test_a_direction_without_curvature_ends_the_solution_of_its_frame_alone() -> None:
    metric = torch.ones(2, 2, dtype=torch.float64)
    slopes = torch.tensor([[0.5, 0.0], [0.25, 0.0]], dtype=torch.float64)  # two atoms that are alike, in frame two
    found = solve_adjoint(lambda a: a - slopes * a, torch.ones(2, 2, dtype=torch.float64), metric)
    torch.testing.assert_close(found, torch.tensor([[2.0, 0.0], [4.0, 0.0]], dtype=torch.float64))


def test_before_rest_entries_that_still_grow_count_as_settled() -> None:
    """So the equation keeps a symmetric matrix without negative directions: the Hessian and what pulls entries down."""
    problem = Problem(1.0, 0.3)
    h = problem.rest(problem.w, 20)
    w = problem.w.clone().requires_grad_()
    rested = settled(problem.algorithm, problem.m, h, {"dictionary": w}, 1e-12, 200)
    slope = torch.randn(h.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = torch.autograd.grad((rested * slope).sum(), w)[0]

    def step(state: Tensor, dictionary: Tensor, n: int) -> Tensor:
        return nmf.step(state[:, None], problem.m[:, n : n + 1], dictionary, 1.0, 0.3)[:, 0]

    wanted, growing = torch.zeros_like(found), 0
    for n in range(FRAMES):
        state = h[:, n]
        jacobian = torch.autograd.functional.jacobian(lambda x, n=n: step(x, problem.w, n), state)
        growth = (step(state, problem.w, n) / state - 1).clamp_min(0)
        growing += int((growth > 1e-3).sum())
        adjoint = torch.linalg.solve(torch.eye(len(state)) - jacobian.T + growth.diag(), slope[:, n])
        wanted += torch.autograd.functional.vjp(lambda v, n=n, x=state: step(x, v, n), problem.w, adjoint)[1]
    assert growing > 2
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-9)


def implicit(iterations: int = 30, **settings) -> DeepNmf:
    torch.manual_seed(1)
    shape = {"bins": 9, "context": 2, "atoms": 4, "iterations": iterations, "tied": True, "sparsity": 0.1}
    return DeepNmf(DeepNmfSettings(**shape, **settings))


def frames() -> Tensor:
    return torch.rand(18, 6, generator=torch.Generator().manual_seed(2)) ** 2


def test_the_network_computes_what_it_computes_without_and_its_gradient_is_another() -> None:
    ours, theirs = implicit(gradient="implicit"), implicit()
    assert isinstance(ours.unfolded, Settled)
    masks = [network.frame_masks(frames()) for network in (ours, theirs)]
    assert torch.equal(*masks)
    slopes = []
    for network, mask in zip((ours, theirs), masks, strict=True):
        mask[0].square().sum().backward()
        slopes.append(network.unfolded.bank.dictionary_0.free.grad)
    assert all(slope.isfinite().all() and slope.any() for slope in slopes) and not torch.allclose(*slopes)
    with torch.no_grad():
        assert torch.equal(ours.frame_masks(frames()), masks[1])


def test_memory_of_the_implicit_gradient_does_not_grow_with_the_iterations() -> None:
    def kept(network: DeepNmf) -> int:
        sizes: list[int] = []

        def pack(x: Tensor) -> Tensor:
            sizes.append(x.numel())
            return x

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            network.frame_masks(frames())
        return sum(sizes)

    assert kept(implicit(10, gradient="implicit")) == kept(implicit(40, gradient="implicit"))
    assert kept(implicit(40)) > 3 * kept(implicit(10))


def test_gradients_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="needs tied"):
        DeepNmfSettings(gradient="implicit")
    with pytest.raises(ValueError, match="needs tied"):
        DnmfSettings(gradient="implicit")
    with pytest.raises(ValueError, match="neither unrolled nor implicit"):
        DeepNmfSettings(tied=True, gradient="exact")
