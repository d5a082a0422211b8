"""Proximal descent with a Glow as the prior, for images with missing pixels, or seen through a linear map.

    f(x) = w/2 |A x - y|^2 + 1/2 |G(x)|^2

    x <- x - mu A^T (A x - y),   x <- G^-1(G(x) / (1 + lambda))

after the GLOW-Prox network of Hadou, NaderiAlizadeh & Ribeiro (arXiv:2312.15788). Division by 1 + lambda is the
proximal map of lambda/2 |z|^2 in z. It is that of the prior in x only where G is orthogonal, so f need not fall; the
descent constraints of `deepnmf_cli.training.primal_dual` make it fall on average. Here A selects some pixels, so that
A^T A is a mask.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from deepnmf_cli.inference.algorithm import Algorithm, Parameter, Parameters
from deepnmf_cli.inference.glow import Glow, Weights, energy

Masked = tuple[Tensor, Tensor]
"""Evidence: y (B, C, H, W), zero where nothing is known, and the mask (B, 1, H, W), 1 where y is known."""

RATE, SHRINKAGE = 0.9, 0.1
"""Values of mu and lambda at the start of training."""


@dataclass(frozen=True)
class GlowProx(Algorithm[Masked, Tensor]):
    """Proximal steps on images (B, C, H, W)."""

    glow: Glow
    fidelity: float = 100.0
    """The weight w of known pixels in the objective."""

    def parameters(self, iterations: int, weights: Weights) -> dict[str, Parameter]:
        """Return a flow, a rate and a shrinkage for each layer; all flows start from these `weights`."""
        steps = range(iterations)

        def flow(_: int) -> nn.ParameterDict:
            return nn.ParameterDict({name: nn.Parameter(x.clone()) for name, x in weights.items()})

        return {
            "flow": Parameter(steps, flow),
            "rate": Parameter(steps, lambda _: torch.tensor(RATE), kind="softplus"),
            "shrinkage": Parameter(steps, lambda _: torch.tensor(SHRINKAGE), kind="softplus"),
        }

    def start(self, evidence: Masked, parameters: Parameters) -> Tensor:
        """A^T y."""
        return evidence[0]

    def step(self, evidence: Masked, state: Tensor, parameters: Parameters) -> Tensor:
        observed, known = evidence
        state = state - parameters["rate"] * known * (state - observed)
        z, _ = self.glow.forward(state, parameters["flow"])
        return self.glow.inverse([part / (1 + parameters["shrinkage"]) for part in z], parameters["flow"])

    def readout(self, evidence: Masked, state: Tensor, parameters: Parameters) -> Tensor:
        return state

    def objective(self, evidence: Masked, state: Tensor, weights: Weights) -> Tensor:
        """f(x), (B,), with the flow of `weights`."""
        return self._misfit(evidence, state) + energy(self.glow.forward(state, weights)[0])

    def gradients(self, evidence: Masked, state: Tensor, weights: Weights) -> tuple[Tensor, Tensor]:
        """Return the norms (B,) of df/dx, and of df/dz for f as a function of z = G(x), which descent constraints
        bound. They are themselves differentiable.
        """
        with torch.enable_grad():
            state = state if state.requires_grad else state.detach().requires_grad_()
            z, _ = self.glow.forward(state, weights)
            of_image = self._misfit(evidence, state) + energy(z)
            of_code = self._misfit(evidence, self.glow.inverse(z, weights)) + energy(z)
            return _length(torch.autograd.grad(of_image.sum(), state, create_graph=True)), _length(
                torch.autograd.grad(of_code.sum(), z, create_graph=True)
            )

    def _misfit(self, evidence: Masked, state: Tensor) -> Tensor:
        observed, known = evidence
        return self.fidelity / 2 * (known * (state - observed)).square().flatten(1).sum(1)


def _length(tensors: Sequence[Tensor]) -> Tensor:
    """Return the norm (B,) of several tensors taken together."""
    return torch.stack([x.square().flatten(1).sum(1) for x in tensors]).sum(0).sqrt()
