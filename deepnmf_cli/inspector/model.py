"""Inspection of a model: its estimate after every layer, the atoms of its dictionaries, and what its units follow."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deepnmf_cli.enhancer import Enhancer
from deepnmf_cli.inference.nmf import DICTIONARY
from deepnmf_cli.inspector.panels import Panel, Section
from deepnmf_cli.inspector.recording import Heard, hear, hertz
from deepnmf_cli.networks.backend import TorchBackend
from deepnmf_cli.networks.band_network import BandNetwork
from deepnmf_cli.networks.base import MaskNetwork
from deepnmf_cli.networks.grid import Grid, GridWiring
from deepnmf_cli.pages.render import RANGE_DB
from deepnmf_cli.signal.level import normalise_level
from deepnmf_cli.signal.spectrogram import spectrogram_db
from deepnmf_cli.signal.stft import FrontEnd
from deepnmf_cli.unfold.network import Unfolded

MOST_LAYERS = 8
"""Largest number of layers that are shown, including the first and the last."""

MOST_UNITS = 6
"""Largest number of units of the grid that are shown as pictures."""

ATOM_RANGE_DB = 40.0


@dataclass(frozen=True)
class Inspected:
    """A network and its front end."""

    network: MaskNetwork
    front_end: FrontEnd

    @property
    def enhancer(self) -> Enhancer:
        """The enhancer with all layers, on the CPU."""
        return Enhancer(TorchBackend(self.network), self.front_end)

    @property
    def highest_hz(self) -> float:
        """Highest frequency of the network's band in Hz."""
        return self.front_end.rate_hz / 2


def chosen_layers(depths: range) -> list[int]:
    """Return at most MOST_LAYERS of the depths, evenly spaced, including the first and the last."""
    if len(depths) <= MOST_LAYERS:
        return list(depths)
    return sorted({round(place) for place in np.linspace(depths[0], depths[-1], MOST_LAYERS)})


def layers(model: Inspected, whole: Heard, rate_hz: int) -> Section | None:
    """Return a section with the results of stopping the network after each layer; None if it cannot be stopped.

    `whole` is the result with all layers.
    """
    if len(model.network.depths) < 2:
        return None
    shown = chosen_layers(model.network.depths)
    found = {k: hear(Enhancer(model.enhancer.backend, model.front_end, k), whole.samples, rate_hz) for k in shown[:-1]}
    found[shown[-1]] = whole
    pictures = {k: spectrogram_db(heard.speech, rate_hz, 400) for k, heard in found.items()}
    loudest = float(spectrogram_db(whole.samples, rate_hz, 400).max())
    seconds = whole.samples.shape[1] / rate_hz
    panels = []
    for k, heard in found.items():
        name = f"layer {k}"
        text = "all layers" if k == shown[-1] else f"{_likeness_db(heard.speech, whole.speech):.1f} dB of likeness"
        values, limits = pictures[k], (loudest - RANGE_DB, loudest)
        panels.append(
            Panel(name, values, *limits, hertz(rate_hz / 2), f"{seconds:.1f} s", text=text, samples=heard.speech)
        )
    panels += [
        Panel(f"mask of layer {k}", heard.mask, 0, 1, hertz(model.highest_hz), f"{seconds:.1f} s", "viridis")
        for k, heard in found.items()
    ]
    text = (
        "Every layer is a step of inference: its state is read out as if it were the last. Likeness is the energy of "
        "the last layer's estimate over that of the difference."
    )
    if len(shown) < len(model.network.depths):
        text += f" {len(shown)} of {len(model.network.depths)} layers are shown."
    return Section("Layer by layer", text, panels=panels, rate_hz=rate_hz, seconds=seconds)


def _likeness_db(estimate: np.ndarray, last: np.ndarray) -> float:
    difference = float(np.square(last - estimate, dtype=np.float64).sum())
    energy = float(np.square(last, dtype=np.float64).sum())
    return float(np.clip(10 * np.log10((energy + 1e-30) / (difference + 1e-30)), -100, 100))


def _unfolded(network: MaskNetwork) -> Unfolded | None:
    found = getattr(network, "unfolded", None)
    return found if isinstance(found, Unfolded) else None


def atoms(model: Inspected) -> tuple[np.ndarray, np.ndarray] | None:
    """Return the spectra (F, R) of the atoms of speech and of noise in the first layer; None without dictionaries.

    Each spectrum has a peak of 1, and they are sorted by the centres of their energy. The spectrum of an atom over
    several frames is the mean over these.
    """
    unfolded = _unfolded(model.network)
    if unfolded is None or DICTIONARY not in unfolded.bank.ties:
        return None
    spectra, speech = _spectra(model.network, unfolded), unfolded.algorithm.atoms[0]
    spectra = spectra / spectra.max(0).clip(1e-12)
    return _sorted(spectra[:, :speech])[0], _sorted(spectra[:, speech:])[0]


def _spectra(network: MaskNetwork, unfolded: Unfolded) -> np.ndarray:
    """Return the spectra (F, R) of the first layer's atoms, each the mean over the frames of an atom."""
    dictionary = unfolded.bank.value(DICTIONARY, 0).detach().cpu()
    spectra = dictionary.unflatten(0, (-1, unfolded.algorithm.bins)).abs().mean(0)
    if isinstance(network, BandNetwork):
        spectra = network.spread(spectra.T).T
    return spectra.numpy()


def _sorted(spectra: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the spectra (F, R) in the order of their centres of energy, and that order."""
    power = spectra**2
    centre = (np.arange(len(power))[:, None] * power).sum(0) / power.sum(0).clip(1e-30)
    order = np.argsort(centre, kind="stable")
    return spectra[:, order], order


def atom_section(model: Inspected) -> Section | None:
    """Return a section with pictures of the sorted atoms; None if there are none."""
    if (found := atoms(model)) is None:
        return None
    panels = [
        Panel(name, 20 * np.log10(np.maximum(spectra, 1e-6)), -ATOM_RANGE_DB, 0, hertz(model.highest_hz), f"{n} atoms")
        for name, spectra in zip(("atoms of speech", "atoms of noise"), found, strict=True)
        if (n := spectra.shape[1])
    ]
    text = "Spectra of the first layer's atoms, from low to high, each in dB below its own peak."
    return Section("Atoms", text, panels=panels)


@torch.inference_mode()
def activations(model: Inspected, heard: Heard) -> Section | None:
    """Return a section on the use of each atom over time after the last layer, in the order of `atom_section`."""
    found, unfolded = atoms(model), _unfolded(model.network)
    if found is None or unfolded is None:
        return None
    values = _use(_states(model.network, heard)[unfolded.iterations])
    speech = found[0].shape[1]
    spectra = _spectra(model.network, unfolded)
    panels = []
    for name, part in (("speech", slice(0, speech)), ("noise", slice(speech, None))):
        rows = values[part][_sorted(spectra[:, part])[1]]
        levels = 20 * np.log10(np.maximum(np.abs(rows), 1e-6))
        highest = float(levels.max())
        panels.append(Panel(f"activations of {name}", levels, highest - 60, highest, f"{len(rows)}", "end"))
    text = "How strongly each atom is used, from the lowest spectrum to the highest, in dB down to -60."
    return Section("Activations", text, panels=panels)


def _use(state: Tensor | tuple[Tensor, ...]) -> np.ndarray:
    """Return the activations (R, T) in the state of one example, which accelerated algorithms give first among others,
    sparse coding as (1, R, T), recurrent networks as (R, T, 1), and all others as (R, T).
    """
    use = state if isinstance(state, Tensor) else state[0]
    if use.dim() == 3:
        use = use[0] if len(use) == 1 else use[..., 0]
    return use.cpu().numpy()


def _states(network: MaskNetwork, heard: Heard) -> dict[int, Any]:
    """Return the state after each layer, by its number, for the network's whole input as one block."""
    unfolded = _unfolded(network)
    assert unfolded is not None
    with unfolded.remembered() as trace:
        network(torch.from_numpy(heard.inputs)[None])
        return dict(trace.states)


FOLLOWED = ("level", "speech", "noise", "mask", "onset", "peak in frequency")
"""Quantities that units are compared with: levels of the recording, of the estimate and of what was removed; the mask;
the rise of the level since the last frame; and how far the level is above that of the neighbouring nodes."""


@torch.inference_mode()
def units(model: Inspected, heard: Heard) -> Section | None:
    """Return a section on what the spins of a `Grid` follow after its last layer; None for other networks.

    It has expectations tanh(u) of the field u, and their correlations over frames and nodes with what is known of the
    sound.
    """
    network, unfolded = model.network, _unfolded(model.network)
    if unfolded is None or not isinstance(network, Grid):
        return None
    states = _states(network, heard)
    field = states[unfolded.iterations][0][:, 0]  # (T, N, C)
    spins = torch.tanh(field).cpu().numpy()
    magnitude = heard.inputs if heard.inputs.ndim == 2 else heard.inputs[0]
    followed = _followed(network, magnitude, heard.mask)
    likeness = np.array([[_correlation(spins[..., c], other) for other in followed] for c in range(spins.shape[-1])])
    strongest = np.abs(likeness).max(1)
    order = np.lexsort((-strongest, np.abs(likeness).argmax(1)))
    shown = np.argsort(-strongest)[:MOST_UNITS]
    rows = [
        [f"{c + 1}", FOLLOWED[np.abs(likeness[c]).argmax()], *(f"{value:+.2f}" for value in likeness[c])] for c in order
    ]
    panels = [
        Panel(
            f"unit {c + 1}: {FOLLOWED[np.abs(likeness[c]).argmax()]} {likeness[c][np.abs(likeness[c]).argmax()]:+.2f}",
            spins[..., c].T, -1, 1, f"node {spins.shape[1]}", "end", "RdBu_r",
        )
        for c in shown
    ]  # fmt: skip
    text = (
        f"The grid has {spins.shape[-1]} units at each of {spins.shape[1]} nodes along frequency. The table has the "
        "correlation of each, over all frames and nodes, with what it may follow: the levels of the recording, of the "
        "estimate and of what is removed, the mask, the rise of the level, and its height above neighbouring nodes. "
        "The pictures are the units with the highest one."
    )
    return Section("Hidden units", text, panels=panels, table=(("unit", "follows", *FOLLOWED), rows))


def _followed(network: GridWiring, magnitude: np.ndarray, mask: np.ndarray) -> list[np.ndarray]:
    """Return the quantities of FOLLOWED, which units may follow, each (T, N)."""
    normalised = normalise_level(torch.from_numpy(magnitude)[None], None)[0][0].numpy()
    mixture, speech, noise = (_at_nodes(network, m * normalised) for m in (1.0, mask, (1 - mask).clip(0)))
    level, speech, noise = (20 * np.log10(values + 1e-3) for values in (mixture, speech, noise))
    onset = np.diff(level, axis=0, prepend=level[:1])
    around = np.pad(level, ((0, 0), (1, 1)), mode="edge")
    return [level, speech, noise, _at_nodes(network, mask), onset, level - (around[:, :-2] + around[:, 2:]) / 2]


def _at_nodes(network: GridWiring, values: np.ndarray) -> np.ndarray:
    """Return the means (T, N) of values (F, T) over the bands of each node."""
    bands = network.pool(torch.from_numpy(np.asarray(values, np.float32)))
    return bands.unflatten(0, (-1, network.settings.bands_per_node)).mean(1).T.numpy()


def _correlation(one: np.ndarray, other: np.ndarray) -> float:
    one, other = one.ravel() - one.mean(), other.ravel() - other.mean()
    size = float(np.sqrt(np.square(one).sum() * np.square(other).sum()))
    return float(one @ other) / size if size > 1e-12 else 0.0


def facts(model: Inspected) -> dict[str, str]:
    """Return facts about a model as text, by name."""
    network, front_end = model.network, model.front_end
    macs_per_s = network.macs_per_frame() * front_end.frames_per_s
    return {
        "network": f"{network.name}: {network.description}",
        "parameters": f"{network.parameter_counts()[0]:,}",
        "multiply-adds": f"{macs_per_s / 1e6:,.1f} million per second of audio",
        "layers": f"{len(network.depths)}" if network.depths else "only the last can be read out",
        "band": f"0 to {hertz(model.highest_hz)}",
        "window": f"{1000 * front_end.hop_s * front_end.window_hops:g} ms, every {1000 * front_end.hop_s:g} ms",
    }
