"""An experiment as data: which network, front end, mixtures, objective and training, from TOML and the command line."""

import dataclasses
import os
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_type_hints

from deepnmf_cli.checkpoint import shipped_folder
from deepnmf_cli.corpus.augment import AugmentationSettings
from deepnmf_cli.corpus.dataset import MixingSettings
from deepnmf_cli.errors import RecipeError, nearest, shortened
from deepnmf_cli.model_file import NETWORK_TABLES, ModelFile, network_settings
from deepnmf_cli.networks import NETWORKS, build
from deepnmf_cli.settings import apply_override, refuse_unknown, section, shown
from deepnmf_cli.signal.stft import FrontEnd
from deepnmf_cli.training import layers, minibatch, multiplicative
from deepnmf_cli.training.layers import DepthSettings
from deepnmf_cli.training.objectives import ObjectiveSettings
from deepnmf_cli.training.primal_dual import ConstraintSettings
from deepnmf_cli.training.sparse_nmf import DictionarySettings
from deepnmf_cli.training.trainer import TrainingSettings
from deepnmf_cli.training.tuning import TuningSettings

LARGEST_RECIPE_BYTES = 1 << 15
"""Largest recipe: the parser takes seconds for deeper nesting than fits into this. Recipes have one or two thousand."""


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the outcome of a training run, apart from the recordings."""

    model: str
    network: Any
    front_end: FrontEnd = field(default_factory=FrontEnd)
    mixing: MixingSettings = field(default_factory=MixingSettings)
    augmentation: AugmentationSettings = field(default_factory=AugmentationSettings)
    dictionary: DictionarySettings = field(default_factory=DictionarySettings)
    objective: ObjectiveSettings = field(default_factory=ObjectiveSettings)
    depth: DepthSettings = field(default_factory=DepthSettings)
    constraints: ConstraintSettings = field(default_factory=ConstraintSettings)
    training: TrainingSettings = field(default_factory=TrainingSettings)
    tuning: TuningSettings = field(default_factory=TuningSettings)

    @classmethod
    def from_dict(cls, table: Mapping[str, Any], where: str = "recipe") -> "Recipe":
        """Build from nested tables such as {"model": "dnn", "network": {"context": 5}}; defaults fill in the rest.

        Raises RecipeError naming an unknown key and the nearest known one, or a value of the wrong kind.
        """
        if not isinstance(table, Mapping):
            raise RecipeError(where, shown(table), "tables of settings", "Mend the recipe.")
        sections = {f.name for f in dataclasses.fields(cls)}
        refuse_unknown(table, sections, where)
        model, network, front_end = network_settings({"model": "deep-nmf", **table}, where)
        kinds = {name: kind for name, kind in get_type_hints(cls).items() if name not in NETWORK_TABLES}
        built = {name: section(kind, table.get(name, {}), f"{where} [{name}]") for name, kind in kinds.items()}
        built |= {"network": network, "front_end": front_end}
        optimizer = built["training"].optimizer
        if optimizer.startswith("adam-"):
            built["network"] = _parameterise(built["network"], table.get("network", {}), optimizer, where)
        elif optimizer in multiplicative.RULES:
            multiplicative.require_support(built["network"], built["objective"], optimizer, where)
        if built["training"].frame_stride > 1:
            minibatch.require_support(NETWORKS[model][0], built["objective"], where)
        if built["training"].greedy and not NETWORKS[model][0].layerwise(built["network"]):
            place, remedy = f"{where} training.greedy", "Set training.greedy=false."
            raise RecipeError(place, f"model {model!r}, or tied layers", "deep-nmf with untied layers", remedy)
        if built["depth"].wanted or built["constraints"].wanted:
            _require_layers(model, built, where)
        return cls(model=model, **built)

    @classmethod
    def of_file(cls, file: ModelFile) -> "Recipe":
        """Return the recipe that a model was trained with. Raises RecipeError if its file does not hold one of this
        version; the model can be used all the same.
        """
        told = file.provenance.get("recipe")
        tables = {"model": file.model, "network": file.network_table(), "front_end": dataclasses.asdict(file.front_end)}
        try:
            return cls.from_dict({**(told if isinstance(told, Mapping) else {}), **tables}, str(file.path))
        except RecipeError as error:
            found = f"a recipe of another version ({shortened(error)})"
            raise RecipeError(file.path, found, "one of this version", "Name a recipe and its --model.") from error

    @property
    def provenance(self) -> dict[str, Any]:
        """Return what a model file says about its training: all tables except those that its weights need."""
        return {name: table for name, table in self.to_dict().items() if name not in NETWORK_TABLES}

    def to_dict(self) -> dict[str, Any]:
        """Return nested tables of plain values, from which `from_dict` builds the same recipe."""
        return dataclasses.asdict(self)


def recipes_folder() -> Path:
    """Return the folder of the shipped recipes."""
    return shipped_folder("recipes", "data/recipes")


def read_recipe(
    path: str | Path | None,
    model: str | None = None,
    overrides: Iterable[str] = (),
    initial: Callable[[], Recipe] | None = None,
) -> Recipe:
    """Return the recipe in a TOML file, with `model` and "section.key=value" overrides on top.

    If neither the file nor `model` names a model, what is left out comes from `initial()`, the recipe of the model
    whose weights training starts from.

    `path` may also be the name of a shipped recipe, such as "base"; None takes all defaults. A recipe with
    `extends = "name"` sets what differs from the recipe of that name, relative to its own folder, or from a shipped
    one.
    """
    where = str(path or "recipe")
    try:
        table: dict[str, Any] = {} if path is None else _read(Path(path))
        if model is not None and model not in NETWORKS:
            remedy = nearest(model, NETWORKS, "Choose one of them.")
            raise RecipeError("--model", shown(model), f"one of {', '.join(NETWORKS)}", remedy)
        if model is not None:
            table["model"] = model
        if initial is not None and "model" not in table:
            table = _over(initial().to_dict(), table)
        for override in overrides:
            apply_override(table, override)
        return Recipe.from_dict(table, where)
    except RecursionError as error:
        raise RecipeError(where, "tables in tables in tables", "sections of settings", "Mend the recipe.") from error


def _read(path: Path, above: tuple[Path, ...] = ()) -> dict[str, Any]:
    """The tables of a recipe, laid over those of the recipe that it extends; `above` are the recipes that extend it."""
    shipped = recipes_folder() / f"{path}.toml"
    file = path if os.path.isfile(path) else shipped
    try:
        if (size := file.stat().st_size) > LARGEST_RECIPE_BYTES:
            found, expected = f"{size:,} bytes", f"at most {LARGEST_RECIPE_BYTES:,} bytes of TOML"
            raise RecipeError(path, found, expected, "Name a recipe.")
        table = tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        known = sorted(p.stem for p in recipes_folder().glob("*.toml"))
        found, remedy = "no file", nearest(str(path), known, "Check the path.")
        if path.is_dir():
            found, remedy = "a folder", "Name folders of recordings by options, such as --speech and --noise."
        raise RecipeError(path, found, f"a recipe in TOML, or one of {', '.join(known)}", remedy) from None
    except OSError as error:
        found, remedy = f"a file that cannot be read ({error.strerror or error})", "Check the path and its permissions."
        raise RecipeError(path, found, "a recipe in TOML", remedy) from error
    except ValueError as error:  # of TOML, of its encoding, or of a number of thousands of digits
        raise RecipeError(
            path, f"text that is not TOML ({shortened(error)})", "a recipe in TOML", "Mend that line."
        ) from error
    key = "extends" if "extends" in table else "base"  # the name of the key in earlier versions
    if key not in table:
        return table
    name = table.pop(key)
    beside = Path(os.path.normpath(file.parent / f"{name}.toml"))  # one spelling, by which a cycle is recognised
    below = beside if os.path.isfile(beside) else Path(str(name))
    if not isinstance(name, str) or below in (file, *above):
        expected = 'extends = "the name of another recipe"'
        raise RecipeError(path, f"{key} = {shown(name)}", expected, "Mend it, or remove it.")
    return _over(_read(below, (*above, file)), table)


def _over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """`below` with the values of `above`, section by section."""
    sections = {key: value if isinstance(value, Mapping) else {} for key, value in below.items()}
    nested = {key: _over(sections.get(key, {}), value) for key, value in above.items() if isinstance(value, Mapping)}
    return {**below, **above, **nested}


def _require_layers(model: str, built: Mapping[str, Any], where: str) -> None:
    """Raise RecipeError if the layers of a network cannot be used by [depth] or [constraints] in this training."""
    training = built["training"]
    by_gradient = training.optimizer in ("muon", "sgd") or training.optimizer.startswith("adam")
    for key, wrong in (("greedy", training.greedy), ("optimizer", not by_gradient)):
        if wrong:
            found = f"training.{key} = {shown(getattr(training, key))} beside [depth] or [constraints]"
            expected, remedy = "descent along the gradient of all layers", "Leave out one of the two."
            raise RecipeError(f"{where} training.{key}", found, expected, remedy)
    layers.require_support(build(model, built["network"]), built["depth"], built["constraints"], where)


def _parameterise(network: Any, given: Mapping[str, Any], optimizer: str, where: str) -> Any:
    """The network's settings with the parameterisation that "adam-log" or "adam-softplus" stands for."""
    kind = optimizer.removeprefix("adam-")
    if not hasattr(network, "parameterisation"):
        raise RecipeError(where, f"training.optimizer {optimizer!r}", "a network of dictionaries", "Set it to adam.")
    if given.get("parameterisation", kind) != kind:
        found = f"network.parameterisation {given['parameterisation']!r} with training.optimizer {optimizer!r}"
        raise RecipeError(where, found, "one and the same parameterisation", "Leave out one of the two.")
    return dataclasses.replace(network, parameterisation=kind)
