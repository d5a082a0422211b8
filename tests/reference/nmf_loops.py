"""Slow twins of the sparse-NMF functions: one scalar at a time, straight from the equations, NumPy only for storage."""

import math

import numpy as np


def divergence(m, v, beta, floor=1e-10):
    """Sum over elements of D_beta as the literature writes it, with its three cases."""
    total = 0.0
    for x, y in zip(np.ravel(m), np.ravel(v), strict=True):
        x, y = max(x, floor), max(y, floor)
        if beta == 1:
            total += x * math.log(x / y) - x + y
        elif beta == 0:
            total += x / y - math.log(x / y) - 1
        else:
            total += x**beta / (beta * (beta - 1)) - x * y ** (beta - 1) / (beta - 1) + y**beta / beta
    return total


def objective(h, m, w, beta, mu):
    """Equation (32)."""
    return divergence(m, model(h, w), beta) + mu * sum(float(x) for x in np.ravel(h))


def model(h, w):
    """Equation (31): w h."""
    bins, atoms = w.shape
    frames = h.shape[1]
    v = np.zeros((bins, frames))
    for f in range(bins):
        for t in range(frames):
            v[f, t] = sum(w[f, r] * h[r, t] for r in range(atoms))
    return v


def exponent(beta):
    """Power on the ratio of (33) that makes it a majorisation-minimisation step."""
    if beta < 1:
        return 1 / (2 - beta)
    if beta > 2:
        return 1 / (beta - 1)
    return 1


def start(m, w):
    """Constant over atoms, one level per frame."""
    level = [sum(column) / sum(np.ravel(w)) for column in m.T]
    return np.array([level for _ in range(w.shape[1])])


def step(h, m, w, beta, mu):
    """Equation (33)."""
    v = model(h, w)
    new = np.zeros_like(h)
    for r in range(h.shape[0]):
        for t in range(h.shape[1]):
            attract = sum(w[f, r] * m[f, t] * v[f, t] ** (beta - 2) for f in range(w.shape[0]))
            repel = sum(w[f, r] * v[f, t] ** (beta - 1) for f in range(w.shape[0]))
            new[r, t] = h[r, t] * (attract / (repel + mu)) ** exponent(beta)
    return new


def dictionary_update(h, m, w, beta, mu):
    """Minimum of the bound on D_beta(m | w h) + mu sum_r |w_r| |h_r|_1, each entry by bisection; unit columns, scaled
    h."""
    v, new = model(h, w), np.zeros_like(w)
    for f in range(w.shape[0]):
        for r in range(w.shape[1]):
            minus = sum(m[f, t] * v[f, t] ** (beta - 2) * h[r, t] for t in range(m.shape[1]))
            plus = sum(v[f, t] ** (beta - 1) * h[r, t] for t in range(m.shape[1]))

            def slope(x, minus=minus, plus=plus, f=f, r=r):
                """Of the bound where the entry is x times what it is."""
                concave = x ** (beta - 2) if beta <= 2 else 1  # the convex parts are kept, the concave ones linearised
                convex = x ** (beta - 1) if beta >= 1 else 1
                return -minus * concave + plus * convex + mu * sum(h[r]) * w[f, r] * x

            low, high = 1e-12, 1e12
            for _ in range(200):
                middle = math.sqrt(low * high)
                low, high = (middle, high) if slope(middle) < 0 else (low, middle)
            new[f, r] = w[f, r] * low
    norm = [math.sqrt(sum(x * x for x in column)) for column in new.T]
    return new / norm, h * np.array(norm)[:, None]


def tr2015_dictionary_update(h, m, w, beta):
    """One update of TR2015-023: gradient of the cost with normalised columns, then unit L2 norm."""
    bins, atoms = w.shape
    v = model(h, w)
    minus, plus = np.zeros_like(w), np.zeros_like(w)
    for f in range(bins):
        for r in range(atoms):
            minus[f, r] = sum(m[f, t] * v[f, t] ** (beta - 2) * h[r, t] for t in range(m.shape[1]))
            plus[f, r] = sum(v[f, t] ** (beta - 1) * h[r, t] for t in range(m.shape[1]))
    new = np.zeros_like(w)
    for r in range(atoms):
        minus_total = sum(minus[f, r] * w[f, r] for f in range(bins))
        plus_total = sum(plus[f, r] * w[f, r] for f in range(bins))
        for f in range(bins):
            ratio = (minus[f, r] + w[f, r] * plus_total) / (plus[f, r] + w[f, r] * minus_total)
            new[f, r] = w[f, r] * ratio ** exponent(beta)
        norm = math.sqrt(sum(x * x for x in new[:, r]))
        new[:, r] /= norm
    return new


def masks(parts):
    """Equation (34) without the mixture: parts (S, F, T)."""
    shares = np.zeros_like(parts)
    sources = parts.shape[0]
    for f in range(parts.shape[1]):
        for t in range(parts.shape[2]):
            total = sum(parts[s, f, t] for s in range(sources))
            for s in range(sources):
                shares[s, f, t] = parts[s, f, t] / total if total > 0 else 1 / sources
    return shares
