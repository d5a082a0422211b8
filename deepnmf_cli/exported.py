"""Networks that `deepnmf export` wrote, run by ONNX Runtime: no torch, started in a tenth of a second."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from deepnmf_cli.errors import ModelError
from deepnmf_cli.signal.arrays import InNumpy

META_KEY = "deepnmf"
"""Where an exported file says what it is, as JSON: see `deepnmf_cli.export`."""

WEIGHTS = "weights_sha256"
"""Its entry for the file of weights that was exported."""

FORMAT = 2
"""Number of the layout of inputs, outputs and metadata; a reader refuses a newer one instead of guessing. 2 came with
networks that hear phase; graphs of others say 1, and older readers run them."""

MAGNITUDE, FEATURES, MASKS, STATE, NEXT_STATE = "magnitude", "features", "masks", "state_", "next_state_"
"""Names of the inputs and outputs, FEATURES in place of MAGNITUDE for networks that hear phase; states are numbered."""

FEW = 3
"""Up to so many frames go one by one through a graph for single frames, where there is one."""


class ExportedGraph:
    """One file, opened: a function of magnitudes and states."""

    def __init__(self, path: Path, threads: int = 1) -> None:
        """Raises ModelError for a file that ONNX Runtime cannot read or that is not of this program."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.log_severity_level = 4  # what goes wrong is raised, and said once
        try:
            self._session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
            self.meta = json.loads(self._session.get_modelmeta().custom_metadata_map.get(META_KEY, "null"))
        except Exception as error:  # ONNX Runtime's own types have no other ancestor
            found = f"no graph that ONNX Runtime can run ({error})"
            raise ModelError(path, found, "a file that `deepnmf export` wrote", "Export the model again.") from error
        if not isinstance(self.meta, dict):
            raise ModelError(
                path, "an ONNX file of another program", "one that `deepnmf export` wrote", "Choose another file."
            )
        if self.meta["format"] > FORMAT:
            remedy = "Update with `pip install --upgrade deepnmf`."
            raise ModelError(path, f"format {self.meta['format']}", f"format {FORMAT} or older", remedy)
        inputs = self._session.get_inputs()
        self._heard = next(value.name for value in inputs if value.name in (MAGNITUDE, FEATURES))
        self._states = [value for value in inputs if value.name.startswith(STATE)]

    @property
    def start(self) -> list[np.ndarray]:
        """The states at the start of a recording: zeros."""
        return [np.zeros(value.shape, np.float32) for value in self._states]

    @property
    def hears_phase(self) -> bool:
        """Whether it takes `signal.phase.features` in the place of magnitudes."""
        return self._heard == FEATURES

    def __call__(self, heard: np.ndarray, states: list[np.ndarray]) -> tuple[np.ndarray, list[np.ndarray]]:
        """Masks (1, 2, F, T) of magnitudes (1, F, T) float32, and the next states; see `MaskNetwork.forward`."""
        given = {value.name: state for value, state in zip(self._states, states, strict=True)}
        masks, *states = self._session.run(None, {self._heard: heard, **given})
        return masks, states


class OnnxBackend(InNumpy):
    """A `streaming.Backend` of NumPy arrays over a graph for any number of frames, one for single frames, or both.

    Both must be of the same weights. Each file is opened when it is first needed.
    """

    def __init__(self, any_frames: Path | None, single_frames: Path | None = None, threads: int = 1) -> None:
        self._paths, self._threads = [path for path in (any_frames, single_frames) if path], threads
        self._opened: dict[Path, ExportedGraph] = {}
        self._any, self._single = any_frames, single_frames
        self.meta: Mapping[str, Any] = self._graph(self._paths[0]).meta
        """What the file says about itself."""

    def _graph(self, path: Path) -> ExportedGraph:
        if path not in self._opened:
            graph = ExportedGraph(path, self._threads)
            if self._opened and graph.meta[WEIGHTS] != self.meta[WEIGHTS]:
                found, expected = "an export of other weights", f"those of {self._paths[0].name}"
                raise ModelError(path, found, expected, "Export the model again with --streaming.")
            self._opened[path] = graph
        return self._opened[path]

    @property
    def hears_phase(self) -> bool:
        return self._graph(self._paths[0]).hears_phase

    def __call__(self, heard: np.ndarray, state: list[np.ndarray] | None) -> tuple[np.ndarray, list[np.ndarray]]:
        frames = heard.shape[-1]
        one_by_one = self._any is None or (self._single is not None and frames <= FEW)
        graph, size = (self._graph(self._single), 1) if one_by_one else (self._graph(self._any), frames)
        state = graph.start if state is None else state
        pieces = []
        for first in range(0, frames, size):
            masks, state = graph(heard[..., first : first + size], state)
            pieces.append(masks)
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces, -1), state
