"""A network that is stopped after k layers is the network of k layers, bit for bit, whole and by pieces."""

import dataclasses

import numpy as np
import pytest
import torch

from deepnmf_cli import extras, zoo
from deepnmf_cli.enhancer import Enhancer
from deepnmf_cli.errors import UsageError
from deepnmf_cli.networks import build
from deepnmf_cli.networks.backend import TorchBackend
from deepnmf_cli.networks.base import MaskNetwork
from deepnmf_cli.recipe import Recipe
from deepnmf_cli.signal.stft import FrontEnd

LAYERS, FRAMES = 4, 12
BANDS = {"single_bands": 16, "wide_bands": 8}
GRID = {**BANDS, "channels": 4, "iterations": LAYERS}
FIELD = {"context": 2, "hidden": [8], "iterations": LAYERS}
STOPPED = {
    "grid": GRID,
    "grid with phase": {**GRID, "phase": True, "frame_spins": 3, "local_fields": True},
    "grid-field": GRID,
    "grid-fixed": GRID,
    "deep-nmf": {"context": 2, "atoms": 4, "iterations": LAYERS, "trained_layers": 2},
    "sparse-nmf": {"context": 2, "atoms": 4, "iterations": LAYERS},
    "sparse-coding": {**BANDS, "atoms": 6, "iterations": LAYERS},
    "sparse-coding by fista": {**BANDS, "atoms": 6, "iterations": LAYERS, "algorithm": "fista"},
    **{
        f"sparse-coding by {name}": {**BANDS, "atoms": 6, "iterations": LAYERS, "algorithm": name, **more}
        for name, more in (("lista", {}), ("hyperlista", {}), ("psista", {"period": 2, "sketch_bands": 8}))
    },
    "recurrent-ista": {**BANDS, "atoms": 6, "iterations": LAYERS},
    "recurrent-nmf": {**BANDS, "atoms": 6, "iterations": LAYERS},
    "belief-propagation": {**FIELD, "graph": "bands"},
    "belief-propagation of single messages": {**FIELD, "graph": "bands", "reciprocal": True, "tied": True},
    "mean-field": {**FIELD, "graph": "complete", "tied": True},
}
WHOLE = {
    "dnn": {"context": 2, "hidden": [8]},
    "rnn": {**BANDS, "hidden": 4},
    "grid-rnn": {**BANDS, "channels": 4, "iterations": 2},
    "mean-field": {"context": 2, "hidden": [8, 8]},
}


def made(name: str, network: dict) -> MaskNetwork:
    """A network of random weights, different in every layer that has its own."""
    torch.manual_seed(3)
    model = name.partition(" ")[0]
    recipe = Recipe.from_dict({"model": model, "network": network, "front_end": {"rate_hz": 8000}})
    found = build(model, recipe.network)
    with torch.no_grad():
        for parameter in found.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return found.eval()


def cut(whole: MaskNetwork, k: int) -> MaskNetwork:
    """The network whose layers are the first k of another one, and whose readout is that one's."""
    small, given = build(whole.name, dataclasses.replace(whole.settings, iterations=k)), whole.unfolded.bank
    values = {}
    for name, table in small.unfolded.bank.ties.items():
        for layer, slot in enumerate(table.slots):
            if slot is not None:
                values[f"{name}_{slot}"] = given.value(name, given.ties[name].slots[LAYERS if layer == k else layer])
    small.unfolded.bank.load_values(values)
    return small.eval()


def features(network: MaskNetwork) -> torch.Tensor:
    rows = (5, network.settings.bins) if network.uses_phase else (network.settings.bins,)
    drawn = torch.randn(1, *rows, FRAMES, generator=torch.Generator().manual_seed(1))
    return torch.cat([drawn[:, :1].abs(), drawn[:, 1:]], 1) if network.uses_phase else drawn.abs()


@pytest.mark.parametrize("name", STOPPED)
def test_stopped_after_k_layers_it_is_the_network_of_k_layers(name: str) -> None:
    network = made(name, STOPPED[name])
    inputs, whole_macs = features(network), network.macs_per_frame()
    with torch.no_grad():
        whole = network(inputs)[0]
        for depth in network.depths:
            network.stop_after(depth)
            small = cut(network, depth)
            masks = network(inputs)[0]
            assert torch.equal(masks, small(inputs)[0])
            first, state = network(inputs[..., :5])
            by_pieces = torch.cat([first, network(inputs[..., 5:], state)[0]], -1)
            torch.testing.assert_close(by_pieces, masks, rtol=1e-5, atol=1e-6)
            assert network.macs_per_frame() == small.macs_per_frame()
            assert torch.equal(masks, whole) == (depth == LAYERS)
    assert network.depths == range(1, LAYERS + 1) and network.macs_per_frame() == whole_macs


@pytest.mark.parametrize("name", WHOLE)
def test_others_say_that_they_cannot_be_stopped(name: str) -> None:
    network = made(name, WHOLE[name])
    with pytest.raises(UsageError, match=f"--depth: found the model {name}; expected one that gives masks after every"):
        network.stop_after(1)


@pytest.mark.parametrize("depth", [0, -1, LAYERS + 1])
def test_a_depth_out_of_range_is_refused(depth: int) -> None:
    with pytest.raises(UsageError, match=f"--depth: found {depth}; expected 1 to {LAYERS}, the layers of this model"):
        made("grid", GRID).stop_after(depth)


def test_an_enhancer_of_some_depth_leaves_the_network_that_it_was_made_of_alone() -> None:
    network, samples = made("grid", GRID), np.random.default_rng(0).normal(0, 0.1, (1, 4000)).astype(np.float32)
    front_end, backend = FrontEnd(8000), TorchBackend(network)
    whole = Enhancer(backend, front_end).enhance(samples, 8000)
    outputs = [Enhancer(backend, front_end, depth).enhance(samples, 8000) for depth in (2, LAYERS)]
    expected = Enhancer(TorchBackend(cut(network, 2)), front_end).enhance(samples, 8000)
    assert np.array_equal(outputs[0], expected) and np.array_equal(outputs[1], whole)
    assert not np.array_equal(expected, whole)
    assert np.array_equal(Enhancer(backend, front_end).enhance(samples, 8000), whole)


def test_a_network_that_learned_a_noise_stays_at_its_depth() -> None:
    noise = np.random.default_rng(0).normal(0, 0.1, (1, 8000)).astype(np.float32)
    shallow = Enhancer(TorchBackend(made("deep-nmf", STOPPED["deep-nmf"])), FrontEnd(8000), 2)
    assert shallow.with_noise(noise, 8000).backend.network.unfolded.depth == 2


def test_a_shipped_model_of_some_depth_is_run_by_torch_and_its_export_says_why_not() -> None:
    enhancer = zoo.load_enhancer("tiny", "cpu", depth=2)
    assert isinstance(enhancer.backend, TorchBackend) and enhancer.backend.network.unfolded.depth == 2
    message = (
        "--depth: found a model that was exported, whose depth is fixed; expected one that torch or machine code runs"
    )
    with pytest.raises(UsageError, match=message):
        zoo.load_enhancer("tiny", "cpu", "onnx", depth=2)
    with pytest.raises(UsageError, match=message):
        zoo.load_enhancer(zoo.models_folder() / "tiny" / "model.onnx", "cpu", depth=2)


def test_multiply_adds_that_are_told_are_those_of_the_layers_that_run() -> None:
    path = zoo.find("tiny")
    (whole, told), (stopped, less) = (zoo.load_described(path, "cpu", "torch", depth) for depth in (None, 2))
    assert less.macs_per_s < 0.7 * told.macs_per_s and less.parameters == told.parameters
    assert stopped.backend.network.unfolded.depth == 2 and whole.backend.network.unfolded.depth == 4


@pytest.mark.parametrize("load", [zoo.load_enhancer, zoo.load_described])
def test_without_torch_the_error_names_the_option(load, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extras, "has", lambda package: package != "torch")
    with pytest.raises(extras.MissingExtraError, match=r'^--depth: found no package torch; .*"deepnmf\[torch\]"'):
        load("tiny", "cpu", depth=2)
