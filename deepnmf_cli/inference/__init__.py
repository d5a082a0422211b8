"""Classical inference as pure functions: start, step, readout, objective.

The modules are the library: `nmf`, `dictionary` and `divergence` for sparse NMF; `mean_field`, `belief`, `binary`,
`schedule` and `power_mean` for Markov random fields on a `Graph`; `expectations` for layers of units at speed.
"""

from deepnmf_cli.inference import (
    belief,
    binary,
    dictionary,
    divergence,
    expectations,
    mean_field,
    nmf,
    power_mean,
    schedule,
)
from deepnmf_cli.inference.graph import Graph, fold, readout, tree_probabilities

__all__ = [
    "Graph",
    "belief",
    "binary",
    "dictionary",
    "divergence",
    "expectations",
    "fold",
    "mean_field",
    "nmf",
    "power_mean",
    "readout",
    "schedule",
    "tree_probabilities",
]
