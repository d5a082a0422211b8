"""A trained grid with another front end: nodes at other frequencies, windows of another length."""

import numpy as np
import torch
from torch import Tensor

from deepnmf_cli.networks.grid_settings import GridSettings
from deepnmf_cli.signal.bands import band_matrix
from deepnmf_cli.signal.stft import FrontEnd

Weights = dict[str, Tensor]

OF_NODES = ("observe_bias", "time_bias", "frequency_bias", "frame_spread")
"""Prefixes of the names of weights whose rows belong to nodes, unless they are vectors that all nodes share."""


def relocated(given: Weights, old: tuple[GridSettings, FrontEnd], new: tuple[GridSettings, FrontEnd]) -> Weights:
    """Return the weights of a grid for another front end; unchanged if nodes have another number of bands.

    Weights that every node has of its own are functions of frequency: they are interpolated linearly to the frequencies
    of the new nodes. What the spins of a frame receive is a sum over nodes, so a new node's share is the number of old
    ones that it stands for. With other windows, the phase difference of neighbouring bins turns by a constant angle,
    and the weights for it turn with it. All other weights are shared by all nodes, and stay as they are.
    """
    before, after = old[0], new[0]
    if after.bands_per_node != before.bands_per_node:
        return given
    place = np.interp(node_frequencies(after), node_frequencies(before), np.arange(before.nodes))
    rows = torch.from_numpy(np.maximum(0, 1 - np.abs(place[:, None] - np.arange(before.nodes)))).float()
    stands_for = torch.from_numpy(np.gradient(place)).float()
    moved = {}
    for name, x in given.items():
        if name.startswith(OF_NODES) and x.dim() == 2:
            x = (rows @ x.reshape(before.nodes, -1)).reshape(-1, x.shape[-1])
        elif name.startswith("frame_weight"):
            merged = (rows * stands_for[:, None]) @ x.reshape(len(x), before.nodes, -1)
            x = merged.reshape(len(x), -1)
        elif name.startswith("phase_weight"):
            x = _turned(x, middle(new[1]) - middle(old[1]))
        moved[name] = x
    return moved


def node_frequencies(settings: GridSettings) -> np.ndarray:
    """Return the mean frequency in Hz of each node's bands, (N,) float64."""
    s = settings
    bands = band_matrix(s.bins, s.single_bands, s.wide_bands, s.rate_hz).astype(np.float64)
    centres = bands @ np.linspace(0, s.rate_hz / 2, s.bins) / bands.sum(1)
    return centres.reshape(s.nodes, s.bands_per_node).mean(1)


def middle(front_end: FrontEnd) -> float:
    """Return the angle of the mean X_f conj(X_f+1) of white noise: where in the window its energy is centred."""
    window = front_end.pair(front_end.rate_hz).window
    return float(np.angle((window**2) @ np.exp(2j * np.pi * np.arange(len(window)) / len(window))))


def _turned(weight: Tensor, angle: float) -> Tensor:
    """Return phase weights (C, 4 E) that act as before if differences in frequency are turned by `angle`."""
    turned = weight.reshape(len(weight), 4, -1).clone()
    real, imaginary = turned[:, 2].clone(), turned[:, 3].clone()
    turned[:, 2] = np.cos(angle) * real - np.sin(angle) * imaginary
    turned[:, 3] = np.sin(angle) * real + np.cos(angle) * imaginary
    return turned.reshape(weight.shape)
