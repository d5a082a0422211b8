"""Units h_i in {0, 1}: layers that mean field, belief propagation and what lies between become (18)-(20), (29)-(30).

    p(h | x)  proportional to  exp( 1/2 h^T W h + h^T (A x + c) ),    W symmetric, no diagonal             (18)-(19)

The state is the log odds u_i = log(b_i(1)/b_i(0)) of the beliefs, b_i(1) = sigmoid(u_i): no precision is lost when a
unit is nearly sure. -inf is a unit that is surely 0, the paper's q^0 = 0. `bias` stands for A x + c, (..., I);
couplings W are (I, J), from J units to I, and need be neither square nor symmetric once layers are untied.

Memory of every function but the mean-field case: one number per pair of units and batch entry.
"""

import torch
from torch import Tensor
from torch.nn.functional import linear, logsigmoid

from deepnmf_cli.inference.graph import Graph
from deepnmf_cli.inference.power_mean import SMALL, small_log_mean


def message(log_odds: Tensor, coupling: Tensor, alpha: Tensor | float = 1.0) -> Tensor:
    """Log odds that unit j sends over a coupling w: log(1 + b_j expm1(alpha w))/alpha, where b_j = sigmoid(u_j).

    alpha = 1 is belief propagation, alpha = 0 mean field's b_j w. Computed as softplus(u + alpha w) - softplus(u),
    which neither overflows nor cancels. It lies between 0 and w, and grows with b_j (for w > 0), w and alpha.

    Args:
        log_odds: u, any shape, infinities allowed.
        coupling: w, finite, broadcastable.
        alpha: a number or a broadcastable tensor.
    """
    if not isinstance(alpha, Tensor) and alpha == 0:
        return torch.sigmoid(log_odds) * coupling
    alpha = torch.as_tensor(alpha, dtype=coupling.dtype, device=coupling.device)
    small = (alpha * coupling).abs() <= SMALL
    a_small, a_large = torch.where(small, alpha, 0), torch.where(small, 1, alpha)
    weighted = torch.sigmoid(log_odds) * coupling
    near = small_log_mean(weighted.unsqueeze(-1), (a_small * coupling).unsqueeze(-1), a_small)
    # softplus(u + z) - softplus(u) = z + softplus(-u - z) - softplus(-u): of the two, the one with small terms
    z, sure = a_large * coupling, log_odds > 0
    u, shift = torch.where(sure, -log_odds, log_odds), torch.where(sure, -z, z)
    far = torch.where(sure, z, 0) + logsigmoid(-u) - logsigmoid(-u - shift)
    return torch.where(small, near, far / a_large)


def field(log_odds: Tensor, couplings: Tensor, bias: Tensor, alpha: Tensor | float = 1.0) -> Tensor:
    """New log odds u_i = sum_j message_ij + bias_i: (..., I); the incoming message is not taken out.

    For the number alpha = 0 a sigmoid network's W b + A x + c (20), a matrix product; for alpha = 1 a layer of belief
    propagation, sum_j log1p(b_j expm1(W_ij)) + A x + c, without the division of (22).

    Args:
        log_odds: (..., J).
        couplings: (I, J).
        bias: (..., I).
        alpha: a number, or a tensor that broadcasts to (I, J), such as (I, 1): one per receiving unit.
    """
    if not isinstance(alpha, Tensor) and alpha == 0:
        return linear(torch.sigmoid(log_odds), couplings) + bias
    return message(log_odds.unsqueeze(-2), couplings, alpha).sum(-1) + bias


def messages_step(messages: Tensor, couplings: Tensor, bias: Tensor, alpha: Tensor | float = 1.0) -> Tensor:
    """All messages (..., V, V) of a field of V units anew, each without what came the other way, as (22) and (27) ask.

    messages[i, j] are the log odds that j sends to i, 0 at the start; those without a coupling stay 0. Exact after as
    many steps as the graph is wide if the couplings form a tree and alpha = 1. The beliefs' log odds are
    `messages.sum(-1) + bias`.
    """
    log_odds = messages.sum(-1) + bias
    return message(log_odds.unsqueeze(-2) - alpha * messages.mT, couplings, alpha)


def softmaxout(log_b: Tensor, potentials: Tensor, evidence: Tensor, temperature: float = 1.0) -> Tensor:
    """Units with n states in the unnormalised log form: (29) for temperature 1, (30) for temperature 0.

    log b_i(h_i) = sum_j T log sum_{h_j} exp( (psi_ij(h_i, h_j) + log b_j(h_j))/T ) + evidence_i(h_i),

    a maximum over h_j for T = 0. Softmax over states makes beliefs of it; a constant added to all states of a unit
    changes none of them, which is why no layer needs to normalise.

    Args:
        log_b: (..., J, n), not necessarily normalised.
        potentials: (I, J, n, n), psi[i, j, h_i, h_j].
        evidence: (..., I, n).
        temperature: T >= 0.

    Returns: (..., I, n).
    """
    terms = potentials + log_b.unsqueeze(-3).unsqueeze(-2)
    joined = terms.amax(-1) if temperature == 0 else temperature * (terms / temperature).logsumexp(-1)
    return joined.sum(-2) + evidence


def to_potentials(couplings: Tensor, bias: Tensor) -> tuple[Graph, Tensor, Tensor]:
    """The field (18) of V units as complete graph, potentials (..., E, 2, 2) and evidence (..., V, 2)."""
    graph = Graph.complete(couplings.shape[-1])
    pairs = couplings[..., graph.edges[0], graph.edges[1]]
    nothing = torch.zeros_like(pairs)
    rows = [torch.stack([nothing, nothing], -1), torch.stack([nothing, pairs], -1)]
    return graph, torch.stack(rows, -2), torch.stack([torch.zeros_like(bias), bias], -1)


def from_potentials(graph: Graph, potentials: Tensor, evidence: Tensor) -> tuple[Tensor, Tensor]:
    """Couplings (..., V, V) and bias (..., V) with the posterior of potentials (..., E, 2, 2), evidence (..., V, 2).

    W_ij = psi(1,1) - psi(1,0) - psi(0,1) + psi(0,0); the rest of an edge goes to the biases of its ends. What is lost
    is a constant, which no belief depends on.
    """
    i, j = graph.edges
    pair = potentials[..., 1, 1] - potentials[..., 1, 0] - potentials[..., 0, 1] + potentials[..., 0, 0]
    couplings = pair.new_zeros(*pair.shape[:-1], graph.nodes, graph.nodes)
    couplings[..., i, j], couplings[..., j, i] = pair, pair
    neither = potentials[..., 0, 0]
    ends = torch.cat([potentials[..., 1, 0] - neither, potentials[..., 0, 1] - neither], -1)
    bias = evidence[..., 1] - evidence[..., 0]
    batch = torch.broadcast_shapes(bias.shape[:-1], ends.shape[:-1])
    return couplings, bias.expand(*batch, -1).index_add(-1, graph.targets, ends.expand(*batch, -1))
