"""The beta-divergence D_beta(m | v), the data term of (32), for any beta, in one formula.

Squared error (beta = 2), generalised Kullback-Leibler (1) and Itakura-Saito (0) divergence are members of the family.
"""

import torch
from torch import Tensor

FLOOR = 1e-10
"""The smallest magnitude that counts as sound; models and mixtures below it are raised to it before any division.

It lies 200 dB below full scale, far below the noise of any recorder, so it never affects an audible bin. It cannot be
smaller in float32: the updates compute m v^(beta-2) and sum it over bins, which for beta = -1 and v = FLOOR is
1e30 m, and so stays finite for sums of m up to 1e8. It also keeps denormals out of every quotient. One value for
float32 and float64 makes their results comparable.
"""


def _log_like(x: Tensor, v: Tensor, power: float) -> Tensor:
    """(x^p - v^p)/p for positive x and v, which tends to log(x/v) as p -> 0; exact to rounding for every p."""
    log_ratio = torch.log(x / v)
    return log_ratio if power == 0 else v.pow(power) * torch.expm1(power * log_ratio) / power


def divergence(m: Tensor, v: Tensor, beta: float = 1.0, *, elementwise: bool = False) -> Tensor:
    """Beta-divergence of the observation m from the model v: zero where they are equal, positive elsewhere.

    D_beta(m | v) = m q_{beta-1}(m, v) - q_beta(m, v)   with   q_p(m, v) = (m^p - v^p)/p,   q_0 = log(m/v)

    is the usual m^b/(b(b-1)) - m v^(b-1)/(b-1) + v^b/b (Fevotte & Idier 2011, eq. 2) rearranged, so that it needs
    no special cases and is continuous in beta: at beta = 2 half the squared error, at 1 generalised KL, at 0
    Itakura-Saito. It scales as D(a m | a v) = a^beta D(m | v).

    Args:
        m, v: magnitudes >= 0, equal or broadcastable shapes, float32 or float64. Both are raised to FLOOR first;
            D(0 | 0) is therefore 0, and D(0 | v) is finite for every beta.
        beta: any real number; -1 to 3 is tested.
        elementwise: return the terms instead of their sum.

    Returns: a scalar, or a tensor of the broadcast shape.
    """
    m, v = m.clamp_min(FLOOR), v.clamp_min(FLOOR)
    # For the squared error, this gives the value of the formula without its cancellation, and is much cheaper.
    terms = (m - v).square() / 2 if beta == 2 else m * _log_like(m, v, beta - 1) - _log_like(m, v, beta)
    return terms if elementwise else terms.sum()
