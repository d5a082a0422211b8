"""Glow: an invertible network with exact likelihoods (Kingma & Dhariwal 2018, arXiv:1807.03039), as pure functions.

z = G(x) is normally distributed where x resembles the training images. Each level squeezes 2 x 2 pixels into channels,
runs several steps of flow and, except for the last level, outputs half of its channels as finished:

    actnorm           y_c = (x_c + b_c) exp(s_c)                      log-determinant  H W sum_c s_c
    mixing            y = W x at every pixel, W (C, C) invertible     H W log |det W|
    affine coupling   y_a = x_a,  y_b = (x_b + t) exp(tanh(s)),       sum tanh(s)
                      (s, t) a network of x_a

The factor of the coupling lies between 1/e and e. The reference code has sigmoid(s + 2) instead, which may come close
to 0: the inverse of a layer that is trained without a likelihood would then overflow.

Every function takes all weights by name, so that flows can be separate for each layer, fixed, or averaged, like other
parameters.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import conv2d, pixel_shuffle, pixel_unshuffle

Weights = Mapping[str, Tensor]

LEAST_DEVIATION = 1e-3
"""Smallest standard deviation assumed for a channel of the data from which actnorm is initialised."""


@dataclass(frozen=True)
class Glow:
    """The shape of a flow on images (B, `channels`, H, W); H and W are multiples of 2 ** `levels`."""

    channels: int = 1
    levels: int = 2
    steps: int = 4
    """Steps of flow in each level."""
    width: int = 64
    """Channels inside the network of a coupling."""

    def initial(self, draw: torch.Generator) -> dict[str, Tensor]:
        """Return the initial weights: random rotations, and couplings that are the identity."""
        found = {}
        for prefix, c in self._prefixes():
            half, rest = c // 2, c - c // 2
            rotation = torch.linalg.qr(torch.randn(c, c, generator=draw))[0].contiguous()
            found |= {
                f"{prefix}_bias": torch.zeros(c),
                f"{prefix}_scale": torch.zeros(c),
                f"{prefix}_mix": rotation,
                f"{prefix}_in": 0.05 * torch.randn(self.width, half, 3, 3, generator=draw),
                f"{prefix}_inner": torch.randn(self.width, self.width, 1, 1, generator=draw) / self.width**0.5,
                f"{prefix}_out": torch.zeros(2 * rest, self.width, 3, 3),
                f"{prefix}_in_bias": torch.zeros(self.width),
                f"{prefix}_inner_bias": torch.zeros(self.width),
                f"{prefix}_out_bias": torch.zeros(2 * rest),
            }
        return found

    def from_data(self, weights: Weights, x: Tensor) -> dict[str, Tensor]:
        """Return the weights with actnorms that give images x (B, C, H, W) mean 0 and variance 1 in each channel."""
        found = dict(weights)

        def measured(prefix: str, x: Tensor) -> None:
            mean, deviation = x.mean((0, 2, 3)), x.std((0, 2, 3)).clamp_min(LEAST_DEVIATION)
            found[f"{prefix}_bias"], found[f"{prefix}_scale"] = -mean, -deviation.log()

        with torch.no_grad():
            self._forward(x, found, measured)
        return found

    def forward(self, x: Tensor, weights: Weights) -> tuple[list[Tensor], Tensor]:
        """Return z, one tensor for each level, and the log-determinant (B,) of dz/dx, for images x (B, C, H, W)."""
        return self._forward(x, weights, lambda prefix, x: None)

    def _forward(
        self, x: Tensor, weights: Weights, before: Callable[[str, Tensor], None]
    ) -> tuple[list[Tensor], Tensor]:
        total, finished = x.new_zeros(len(x)), []
        for level in range(self.levels):
            x = pixel_unshuffle(x, 2)
            for step in range(self.steps):
                prefix = _prefix(level, step)
                before(prefix, x)
                x, change = _flow(x, weights, prefix)
                total = total + change
            if level < self.levels - 1:
                x, out = x.chunk(2, 1)
                finished.append(out)
        return [*finished, x], total

    def inverse(self, z: list[Tensor], weights: Weights) -> Tensor:
        """Return the images x (B, C, H, W) for which `forward` returns z."""
        x = z[-1]
        for level in reversed(range(self.levels)):
            if level < self.levels - 1:
                x = torch.cat([x, z[level]], 1)
            for step in reversed(range(self.steps)):
                x = _flow_back(x, weights, _prefix(level, step))
            x = pixel_shuffle(x, 2)
        return x

    def negative_log_likelihood(self, x: Tensor, weights: Weights) -> Tensor:
        """-log p(x) in nats (B,), for z of a standard normal distribution: |z|^2/2 + n log(2 pi)/2 - log |dz/dx|."""
        z, change = self.forward(x, weights)
        count = x[0].numel()
        return energy(z) + 0.5 * count * torch.log(torch.tensor(2 * torch.pi)) - change

    def _prefixes(self) -> list[tuple[str, int]]:
        """Return the prefixes of the names of all steps of flow, and their numbers of channels."""
        found, channels = [], self.channels
        for level in range(self.levels):
            channels *= 4
            found += [(_prefix(level, step), channels) for step in range(self.steps)]
            channels //= 2
        return found


def energy(z: list[Tensor]) -> Tensor:
    """|z|^2 / 2, (B,)."""
    return torch.stack([part.square().flatten(1).sum(1) for part in z]).sum(0) / 2


def _prefix(level: int, step: int) -> str:
    return f"level{level}_step{step}"


def _flow(x: Tensor, weights: Weights, prefix: str) -> tuple[Tensor, Tensor]:
    """One step of flow on (B, C, H, W), and its log-determinant (B,)."""
    w, pixels = partial(_named, weights, prefix), x.shape[-2] * x.shape[-1]
    x = (x + w("bias")[:, None, None]) * w("scale").exp()[:, None, None]
    x = conv2d(x, w("mix")[..., None, None])
    first, second = _halves(x)
    log_factor, shift = _coupling(first, w)
    second = (second + shift) * log_factor.exp()
    same = pixels * (w("scale").sum() + torch.linalg.slogdet(w("mix")).logabsdet)
    return torch.cat([first, second], 1), same + log_factor.flatten(1).sum(1)


def _flow_back(x: Tensor, weights: Weights, prefix: str) -> Tensor:
    """Invert `_flow`: return the x that it was given."""
    w = partial(_named, weights, prefix)
    first, second = _halves(x)
    log_factor, shift = _coupling(first, w)
    x = torch.cat([first, second * (-log_factor).exp() - shift], 1)
    x = conv2d(x, torch.linalg.inv(w("mix"))[..., None, None])
    return x * (-w("scale")).exp()[:, None, None] - w("bias")[:, None, None]


def _coupling(first: Tensor, w: Callable[[str], Tensor]) -> tuple[Tensor, Tensor]:
    """The logarithm of the factor, and the shift, for the other channels."""
    hidden = conv2d(first, w("in"), w("in_bias"), padding=1).relu()
    hidden = conv2d(hidden, w("inner"), w("inner_bias")).relu()
    raw, shift = conv2d(hidden, w("out"), w("out_bias"), padding=1).chunk(2, 1)
    return raw.tanh(), shift


def _halves(x: Tensor) -> tuple[Tensor, Tensor]:
    half = x.shape[1] // 2
    return x[:, :half], x[:, half:]


def _named(weights: Weights, prefix: str, name: str) -> Tensor:
    return weights[f"{prefix}_{name}"]
