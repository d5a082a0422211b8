"""Sums of log E_{b_j}[exp psi_ij] over j: what a layer of belief propagation computes instead of a matrix product.

    u_i = sum_j log sum_{h_j} b_j(h_j) exp(alpha psi_ij(h_j))/alpha,  for units sum_j log1p(b_j expm1(alpha w_ij))/alpha

A product of a few sums is one sum: for a group G of neighbouring j, and over the joint states s of the group,

    prod_{j in G} sum_{h_j} b_j exp psi_ij  =  sum_s B_s E_is,    B_s = prod_j b_j(s_j),    E_is = exp sum_j psi_ij(s_j)

which is a matrix product, and all its terms are positive, so that nothing cancels. Three binary units have eight joint
states: 8/3 of the multiply-adds of a plain product, and a third of the logarithms. Several groups are multiplied before
one logarithm is taken. The backward pass consists of matrix products too, d log(B E) = (dB E + B dE)/(B E).
"""

import math
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear, pad
from torch.utils.checkpoint import checkpoint

from deepnmf_cli.inference.binary import message
from deepnmf_cli.inference.power_mean import log_power_mean

STATES = 9
"""Largest number of joint states of a group: three units of two states, or two of three. More states cost more
arithmetic, fewer cost more memory traffic."""

RANGE = 60.0
"""Largest |log E_is|: in float32, exp(60) leaves a factor 1e12 for the gradients that it multiplies."""

PRODUCT_RANGE = 80.0
"""Largest |log| of a product of groups, of which one logarithm is taken: exp(80) is finite in float32."""

FAINT = 0.02
"""If all |alpha psi| are below this, the logarithms are so near 0 that dividing them by alpha loses half the digits."""

ROWS = {"cpu": 256, "cuda": 2**14}
BLOCK = {"cpu": 2**18, "cuda": 2**26}
"""Batch entries and numbers in a block of intermediate results: what stays in a core's cache, or keeps a GPU busy."""


UnitSums = Callable[[Tensor, Tensor], Tensor]
"""(log odds (N, J), couplings (I, J)) -> sum_j log1p(b_j expm1(w_ij)), (N, I): another way to compute the same."""


def field(
    log_odds: Tensor, couplings: Tensor, bias: Tensor, alpha: Tensor | float = 1.0, sums: UnitSums | None = None
) -> Tensor:
    """Compute `binary.field`, new log odds u_i = sum_j log1p(b_j expm1(alpha W_ij))/alpha + bias_i, for use in layers.

    Differentiable once. It takes the time of about ten matrix products of the same size, and memory of a few times the
    arguments and a block. The error is a few roundings of sum_j |W_ij|, and of 1/alpha.

    Args:
        log_odds: (..., J), infinities allowed.
        couplings: (I, J), any finite numbers. Sources j with some |alpha W_ij| > RANGE/3 use `binary.message`, which
            is more than ten times slower.
        bias: broadcastable to (..., I).
        alpha: a number or a scalar tensor; continuous at 0, where the sum is W b of a sigmoid network (20).
        sums: computes the sum for weak enough couplings, instead of the matrix products.
    """
    if not isinstance(alpha, Tensor) and alpha == 0:
        return linear(torch.sigmoid(log_odds), couplings) + bias
    rows = log_odds.reshape(-1, log_odds.shape[-1])

    def together(j: Tensor | slice) -> Tensor:
        u, w = rows[:, j], alpha * couplings[:, j]
        if sums is not None:
            return sums(u, w) / alpha
        # Both beliefs come from the log odds, because 1 - b would lose precision where b is close to 1.
        b = torch.stack([torch.sigmoid(-u), torch.sigmoid(u)], -2).mT
        return _grouped(b, torch.stack([torch.zeros_like(w), w]).permute(2, 0, 1), _group(2)) / alpha

    def alone(j: Tensor | slice) -> Tensor:
        return _in_blocks(lambda u, w, a: message(u.unsqueeze(-2), w, a).sum(-1), rows[:, j], couplings[:, j], alpha)

    largest = (alpha * couplings).detach().abs().amax(0)
    if largest.max() <= FAINT:
        return _series(log_odds, couplings, alpha) + bias
    return _by_strength(largest, 2, together, alone).reshape(*log_odds.shape[:-1], -1) + bias


def _series(log_odds: Tensor, couplings: Tensor, alpha: Tensor | float) -> Tensor:
    """The sum of `field` by the cumulants of h_j, for |alpha w| <= FAINT: its relative error is below (FAINT/pi)^5."""
    b, rest = torch.sigmoid(log_odds), torch.sigmoid(-log_odds)
    p, skew = b * rest, rest - b
    cumulants = [b, p, p * skew, p * (1 - 6 * p), p * skew * (1 - 12 * p)]
    powers = [couplings * (alpha * couplings) ** k / math.factorial(k + 1) for k in range(len(cumulants))]
    return linear(torch.cat(cumulants, -1), torch.cat(powers, -1))


def sum_log_expectations(log_b: Tensor, potentials: Tensor, alpha: Tensor | float = 1.0) -> Tensor:
    """sum_j log sum_h b_j(h) exp(alpha psi_j(h, i))/alpha for n states, (..., I); otherwise like `field`.

    If all |alpha psi| are below FAINT and alpha is not the number 0, it is as slow as for strong potentials.

    Args:
        log_b: (..., J, n), normalised over the last dimension; -inf allowed.
        potentials: psi, (J, n, I), finite.
        alpha: a number or a scalar tensor; 0 is mean field's sum of expectations.
    """
    first = potentials[:, :1]  # relative to the first state, so that units in that state contribute exactly nothing
    relative, offset = potentials - first, first.sum((0, 1))
    if not isinstance(alpha, Tensor) and alpha == 0:
        return log_b.exp().flatten(-2) @ relative.flatten(0, 1) + offset
    rows = log_b.reshape(-1, *log_b.shape[-2:])

    def together(j: Tensor | slice) -> Tensor:
        return _grouped(rows[:, j].exp(), alpha * relative[j], _group(log_b.shape[-1])) / alpha

    def alone(j: Tensor | slice) -> Tensor:
        values = relative[j].permute(2, 0, 1)
        return _in_blocks(lambda b, x, a: log_power_mean(x, b.unsqueeze(-3), a).sum(-1), rows[:, j], values, alpha)

    largest = (alpha * relative).detach().abs().amax((1, 2))
    return _by_strength(largest, log_b.shape[-1], together, alone).reshape(*log_b.shape[:-2], -1) + offset


def sum_maxima(log_b: Tensor, potentials: Tensor) -> Tensor:
    """sum_j max_h (log b_j(h) + psi_j(h, i)), (..., I), of (..., J, n) and (J, n, I): the units (30), temperature 0.

    This is not a matrix product. It is computed in blocks, which the backward pass computes again.
    """
    rows = log_b.reshape(-1, *log_b.shape[-2:])
    found = _in_blocks(lambda b, x, _: (b.unsqueeze(-1) + x).amax(-2).sum(-2), rows, potentials, 0.0)
    return found.reshape(*log_b.shape[:-2], -1)


def _group(states: int) -> int:
    return max(1, int(math.log(STATES + 0.5, states)))


def _by_strength(
    largest: Tensor,
    states: int,
    together: Callable[[Tensor | slice], Tensor],
    alone: Callable[[Tensor | slice], Tensor],
) -> Tensor:
    """Sum over the sources j, each by one of the two functions, depending on its largest |alpha psi_j|, (J,)."""
    strong = largest > (RANGE / _group(states) if largest.max() > FAINT else -1)  # if all are faint, use `alone`
    if not strong.any():
        return together(slice(None))
    if strong.all():
        return alone(slice(None))
    return together(~strong) + alone(strong)


def _in_blocks(function: Callable, rows: Tensor, values: Tensor, alpha: Tensor | float) -> Tensor:
    """function(rows, values, alpha) in blocks of rows, which the backward pass computes again."""
    size = max(1, BLOCK.get(rows.device.type, BLOCK["cpu"]) // values.numel())

    def block(part: Tensor) -> Tensor:
        result = checkpoint(function, part, values, alpha, use_reentrant=False, preserve_rng_state=False)
        return cast(Tensor, result)  # torch declares the result as optional

    return torch.cat([block(part) for part in rows.split(size)])


def _grouped(shares: Tensor, potentials: Tensor, group: int) -> Tensor:
    """sum_j log sum_h shares exp(psi) (N, I) of (N, J, n) and (J, n, I), for psi_j(0, i) = 0, |psi| <= RANGE/group."""
    factors = _joint(torch.exp(_padded(potentials, group, 0.0)), group)
    return _SumLogProducts.apply(shares, factors, group, _run(potentials.detach(), group))


def _padded(single: Tensor, group: int, value: float) -> Tensor:
    """Pad (J, ...) with `value`, so that J becomes a multiple of `group`."""
    return pad(single, (0, 0) * (single.dim() - 1) + (0, -len(single) % group), value=value)


def _joint(single: Tensor, group: int) -> Tensor:
    """(J, n, M) -> (J/group, n^group, M): products over the units of a group, for all its joint states."""
    first, *others = single.unflatten(0, (-1, group)).unbind(1)
    for other in others:
        first = (first.unsqueeze(2) * other.unsqueeze(1)).flatten(1, 2)
    return first


def _run(potentials: Tensor, group: int) -> int:
    """Return how many neighbouring groups may be multiplied without leaving PRODUCT_RANGE, whatever the beliefs: a
    power of two.
    """
    high, low = potentials.amax(1), potentials.amin(1).neg()  # (J, I), both >= 0 as the first state has 0
    bounds = _padded(torch.cat([high, low], 1), group, 0.0).unflatten(0, (-1, group)).sum(1)
    run = 1
    while run < len(potentials) / group:
        bounds = _padded(bounds, 2, 0.0).unflatten(0, (-1, 2)).sum(1)
        if bounds.max() > PRODUCT_RANGE:
            break
        run *= 2
    return run


class _SumLogProducts(torch.autograd.Function):
    """sum_G log(B_G^T E_G) for the joint B (G, K, N) of b (N, J, n), and E (G, K, I) > 0: (N, I)."""

    @staticmethod
    def forward(ctx: Any, b: Tensor, factors: Tensor, group: int, run: int) -> Tensor:
        ctx.save_for_backward(b, factors)
        ctx.group = group
        total = b.new_zeros(len(b), factors.shape[-1])
        rows, size = _blocks(b, factors, run)
        spans = factors.split(size)
        for part, out in zip(b.split(rows), total.split(rows), strict=True):
            product, held = None, 0
            for share, factor in zip(_shares(part, group)[1].split(size), spans, strict=True):
                sums = torch.bmm(share.transpose(1, 2), factor)
                sums = sums.prod(0) if size > 1 else sums[0]
                product, held = (sums if product is None else product.mul_(sums)), held + size
                if held >= run:
                    out += product.log_()
                    product, held = None, 0
            if product is not None:
                out += product.log_()
        return total

    @staticmethod
    @once_differentiable  # whose type hides the name of `ctx`
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, Tensor, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (gradient,) = grad_outputs
        b, factors = ctx.saved_tensors
        to_b, to_factors = torch.empty_like(b), torch.zeros_like(factors)
        rows, size = _blocks(b, factors, len(factors))
        spans = [*zip(factors.split(size), to_factors.split(size), strict=True)]
        for part, to_part, above in zip(b.split(rows), to_b.split(rows), gradient.split(rows), strict=True):
            with torch.enable_grad():
                single, shares = _shares(part, ctx.group)
            to_shares = torch.empty_like(shares)
            pieces = zip(shares.detach().split(size), to_shares.split(size), spans, strict=True)
            for share, to_share, (factor, to_factor) in pieces:
                ratio = torch.bmm(share.transpose(1, 2), factor)
                torch.div(above, ratio, out=ratio)
                torch.bmm(factor, ratio.transpose(1, 2), out=to_share)
                to_factor.baddbmm_(share, ratio)
            to_part.copy_(torch.autograd.grad(shares, single, to_shares)[0].permute(2, 0, 1))
        return to_b, to_factors, None, None


def _shares(b: Tensor, group: int) -> tuple[Tensor, Tensor]:
    """Return b as (J, n, N), and the joint beliefs (G, K, N) computed from it."""
    single = b.detach().permute(1, 2, 0).contiguous().requires_grad_()
    return single, _joint(_padded(single, group, 1 / b.shape[-1]), group)


def _blocks(b: Tensor, factors: Tensor, run: int) -> tuple[int, int]:
    """Return how many batch entries and groups (a power of two, at most `run`) have products that fit into a block."""
    kind = b.device.type if b.device.type in BLOCK else "cpu"
    rows = min(len(b), ROWS[kind], max(1, BLOCK[kind] // factors.shape[-1]))
    groups = min(run, max(1, BLOCK[kind] // (rows * factors.shape[-1])))
    return rows, 2 ** int(math.log2(groups))
