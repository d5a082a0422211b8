"""Exact filtering along a chain of spins: m_t = (f_t + k_t m_{t-1}) / (1 + f_t k_t m_{t-1}), sum-product messages (22).

A spin keeps the sign of the one before with probability (1 + k_t)/2, and evidence alone would give it the expectation
f_t. Then k_t m_{t-1} is its expectation before the evidence, and by Bayes' rule the odds (1 + m)/(1 - m) of both
multiply. Where relaxation averages opinions, filtering adds up evidence.
"""

from torch import Tensor

from deepnmf_cli.signal.recursion import combine
from deepnmf_cli.unfold.chain import Recursion


def filter_chain(evidence: Tensor, keep: Tensor, start: Tensor, reverse: bool = False) -> Tensor:
    """The path m (T, ...) of expectations, m_0 = `start`.

    evidence f (T, ...) in [-1, 1] and keep k (T, ...) in [0, 1); start (...) in [-1, 1]. T >= 1. With k = 0 the result is
    `evidence`; without evidence, f = 0, it fades from `start`. `reverse` runs from the last t to the first.
    """
    return _FILTERING(evidence, keep, start, reverse)


def _slopes(evidence: Tensor, keep: Tensor, before: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    predicted = keep * before
    scale = (1 + evidence * predicted).square().reciprocal()
    in_predicted = (1 - evidence.square()) * scale
    return (1 - predicted.square()) * scale, before * in_predicted, keep * in_predicted


_FILTERING = Recursion(combine, _slopes)
