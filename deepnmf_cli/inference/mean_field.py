"""Mean field (8)-(17): the posterior approximated by independent variables, q(h) = prod_i q_i(h_i).

Shapes and terms are those of `deepnmf_cli.inference.graph`, which also has the start and the readout. The state is the
messages, as in `deepnmf_cli.inference.belief`, whose messages with alpha = 0 are these.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from deepnmf_cli.inference.algorithm import Descent, Parameters
from deepnmf_cli.inference.graph import Graph, GraphMessages, log_beliefs, readout, start
from deepnmf_cli.inference.schedule import mix, sequential


def new_messages(messages: Tensor, evidence: Tensor, potentials: Tensor, graph: Graph) -> Tensor:
    """Log m_{j->i}(h_i) = sum_{h_j} q_j(h_j) psi_ij(h_i, h_j) (13), normalised: (..., 2E, n)."""
    q = readout(messages, evidence, graph)[..., graph.sources, :]
    return (graph.directed(potentials) @ q.unsqueeze(-1)).squeeze(-1).log_softmax(-1)


def step(
    messages: Tensor,
    evidence: Tensor,
    potentials: Tensor,
    graph: Graph,
    gamma: Tensor | float = 1.0,
    power: Tensor | float = 0.0,
) -> Tensor:
    """One scheduled update of the messages, (14)-(17); differentiable in every tensor.

    Args:
        messages, evidence, potentials: see `deepnmf_cli.inference.graph`.
        gamma: weight of each new message, in [0, 1]: a number or (..., 2E).
        power: exponent of the power mean of old and new messages: a number or (..., 2E). With 0, the geometric mean,
            the free energy falls for every gamma if only the messages to one node (or to nodes without an edge between
            them) are updated, all those to a node with the same gamma.
    """
    return mix(messages, new_messages(messages, evidence, potentials, graph), gamma, power)


def free_energy(log_q: Tensor, evidence: Tensor, potentials: Tensor, graph: Graph) -> Tensor:
    """F(q) = -sum_i E_q[theta_i] - sum_(i,j) E_q[psi_ij] - H(q) = KL(q || p) - log Z, the negative of the bound (9).

    log_q (..., V, n) is normalised over states. The result, (...,), is at least -log Z for every q. A state with
    evidence -inf must have log_q -inf, as it has after any update, and contributes nothing.
    """
    impossible = evidence == -torch.inf
    q = log_q.exp()
    local = q * (log_q.masked_fill(impossible, 0) - evidence.masked_fill(impossible, 0))
    i, j = graph.edges
    pairs = q[..., i, :, None] * potentials * q[..., j, None, :]
    return local.sum((-2, -1)) - pairs.sum((-3, -2, -1))


def objective(messages: Tensor, evidence: Tensor, potentials: Tensor, graph: Graph) -> Tensor:
    """Return the free energy of the beliefs that the messages define: (...,)."""
    return free_energy(log_beliefs(messages, evidence, graph), evidence, potentials, graph)


@torch.no_grad()
def infer(
    evidence: Tensor, potentials: Tensor, graph: Graph, schedule: Iterable[Tensor | float], power: float = 0.0
) -> Tensor:
    """Messages (..., 2E, n) after one step per entry of `schedule`, from uniform ones."""
    messages = start(evidence, potentials)
    for gamma in schedule:
        messages = step(messages, evidence, potentials, graph, gamma, power)
    return messages


@dataclass(frozen=True)
class MeanField(GraphMessages, Descent[Tensor, Tensor]):
    """Mean field as an algorithm: a step is one sweep over all nodes (16), which never raises the free energy."""

    def step(self, evidence: Tensor, state: Tensor, parameters: Parameters) -> Tensor:
        theta = self.theta(evidence, parameters)
        for gamma in sequential(self.graph):
            state = step(state, theta, parameters["potentials"], self.graph, gamma.to(state))
        return state

    def objective(self, evidence: Tensor, state: Tensor, parameters: Parameters) -> Tensor:
        """The free energy (8), one number per example."""
        return objective(state, self.theta(evidence, parameters), parameters["potentials"], self.graph)
