"""The split of one NMF layer written out by hand, (39)-(42) for (33) with exponent 1: a twin of the mechanism."""

from torch import Tensor

from deepnmf_cli.unfold.split import Parts


def signed(coefficient: float, factor: Tensor, parts: Parts) -> Parts:
    """coefficient * factor o parts for factor >= 0: a negative coefficient makes the parts change places."""
    p, n = abs(coefficient) * factor * parts.positive, abs(coefficient) * factor * parts.negative
    return Parts(p, n) if coefficient >= 0 else Parts(n, p)


def layer_parts(h: Tensor, m: Tensor, w: Tensor, beta: float, mu: float, above: Parts) -> tuple[Parts, Parts]:
    """(parts of dE/dw, parts of dE/dh) of h' = h o (w^T x) / (w^T y + mu), x = m v^(beta-2), y = v^(beta-1), v = w h.

    h (R, N), m (F, N), w (F, R), `above`: parts of dE/dh'. For entries above the floors of `nmf.step`.
    """
    v = w @ h
    x, y = m * v.pow(beta - 2), v.pow(beta - 1)
    attract, repel = w.T @ x, w.T @ y + mu
    ratio = attract / repel
    up, un = (side * h / repel for side in (above.positive, above.negative))  # at the numerator
    vp, vn = un * ratio, up * ratio  # at the denominator, where parts have changed places
    at_v = signed(beta - 2, m * v.pow(beta - 3), Parts(w @ up, w @ un))
    if beta != 1:
        at_v = at_v + signed(beta - 1, v.pow(beta - 2), Parts(w @ vp, w @ vn))
    of_w = Parts(
        x @ up.T + y @ vp.T + at_v.positive @ h.T,
        x @ un.T + y @ vn.T + at_v.negative @ h.T,
    )
    of_h = Parts(
        above.positive * ratio + w.T @ at_v.positive,
        above.negative * ratio + w.T @ at_v.negative,
    )
    return of_w, of_h
