"""Recipes: defaults, overrides, and what is said about mistakes."""

import json
import tomllib
from pathlib import Path

import pytest

from deepnmf_cli import model_file, zoo
from deepnmf_cli.errors import EXIT_USAGE, RecipeError
from deepnmf_cli.networks import NETWORKS
from deepnmf_cli.recipe import Recipe, read_recipe, recipes_folder

ROOT = Path(__file__).parent.parent
OF_REPAIR = {"declip.toml", "fill-gaps.toml"}
"""Recipes of another kind, which `deepnmf_cli.training.repair` reads."""

SHIPPED = sorted(path for path in (ROOT / "data" / "recipes").rglob("*.toml") if path.name not in OF_REPAIR)
NO_RECIPES = ("plan.toml", "sizes.toml", "paper.toml", "rivals.toml")
RESEARCH = sorted(path for path in (ROOT / "docs/research").rglob("*.toml") if path.name not in NO_RECIPES)


def test_settings_that_a_network_has_lost_are_read_while_they_say_nothing() -> None:
    former = {"tied": False, "local_fields": False, "frame_spins": 0, "frame_channels": 3}
    assert Recipe.from_dict({"model": "grid-rnn", "network": former}) == Recipe.from_dict({"model": "grid-rnn"})
    with pytest.raises(RecipeError, match="unknown key 'tied'"):
        Recipe.from_dict({"model": "grid-rnn", "network": {"tied": True}})


def test_defaults_are_deep_nmf_as_published() -> None:
    recipe = read_recipe(None)
    assert recipe.model == "deep-nmf"
    assert (recipe.network.iterations, recipe.network.atoms, recipe.network.context) == (25, 100, 9)
    assert (recipe.network.beta, recipe.network.sparsity) == (1.0, 5.0)


def test_file_then_model_then_overrides(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text('model = "deep-nmf"\n[training]\nsteps = 7\nbatch = 3\n')
    recipe = read_recipe(
        tmp_path / "a.toml", "dnn", ["training.steps=9", "network.hidden=[4, 5]", "training.schedule=constant"]
    )
    assert recipe.model == "dnn" and recipe.network.hidden == (4, 5)
    assert (recipe.training.steps, recipe.training.batch, recipe.training.schedule) == (9, 3, "constant")


@pytest.mark.parametrize("model", NETWORKS)
def test_recipe_survives_json(model: str) -> None:
    recipe = read_recipe(None, model)
    assert Recipe.from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe


def test_bins_follow_the_front_end() -> None:
    assert read_recipe(None, "dnn", ["front_end.rate_hz=8000"]).network.bins == 129
    grid = read_recipe(None, "grid", ["front_end.rate_hz=8000", "network.single_bands=32"]).network
    assert (grid.bins, grid.rate_hz) == (129, 8000)


@pytest.mark.parametrize(
    "override,found,remedy",
    [
        ("training.stepz=5", "unknown key 'stepz'", "Did you mean 'steps'?"),
        ("trainig.steps=5", "unknown key 'trainig'", "Did you mean 'training'?"),
        ("network.iteration=5", "unknown key 'iteration'", "Did you mean 'iterations'?"),
        ("model=deepnmf", "model 'deepnmf'", "Did you mean 'deep-nmf'?"),
        ("training.steps=many", "'many'", "Mend the recipe."),
        ("training.steps=1.5", "1.5", "Mend the recipe."),
        ("mixing.snr_db=[1]", "[1]", "Mend the recipe."),
        ("training.schedule=linear", "schedule = 'linear'", "Mend the recipe."),
        ("training.steps", "no value", "For example"),
        ("training.learning_rate=-1", "learning_rate = -1", "Mend the recipe."),
        ("mixing.snr_db=[12, -8]", "snr_db = [12, -8]", "Mend the recipe."),
        ("mixing.room_target=wet", "room_target = 'wet'", "Mend the recipe."),
        ("network.parameterisation=square", "parameterisation = 'square'", "Mend the recipe."),
        ("objective.snr=-1", "snr = -1", "Mend the recipe."),
        ("objective.snr=nan", "nan", "Mend the recipe."),
        ("mixing.snr_db=[-inf, 0]", "-inf", "Mend the recipe."),
        ("front_end.hop_s=0.0", "hop_s = 0.0", "Mend the recipe."),
        ("model.x=1", "'model', which is no section", "Mend it."),
    ],
)
def test_mistakes_name_what_was_found_and_the_remedy(override: str, found: str, remedy: str, tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text('model = "deep-nmf"\n')
    with pytest.raises(RecipeError) as caught:
        read_recipe(tmp_path / "a.toml", overrides=[override])
    assert found in caught.value.found and remedy in caught.value.remedy
    assert caught.value.exit_code == EXIT_USAGE


def test_values_out_of_range_stand_before_their_rule() -> None:
    with pytest.raises(RecipeError) as caught:
        read_recipe(None, "dnn", ["training.steps=-4", "training.patience=3"])
    assert str(caught.value) == (
        "recipe [training]: found steps = -4; expected other values: steps, batch and score_every must be at least 1,"
        " seed not negative. Mend the recipe."
    )


def test_of_a_rule_for_many_settings_those_that_break_it_are_named() -> None:
    with pytest.raises(RecipeError) as caught:
        read_recipe("tiny", overrides=["augmentation.speed_probability=1.5", "augmentation.mute_probability=-1"])
    assert caught.value.found == "speed_probability = 1.5, mute_probability = -1"


def test_an_unknown_model_is_that_of_the_option() -> None:
    with pytest.raises(RecipeError, match=r"^--model: found 'nosuch'; expected one of .*dnn.*\. Choose one of them\.$"):
        read_recipe(None, "nosuch")
    with pytest.raises(RecipeError, match="Did you mean 'deep-nmf'"):
        read_recipe("base", "deepnmf")


def test_a_folder_is_no_recipe(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("d", "dnn"):
        (tmp_path / name).mkdir()
    with pytest.raises(
        RecipeError, match="^d: found a folder; expected a recipe in TOML.*by options, such as --speech"
    ):
        read_recipe("d")
    assert read_recipe("dnn").model == "dnn"


def test_an_objective_of_a_weight_for_noise_alone_is_refused() -> None:
    terms = ("compressed_half", "compressed_third", "snr")
    with pytest.raises(RecipeError, match="one besides noise_weight must be positive"):
        read_recipe(None, "dnn", [*(f"objective.{name}=0" for name in terms), "objective.noise_weight=1"])


@pytest.mark.parametrize("model", ["sparse-nmf", "dnmf"])
def test_names_keep_their_number_of_trained_layers(model: str) -> None:
    with pytest.raises(RecipeError, match="choose the model deep-nmf"):
        read_recipe(None, model, ["network.trained_layers=2"])


def test_missing_and_damaged_recipes_are_named(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="no file"):
        read_recipe(tmp_path / "nowhere.toml")
    (tmp_path / "bad.toml").write_text("steps = = 3")
    with pytest.raises(RecipeError, match="not TOML"):
        read_recipe(tmp_path / "bad.toml")


def test_a_recipe_that_cannot_be_read_is_no_text_to_mend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> str:
        raise PermissionError(13, "Permission denied")

    (tmp_path / "mine.toml").write_text("")
    monkeypatch.setattr(Path, "read_text", refused)
    with pytest.raises(RecipeError, match=r"found a file that cannot be read \(Permission denied\).*its permissions"):
        read_recipe(tmp_path / "mine.toml")


@pytest.mark.parametrize("path", [*SHIPPED, *RESEARCH], ids=lambda p: str(p.relative_to(ROOT)))
def test_recipes_of_the_project_are_valid(path: Path) -> None:
    assert read_recipe(path).model in NETWORKS


def test_shipped_recipes_are_one_for_each_purpose_and_extend_no_other() -> None:
    assert {path.stem for path in SHIPPED} == {
        "base", "tiny", "large", "deep-nmf", "dnmf", "sparse-nmf", "dnn", "mean-field", "belief-propagation",
        "power-mean", "recurrent-ista", "recurrent-nmf", "gru", "fine-tune", "fista",
    }  # fmt: skip
    assert all(path.parent == ROOT / "data" / "recipes" for path in SHIPPED)
    assert {path.name for path in recipes_folder().rglob("*.toml")} == {path.name for path in SHIPPED} | OF_REPAIR
    for path in SHIPPED:
        assert not {"extends", "base"} & tomllib.loads(path.read_text("utf-8")).keys()


@pytest.mark.parametrize("name", ["base", "tiny", "large"])
def test_a_recipe_of_a_shipped_model_has_the_architecture_of_its_weights(name: str) -> None:
    stored, recipe = model_file.read(zoo.find(name)), read_recipe(name)
    assert (stored.model, stored.network, stored.front_end) == (recipe.model, recipe.network, recipe.front_end)


def test_shipped_recipes_are_found_by_name_and_files_come_first(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert read_recipe("tiny") == read_recipe(recipes_folder() / "tiny.toml")
    (tmp_path / "tiny").write_text('model = "dnn"')
    assert read_recipe("tiny").model == "dnn"
    names = "one of base, belief-propagation, declip, deep-nmf, dnmf, dnn, fill-gaps, fine-tune, fista, gru, large, mean-field, power-mean"
    with pytest.raises(RecipeError, match=names):
        read_recipe("tinny")


@pytest.mark.parametrize("key", ["extends", "base"])  # the second is the name of the key in earlier versions
def test_a_recipe_sets_what_differs_from_the_one_it_extends(key: str, tmp_path: Path) -> None:
    (tmp_path / "one.toml").write_text('model = "dnn"\n[training]\nsteps = 7\nbatch = 3\n')
    (tmp_path / "two.toml").write_text(f'{key} = "one"\n[training]\nsteps = 9\n')
    (tmp_path / "three.toml").write_text(f'{key} = "two"\n[network]\nhidden = [4]\n')
    recipe = read_recipe(tmp_path / "three.toml")
    assert (recipe.model, recipe.network.hidden) == ("dnn", (4,))
    assert (recipe.training.steps, recipe.training.batch) == (9, 3)
    (tmp_path / "four.toml").write_text(f'{key} = "tiny"\n[training]\nsteps = 9\n')  # a shipped one
    assert read_recipe(tmp_path / "four.toml").model == "grid"
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "five.toml").write_text(f'{key} = "../two"\n')
    assert read_recipe(tmp_path / "below" / "five.toml").training.steps == 9


def test_a_number_that_a_section_goes_over_is_refused(tmp_path: Path) -> None:
    (tmp_path / "one.toml").write_text("training = 3\n")
    (tmp_path / "two.toml").write_text('extends = "one"\nmodel = "dnn"\n[training]\nsteps = 9\n')
    assert read_recipe(tmp_path / "two.toml").training.steps == 9
    with pytest.raises(RecipeError):
        read_recipe(tmp_path / "one.toml")


def test_what_all_of_a_kind_have_is_no_setting() -> None:
    with pytest.raises(RecipeError, match="unknown key 'beta'"):
        read_recipe("fista", None, ("network.beta=1.0",))


@pytest.mark.parametrize("key", ["extends", "base"])
@pytest.mark.parametrize("other", ['"itself"', '"../below/itself"', '"between"', "3", '["one"]'])
def test_a_recipe_that_extends_itself_or_no_name_is_refused(key: str, other: str, tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "itself.toml").write_text(f"{key} = {other}\n")
    (tmp_path / "below" / "between.toml").write_text(f'{key} = "itself"\n')
    with pytest.raises(RecipeError, match=f'found {key} = .+; expected extends = "the name of another recipe"'):
        read_recipe(tmp_path / "below" / "itself.toml")


def test_a_recipe_that_extends_one_of_a_name_too_long_for_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "one.toml").write_text(f'extends = "{"a" * 5000}"\n')
    with pytest.raises(RecipeError, match="a recipe in TOML"):
        read_recipe(tmp_path / "one.toml")
