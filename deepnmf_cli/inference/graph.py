"""Pairwise Markov random fields over discrete variables (6)-(7): the graph, its potentials, its messages.

    p(h | x)  proportional to  exp( sum_(i,j) psi_ij(h_i, h_j) + sum_i theta_i(h_i) )

Shapes: E edges, V nodes with n states each, any batch dimensions "..." in front.

    potentials  psi    (..., E, n, n)  finite; psi[e, a, b] belongs to h_i = a, h_j = b for edge e = (i, j)
    evidence    theta  (..., V, n)     sum_d psi_id(h_i, x_d), what the observations say about each node
    messages    log m  (..., 2E, n)    log m_{j->i}(h_i) in row e, log m_{i->j}(h_j) in row E + e; sums of m are 1

Batch dimensions broadcast, so one set of potentials may serve many observations. Nodes with fewer than n states, and
nodes whose value is known, get evidence -inf for the states they cannot have. Potentials must be finite: mean field
does not allow impossible pairs, since its expectation of psi would be -inf; large negative numbers have that effect.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from deepnmf_cli.inference.algorithm import Algorithm, Parameter, Parameters


@dataclass(frozen=True, eq=False)
class Graph:
    """Undirected edges between nodes 0 .. nodes - 1: `edges` (2, E) of int64, each pair once, no node with itself.

    Raises ValueError for anything else.
    """

    nodes: int
    edges: Tensor

    def __post_init__(self) -> None:
        if self.edges.dim() != 2 or self.edges.shape[0] != 2 or self.edges.dtype != torch.int64:
            raise ValueError(f"edges must be (2, E) of int64, not {tuple(self.edges.shape)} of {self.edges.dtype}")
        if self.edges.numel() and not 0 <= self.edges.min() <= self.edges.max() < self.nodes:
            raise ValueError(f"edges name nodes outside 0 .. {self.nodes - 1}")
        if (self.edges[0] == self.edges[1]).any():
            raise ValueError("an edge joins a node to itself")
        if self.edges.sort(0).values.unique(dim=1).shape[1] != self.edges.shape[1]:
            raise ValueError("two edges join the same pair of nodes; add their potentials instead")

    @classmethod
    def grid(cls, rows: int, columns: int) -> "Graph":
        """Return the graph of neighbours on a rectangle, with nodes numbered row by row; one row is a chain."""
        index = torch.arange(rows * columns).reshape(rows, columns)
        across = torch.stack([index[:, :-1].flatten(), index[:, 1:].flatten()])
        down = torch.stack([index[:-1].flatten(), index[1:].flatten()])
        return cls(rows * columns, torch.cat([across, down], 1))

    @classmethod
    def complete(cls, nodes: int) -> "Graph":
        """Return the graph with every pair i < j, in the order of `torch.triu_indices`."""
        return cls(nodes, torch.triu_indices(nodes, nodes, 1))

    @property
    def size(self) -> int:
        """Number of edges (E); there are twice as many messages."""
        return self.edges.shape[1]

    @property
    def targets(self) -> Tensor:
        """(2E,): the node that each message goes to."""
        return self.edges.flatten()

    @property
    def sources(self) -> Tensor:
        """(2E,): the node that each message comes from."""
        return self.edges.flip(0).flatten()

    def reverse(self, messages: Tensor) -> Tensor:
        """(..., 2E, n) -> (..., 2E, n): in the row of each message the message in the opposite direction."""
        return messages.roll(self.size, -2)

    def directed(self, potentials: Tensor) -> Tensor:
        """(..., E, n, n) -> (..., 2E, n, n): in the row of each message psi[state of target, state of source]."""
        return torch.cat([potentials, potentials.mT], -3)

    def per_message(self, value: Tensor | float) -> Tensor | float:
        """A setting per edge (..., E) as one per message (..., 2E); numbers and scalar tensors hold for all."""
        if not isinstance(value, Tensor) or value.dim() == 0:
            return value
        value = value.expand(*value.shape[:-1], self.size)
        return torch.cat([value, value], -1)


def start(evidence: Tensor, potentials: Tensor) -> Tensor:
    """Return uniform messages (..., 2E, n), which carry no information."""
    *batch, edges, states, _ = potentials.shape
    batch = torch.broadcast_shapes(tuple(batch), evidence.shape[:-2])
    return (-evidence.new_tensor(states).log()).expand(*batch, 2 * edges, states)


def fields(messages: Tensor, evidence: Tensor, graph: Graph) -> Tensor:
    """Unnormalised log beliefs theta_i + sum_j log m_{j->i} (12), (23): (..., V, n)."""
    batch = torch.broadcast_shapes(messages.shape[:-2], evidence.shape[:-2])
    evidence = evidence.expand(*batch, *evidence.shape[-2:])
    return evidence.index_add(-2, graph.targets, messages.expand(*batch, *messages.shape[-2:]))


def log_beliefs(messages: Tensor, evidence: Tensor, graph: Graph) -> Tensor:
    """Log b_i(h_i), normalised (11), (21): (..., V, n)."""
    return fields(messages, evidence, graph).log_softmax(-1)


def readout(messages: Tensor, evidence: Tensor, graph: Graph) -> Tensor:
    """Beliefs b_i(h_i), the estimates of the marginals p(h_i | x): (..., V, n), which sum to 1 over states."""
    return fields(messages, evidence, graph).softmax(-1)


@dataclass(frozen=True)
class GraphMessages(Algorithm[Tensor, Tensor]):
    """Base class of algorithms that pass messages between nodes with n states on one graph.

    Evidence is x (N, D), from which theta = A x + c is computed; the messages (N, 2E, n) are the state. The last
    `shown` nodes are read out and have two states: speech or noise dominates.
    """

    graph: Graph
    inputs: int
    """Number of observed values (D)."""
    states: int = 2
    """Number of states of a node (n)."""
    shown: int = 1

    def parameters(self, iterations: int) -> dict[str, Parameter]:
        """`potentials` (E, n, n) of every iteration, `evidence` (V n, D) and `bias` (V, n) also of the readout."""
        nodes, n, every = self.graph.nodes, self.states, range(iterations + 1)
        spread = (2 * self.graph.size / nodes) ** -0.5  # for the average number of neighbours of a node
        return {
            "potentials": Parameter(range(iterations), lambda _: spread * torch.randn(self.graph.size, n, n)),
            "evidence": Parameter(every, lambda _: torch.randn(nodes * n, self.inputs) / self.inputs**0.5),
            "bias": Parameter(every, lambda _: torch.zeros(nodes, n)),
        }

    def theta(self, evidence: Tensor, parameters: Parameters) -> Tensor:
        """Return the evidence theta for each node, (N, V, n); -inf for states that the nodes read out do not have."""
        theta = (evidence @ parameters["evidence"].mT).unflatten(-1, (-1, self.states)) + parameters["bias"]
        forbidden = torch.zeros(self.graph.nodes, self.states, dtype=torch.bool, device=theta.device)
        forbidden[-self.shown :, 2:] = True
        return theta.masked_fill(forbidden, -torch.inf)

    def start(self, evidence: Tensor, parameters: Parameters) -> Tensor:
        potentials = parameters["potentials"]
        return start(self.theta(evidence, parameters), potentials)

    def readout(self, evidence: Tensor, state: Tensor, parameters: Parameters) -> Tensor:
        """b(1) of the last nodes, (N, shown)."""
        return readout(state, self.theta(evidence, parameters), self.graph)[..., -self.shown :, 1]


def fold(evidence: Tensor, links: Tensor, potentials: Tensor, observed: Tensor) -> Tensor:
    """Evidence with observations added: theta_i(h_i) + sum_d psi_id(h_i, x_d), the last sum of (7).

    Args:
        evidence: (..., V, n), zeros if there is none yet.
        links: (D,) of int64, the hidden node i of each link between a hidden and a visible variable.
        potentials: (..., D, n, N), psi_id for N values of the visible variable.
        observed: (..., D) of int64 in 0 .. N - 1, the value of each link's visible variable.

    Returns: (..., V, n).
    """
    batch = torch.broadcast_shapes(evidence.shape[:-2], potentials.shape[:-3], observed.shape[:-1])
    links_count, states, values = potentials.shape[-3:]
    potentials = potentials.expand(*batch, links_count, states, values)
    index = observed[..., None, None].expand(*batch, links_count, states, 1)
    said = potentials.gather(-1, index).squeeze(-1)
    return evidence.expand(*batch, *evidence.shape[-2:]).index_add(-2, links, said)


def tree_probabilities(graph: Graph) -> Tensor:
    """Return the probability that each edge of a connected graph belongs to a uniformly drawn spanning tree, (E,) of
    float64.

    It is the effective resistance between the edge's ends (Kirchhoff): 1 for every edge of a tree, and V - 1 in total.
    """
    i, j = graph.edges
    incidence = torch.zeros(graph.size, graph.nodes, dtype=torch.float64, device=i.device)
    incidence.scatter_(1, i[:, None], 1).scatter_(1, j[:, None], -1)
    return (incidence @ torch.linalg.pinv(incidence.mT @ incidence) * incidence).sum(1)
