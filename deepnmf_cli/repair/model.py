"""Models of repair, run in NumPy: a file holds the parameters of each layer."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from deepnmf_cli import checkpoint
from deepnmf_cli.errors import ModelError, RecipeError, shortened
from deepnmf_cli.repair import autoregression
from deepnmf_cli.repair.projection import BANDS, FREQUENCY, PROXES, TIME, Observation, problem, step, unit_gain
from deepnmf_cli.settings import section
from deepnmf_cli.signal.tight_frame import TightFrame

FILE, REPORT_FILE, CARD_FILE = "repair.safetensors", "report.json", "README.md"
"""Names of the files in the folder of a model that ships."""

GAPS, CLIPPING = "fill-gaps", "declip"
TASKS = (GAPS, CLIPPING)

BEST = "best.safetensors"
"""Name of the best model in the folder of a run."""

MOST_LAYERS = 100

WANTED = "a model of repair, which `deepnmf train fill-gaps` or declip writes"


@dataclass(frozen=True)
class RepairSettings:
    """What a model needs in addition to its parameters."""

    task: str = GAPS
    prox: str = "pew"
    layers: int = 10
    hop_s: float = 0.008
    """A quarter of a window."""

    def __post_init__(self) -> None:
        if self.task not in TASKS or self.prox not in PROXES:
            raise ValueError(f"task is one of {', '.join(TASKS)}, and prox one of {', '.join(PROXES)}")
        if not (1 <= self.layers <= MOST_LAYERS and 1e-3 <= self.hop_s <= 0.1):
            raise ValueError(f"layers are 1 to {MOST_LAYERS}, and hop_s 0.001 to 0.1")

    def frame(self, rate_hz: float) -> TightFrame:
        """Return the frame for a sampling rate; windows have the same duration at any rate."""
        return TightFrame(max(1, round(self.hop_s * rate_hz)))

    def start(self, observation: Observation, rate_hz: float) -> np.ndarray:
        """The first estimate of samples (B, N): autoregression in gaps, the clipped samples themselves otherwise."""
        if self.task == CLIPPING:
            return observation.samples
        pairs = zip(observation.samples, observation.missing, strict=True)
        return np.stack([autoregression.fill(samples, missing, rate_hz) for samples, missing in pairs])


@dataclass(frozen=True)
class RepairModel:
    """Parameters theta^k of the layers, and their settings."""

    settings: RepairSettings
    layers: list[dict[str, np.ndarray]]

    def restore(self, observation: Observation, rate_hz: float) -> np.ndarray:
        """Samples (B, N) float64 with the missing ones restored; the others are the observed ones, bit for bit."""
        gain = unit_gain(observation.samples, observation.missing)
        scaled = observation.scaled(gain)
        begun = problem(scaled, self.settings.frame(rate_hz), rate_hz, self.settings.start(scaled, rate_hz))
        state = begun.start, begun.start
        for parameters in self.layers:
            state = step(begun, state, parameters, self.settings.prox)
        return observation.project(state[0] / gain)

    @property
    def count(self) -> int:
        """Number of parameters; those that layers share count once."""
        return sum(values.size for values in {id(v): v for layer in self.layers for v in layer.values()}.values())


def save(path: Path, settings: RepairSettings, values: Mapping[str, Any], provenance: Mapping[str, Any]) -> None:
    """Write the `values` of a bank (`<name>_<slot>` -> torch tensor) with their settings and provenance."""
    checkpoint.save(path, dict(values), {"repair": dataclasses.asdict(settings), "provenance": dict(provenance)})


def shipped(task: str) -> Path:
    """The file of the model that ships for a task."""
    return checkpoint.shipped_folder("models", "models") / task / FILE


def find(name: str | Path) -> Path:
    """Return the file of a model that a user named: a folder of a run stands for the best model in it."""
    return Path(name, BEST) if Path(name).is_dir() else Path(name)


def load(path: Path) -> RepairModel:
    """Read a model. Raises ModelError for a file that does not hold one."""
    weights, meta = checkpoint.load(path, "np")
    if "repair" not in meta:
        enhances = not meta.keys().isdisjoint(("network", "recipe"))
        found = "a model of speech enhancement" if enhances else "no description of a model of repair"
        raise ModelError(path, found, WANTED, "Choose another file.")
    values = {name: array.astype(np.float64) for name, array in weights.items()}
    try:
        settings = section(RepairSettings, meta["repair"], str(path))
        layers = [_layer(values, k, settings.prox) for k in range(settings.layers)]
    except (RecipeError, ValueError, KeyError, TypeError) as error:
        raise ModelError(path, f"no model of repair ({shortened(error)})", WANTED, "Choose another file.") from error
    return RepairModel(settings, layers)


def _layer(values: dict[str, np.ndarray], k: int, prox: str) -> dict[str, np.ndarray]:
    """The parameters of layer k. Raises KeyError if one is missing, and ValueError for one of another shape."""
    sizes = {"threshold": BANDS, "slope": BANDS, "relaxation": 1, "momentum": 1}
    sizes |= {"time": TIME, "frequency": FREQUENCY} if prox == "pew" else {}
    layer = {name: values[f"{name}_{k}"] for name in sizes}
    for name, size in sizes.items():
        if layer[name].shape != (size,):
            raise ValueError(f"{name}_{k} has the shape {layer[name].shape}")
    return layer
