"""A `streaming.Backend` that computes grids from waveform to waveform with the C library."""

import ctypes
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from deepnmf_cli.errors import NativeError, require_depth
from deepnmf_cli.native import library
from deepnmf_cli.native.model import ARRAYS, CONSTANTS, MATRICES, SIZES, NativeModel, read
from deepnmf_cli.signal.arrays import InNumpy
from deepnmf_cli.signal.stft import FrontEnd

ALIGNMENT = 64
"""Alignment of weights in bytes: a cache line, so that vectors of weights do not straddle two."""


class _Matrix(ctypes.Structure):
    _fields_ = (("values", ctypes.c_void_p), ("scales", ctypes.c_void_p))


class _Model(ctypes.Structure):
    """The structure `deepnmf_model` of the C source, member by member."""

    _fields_ = (
        *((name, ctypes.c_int) for name in SIZES),
        *((name, ctypes.c_double) for name in CONSTANTS),
        *((name, ctypes.c_void_p) for name in ARRAYS),
        *((name, _Matrix) for name in MATRICES),
    )


class NativeBackend(InNumpy):
    """A backend that computes the network of a model file with the library of `native.library`.

    Unpickling a backend opens the file again. Threads may share one, as each recording has memory of its own.
    """

    def __init__(self, path: Path) -> None:
        """Open a model file. Raises NativeError without a usable library, and ModelError for other networks' files."""
        self._path = path.absolute()
        self._library = library.load(library.require())
        self._declare()
        packed, self._front_end = read(path)
        self._phase = bool(packed.sizes["phase"])
        self._model, self._kept = _structure(packed)
        self._layers = self._model.layers

    def __repr__(self) -> str:
        return "native code, 1 thread"

    def __reduce__(self) -> tuple:
        return _opened, (self._path, self._model.layers)

    def _declare(self) -> None:
        """Declare the argument types and result types of the library's functions."""
        c, at = self._library, ctypes.c_void_p
        if c.deepnmf_model_size() != ctypes.sizeof(_Model):
            found = f"a model of {c.deepnmf_model_size()} bytes"
            raise NativeError("--backend native", found, f"{ctypes.sizeof(_Model)} bytes", library.REBUILD)
        c.deepnmf_create_for.argtypes = [at, ctypes.c_int, ctypes.c_int, ctypes.c_float, ctypes.c_float]
        c.deepnmf_create_for.restype = at
        c.deepnmf_free.argtypes, c.deepnmf_free.restype = [at], None
        c.deepnmf_hops.argtypes, c.deepnmf_hops.restype = [at, at, at, ctypes.c_size_t, ctypes.c_size_t], None
        c.deepnmf_masks.argtypes, c.deepnmf_masks.restype = [at, at, at, ctypes.c_size_t], None

    def front_end(self) -> FrontEnd:
        """Return the front end that the model file specifies."""
        return self._front_end

    @property
    def uses_phase(self) -> bool:
        return self._phase

    @property
    def depths(self) -> range:
        """See `enhancer.Stoppable`."""
        return range(1, self._layers + 1)

    def at_depth(self, depth: int) -> "NativeBackend":
        """See `enhancer.Stoppable`. The weights are shared."""
        require_depth(depth, self.depths)
        stopped = object.__new__(NativeBackend)
        vars(stopped).update(vars(self), _model=_Model.from_buffer_copy(self._model))
        stopped._model.layers = depth
        return stopped

    def _begin(self, rate_hz: int, channels: int, max_attenuation_db: float | None, mix: float) -> "_Recording":
        limit = float("inf") if max_attenuation_db is None else max_attenuation_db
        return _Recording(self, self._library, self._model, (int(rate_hz), channels, limit, mix))

    def path(
        self, rate_hz: int, channels: int, max_attenuation_db: float | None, mix: float
    ) -> Callable[[np.ndarray], np.ndarray]:
        """See `streaming.WholePath`."""
        hop = self._front_end.pair(rate_hz).hop_samples
        recording = self._begin(rate_hz, channels, max_attenuation_db, mix)

        def hops(samples: np.ndarray) -> np.ndarray:
            samples = np.ascontiguousarray(samples, np.float32)
            out = np.empty_like(samples)
            stride = samples.shape[1]
            self._library.deepnmf_hops(recording.at, samples.ctypes.data, out.ctypes.data, stride // hop, stride)
            return out

        return hops

    def __call__(self, inputs: np.ndarray, state: Any) -> tuple[np.ndarray, Any]:
        """See `streaming.Backend`; a state may be passed on only once, as it is memory of the library."""
        recording = state or self._begin(self._front_end.rate_hz, 1, None, 1.0)
        inputs = np.ascontiguousarray(inputs, np.float32)
        speech = np.empty((2, *inputs.shape[-2:]), np.float32)
        self._library.deepnmf_masks(recording.at, inputs.ctypes.data, speech.ctypes.data, inputs.shape[-1])
        masks = [speech[0], 1 - speech[0], *speech[1 : 1 + self._phase]]
        return np.stack(masks)[None], recording


def _opened(path: Path, depth: int) -> NativeBackend:
    return NativeBackend(path).at_depth(depth)


class _Recording:
    """The library's state of a recording, freed when this object is no longer referenced."""

    def __init__(
        self, backend: NativeBackend, code: ctypes.CDLL, model: _Model, arguments: tuple[int, int, float, float]
    ) -> None:
        """Allocate the state. Raises MemoryError if there is too little memory."""
        self._backend = backend  # keeps the weights alive
        self.at = code.deepnmf_create_for(ctypes.addressof(model), *arguments)
        if not self.at:
            raise MemoryError("cannot allocate memory for a recording")
        weakref.finalize(self, code.deepnmf_free, self.at)


def _structure(packed: NativeModel) -> tuple[_Model, list[np.ndarray]]:
    """Return the C structure of a model, and the arrays that it points into."""
    kept: list[np.ndarray] = []

    def place(x: np.ndarray) -> int | None:
        if not x.size:
            return None
        room = np.empty(x.nbytes + ALIGNMENT, np.uint8)
        begin = -room.ctypes.data % ALIGNMENT
        room[begin : begin + x.nbytes] = x.ravel().view(np.uint8)
        kept.append(room)
        return room.ctypes.data + begin

    members: list[Any] = [packed.sizes[name] for name in SIZES] + [packed.constants[name] for name in CONSTANTS]
    members += [place(packed.arrays[name]) for name in ARRAYS]
    members += [_Matrix(place(packed.matrices[name]), None) for name in MATRICES]
    return _Model(*members), kept
