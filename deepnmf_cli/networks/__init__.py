"""Networks from features to masks, found by name."""

import pkgutil
from importlib import import_module
from typing import Any

from deepnmf_cli.errors import RecipeError
from deepnmf_cli.networks.base import MaskNetwork


def _networks() -> dict[str, tuple[type[MaskNetwork], type]]:
    modules = [import_module(f"{__name__}.{found.name}") for found in pkgutil.iter_modules(__path__)]
    classes = {value for module in modules for value in vars(module).values() if isinstance(value, type)}
    named = [c for c in classes if issubclass(c, MaskNetwork) and "name" in vars(c)]
    return {c.name: (c, c.settings_type) for c in sorted(named, key=lambda c: c.name)}


NETWORKS = _networks()
"""Name -> (class of the network, class of its settings), from all modules of this package."""


def build(name: str, settings: Any) -> MaskNetwork:
    """Return the untrained network called `name`."""
    if name not in NETWORKS:
        raise RecipeError(name, "an unknown model name", f"one of {', '.join(NETWORKS)}", "Choose with --model.")
    return NETWORKS[name][0](settings)
