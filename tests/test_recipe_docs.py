"""docs/recipes.md states every setting, and its default."""

import dataclasses
import re
import tomllib
from pathlib import Path

import pytest

from deepnmf_cli.networks import NETWORKS
from deepnmf_cli.recipe import Recipe, read_recipe

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "recipes.md").read_text("utf-8")
SECTIONS = [
    "front_end",
    "mixing",
    "augmentation",
    "dictionary",
    "objective",
    "depth",
    "constraints",
    "training",
    "tuning",
]


def stated(heading: str) -> dict[str, object]:
    """Key -> default of the table below a heading of the page."""
    _, found, rest = PAGE.partition(f"### {heading}\n")
    assert found, heading
    rows = re.findall(r"^\| `(\w+)` \| `(.+?)` \| .+ \|$", re.split(r"^##", rest, flags=re.MULTILINE)[0], re.MULTILINE)
    return {key: tomllib.loads(f"value = {text}")["value"] for key, text in rows}


def as_toml(settings: object) -> dict[str, object]:
    return {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(settings).items()}


@pytest.mark.parametrize("section", SECTIONS)
def test_every_key_of_a_section_is_stated_with_its_default(section: str) -> None:
    assert stated(f"`[{section}]`") == as_toml(getattr(read_recipe(None), section))


@pytest.mark.parametrize("model", NETWORKS)
def test_every_key_of_a_network_is_stated_with_its_default(model: str) -> None:
    table = stated(f"`[network]` of {model}")
    if model in ("dnmf", "sparse-nmf"):
        table = stated("`[network]` of deep-nmf") | table
    if model in ("belief-propagation", "power-mean"):
        table = stated("`[network]` of mean-field") | table
    if model == "grid-fixed":
        table = stated("`[network]` of grid")
    assert table == as_toml(read_recipe(None, model).network)


def test_every_section_and_model_has_its_table() -> None:
    assert {field.name for field in dataclasses.fields(Recipe)} == {"model", "network", *SECTIONS}
    assert stated("Top level") == {"model": read_recipe(None).model}
    assert set(re.findall(r"^### `\[network\]` of ([\w-]+)$", PAGE, re.MULTILINE)) == NETWORKS.keys()


def test_every_shipped_recipe_is_listed_with_its_model() -> None:
    listed = dict(re.findall(r"^\| `([\w-]+\.toml)` \| `([\w-]+)` \|", PAGE, re.MULTILINE))
    shipped = {
        path.name: read_recipe(path).model
        for path in (ROOT / "data" / "recipes").glob("*.toml")
        if "[repair]" not in path.read_text("utf-8")
    }
    del shipped["fine-tune.toml"]
    assert listed == shipped and "| `fine-tune.toml` | that of `--init` |" in PAGE


def test_the_example_is_a_recipe() -> None:
    (example,) = re.findall(r"```toml\n(.+?)```", PAGE, re.DOTALL)
    assert Recipe.from_dict(tomllib.loads(example)).network.hidden == (384, 384)


def test_the_recipe_of_the_paper_has_its_settings() -> None:
    recipe = read_recipe(ROOT / "docs/research/ladder/recipes/deep-nmf-paper.toml")
    network, objective = recipe.network, dataclasses.asdict(recipe.objective)
    assert (network.iterations, network.atoms, network.context, network.trained_layers) == (25, 100, 9, 2)
    assert (network.sparsity, network.beta) == (5.0, 1.0)
    assert objective.pop("magnitude_beta") == 2.0
    assert {term for term, weight in objective.items() if weight} == {"magnitude"}
