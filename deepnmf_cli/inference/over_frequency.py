"""Atoms as functions of frequency: stored at some frequencies, and interpolated to the frequencies of the evidence.

A dictionary D (E, R) holds the values of R functions at E stored frequencies. Evidence at other frequencies g_1, g_2,
... is explained by the values of the same functions there, interpolated linearly between stored frequencies f_e:

    (P D)_{i r} = sum_e P_{i e} D_{e r},      P_{i e} = max(1 - |g_i - f_e| / |f_{e +- 1} - f_e|, 0)

where the neighbour is the one on the side of g_i. At the stored frequencies P = I. One set of weights thus serves
several discretisations, as in operators on functions (sparse autoencoder neural operators, 2025). P >= 0, so that atoms
of spectra remain atoms of spectra.
"""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from deepnmf_cli.inference.algorithm import Algorithm, Parameter, Parameters
from deepnmf_cli.inference.ista import SparseCoding


def interpolation(stored: Tensor, wanted: Tensor) -> Tensor:
    """Return P (len(wanted), len(stored)) >= 0, whose rows sum to one, for at least two `stored` frequencies in
    increasing order, and the `wanted` ones. Functions are constant beyond the stored frequencies.
    """
    above = torch.searchsorted(stored, wanted).clamp(1, len(stored) - 1)
    low, high = stored[above - 1], stored[above]
    share = ((wanted - low) / (high - low)).clamp(0, 1)
    matrix = stored.new_zeros(len(wanted), len(stored))
    matrix.scatter_(1, above[:, None] - 1, 1 - share[:, None])
    return matrix.scatter_(1, above[:, None], share[:, None])


def interpolated(dictionary: Tensor, matrix: Tensor) -> Tensor:
    """Interpolate a `dictionary` (C E, R) at the stored frequencies, whose rows are those of C frames, one after the
    other, to atoms (C E', R) at the wanted frequencies; `matrix` is P, (E', E).
    """
    frames = dictionary.unflatten(0, (-1, matrix.shape[1]))
    return (matrix @ frames).flatten(0, 1)


@dataclass(frozen=True, eq=False)
class OverFrequency(Algorithm[Tensor, Any]):
    """A sparse-coding algorithm whose dictionaries are stored at other frequencies than those of the evidence.

    Its parameters are those of `inner` at the stored frequencies; only dictionaries may have a frequency axis.
    """

    inner: SparseCoding
    """The algorithm, whose `bins` is the number of wanted frequencies."""
    matrix: Tensor
    """P, (wanted, stored)."""

    def parameters(self, iterations: int, dictionary: Tensor) -> dict[str, Parameter]:
        """Return the parameters for `dictionary` (E, R) at the stored frequencies, where bank and step sizes start."""
        stored = self.matrix.shape[1]
        return replace(self.inner, bins=stored).parameters(iterations, dictionary)

    def start(self, evidence: Tensor, parameters: Parameters) -> Any:
        return self.inner.start(evidence, self.here(parameters))

    def step(self, evidence: Tensor, state: Any, parameters: Parameters) -> Any:
        return self.inner.step(evidence, state, self.here(parameters))

    def readout(self, evidence: Tensor, state: Any, parameters: Parameters) -> Tensor:
        return self.inner.readout(evidence, state, self.here(parameters))

    def here(self, parameters: Parameters) -> dict[str, Any]:
        """Return the parameters with the dictionary at the wanted frequencies."""
        return {**parameters, "dictionary": interpolated(parameters["dictionary"], self.matrix)}
