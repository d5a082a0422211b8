"""Atoms for noise that was not in a model's training, learned from a stretch of nothing but noise.

The model's speech atoms, kept fixed, take part in explaining the stretch, so that the new atoms learn what speech
cannot explain: NMF with one part of the dictionary fixed (Smaragdis, Raj & Shashanka, "Supervised and semi-supervised
separation of sounds from single-channel mixtures", 2007). The new atoms then join the noise side in every layer of the
network. A network without atoms has no place for them.
"""

import torch
from torch import Tensor

from deepnmf_cli.errors import AudioError, UsageError
from deepnmf_cli.inference.dictionary import audible, learn_dictionary
from deepnmf_cli.networks.base import MaskNetwork
from deepnmf_cli.signal.level import SILENCE, normalise_level, stack_context

ATOMS = 16
"""Largest number of atoms for a profile."""

FRAMES_PER_ATOM = 2
"""Least number of frames per atom, so that a stretch of few frames gets fewer atoms: with as many atoms as frames, each
would remember one frame."""

MIN_FRAMES = 8
"""Least number of frames, with all their context, that a stretch must hold."""

ROUNDS, STEPS = 10, 10
"""Number of updates of the atoms, and of the activations before each of these."""


def with_noise(network: MaskNetwork, magnitude: Tensor) -> MaskNetwork:
    """Return the network with additional noise atoms for the noise in `magnitude` (F, N), N frames without speech.

    Raises UsageError for a network without atoms, and AudioError for a stretch that is too short or silent.
    """
    require_atoms(network)
    return network.with_noise_atoms(noise_atoms(network, magnitude))


def require_atoms(network: MaskNetwork) -> None:
    """Raise UsageError for a network that cannot learn a noise."""
    if not network.learns_noise:
        found = f"the model {network.name}, which has no atoms of noise"
        remedy = "Choose --model deep-nmf."
        raise UsageError("--noise-profile", found, "a model of the kind deep-nmf, dnmf or sparse-nmf", remedy)


@torch.no_grad()
def noise_atoms(network: MaskNetwork, magnitude: Tensor, atoms: int = ATOMS) -> Tensor:
    """Return atoms (T F, E) of unit norm, E <= `atoms`, for noise magnitudes (F, N).

    Raises AudioError as `with_noise` does.
    """
    settings = network.settings
    sounding = magnitude[:, magnitude.square().mean(0) > SILENCE**2]
    expected = f"at least {MIN_FRAMES + settings.context - 1} frames of 16 ms in which there is noise"
    if sounding.shape[1] < MIN_FRAMES + settings.context - 1:
        found = f"{sounding.shape[1]} frames of it"
        raise AudioError("noise profile", found, expected, "Choose a longer stretch without speech.")
    evidence, _ = normalise_level(sounding[None])
    frames = stack_context(evidence, settings.context)[0][0][:, settings.context - 1 :]
    most = min(frames.shape[1] // FRAMES_PER_ATOM, audible(frames).numel())  # a loud pop may outdo all the rest
    return learn_dictionary(
        lambda _: frames,
        ROUNDS,
        min(atoms, max(1, most)),
        settings.beta,
        activation_steps=STEPS,
        memory=0.0,
        fixed=network.speech_atoms,
    )
