"""Model files: a network's name, its settings, its front end and its weights; everything else in them is provenance.

A model is one `.safetensors` file (`deepnmf_cli.checkpoint`), whose JSON has the keys

    format        a number; files of a newer one are refused
    model         name of the network, one of NETWORKS
    network       its settings
    front_end     those of the STFT pair before and after it
    provenance    how it came about: recipe, dev scores, version. It never decides whether weights load.

In files of format 1 the recipe held model, network and front_end beside the settings of training.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from deepnmf_cli import checkpoint
from deepnmf_cli.errors import DeepnmfError, ModelError, RecipeError, nearest, shortened
from deepnmf_cli.networks import NETWORKS, build
from deepnmf_cli.networks.base import MaskNetwork
from deepnmf_cli.settings import section, shown
from deepnmf_cli.signal.stft import FrontEnd

NETWORK_TABLES = ("model", "network", "front_end")
"""The tables that weights need to be used, as keys of model files and recipes alike."""

FORMER = {"grid-rnn": {"tied": False, "local_fields": False, "frame_spins": 0, "frame_channels": 3}}
"""Network -> settings that files of earlier versions still name, with the only values that they could have."""

LARGEST_SIZE, LARGEST_INPUT = 1024, 1 << 14
LARGEST_SIZES = {"iterations": 1000, "bins": 1 << 14}
"""Limits of settings that need not show in the shapes of the weights."""

NAMED = 4
"""Most tensors that a message names."""


@dataclass(frozen=True)
class ModelFile:
    """The content of a model file; `path` is where it was read from, or is to be written to."""

    path: Path
    model: str
    network: Any
    """Settings of the network, of the type that NETWORKS has for it."""
    front_end: FrontEnd
    weights: dict[str, Tensor]
    """As `MaskNetwork.weights` returned them."""
    provenance: dict[str, Any]
    """How the model came about, as plain values that are not checked: the tables of its recipe that are not above
    ("recipe"), and the outcome of its training ("trained")."""

    def build(self) -> MaskNetwork:
        """Return the network with its weights. Raises ModelError where they do not fit the settings."""
        try:
            _require_sizes(self.network, self.weights)
            network = build(self.model, self.network)
            network.load_weights(self.weights)
        except (DeepnmfError, RuntimeError, ValueError, TypeError, OverflowError) as error:
            raise _unfit(self.path, error) from error
        return network

    def network_table(self) -> dict[str, Any]:
        """Return the settings of the network as plain values."""
        return dataclasses.asdict(self.network)

    def write(self) -> None:
        """Write the file, atomically. Raises ModelError if the disk does not accept it."""
        tables = {"network": self.network_table(), "front_end": dataclasses.asdict(self.front_end)}
        meta = {"model": self.model, **tables, "provenance": self.provenance}
        checkpoint.save(self.path, self.weights, meta)


def describe(path: str | Path, network: MaskNetwork, front_end: FrontEnd, provenance: Mapping[str, Any]) -> ModelFile:
    """Return the model file of a network as it is now. Raises ModelError where `require_complete` does."""
    require_complete(network, path)
    return ModelFile(Path(path), network.name, network.settings, front_end, network.weights(), dict(provenance))


def require_complete(network: MaskNetwork, path: str | Path) -> None:
    """Raise ModelError for a network with a parameter or a persistent buffer that its file would not hold."""
    if unsaved := network.unsaved():
        names = ", ".join(unsaved[:NAMED]) + (", ..." if len(unsaved) > NAMED else "")
        found = f"{len(unsaved)} tensors of the network {network.name} that would not be saved ({names})"
        raise ModelError(path, found, "all of them in weights()", f"Mend {type(network).__name__}.weights.")


def read(path: str | Path) -> ModelFile:
    """Read a model file of this format or an older one, without building the network.

    Raises ModelError for another kind of file, a newer format, and settings that this version does not have.
    """
    path = Path(path)
    weights, meta = checkpoint.load(path)
    meta.pop("format")
    tables = meta.get("recipe", meta)  # where format 1 had them, or where they are
    if "repair" in meta:
        remedy = "Pass it to `deepnmf repair --model`, or choose another file."
        raise ModelError(path, "a model of repair", "a model of speech enhancement", remedy)
    if not isinstance(tables, Mapping) or "model" not in tables:
        remedy = "Choose the run's best.safetensors."
        raise ModelError(path, "no description of a network", "a model file, such as best.safetensors", remedy)
    try:
        model, network, front_end = network_settings(tables, str(path))
    except (DeepnmfError, ValueError, TypeError, OverflowError, RecursionError) as error:
        raise _unfit(path, error) from error
    if tables is meta:
        provenance = meta.get("provenance")
    else:
        recipe = {name: table for name, table in tables.items() if name not in NETWORK_TABLES}
        provenance = {**meta, "recipe": recipe}
    return ModelFile(path, model, network, front_end, weights, provenance if isinstance(provenance, dict) else {})


def load(path: str | Path) -> tuple[MaskNetwork, ModelFile]:
    """Read a model file and build its network. Raises ModelError."""
    file = read(path)
    return file.build(), file


def network_settings(tables: Mapping[str, Any], where: str) -> tuple[str, Any, FrontEnd]:
    """Return (name, settings of the network, front end) from the NETWORK_TABLES of a file or a recipe.

    Defaults fill in what they leave out, and the network follows the front end. Other keys are ignored. Raises
    RecipeError naming what is unknown, of the wrong kind or out of range.
    """
    model = tables.get("model")
    if not isinstance(model, str) or model not in NETWORKS:
        found, near = f"model {shown(model)}", nearest(str(model), NETWORKS, "Choose one of them.")
        raise RecipeError(where, found, f"one of {', '.join(NETWORKS)}", near)
    given = tables.get("network", {})
    if model in FORMER and isinstance(given, Mapping):
        given = {k: v for k, v in given.items() if FORMER[model].get(k, not v) != v}
    network = section(NETWORKS[model][1], given, f"{where} [network]")
    front_end = section(FrontEnd, tables.get("front_end", {}), f"{where} [front_end]")
    for name in ("bins", "rate_hz"):
        follows = getattr(front_end, name)
        if given.get(name, follows) != follows:
            place, remedy = f"{where} [network] {name}", "Leave it out."
            raise RecipeError(place, shown(given[name]), f"{follows}, as [front_end] gives", remedy)
        if hasattr(network, name):
            network = dataclasses.replace(network, **{name: follows})
    return model, network, front_end


def _unfit(path: Path, error: Exception) -> ModelError:
    found = f"weights or settings that do not fit ({shortened(error)})"
    return ModelError(path, found, "a model of this version", "Update, or train again.")


def _require_sizes(network: Any, weights: Mapping[str, Tensor]) -> None:
    """Raise ValueError, before anything is built, for settings of a file that its weights cannot belong to.

    A size above LARGEST_SIZE shows in the shape of a tensor. Some sizes, such as the number of bins of a network on
    bands, need not show there; they have limits of their own.
    """
    largest_shown = max((n for tensor in weights.values() for n in tensor.shape), default=1)
    sizes = {name: value for name, value in dataclasses.asdict(network).items() if name != "rate_hz"}
    for name, value in sizes.items():
        numbers = value if isinstance(value, tuple) else (value,)
        largest = max((n for n in numbers if type(n) is int), default=0)
        if len(numbers) > LARGEST_SIZE or largest > LARGEST_SIZES.get(name, max(LARGEST_SIZE, largest_shown)):
            raise ValueError(f"{name} = {shortened(value, 40)}")
    if sizes.get("bins", 1) * sizes.get("context", 1) > max(LARGEST_INPUT, largest_shown):
        raise ValueError(f"context = {sizes['context']} of {sizes['bins']} bins")
