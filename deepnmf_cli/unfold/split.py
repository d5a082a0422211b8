"""Split back-propagation: the positive and the negative part of a gradient, carried side by side; equations (39)-(45).

A gradient G is stored as a pair of non-negative tensors (P, N) with G = P - N. An operation with Jacobian J turns the
pair of its output into the pair of its input: J^T P and J^T N, each sorted by sign. Where an operation increases with
its argument the parts keep their places, where it decreases they are swapped; for networks of non-negative numbers
every operation does one or the other. This needs only the operations that autograd recorded, so any network can be
split, and what is split is the very network that runs.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.graph import Node, get_gradient_edge

from deepnmf_cli.inference.algorithm import Parameters
from deepnmf_cli.inference.divergence import FLOOR
from deepnmf_cli.inference.wiener import SILENCE
from deepnmf_cli.unfold.network import Unfolded


@dataclass(frozen=True)
class Parts:
    """A gradient as a difference of two tensors >= 0 of its shape."""

    positive: Tensor
    negative: Tensor

    def __add__(self, other: "Parts") -> "Parts":
        return Parts(self.positive + other.positive, self.negative + other.negative)

    @property
    def difference(self) -> Tensor:
        """The gradient itself."""
        return self.positive - self.negative


def sort_by_sign(p: Tensor, n: Tensor) -> Parts:
    """Return the parts of p - n for tensors of any sign: what is negative in one is positive in the other.

    Tensors with entries of one sign are the normal case in non-negative networks, and the cheap one.
    """
    if min(p.min().item(), n.min().item()) >= 0:
        return Parts(p, n)
    if max(p.max().item(), n.max().item()) <= 0:
        return Parts(-n, -p)
    return Parts(p.clamp_min(0) - n.clamp_max(0), n.clamp_min(0) - p.clamp_max(0))


@torch.no_grad()
def pull_back(output: Tensor, parts: Parts, inputs: Sequence[Tensor]) -> list[Parts]:
    """Parts of dE/d(input) for each of `inputs`, from the parts of dE/d(output).

    Args:
        output: what autograd computed from `inputs` while recording.
        parts: of the shape of `output`, both >= 0.
        inputs: tensors that require a gradient; one that `output` does not depend on gets zeros.

    The difference of the parts is the gradient for every differentiable operation on real numbers, and both are
    >= 0. An operation whose Jacobian has both signs in one column is split after its sum, as tightly as it can be.
    Raises TypeError at operations defined in Python (torch.autograd.Function).
    """
    edges = [get_gradient_edge(x) for x in inputs]
    places = {(edge.node, edge.output_nr): index for index, edge in enumerate(edges)}
    found = [Parts(torch.zeros_like(x), torch.zeros_like(x)) for x in inputs]
    root = get_gradient_edge(output)
    waiting = _uses(root.node)
    arrived: dict[Node, dict[int, Parts]] = {root.node: {root.output_nr: parts}}
    ready = [root.node]
    while ready:
        node = ready.pop()
        held = arrived.pop(node, {})
        for place, pair in held.items():
            if (node, place) in places:
                found[places[node, place]] = pair
        images = _images(node, held) if held and node.next_functions else [None] * len(node.next_functions)
        for (below, place), pair in zip(node.next_functions, images, strict=True):
            if below is None:
                continue
            if pair is not None:
                slots = arrived.setdefault(below, {})
                slots[place] = slots[place] + pair if place in slots else pair
            waiting[below] -= 1
            if not waiting[below]:
                ready.append(below)
    return found


def _uses(root: Node) -> Counter:
    """Return how often the result of each recorded operation is used: a node is ready once all of its uses have sent
    parts.
    """
    uses: Counter = Counter()
    seen, stack = {root}, [root]
    while stack:
        for below, _ in stack.pop().next_functions:
            if below is not None:
                uses[below] += 1
                if below not in seen:
                    seen.add(below)
                    stack.append(below)
    return uses


def _images(node: Node, held: dict[int, Parts]) -> list[Parts | None]:
    """Return the parts that one operation passes to each of its arguments, None for arguments without a gradient."""
    run = cast(Callable[..., Any], node)  # torch does not declare that it can be called
    given = [held.get(place) for place in range(len(node._input_metadata))]
    sides = [run(*(pair and getattr(pair, side) for pair in given)) for side in ("positive", "negative")]
    rows = zip(*(s if isinstance(s, tuple) else (s,) for s in sides), node.next_functions, strict=True)
    images = []
    for p, n, (below, place) in rows:
        if p is None or below is None:
            images.append(None)
            continue
        shape = below._input_metadata[place].shape  # a broadcast argument gets the sum, as in autograd's engine
        images.append(sort_by_sign(p.sum_to_size(shape), n.sum_to_size(shape)))
    return images


Readout = Callable[[Tensor, Parameters], tuple[Tensor, Parts]]
"""phi^K and theta^K -> (y, parts of dE/dy); y must be computed by recorded operations."""


def split_gradient(
    network: Unfolded, evidence: Tensor, readout: Readout, fixed: Tensor | None = None
) -> dict[str, Parts]:
    """Parts of dE/dtheta for every trained slot of the bank, named `<name>_<slot>`; tied slots get sums over layers.

    `fixed` is `network.fixed_state(evidence)` if it has been computed already.

    For algorithms whose state is one tensor. All layers run once without recording; then the layers from the output
    down to the lowest trained one run again, recorded, one at a time. Memory: the states of those layers and the record
    of one.
    """
    bank, algorithm, top = network.bank, network.algorithm, network.iterations
    first = network.fixed_layers
    if not any(table.trained for table in bank.ties.values()):
        return {}
    with torch.no_grad():
        fixed = network.fixed_state(evidence) if fixed is None else fixed
        states = [fixed, *network.states(evidence, fixed, first)]
    found: dict[str, Parts] = {}

    def pull_layer(k: int, run: Callable[[Parameters], tuple[Tensor, Parts]], below: Tensor | None) -> Parts:
        """Parts at the state below layer k; those of the layer's trained parameters are added to `found`."""
        parameters = {name: value.detach() for name, value in bank.layer(k).items()}
        names = [name for name in parameters if bank.ties[name].slots[k] in bank.ties[name].trained]
        inputs = [parameters[name].requires_grad_() for name in names] + ([] if below is None else [below])
        with torch.enable_grad():
            output, parts = run(parameters)
        pulled = pull_back(output, parts, inputs)
        for name, pair in zip(names, pulled, strict=False):
            key = f"{name}_{bank.ties[name].slots[k]}"
            found[key] = found[key] + pair if key in found else pair
        return pulled[-1]

    def below(k: int, state: Tensor) -> Tensor | None:
        """`state` where anything trained lies below layer k, as phi^0 depends on the parameters of layer 0."""
        return state.requires_grad_() if k > first or first == 0 else None

    state = states.pop().detach()
    parts = pull_layer(top, lambda parameters: readout(state, parameters), below(top, state))
    for k in range(top - 1, first - 1, -1):
        state = states.pop().detach()
        parts = pull_layer(k, lambda parameters: (algorithm.step(evidence, state, parameters), parts), below(k, state))
    if first == 0:
        pull_layer(0, lambda parameters: (algorithm.start(evidence, parameters), parts), None)
    return found


def wiener_parts(
    models: Tensor, mixture: Tensor, targets: Tensor, weights: Tensor, beta: float = 2.0, offset: float = 0.0
) -> Parts:
    """Parts of dE/d(models) for E = sum_l gamma_l D_beta(S^l | S~^l), S~^l = A^l / B o M: (37) of (34), summed.

    The quotient A^l / B with B = sum_l A^l is treated as one operation, which increases with A^l and decreases with
    every other model. Treated separately, quotient and sum would leave 1/B and A^l / B^2 uncancelled in the parts, and
    steps would be smaller. For beta = 2 and speech alone the parts are M^2 A Abar / B^3 and M S Abar / B^2 for its
    models, M S A / B^2 and M^2 A^2 / B^3 for those of the noise, Abar = B - A.

    Args:
        models: A >= 0, (..., S, F, T).
        mixture: M >= 0, (..., F, T).
        targets: S >= 0, like `models`.
        weights: gamma >= 0, broadcast to `targets`.
        beta: divergence of the reconstruction (beta2). For values other than 2, targets and estimates are raised to
            FLOOR, as in `divergence`.
        offset: added to targets and estimates, for divergences that are unbounded at an estimate of zero.
    """
    total = models.sum(-3, keepdim=True)
    audible = total > SILENCE  # elsewhere masks are constant
    total = total.clamp_min(SILENCE)
    shares, gain = models / total, mixture.unsqueeze(-3) / total * audible
    estimates, targets = shares * mixture.unsqueeze(-3) + offset, targets + offset
    if beta == 2:
        rising, falling = weights * estimates, weights * targets
    else:
        audible = weights * (estimates >= FLOOR)
        estimates, targets = estimates.clamp_min(FLOOR), targets.clamp_min(FLOOR)
        rising, falling = audible * estimates.pow(beta - 1), audible * targets * estimates.pow(beta - 2)
    # Sums over the other sources, without the cancellation of (all - own).
    sources = models.shape[-3]
    others = 1 - torch.eye(sources, dtype=models.dtype, device=models.device)

    def over_others(x: Tensor) -> Tensor:
        return torch.einsum("sr,...rft->...sft", others, x)

    rest = over_others(shares)
    positive = gain * (rising * rest + over_others(falling * shares))
    negative = gain * (falling * rest + over_others(rising * shares))
    return Parts(positive, negative)
