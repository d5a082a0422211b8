"""Sparse codes that are known: shrinkage by its definition, what theory promises, and errors on the customary toy."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import Tensor

from deepnmf_cli.inference import alista, fista, group_ista, hyperlista, ista, lista, psista
from deepnmf_cli.inference.alista import Alista
from deepnmf_cli.inference.shrinkage import select_support, soft_threshold
from deepnmf_cli.unfold.network import Bank, Unfolded

SHAPE = 50, 100


def toy(count: int, density: float, seed: int, shape: tuple[int, int] = SHAPE) -> tuple[Tensor, Tensor, Tensor]:
    """Gaussian dictionary of unit norm, codes of independent Gaussian entries, and what these make."""
    draw = torch.Generator().manual_seed(99)
    dictionary = torch.randn(*shape, generator=draw)
    dictionary = dictionary / dictionary.norm(dim=0)
    draw.manual_seed(seed)
    codes = torch.randn(shape[1], count, generator=draw) * (torch.rand(shape[1], count, generator=draw) < density)
    return dictionary, codes, dictionary @ codes


def nmse_db(found: Tensor, codes: Tensor) -> float:
    return float(10 * torch.log10((found - codes).square().sum() / codes.square().sum()))


def test_soft_thresholds_are_the_proximal_maps_of_their_penalties() -> None:
    z, grid = torch.linspace(-2, 2, 9), torch.linspace(-3, 3, 6001)
    for signed in (True, False):
        candidates = grid if signed else grid[grid >= 0]
        costs = (candidates - z[:, None]).square() / 2 + 0.7 * candidates.abs()
        torch.testing.assert_close(soft_threshold(z, 0.7, signed), candidates[costs.argmin(1)], rtol=0, atol=2e-3)


def test_blocks_shrink_by_the_proximal_map_of_both_penalties() -> None:
    """Against a search of the minimum of 1/2 |h - z|^2 + .2 |h|_1 + .5 |h|_2 over h >= 0 in the plane."""
    axis = torch.linspace(0, 3, 1201)
    plane = torch.cartesian_prod(axis, axis)
    for z in ((1.5, 0.4), (0.3, 0.5), (-1.0, 2.0)):
        costs = (plane - torch.tensor(z)).square().sum(1) / 2 + 0.2 * plane.sum(1) + 0.5 * plane.norm(dim=1)
        shrunk = group_ista.shrink_blocks(soft_threshold(torch.tensor(z)[:, None], 0.2), 0.5, 1)[:, 0]
        torch.testing.assert_close(shrunk, plane[costs.argmin()], rtol=0, atol=4e-3)


def test_selected_support_passes_the_largest_that_reach_the_threshold() -> None:
    z = torch.tensor([[0.5, -3.0], [2.0, 0.2], [-1.0, 1.1], [1.5, -0.9]])
    share = torch.tensor([[0.5, 0.25]])
    signed = select_support(z, 1.0, share, signed=True)
    torch.testing.assert_close(signed, torch.tensor([[0.0, -3.0], [2.0, 0.0], [0.0, 0.1], [1.5, 0.0]]))
    assert select_support(z, 1.0, share).tolist() == pytest.approx(
        torch.tensor([[0.0, 0.0], [2.0, 0.0], [0.0, 1.1], [1.5, 0.0]])
    )
    assert torch.equal(select_support(z, 1.0, torch.zeros(1)), soft_threshold(z, 1.0))
    assert torch.equal(select_support(z, 1.8, torch.ones(1)), z.where(z >= 1.8, 0.0))


@pytest.mark.parametrize("shape", [(8, 12), (12, 8)])
def test_analytic_weights_are_the_least_coherent_ones(shape: tuple[int, int]) -> None:
    draw = torch.Generator().manual_seed(1)
    dictionary = torch.randn(*shape, generator=draw, dtype=torch.float64)
    for ridge in (0.0, 0.3):
        weights = alista.weights(dictionary, ridge)
        torch.testing.assert_close((weights @ dictionary).diagonal(), torch.ones(shape[1]).double())
        mean = dictionary.square().sum() / shape[0]

        def cost(w: Tensor, ridge: float = ridge, mean: Tensor = mean) -> Tensor:
            return (w @ dictionary).square().sum() + ridge * mean * w.square().sum()

        # At a minimum under w_r^T d_r = 1 the slope of the cost in w_r is a multiple of d_r.
        slope = weights @ (dictionary @ dictionary.mT + ridge * mean * torch.eye(shape[0]).double())
        multiple = (slope * dictionary.mT).sum(1, keepdim=True) / dictionary.square().sum(0)[:, None]
        torch.testing.assert_close(slope, multiple * dictionary.mT)
        for _ in range(20):  # any other matrix whose rows answer their own atoms with one
            other = weights + 0.1 * torch.randn(weights.shape, generator=draw, dtype=torch.float64)
            other = other / (other * dictionary.mT).sum(1, keepdim=True)
            assert cost(weights) < cost(other)


def test_objectives_are_their_definitions() -> None:
    draw = torch.Generator().manual_seed(2)
    d, x, h = (torch.randn(*shape, generator=draw, dtype=torch.float64) for shape in ((6, 8), (6, 3), (8, 3)))
    fit = (x - d @ h).square().sum() / 2
    torch.testing.assert_close(ista.objective(h, x, d, 0.3), fit + 0.3 * h.abs().sum())
    algorithm = group_ista.GroupIsta(6, (4, 4), blocks=2, signed=True)
    parameters = {"dictionary": d, "penalty": 0.3, "group_penalty": torch.tensor([[1.0], [2.0], [3.0], [4.0]])}
    blocks = sum(k * h[2 * k - 2 : 2 * k].norm(dim=0).sum() for k in (1, 2, 3, 4))
    expected = fit + 0.3 * h.abs().sum() + blocks
    torch.testing.assert_close(algorithm.objective(x, h, parameters), expected)


def incoherent() -> tuple[Tensor, float]:
    """Spikes and Walsh functions (64, 128), whose coherence is 1/8."""
    walsh = torch.ones(1, 1, dtype=torch.float64)
    for _ in range(6):
        walsh = torch.cat([torch.cat([walsh, walsh], 1), torch.cat([walsh, -walsh], 1)])
    dictionary = torch.cat([torch.eye(64, dtype=torch.float64), walsh / 8], 1)
    return dictionary, alista.coherence(alista.weights(dictionary), dictionary)


def test_alista_converges_linearly_as_its_theorem_says() -> None:
    """Thresholds of mu times the largest error give no wrong atom, and errors that shrink by mu (2 s - 1) a layer."""
    dictionary, mu = incoherent()
    assert mu == pytest.approx(1 / 8)
    active, count, layers = 3, 40, 12
    draw = torch.Generator().manual_seed(3)
    codes = torch.zeros(128, count, dtype=torch.float64)
    for column in range(count):
        chosen = torch.randperm(128, generator=draw)[:active]
        codes[chosen, column] = 2 * torch.randn(active, generator=draw, dtype=torch.float64)
    bound = float(codes.abs().sum(0).max())
    weights = alista.weights(dictionary)
    answer, gram = weights @ dictionary @ codes, weights @ dictionary
    h = torch.zeros_like(codes)
    for _ in range(layers):
        h = alista.step(h, answer, gram, 1.0, mu * bound, torch.zeros(1), signed=True)
        bound *= mu * (2 * active - 1)
        assert not h[codes == 0].any()
        assert float((h - codes).abs().sum(0).max()) <= bound + 1e-12
    assert bound < 0.05 < float(codes.abs().sum(0).max())


def test_each_step_of_periodic_sketched_ista_descends_what_it_sees() -> None:
    draw = torch.Generator().manual_seed(4)
    dictionary = torch.rand(12, 7, generator=draw, dtype=torch.float64)
    sketch = torch.rand(4, 12, generator=draw, dtype=torch.float64)
    x = torch.rand(12, 9, generator=draw, dtype=torch.float64)
    algorithm = psista.Psista(12, (4, 3), period=4)
    network = Unfolded(algorithm, 12, Bank.declared(algorithm.parameters(12, dictionary, sketch), 12))
    with torch.no_grad():
        layers, states = [network.bank.layer(k) for k in range(12)], network.trajectory(x)
        assert ["sketch" in layer for layer in layers] == [True, True, True, False] * 3
        assert [layer.get("sketched", layer.get("dictionary")).shape[0] for layer in layers] == [4, 4, 4, 12] * 3
        for layer, (before, after) in zip(layers, itertools.pairwise(states), strict=True):
            costs = [algorithm.objective(x, h, layer) for h in (before, after)]
            assert costs[1] <= costs[0] + 1e-12
        whole = [float(ista.objective(h, x, dictionary, 0.02)) for h in states]
    assert whole[-1] < 0.25 * whole[0]


def test_fista_reaches_the_known_codes_as_far_as_its_penalty_allows() -> None:
    """A hundred iterations: -24 dB at a density of a tenth, much less at twice that, more at half of it."""
    for density, least, most in ((0.1, -28, -21), (0.2, -14, -9), (0.05, -37, -27)):
        dictionary, codes, x = toy(500, density, 0)
        assert least < nmse_db(fista.infer(x, dictionary, 100, 0.02, signed=True), codes) < most


def trained(network: Unfolded, steps: int, rate: float, shape: tuple[int, int] = SHAPE) -> None:
    """Adam on the relative squared error of the codes, at a rate that falls to zero."""
    optimiser = torch.optim.Adam(network.parameters(), rate)
    for step in range(steps):
        optimiser.param_groups[0]["lr"] = rate * (1 - step / steps)
        _, codes, x = toy(64, 0.1, step + 1, shape)
        loss = (network.trajectory(x)[-1] - codes).square().sum() / codes.square().sum()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()


def test_twenty_trained_numbers_are_worth_a_hundred_iterations() -> None:
    """ALISTA of ten layers, -23 dB after a second of training; ten iterations of ISTA and FISTA are far behind."""
    dictionary, codes, x = toy(1000, 0.1, 0)
    algorithm = Alista(50, (60, 40), 0.15, signed=True)
    network = Unfolded(algorithm, 10, Bank.declared(algorithm.parameters(10, dictionary), 10))
    assert sum(p.numel() for p in network.parameters()) == 20
    trained(network, 60, 0.07)
    with torch.no_grad():
        assert nmse_db(network.trajectory(x)[-1], codes) < -20
    assert nmse_db(ista.infer(x, dictionary, 10, 0.02, signed=True), codes) > -6
    assert nmse_db(fista.infer(x, dictionary, 10, 0.02, signed=True), codes) > -12


def test_three_searched_numbers_are_worth_a_hundred_iterations() -> None:
    """HyperLISTA of ten layers: -28 dB, searched on a hundred codes and measured on others, also sparser ones."""
    dictionary, codes, x = toy(100, 0.1, 5)

    def error(logarithms: np.ndarray) -> float:
        return nmse_db(hyperlista.infer(x, dictionary, 10, tuple(np.exp(logarithms)), signed=True), codes)

    begin = np.log([0.03, 0.01, 0.1])
    simplex = begin + np.vstack([np.zeros(3), np.eye(3)])
    options = {"initial_simplex": simplex, "maxfev": 50}
    found = np.exp(minimize(error, begin, method="Nelder-Mead", options=options).x)
    for density, most in ((0.1, -22.0), (0.05, -29.0)):
        _, codes, x = toy(1000, density, 0)
        assert nmse_db(hyperlista.infer(x, dictionary, 10, tuple(found), signed=True), codes) < most


def test_trained_lista_beats_the_iterations_that_it_begins_as() -> None:
    shape = 20, 30
    dictionary, codes, x = toy(500, 0.1, 0, shape)
    algorithm = lista.Lista(20, (20, 10), 0.1, signed=True)
    network = Unfolded(algorithm, 6, Bank.declared(algorithm.parameters(6, dictionary), 6))
    begin = nmse_db(ista.infer(x, dictionary, 6, 0.1, signed=True), codes)
    trained(network, 200, 6e-3, shape)
    with torch.no_grad():
        assert nmse_db(network.trajectory(x)[-1], codes) < begin - 3


def test_thresholds_of_hyperlista_follow_the_level_and_silence_stays_silent() -> None:
    dictionary, x = (tensor.double() for tensor in toy(20, 0.1, 0)[::2])
    constants = (0.04, 0.007, 0.09)
    whole = hyperlista.infer(x, dictionary, 8, constants, signed=True)
    torch.testing.assert_close(hyperlista.infer(100 * x, dictionary, 8, constants, signed=True), 100 * whole)
    assert not hyperlista.infer(0 * x, dictionary, 8, constants, signed=True).any()


def test_blocks_of_unequal_size_are_refused() -> None:
    for atoms, blocks in (((4, 4), 3), ((4, 3), 1), ((2, 6), 2), ((2, 2), 4), ((2, 2), 0)):
        if atoms == (2, 6):
            assert hyperlista.HyperlistaAbt(5, atoms, blocks=blocks).groups == 4
            continue
        with pytest.raises(ValueError, match="equal blocks"):
            hyperlista.HyperlistaAbt(5, atoms, blocks=blocks)
    assert math.isclose(alista.selected(2, 0.012), 0.036) and alista.selected(50, 0.012) == alista.MOST_SELECTED
