"""Glow: invertible, with the log-determinant of its Jacobian; and its proximal steps, whose gradients are f's."""

import pytest
import torch
from torch import Tensor

from deepnmf_cli.inference.glow import Glow, energy
from deepnmf_cli.inference.glow_prox import GlowProx


def drawn(glow: Glow, seed: int = 0, spread: float = 0.05) -> dict[str, Tensor]:
    """Weights with couplings that do something."""
    draw = torch.Generator().manual_seed(seed)
    return {name: x + spread * torch.randn(x.shape, generator=draw) for name, x in glow.initial(draw).items()}


def images(count: int, side: int, channels: int = 1) -> Tensor:
    return torch.randn(count, channels, side, side, generator=torch.Generator().manual_seed(1))


def double(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: x.double() for name, x in weights.items()}


def flat(z: list[Tensor]) -> Tensor:
    return torch.cat([part.flatten(1) for part in z], 1)


@pytest.mark.parametrize("glow", [Glow(), Glow(3, 1, 2, 8), Glow(2, 3, 3, 16)])
def test_the_inverse_gives_the_image_back_and_all_of_it_is_in_the_code(glow: Glow) -> None:
    x, weights = images(4, 16, glow.channels), drawn(glow)
    z, change = glow.forward(x, weights)
    assert len(z) == glow.levels and flat(z).shape == (4, x[0].numel()) and change.shape == (4,)
    torch.testing.assert_close(glow.inverse(z, weights), x, atol=1e-5, rtol=0)
    assert not torch.allclose(flat(z).sort(1).values, x.flatten(1).sort(1).values, atol=0.1)
    # And the other way around, for codes that no image was asked for.
    code = [torch.randn(part.shape, generator=torch.Generator().manual_seed(2)) for part in z]
    torch.testing.assert_close(
        flat(glow.forward(glow.inverse(code, weights), weights)[0]), flat(code), atol=1e-4, rtol=0
    )


@pytest.mark.parametrize("glow", [Glow(1, 2, 3, 8), Glow(2, 1, 2, 4)])
def test_the_log_determinant_is_that_of_the_jacobian(glow: Glow) -> None:
    x, weights = images(2, 4, glow.channels).double(), double(drawn(glow, spread=0.2))
    _, change = glow.forward(x, weights)
    for one, expected in zip(x, change, strict=True):
        jacobian = torch.autograd.functional.jacobian(lambda x: flat(glow.forward(x[None], weights)[0])[0], one)
        torch.testing.assert_close(torch.linalg.slogdet(jacobian.flatten(1)).logabsdet, expected)


def test_actnorms_begin_with_the_mean_and_the_deviation_of_the_data() -> None:
    glow, x = Glow(1, 2, 3, 8), 3 * images(64, 8) + 5
    weights = glow.from_data(drawn(glow), x)
    z, _ = glow.forward(x, weights)
    # The last step begins with channels of mean 0 and variance 1, mixes and scales them.
    seen = {}
    glow._forward(x, weights, lambda prefix, x: seen.setdefault(prefix, x))
    assert len(seen) == 6
    for prefix, before in seen.items():
        after = (before + weights[f"{prefix}_bias"][:, None, None]) * weights[f"{prefix}_scale"].exp()[:, None, None]
        torch.testing.assert_close(after.mean((0, 2, 3)), torch.zeros(after.shape[1]), atol=1e-4, rtol=0)
        torch.testing.assert_close(after.std((0, 2, 3)), torch.ones(after.shape[1]), atol=1e-4, rtol=0)
    assert flat(z).abs().mean() < 2
    constant = glow.from_data(glow.initial(torch.Generator().manual_seed(0)), torch.zeros(8, 1, 8, 8))
    assert all(x.isfinite().all() for x in constant.values())


def test_the_likelihood_is_a_density() -> None:
    """Of one level and one step on an image of 2 x 2, by a sum over a lattice of two pixels, the others being integrated
    out: couplings that change nothing leave a normal distribution with known covariance."""
    glow = Glow(1, 1, 1, 4)
    weights = double(glow.initial(torch.Generator().manual_seed(0)))
    weights["level0_step0_scale"] = torch.tensor([0.3, -0.2, 0.1, 0.5]).double()
    x = images(3, 2).double()
    factor = weights["level0_step0_mix"] @ torch.diag(weights["level0_step0_scale"].exp())
    precision = factor.mT @ factor
    normal = torch.distributions.MultivariateNormal(torch.zeros(4).double(), precision_matrix=precision)
    torch.testing.assert_close(glow.negative_log_likelihood(x, weights), -normal.log_prob(x.flatten(1)))


def test_gradients_have_the_lengths_of_finite_differences() -> None:
    algorithm = GlowProx(Glow(1, 1, 2, 4), fidelity=3.0)
    weights, x = double(drawn(algorithm.glow, spread=0.2)), images(2, 4).double()
    known = (torch.rand(2, 1, 4, 4, generator=torch.Generator().manual_seed(3)) < 0.6).double()
    evidence = known * images(2, 4).double().flip(0), known
    z, _ = algorithm.glow.forward(x, weights)

    def slopes(cost, at: Tensor) -> Tensor:
        steps = 1e-6 * torch.eye(16).double()
        return torch.stack([(cost(at + step) - cost(at - step)) / 2e-6 for step in steps], 1).norm(dim=1)

    def of_image(x: Tensor) -> Tensor:
        x = x.view(2, 1, 4, 4)
        misfit = 1.5 * ((x - evidence[0]) * known).square().sum((1, 2, 3))
        return misfit + energy(algorithm.glow.forward(x, weights)[0])

    image, code = algorithm.gradients(evidence, x, weights)
    torch.testing.assert_close(image, slopes(of_image, x.flatten(1)), rtol=1e-6, atol=0)
    torch.testing.assert_close(algorithm.objective(evidence, x, weights), of_image(x.flatten(1)))
    found = slopes(lambda z: of_image(algorithm.glow.inverse([z.view(2, 4, 2, 2)], weights).flatten(1)), flat(z))
    torch.testing.assert_close(code, found, rtol=1e-6, atol=0)
    moved = x.clone().requires_grad_()
    sum(length.sum() for length in algorithm.gradients(evidence, moved, weights)).backward()
    assert moved.grad.isfinite().all() and moved.grad.abs().max() > 0
