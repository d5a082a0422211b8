"""Backend for streaming that runs a network in PyTorch."""

import copy
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deepnmf_cli.networks.base import MaskNetwork
from deepnmf_cli.networks.noise_atoms import require_atoms, with_noise


class TorchBackend:
    """A `streaming.Backend` on a PyTorch device."""

    def __init__(self, network: MaskNetwork, device: str | torch.device = "cpu") -> None:
        self.network, self.device = network.to(device).eval().requires_grad_(False), device

    def __repr__(self) -> str:
        return f"torch on {self.device}"

    @property
    def uses_phase(self) -> bool:
        return self.network.uses_phase

    def __call__(self, inputs: Tensor, state: Any) -> tuple[Tensor, Any]:
        return self.network(inputs, state)

    def from_numpy(self, samples: np.ndarray) -> Tensor:
        return torch.from_numpy(samples).to(self.device)

    def to_numpy(self, samples: Tensor) -> np.ndarray:
        return samples.cpu().numpy()

    @property
    def depths(self) -> range:
        return self.network.depths

    def at_depth(self, depth: int) -> "TorchBackend":
        """Return the same network, stopped after `depth` layers. Raises UsageError as `MaskNetwork.stop_after` does."""
        network = copy.deepcopy(self.network)
        network.stop_after(depth)
        return TorchBackend(network, self.device)

    def hearing(self, bins: int) -> "TorchBackend":
        """Return the same network, with the same weights, after `MaskNetwork.hear`.

        Its states fit no other number of bins.
        """
        if not self.network.over_hz:
            return self
        network = copy.copy(self.network)
        network.hear(bins)
        return TorchBackend(network, self.device)

    def require_atoms(self) -> None:
        """Raise UsageError for a network that cannot learn a noise."""
        require_atoms(self.network)

    def with_noise(self, magnitude: np.ndarray) -> "TorchBackend":
        """Return the same network with atoms for noise, given magnitudes (F, N) as the network takes them.

        Raises UsageError as `with_noise` does.
        """
        network = with_noise(self.network, torch.from_numpy(magnitude).to(self.device))
        return TorchBackend(network, self.device)

    def running(self) -> AbstractContextManager:
        return torch.inference_mode()
