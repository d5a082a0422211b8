"""Learning a sparse-NMF dictionary w (F, R) with unit-norm columns from any number of frames, in bounded memory.

The penalty mu |h|_1 is meaningful only at fixed column norms. Updating as if columns were free and normalising
afterwards can raise the cost, because h stays unchanged (Le Roux, Weninger & Hershey, "Sparse NMF - half-baked or
well done?", MERL TR2015-023). Here the norms are part of the cost, D_beta(m | w h) + mu sum_r |w_r| |h_r|_1, which does
not depend on how a scale is divided between an atom and its activations (Marmin, Goulart & Fevotte 2023).
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from deepnmf_cli.inference.divergence import FLOOR
from deepnmf_cli.inference.nmf import infer, objective

AUDIBLE = 0.01
"""Frames below this share of the mean level (-40 dB) never become atoms: they contain the recorder's noise."""

SPREAD = 0.01
"""Share of the mean frame blended into drawn atoms: a multiplicative update cannot raise an exact zero."""

UNUSED = 1e-3
"""An atom with less than this share of the mean activation is drawn anew."""

NEVER_ACTIVE = 1e-20
"""Added to both parts of the gradient, so that their quotient is one for an atom that no frame uses; far below the
parts of any atom in use."""

NEWTON_STEPS = 6
"""Number of Newton steps: from at most log 2 above the root, they converge to rounding in float64 (the tests check the
slope there)."""

SETTLING = 0.2
"""Share of the mini-batches, the last ones, in which no atom is drawn anew, so that all atoms have time to converge."""


def unit_columns(w: Tensor) -> Tensor:
    """Scale the columns of w (F, R) to unit L2 norm, every entry at least FLOOR, so that its logarithm exists."""
    return (w / w.norm(dim=0).clamp_min(FLOOR)).clamp_min(FLOOR)


def exemplars(m: Tensor, atoms: int, generator: torch.Generator) -> Tensor:
    """Dictionary (F, atoms) of frames drawn from m (F, N) without replacement, at unit norm.

    Raises: ValueError when fewer than `atoms` frames are audible.
    """
    heard = audible(m)
    if len(heard) < atoms:
        raise ValueError(f"found {len(heard)} audible frames to draw from; expected at least {atoms}, one per atom")
    chosen = torch.randperm(len(heard), generator=generator)[:atoms].to(m.device)
    return unit_columns(m[:, heard[chosen]])


def audible(m: Tensor) -> Tensor:
    """Return the numbers of the frames of m (F, N) that are loud enough beside the others to become atoms."""
    level = m.sum(0)
    return torch.nonzero(level > AUDIBLE * level.mean()).squeeze(-1)


@dataclass(frozen=True)
class Majorant:
    """An upper bound on the cost as a function of the dictionary w (F, R), which equals it at the present dictionary.

    Its slope in each entry of w is  -attract w^i + repel w^j + penalty w,  with the powers i < j of `powers`. Bounds
    for blocks of frames add up, and so do their slopes: `+` adds two bounds, `faded` reduces the weight of one.
    """

    attract: Tensor
    """(F, R) >= 0."""
    repel: Tensor
    """(F, R) >= 0."""
    penalty: Tensor
    """(R,) >= 0, mu times the sum of each atom's activations."""
    beta: float

    @classmethod
    def of(cls, h: Tensor, m: Tensor, w: Tensor, beta: float = 1.0, mu: float | Tensor = 0.0) -> "Majorant":
        """The bound that equals the cost at w (F, R), columns of unit norm, for activations h (R, N) of m (F, N).

        With v = w h, G- = (m o v^(beta-2)) h^T and G+ = v^(beta-1) h^T:  attract = G- o w^(-i),  repel = G+ o w^(-j).
        """
        v = (w @ h).clamp_min(FLOOR)
        if beta == 1:
            minus, plus = (m / v) @ h.mT, h.sum(-1).expand_as(w)
        else:
            minus, plus = (m.clamp_min(FLOOR) * v.pow(beta - 2)) @ h.mT, v.pow(beta - 1) @ h.mT
        i, j = powers(beta)
        attract, repel = (minus + NEVER_ACTIVE) * w.pow(-i), (plus + NEVER_ACTIVE) * w.pow(-j)
        return cls(attract, repel, (mu * h).sum(-1), beta)

    def __add__(self, other: "Majorant") -> "Majorant":
        terms = self.attract + other.attract, self.repel + other.repel, self.penalty + other.penalty
        return Majorant(*terms, self.beta)

    def faded(self, share: float) -> "Majorant":
        """The bound times `share`."""
        return self._mapped(lambda term: share * term)

    def last(self, atoms: int) -> "Majorant":
        """The bound in the last `atoms` columns alone."""
        return self._mapped(lambda term: term[..., -atoms:])

    def without(self, atoms: Tensor) -> "Majorant":
        """The bound without its terms for some atoms, given by a mask (R,)."""
        return self._mapped(lambda term: term.masked_fill(atoms, 0.0))

    def minimiser(self) -> Tensor:
        """Return the dictionary (F, R) where the slope is zero: the minimum, with any column norms.

        In u = log w the condition is  log(repel e^((j-i) u) + penalty e^((1-i) u)) = log attract. The left side is
        convex and increasing, so Newton's method from a point right of the root descends to it and never passes it.
        It starts from the smaller of the two roots that each term has alone, at most log 2 too high there.
        """
        i, j = powers(self.beta)
        fit, norm = j - i, 1 - i
        attract, repel = self.attract.log(), self.repel.log()
        penalty = self.penalty.log().expand_as(repel)
        u = torch.minimum((attract - repel) / fit, (attract - penalty) / norm)
        if not bool((self.penalty > 0).any()):
            return u.exp()
        for _ in range(NEWTON_STEPS):
            terms = torch.stack([repel + fit * u, penalty + norm * u])
            share = terms.softmax(0)
            u = u - (terms.logsumexp(0) - attract) / (fit * share[0] + norm * share[1])
        return u.exp()

    def _mapped(self, change: Callable[[Tensor], Tensor]) -> "Majorant":
        return Majorant(change(self.attract), change(self.repel), change(self.penalty), self.beta)


def powers(beta: float) -> tuple[float, float]:
    """Powers (i, j) of w in the negative and positive terms of the slope of the fit's bound; j - i = 1/gamma(beta)."""
    return min(beta - 2, 0.0), max(beta - 1, 0.0)


def update(h: Tensor, m: Tensor, w: Tensor, beta: float = 1.0, mu: float | Tensor = 0.0) -> tuple[Tensor, Tensor]:
    """Update the dictionary on all frames; returns (w, h) with columns of w at unit norm and h scaled to match.

    The cost D_beta(m | w h) + mu |h|_1 never rises, for any beta, mu >= 0 and h, except for entries at FLOOR, as
    `docs/theory/sparse-nmf.md` proves. (Marmin, Goulart & Fevotte 2023 minimise the same cost.)
    """
    w = Majorant.of(h, m, w, beta, mu).minimiser()
    return unit_columns(w), h * w.norm(dim=0).unsqueeze(-1)


def learn_dictionary(
    block: Callable[[int], Tensor],
    iterations: int,
    atoms: int,
    beta: float = 1.0,
    mu: float = 0.0,
    *,
    activation_steps: int = 15,
    memory: float = 0.5,
    seed: int = 0,
    initial: Tensor | None = None,
    fixed: Tensor | None = None,
    progress: Callable[[int, float], None] | None = None,
) -> Tensor:
    """Learn a dictionary (F, atoms) from mini-batches: one block of frames at a time, used once and then dropped.

    `infer` computes the activations of each block. The block's bound on the cost is then added to those of earlier
    blocks, which are multiplied by `memory` per block, and w becomes the minimum of the sum, at unit norm (Lefevre,
    Bach & Fevotte 2011, for the Itakura-Saito case). With memory = 0 this is `update` on the block alone. The
    dictionary moves by about 1 - memory of a full update per block, and averages over 1/(1 - memory) blocks. Atoms
    that fall out of use are drawn anew from the current block.

    Args:
        block: block(i) is the i-th mini-batch, magnitudes (F, N) >= 0, float32 or float64, on any device; N may vary.
        iterations: number of mini-batches. Time: about 4 F R N (activation_steps + 2) operations each.
        atoms: R. The first block must hold at least as many audible frames, unless `initial` is given.
        beta, mu: divergence and weight of the L1 penalty on activations. Unless beta = 1, mu depends on the level of m.
        activation_steps: iterations of (33) per block.
        memory: in [0, 1).
        seed: of every draw; equal seeds and blocks give equal dictionaries.
        initial: dictionary (F, R) >= 0 to start from; frames drawn from the first block otherwise.
        fixed: further atoms (F, P) >= 0 of unit norm that help to explain the blocks and are not changed: the learned
            atoms explain what these cannot.
        progress: called with the block's index and its cost per frame before the update.
    """
    generator = torch.Generator().manual_seed(seed)
    w, bound, usage = initial if initial is None else unit_columns(initial), None, 0.0
    for index in range(iterations):
        m = block(index)
        if w is None:
            w = _fresh_atoms(m, atoms, generator)
        whole = w if fixed is None else torch.cat([fixed, w], 1)
        h = infer(m, whole, activation_steps, beta, mu)
        if progress is not None:
            progress(index, float(objective(h, m, whole, beta, mu)) / m.shape[-1])
        present = Majorant.of(h, m, whole, beta, mu).last(w.shape[1])
        bound = present if bound is None else bound.faded(memory) + present
        usage = memory * usage + h[-w.shape[1] :].sum(-1)
        w = unit_columns(bound.minimiser())
        unused = usage < UNUSED * usage.mean()
        count = int(unused.sum())
        # A block with too few frames for all of them leaves it to the next one.
        if index < (1 - SETTLING) * iterations and 0 < count <= audible(m).numel():
            w[:, unused] = _fresh_atoms(m, count, generator)
            bound, usage[unused] = bound.without(unused), usage.mean()
    if w is None:
        raise ValueError(f"{iterations} iterations learn no dictionary; expected at least one")
    return w


def _fresh_atoms(m: Tensor, atoms: int, generator: torch.Generator) -> Tensor:
    drawn = exemplars(m, atoms, generator)
    return unit_columns(drawn + SPREAD * unit_columns(m.mean(-1, keepdim=True)))
