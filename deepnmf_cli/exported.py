"""Networks that `deepnmf export` wrote, run by ONNX Runtime: no torch, started in a tenth of a second."""

import hashlib
import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from threading import Lock
from typing import Any, cast

import numpy as np
import onnxruntime

from deepnmf_cli.errors import ModelError, lack_of_memory, shortened
from deepnmf_cli.external import external_tensors
from deepnmf_cli.signal.arrays import InNumpy
from deepnmf_cli.signal.stft import FrontEnd

META_KEY = "deepnmf"
"""Key of the metadata in which an exported file describes itself, as JSON: see `deepnmf_cli.export`."""

WEIGHTS = "weights_sha256"
"""Entry of that JSON for the file of weights that was exported."""

CHECKSUM = "file_sha256"
"""Entry of that JSON for the file itself: the SHA-256 of its bytes with zeros in place of these 64 digits."""

_CHECKSUM = re.compile(rb'"%s": "([0-9a-f]{64})"' % CHECKSUM.encode())
NO_CHECKSUM = "0" * 64

FORMAT = 2
"""Version of the layout of inputs, outputs and metadata; a reader refuses a newer one instead of guessing. Version 2
came with networks that use phase; graphs of other networks are marked 1, and older readers run them."""

MAGNITUDE, FEATURES, MASKS, STATE, NEXT_STATE = "magnitude", "features", "masks", "state_", "next_state_"
"""Names of the inputs and outputs, FEATURES in place of MAGNITUDE for networks that use phase; states are numbered."""

EXPORT_AGAIN = "Export the model again with --overwrite, copy the file again, or choose --backend torch."

SHARED = ".safetensors"
"""Suffix of the file in which an exported one may leave its weights."""

LARGEST_STATES = 10_000_000
"""Most numbers in all states together: the largest network that ships has about fifty thousand."""

FEW = 4
"""Up to this many frames go one by one through a graph for single frames, if there is one: four take 1.0 ms in it and
1.2 ms in a graph for any number, five 1.3 and 1.4, six 1.5 and 1.4."""


def with_checksum(content: bytes) -> bytes:
    """Return the bytes of a file whose metadata have NO_CHECKSUM as CHECKSUM, with the right checksum in its place."""
    match = _CHECKSUM.search(content)
    assert match is not None
    start, end = match.span(1)
    return content[:start] + _checksum(content, start, end) + content[end:]


def has_checksum(content: bytes) -> bool | None:
    """Return whether the bytes of a file match its checksum; None for a file without one."""
    if (match := _CHECKSUM.search(content)) is None:
        return None
    return match[1] == _checksum(content, *match.span(1))


def _checksum(content: bytes, start: int, end: int) -> bytes:
    """Return the checksum of a file in which it stands from `start` to `end`."""
    digest = hashlib.sha256(content[:start])
    digest.update(NO_CHECKSUM.encode())
    digest.update(memoryview(content)[end:])
    return digest.hexdigest().encode()


class ExportedGraph:
    """An exported file, opened: a function of magnitudes and states."""

    def __init__(self, path: Path, threads: int = 1) -> None:
        """Raises ModelError for a file that is damaged, unreadable for ONNX Runtime, or not of this program."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.log_severity_level = 4  # errors are raised, and so reported once
        content = _read(path)
        shared, weights = _shared(path, content)
        try:
            options.add_external_initializers(
                list(weights), [onnxruntime.OrtValue.ortvalue_from_numpy(x) for x in weights.values()]
            )
            # From the bytes that were checked: ONNX Runtime opens neither this file nor one that it names.
            self._session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
            self.meta = json.loads(self._session.get_modelmeta().custom_metadata_map.get(META_KEY, "null"))
        except Exception as error:  # ONNX Runtime's own types have no other ancestor
            found = f"no graph that ONNX Runtime can run ({shortened(error)})"
            raise ModelError(path, found, "a file that `deepnmf export` wrote", "Export the model again.") from error
        if not isinstance(self.meta, dict) or type(self.meta.get("format")) is not int:
            raise ModelError(
                path, "an ONNX file of another program", "one that `deepnmf export` wrote", "Choose another file."
            )
        if self.meta["format"] > FORMAT:
            remedy = "Update with `pip install --upgrade deepnmf`."
            raise ModelError(path, f"format {self.meta['format']}", f"format {FORMAT} or older", remedy)
        if shared is not None and hashlib.sha256(shared).hexdigest() != self.meta.get(WEIGHTS):
            found = "other weights beside it than those that it was made of"
            raise ModelError(path, found, "the model file as it was", EXPORT_AGAIN)
        if CHECKSUM not in self.meta:
            raise ModelError(path, "no checksum, as older versions wrote it", "one of the file", EXPORT_AGAIN)
        try:
            self._inputs, self._states, self._bins = _signature(self._session)
        except (TypeError, ValueError) as error:
            raise self._of_another_shape(path, error) from error
        self._path, self._weights = path, weights  # the session may read the weights as long as it lives

    def front_end(self) -> FrontEnd:
        """Return the front end that the file names. Raises ModelError for none, or one with other frequencies."""
        kinds = {WEIGHTS: str, "single_frames": bool, "front_end": dict}
        try:
            if wrong := [key for key, kind in kinds.items() if type(self.meta.get(key)) is not kind]:
                raise ValueError(f"no {wrong[0]}")
            front_end = FrontEnd(**self.meta["front_end"])
            if front_end.bins != self._bins:
                raise ValueError(f"{self._bins} frequencies in place of {front_end.bins}")
        except (TypeError, ValueError, OverflowError) as error:
            raise self._of_another_shape(self._path, error) from error
        return front_end

    @staticmethod
    def _of_another_shape(path: Path, error: Exception) -> ModelError:
        found = f"a graph of another shape than its description ({shortened(error)})"
        return ModelError(path, found, "one that `deepnmf export` wrote", "Export the model again.")

    @property
    def start(self) -> list[np.ndarray]:
        """The states at the start of a recording: zeros."""
        return [np.zeros(shape, np.float32) for shape in self._states.values()]

    @property
    def uses_phase(self) -> bool:
        """Return whether it takes `signal.features.phase_features` instead of magnitudes."""
        return self._inputs == FEATURES

    def __call__(self, inputs: np.ndarray, states: list[np.ndarray]) -> tuple[np.ndarray, list[np.ndarray]]:
        """Return masks of magnitudes (1, F, T) or features, float32, and the next states; see `MaskNetwork.forward`."""
        given = dict(zip(self._states, states, strict=True))
        try:
            outputs = self._session.run(None, {self._inputs: inputs, **given})
        except Exception as error:  # ONNX Runtime's own types have no other ancestor
            if lack_of_memory(error):
                raise
            found = f"a graph that fails when it runs ({shortened(error)})"
            raise ModelError(self._path, found, "one that `deepnmf export` wrote", "Export the model again.") from error
        # ONNX Runtime's type names everything that graphs may return.
        masks, *following = cast("list[np.ndarray]", outputs)
        return masks, following

    def single_frames(self, states: list[np.ndarray]) -> "SingleFrames":
        """Continue frame by frame from `states`, with a graph for single frames."""
        return SingleFrames(self._session, states)


def _read(path: Path) -> bytes:
    """Return the bytes of an exported file. Raises ModelError for one that cannot be read, or that is damaged."""
    try:
        content = path.read_bytes()
    except OSError as error:
        found = f"no readable file ({error.strerror})"
        raise ModelError(path, found, "a file that `deepnmf export` wrote", "Check the path.") from error
    if has_checksum(content) is False:
        raise ModelError(path, "a damaged file, whose checksum is another", "the file as it was written", EXPORT_AGAIN)
    return content


def _shared(path: Path, content: bytes) -> tuple[bytes | None, dict[str, np.ndarray]]:
    """Return the file of weights that an exported file names (None: it needs no other), and the initialisers in it.

    That must be one .safetensors file in the same folder, even if either is a symbolic link. Raises ModelError for any
    other, before it is opened, and for numbers that are not in it.
    """
    try:
        tensors = external_tensors(content)
    except ValueError as error:
        found = f"no graph that ONNX Runtime can run ({shortened(error)})"
        raise ModelError(path, found, "a file that `deepnmf export` wrote", "Export the model again.") from error
    if not tensors:
        return None, {}
    try:
        name = tensors[0].location
        if Path(name).name != name or not name.endswith(SHARED) or any(t.location != name for t in tensors):
            raise ValueError(f"numbers in {shortened(repr(name), 60)}")
        if not all(tensor.weight for tensor in tensors):
            raise ValueError("other tensors than weights elsewhere")
        file = path.with_name(name)
        if file.resolve().parent != path.resolve().parent:
            raise ValueError(f"numbers in a file of another folder, to which {name} leads")
        exists = file.is_file()
    except (ValueError, OverflowError, OSError) as error:
        found = f"weights in a place where they must not be ({shortened(error, 100)})"
        raise ModelError(path, found, "weights in a .safetensors file beside it", "Export the model again.") from error
    remedy = f"Copy it too, or write a file that needs no other: deepnmf export {name} -o NEW.onnx."
    if not exists:
        raise ModelError(path, f"no {name} beside it", "the file that has its weights", remedy)
    try:
        whole = file.read_bytes()
    except OSError as error:
        raise ModelError(file, f"no readable file ({error.strerror})", "the weights of a model", remedy) from error
    if any(t.offset % 4 or not 0 < t.size <= len(whole) - t.offset <= len(whole) for t in tensors):
        raise ModelError(path, f"numbers beyond the end of {name}", "those of the file as it was", EXPORT_AGAIN)
    return whole, {t.name: np.frombuffer(whole, np.float32, t.size // 4, t.offset).reshape(t.shape) for t in tensors}


def _signature(session: onnxruntime.InferenceSession) -> tuple[str, dict[str, list[int]], int]:
    """Return the name of a graph's input, the shapes of its states by name, and the number of frequencies.

    Raises ValueError for inputs and outputs that an export does not have.
    """
    (inputs, *states), (masks, *following) = session.get_inputs(), session.get_outputs()
    bins = inputs.shape[-2] if len(inputs.shape) > 2 else None
    if inputs.name not in (MAGNITUDE, FEATURES) or type(bins) is not int or masks.name != MASKS:
        raise ValueError(f"{inputs.name} of {inputs.shape} in, {masks.name} out")
    shapes = {value.name: value.shape for value in states}
    if not all(name.startswith(STATE) and all(type(n) is int and n >= 0 for n in s) for name, s in shapes.items()):
        raise ValueError("states of unknown size")
    if len(following) != len(states) or sum(math.prod(shape) for shape in shapes.values()) > LARGEST_STATES:
        raise ValueError(f"{len(states)} states in, {len(following)} out")
    return inputs.name, shapes, bins


class SingleFrames:
    """A recording in progress in a graph for single frames.

    The graph reads its states from one set of buffers and writes the next ones into another, and the two sets are
    swapped after every frame. Passing the states through Python instead would take a tenth of the time of a frame.
    """

    def __init__(self, session: onnxruntime.InferenceSession, states: list[np.ndarray]) -> None:
        first = [np.array(state, np.float32, order="C") for state in states]
        sets = first, [np.empty_like(state) for state in first]
        self._inputs, self._masks = (
            np.empty(value.shape, np.float32) for value in (session.get_inputs()[0], session.get_outputs()[0])
        )
        self._turns = []
        for current, following in (sets, sets[::-1]):
            binding = session.io_binding()
            for value, buffer in zip(session.get_inputs(), [self._inputs, *current], strict=True):
                binding.bind_input(value.name, "cpu", 0, np.float32, buffer.shape, buffer.ctypes.data)
            for value, buffer in zip(session.get_outputs(), [self._masks, *following], strict=True):
                binding.bind_output(value.name, "cpu", 0, np.float32, buffer.shape, buffer.ctypes.data)
            self._turns.append((binding, current))
        self._run = session.run_with_iobinding

    @property
    def states(self) -> list[np.ndarray]:
        """The states after the last frame."""
        return [state.copy() for state in self._turns[0][1]]

    def __call__(self, inputs: np.ndarray) -> np.ndarray:
        """Return masks (1, 2, F, 1) of magnitudes (1, F, 1), or (1, 3, F, 1) of features (1, 5, F, 1), float32."""
        self._inputs[:] = inputs
        self._run(self._turns[0][0])
        self._turns.reverse()
        return self._masks.copy()


State = list[np.ndarray] | SingleFrames | None
"""The states that a graph for any number of frames returned, or a recording in progress in one for single frames; None
at the start."""


class OnnxBackend(InNumpy):
    """A `streaming.Backend` of NumPy arrays over a graph for any number of frames, one for single frames, or both.

    Both must have the same weights. Each file is opened when it is first needed, and again after unpickling.
    """

    def __init__(self, any_frames: Path | None, single_frames: Path | None = None, threads: int = 1) -> None:
        self._any, self._single, self._threads = any_frames, single_frames, threads
        self._opened: dict[Path, ExportedGraph] = {}
        self._opening = Lock()
        self.meta: Mapping[str, Any] = {}
        """What the files say about themselves."""
        self.meta = self._graph(self._paths[0]).meta

    def __repr__(self) -> str:
        return f"ONNX Runtime, {self._threads} thread{'s' * (self._threads != 1)}"

    def __getstate__(self) -> dict[str, Any]:
        places = {key: path and path.absolute() for key, path in (("_any", self._any), ("_single", self._single))}
        return {**places, "_threads": self._threads, "meta": self.meta}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _opened={}, _opening=Lock())

    @property
    def _paths(self) -> list[Path]:
        return [path for path in (self._any, self._single) if path]

    def open_all(self) -> None:
        """Open every file now, after which they may be deleted. Raises ModelError for one that cannot be used."""
        for path in self._paths:
            self._graph(path)

    def front_end(self) -> FrontEnd:
        """Return the front end that the file names. Raises ModelError where it names none that fits."""
        return self._graph(self._paths[0]).front_end()

    def _graph(self, path: Path) -> ExportedGraph:
        if path in self._opened:
            return self._opened[path]
        with self._opening:
            return self._opened.get(path) or self._open(path)

    def _open(self, path: Path) -> ExportedGraph:
        graph = ExportedGraph(path, self._threads)
        kinds, single = ("an export for any number of frames", "one for single frames"), path == self._single
        if graph.meta.get("single_frames") != single:
            remedy = "Export the model again, with --streaming for single frames."
            raise ModelError(path, kinds[not single], kinds[single], remedy)
        if self.meta and graph.meta.get(WEIGHTS) != self.meta.get(WEIGHTS):
            found, expected = "an export of other weights", f"those of {self._paths[0].name}"
            raise ModelError(path, found, expected, "Export the model again with --streaming.")
        self._opened[path] = graph
        return graph

    @property
    def uses_phase(self) -> bool:
        return self._graph(self._paths[0]).uses_phase

    def __call__(self, inputs: np.ndarray, state: State) -> tuple[np.ndarray, State]:
        """See `Backend`; a state may be passed on only once, since single frames overwrite it with the next one."""
        frames = inputs.shape[-1]
        if self._any is not None and (self._single is None or frames > FEW):
            graph = self._graph(self._any)
            return graph(inputs, state.states if isinstance(state, SingleFrames) else state or graph.start)
        if not isinstance(state, SingleFrames):
            graph = self._graph(self._paths[-1])  # the one for single frames, as here it exists
            state = graph.single_frames(state or graph.start)
        masks = [state(inputs[..., t : t + 1]) for t in range(frames)]
        return masks[0] if frames == 1 else np.concatenate(masks, -1), state
