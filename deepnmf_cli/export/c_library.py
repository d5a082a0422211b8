"""Export of a network of the grid family as a C library: one source file, its header, and the weights as arrays.

The source, `native/c/deepnmf.c`, is the same for all models; `deepnmf_model.h` is written here, from `native.model`.
"""

import dataclasses
from collections.abc import Iterable, Iterator
from importlib import resources
from pathlib import Path

import numpy as np

from deepnmf_cli import __version__, checkpoint
from deepnmf_cli.errors import UsageError
from deepnmf_cli.export.int8 import rounded
from deepnmf_cli.native import model
from deepnmf_cli.networks.base import MaskNetwork
from deepnmf_cli.signal.stft import FrontEnd

SOURCES = ("deepnmf.h", "deepnmf.c")
MODEL = "deepnmf_model.h"
"""The file that differs between models."""

FILES = (*SOURCES, MODEL)


def write(network: MaskNetwork, front_end: FrontEnd, name: str, folder: Path, weights: str = "float32") -> list[Path]:
    """Write the C library for a network into a folder and return the paths of its files. All files appear, or none.

    `weights` "int8" stores matrices as integers with a scale for every output. Raises UsageError for networks other
    than grids with mean-field messages.
    """
    try:
        arrays = {key: tensor.detach().numpy() for key, tensor in network.weights().items()}
        packed = model.pack(network.name, dataclasses.asdict(network.settings), arrays, front_end)
    except ValueError as error:
        found = f"the model {network.name}"
        raise UsageError("--format c", found, model.FAMILY, "Choose --format onnx.") from error
    texts = {file: resources.files("deepnmf_cli.native").joinpath("c", file).read_text("utf-8") for file in SOURCES}
    texts[MODEL] = "\n".join(_header(packed, name, weights == "int8"))
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint.remove_leftovers(folder)
    checkpoint.write_all(
        {folder / file: lambda path, text=text: path.write_text(text, encoding="utf-8") for file, text in texts.items()}
    )
    return [folder / file for file in texts]


def _header(packed: model.NativeModel, name: str, int8: bool) -> Iterator[str]:
    """Yield the lines of a model's file: its arrays, and DEEPNMF_MODEL, which initialises a `deepnmf_model`."""
    called = Path(name).name.replace("*/", "")  # where it lies on this machine is nobody's business
    yield f"/* The model {called}, written by deepnmf {__version__}. */"
    yield "#ifndef DEEPNMF_MODEL_H\n#define DEEPNMF_MODEL_H\n"
    yield "#if defined(__GNUC__)\n#define DEEPNMF_ALIGNED __attribute__((aligned(32)))\n#else"
    yield "#define DEEPNMF_ALIGNED\n#endif"
    if int8:
        yield "#define DEEPNMF_INT8"
    members = [str(packed.sizes[key]) for key in model.SIZES] + [repr(packed.constants[key]) for key in model.CONSTANTS]
    for key in model.ARRAYS:
        yield from _array(key, packed.arrays[key])
        members.append(_pointer(key, packed.arrays[key]))
    for key in model.MATRICES:
        values, scales = packed.matrices[key], np.empty(0, np.float32)
        if int8:
            values, scales = rounded(values, (1,))  # for each output
        yield from _array(key, values)
        yield from _array(f"{key}_scales", scales)
        members.append(f"{{{_pointer(key, values)}, {_pointer(f'{key}_scales', scales)}}}")
    yield "\n#define DEEPNMF_MODEL { \\"
    yield ", \\\n".join(f"    {member}" for member in members) + " }"
    yield "\n#endif\n"


def _pointer(name: str, array: np.ndarray) -> str:
    return name if array.size else "0"


def _array(name: str, array: np.ndarray) -> Iterator[str]:
    """Yield the C definition of an array, flattened, with as many digits as single precision needs."""
    kinds = {np.dtype(np.int32): "int", np.dtype(np.int8): "signed char", np.dtype(np.float32): "float"}
    if array.size:
        values = ",".join(_numbers(array.ravel()))
        yield f"\nstatic const {kinds[array.dtype]} {name}[{array.size}] DEEPNMF_ALIGNED = {{{values}}};"


def _numbers(values: np.ndarray) -> Iterable[str]:
    if values.dtype != np.float32:
        return map(str, values)
    return (f"{text}f" if "." in text or "e" in text else f"{text}.f" for text in (f"{x:.9g}" for x in values))
