"""Model files: what weights need is checked, what is provenance never decides; older formats load, newer are refused."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from deepnmf_cli import checkpoint, model_file, zoo
from deepnmf_cli.errors import ModelError, RecipeError
from deepnmf_cli.networks import NETWORKS, build, deep_nmf, grid
from deepnmf_cli.recipe import Recipe

SHIPPED = sorted(path.parent.name for path in zoo.models_folder().glob("*/model.safetensors"))
RECIPE = Recipe.from_dict(
    {
        "model": "deep-nmf",
        "network": {"context": 2, "atoms": 4, "iterations": 3, "trained_layers": 2},
        "front_end": {"rate_hz": 8000},
        "training": {"steps": 7},
    }
)
TRAINED = {"steps": 7, "dev_si_sdr": 3.25}


@pytest.fixture
def network() -> nn.Module:
    torch.manual_seed(0)
    return build(RECIPE.model, RECIPE.network).eval()


def former(path: Path, network: nn.Module, /, **recipe: object) -> Path:
    """A model file of format 1: the whole recipe, which also says what the network is."""
    meta = {"recipe": RECIPE.to_dict() | recipe, "trained": TRAINED, "format": 1}
    save_file({k: x.contiguous() for k, x in network.weights().items()}, path, {"deepnmf": json.dumps(meta)})
    return path


def present(path: Path, network: nn.Module, /, **entries: object) -> Path:
    """A model file of the present format, with these `entries` in the place of its own."""
    tables = {"network": dataclasses.asdict(network.settings), "front_end": dataclasses.asdict(RECIPE.front_end)}
    checkpoint.save(path, network.weights(), {"model": network.name, **tables, "provenance": {}, **entries})
    return path


@torch.no_grad()
def same(one: nn.Module, two: nn.Module) -> bool:
    heard = torch.rand(1, RECIPE.front_end.bins, 6)
    return torch.equal(one(heard)[0], two(heard)[0])


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_model_loads_with_all_its_weights(name) -> None:
    network, file = zoo.load(name)
    weights, _ = checkpoint.load(zoo.find(name))
    assert network.name == file.model and network.settings == file.network
    assert weights.keys() == network.weights().keys()
    assert all(torch.equal(x, weights[key]) for key, x in network.weights().items())
    version = {"base": "0.2.0", "large": "0.2.0"}.get(name, "0.1.0")
    assert file.provenance["trained"]["version"] == version and "training" in file.provenance["recipe"]


@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_a_network_is_the_same_after_saving_and_loading(tmp_path, name) -> None:
    recipe = Recipe.from_dict({"model": name})
    network = build(name, recipe.network).eval()
    model_file.describe(tmp_path / "x.safetensors", network, recipe.front_end, {"recipe": recipe.provenance}).write()
    loaded, file = model_file.load(tmp_path / "x.safetensors")
    assert all(torch.equal(x, network.state_dict()[key]) for key, x in loaded.state_dict().items())
    assert (file.model, file.network, file.front_end) == (name, recipe.network, recipe.front_end)
    assert Recipe.of_file(file) == recipe


def test_a_file_of_the_format_before_loads_and_is_written_in_the_new_one(tmp_path, network) -> None:
    loaded, file = model_file.load(former(tmp_path / "old.safetensors", network))
    assert same(loaded, network) and Recipe.of_file(file) == RECIPE
    assert file.provenance == json.loads(json.dumps({"recipe": RECIPE.provenance, "trained": TRAINED}))
    assert "network" not in file.provenance["recipe"]
    dataclasses.replace(file, path=tmp_path / "new.safetensors").write()
    again, renewed = model_file.load(tmp_path / "new.safetensors")
    assert same(again, network) and renewed.provenance == file.provenance
    meta = checkpoint.load(tmp_path / "new.safetensors")[1]
    assert set(meta) == {"format", "model", "network", "front_end", "provenance"} and meta["format"] == 2


@pytest.mark.parametrize(
    "provenance",
    [5, None, "trained long ago", [], {"recipe": 5}, {"recipe": {"training": {"unheard_of": 1}}}, {"recipe": {"x": 1}}],
)
def test_provenance_does_not_decide_whether_weights_load(tmp_path, network, provenance) -> None:
    assert same(zoo.load(present(tmp_path / "x.safetensors", network, provenance=provenance))[0], network)


@pytest.mark.parametrize("section", [{"training": {"unheard_of": 1}}, {"mixing": 5}, {"tuning": None}, {"new": {}}])
def test_settings_of_training_in_an_older_file_do_not_decide_either(tmp_path, network, section) -> None:
    loaded, file = zoo.load(former(tmp_path / "x.safetensors", network, **section))
    assert same(loaded, network)
    with pytest.raises(RecipeError, match=r"a recipe of another version .*Name a recipe"):
        Recipe.of_file(file)


@pytest.mark.parametrize("entries", [{"network": {"unheard_of": 1}}, {"front_end": {"unheard_of": 1}}])
def test_a_setting_of_the_network_that_is_not_known_is_refused(tmp_path, network, entries) -> None:
    path = present(tmp_path / "x.safetensors", network, **entries)
    with pytest.raises(ModelError, match=r"do not fit \(.*unknown key 'unheard_of'"):
        model_file.read(path)


def test_a_newer_format_is_refused_with_the_remedy(tmp_path, network) -> None:
    save_file(network.weights(), path := tmp_path / "x.safetensors", {"deepnmf": '{"format": 3, "model": "dnn"}'})
    with pytest.raises(ModelError, match=r"found format 3; expected format 2 or older. Update with `pip install"):
        zoo.load(path)


class Forgetful(grid.Grid):
    """A grid with a layer of its own, whose weights are those of the bank alone."""

    name = "forgetful"

    def __init__(self, settings: grid.GridSettings = grid.GridSettings()) -> None:
        super().__init__(settings)
        self.extra = nn.Linear(4, 2)
        self.register_buffer("mean", torch.ones(3))
        self.register_buffer("fixed", torch.ones(3), persistent=False)

    def weights(self) -> dict[str, Tensor]:
        return self.unfolded.bank.values()


class Mindful(Forgetful):
    """The same, with the weights that networks have by default."""

    name = "mindful"
    weights = grid.Grid.weights


def test_a_network_with_tensors_that_would_not_be_saved_is_refused(tmp_path) -> None:
    with pytest.raises(ModelError, match=r"3 tensors of the network forgetful .*\(mean, extra.weight, extra.bias\)"):
        model_file.describe(tmp_path / "x.safetensors", Forgetful(), RECIPE.front_end, {})
    with torch.no_grad():
        (network := Mindful()).mean.fill_(7)
    file = model_file.describe(tmp_path / "x.safetensors", network, RECIPE.front_end, {})
    assert {"mean", "extra.weight", "extra.bias", "time_weight_0"} <= file.weights.keys()
    assert "fixed" not in file.weights and not any(name.startswith("unfolded") for name in file.weights)
    (other := Mindful()).load_weights(file.weights)
    assert all(torch.equal(x, network.state_dict()[name]) for name, x in other.state_dict().items())
    with pytest.raises(RuntimeError, match="extra"):
        other.load_weights({name: x for name, x in file.weights.items() if name != "extra.bias"})


def test_dictionaries_that_would_not_be_saved_are_named(tmp_path, monkeypatch, network) -> None:
    monkeypatch.setattr(deep_nmf.DeepNmf, "weights", lambda self: {"dictionary_0": self.analysis})
    with pytest.raises(ModelError, match=r"4 tensors .*dictionary_1.free, unfolded.bank.dictionary_1.reference"):
        model_file.describe(tmp_path / "x.safetensors", network, RECIPE.front_end, {})
