"""Units h_i in {0, 1}: the layers of mean field, belief propagation and the messages between them (18)-(20), (29)-(30).

    p(h | x)  proportional to  exp( 1/2 h^T W h + h^T (A x + c) ),    W symmetric, no diagonal             (18)-(19)

The state is the log odds u_i = log(b_i(1)/b_i(0)) of the beliefs, b_i(1) = sigmoid(u_i), which lose no precision when a
unit is almost certain. -inf is a unit that is certainly 0, the paper's q^0 = 0. `bias` stands for A x + c, (..., I);
couplings W are (I, J), from J units to I, and need be neither square nor symmetric once layers are untied.

Except in the mean-field case, every function needs memory for one number per pair of units and batch entry.
"""

import torch
from torch import Tensor
from torch.nn.functional import linear, logsigmoid

from deepnmf_cli.inference.power_mean import SMALL, log_power_lerp, small_log_mean


def message(log_odds: Tensor, coupling: Tensor, alpha: Tensor | float = 1.0) -> Tensor:
    """Log odds that unit j sends over a coupling w: log(1 + b_j expm1(alpha w))/alpha, where b_j = sigmoid(u_j).

    alpha = 1 is belief propagation, alpha = 0 mean field's b_j w. Computed as softplus(u + alpha w) - softplus(u),
    which neither overflows nor cancels. It lies between 0 and w, and grows with b_j (for w > 0), w and alpha.

    Args:
        log_odds: u, any shape, infinities allowed.
        coupling: w, finite, broadcastable.
        alpha: a number or a broadcastable tensor.
    """
    if not isinstance(alpha, Tensor) and alpha == 0:
        return torch.sigmoid(log_odds) * coupling
    alpha = torch.as_tensor(alpha, dtype=coupling.dtype, device=coupling.device)
    small = (alpha * coupling).abs() <= SMALL
    a_small, a_large = torch.where(small, alpha, 0), torch.where(small, 1, alpha)
    weighted = torch.sigmoid(log_odds) * coupling
    near = small_log_mean(weighted.unsqueeze(-1), (a_small * coupling).unsqueeze(-1), a_small)
    # softplus(u + z) - softplus(u) = z + softplus(-u - z) - softplus(-u): use the form whose terms are small
    z, sure = a_large * coupling, log_odds > 0
    u, shift = torch.where(sure, -log_odds, log_odds), torch.where(sure, -z, z)
    far = torch.where(sure, z, 0) + logsigmoid(-u) - logsigmoid(-u - shift)
    return torch.where(small, near, far / a_large)


def field(log_odds: Tensor, couplings: Tensor, bias: Tensor, alpha: Tensor | float = 1.0) -> Tensor:
    """Return new log odds u_i = sum_j message_ij + bias_i, (..., I); the opposite messages are not divided out.

    The number alpha = 0 gives W b + A x + c of a sigmoid network (20), a matrix product; alpha = 1 gives a layer of
    belief propagation, sum_j log1p(b_j expm1(W_ij)) + A x + c, without the division of (22).

    Args:
        log_odds: (..., J).
        couplings: (I, J).
        bias: (..., I).
        alpha: a number, or a tensor that broadcasts to (I, J), such as (I, 1): one per receiving unit.
    """
    if not isinstance(alpha, Tensor) and alpha == 0:
        return linear(torch.sigmoid(log_odds), couplings) + bias
    return message(log_odds.unsqueeze(-2), couplings, alpha).sum(-1) + bias


def arithmetic_mean(old: Tensor, new: Tensor, gamma: Tensor) -> Tensor:
    """Log odds of (1 - gamma) sigmoid(old) + gamma sigmoid(new), the scheduled message (25) of normalised messages.

    Log odds must be finite and broadcastable with gamma in [0, 1]. No probability is formed that might round to 1.
    """
    ones, zeros = (log_power_lerp(logsigmoid(x), logsigmoid(y), gamma, 1.0) for x, y in ((old, new), (-old, -new)))
    return ones - zeros
