"""How one batch changes the weights: what every optimiser offers the trainer, and descent along the gradient."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from deepnmf_cli.inference.nmf import join_frames
from deepnmf_cli.networks.base import MaskNetwork
from deepnmf_cli.networks.frames import FrameNetwork
from deepnmf_cli.signal.features import modulus, normalise_level, stack_context
from deepnmf_cli.signal.stft import FrontEnd
from deepnmf_cli.training.frames import FrameBatch
from deepnmf_cli.training.objectives import ObjectiveSettings, objective

State = dict[int, dict[str, Tensor]]
"""What an optimiser remembers, by number of the trained tensor and by name."""


@dataclass(frozen=True)
class Batch:
    """True speech and noise of mixtures: waveforms (B, 2, N) and spectra (B, 2, F, T), complex, of windows of so many
    hops."""

    waveforms: Tensor
    spectra: Tensor
    window_hops: int

    @property
    def magnitude(self) -> Tensor:
        """Of the mixtures, (B, F, T)."""
        return modulus(self.spectra.sum(1))

    def masks(self, network: MaskNetwork) -> Tensor:
        """What the network says to the mixtures."""
        return network(network.hear(self.spectra.sum(1), self.window_hops))[0]

    def stacked(self, network: FrameNetwork) -> tuple[Tensor, None]:
        """The evidence of a network of context frames, (context F, B T); nothing is known about its layers."""
        return join_frames(stack_context(normalise_level(self.magnitude)[0], network.settings.context)[0]), None


class Optimiser(Protocol):
    """Changes the weights of one network."""

    def step(self, batch: Batch | FrameBatch, learning_rate: float) -> float:
        """One step; returns the loss before it."""

    def state(self) -> State:
        """What a continued run needs to go on bit for bit."""

    def load_state(self, state: State) -> None:
        """Take what `state` gave."""


class GradientDescent:
    """Adam on the objective's gradient with respect to the parameters as the network has them; or Muon for those that
    are matrices, and Adam for the others.

    Muon (Jordan et al., 2024) moves a matrix along the orthogonal factor of its gradient's running mean, so that all
    directions are learned at one speed, not those first that a batch says most about. It is scaled such that entries
    move about as far as under Adam, and one learning rate serves both.
    """

    def __init__(
        self,
        network: MaskNetwork,
        front_end: FrontEnd,
        settings: ObjectiveSettings,
        clip_norm: float,
        mixed_precision: bool,
        muon: bool = False,
    ) -> None:
        """Gradients are scaled down to `clip_norm`; `mixed_precision` means bfloat16 matrix products on CUDA."""
        self.network, self.front_end, self.settings = network, front_end, settings
        self.clip_norm, self.mixed_precision = clip_norm, mixed_precision
        self.trained = [p for p in network.parameters() if p.requires_grad]
        matrices = [i for i, p in enumerate(self.trained) if muon and p.dim() == 2 and min(p.shape) > 1]
        others = [i for i in range(len(self.trained)) if i not in matrices]
        self.parts: list[tuple[list[int], torch.optim.Optimizer]] = []
        """Numbers of the trained tensors, and what changes them."""
        if others:
            self.parts.append((others, torch.optim.Adam([self.trained[i] for i in others])))
        if matrices:
            given = [self.trained[i] for i in matrices]
            self.parts.append((matrices, torch.optim.Muon(given, weight_decay=0.0, adjust_lr_fn="match_rms_adamw")))

    def step(self, batch: Batch | FrameBatch, learning_rate: float) -> float:
        """One gradient step; returns the loss before it."""
        with torch.autocast("cuda", torch.bfloat16, enabled=self.mixed_precision):
            masks = batch.masks(self.network)
        loss = objective(self.settings, masks.float(), batch.spectra, batch.waveforms, self.front_end)
        for _, optimiser in self.parts:
            optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.trained, self.clip_norm)
        for _, optimiser in self.parts:
            for group in optimiser.param_groups:
                group["lr"] = learning_rate
            optimiser.step()
        return float(loss.detach())

    def state(self) -> State:
        """Running moments and step counts."""
        states = [(numbers, optimiser.state_dict()["state"]) for numbers, optimiser in self.parts]
        return {numbers[i]: held for numbers, state in states for i, held in state.items()}

    def load_state(self, state: State) -> None:
        """Take what `state` gave."""
        for numbers, optimiser in self.parts:
            own = {i: state[number] for i, number in enumerate(numbers) if number in state}
            optimiser.load_state_dict({"state": own, "param_groups": optimiser.state_dict()["param_groups"]})
