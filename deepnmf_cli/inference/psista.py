"""Periodic sketched ISTA: most steps use a sketch of the evidence, every p-th step all of it (Tokumura, Nakai-Kasai &
Wadayama, arXiv 2604.20214, 2026).

A step on a sketch S (E', E), E' < E, is a step of ISTA for the smaller problem

    1/2 |S x - S D h|^2 + penalty |h|_1

whose products cost E' / E as much. It descends the objective of this problem; that of x itself need not fall, which is
why every p-th step uses x itself. Where S >= 0, as for the pooling of frequencies into wider bands, sketches of spectra
are spectra, and dictionaries stay non-negative.

Where rows of S are orthonormal, such as the principal components that kinds of noise have in common
(`deepnmf_cli.inference.common_components`), a sketched step descends the part of the error that lies in their span. S
and S D then have entries of both signs. ISTA constrains only the signs of activations, not those of a dictionary,
so the soft threshold stays one-sided. D is what is trained, so that it stays non-negative.

Shapes: evidence x (..., E, T), activations h (..., R, T), dictionary D (E, R).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from deepnmf_cli.inference import ista, nmf
from deepnmf_cli.inference.algorithm import Parameter, Parameters
from deepnmf_cli.inference.ista import SparseCoding, largest_rate


@torch.no_grad()
def infer(
    x: Tensor,
    dictionary: Tensor,
    sketch: Tensor,
    iterations: int,
    period: int,
    penalty: float | Tensor,
    signed: bool = False,
) -> Tensor:
    """Return activations (..., R, T) after `iterations` steps from zero, each of the largest rate for what it uses.

    `sketch` is S, (E', E); steps period, 2 period, ... use all of the evidence.
    """
    seen = [(sketch @ x, sketch @ dictionary), (x, dictionary)]
    problems = [(d.mT @ y, d.mT @ d, largest_rate(d)) for y, d in seen]
    h = ista.start(problems[0][0])
    for k in range(iterations):
        h = ista.step(h, *problems[k % period == period - 1], penalty, signed)
    return h


@dataclass(frozen=True)
class Psista(SparseCoding[Tensor]):
    """Periodic sketched ISTA as an algorithm; the activations are the state.

    Layers that use the sketch "erb" have dictionaries of their own, (E', R), that start at S D; the others, and the
    readout, have the dictionary (E, R). With the sketch "common" all have dictionaries (E, R), to which layers apply S.
    """

    name = "psista"
    over_frequency = False
    sketches = True
    sketch: str = "erb"
    """Kind of S: "erb", non-negative, or "common", of both signs."""
    period: int = 5
    """Period p: every p-th step uses all of the evidence."""
    sketch_rows: int = 0
    """Number of rows of the sketch (E'), on which the cost depends."""

    def __post_init__(self) -> None:
        if self.period < 1:
            raise ValueError("period must be at least 1")
        if self.sketch not in ("erb", "common"):
            raise ValueError(f"sketch {self.sketch!r} is neither erb nor common")

    def full(self, iterations: int) -> list[int]:
        """Return the layers that use all of the evidence."""
        return list(range(self.period - 1, iterations, self.period))

    def parameters(self, iterations: int, dictionary: Tensor, sketch: Tensor) -> dict[str, Parameter]:
        """Return the parameters for `dictionary` (E, R) and `sketch` (E', E)."""
        full = self.full(iterations)
        sketched, small = [k for k in range(iterations) if k not in full], sketch @ dictionary
        rates = [largest_rate(d).reshape(1) for d in (small, dictionary)]
        whole = nmf.dictionaries(dictionary, self.bins, iterations, self.kind)
        own = {"sketched": Parameter(sketched, lambda _: small, self.kind)} if self.sketch == "erb" else {}
        return {
            "dictionary": Parameter([*full, iterations], whole.initial, whole.kind) if own else whole,
            **own,
            "sketch": Parameter(sketched, lambda _: sketch, shared=True, trained=False, setting=self.sketch == "erb"),
            "rate": Parameter(range(iterations), lambda k: rates[k in full], "log", own=True),
            "penalty": nmf.penalties(self.sparsity, dictionary, iterations),
        }

    def start(self, evidence: Tensor, parameters: Parameters) -> Tensor:
        return self.none(evidence)

    def seen(self, evidence: Tensor, parameters: Parameters) -> tuple[Tensor, Tensor]:
        """Return the evidence and the dictionary that a layer uses: sketched, or whole."""
        if "sketch" not in parameters:
            return evidence, parameters["dictionary"]
        sketch, small = parameters["sketch"], parameters.get("sketched")
        return sketch @ evidence, sketch @ parameters["dictionary"] if small is None else small

    def step(self, evidence: Tensor, state: Tensor, parameters: Parameters) -> Tensor:
        x, dictionary = self.seen(evidence, parameters)
        gram, correlation = dictionary.mT @ dictionary, dictionary.mT @ x
        return ista.step(state, correlation, gram, parameters["rate"], parameters["penalty"], self.signed)

    def readout(self, evidence: Tensor, state: Tensor, parameters: Parameters) -> Tensor:
        return self.masks(state, parameters)

    def objective(self, evidence: Tensor, state: Tensor, parameters: Parameters) -> Tensor:
        """Return what a step with these parameters does not increase, one number per example: the objective of the
        sketch, or that of all of the evidence.
        """
        x, dictionary = self.seen(evidence, parameters)
        return ista.objective(state, x, dictionary, parameters["penalty"])

    def macs(self, rows: int, iterations: int) -> int:
        """Return the multiply-adds of one frame, for which the sketch itself is computed once."""
        atoms, full = sum(self.atoms), len(self.full(iterations))
        products = full * rows + (iterations - full) * self.sketch_rows
        return self.sketch_rows * rows + products * atoms + iterations * atoms**2
