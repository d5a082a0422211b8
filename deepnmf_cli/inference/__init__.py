"""Inference algorithms, each in a file of its own: its equations as pure functions, and what `deepnmf_cli.unfold` makes
layers of.

`nmf`, `ista`, `fista`, `cancellation`, `lista`, `alista`, `hyperlista` and `psista` code with dictionaries
(`dictionary` learns these, `divergence` measures, `shrinkage` makes sparse, `over_frequency` moves atoms to other
bands, `wiener` makes masks); `mean_field` and `belief` pass messages on a `graph`, as far as a `schedule` says
(`power_mean`); `units`, `binary` and `expectations` do so for layers of units; `chain` and `grid` along time and
frequency, `grid_field` in one field over both. `glow_prox` completes images with `glow`, a flow, as the prior.
"""

import pkgutil
from importlib import import_module
from typing import TypeVar

from deepnmf_cli.inference.algorithm import Algorithm

Kind = TypeVar("Kind", bound=Algorithm)


def algorithms(kind: type[Kind]) -> dict[str, type[Kind]]:
    """Return the algorithms of a kind that have a name, from all modules here, sorted by it."""
    modules = [import_module(f"{__name__}.{found.name}") for found in pkgutil.iter_modules(__path__)]
    classes = {value for module in modules for value in vars(module).values() if isinstance(value, type)}
    named = {vars(c)["name"]: c for c in classes if issubclass(c, kind) and "name" in vars(c)}
    return dict(sorted(named.items()))
