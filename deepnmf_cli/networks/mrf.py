"""Inference in Markov random fields as mask networks: mean field, belief propagation and everything between.

The evidence is a frame's log magnitudes with context, the units of the last layer are one binary variable per
frequency, "speech dominates here", and their marginals are the mask. `docs/theory/mrf.md` has the equations.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from deepnmf_cli.inference.graph import Graph
from deepnmf_cli.inference.units import Exponent, Field, Layers, ReciprocalField, StateLayers, UnitLayers
from deepnmf_cli.kernels.unit_sums import compile_unit_kernel
from deepnmf_cli.networks.frame_network import CompressedFeatures, FrameNetwork
from deepnmf_cli.networks.mrf_settings import BeliefPropagationSettings, MeanFieldSettings, PowerMeanSettings
from deepnmf_cli.unfold.network import Bank, Unfolded
from deepnmf_cli.unfold.ties import Ties

MACS_PER_MESSAGE = {True: 1, False: 3}
"""Multiply-adds per coupling: one in mean field, otherwise about what `inference.expectations` needs."""


class MrfNetwork(FrameNetwork):
    """K rounds of messages over a bank of couplings, evidence weights and biases."""

    alpha: ClassVar[float]
    """Exponent of the messages, unless the settings have it."""
    unfolded: Unfolded[Tensor, Tensor, Layers | Field]

    def __init__(self, settings: MeanFieldSettings | None = None) -> None:
        super().__init__()
        self.settings = s = self.settings_type() if settings is None else settings
        self.features = CompressedFeatures(s.bins)
        algorithm = self._algorithm()
        iterations = len(s.sizes) if s.graph == "layers" else s.iterations
        self.unfolded = Unfolded(algorithm, iterations, self._bank(algorithm, iterations))
        if isinstance(algorithm, Layers) and algorithm.alpha != 0:
            self._centre(algorithm)

    def _bank(self, algorithm: Layers | Field, iterations: int) -> Bank:
        s, ties = self.settings, {}
        if isinstance(algorithm, ReciprocalField) and not s.tied:
            # The readout has the parameters of the last step.
            shared = Ties((*range(iterations), iterations - 1), frozenset(range(iterations)))
            ties = {"evidence": shared, "bias": shared}
        return Bank.declared(algorithm.parameters(iterations), iterations, s.tied, ties)

    @torch.no_grad()
    def _centre(self, algorithm: Layers) -> None:
        """Set biases against what messages add to those of mean field, so that units start as undecided as sigmoids.

        Without them, all units of an untrained network of 256 would be certain to be 1, since means of exponentials
        exceed exponentials of means.
        """
        bank = self.unfolded.bank
        for k in range(1, self.unfolded.iterations):
            parameters = bank.layer(k)
            parameters["bias"] -= algorithm.excess(parameters)

    @property
    def _by_states(self) -> bool:
        """Return whether units are computed state by state and not by their log odds."""
        return self.settings.states > 2 or getattr(self.settings, "temperature", 1.0) != 1

    def _algorithm(self) -> Layers | Field:
        s = self.settings
        common = {"alpha": self._exponent(), "inputs": s.bins * s.context, "schedule": s.schedule}
        if s.graph != "layers":
            kind = ReciprocalField if getattr(s, "reciprocal", False) else Field
            return kind(**common, graph=_graph(s), shown=s.bins, mean=getattr(s, "mean", "geometric"))
        common |= {"sizes": s.sizes, "every": s.evidence == "every"}
        if self._by_states:
            return StateLayers(**common, states=s.states, temperature=getattr(s, "temperature", 1.0))
        return UnitLayers(**common)

    def _exponent(self) -> float | Exponent:
        return self.alpha

    def fit(self, frames: Callable[[], Tensor]) -> None:
        self.features.fit(frames())

    def frame_masks(self, stacked: Tensor, fixed: Any = None) -> Tensor:
        speech = self.unfolded(self.features(stacked).mT).mT
        return torch.stack([speech, 1 - speech])

    def accelerate(self) -> bool:
        algorithm = self.unfolded.algorithm
        kernel = compile_unit_kernel()
        by_edges = isinstance(algorithm, Field) and algorithm.by_edges
        if kernel is None or algorithm.alpha == 0 or isinstance(algorithm, StateLayers | ReciprocalField) or by_edges:
            return False
        self.unfolded.algorithm = replace(algorithm, kernel=kernel)
        return True

    @property
    def depths(self) -> range:
        return range(0) if self.settings.graph == "layers" else super().depths  # lower layers have units of their own

    def macs_per_frame(self) -> int:
        """Return the multiply-adds per frame of the layers that run.

        Couplings count as `MACS_PER_MESSAGE` says, in a field in both directions.
        """
        bank, algorithm = self.unfolded.bank, self.unfolded.algorithm
        total, per_coupling = 0, MACS_PER_MESSAGE[algorithm.alpha == 0] * (2 if isinstance(algorithm, Field) else 1)
        for k in range(self.unfolded.depth):
            parameters = bank.layer(k)
            if k == 0 or isinstance(algorithm, Field) or algorithm.every:
                total += parameters["evidence"].numel()
            if "couplings" in parameters:
                total += per_coupling * parameters["couplings"].numel()
        return total


class MeanField(MrfNetwork):
    """Equation (20): a sigmoid network whose evidence feeds every layer, or with evidence "first" the conventional one,
    equal to `Dnn`.
    """

    name = "mean-field"
    description = "Unfolded mean field in a Markov random field: sigmoid units, evidence for every layer"
    settings_type = MeanFieldSettings
    alpha = 0.0


class BeliefPropagation(MrfNetwork):
    """Units u_i = sum_j log(1 + b_j (exp(w_ij) - 1)) + a_i^T x + c_i, or with n states (29) and (30)."""

    name = "belief-propagation"
    description = "Unfolded belief propagation: units of products of probabilities"
    settings_type = BeliefPropagationSettings
    alpha = 1.0


class PowerMean(MrfNetwork):
    """Messages log(1 + b_j (exp(alpha w) - 1))/alpha, with an alpha for every layer."""

    name = "power-mean"
    description = "Messages between mean field and belief propagation, their exponent fixed, annealed or trained"
    settings_type = PowerMeanSettings

    def _exponent(self) -> Exponent:
        alphas = self.settings.alphas
        return Exponent(self.settings.alpha, trained=alphas == "trained", setting=alphas == "fixed")

    @property
    def alphas(self) -> list[float]:
        """The exponents of the layers that receive messages, the lowest layer first."""
        bank = self.unfolded.bank
        return [bank.value("alpha", slot).item() for slot in range(bank.ties["alpha"].count)]

    @torch.no_grad()
    def anneal(self, progress: float) -> None:
        s = self.settings
        if s.alphas == "annealed":
            alpha = s.alpha + (s.anneal_to - s.alpha) * min(1.0, progress / s.anneal_part)
            for slot in range(self.unfolded.bank.ties["alpha"].count):
                self.unfolded.bank.value("alpha", slot).fill_(alpha)

    @property
    def annealing(self) -> bool:
        return self.settings.alphas == "annealed" and abs(self.alphas[0] - self.settings.anneal_to) > 1e-6


def _graph(s: MeanFieldSettings) -> Graph:
    """Return the graph of a field: hidden units come first, then those of the mask; in a grid, the frames follow one
    after the other, the present one last.
    """
    if s.graph == "complete":
        return Graph.complete(s.units)
    if s.graph == "edges":
        return Graph(s.units, torch.tensor(s.edges).T)
    if s.graph in ("chain", "grid"):
        return Graph.grid(s.context if s.graph == "grid" else 1, s.bins)
    hidden = sum(s.hidden)
    shown = torch.arange(hidden, s.units)
    joined = torch.cartesian_prod(torch.arange(hidden), shown).T if hidden else shown.new_zeros(2, 0)
    near = [torch.stack([shown[:-d], shown[d:]]) for d in range(1, s.reach + 1)]
    return Graph(s.units, torch.cat([joined, *near], 1))
