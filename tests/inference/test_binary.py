"""Binary units: the layer forms against the graph functions, their limits, and the fields they stand for."""

import itertools
from decimal import Decimal

import numpy as np
import pytest
import torch

from deepnmf_cli.inference import belief, binary
from deepnmf_cli.inference.graph import Graph, readout
from tests.reference import field_enumeration, power_mean_decimal
from tests.reference import units as twins

ALPHAS = [0.0, 1e-9, 1e-3, 0.05, 0.5, 1.0, 3.0]


def field_of_units(units=5, scale=1.0, seed=0, tree=False):
    draw = torch.Generator().manual_seed(seed)
    couplings = scale * torch.randn(units, units, generator=draw, dtype=torch.float64).triu(1)
    if tree:
        couplings = couplings.triu(1) * torch.diag(torch.ones(units - 1), 1)
    return couplings + couplings.T, torch.randn(units, generator=draw, dtype=torch.float64)


@pytest.mark.parametrize("alpha", ALPHAS)
def test_message_is_log1p_of_b_expm1(alpha):
    draw = torch.Generator().manual_seed(0)
    log_odds, coupling = (3 * torch.randn(200, generator=draw, dtype=torch.float64) for _ in range(2))
    b = log_odds.sigmoid()
    expected = torch.log1p(b * torch.expm1(alpha * coupling)) / alpha if alpha > 1e-6 else b * coupling
    torch.testing.assert_close(binary.message(log_odds, coupling, alpha), expected, rtol=1e-7, atol=1e-11)


@pytest.mark.parametrize("dtype, eps", [(torch.float32, 6e-8), (torch.float64, 1.1e-16)])
@pytest.mark.parametrize("alpha", [0.01, 0.3, 1.0])
def test_message_loses_no_precision_for_sure_units_and_strong_couplings(alpha, dtype, eps):
    alpha = torch.tensor(alpha, dtype=dtype).item()
    sizes = torch.tensor([-500, -40, -5, -1, -0.3, -1e-3, 0, 1e-3, 0.3, 1, 5, 40, 500]).to(dtype).tolist()
    for log_odds, coupling in itertools.product(sizes, repeat=2):
        weights = [1, Decimal(log_odds).exp()]
        expected = power_mean_decimal.log_power_mean([0, coupling], weights, alpha)
        sent = binary.message(*torch.tensor([log_odds, coupling], dtype=dtype), alpha).item()
        assert abs(sent - expected) <= 20 * eps * abs(coupling)
        assert min(0, coupling) <= sent * (1 - 4 * eps) and sent <= max(0, coupling) * (1 + 4 * eps)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("alpha", [0.0, 1e-4, 1.0])
def test_units_that_are_surely_off_or_on_send_nothing_or_all(alpha, dtype):
    coupling = torch.tensor([-500, -1, -1e-3, 0, 2, 500], dtype=dtype, requires_grad=True)
    settings = torch.tensor(alpha, dtype=dtype, requires_grad=True)
    for odds, share in ((-torch.inf, 0), (torch.inf, 1)):
        log_odds = torch.full((6,), odds, dtype=dtype, requires_grad=True)
        sent = binary.message(log_odds, coupling, settings)
        torch.testing.assert_close(sent, share * coupling)
        gradients = torch.autograd.grad(sent.sum(), [coupling, log_odds, settings])
        assert all(gradient.isfinite().all() for gradient in gradients)
        torch.testing.assert_close(gradients[0], torch.full((6,), float(share), dtype=dtype))


@pytest.mark.parametrize("alpha", [0.0, 1e-8, 0.05, 0.5, 1.0])
def test_messages_and_fields_have_the_right_derivatives(alpha):
    draw = torch.Generator().manual_seed(0)
    log_odds, couplings, bias = (torch.randn(*n, generator=draw, dtype=torch.float64) for n in ((2, 3), (4, 3), (2, 4)))
    setting = torch.full((4, 1), alpha, dtype=torch.float64)
    arguments = [x.requires_grad_() for x in (log_odds, couplings, bias, setting)]
    assert torch.autograd.gradcheck(binary.field, arguments)
    assert torch.autograd.gradgradcheck(binary.field, arguments)


def test_mean_field_layer_is_a_sigmoid_layer_bit_for_bit():
    couplings, bias = field_of_units()
    log_odds = torch.randn(7, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    layer = torch.nn.functional.linear(log_odds.sigmoid(), couplings) + bias
    assert torch.equal(binary.field(log_odds, couplings, bias, 0.0), layer)
    sent_one_by_one = binary.field(log_odds, couplings, bias, torch.tensor(0.0))
    torch.testing.assert_close(sent_one_by_one, layer)


def test_layers_need_neither_square_nor_batched_couplings():
    draw = torch.Generator().manual_seed(0)
    log_odds, couplings = torch.randn(3, 2, 6, generator=draw), torch.randn(4, 6, generator=draw)
    alpha = torch.rand(4, 1, generator=draw)
    found = binary.field(log_odds, couplings, torch.zeros(4), alpha)
    expected = torch.zeros(3, 2, 4)
    for i in range(4):
        for j in range(6):
            expected[..., i] += binary.message(log_odds[..., j], couplings[i, j], alpha[i, 0].item())
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("alpha", [0.0, 1e-6, 0.5, 1.0, 1.7])
def test_messages_of_units_equal_those_of_the_graph(alpha):
    couplings, bias = field_of_units()
    graph, potentials, evidence = twins.to_potentials(couplings, bias)
    messages, units = belief.start(evidence, potentials), torch.zeros_like(couplings)
    for _ in range(4):
        messages = belief.step(messages, evidence, potentials, graph, alpha)
        units = twins.messages_step(units, couplings, bias, alpha)
    odds = messages[..., 1] - messages[..., 0]
    torch.testing.assert_close(units[graph.targets, graph.sources], odds, rtol=1e-9, atol=1e-11)
    beliefs = readout(messages, evidence, graph)[..., 1]
    torch.testing.assert_close((units.sum(-1) + bias).sigmoid(), beliefs, rtol=1e-9, atol=1e-11)


def test_messages_of_units_are_exact_on_a_chain():
    couplings, bias = field_of_units(6, 3.0, tree=True)
    messages = torch.zeros_like(couplings)
    for _ in range(6):
        messages = twins.messages_step(messages, couplings, bias)
    graph, potentials, evidence = twins.to_potentials(couplings, bias)
    single, _ = field_enumeration.marginals(graph.edges.T.tolist(), potentials.numpy(), evidence.numpy())
    np.testing.assert_allclose((messages.sum(-1) + bias).sigmoid().numpy(), single[:, 1], atol=1e-10)


def test_general_binary_potentials_become_units_with_the_same_posterior():
    graph, draw = Graph.grid(2, 3), torch.Generator().manual_seed(0)
    potentials = torch.randn(graph.size, 2, 2, generator=draw, dtype=torch.float64)
    evidence = torch.randn(2, 6, 2, generator=draw, dtype=torch.float64)
    couplings, bias = twins.from_potentials(graph, potentials, evidence)
    assert torch.equal(couplings, couplings.mT) and not couplings.diagonal().any() and bias.shape == (2, 6)
    whole, pairs, local = twins.to_potentials(couplings, bias)
    for row in range(2):
        expected, _ = field_enumeration.marginals(graph.edges.T.tolist(), potentials.numpy(), evidence[row].numpy())
        found, _ = field_enumeration.marginals(whole.edges.T.tolist(), pairs.numpy(), local[row].numpy())
        np.testing.assert_allclose(found, expected, atol=1e-12)
    again = twins.from_potentials(*twins.to_potentials(couplings, bias))
    torch.testing.assert_close(again, (couplings, bias))


def test_softmaxout_is_a_log_sum_and_its_limit_a_maximum():
    draw = torch.Generator().manual_seed(0)
    log_b, evidence = (torch.randn(4, n, 3, generator=draw, dtype=torch.float64) for n in (5, 2))
    potentials = torch.randn(2, 5, 3, 3, generator=draw, dtype=torch.float64)
    summed, largest = evidence.clone(), evidence.clone()
    for i in range(2):
        for j in range(5):
            terms = potentials[i, j] + log_b[:, None, j]
            summed[:, i] += terms.exp().sum(-1).log()
            largest[:, i] += terms.amax(-1)
    torch.testing.assert_close(twins.softmaxout(log_b, potentials, evidence), summed)
    torch.testing.assert_close(twins.softmaxout(log_b, potentials, evidence, 0.0), largest)
    torch.testing.assert_close(twins.softmaxout(log_b, potentials, evidence, 1e-8), largest, rtol=0, atol=1e-6)


@pytest.mark.parametrize("temperature", [0.0, 0.5, 1.0])
def test_softmaxout_without_normalisation_has_the_beliefs_of_one_with(temperature):
    draw = torch.Generator().manual_seed(0)
    log_b = torch.randn(4, 5, 3, generator=draw, dtype=torch.float64)
    potentials, evidence = 500 * torch.randn(2, 5, 5, 3, 3, generator=draw, dtype=torch.float64).sign(), log_b
    raw = normalised = log_b
    for layer in potentials:
        raw = twins.softmaxout(raw, layer, evidence, temperature)
        normalised = twins.softmaxout(normalised, layer, evidence, temperature).log_softmax(-1)
    torch.testing.assert_close(raw.softmax(-1), normalised.softmax(-1), rtol=0, atol=1e-10)


@pytest.mark.parametrize("alpha", ALPHAS[1:])
def test_units_with_two_states_are_softmaxout_for_alpha_one_only(alpha):
    """With one state's potentials zero, the difference of the two log beliefs is the sum of log-odds messages."""
    couplings, bias = field_of_units()
    log_odds = torch.randn(5, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    potentials = torch.zeros(5, 5, 2, 2, dtype=torch.float64)
    potentials[..., 1, 1] = couplings
    log_b = torch.stack([torch.zeros_like(bias), log_odds], -1)
    out = twins.softmaxout(log_b, potentials, torch.stack([torch.zeros_like(bias), bias], -1))
    close = torch.allclose(out[:, 1] - out[:, 0], binary.field(log_odds, couplings, bias, alpha))
    assert close == (alpha == 1)
