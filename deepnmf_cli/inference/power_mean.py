"""Weighted power means of log values, M_p(x; w) = (sum_i w_i x_i^p)^(1/p), continuous at p = 0.

p = 1 is the arithmetic, p = 0 the geometric, p = -1 the harmonic mean; p -> infinity the maximum, p -> -infinity the
minimum. They connect the messages of mean field with those of belief propagation (26)-(28), and combine old with new
messages (14)-(17).

Everything stays in the log domain. Written as a quotient by p, the logarithm suffers from cancellation near p = 0, and
its derivative with respect to p much earlier. With r = sum_i w_i d_i phi(p d_i), for deviations d = log x - c from any
centre c, the form

    log M_p = c + r psi(p r),      phi(z) = (exp(z) - 1)/z,      psi(s) = log(1 + s)/s

never divides by p. For |p d| <= SMALL phi and psi are polynomials, exact to rounding together with their derivatives;
beyond, log-sum-exp divided by p loses at most a factor 1/SMALL of precision, in the derivative with respect to p.
"""

import math

import torch
from torch import Tensor

SMALL = 0.1
"""Up to this |p| (max log x - min log x) the polynomials are used: their remainders are below 1e-16."""

LARGE = 80.0
"""exp(LARGE) = 6e34 is finite in float32. Beyond it `log_power_lerp` takes the exponential out of the logarithm."""

_PHI = [1 / math.factorial(k + 1) for k in range(10)]  # remainder 0.1^10 / 11! = 3e-18
_ATANH = [1 / (2 * k + 1) for k in range(6)]  # remainder 0.05^12 / 13 = 2e-17


def _polynomial(x: Tensor, coefficients: list[float]) -> Tensor:
    value = torch.full_like(x, coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        value = value * x + coefficient
    return value


def small_log_mean(weighted: Tensor, exponent: Tensor, power: Tensor) -> Tensor:
    """log(1 + sum_i w_i expm1(p d_i))/p from `weighted` w d and `exponent` p d, both (..., n), |p d| <= SMALL: (...).

    It is r psi(p r) with r = sum_i w_i d_i phi(p d_i); for p = 0, sum_i w_i d_i.
    """
    r = (weighted * _polynomial(exponent, _PHI)).sum(-1)
    s = power * r
    u = s / (2 + s)  # log(1 + s) = 2 artanh(u) converges twice as fast per term as the series in s
    return r * 2 / (2 + s) * _polynomial(u * u, _ATANH)


def log_power_mean(log_values: Tensor, log_weights: Tensor, power: Tensor | float) -> Tensor:
    """Log M_p of values exp(`log_values`) with weights proportional to exp(`log_weights`), over the last dimension.

    It never decreases in p, shifts with `log_values`, and is differentiable in all three arguments, any number of
    times, also at p = 0.

    Args:
        log_values: (..., n), finite.
        log_weights: broadcastable with it; normalised here. -inf is weight 0; at least one of n must be positive.
        power: p, any finite number, or a tensor that broadcasts to (...).

    Returns: (...), the broadcast shape without its last dimension.
    """
    log_values, log_weights = torch.broadcast_tensors(log_values, log_weights.log_softmax(-1))
    p = torch.as_tensor(power, dtype=log_values.dtype, device=log_values.device)
    weights = log_weights.exp()
    centre = (weights * log_values).sum(-1).detach()  # any constant would do; this one keeps the deviations small
    deviation = log_values - centre.unsqueeze(-1)
    small = p.abs() * (log_values.amax(-1) - log_values.amin(-1)) <= SMALL
    # where() passes gradient 0 to the branch not taken, which remains 0 only if that branch is finite
    p_small, p_large = torch.where(small, p, 0), torch.where(small, 1, p)
    near = small_log_mean(weights * deviation, p_small.unsqueeze(-1) * deviation, p_small)
    far = (log_weights + p_large.unsqueeze(-1) * deviation).logsumexp(-1) / p_large
    return centre + torch.where(small, near, far)


def log_power_lerp(old: Tensor, new: Tensor, weight: Tensor | float, power: Tensor | float) -> Tensor:
    """Log M_p of exp(old) and exp(new) with weights 1 - gamma and gamma: old + log(1 + gamma expm1(p (new - old)))/p.

    Equals `old` for gamma = 0 and `new` for gamma = 1, bit for bit, and is differentiable there, also in gamma; where
    new - old exceeds LARGE/|p| and gamma leaves 0 (or 1), the derivative in gamma saturates at exp(LARGE)/|p|.

    Args:
        old, new: finite log values, broadcastable.
        weight: gamma in [0, 1], a number or a tensor.
        power: p, any finite number or a tensor.

    Returns: the broadcast shape.
    """
    gamma, p = (torch.as_tensor(x, dtype=old.dtype, device=old.device) for x in (weight, power))
    old, new, gamma, p = torch.broadcast_tensors(old, new, gamma, p)
    # Start from the nearer end: the share c of the other end is at most 1/2, so 1 + c expm1(z) never cancels.
    nearer_old = gamma <= 0.5
    base, share = torch.where(nearer_old, old, new), torch.where(nearer_old, gamma, 1 - gamma)
    distance = torch.where(nearer_old, new - old, old - new)
    small = (p * distance).abs() <= SMALL
    p_small, p_large = torch.where(small, p, 0), torch.where(small, 1, p)
    near = small_log_mean((share * distance).unsqueeze(-1), (p_small * distance).unsqueeze(-1), p_small)
    z = p_large * distance
    within = (z <= LARGE) | (share == 0)
    middle = torch.log1p(share * torch.expm1(z.clamp_max(LARGE)))
    share, z = torch.where(within, 0.5, share), torch.where(within, 0, z)
    outside = z + torch.log(share + (1 - share) * torch.exp(-z))
    return base + torch.where(small, near, torch.where(within, middle, outside) / p_large)
