"""Inference algorithms, one per module: the equations as pure functions, and the class whose steps
`deepnmf_cli.unfold` turns into layers.

`nmf`, `ista`, `fista`, `cancellation`, `lista`, `alista`, `hyperlista` and `psista` compute activations of dictionaries
(`dictionary` learns these, `divergence` measures the fit, `shrinkage` makes activations sparse, `over_frequency` moves
atoms to other bands, `wiener` computes masks). `mean_field` and `belief` pass messages on a `graph`; a `schedule`
weights old and new messages in a `power_mean`. `units`, `binary` and `expectations` pass messages between layers of
units, `chain` and `grid` along time and frequency, `grid_field` in one field over both. `glow_prox` completes images
with `glow`, a normalising flow, as the prior.
"""

import pkgutil
from importlib import import_module
from typing import TypeVar

from deepnmf_cli.inference.algorithm import Algorithm

Kind = TypeVar("Kind", bound=Algorithm)


def algorithms(kind: type[Kind]) -> dict[str, type[Kind]]:
    """Return the algorithms of type `kind` that have a name, from all modules of this package, sorted by name."""
    modules = [import_module(f"{__name__}.{found.name}") for found in pkgutil.iter_modules(__path__)]
    classes = {value for module in modules for value in vars(module).values() if isinstance(value, type)}
    named = {vars(c)["name"]: c for c in classes if issubclass(c, kind) and "name" in vars(c)}
    return dict(sorted(named.items()))
