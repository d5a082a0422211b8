"""Sparse NMF with a fixed dictionary: the activations h >= 0 that explain a mixture, m ~ w h (31)-(34).

One iteration is the function `step`. Classical inference repeats it, and the unfolded network uses it as a layer. Both
call the same function, so the untrained network equals the algorithm bit for bit.

Shapes: mixture m (..., F, T), activations h (..., R, T), dictionary w (F, R). Frames are independent of each other, so
batch entries are concatenated along time before any product: one large matrix product is faster than many small ones,
several times faster in the backward pass. Code that takes many steps is faster if it calls `join_frames` once, as
`infer` does.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import threshold

from deepnmf_cli.inference import wiener
from deepnmf_cli.inference.algorithm import FixedPoint, Parameter, Parameters, Recurrence
from deepnmf_cli.inference.divergence import FLOOR, divergence

BLOCK_FRAMES = 1024
"""Frames updated at once on a CPU: w h, the ratio and both products of a block stay in the cache (measured for 513 bins
on an idle machine: blocks of 512 to 3000 frames are equally fast, with one and with two threads; all 6000 frames at
once take one and a half times as long)."""

INACTIVE = 1e-30
"""Activations at or below this become exactly 0 and stay 0. Unused atoms decay geometrically and would soon be denormal
numbers, which are slow on many processors; at 1e-20 of FLOOR their contribution to w h is lost in rounding anyway."""


def exponent(beta: float) -> float:
    """Exponent gamma(beta) of the multiplicative step that never raises the objective (Fevotte & Idier 2011, sec. 4.1).

    1/(2-beta) below 1, 1 within [1, 2], 1/(beta-1) above 2, with or without the L1 penalty: `docs/theory/sparse-nmf.md`
    proves it in four lines.
    """
    if beta < 1:
        return 1 / (2 - beta)
    return 1 / (beta - 1) if beta > 2 else 1.0


def join_frames(x: Tensor) -> Tensor:
    """Concatenate the frames of all batch entries, (..., N, T) -> (N, B T); a view for two dimensions."""
    return x.movedim(-2, 0).reshape(x.shape[-2], -1)


def split_frames(x: Tensor, batch: Sequence[int]) -> Tensor:
    """Inverse of `join_frames`: (N, B T) -> (*batch, N, T)."""
    return x.reshape(x.shape[0], *batch, -1).movedim(0, -2)


def start(m: Tensor, w: Tensor) -> Tensor:
    """Initial activations (..., R, T), equal for all atoms of a frame, so that w h has the frame's total magnitude.

    h0[r, t] = sum_f m[f, t] / sum_{f, r} w[f, r], the best constant under KL. Column t depends on frame t only
    (causal), and h0 scales with m. A silent frame starts, and therefore stays, at zero.
    """
    level = join_frames(m).sum(0) / w.sum().clamp_min(FLOOR)
    return split_frames(level.repeat(w.shape[1], 1), m.shape[:-2])


def step(
    h: Tensor, m: Tensor, w: Tensor, beta: float = 1.0, mu: float | Tensor = 0.0, *, column_sums: Tensor | None = None
) -> Tensor:
    """One multiplicative update of the activations, equation (33); differentiable in every tensor.

    h <- h o ( [w^T (m o v^(beta-2))] / [w^T v^(beta-1) + mu] )^gamma(beta),   v = w h

    It never raises `objective` for any beta in [-1, 3] and mu >= 0, as long as w h stays above FLOOR.

    Args:
        h: activations >= 0, (..., R, T).
        m: mixture magnitudes >= 0, (..., F, T), batch dimensions broadcast against those of h.
        w: dictionary >= 0, (F, R), any column norms (the penalty is meaningful for unit norms only).
        beta: divergence; mu does not depend on scale for beta = 1 and scales with m^(beta-1) otherwise.
        mu: weight of the L1 penalty, >= 0; a number, or a tensor that broadcasts to (R, 1), one weight per atom.
        column_sums: sum_f w[f, r] as (R, 1), the denominator for beta = 1. Passing it saves a pass over w per call,
            which matters when T is small.

    Returns: activations of the broadcast shape (..., R, T), in the dtype of the arguments.
    """
    batch = torch.broadcast_shapes(h.shape[:-2], m.shape[:-2])
    h, m = (join_frames(x.expand(*batch, *x.shape[-2:])) for x in (h, m))
    if beta == 1 and column_sums is None:
        column_sums = w.sum(0).unsqueeze(-1)
    blocks = [
        _step_block(h_block, m_block, w, beta, mu, column_sums)
        for h_block, m_block in zip(_in_blocks(h), _in_blocks(m), strict=True)
    ]
    return split_frames(blocks[0] if len(blocks) == 1 else torch.cat(blocks, -1), batch)


def _in_blocks(x: Tensor) -> Sequence[Tensor]:
    """Split frames (N, T) into the blocks that are updated at once."""
    # An exported graph serves any number of frames, so its number of blocks cannot be fixed.
    return x.split(BLOCK_FRAMES, -1) if x.device.type == "cpu" and not torch.compiler.is_exporting() else [x]


def _step_block(h: Tensor, m: Tensor, w: Tensor, beta: float, mu: float | Tensor, column_sums: Tensor | None) -> Tensor:
    """`step` for h (R, N) and m (F, N)."""
    v = w @ h
    if beta == 2:
        attract, repel = w.mT @ m, w.mT @ v
    else:
        v.clamp_min_(FLOOR)  # in place: autograd allows it here, and a new large tensor would cost more than the clamp
        if beta == 1 and column_sums is not None:
            # in place where autograd allows it
            quotient = m / v if v.requires_grad or m.requires_grad else torch.div(m, v, out=v)
            attract, repel = w.mT @ quotient, column_sums
        else:
            attract, repel = w.mT @ (m.clamp_min(FLOOR) * v.pow(beta - 2)), w.mT @ v.pow(beta - 1)
    ratio = attract / (repel + mu).clamp_min(FLOOR)
    if exponent(beta) != 1:
        # the root is not differentiable at 0
        ratio = ratio.clamp_min(FLOOR).pow(exponent(beta))
    return threshold(h * ratio, INACTIVE, 0.0, inplace=True)


def objective(h: Tensor, m: Tensor, w: Tensor, beta: float = 1.0, mu: float | Tensor = 0.0) -> Tensor:
    """The cost in (32), D_beta(m | w h) + mu |h|_1, one number per batch entry: shape (...,)."""
    fit = divergence(m, w @ h, beta, elementwise=True).sum((-2, -1))
    return fit + (mu * h).sum((-2, -1))


def readout(h: Tensor, w: Tensor, atoms: Sequence[int]) -> Tensor:
    """Models of the sources w^l h^l, the numerators of (34): (..., S, F, T) for S = len(atoms).

    The columns of w, and the rows of h, are the atoms of the first source, then of the second, and so on. The sum of
    the models over sources is the model of the mixture, w h; `wiener` computes masks from them.
    """
    pairs = zip(w.split(list(atoms), 1), h.split(list(atoms), -2), strict=True)
    models = [split_frames(part_w @ join_frames(part_h), h.shape[:-2]) for part_w, part_h in pairs]
    return torch.stack(models, -3)


@torch.no_grad()
def infer(m: Tensor, w: Tensor, iterations: int, beta: float = 1.0, mu: float | Tensor = 0.0) -> Tensor:
    """Activations (..., R, T) after `iterations` steps from `start`: classical sparse-NMF inference, (32) by (33)."""
    frames = join_frames(m)
    h = start(frames, w)
    column_sums = w.sum(0).unsqueeze(-1) if beta == 1 else None
    for _ in range(iterations):
        h = step(h, frames, w, beta, mu, column_sums=column_sums)
    return split_frames(h, m.shape[:-2])


DICTIONARY = "dictionary"

KEPT = 0.8
"""Share of the previous frame's activations with which recurrent inference starts."""

SPREAD = 0.1
"""Further share of them, distributed equally over all atoms: a transition of zero could never be trained."""

FRESH = 0.1
"""Share of the classical initial activations that is added, so that no atom is lost permanently."""


def dictionaries(dictionary: Tensor, bins: int, iterations: int, kind: str = "log") -> Parameter:
    """Dictionaries of K layers that start with `dictionary` (E, R), and the readout's with its last `bins` rows."""

    def initial(layer: int) -> Tensor:
        return dictionary if layer < iterations else dictionary[-bins:]

    return Parameter(range(iterations + 1), initial, kind)


def penalties(sparsity: float, dictionary: Tensor, iterations: int) -> Parameter:
    """Penalties (R, 1) of K layers, one for every atom of `dictionary` (E, R), that start with `sparsity`."""
    initial = torch.full((dictionary.shape[1], 1), sparsity, dtype=dictionary.dtype)
    return Parameter(range(iterations), lambda _: initial, "log")


@dataclass(frozen=True)
class SparseNmf(FixedPoint[Tensor], Recurrence[Tensor]):
    """Sparse NMF as an algorithm: evidence m (..., E, N), state h (..., R, N), a dictionary for every layer.

    Dictionaries (E, R) have the atoms of speech first. The readout uses the last `bins` rows only, which are those of
    the present frame where evidence has context; a separate dictionary of the readout is stored as (bins, R).
    """

    bins: int
    atoms: tuple[int, int]
    """Numbers of atoms of speech and of noise, R in all."""
    beta: float = 1.0
    sparsity: float = 0.0
    """Weight mu of the L1 penalty, unless it is trained."""
    kind: str = "log"
    """Parameterisation that keeps the dictionaries non-negative."""
    trained_penalty: bool = False
    """Whether each layer has a penalty of its own for every atom, which starts at `sparsity`."""
    recurrent: bool = False
    """Whether a frame starts from the result of the previous one, h_t^0 = A h_{t-1}^K + b o (the classical start)."""

    def parameters(self, iterations: int, dictionary: Tensor) -> dict[str, Parameter]:
        """Return the parameters; all dictionaries start at `dictionary` (E, R)."""
        found, states = {DICTIONARY: dictionaries(dictionary, self.bins, iterations, self.kind)}, sum(self.atoms)
        if self.trained_penalty:
            found["penalty"] = penalties(self.sparsity, dictionary, iterations)
        if self.recurrent:
            transition = KEPT * torch.eye(states) + SPREAD / states
            found["transition"] = Parameter([0], lambda _: transition, "log", shared=True)
            found["fresh"] = Parameter([0], lambda _: torch.full((states, 1), FRESH), "log", shared=True)
        return found

    def start(self, evidence: Tensor, parameters: Parameters) -> Tensor:
        return start(evidence, parameters[DICTIONARY])

    def step(self, evidence: Tensor, state: Tensor, parameters: Parameters) -> Tensor:
        """Return the activations after the update (33)."""
        return step(state, evidence, parameters[DICTIONARY], self.beta, self._penalty(parameters))

    def readout(self, evidence: Tensor, state: Tensor, parameters: Parameters) -> Tensor:
        """Wiener-like masks (..., 2, bins, N), equation (34) without the mixture."""
        return wiener.masks(readout(state, parameters[DICTIONARY][-self.bins :], self.atoms))

    def objective(self, evidence: Tensor, state: Tensor, parameters: Parameters) -> Tensor:
        return objective(state, evidence, parameters[DICTIONARY], self.beta, self._penalty(parameters))

    def metric(self, evidence: Tensor, state: Tensor, parameters: Parameters) -> Tensor:
        """gamma(beta) h / (w^T v^(beta-1) + mu)."""
        w = parameters[DICTIONARY]
        repel = w.mT @ (w @ state).clamp_min(FLOOR).pow(self.beta - 1) + self._penalty(parameters)
        return exponent(self.beta) * state / repel.clamp_min(FLOOR)

    def prepare(self, evidence: Tensor, parameters: Parameters) -> tuple[tuple, tuple[Tensor, ...]]:
        dictionary = parameters[DICTIONARY]
        column_sums = dictionary.sum(0).unsqueeze(-1)
        return (dictionary, self._penalty(parameters), column_sums), (self.start(evidence, parameters), evidence)

    def update(self, constants: tuple, columns: tuple[Tensor, ...], state: Tensor) -> Tensor:
        dictionary, penalty, column_sums = constants
        return step(state, columns[1], dictionary, self.beta, penalty, column_sums=column_sums)

    def warm_start(self, columns: tuple[Tensor, ...], before: Tensor, parameters: Parameters) -> Tensor:
        return parameters["transition"] @ before + parameters["fresh"] * columns[0]

    def _penalty(self, parameters: Parameters) -> Tensor | float:
        return parameters.get("penalty", self.sparsity)
