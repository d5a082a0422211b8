"""Networks from magnitudes to masks, found by name."""

from typing import Any

from deepnmf_cli.errors import RecipeError
from deepnmf_cli.networks.base import MaskNetwork
from deepnmf_cli.networks.deep_nmf import DeepNmf, DeepNmfSettings, Dnmf, DnmfSettings, SparseNmf, SparseNmfSettings
from deepnmf_cli.networks.dnn import Dnn, DnnSettings
from deepnmf_cli.networks.grid import Grid
from deepnmf_cli.networks.grid_settings import GridSettings
from deepnmf_cli.networks.mrf import BeliefPropagation, MeanField, PowerMean
from deepnmf_cli.networks.mrf_settings import BeliefPropagationSettings, MeanFieldSettings, PowerMeanSettings
from deepnmf_cli.networks.recurrent import IstaSettings, RecurrentIsta, RecurrentNmf, RecurrentNmfSettings
from deepnmf_cli.networks.rnn import GridRnn, GridRnnSettings, Rnn, RnnSettings

NETWORKS: dict[str, tuple[type[MaskNetwork], type]] = {
    "deep-nmf": (DeepNmf, DeepNmfSettings),
    "dnmf": (Dnmf, DnmfSettings),
    "sparse-nmf": (SparseNmf, SparseNmfSettings),
    "dnn": (Dnn, DnnSettings),
    "grid": (Grid, GridSettings),
    "recurrent-ista": (RecurrentIsta, IstaSettings),
    "recurrent-nmf": (RecurrentNmf, RecurrentNmfSettings),
    "rnn": (Rnn, RnnSettings),
    "grid-rnn": (GridRnn, GridRnnSettings),
    "mean-field": (MeanField, MeanFieldSettings),
    "belief-propagation": (BeliefPropagation, BeliefPropagationSettings),
    "power-mean": (PowerMean, PowerMeanSettings),
}
"""Name -> (network, its settings)."""


def build(name: str, settings: Any) -> MaskNetwork:
    """The untrained network called `name`."""
    if name not in NETWORKS:
        raise RecipeError(name, "an unknown model name", f"one of {', '.join(NETWORKS)}", "Choose with --model.")
    return NETWORKS[name][0](settings)
