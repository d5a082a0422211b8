"""Finding and loading models: those that ship with the package, and any model file."""

import ctypes
import dataclasses
import json
import logging
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from deepnmf_cli import __version__, extras
from deepnmf_cli.checkpoint import file_hash, shipped_folder
from deepnmf_cli.enhancer import Enhancer
from deepnmf_cli.errors import ModelError, NativeError, UsageError, nearest

if TYPE_CHECKING:
    from deepnmf_cli.exported import OnnxBackend
    from deepnmf_cli.model_file import ModelFile
    from deepnmf_cli.native.backend import NativeBackend
    from deepnmf_cli.networks.base import MaskNetwork

# torch, and what imports it, is imported inside the functions that need it: an exported model does without it.

logger = logging.getLogger(__name__)

DEFAULT_MODEL = "base"
"""The model that `deepnmf enhance` uses when none is named."""

DEVICES, BACKENDS = ("auto", "cpu", "cuda"), ("auto", "native", "onnx", "torch")

MODEL_FILE, REPORT_FILE, CARD_FILE = "model.safetensors", "report.json", "README.md"

EXPORTED, EXPORTED_STREAMING = ".onnx", ".streaming.onnx"
"""Suffixes of exported models: for any number of frames, and for single frames."""


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
    """Return the folder of the shipped models."""
    return shipped_folder("models", "models")


def available() -> list[ModelInfo]:
    """Return the models that ship, the default first."""
    return [info(name) for name in sorted(_shipped_names(), key=lambda name: name != DEFAULT_MODEL)]


def find(name: str | Path | None) -> Path:
    """Return the file of a model given by name, by path, or as None for the default. Raises ModelError."""
    if name is None:
        name = DEFAULT_MODEL
    shipped = models_folder() / str(name) / MODEL_FILE
    if shipped.is_file():
        return shipped
    path = Path(name)
    if path.is_dir():  # the folder of a run, which has no best model if it was stopped before its first score
        best, last = path / "best.safetensors", path / "last.safetensors"
        path = last if last.is_file() and not best.is_file() else best
    if path.is_file():
        return path
    expected = f"one of {', '.join(_shipped_names())}, or a file"
    remedy = nearest(str(name), _shipped_names(), "Run `deepnmf models`.")
    raise ModelError(name, "no model of that name and no such file", expected, remedy)


def exports_of(path: Path) -> list[Path]:
    """Return the exports of a model file that lie beside it."""
    return [file for file in _exports(path) if file.is_file() and file != path]


def _exports(path: Path) -> list[Path]:
    return [path.with_suffix(suffix) for suffix in (EXPORTED, EXPORTED_STREAMING)]


def _shipped_names() -> list[str]:
    return sorted(p.parent.name for p in models_folder().glob(f"*/{MODEL_FILE}"))


def load(name: str | Path | None) -> "tuple[MaskNetwork, ModelFile]":
    """Return a trained network and its model file. Raises ModelError if the file does not hold one."""
    extras.require("torch", "--backend torch")
    from deepnmf_cli import model_file

    path = find(name)
    if path.suffix == EXPORTED:
        remedy = "Name the file that it was exported from."
        raise ModelError(path, "an exported model", "weights, a .safetensors file", remedy)
    return model_file.load(path)


def info(name: str | Path) -> ModelInfo:
    """Return what is known about a model: from the report beside it, or if there is none, from the network in its
    file.
    """
    return _reported(name) or _counted(name, *load(name))


def _reported(name: str | Path, sha256: str = "") -> ModelInfo | None:
    """Return what the report beside a model says about exactly these weights, and its card in the first quoted line.

    `sha256` is that of the model file, if it is known.
    """
    path = find(name)
    report, card = path.parent / REPORT_FILE, path.parent / CARD_FILE
    if not (report.is_file() and card.is_file()):
        return None
    try:
        written = json.loads(report.read_text(encoding="utf-8"))
        about = card.read_text(encoding="utf-8", errors="replace")
        weights = sha256 or file_hash(path)
        facts = next(s["model"] for s in written["systems"] if s["model"] and s["model"]["sha256"] == weights)
        sizes, figures = (int(facts["parameters"]), float(facts["macs_per_s"])), dict(written["figures"])
    except (OSError, ValueError, TypeError, KeyError, StopIteration, RecursionError):
        return None  # of other weights, or none at all
    quoted = (line[2:] for line in about.splitlines() if line.startswith("> "))
    return _model_info(name, path, next(quoted, ""), *sizes, figures)


def _counted(name: str | Path, network: "MaskNetwork", file: "ModelFile") -> ModelInfo:
    macs_per_s = network.macs_per_frame() * file.front_end.frames_per_s
    return _model_info(name, find(name), network.description, network.parameter_counts()[0], macs_per_s, {})


def _model_info(
    name: str | Path, path: Path, description: str, parameters: int, macs_per_s: float, figures: dict[str, float]
) -> ModelInfo:
    shown = called(path) if path.name == MODEL_FILE else str(name)
    default = path == models_folder() / DEFAULT_MODEL / MODEL_FILE
    return ModelInfo(shown, path, description, parameters, macs_per_s, figures, default)


def load_enhancer(
    name: str | Path | None = None,
    device: str = "auto",
    backend: str = "auto",
    threads: int | None = None,
    depth: int | None = None,
) -> Enhancer:
    """Return an enhancer for the model called `name` (None: the default) on the `device` "auto", "cpu" or "cuda".

    `backend` "torch" runs the weights; "onnx" runs what `deepnmf export` made of them, on the CPU and without torch,
    whose import takes seconds; "native" runs the weights of grids in the machine code that `deepnmf build-native` made.
    If no GPU is to be used, "auto" chooses "native" if possible, or else "onnx" if there is an export of these weights
    beside them. `threads` limits those of the matrix products, for "torch" in the whole process from then on; None
    leaves the choice to torch, and gives "onnx" one.

    `depth` stops the network after that many of its layers. An ONNX file has all of them, so "auto" does not choose
    "onnx" then.

    Examples:
        >>> load_enhancer("base", device="cpu")
        Enhancer('base', ONNX Runtime, 1 thread)
        >>> load_enhancer("deep-nmf", device="cpu", depth=5)
        Enhancer('deep-nmf', torch on cpu)
    """
    begin = time.perf_counter()
    _require_choices(device, backend, threads)
    exported = _light_backend(find(name), device, backend, threads, depth)
    if exported:
        enhancer = _from_export(exported, depth, find(name))
    else:
        enhancer = _from_weights(*load(name), device, threads, depth)
    logger.info("%s: loaded in %.3f s, computed by %r", find(name), time.perf_counter() - begin, enhancer.backend)
    return enhancer


def load_described(
    name: str | Path, device: str = "auto", backend: str = "auto", depth: int | None = None
) -> tuple[Enhancer, ModelInfo]:
    """Return `load_enhancer` and `info` of a model, reading its weights once; `info` is about the layers that run."""
    path = find(name)
    sha256 = file_hash(path)
    _require_choices(device, backend)
    exported = _light_backend(path, device, backend, None, depth, sha256)
    reported = _reported(name, sha256) if depth is None else None
    if exported and reported:
        return _from_export(exported, depth, path), reported
    network, file = load(name)
    if exported:
        if depth is not None:
            network.stop_after(depth)
        return _from_export(exported, depth, path), reported or _counted(name, network, file)
    enhancer = _from_weights(network, file, device, None, depth)
    return enhancer, reported or _counted(name, network, file)


def _require_choices(device: str, backend: str, threads: int | None = None) -> None:
    """Raise UsageError for values that name neither a device, nor a backend, nor a number of threads."""
    for what, value, known in (("device", device, DEVICES), ("backend", backend, BACKENDS)):
        if value not in known:
            raise UsageError(what, repr(value), f"one of {', '.join(known)}", "Choose one of these.")
    if threads is not None and threads < 1:
        raise UsageError("threads", f"{threads}", "at least one, or None", "Correct the number.")


def _from_weights(
    network: "MaskNetwork", file: "ModelFile", device: str, threads: int | None, depth: int | None
) -> Enhancer:
    import torch

    from deepnmf_cli.networks.backend import TorchBackend

    if threads is not None:
        torch.set_num_threads(threads)
    if depth is not None:
        network.stop_after(depth)
    return Enhancer(TorchBackend(network, resolve_device(device)), file.front_end, name=called(file.path))


def _from_export(backend: "OnnxBackend | NativeBackend", depth: int | None, path: Path) -> Enhancer:
    return Enhancer(backend, backend.front_end(), depth, called(path))


def called(path: Path) -> str:
    """Return the name of a model from its file; for a model that ships, that is the name of its folder."""
    return path.parent.name if path.name == MODEL_FILE else path.name


def _light_backend(
    path: Path, device: str, backend: str, threads: int | None, depth: int | None, sha256: str = ""
) -> "OnnxBackend | NativeBackend | None":
    """Return the backend that `backend` and `device` select for a model file. None means torch, also if `depth` rules
    out an exported network, which has all layers. Raises UsageError, ModelError, NativeError, and MissingExtraError.
    """
    if (native := _native_backend(path, device, backend)) is not None:
        return native
    if depth is not None and backend == "auto" and path.suffix != EXPORTED:
        extras.require("torch", "--depth")
        return None
    required = backend == "onnx" or path.suffix == EXPORTED
    if not required and (backend == "torch" or resolve_device(device) == "cuda"):
        return None
    if device == "cuda":
        raise UsageError("--device cuda", "an exported model", "the CPU", "Choose --backend torch and the weights.")
    exported, problem = _exported(path, threads or 1, sha256)
    if exported is None and required:
        remedy = f"Run `deepnmf export {path}`, or choose --backend torch."
        raise ModelError(path.with_suffix(EXPORTED), problem, f"what `deepnmf export` makes of {path.name}", remedy)
    return exported


def _native_backend(path: Path, device: str, backend: str) -> "NativeBackend | None":
    """Return the model in machine code, if `backend` asks for it, or leaves the choice open and it is available."""
    from deepnmf_cli.native import library

    if backend == "native":
        if device == "cuda":
            raise UsageError("--device cuda", "--backend native", "the CPU", "Choose --backend torch.")
        from deepnmf_cli.native.backend import NativeBackend

        return NativeBackend(path)
    if backend != "auto" or path.suffix == EXPORTED or library.find() is None or resolve_device(device) == "cuda":
        return None
    from deepnmf_cli.native.backend import NativeBackend

    try:
        return NativeBackend(path)
    except (ModelError, NativeError) as error:
        logger.info("%s: not computed by native code: %s", path, error)
        return None


def _exported(path: Path, threads: int, sha256: str) -> "tuple[OnnxBackend | None, str]":
    """Return the exported form of the weights in `path`, or of the exported file `path`; or None and what is wrong."""
    from deepnmf_cli.exported import CHECKSUM, OnnxBackend

    if path.suffix == EXPORTED:
        single = path.name.endswith(EXPORTED_STREAMING)
        return (OnnxBackend(None, path, threads) if single else OnnxBackend(path, None, threads)), ""
    files = [file if file.is_file() else None for file in _exports(path)]
    if files == [None, None]:
        return None, "no file"
    # What a file says about its weights is searched for without opening the graph, which takes a tenth of a second.
    words = (sha256 or file_hash(path)).encode(), CHECKSUM.encode()
    files = [file if file and _mentions(file, words) else None for file in files]
    if files == [None, None]:
        return None, "an export of other weights, or of an older version"
    return OnnxBackend(files[0], files[1], threads), ""


def _mentions(file: Path, words: tuple[bytes, ...]) -> bool:
    content = file.read_bytes()
    return all(word in content for word in words)


def export(
    name: str | Path,
    target: str | Path,
    single_frames: bool = False,
    weights: str = "float32",
    share_weights: bool = False,
) -> float:
    """Write a model as ONNX and return the largest difference of its masks. See `deepnmf_cli.export.graph`.

    With `share_weights` the weights stay in the model file; both files must then be in the same folder, and weights be
    float32. Raises UsageError otherwise.
    """
    extras.require("export", "deepnmf export")
    from deepnmf_cli.export.graph import export as write
    from deepnmf_cli.exported import WEIGHTS

    path = find(name)
    if share_weights and (weights != "float32" or Path(target).resolve().parent != path.resolve().parent):
        found, expected = f"{target} of {weights} weights", f"float32 weights, in a file beside {path.name}"
        raise UsageError("--share-weights", found, expected, "Leave out the option.")
    network, file = load(path)
    meta: dict[str, object] = {WEIGHTS: file_hash(path), "version": __version__, "model": file.model}
    meta |= {"front_end": dataclasses.asdict(file.front_end), "network": file.network_table()}
    shared = path if share_weights else None
    return write(network, file.front_end.bins, target, meta, single_frames, weights, shared)


def resolve_device(device: str) -> str:
    """Return "cpu" or "cuda"; "auto" is CUDA where there is a usable GPU. Raises UsageError for "cuda" without one."""
    if device == "cpu":
        return device
    usable = _has_cuda()
    if device == "cuda" and not usable:
        raise UsageError("--device cuda", "no usable CUDA device", "a GPU with its driver", "Choose --device cpu.")
    return "cuda" if usable else "cpu"


def _has_cuda() -> bool:
    # If not even the driver is installed, this saves the seconds that torch takes to import.
    try:
        ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return False
    if not extras.has("torch"):
        return False
    import torch

    return torch.cuda.is_available()
