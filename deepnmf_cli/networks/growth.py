"""More spins for the frames of a trained grid, which do not change what it computes until they are trained."""

import torch
from torch import Tensor

Weights = dict[str, Tensor]


def widened(own: Weights, given: Weights) -> Weights:
    """Return the weights of frames in `own`, replaced by those in `given` if it has no more spins and channels.

    New spins (S) receive everything with random weights, and new channels (P) send nothing to the nodes; old spins
    receive nothing from new channels, and old channels pass on nothing from new spins. The grid of `own` thus computes
    what that of `given` does, and every new weight has a gradient as soon as those that are zero have moved. Empty
    unless layers and nodes agree.
    """
    layers = [name.rsplit("_", 1)[1] for name in own if name.startswith("frame_send_")]
    grown = {}
    for layer in layers:
        names = {part: f"frame_{part}_{layer}" for part in ("send", "weight", "bias", "spread", "receive")}
        mine = {part: own[name] for part, name in names.items()}
        if f"time_weight_{layer}" not in given:
            return {}
        theirs = {part: given.get(name, _none(mine, part)) for part, name in names.items()}
        if (layered := _layer(mine, theirs)) is None:
            return {}
        grown |= {names[part]: x for part, x in layered.items()}
    return grown


def _none(mine: Weights, part: str) -> Tensor:
    """Return the weights of no spins and no channels."""
    channels = mine["send"].shape[1]
    shapes = {"send": (0, channels), "weight": (0, 0), "bias": (0,), "spread": (0, 0), "receive": (channels, 0)}
    return torch.zeros(shapes[part])


def _layer(mine: Weights, theirs: Weights) -> Weights | None:
    """Return one layer of `widened`, or None if it does not fit."""
    (p, c), s = theirs["send"].shape, len(theirs["bias"]) // 2
    (channels, width), spins = mine["send"].shape, len(mine["bias"]) // 2
    nodes = len(mine["spread"]) // channels
    if c != width or p > channels or s > spins or theirs["weight"].numel() != 2 * s * nodes * p:
        return None
    new = {part: x.clone() for part, x in mine.items()}
    new["send"][:p] = theirs["send"]
    new["bias"].view(2, spins)[:, :s] = theirs["bias"].view(2, s)
    received = new["weight"].view(2, spins, nodes, channels)
    received[:, :s, :, p:] = 0
    received[:, :s, :, :p] = theirs["weight"].view(2, s, nodes, p)
    told = new["spread"].view(nodes, channels, spins)
    told[:, :p, s:] = 0
    told[:, :p, :s] = theirs["spread"].view(nodes, p, s)
    new["receive"][:, p:] = 0
    new["receive"][:, :p] = theirs["receive"]
    return new
