"""A grid and its front end in the form that the C source takes: sizes, and arrays in the order of its `deepnmf_model`.

They are made from the settings and weights of a model file, in NumPy. Matrices become (inputs, outputs), so that the
innermost loop runs over adjacent numbers, and are padded with zeros to whole vectors: spins without couplings stay at
zero.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from deepnmf_cli import checkpoint
from deepnmf_cli.errors import DeepnmfError, ModelError, shortened
from deepnmf_cli.settings import section
from deepnmf_cli.signal import masks
from deepnmf_cli.signal.bands import COMPRESSION, NEIGHBOURS, QUIET, band_matrix
from deepnmf_cli.signal.stft import FrontEnd

BLOCK = 8
"""The number of outputs of a product is a multiple of this: `BLOCK` in the source."""

FAMILY = "a grid with messages of mean field, as base, tiny and large are"
"""Description of the networks that the source can compute."""

LARGEST = 4096
"""Upper limit of every size of a network: far above what is useful, and small enough for the source's integers."""

KNOWN = frozenset({
    "single_bands", "wide_bands", "bins", "rate_hz", "bands_per_node", "channels", "iterations", "context", "messages",
    "tied", "local_fields", "frame_spins", "frame_channels", "phase",
})  # fmt: skip
"""Settings of a grid, all of which decide on sizes and weights."""

SIZES = (
    "layers", "bins", "single_bands", "wide_bands", "bands_per_node", "neighbours", "context", "spins", "frame_spins",
    "frame_rank", "phase", "window_hops", "above_spins",
)  # fmt: skip
CONSTANTS = ("hop_s", "compression", "quiet", "silent", "farthest")
ARRAYS = (
    "segments", "pool", "spread", "hop_turn", "observe_bias", "time_bias", "frequency_bias", "frame_bias", "read_bias",
    "below_ends", "above_edges", "above_rate", "above_rate_bias", "above_spin", "above_spin_bias", "above_spin_rate",
    "above_spin_rate_bias", "above_gain", "above_gain_bias",
)  # fmt: skip
WHOLE = ("segments", "below_ends")
MATRICES = (
    "observe_weight", "time_weight", "frequency_weight", "frequency_join", "read_weight", "phase_weight", "frame_send",
    "frame_weight", "frame_spread", "frame_receive",
)  # fmt: skip
"""The members of `deepnmf_model`: integers, real numbers, arrays, and matrices of all layers that have one."""


@dataclass(frozen=True)
class NativeModel:
    """The content of a `deepnmf_model`."""

    sizes: dict[str, int]
    constants: dict[str, float]
    arrays: dict[str, np.ndarray]
    """Float32, except for integers in those that `WHOLE` names; empty for what the network does not have."""
    matrices: dict[str, np.ndarray]
    """(layers, inputs, outputs) float32."""


def pack(name: str, settings: Mapping[str, Any], weights: Mapping[str, np.ndarray], front_end: FrontEnd) -> NativeModel:
    """Return the model of a network called `name` with these settings and weights, named as in a model file.

    Raises ValueError for networks that the source cannot compute, and for settings and weights that do not fit.
    """
    if name != "grid" or settings.get("messages") != "mean-field":
        raise ValueError(f"the network {name}")
    grid = _Grid(settings, weights)
    wide = band_matrix(grid.bins, grid.single, grid.wide, front_end.rate_hz)[grid.single :, grid.single :]
    segments, pool, spread = _segments(wide)
    turns = np.exp(-2j * np.pi * np.arange(front_end.window_hops) / front_end.window_hops)
    arrays = {"segments": segments, "pool": pool, "spread": spread}
    arrays["hop_turn"] = np.stack([np.real(turns), np.imag(turns)], -1)
    matrices = grid.matrices()
    arrays |= grid.biases() | _above(front_end, grid.bins)
    if unknown := sorted(settings.keys() - KNOWN) + sorted(weights.keys() - grid.used):
        raise ValueError(f"{unknown[0]}, which this version does not know")
    sizes = {
        "layers": grid.layers, "bins": grid.bins, "single_bands": grid.single, "wide_bands": grid.wide,
        "bands_per_node": grid.own, "neighbours": NEIGHBOURS, "context": grid.context, "spins": grid.spins.size,
        "frame_spins": grid.frame.size, "frame_rank": grid.rank, "phase": int(grid.phase),
        "window_hops": front_end.window_hops,
        "above_spins": len(arrays["above_spin_bias"]),
    }  # fmt: skip
    if grid.bins != front_end.bins:
        raise ValueError(f"{grid.bins} bins behind a front end of {front_end.bins}")
    constants = {"hop_s": front_end.hop_s, "compression": COMPRESSION, "quiet": QUIET}
    constants |= {"silent": masks.SILENT, "farthest": masks.FARTHEST}
    arrays = {key: np.ascontiguousarray(arrays[key], np.int32 if key in WHOLE else np.float32) for key in ARRAYS}
    return NativeModel(sizes, constants, arrays, matrices)


def _above(front_end: FrontEnd, bins: int) -> dict[str, np.ndarray]:
    """Return the arrays from which gains above the reach of the network are computed."""
    bands = masks.AboveBands(front_end.pair(front_end.rate_hz), bins)
    spins = _Places.filled_up(len(masks.weights()["spin"]))
    found = {f"above_{key}": _Places.filled_up(len(x)).spread(x, 0).T for key, x in masks.weights().items()}
    found["above_gain"] = spins.spread(found["above_gain"], 0)
    return {"below_ends": bands.ends_below, "above_edges": np.array(masks.EDGES)} | found


def read(path: Path) -> tuple[NativeModel, FrontEnd]:
    """Return the model in a file, and its front end. Raises ModelError for a file that cannot be read, and for networks
    that the source cannot compute.
    """
    weights, meta = checkpoint.load(path, "np")
    try:
        tables = meta.get("recipe", meta)  # format 1 had them in the recipe
        front_end = section(FrontEnd, tables["front_end"], "front_end")
        return pack(tables["model"], tables["network"], weights, front_end), front_end
    except (DeepnmfError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        found, remedy = f"what machine code cannot compute ({shortened(error)})", "Choose --backend auto."
        raise ModelError(path, found, FAMILY, remedy) from error


@dataclass(frozen=True)
class _Places:
    """Positions of some numbers among `size`, where all others are zero."""

    at: np.ndarray
    size: int

    @classmethod
    def filled_up(cls, count: int) -> "_Places":
        return cls(np.arange(count), -(-count // BLOCK) * BLOCK)

    @classmethod
    def halves(cls, count: int) -> "_Places":
        """Return the places of spins, of which each half is padded to whole halves of a block."""
        half, room = count // 2, -(-count // BLOCK) * BLOCK // 2
        return cls(np.concatenate([np.arange(half), room + np.arange(half)]), 2 * room)

    @classmethod
    def as_they_are(cls, count: int) -> "_Places":
        return cls(np.arange(count), count)

    def twice(self) -> "_Places":
        return _Places(np.concatenate([self.at, self.size + self.at]), 2 * self.size)

    def spread(self, x: np.ndarray, axis: int) -> np.ndarray:
        """Return `x` with the numbers along an axis moved to their places among `size`."""
        x = np.moveaxis(x, axis, -1)
        out = np.zeros((*x.shape[:-1], self.size), np.float32)
        out[..., self.at] = x
        return np.moveaxis(out, -1, axis)


class _Grid:
    """The checked settings of a grid, and its weights, each of the shape that the settings require."""

    def __init__(self, settings: Mapping[str, Any], weights: Mapping[str, np.ndarray]) -> None:
        def size(key: str, least: int = 1) -> int:
            value = settings.get(key)
            if type(value) is not int or not least <= value <= LARGEST:
                raise ValueError(f"{key} = {value!r}")
            return value

        self.bins, self.single, self.wide = size("bins"), size("single_bands", 0), size("wide_bands")
        self.own, self.context, self.layers = size("bands_per_node"), size("context"), size("iterations")
        self.count, self.told, self.rank = size("channels", 2), size("frame_spins", 0), size("frame_channels")
        self.phase = settings.get("phase") is True
        bands = self.single + self.wide
        if self.count % 2 or bands % self.own or self.single >= self.bins or (self.phase and self.single % self.own):
            raise ValueError("settings that do not fit each other")
        self.nodes, self.window = bands // self.own, self.own + 2 * NEIGHBOURS
        self.spins, self.frame = _Places.halves(self.count), _Places.filled_up(self.told)
        self._weights, self.used = weights, set[str]()

    def _of_layers(self, key: str, *shape: int, layers: int | None = None) -> np.ndarray:
        """Return a weight of all layers (K, *shape), repeated for layers that share a slot."""
        layers = self.layers if layers is None else layers
        slots = 1 if f"{key}_1" not in self._weights else layers
        names = [f"{key}_{slot}" for slot in range(slots)]
        self.used.update(names)
        found = [np.asarray(self._weights.get(name, np.empty(0)), np.float32) for name in names]
        for x in found:
            if x.shape != shape or not np.isfinite(x).all():
                raise ValueError(f"{key} of the shape {x.shape} in place of {shape}, or not finite")
        return np.stack([found[k % slots] for k in range(layers)])

    def _matrix(self, key: str, outputs: _Places, inputs: _Places, layers: int | None = None) -> np.ndarray:
        x = self._of_layers(key, len(outputs.at), len(inputs.at), layers=layers)
        return np.ascontiguousarray(inputs.spread(outputs.spread(x, 1), 2).swapaxes(1, 2))

    def _bias(self, key: str, count: int, layers: int | None = None) -> np.ndarray:
        """Return a bias (K, N, count), repeated for every node if all nodes share it."""
        shared = np.ndim(self._weights.get(f"{key}_0", 0)) == 1
        x = self._of_layers(key, *([count] if shared else [self.nodes, count]), layers=layers)
        return np.broadcast_to(x[:, None] if shared else x, (len(x), self.nodes, count))

    def biases(self) -> dict[str, np.ndarray]:
        frame = np.empty(0)
        if self.told:
            frame = self.frame.twice().spread(self._of_layers("frame_bias", 2 * self.told), -1)
        marginals = self._of_layers("read_bias", self.own, layers=1)[0]
        return {
            "observe_bias": self.spins.spread(self._bias("observe_bias", self.count, layers=1)[0], -1),
            "time_bias": self.spins.twice().spread(self._bias("time_bias", 2 * self.count), -1),
            "frequency_bias": self.spins.twice().spread(_sorted(self._bias("frequency_bias", 2 * self.count), -1), -1),
            "frame_bias": frame,
            "read_bias": _Places.filled_up(self._shown).spread(np.pad(marginals, (0, self._shown - self.own)), -1),
        }

    @property
    def _shown(self) -> int:
        """Number of values that are read out of a node: marginals of its bands, and with phase the turns of these."""
        return (3 if self.phase else 1) * self.own

    def matrices(self) -> dict[str, np.ndarray]:
        exact, spins, both = _Places.as_they_are, self.spins, self.spins.twice()
        found = {
            "observe_weight": self._matrix("observe_weight", spins, exact(self.context * self.window), 1),
            "time_weight": self._matrix("time_weight", both, spins),
            "frequency_join": self._matrix("frequency_join", spins, spins),
        }
        along = _sorted(self._of_layers("frequency_weight", 2 * self.count, self.count), 1)
        found["frequency_weight"] = spins.spread(both.spread(along, 1), 2).swapaxes(1, 2)
        shown = [self._of_layers("read_weight", self.own, self.count, layers=1)]
        if self.phase:
            shown.append(self._of_layers("turn_weight", 2 * self.own, self.count, layers=1))
            found["phase_weight"] = self._matrix("phase_weight", spins, exact(4 * self.window), 1)
        shown = _Places.filled_up(self._shown).spread(np.concatenate(shown, 1), 1)
        found["read_weight"] = spins.spread(shown, 2).swapaxes(1, 2)
        if self.told:
            sent = self.nodes * self.rank
            found["frame_send"] = self._matrix("frame_send", _Places.filled_up(self.rank), spins)
            found["frame_weight"] = self._matrix("frame_weight", self.frame.twice(), exact(sent))
            found["frame_spread"] = self._matrix("frame_spread", _Places.filled_up(sent), self.frame)
            found["frame_receive"] = self._matrix("frame_receive", spins, exact(self.rank))
        return {key: np.ascontiguousarray(found.get(key, np.empty((0, 0, 0))), np.float32) for key in MATRICES}


def _sorted(x: np.ndarray, axis: int) -> np.ndarray:
    """Return couplings, then schedules, where `x` has both of the upward spins, then both of the downward spins."""
    parts = np.split(x, 4, axis)
    return np.concatenate([parts[k] for k in (0, 2, 1, 3)], axis)


def _segments(wide: np.ndarray) -> tuple[Sequence[int], np.ndarray, np.ndarray]:
    """Return segments and weights of wide bands (bands, bins), where no bin belongs to more than two bands.

    First, after a zero, the bins up to which the lower of a bin's bands is b, for b from 0 on; then what bins give to
    the bands b and b + 1 (2, bins); and what they take from these.
    """
    pool, spread = wide / wide.sum(1, keepdims=True), wide
    first = np.minimum((wide > 0).argmax(0), len(wide) - 1)
    bins, beyond = np.arange(wide.shape[1]), np.zeros((1, wide.shape[1]), wide.dtype)
    chosen = []
    for x in (pool, spread):
        x = np.concatenate([x, beyond])
        chosen.append(np.stack([x[first, bins], x[first + 1, bins]]))
        if not np.isclose(chosen[-1].sum(), x.sum()) or (np.diff(first) < 0).any():
            raise ValueError("a bin belongs to bands that are no neighbours")
    return [0, *(int((first <= b).sum()) for b in range(len(wide)))], chosen[0], chosen[1]
