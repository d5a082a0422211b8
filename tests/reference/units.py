"""Units in {0, 1} by plain sums over all pairs, and their translation into potentials of a graph: slow twins."""

import torch
from torch import Tensor

from deepnmf_cli.inference.binary import message
from deepnmf_cli.inference.graph import Graph


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
