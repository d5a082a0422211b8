"""Split back-propagation: what holds of the parts, for every divergence, tie table and number of frames."""

import itertools

import pytest
import torch
from torch import Tensor

from deepnmf_cli.inference import nmf, wiener
from deepnmf_cli.inference.algorithm import Parameters
from deepnmf_cli.inference.divergence import divergence
from deepnmf_cli.inference.nmf import DICTIONARY, SparseNmf
from deepnmf_cli.kernels.recursion import relax
from deepnmf_cli.unfold.network import Bank, Unfolded
from deepnmf_cli.unfold.split import Parts, pull_back, split_gradient, wiener_parts
from deepnmf_cli.unfold.ties import Ties
from tests.reference.split_layer import layer_parts

BINS, ATOMS, FRAMES, LAYERS, CONTEXT = 6, 3, 9, 4, 2
BETAS = (0.0, 0.5, 1.0, 1.5, 2.0, 2.5)
TIES = {
    "reconstruction only": Ties.last(LAYERS + 1, 1),
    "last three": Ties.last(LAYERS + 1, 3),
    "untied": Ties.untied(LAYERS + 1),
    "tied": Ties.tied(LAYERS + 1),
    "mixed": Ties((0, 1, 1, 2, 0), frozenset({0, 2})),
    "first only": Ties((0, 1, 1, 1, 1), frozenset({0})),
}


class Problem:
    """A random network, mixture and targets; gamma is 1 for speech and 0.3 for noise unless told."""

    def __init__(
        self,
        seed: int,
        ties: Ties,
        beta: float = 1.0,
        noise_weight: float = 0.3,
        frames: int = FRAMES,
        sparsity: float = 0.1,
    ) -> None:
        draw = torch.Generator().manual_seed(seed)

        def uniform(*shape: int) -> Tensor:
            return torch.rand(*shape, generator=draw, dtype=torch.float64)

        self.evidence = uniform(2, CONTEXT * BINS, frames)
        self.mixture = self.evidence[:, -BINS:]
        self.targets = self.mixture[:, None] * uniform(2, 2, BINS, frames)
        self.weights = torch.tensor([1.0, noise_weight], dtype=torch.float64)[:, None, None]
        own_readout = [slot for slot in ties.slots if ties.first_layer(slot) == LAYERS]
        rows = [BINS if slot in own_readout else CONTEXT * BINS for slot in range(ties.count)]
        values = [uniform(count, 2 * ATOMS) for count in rows]
        bank = Bank({DICTIONARY: ties}, {DICTIONARY: values}, {DICTIONARY: "free"})
        self.network = Unfolded(SparseNmf(BINS, (ATOMS, ATOMS), beta, sparsity), LAYERS, bank)
        self.trained = dict(bank.named_parameters())

    def error(self, beta: float = 2.0) -> Tensor:
        estimates = wiener.apply_masks(self.network(self.evidence), self.mixture)
        return (self.weights * divergence(self.targets, estimates, beta, elementwise=True)).sum()

    def parts(self, beta: float = 2.0) -> dict[str, Parts]:
        def readout(state: Tensor, parameters: Parameters) -> tuple[Tensor, Parts]:
            models = nmf.readout(state, parameters[DICTIONARY][-BINS:], (ATOMS, ATOMS))
            return models, wiener_parts(models.detach(), self.mixture, self.targets, self.weights, beta)

        return split_gradient(self.network, self.evidence, readout)

    def gradients(self, beta: float = 2.0) -> dict[str, Tensor]:
        return dict(zip(self.trained, torch.autograd.grad(self.error(beta), list(self.trained.values())), strict=True))

    @torch.no_grad()
    def plain_step(self) -> None:
        """(38)."""
        for name, pair in self.parts().items():
            self.trained[name].mul_(pair.negative / pair.positive)


def assert_parts_of(pair: Parts, gradient: Tensor) -> None:
    assert (pair.positive >= 0).all() and (pair.negative >= 0).all()
    torch.testing.assert_close(pair.difference, gradient, rtol=1e-10, atol=1e-10 * float(pair.positive.max()))


@pytest.mark.parametrize("ties", TIES.values(), ids=TIES)
@pytest.mark.parametrize("beta", BETAS)
@pytest.mark.parametrize("seed", range(3))
def test_parts_are_nonnegative_and_their_difference_is_the_gradient(ties: Ties, beta: float, seed: int) -> None:
    problem = Problem(seed, ties, beta)
    parts, gradients = problem.parts(), problem.gradients()
    assert parts.keys() == gradients.keys()
    for name, pair in parts.items():
        assert_parts_of(pair, gradients[name])


@pytest.mark.parametrize("output_beta", [0.0, 0.5, 1.0, 1.5, 2.5])
@pytest.mark.parametrize("seed", range(3))
def test_every_reconstruction_divergence_can_be_split(output_beta: float, seed: int) -> None:
    problem = Problem(seed, TIES["last three"])
    problem.targets[0, :, :, 0] = 0
    gradients = problem.gradients(output_beta)
    for name, pair in problem.parts(output_beta).items():
        assert_parts_of(pair, gradients[name])


@pytest.mark.parametrize("beta", BETAS)
def test_difference_equals_finite_differences(beta: float) -> None:
    problem, draw, width = Problem(4, TIES["mixed"], beta), torch.Generator().manual_seed(4), 1e-5
    parts = problem.parts()
    for name, value in problem.trained.items():
        direction = torch.rand(value.shape, generator=draw, dtype=value.dtype) - 0.5
        with torch.no_grad():
            value.add_(width * direction)
            above = problem.error().item()
            value.sub_(2 * width * direction)
            below = problem.error().item()
            value.add_(width * direction)
        slope = float((parts[name].difference * direction).sum())
        assert slope == pytest.approx((above - below) / (2 * width), rel=1e-5, abs=1e-8)


@pytest.mark.parametrize("beta", BETAS)
@pytest.mark.parametrize("seed", range(3))
def test_general_mechanism_equals_the_layer_written_by_hand(beta: float, seed: int) -> None:
    if nmf.exponent(beta) != 1:
        beta = 1.0 + beta / 3  # (33) as published has no exponent
    draw = torch.Generator().manual_seed(seed)
    h, m, w, p, n = (
        torch.rand(*shape, generator=draw, dtype=torch.float64) for shape in ((4, 8), (6, 8), (6, 4), (4, 8), (4, 8))
    )
    w.requires_grad_()
    h.requires_grad_()
    general = pull_back(nmf.step(h, m, w, beta, 0.2), Parts(p, n), [w, h])
    by_hand = layer_parts(h.detach(), m, w.detach(), beta, 0.2, Parts(p, n))
    for ours, theirs in zip(general, by_hand, strict=True):
        torch.testing.assert_close(ours.positive, theirs.positive, rtol=1e-12, atol=0)
        torch.testing.assert_close(ours.negative, theirs.negative, rtol=1e-12, atol=0)


@pytest.mark.parametrize("beta,mu", [(1.0, 0.0), (1.0, 2.0), (1.3, 0.0), (2.0, 0.0)])
@pytest.mark.parametrize("seed", range(3))
def test_sum_of_the_parts_doubles_in_every_layer_on_the_way_down(beta: float, mu: float, seed: int) -> None:
    """Why (38) all but stops at depth: docs/theory/multiplicative.md proves it."""
    draw = torch.Generator().manual_seed(seed)
    h, m, w = (torch.rand(*shape, generator=draw, dtype=torch.float64) for shape in ((4, 8), (6, 8), (6, 4)))
    p, n = torch.rand(2, 4, 8, generator=draw, dtype=torch.float64)
    above = nmf.step(h.requires_grad_(), m, w, beta, mu)
    (below,) = pull_back(above, Parts(p, n), [h])
    total = (h * (below.positive + below.negative)).sum(0)
    torch.testing.assert_close(total, 2 * (above * (p + n)).sum(0), rtol=1e-12, atol=0)


def test_output_split_for_speech_alone_is_the_tight_one_in_closed_form() -> None:
    draw = torch.Generator().manual_seed(0)
    a_speech, a_noise, m, s = torch.rand(4, BINS, FRAMES, generator=draw, dtype=torch.float64)
    weights = torch.tensor([1.0, 0.0], dtype=torch.float64)[:, None, None]
    parts = wiener_parts(torch.stack([a_speech, a_noise]), m, torch.stack([s, s]), weights)
    total = a_speech + a_noise
    positive = [m**2 * a_speech * a_noise / total**3, m * s * a_speech / total**2]
    negative = [m * s * a_noise / total**2, m**2 * a_speech**2 / total**3]
    torch.testing.assert_close(parts.positive, torch.stack(positive), rtol=1e-12, atol=0)
    torch.testing.assert_close(parts.negative, torch.stack(negative), rtol=1e-12, atol=0)


@pytest.mark.parametrize("sources", [2, 3])
def test_output_split_is_never_larger_than_that_of_quotient_and_sum_apart(sources: int) -> None:
    draw = torch.Generator().manual_seed(1)
    models, targets = torch.rand(2, sources, BINS, FRAMES, generator=draw, dtype=torch.float64)
    mixture, weights = targets.sum(0), torch.ones(sources, 1, 1, dtype=torch.float64)
    tight = wiener_parts(models, mixture, targets, weights)
    estimates = wiener.apply_masks(wiener.masks(models.requires_grad_()), mixture)
    (apart,) = pull_back(estimates, Parts(estimates.detach(), targets), [models])
    torch.testing.assert_close(tight.difference, apart.difference, rtol=1e-10, atol=1e-12)
    assert (tight.positive <= apart.positive * (1 + 1e-12)).all()
    assert float(tight.positive.sum()) < 0.9 * float(apart.positive.sum())


@pytest.mark.parametrize("beta", BETAS)
def test_where_estimates_equal_targets_parts_are_equal_and_a_step_stays(beta: float) -> None:
    problem = Problem(2, TIES["untied"], beta)
    with torch.no_grad():
        problem.targets = wiener.apply_masks(problem.network(problem.evidence), problem.mixture)
    before = {name: value.detach().clone() for name, value in problem.trained.items()}
    problem.plain_step()
    for name, value in problem.trained.items():
        torch.testing.assert_close(value, before[name], rtol=1e-12, atol=0)


@pytest.mark.parametrize("seed,ties", enumerate(["reconstruction only", "last three", "untied", "tied"]))
def test_two_hundred_plain_steps_keep_weights_nonnegative_and_never_raise_the_error(seed: int, ties: str) -> None:
    problem = Problem(seed, TIES[ties], noise_weight=0.0)
    errors = []
    for _ in range(200):
        errors.append(problem.error().item())
        problem.plain_step()
        assert all((value >= 0).all() for value in problem.trained.values())
    assert all(after <= before * (1 + 1e-9) for before, after in itertools.pairwise(errors))
    assert errors[-1] < 0.95 * errors[0]


@pytest.mark.parametrize("mask", [0.01, 0.1, 0.2])
@pytest.mark.parametrize("wanted", [2.0, 3.0])
def test_in_one_bin_a_plain_step_overshoots_and_its_square_root_does_not(mask: float, wanted: float) -> None:
    """The case in which (38) raises the error: both models move at once, each as far as would be right alone. It
    overshoots whenever the mask before and the mask wanted sum to less than one."""
    target = wanted * mask
    models = torch.tensor([mask, 1 - mask], dtype=torch.float64)[:, None, None]
    one = torch.ones(1, 1, dtype=torch.float64)
    weights = torch.tensor([1.0, 0.0], dtype=torch.float64)[:, None, None]
    parts = wiener_parts(models, one, target * torch.ones_like(models), weights)

    def after(power: float) -> float:
        return wiener.masks(models * (parts.negative / parts.positive) ** power)[0].item()

    odds = mask / (1 - mask) * wanted**2
    assert after(1.0) == pytest.approx(odds / (1 + odds), rel=1e-12) and after(1.0) > target
    assert mask < after(0.5) < target
    if mask == 0.01 and wanted == 3.0:
        assert (after(1.0) - target) ** 2 > 2 * (mask - target) ** 2


def test_silence_unused_atoms_and_many_frames_change_nothing() -> None:
    frames = nmf.BLOCK_FRAMES + 7  # more than one block of the step
    problem = Problem(5, TIES["last three"], frames=frames)
    problem.evidence[0] = 0
    problem.targets[0] = 0
    with torch.no_grad():
        for value in problem.trained.values():
            value[:, 1] = 0
    gradients = problem.gradients()
    for name, pair in problem.parts().items():
        assert_parts_of(pair, gradients[name])
        assert torch.isfinite(pair.positive).all()


def test_split_of_a_network_with_nothing_trained_is_empty() -> None:
    assert Problem(0, Ties.last(LAYERS + 1, 0)).parts() == {}


def test_fixed_layers_and_states_below_the_first_trained_one_are_not_kept() -> None:
    problem = Problem(0, TIES["last three"])
    held: list[int] = []
    run = SparseNmf.step

    class Watched(SparseNmf):
        def step(self, evidence: Tensor, state: Tensor, parameters: Parameters) -> Tensor:
            held.append(int(torch.is_grad_enabled()))
            return run(self, evidence, state, parameters)

    problem.network.algorithm = Watched(BINS, (ATOMS, ATOMS), 1.0, 0.1)
    problem.parts()
    # All layers once without recording; the two trained ones again, recorded.
    assert held == [0] * LAYERS + [1] * 2


@pytest.mark.parametrize("seed", range(5))
def test_any_other_network_can_be_split_too(seed: int) -> None:
    """Signed weights, saturation, a gated chain, an argument used twice: difference and signs hold for all of them."""
    torch.manual_seed(seed)
    x, w, gate = (torch.randn(*shape, dtype=torch.float64, requires_grad=True) for shape in ((6, 4), (4, 4), (4,)))
    unused = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    hidden = torch.tanh(x @ w) * x
    path = [hidden[0]]
    for row in hidden[1:]:
        path.append(torch.lerp(path[-1], row, gate.sigmoid()))
    path = torch.stack(path)
    left, right = (path.softmax(-1) + path.sigmoid() / (1 + path.square())).chunk(2, -1)
    output = left.exp() - right.flip(0).cumsum(0)
    p, n = torch.rand(2, *output.shape, dtype=torch.float64)
    gradients = torch.autograd.grad(output, [x, w, gate], p - n, retain_graph=True)
    with pytest.raises(TypeError, match="not callable"):
        pull_back(relax(hidden, hidden.sigmoid(), hidden[0]), Parts(hidden, hidden), [x])
    *pairs, of_unused = pull_back(output, Parts(p, n), [x, w, gate, unused])
    for pair, gradient in zip(pairs, gradients, strict=True):
        assert_parts_of(pair, gradient)
    assert not of_unused.positive.any() and not of_unused.negative.any()
