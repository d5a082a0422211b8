"""HyperLISTA: analytic weights, and three numbers from which each layer computes its parameters for each frame (Chen,
Liu, Wang & Yin, NeurIPS 2021); HyperLISTA-ABT has thresholds for blocks of atoms (Qian, Wang, Jung, Shi & Zhu, IEEE
TGRS 2024).

With the pseudo-inverse D^+ and c of `deepnmf_cli.inference.alista`, and e^k = D^+ (D h^k - x), an estimate of h^k - h:

    z = h^k - c o e^k + b |h^k|_0 (h^k - h^{k-1}),      h^{k+1} = S_p(z; theta)
    theta = t |e^k|_1,      p = s log(|D^+ x|_1 / |e^k|_1), in [0, 1]

so that the momentum grows with the number of active atoms, and thresholds fall with the remaining error. S_p is a soft
threshold that the largest share p of activations pass unchanged. t, b and s are trained; p has no gradient, so they are
trained by search. With blocks, theta and p of an atom are computed from the norms over its block alone, so that weak
activity in one band is not measured by strong activity in another.

Shapes: evidence x (..., E, T), activations h (..., R, T), dictionary D (E, R).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from deepnmf_cli.inference import alista
from deepnmf_cli.inference.algorithm import Parameter, Parameters
from deepnmf_cli.inference.blocks import by_centre, check
from deepnmf_cli.inference.ista import SparseCoding
from deepnmf_cli.inference.shrinkage import select_support

EXPLAINED = 1e-12
"""Added to |e|_1 and |D^+ x|_1 before division, for frames that are silent or explained exactly."""

State = tuple[Tensor, Tensor, Tensor]
"""h^k, h^{k-1} and D^+ x."""

CONSTANTS = ("threshold", "momentum", "support")
"""Names of t, b and s."""

Constants = tuple[float | Tensor, float | Tensor, float | Tensor]
"""t, b and s."""


def start(x: Tensor, inverse: Tensor) -> State:
    """Return the initial state: activations of zero, and D^+ x."""
    answer = inverse @ x
    return torch.zeros_like(answer), torch.zeros_like(answer), answer


def step(
    state: State, gram: Tensor | None, scale: Tensor, constants: Constants, blocks: int = 1, signed: bool = False
) -> State:
    """Return the state after one layer; differentiable in every tensor but s.

    Args:
        state: tensors of (..., R, T) each; activations are zero if there is no `gram`.
        gram: D^+ D, (R, R).
        scale: c, (R, 1).
        constants: t, b and s >= 0.
        blocks: number of blocks, of R / blocks neighbouring atoms each.
    """
    (h, before, answer), (threshold, momentum, support) = state, constants
    error = -answer if gram is None else gram @ h - answer
    active = (h != 0).sum(-2, keepdim=True).to(h)
    z = h - scale * error + momentum * active * (h - before)
    z, left, whole = (x.unflatten(-2, (blocks, -1)) for x in (z, error.abs(), answer.abs()))
    left, whole = left.sum(-2, keepdim=True), whole.sum(-2, keepdim=True)
    share = (support * torch.log((whole + EXPLAINED) / (left + EXPLAINED))).clamp(0, 1)
    return select_support(z, threshold * left, share, signed).flatten(-3, -2), h, answer


@torch.no_grad()
def infer(
    x: Tensor,
    dictionary: Tensor,
    iterations: int,
    constants: Constants,
    blocks: int = 1,
    ridge: float = 0.0,
    signed: bool = False,
) -> Tensor:
    """Return activations (..., R, T) after `iterations` steps from zero."""
    inverse = alista.inverse(dictionary, ridge)
    gram, scale = inverse @ dictionary, alista.scales(inverse, dictionary)
    state = start(x, inverse)
    for k in range(iterations):
        state = step(state, gram if k else None, scale, constants, blocks, signed)
    return state[0]


@dataclass(frozen=True)
class Hyperlista(SparseCoding[State]):
    """HyperLISTA as an algorithm: the three constants are the same in all layers, and nothing else is trained."""

    name = "hyperlista"
    over_frequency = False
    ridge: float = 0.0
    threshold: float = 0.03
    """Initial value of t."""
    momentum: float = 0.01
    """Initial value of b."""
    support: float = 0.1
    """Initial value of s."""

    @property
    def groups(self) -> int:
        """Number of blocks that have thresholds of their own."""
        return 1

    def parameters(self, iterations: int, dictionary: Tensor) -> dict[str, Parameter]:
        """Return the parameters for `dictionary` (E, R)."""
        inverse = alista.inverse(dictionary, self.ridge)
        gram, scale = inverse @ dictionary, alista.scales(inverse, dictionary)
        steps, like = range(iterations), dictionary.dtype
        constants = {name: torch.full((1,), getattr(self, name), dtype=like) for name in CONSTANTS}
        return {
            "inverse": Parameter([0], lambda _: inverse, shared=True, trained=False),
            "gram": Parameter(range(1, iterations), lambda _: gram, shared=True, trained=False),
            "scale": Parameter(steps, lambda _: scale, shared=True, trained=False),
            "dictionary": Parameter([iterations], lambda _: dictionary[-self.bins :], shared=True, trained=False),
        } | {name: Parameter(steps, lambda _, x=x: x, "log", shared=True) for name, x in constants.items()}

    def start(self, evidence: Tensor, parameters: Parameters) -> State:
        return start(evidence, parameters["inverse"])

    def step(self, evidence: Tensor, state: State, parameters: Parameters) -> State:
        constants = tuple(parameters[name] for name in CONSTANTS)
        return step(state, parameters.get("gram"), parameters["scale"], constants, self.groups, self.signed)

    def readout(self, evidence: Tensor, state: State, parameters: Parameters) -> Tensor:
        return self.masks(state[0], parameters)

    def macs(self, rows: int, iterations: int) -> int:
        atoms = sum(self.atoms)
        return rows * atoms + (iterations - 1) * atoms**2


@dataclass(frozen=True)
class HyperlistaAbt(Hyperlista):
    """HyperLISTA with adaptive thresholds for blocks of atoms, those of `deepnmf_cli.inference.blocks`."""

    name = "hyperlista-abt"
    blocks: int = 8
    """Half the number of blocks, which all have the same number of atoms and lie within one source."""

    def __post_init__(self) -> None:
        check(self.atoms, self.blocks)

    @property
    def groups(self) -> int:
        return 2 * self.blocks

    def parameters(self, iterations: int, dictionary: Tensor) -> dict[str, Parameter]:
        """Return the parameters for `dictionary` (E, R)."""
        return super().parameters(iterations, by_centre(dictionary, self.atoms, self.bins))
