"""Settings from tables of plain values, as TOML and JSON give them: every key known, every value of its type."""

import math
import re
import tomllib
from collections.abc import Iterable, Mapping
from types import UnionType
from typing import Any, ClassVar, get_args, get_origin, get_type_hints

from deepnmf_cli.errors import RecipeError, nearest, shortened

LARGEST_INTEGER = 1 << 53
"""Largest integer that is accepted: beyond it a float would be another number."""


def section(kind: type, table: Any, where: str) -> Any:
    """Build a dataclass of settings, `kind`, from a table of plain values; defaults fill in what it leaves out.

    Raises RecipeError naming an unknown key and the nearest known one, or a value of the wrong kind or out of range.
    """
    if not isinstance(table, Mapping):
        raise RecipeError(where, shown(table), "a table of settings", "Write it as a [section].")
    hints = {name: hint for name, hint in get_type_hints(kind).items() if get_origin(hint) is not ClassVar}
    refuse_unknown(table, hints, where)
    values = {key: _value(hints[key], value, f"{where} {key}") for key, value in table.items()}
    try:
        return kind(**values)
    except ValueError as error:
        wrong = [key for key, value in values.items() if _refused(kind, key, value)]
        named = [key for key in table if re.search(rf"\b{re.escape(key)}\b", str(error))]
        found = ", ".join(f"{key} = {shown(table[key])}" for key in wrong or named or table)
        raise RecipeError(where, found, f"other values: {error}", "Mend the recipe.") from error


def _refused(kind: type, key: str, value: Any) -> bool:
    """Whether a dataclass of settings refuses one value, whatever the others are."""
    try:
        kind(**{key: value})
    except ValueError:
        return True
    except TypeError:  # it needs others too
        pass
    return False


def _value(kind: Any, value: Any, where: str) -> Any:
    """Convert what TOML gives (lists, integers for floats) to the type of the field, or refuse it."""
    if get_origin(kind) is UnionType or (get_origin(kind) is not None and type(None) in get_args(kind)):
        if value is None:
            return None
        kind = next(k for k in get_args(kind) if k is not type(None))
    if get_origin(kind) is tuple and isinstance(value, (list, tuple)):
        inner = get_args(kind)
        if inner[-1] is Ellipsis:
            return tuple(_value(inner[0], v, where) for v in value)
        if len(inner) == len(value):
            return tuple(_value(k, v, where) for k, v in zip(inner, value, strict=True))
    elif kind is float:
        if (type(value) is float and math.isfinite(value)) or (type(value) is int and abs(value) <= LARGEST_INTEGER):
            return float(value)
    elif type(value) is kind and (kind is not int or abs(value) <= LARGEST_INTEGER):
        return value
    name = "float that is finite" if kind is float else str(kind) if get_origin(kind) else kind.__name__
    raise RecipeError(where, shown(value), f"a value of type {name}", "Mend the recipe.")


def shown(value: Any) -> str:
    """Return the `repr` of a value, shortened; numbers of thousands of digits are not written at all."""
    try:
        return shortened(repr(value), 60)
    except (ValueError, RecursionError):
        return f"a {type(value).__name__} that is too long to show"


def refuse_unknown(table: Mapping[str, Any], known: Iterable[str], where: str) -> None:
    """Raise RecipeError for the first key of a table that is not known."""
    for key in table:
        if key not in known:
            raise RecipeError(
                where, f"unknown key {shown(key)}", f"one of {', '.join(sorted(known))}", nearest(key, known)
            )


def apply_override(table: dict[str, Any], override: str) -> None:
    """Set a value of a recipe as "section.key=value" says. Raises RecipeError for other text."""
    key, equals, text = override.partition("=")
    *sections, name = key.strip().split(".")
    if not equals or not name:
        raise RecipeError(f"--set {override}", "no value", "section.key=value", "For example --set training.steps=500.")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except ValueError:
        value = text  # a bare word: strings need no quotes on the command line
    for part in sections:
        table = table.setdefault(part, {})
        if not isinstance(table, dict):
            raise RecipeError(f"--set {override}", f"{part!r}, which is no section", "section.key=value", "Mend it.")
    table[name] = value
