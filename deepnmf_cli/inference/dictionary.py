"""Learning a sparse-NMF dictionary, unit-norm columns w (F, R), from as many frames as there are, in bounded memory.

The update is that of Le Roux, Weninger & Hershey, "Sparse NMF - half-baked or well done?" (MERL TR2015-023): the norm
of the columns is part of the cost, D_beta(m | (w/|w|) h) + mu |h|_1, so its derivative takes part in the gradient.
Updating as if columns were free and normalising afterwards can raise the cost, because h stays what it was.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from deepnmf_cli.inference.divergence import FLOOR
from deepnmf_cli.inference.nmf import exponent, infer, objective

AUDIBLE = 0.01
"""Frames under this share of the mean level (-40 dB) never become atoms: they hold the recorder's noise."""

SPREAD = 0.01
"""Share of the mean frame blended into drawn atoms: a multiplicative update cannot raise an exact zero."""

UNUSED = 1e-3
"""An atom with less than this share of the mean activation is drawn anew."""

NEVER_ACTIVE = 1e-20
"""Added to both parts of the gradient, so that their quotient is one for an atom that no frame uses; far below the
parts of any atom in use."""

SETTLING = 0.2
"""Share of the mini-batches, the last ones, in which no atom is drawn anew, so that all have time to settle."""


def unit_columns(w: Tensor) -> Tensor:
    """Columns of w (F, R) at unit L2 norm, every entry at least FLOOR, so that logarithms of a dictionary exist."""
    return (w / w.norm(dim=0).clamp_min(FLOOR)).clamp_min(FLOOR)


def exemplars(m: Tensor, atoms: int, generator: torch.Generator) -> Tensor:
    """Dictionary (F, atoms) of frames drawn from m (F, N) without replacement, at unit norm.

    Raises: ValueError when fewer than `atoms` frames are audible.
    """
    level = m.sum(0)
    audible = torch.nonzero(level > AUDIBLE * level.mean()).squeeze(-1)
    if len(audible) < atoms:
        raise ValueError(f"found {len(audible)} audible frames to draw from; expected at least {atoms}, one per atom")
    chosen = torch.randperm(len(audible), generator=generator)[:atoms].to(m.device)
    return unit_columns(m[:, audible[chosen]])


def gradient_parts(h: Tensor, m: Tensor, w: Tensor, beta: float = 1.0) -> tuple[Tensor, Tensor]:
    """The two parts >= 0 of the gradient of the normalised cost with respect to w, descending and ascending.

    With v = w h, G- = (m o v^(beta-2)) h^T, G+ = v^(beta-1) h^T and 1 1^T(.) = column sums (TR2015-023, sec. 4):
    descending = G- + w o 1 1^T(G+ o w),  ascending = G+ + w o 1 1^T(G- o w).

    Args: h (R, N), m (F, N), w (F, R) with unit-norm columns. Both parts are sums over frames, hence additive over
    blocks of frames (but for NEVER_ACTIVE, which each result contains once).
    """
    v = (w @ h).clamp_min(FLOOR)
    if beta == 1:
        minus, plus = (m / v) @ h.mT, h.sum(-1).expand_as(w)
    else:
        minus, plus = (m.clamp_min(FLOOR) * v.pow(beta - 2)) @ h.mT, v.pow(beta - 1) @ h.mT
    descending = minus + w * (plus * w).sum(0)
    ascending = plus + w * (minus * w).sum(0)
    return descending + NEVER_ACTIVE, ascending + NEVER_ACTIVE


def update(h: Tensor, m: Tensor, w: Tensor, beta: float = 1.0) -> Tensor:
    """One dictionary update on all frames: w o (descending / ascending)^gamma(beta), then unit norm.

    Without the exponent gamma, which is 1 for 1 <= beta <= 2, it is the update of TR2015-023. No proof of descent is
    known to us. In 50,400 updates of random problems (beta in {-1, 0, .5, 1, 1.5, 2, 3}, mu in {0, .1, 1, 5},
    alternating with activation updates) it never raised the penalised cost.
    """
    descending, ascending = gradient_parts(h, m, w, beta)
    return unit_columns(w * (descending / ascending).pow(exponent(beta)))


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
    """Dictionary (F, atoms) learned from mini-batches: one block of frames at a time, seen once and dropped.

    Each block gets activations from `infer`; then the majorising statistics of the block join those of earlier blocks,
    which fade by `memory` per block (Lefevre, Bach & Fevotte 2011, for the Itakura-Saito case):

        A <- memory A + w^(1/gamma) o descending,   B <- memory B + ascending,   w <- unit columns of (A / B)^gamma.

    With memory = 0 this is `update` on the block alone. The dictionary moves by about 1 - memory of a full update per
    block, and averages over 1/(1 - memory) blocks. Atoms that fall out of use are drawn anew from the current block.

    Args:
        block: block(i) is the i-th mini-batch, magnitudes (F, N) >= 0, float32 or float64, on any device; N may vary.
        iterations: number of mini-batches. Time: about 4 F R N (activation_steps + 2) operations each.
        atoms: R. The first block must hold at least as many audible frames, unless `initial` is given.
        beta, mu: divergence and weight of the L1 penalty on activations. Unless beta = 1, mu depends on the level of m.
        activation_steps: iterations of (33) per block.
        memory: in [0, 1).
        seed: of every draw; equal seeds and blocks give equal dictionaries.
        initial: dictionary (F, R) >= 0 to start from; frames drawn from the first block otherwise.
        fixed: further atoms (F, P) >= 0 of unit norm that help to explain the blocks and stay as they are: the learned
            ones are left with what these cannot explain.
        progress: called with the block's index and its cost per frame before the update.
    """
    generator = torch.Generator().manual_seed(seed)
    power = 1 / exponent(beta)
    w, descent, ascent, usage = initial if initial is None else unit_columns(initial), 0.0, 0.0, 0.0
    for index in range(iterations):
        m = block(index)
        if w is None:
            w = _fresh_atoms(m, atoms, generator)
        whole = w if fixed is None else torch.cat([fixed, w], 1)
        h = infer(m, whole, activation_steps, beta, mu)
        if progress is not None:
            progress(index, float(objective(h, m, whole, beta, mu)) / m.shape[-1])
        descending, ascending = (part[:, -w.shape[1] :] for part in gradient_parts(h, m, whole, beta))
        h = h[-w.shape[1] :]
        descent, ascent = memory * descent + w.pow(power) * descending, memory * ascent + ascending
        usage = memory * usage + h.sum(-1)
        w = unit_columns((descent / ascent).pow(1 / power))
        unused = usage < UNUSED * usage.mean()
        if index < (1 - SETTLING) * iterations and unused.any():
            w[:, unused] = _fresh_atoms(m, int(unused.sum()), generator)
            descent[:, unused], ascent[:, unused], usage[unused] = 0.0, 0.0, usage.mean()
    return w


def _fresh_atoms(m: Tensor, atoms: int, generator: torch.Generator) -> Tensor:
    drawn = exemplars(m, atoms, generator)
    return unit_columns(drawn + SPREAD * unit_columns(m.mean(-1, keepdim=True)))
