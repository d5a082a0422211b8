"""Belief propagation (21)-(25) and the family of messages that it shares with mean field (26)-(28).

One formula with two parameters, alpha and the temperature T, for the message from j to i:

    m_{j->i}(h_i)  =  ( sum_{h_j} [ b_j(h_j) (exp psi_ij(h_i, h_j) / m_{i->j}(h_j))^alpha ]^(1/T) )^(T/alpha)

up to a factor. It is the power mean with exponent alpha/T of exp(psi)/m with weights b^(1/T).

    alpha       T = 1                                            T = 0
    0           mean field (13)                                  -
    1           sum-product (22)                                 max-product
    1/rho       tree-reweighted, edge appearance rho             tree-reweighted max-product
    otherwise   fractional messages, (27)                        the same with a maximum

Shapes and terms are those of `deepnmf_cli.inference.graph`, which also has the start and the readout. alpha and T are
numbers or tensors, per edge (..., E) or for all edges. `docs/theory/mrf.md` derives all of it.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from deepnmf_cli.inference.algorithm import Parameter, Parameters
from deepnmf_cli.inference.graph import Graph, GraphMessages, fields, log_beliefs, start
from deepnmf_cli.inference.power_mean import log_power_mean
from deepnmf_cli.inference.schedule import GAMMA_LOGIT, mix


def new_messages(
    messages: Tensor,
    evidence: Tensor,
    potentials: Tensor,
    graph: Graph,
    alpha: Tensor | float = 1.0,
    temperature: Tensor | float = 1.0,
) -> Tensor:
    """Return normalised log messages (..., 2E, n) by the formula of the module, continuous at alpha = 0.

    The number temperature = 0 takes the maximum; it needs alpha > 0, and a number alpha <= 0 raises ValueError. If
    temperature is a tensor, it must be positive.
    """
    alpha, temperature = graph.per_message(alpha), graph.per_message(temperature)
    values = graph.directed(potentials) - graph.reverse(messages).unsqueeze(-2)
    log_b = log_beliefs(messages, evidence, graph)[..., graph.sources, :].unsqueeze(-2)
    if not isinstance(temperature, Tensor) and temperature == 0:
        return _largest(values, log_b, alpha).log_softmax(-1)
    alpha, temperature = (x[..., None] if isinstance(x, Tensor) and x.dim() else x for x in (alpha, temperature))
    scale = temperature.unsqueeze(-1) if isinstance(temperature, Tensor) and temperature.dim() else temperature
    return log_power_mean(values, log_b / scale, alpha / temperature).log_softmax(-1)


def _largest(values: Tensor, log_b: Tensor, alpha: Tensor | float) -> Tensor:
    if not isinstance(alpha, Tensor):
        if alpha <= 0:
            raise ValueError(f"the limit of temperature 0 needs alpha > 0, not {alpha}")
    elif alpha.dim():
        alpha = alpha[..., None, None]
    return (log_b / alpha + values).amax(-1)


def step(
    messages: Tensor,
    evidence: Tensor,
    potentials: Tensor,
    graph: Graph,
    alpha: Tensor | float = 1.0,
    temperature: Tensor | float = 1.0,
    gamma: Tensor | float = 1.0,
    power: Tensor | float = 1.0,
) -> Tensor:
    """One scheduled update of the messages, (14)-(15) with (24)-(25) or (27); differentiable in every tensor.

    Args:
        messages, evidence, potentials: see `deepnmf_cli.inference.graph`.
        alpha, temperature: the kind of message, numbers or (..., E).
        gamma: weight of each new message, in [0, 1]: a number or (..., 2E).
        power: exponent of the power mean of old and new messages: a number or (..., 2E). 1 is the arithmetic mean (25).
    """
    new = new_messages(messages, evidence, potentials, graph, alpha, temperature)
    return mix(messages, new, gamma, power)


def _remainders(messages: Tensor, potentials: Tensor) -> Tensor:
    """psi_ij(h_i, h_j) - log m_{j->i}(h_i) - log m_{i->j}(h_j): potentials without the messages, (..., E, n, n)."""
    towards_i, towards_j = messages.chunk(2, -2)
    return potentials - towards_i.unsqueeze(-1) - towards_j.unsqueeze(-2)


def _pairs(messages: Tensor, evidence: Tensor, graph: Graph) -> Tensor:
    log_b = log_beliefs(messages, evidence, graph)
    i, j = graph.edges
    return log_b[..., i, :, None] + log_b[..., j, None, :]


def edge_beliefs(
    messages: Tensor, evidence: Tensor, potentials: Tensor, graph: Graph, alpha: Tensor | float = 1.0
) -> Tensor:
    """b_ij(h_i, h_j) proportional to b_i b_j (exp psi_ij / (m_{j->i} m_{i->j}))^alpha, for T = 1: (..., E, n, n).

    At a fixed point of the messages, the sums over one variable are the belief of the other.
    """
    if isinstance(alpha, Tensor) and alpha.dim():
        alpha = alpha[..., None, None]
    log_b = _pairs(messages, evidence, graph) + alpha * _remainders(messages, potentials)
    return log_b.flatten(-2).softmax(-1).reshape(log_b.shape)


def log_partition(
    messages: Tensor, evidence: Tensor, potentials: Tensor, graph: Graph, alpha: Tensor | float = 1.0
) -> Tensor:
    """Estimate log Z = log sum_h exp(sum psi + sum theta) at a fixed point of the messages, for T = 1: (...,).

        sum_i log sum_{h_i} exp(field_i)  +  sum_(i,j) log M_alpha( exp psi_ij/(m_{j->i} m_{i->j}); weights b_i b_j )

    alpha = 1 gives minus the Bethe free energy, exact on trees; alpha = 0 the lower bound of mean field; alpha = 1/rho,
    with rho from `tree_probabilities`, an upper bound. In general the estimate is minus sum_i F_i +
    sum_(i,j) I_ij/alpha, with the mutual informations I of the edge beliefs; see docs/theory/mrf.md.
    """
    rest = _remainders(messages, potentials).flatten(-2)
    edges = log_power_mean(rest, _pairs(messages, evidence, graph).flatten(-2), alpha)
    return fields(messages, evidence, graph).logsumexp(-1).sum(-1) + edges.sum(-1)


@torch.no_grad()
def infer(
    evidence: Tensor,
    potentials: Tensor,
    graph: Graph,
    schedule: Iterable[Tensor | float],
    alpha: Tensor | float = 1.0,
    temperature: Tensor | float = 1.0,
    power: float = 1.0,
) -> Tensor:
    """Messages (..., 2E, n) after one step per entry of `schedule`, from uniform ones."""
    messages = start(evidence, potentials)
    for gamma in schedule:
        messages = step(messages, evidence, potentials, graph, alpha, temperature, gamma, power)
    return messages


@dataclass(frozen=True)
class BeliefPropagation(GraphMessages):
    """Belief propagation (22), and its relatives, as an algorithm: every step updates all messages, by a trained
    schedule (25) or completely.
    """

    alpha: float = 1.0
    temperature: float = 1.0
    scheduled: bool = False
    """Whether each message has a schedule gamma of its own, whose logits are the parameter `schedule` (2E,)."""
    power: float = 1.0
    """Exponent of the mean of old and new messages (15)."""

    def parameters(self, iterations: int) -> dict[str, Parameter]:
        found = super().parameters(iterations)
        if self.scheduled:
            logits = torch.full((2 * self.graph.size,), GAMMA_LOGIT)
            found["schedule"] = Parameter(range(iterations), lambda _: logits)
        return found

    def step(self, evidence: Tensor, state: Tensor, parameters: Parameters) -> Tensor:
        kind = {"alpha": self.alpha, "temperature": self.temperature, "power": self.power}
        gamma = torch.sigmoid(parameters["schedule"]) if "schedule" in parameters else 1.0
        theta = self.theta(evidence, parameters)
        return step(state, theta, parameters["potentials"], self.graph, **kind, gamma=gamma)
