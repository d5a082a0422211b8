"""Consistent projection as an `Algorithm` that can be unfolded, for training in torch."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from deepnmf_cli.inference.algorithm import Algorithm, Parameter, Parameters
from deepnmf_cli.repair.projection import BANDS, FREQUENCY, TIME, Problem, step
from deepnmf_cli.unfold.network import Bank, Unfolded


@dataclass(frozen=True)
class ConsistentProjection(Algorithm[Problem, tuple[Tensor, Tensor]]):
    """Layers of `projection.step`. The state is the current and the previous estimate (..., N), which agree with the
    observation.
    """

    prox: str = "pew"
    highest: float = 0.3
    lowest: float = 0.01
    """Thresholds of the first and the last layer, for samples of unit power; in between they fall by equal factors."""
    momentum: float = 0.0

    def parameters(self, iterations: int, dictionary: Tensor | None = None) -> dict[str, Parameter]:
        """The parameters that `projection.step` takes; `dictionary` (F, R) is for NMF."""
        steps = range(iterations)
        levels = torch.logspace(math.log10(self.highest), math.log10(self.lowest), max(2, iterations))
        found = {
            "threshold": Parameter(steps, lambda k: levels[k].repeat(BANDS), "log", own=True),
            "slope": Parameter(steps, lambda _: torch.zeros(BANDS)),
            "relaxation": Parameter(steps, lambda _: torch.ones(1), "log"),
            "momentum": Parameter(steps, lambda _: torch.full((1,), self.momentum)),
        }
        if self.prox == "pew":
            found["time"] = Parameter(steps, lambda _: torch.tensor([0.01, *[1.0] * (TIME - 2), 0.01]), "log")
            near = torch.full((FREQUENCY,), 0.05)
            near[FREQUENCY // 2] = 1.0
            found["frequency"] = Parameter(steps, lambda _: near, "log")
        elif self.prox == "nmf" and dictionary is not None:
            found["dictionary"] = Parameter(steps, lambda _: dictionary, "log", shared=True)
        return found

    def start(self, evidence: Problem, parameters: Parameters) -> tuple[Tensor, Tensor]:
        return evidence.start, evidence.start

    def step(self, evidence: Problem, state: tuple[Tensor, Tensor], parameters: Parameters) -> tuple[Tensor, Tensor]:
        return step(evidence, state, dict(parameters), self.prox)

    def readout(self, evidence: Problem, state: tuple[Tensor, Tensor], parameters: Parameters) -> Any:
        return state[0]


def network(algorithm: ConsistentProjection, layers: int, dictionary: Tensor | None = None) -> Unfolded:
    """The untrained network: classical iterations."""
    return Unfolded(algorithm, layers, Bank.declared(algorithm.parameters(layers, dictionary), layers))
