"""A network of the grid family as a library in C: one source file, its header, and the weights as arrays.

The source, `native/c/deepnmf.c`, is the same for all models; `deepnmf_model.h` is made here. Matrices are stored by
columns, so that the innermost loop of a product runs over outputs, which lie side by side.
"""

from collections.abc import Iterable
from importlib import resources
from pathlib import Path

import numpy as np

from deepnmf_cli import __version__, checkpoint
from deepnmf_cli.errors import UsageError
from deepnmf_cli.networks.base import MaskNetwork
from deepnmf_cli.networks.grid import COMPRESSION, QUIET, Grid
from deepnmf_cli.networks.grid_settings import NEIGHBOURS
from deepnmf_cli.signal.stft import FrontEnd
from deepnmf_cli.streaming import HIGHEST_BAND_HZ

SOURCES = ("deepnmf.h", "deepnmf.c")
MODEL = "deepnmf_model.h"
"""The file that differs between models."""

FILES = (*SOURCES, MODEL)

_MATRICES = ("time_weight", "frequency_weight", "frequency_join")
_FRAME_MATRICES = ("frame_send", "frame_weight", "frame_spread", "frame_receive")


def write(network: MaskNetwork, front_end: FrontEnd, name: str, folder: Path) -> list[Path]:
    """Write the library for a network into a folder; returns the files. Raises UsageError for other networks than grids
    with messages of mean field.
    """
    if type(network) is not Grid or network.settings.messages != "mean-field":
        expected = "a grid with messages of mean field, as base, tiny and large are"
        raise UsageError("--format c", f"the model {network.name}", expected, "Choose --format onnx.")
    texts = {file: resources.files("deepnmf_cli.native").joinpath("c", file).read_text("utf-8") for file in SOURCES}
    texts[MODEL] = _model(network, front_end, name)
    folder.mkdir(parents=True, exist_ok=True)
    for file, text in texts.items():
        with checkpoint.atomic_path(folder / file) as partial:
            partial.write_text(text, encoding="utf-8")
    return [folder / file for file in texts]


def _model(network: Grid, front_end: FrontEnd, name: str) -> str:
    """The header that holds a network and its front end."""
    s, layers = network.settings, network.settings.iterations
    shape = {
        "BINS": s.bins, "SINGLE_BANDS": s.single_bands, "WIDE_BANDS": s.wide_bands, "BANDS_PER_NODE": s.bands_per_node,
        "WINDOW_BANDS": s.window, "NEIGHBOURS": NEIGHBOURS, "NODES": s.nodes, "CONTEXT": s.context,
        "SPINS": s.channels, "LAYERS": layers, "FRAME_SPINS": s.frame_spins, "FRAME_RANK": s.frame_channels,
        "PHASE": int(s.phase), "PHASE_NODES": s.single_bands // s.bands_per_node, "WINDOW_HOPS": front_end.window_hops,
        "TOP_BINS": max(1, round(HIGHEST_BAND_HZ / (front_end.rate_hz / 2) * s.bins)),
        "COMPRESSION": f"{COMPRESSION}f", "QUIET": f"{QUIET}f", "HOP_S": front_end.hop_s,
    }  # fmt: skip
    lines = [
        f"/* The model {name}, written by deepnmf {__version__}. */",
        "#ifndef DEEPNMF_MODEL_H",
        "#define DEEPNMF_MODEL_H",
        "",
    ]
    lines += [f"#define {key} {value}" for key, value in shape.items()]
    for key, array in _arrays(network, front_end).items():
        kind = "unsigned char" if array.dtype == np.uint8 else "float"
        axes = "".join(f"[{size}]" for size in array.shape)
        lines += ["", f"static const {kind} {key}{axes} = {_braces(array)};"]
    return "\n".join([*lines, "", "#endif", ""])


def _arrays(network: Grid, front_end: FrontEnd) -> dict[str, np.ndarray]:
    s = network.settings
    weights = {key: tensor.detach().numpy() for key, tensor in network.unfolded.bank.values().items()}

    def of_layers(key: str) -> np.ndarray:
        """All layers (K, ...), those that share a slot as often as they do."""
        slots = [slot for slot in network.unfolded.bank.ties[key].slots if slot is not None]
        return np.stack([weights[f"{key}_{slot}"] for slot in slots])

    def by_columns(key: str) -> np.ndarray:
        found = of_layers(key)
        return found.swapaxes(-1, -2).reshape(len(found), -1)

    def of_nodes(key: str) -> np.ndarray:
        """Biases (K, N, M), those that all nodes share written out."""
        found = of_layers(key)
        shared = found if found.ndim == 3 else found[:, None]
        return np.broadcast_to(shared, (len(found), s.nodes, found.shape[-1]))

    for key, tensor in list(weights.items()):
        if key.startswith(("frequency_weight", "frequency_bias")):
            # Couplings and schedules of the spins that go up, then of those that go down: couplings come first instead.
            axis = 0 if "weight" in key else -1
            weights[key] = np.concatenate([np.split(tensor, 4, axis)[part] for part in (0, 2, 1, 3)], axis)
    arrays = {key: by_columns(key) for key in ("observe_weight", "read_weight", *_MATRICES)}
    arrays |= {key: of_nodes(key) for key in ("observe_bias", "time_bias", "frequency_bias")}
    arrays["read_bias"] = of_layers("read_bias")
    if s.phase:
        arrays |= {key: by_columns(key) for key in ("phase_weight", "turn_weight")}
    if s.frame_spins:
        arrays |= {key: by_columns(key) for key in _FRAME_MATRICES}
        arrays["frame_bias"] = of_layers("frame_bias")
    turns = np.exp(-2j * np.pi * np.arange(front_end.window_hops) / front_end.window_hops)
    arrays["hop_turn"] = np.stack([turns.real, turns.imag], -1)
    return arrays | _wide_bands(network)


def _wide_bands(network: Grid) -> dict[str, np.ndarray]:
    """For each bin above the single bands the first wide band it belongs to, and what it gives to that and the next
    one, and takes of their masks: no bin belongs to more than two.
    """
    pool, spread = network.to_bands.numpy(), network.to_bins.numpy()  # (wide, bins), (bins, wide)
    first = np.minimum((pool > 0).argmax(0), len(pool) - 1)
    bins = np.arange(pool.shape[1])
    beyond = np.zeros((1, pool.shape[1]), pool.dtype)
    pool, spread = np.concatenate([pool, beyond]), np.concatenate([spread.T, beyond])
    arrays = {"pool_weight": pool, "spread_weight": spread}
    chosen = {key: np.stack([x[first, bins], x[first + 1, bins]], -1) for key, x in arrays.items()}
    if any(not np.isclose(chosen[key].sum(), x.sum()) for key, x in arrays.items()):
        raise ValueError("a bin belongs to bands that are no neighbours")
    return {"wide_band": first.astype(np.uint8), **chosen}


def _braces(array: np.ndarray) -> str:
    """An initialiser in C, with as many digits as single precision needs."""
    if array.ndim > 1:
        return "{" + ",\n".join(map(_braces, array)) + "}"
    return "{" + ",".join(_numbers(array)) + "}"


def _numbers(values: np.ndarray) -> Iterable[str]:
    if values.dtype == np.uint8:
        return map(str, values)
    return (f"{text}f" if "." in text or "e" in text else f"{text}.f" for text in (f"{x:.9g}" for x in values))
