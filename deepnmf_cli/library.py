"""Finding and loading models: those that ship with the package, and any model file."""

import json
from dataclasses import dataclass
from pathlib import Path

import torch

from deepnmf_cli import checkpoint
from deepnmf_cli.enhancer import Enhancer
from deepnmf_cli.errors import DeepnmfError, ModelError, UsageError
from deepnmf_cli.networks import build
from deepnmf_cli.networks.backend import TorchBackend
from deepnmf_cli.networks.base import MaskNetwork
from deepnmf_cli.recipe import Recipe, shipped_folder

DEFAULT_MODEL = "grid"
"""The model that `deepnmf enhance` uses when none is named."""

MODEL_FILE, REPORT_FILE = "model.safetensors", "report.json"


@dataclass(frozen=True)
class ModelInfo:
    """What is known about a model without running it."""

    name: str
    path: Path
    description: str
    parameters: int
    macs_per_s: float
    """Multiply-adds per second of audio."""
    figures: dict[str, float]
    """Mean scores on the test set of its report, for example {"SDR": 7.9, "PESQ": 1.4}; empty without a report."""
    default: bool


def models_folder() -> Path:
    """Where the shipped models lie."""
    return shipped_folder("models", "models")


def available() -> list[ModelInfo]:
    """The models that ship, the default first."""
    return [info(name) for name in sorted(_shipped_names(), key=lambda name: name != DEFAULT_MODEL)]


def find(name: str | Path | None) -> Path:
    """The file of a model given by name, by path, or by None for the default. Raises ModelError."""
    if name is None:
        name = DEFAULT_MODEL
    shipped = models_folder() / str(name) / MODEL_FILE
    if shipped.is_file():
        return shipped
    path = Path(name)
    if path.is_dir():
        path = path / "best.safetensors"
    if path.is_file():
        return path
    expected = f"one of {', '.join(_shipped_names())}, or a file"
    raise ModelError(name, "no model of that name and no such file", expected, "Run `deepnmf models`.")


def _shipped_names() -> list[str]:
    return sorted(p.parent.name for p in models_folder().glob(f"*/{MODEL_FILE}"))


def load(name: str | Path | None) -> tuple[MaskNetwork, Recipe]:
    """A trained network and the recipe it was trained by. Raises ModelError when the file does not hold one."""
    path = find(name)
    tensors, meta = checkpoint.load(path)
    if "recipe" not in meta:
        raise ModelError(
            path, "no recipe", "a model file, such as best.safetensors", "Choose the run's best.safetensors."
        )
    try:
        recipe = Recipe.from_dict(meta["recipe"], where=str(path))
        network = build(recipe.model, recipe.network)
        network.load_weights(tensors)
    except (DeepnmfError, RuntimeError) as error:
        raise ModelError(
            path, f"weights or settings that do not fit ({error})", "a model of this version", "Update, or train again."
        ) from error
    return network, recipe


def info(name: str | Path) -> ModelInfo:
    """What is known about a model: sizes from its file, figures from the report beside it."""
    return _describe(name, *load(name))


def _describe(name: str | Path, network: MaskNetwork, recipe: Recipe) -> ModelInfo:
    path = find(name)
    report = path.parent / REPORT_FILE
    written = json.loads(report.read_text(encoding="utf-8")) if report.is_file() else {}
    return ModelInfo(
        name=path.parent.name if path.name == MODEL_FILE else str(name),
        path=path,
        description=network.description,
        parameters=network.parameter_counts()[0],
        macs_per_s=network.macs_per_frame() * recipe.front_end.frames_per_s,
        figures=written.get("figures", {}),
        default=path == models_folder() / DEFAULT_MODEL / MODEL_FILE,
    )


def load_enhancer(name: str | Path | None = None, device: str = "auto") -> Enhancer:
    """An enhancer for the model called `name` (None: the default) on "auto", "cpu" or "cuda"."""
    network, recipe = load(name)
    return Enhancer(TorchBackend(network, resolve_device(device)), recipe.front_end)


def load_described(name: str | Path, device: str = "auto") -> tuple[Enhancer, ModelInfo]:
    """`load_enhancer` and `info` of one model, whose file is read once."""
    network, recipe = load(name)
    enhancer = Enhancer(TorchBackend(network, resolve_device(device)), recipe.front_end)
    return enhancer, _describe(name, network, recipe)


def resolve_device(device: str) -> str:
    """ "auto" is CUDA where there is a usable GPU. Raises UsageError for "cuda" without one."""
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise UsageError("--device cuda", "no usable CUDA device", "a GPU with its driver", "Choose --device cpu.")
    return device
