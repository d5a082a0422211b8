"""An experiment as data: which network, front end, mixtures, objective and training, from TOML and the command line."""

import dataclasses
import difflib
import math
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

from deepnmf_cli.checkpoint import shipped_folder
from deepnmf_cli.corpus.augment import AugmentationSettings
from deepnmf_cli.corpus.dataset import MixingSettings
from deepnmf_cli.errors import RecipeError
from deepnmf_cli.networks import NETWORKS
from deepnmf_cli.signal.stft import FrontEnd
from deepnmf_cli.training import frames, multiplicative
from deepnmf_cli.training.objectives import ObjectiveSettings
from deepnmf_cli.training.sparse_nmf import DictionarySettings
from deepnmf_cli.training.trainer import TrainingSettings
from deepnmf_cli.training.tuning import TuningSettings

FORMER = {"grid-rnn": {"tied": False, "local_fields": False, "frame_spins": 0, "frame_channels": 3}}
"""Settings of networks that model files of earlier versions still name, with the only values that they could have."""


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
    training: TrainingSettings = field(default_factory=TrainingSettings)
    tuning: TuningSettings = field(default_factory=TuningSettings)

    @classmethod
    def from_dict(cls, table: Mapping[str, Any], where: str = "recipe") -> "Recipe":
        """Build from nested tables such as {"model": "dnn", "network": {"context": 5}}; defaults fill the rest.

        Raises RecipeError naming an unknown key and the nearest known one, or a value of the wrong kind.
        """
        sections = {f.name for f in dataclasses.fields(cls)}
        _refuse_unknown(table, sections, where)
        model = table.get("model", "deep-nmf")
        if model not in NETWORKS:
            raise RecipeError(where, f"model {model!r}", f"one of {', '.join(NETWORKS)}", _nearest(model, NETWORKS))
        types = {f.name: f.default_factory for f in dataclasses.fields(cls) if f.name not in ("model", "network")}
        types["network"] = NETWORKS[model][1]
        tables = {name: table.get(name, {}) for name in types}
        if model in FORMER and isinstance(tables["network"], Mapping):
            tables["network"] = {k: v for k, v in tables["network"].items() if FORMER[model].get(k, not v) != v}
        built = {name: _section(kind, tables[name], f"{where} [{name}]") for name, kind in types.items()}
        follows = {name: getattr(built["front_end"], name) for name in ("bins", "rate_hz")}
        for name, value in follows.items():
            given = table.get("network", {}).get(name, value)
            if given != value:
                expected = f"{value}, as [front_end] gives"
                raise RecipeError(f"{where} [network] {name}", str(given), expected, "Leave it out.")
        follows = {name: value for name, value in follows.items() if hasattr(built["network"], name)}
        built["network"] = dataclasses.replace(built["network"], **follows)
        optimizer = built["training"].optimizer
        if optimizer.startswith("adam-"):
            built["network"] = _parameterise(built["network"], table.get("network", {}), optimizer, where)
        elif optimizer in multiplicative.RULES:
            multiplicative.require_support(built["network"], built["objective"], optimizer, where)
        if built["training"].frame_stride > 1:
            frames.require_support(NETWORKS[model][0], built["objective"], where)
        if built["training"].greedy and not NETWORKS[model][0].layerwise(built["network"]):
            place, remedy = f"{where} training.greedy", "Set training.greedy=false."
            raise RecipeError(place, f"model {model!r}, or tied layers", "deep-nmf with untied layers", remedy)
        return cls(model=model, **built)

    def to_dict(self) -> dict[str, Any]:
        """Nested tables of plain values, from which `from_dict` builds the same recipe."""
        return dataclasses.asdict(self)


def recipes_folder() -> Path:
    """Where the shipped recipes lie."""
    return shipped_folder("recipes", "data/recipes")


def read_recipe(
    path: str | Path | None,
    model: str | None = None,
    overrides: Iterable[str] = (),
    initial: Callable[[], Recipe] | None = None,
) -> Recipe:
    """The recipe in a TOML file, with `model` and "section.key=value" overrides on top.

    Where neither names a model, what they leave out is that of `initial()`, the recipe of the model whose weights training
    starts from.

    `path` may also be the name of a shipped recipe, such as "grid"; None takes all defaults. A recipe with
    `base = "name"` sets what differs from the recipe of that name in the same folder, or from a shipped one.
    """
    table: dict[str, Any] = {} if path is None else _read(Path(path))
    if model is not None:
        table["model"] = model
    if initial is not None and "model" not in table:
        table = _over(initial().to_dict(), table)
    for override in overrides:
        _apply(table, override)
    return Recipe.from_dict(table, where=str(path or "recipe"))


def _read(path: Path) -> dict[str, Any]:
    """The tables of a recipe, laid over those of its base."""
    shipped = recipes_folder() / f"{path}.toml"
    file = path if path.is_file() else shipped
    try:
        table = tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        known = ", ".join(sorted(p.stem for p in recipes_folder().glob("*.toml")))
        raise RecipeError(path, "no file", f"a recipe in TOML, or one of {known}", "Check the path.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise RecipeError(path, f"text that is not TOML ({error})", "a recipe in TOML", "Mend that line.") from error
    if "base" not in table:
        return table
    name = table.pop("base")
    beside = file.parent / f"{name}.toml"
    if beside == file or not isinstance(name, str):
        raise RecipeError(path, f"base = {name!r}", "the name of another recipe", "Mend it, or remove it.")
    return _over(_read(beside if beside.is_file() else Path(name)), table)


def _over(below: dict[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """`below` with the values of `above`, section by section."""
    nested = {key: _over(below.get(key, {}), value) for key, value in above.items() if isinstance(value, Mapping)}
    return {**below, **above, **nested}


def _apply(table: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    *sections, name = key.strip().split(".")
    if not equals or not name:
        raise RecipeError(f"--set {override}", "no value", "section.key=value", "For example --set training.steps=500.")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text  # a bare word: strings need no quotes on the command line
    for section in sections:
        table = table.setdefault(section, {})
        if not isinstance(table, dict):
            raise RecipeError(f"--set {override}", f"{section!r}, which is no section", "section.key=value", "Mend it.")
    table[name] = value


def _parameterise(network: Any, given: Mapping[str, Any], optimizer: str, where: str) -> Any:
    """The network's settings with the parameterisation that "adam-log" or "adam-softplus" stands for."""
    kind = optimizer.removeprefix("adam-")
    if not hasattr(network, "parameterisation"):
        raise RecipeError(where, f"training.optimizer {optimizer!r}", "a network of dictionaries", "Set it to adam.")
    if given.get("parameterisation", kind) != kind:
        found = f"network.parameterisation {given['parameterisation']!r} with training.optimizer {optimizer!r}"
        raise RecipeError(where, found, "one and the same parameterisation", "Leave out one of the two.")
    return dataclasses.replace(network, parameterisation=kind)


def _section(kind: type, table: Any, where: str) -> Any:
    if not isinstance(table, Mapping):
        raise RecipeError(where, repr(table), "a table of settings", "Write it as a [section].")
    hints = get_type_hints(kind)
    _refuse_unknown(table, hints, where)
    try:
        return kind(**{key: _value(hints[key], value, f"{where} {key}") for key, value in table.items()})
    except ValueError as error:
        raise RecipeError(where, str(error), "values in range", "Mend the recipe.") from error


def _value(kind: Any, value: Any, where: str) -> Any:
    """Convert what TOML gives (lists, integers for floats) to the type of the field, or refuse it."""
    if get_origin(kind) is UnionType or get_origin(kind) is not None and type(None) in get_args(kind):
        if value is None:
            return None
        kind = next(k for k in get_args(kind) if k is not type(None))
    if get_origin(kind) is tuple and isinstance(value, (list, tuple)):
        inner = get_args(kind)
        if inner[-1] is Ellipsis:
            return tuple(_value(inner[0], v, where) for v in value)
        if len(inner) == len(value):
            return tuple(_value(k, v, where) for k, v in zip(inner, value))
    elif kind is float:
        if type(value) in (int, float) and math.isfinite(value):
            return float(value)
    elif type(value) is kind:
        return value
    name = "float that is finite" if kind is float else str(kind) if get_origin(kind) else kind.__name__
    raise RecipeError(where, repr(value), f"a value of type {name}", "Mend the recipe.")


def _refuse_unknown(table: Mapping[str, Any], known: Iterable[str], where: str) -> None:
    for key in table:
        if key not in known:
            raise RecipeError(where, f"unknown key {key!r}", f"one of {', '.join(sorted(known))}", _nearest(key, known))


def _nearest(word: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.4)
    return f"Did you mean {near[0]!r}?" if near else "Remove it."
