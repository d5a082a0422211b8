"""Common principal components: the orthonormal directions that diagonalise several covariance matrices best (Flury,
"Common principal components in k groups", JASA 79, 1984).

    minimise over orthogonal B    sum_i log( det diag(B^T S_i B) / det(B^T S_i B) )

It is zero where all S_i (E, E) have the same eigenvectors, which then are the columns of B, whatever the eigenvalues.
The method is that of Flury & Gautschi (SIAM J. Sci. Stat. Comput. 7, 1986): each pair of columns in turn is rotated in
its plane so that, for the 2 x 2 matrices T_i of that plane with diagonal entries d_i and e_i,

    the columns are the eigenvectors of  sum_i (d_i - e_i) / (d_i e_i) T_i
"""

from collections.abc import Iterator

import torch
from torch import Tensor

SWEEPS, SETTLED = 60, 1e-9
"""Largest number of rounds over all pairs, and the angle in radians below which a round ends the search."""

SKETCH_SWEEPS = 8
"""Number of rounds for a sketch, converged or not: these take seconds, where convergence would take minutes."""


def disjoint_pairs(count: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield all pairs (i < j) of `count` columns once, in sets of pairs without a common column, as (n,) and (n,)."""
    players = list(range(count + count % 2))  # with an odd number, one column is left out of each set
    for _ in range(len(players) - 1):
        half = len(players) // 2
        met = [sorted(pair) for pair in zip(players[:half], reversed(players[half:]), strict=True)]
        p, q = torch.tensor([pair for pair in met if pair[1] < count]).unbind(1)
        yield p, q
        players = [players[0], players[-1], *players[1:-1]]


def angles(d: Tensor, e: Tensor, f: Tensor) -> Tensor:
    """Return the angles (n,) by which columns p and q are rotated, p <- cos p + sin q, for diagonal entries d, e > 0
    and off-diagonal entries f of the matrices of each plane, (G, n).
    """
    weight = (d - e) / (d * e)
    return torch.atan2(2 * (weight * f).sum(0), (weight * (d - e)).sum(0)) / 2


def deviation(covariances: Tensor, basis: Tensor) -> Tensor:
    """Return the objective for covariances (G, E, E) and the columns of `basis` (E, E)."""
    turned = basis.mT @ covariances @ basis
    return (turned.diagonal(dim1=-2, dim2=-1).log().sum(-1) - torch.logdet(turned)).sum()


@torch.no_grad()
def common_components(covariances: Tensor, sweeps: int = SWEEPS) -> Tensor:
    """Return B (E, E), float64, with columns in the order of their share of the energy of all groups, largest first.

    `covariances` (G, E, E) are symmetric and positive definite, and have equal weight; each pair of columns is rotated
    at most `sweeps` times.
    """
    s = covariances.double()
    s = s / s.diagonal(dim1=-2, dim2=-1).mean(-1)[:, None, None]
    # A combination with unequal weights has the common eigenvectors where there are any, even if the mean is isotropic.
    weights = torch.linspace(1, 2, len(s), dtype=s.dtype)
    basis = torch.linalg.eigh((weights[:, None, None] * s).sum(0)).eigenvectors
    s = basis.mT @ s @ basis
    rounds = list(disjoint_pairs(len(basis)))
    for _ in range(sweeps):
        widest = 0.0
        for p, q in rounds:
            angle = angles(s[:, p, p], s[:, q, q], s[:, p, q])
            c, sine = angle.cos(), angle.sin()
            for x in (basis, s, s.mT):
                left, right = x[..., p], x[..., q]
                x[..., p], x[..., q] = c * left + sine * right, c * right - sine * left
            widest = max(widest, float(sine.abs().minimum(c.abs()).max()))
        if widest < SETTLED:
            break
    order = s.diagonal(dim1=-2, dim2=-1).mean(0).argsort(descending=True)
    return basis[:, order]


def common_sketch(covariances: Tensor, rows: int) -> Tensor:
    """Return the `rows` leading common components as orthonormal rows (rows, E): the sketch S of a shared subspace."""
    return common_components(covariances, SKETCH_SWEEPS)[:, :rows].mT.to(covariances)
