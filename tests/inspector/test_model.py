"""A model from inside: layers are those of a stopped network, atoms and activations belong together."""

import numpy as np
import pytest
import torch

from deepnmf_cli.enhancer import Enhancer
from deepnmf_cli.inspector import model as models
from deepnmf_cli.inspector.model import FOLLOWED, Inspected, activations, atoms, chosen_layers, layers, units
from deepnmf_cli.inspector.recording import hear
from deepnmf_cli.networks import NETWORKS, build
from deepnmf_cli.networks.backend import TorchBackend
from deepnmf_cli.networks.deep_nmf import DeepNmf, DeepNmfSettings
from deepnmf_cli.networks.dnn import Dnn
from deepnmf_cli.networks.grid import Grid, GridSettings
from deepnmf_cli.networks.sparse import ALGORITHMS
from deepnmf_cli.recipe import read_recipe
from deepnmf_cli.signal.stft import FrontEnd

RATE_HZ = 16000


@pytest.fixture
def nmf():
    torch.manual_seed(0)
    return Inspected(DeepNmf(DeepNmfSettings(context=2, atoms=5, iterations=12, trained_layers=2)), FrontEnd())


@pytest.fixture
def grid():
    torch.manual_seed(0)
    shape = {"bins": 257, "single_bands": 16, "wide_bands": 8, "channels": 6, "iterations": 3}
    return Inspected(Grid(GridSettings(**shape)), FrontEnd())


def test_layers_are_chosen_evenly_with_both_ends():
    assert chosen_layers(range(1, 5)) == [1, 2, 3, 4]
    assert chosen_layers(range(1, 26)) == [1, 4, 8, 11, 15, 18, 22, 25]


def test_each_layer_sounds_as_the_network_that_is_stopped_there(nmf, voice, hiss):
    samples = (voice(0.5) + hiss(0.5))[None]
    whole = hear(nmf.enhancer, samples, RATE_HZ)
    section = layers(nmf, whole, RATE_HZ)
    shown = [1, 3, 4, 6, 7, 9, 10, 12]
    heard = {panel.title: panel for panel in section.panels if panel.samples is not None}
    assert list(heard) == [f"layer {k}" for k in shown] and "8 of 12 layers are shown" in section.text
    for k in (1, 7, 12):
        stopped = Enhancer(TorchBackend(nmf.network), FrontEnd(), k).enhance(samples, RATE_HZ)
        np.testing.assert_array_equal(heard[f"layer {k}"].samples, stopped)
    likeness = 10 * np.log10(np.square(whole.speech).sum() / np.square(whole.speech - heard["layer 1"].samples).sum())
    assert heard["layer 1"].text == f"{likeness:.1f} dB of likeness" and heard["layer 12"].text == "all layers"
    assert nmf.network.unfolded.depth == 12  # the model itself still has all of its layers
    assert layers(Inspected(Dnn(), FrontEnd()), whole, RATE_HZ) is None


def test_atoms_are_sorted_and_their_activations_stand_in_the_same_order():
    """Lines at single frequencies as atoms: what is heard at one of them activates the atom of that place."""
    places = [200, 40, 120, 60, 20, 180]  # speech in the first half, in no order
    dictionary = torch.full((257, 6), 1e-4)
    for atom, place in enumerate(places):
        dictionary[place - 1 : place + 2, atom] = 0.5
    settings = DeepNmfSettings(context=1, atoms=3, iterations=10, trained_layers=0, sparsity=0.01)
    model = Inspected(DeepNmf(settings, dictionary / dictionary.norm(dim=0)), FrontEnd())
    speech, noise = atoms(model)
    assert list(speech.argmax(0)) == [39, 119, 199] and list(noise.argmax(0)) == [19, 59, 179]
    assert speech.max() == pytest.approx(1)

    time_s = np.arange(RATE_HZ) / RATE_HZ
    tones = [np.sin(2 * np.pi * place * 8000 / 256 * time_s) for place in (200, 40, 60)]
    samples = np.concatenate([0.3 * tone for tone in tones])[None].astype(np.float32)
    section = activations(model, hear(model.enhancer, samples, RATE_HZ))
    of_speech, of_noise = (panel.values for panel in section.panels)
    assert of_speech.shape == of_noise.shape == (3, 189)
    assert of_speech[:, 30].argmax() == 2 and of_speech[:, 95].argmax() == 0 and of_noise[:, 160].argmax() == 1
    assert of_noise[:, 160].max() > of_speech[:, 160].max() + 20
    assert models.atom_section(Inspected(Dnn(), FrontEnd())) is None


def test_units_are_compared_with_what_they_may_follow(grid, voice, hiss):
    heard = hear(grid.enhancer, (voice(1.0) + hiss(1.0))[None], RATE_HZ)
    network = grid.network
    with torch.inference_mode(), network.unfolded.remembered() as trace:
        masks, _ = network(torch.from_numpy(heard.inputs)[None])
        spins = torch.tanh(trace.states[3][0][:, 0]).numpy()
    np.testing.assert_allclose(masks[0, 0].numpy(), heard.mask, atol=1e-5)  # one pass is what the stream did
    section = units(grid, heard)
    (header, rows) = section.table
    assert header == ("unit", "follows", *FOLLOWED) and sorted(row[0] for row in rows) == list("123456")
    nodes = network.pool(torch.from_numpy(heard.mask)).unflatten(0, (spins.shape[1], -1)).mean(1).T.numpy()
    for row in rows:
        numbers = np.array(row[2:], float)
        expected = np.corrcoef(spins[..., int(row[0]) - 1].ravel(), nodes.ravel())[0, 1]
        assert numbers[FOLLOWED.index("mask")] == pytest.approx(expected, abs=0.006)
        assert abs(numbers[FOLLOWED.index(row[1])]) == np.abs(numbers).max()
    first = section.panels[0]
    unit = int(first.title.split()[1].rstrip(":")) - 1
    np.testing.assert_array_equal(first.values, spins[..., unit].T)
    assert units(Inspected(Dnn(), FrontEnd()), heard) is None


@pytest.mark.parametrize("name", [*NETWORKS, *(f"sparse-coding {name}" for name in ALGORITHMS)])
def test_every_network_can_be_inspected(name, hiss):
    name, _, algorithm = name.partition(" ")
    torch.manual_seed(0)
    recipe = read_recipe(None, name, [f"network.algorithm={algorithm}"] if algorithm else [], None)
    model = Inspected(build(recipe.model, recipe.network).eval(), recipe.front_end)
    heard = hear(model.enhancer, hiss(0.5)[None], RATE_HZ)
    assert (layers(model, heard, RATE_HZ) is None) == (len(model.network.depths) <= 1)
    used, found = activations(model, heard), atoms(model)
    assert (used is None) == (found is None) == (models.atom_section(model) is None)
    if found is not None:
        assert [panel.values.shape[0] for panel in used.panels] == [spectra.shape[1] for spectra in found]
        assert {panel.values.shape[1] for panel in used.panels} == {heard.mask.shape[1]}
    assert (units(model, heard) is None) == (name not in ("grid", "grid-fixed"))


def test_onsets_and_levels_are_followed_by_what_rises_with_them(grid, hiss):
    """Of a sound that is switched on, the onset is high in one frame, and the level from then on."""
    magnitude = np.full((257, 10), 1e-3, np.float32)
    magnitude[:, 5:] = 1
    followed = dict(zip(FOLLOWED, models._followed(grid.network, magnitude, np.full((257, 10), 0.5)), strict=True))
    assert followed["onset"].mean(1).argmax() == 5
    assert followed["level"][6:].min() > followed["level"][:5].max()
    np.testing.assert_allclose(followed["mask"], 0.5, atol=1e-6)
    np.testing.assert_allclose(followed["speech"], followed["noise"])
    np.testing.assert_allclose(followed["level"][6:] - followed["speech"][6:], 20 * np.log10(2), atol=0.05)
    np.testing.assert_allclose(followed["peak in frequency"], 0, atol=1e-4)
