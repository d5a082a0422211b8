"""A network that torch computes, as streaming needs it."""

from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deepnmf_cli.networks.base import MaskNetwork


class TorchBackend:
    """A `streaming.Backend` on a device of torch."""

    def __init__(self, network: MaskNetwork, device: str | torch.device = "cpu") -> None:
        self.network, self.device = network.to(device).eval().requires_grad_(False), device

    def __call__(self, magnitude: Tensor, state: Any) -> tuple[Tensor, Any]:
        return self.network(magnitude, state)

    def from_numpy(self, samples: np.ndarray) -> Tensor:
        return torch.from_numpy(samples).to(self.device)

    def to_numpy(self, samples: Tensor) -> np.ndarray:
        return samples.cpu().numpy()

    def running(self) -> AbstractContextManager:
        return torch.inference_mode()
