"""Export of a torch network to ONNX: from magnitudes, or features with phase, and states to masks and next states."""

import io
import json
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as trees

from deepnmf_cli.checkpoint import atomic_path, remove_leftovers
from deepnmf_cli.errors import ModelError, UsageError
from deepnmf_cli.exported import (
    CHECKSUM,
    FEATURES,
    FORMAT,
    MAGNITUDE,
    MASKS,
    META_KEY,
    NEXT_STATE,
    NO_CHECKSUM,
    STATE,
    ExportedGraph,
    with_checksum,
)
from deepnmf_cli.networks.base import MaskNetwork
from deepnmf_cli.signal.features import PLANES, features
from deepnmf_cli.unfold.network import Bank

OPSET = 18
"""Version of the ONNX operator set: the newest that all runtimes of recent years support."""

IR_VERSION = 8
"""Version of the file format that came with OPSET; ONNX Runtime reads it from version 1.14 on."""

FORMAT_OF_MAGNITUDES = 1
"""Version of the layout for graphs that do not use phase, so that older readers run them."""

TOLERANCE, ROUGH_TOLERANCE = 1e-5, 0.1
"""Largest difference of a mask between torch and the exported graph that is accepted, for float32 and for weights of
fewer bits: at 0.02 nothing is heard, and at 0.6 the shipped deep NMF loses half a decibel."""

EXAMPLE_FRAMES = 7
"""Number of frames in torch's example input: any number but 0 and 1, which torch would take for constants."""


class _Flat(nn.Module):
    """A network whose state is a flat list of tensors."""

    def __init__(self, network: MaskNetwork, spec: Any) -> None:
        super().__init__()
        self.network, self.spec = network, spec

    def forward(self, inputs: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        masks, state = self.network(inputs, trees.tree_unflatten(list(states), self.spec))
        return masks, *trees.tree_flatten(state)[0]


def export(
    network: MaskNetwork,
    bins: int,
    path: str | Path,
    meta: Mapping[str, Any],
    single_frames: bool,
    weights: str = "float32",
    shared: Path | None = None,
) -> float:
    """Write `path`, atomically, and return the largest difference of its masks from those of `network` (see `verify`).

    The graph takes MAGNITUDE (1, F, T) >= 0, or FEATURES (1, 5, F, T) for a network that uses phase, and states. It
    returns MASKS (1, 2, F, T), with three planes if it uses phase (`signal.masks.complex_masks`), and the next states,
    all float32. T is any number >= 1, or 1 with `single_frames`, which is faster for sound that arrives frame by frame.
    A recording starts with states of zeros. `meta`, which holds plain values, is stored as JSON. Matrices are stored as
    `weights`, one of `weights.WEIGHTS`; float32 weights that the model file `shared` in the same folder contains are
    left there. `network` is modified: its parameters become constants.

    Raises ModelError if the network cannot be exported or the graph does not compute the same, and UsageError where
    `verify` does.
    """
    import onnx

    from deepnmf_cli.export.weights import share, shrink
    from deepnmf_cli.kernels.onnx_operators import spell_out

    path = Path(path)
    network = network.to("cpu").eval().requires_grad_(False)
    _fold_parameters(network)
    inputs, form = (FEATURES, (1, PLANES, bins)) if network.uses_phase else (MAGNITUDE, (1, bins))
    example = torch.rand(*form, 1 if single_frames else EXAMPLE_FRAMES)
    states, spec = trees.tree_flatten(network(example)[1])
    states = [torch.zeros_like(state) for state in states]
    names = [str(i) for i in range(len(states))]
    # AUTO, because `verify` tests what torch cannot prove for every number of frames.
    frames = None if single_frames else {len(form): torch.export.Dim.AUTO}
    try:
        with _silence(), torch.no_grad():
            program = torch.export.export(
                _Flat(network, spec), (example, *states), dynamic_shapes=(frames, (None,) * len(states)), strict=False
            )
            exported = torch.onnx.export(
                program,
                dynamo=True,
                opset_version=OPSET,
                input_names=[inputs, *(STATE + name for name in names)],
                output_names=[MASKS, *(NEXT_STATE + name for name in names)],
                verbose=False,
            )
            assert exported is not None  # torch returns None only without `dynamo`
            model = exported.model_proto
    except Exception as error:  # torch raises many types, and documents none of them
        because = (
            "since they depend on values" if "data-dependent" in str(error) else f"{type(error).__name__} in torch"
        )
        found = f"steps that cannot be exported, {because}"
        remedy = "It runs as it is, with --backend torch."
        raise ModelError(network.name, found, "a network that ONNX can express", remedy) from error
    _name_frames(model)
    _strip(model.graph)
    spell_out(model, single_frames)
    shrink(model, weights)
    entry, layout = model.metadata_props.add(), FORMAT if network.uses_phase else FORMAT_OF_MAGNITUDES
    entry.key, entry.value = (
        META_KEY,
        json.dumps({**meta, "format": layout, "single_frames": single_frames, CHECKSUM: NO_CHECKSUM}),
    )
    model.ir_version = IR_VERSION
    onnx.checker.check_model(model, full_check=True)
    if shared is not None:
        share(model, shared)
    remove_leftovers(path.parent)
    with atomic_path(path) as partial:
        partial.write_bytes(with_checksum(model.SerializeToString()))
        return verify(network, bins, partial, single_frames, TOLERANCE if weights == "float32" else ROUGH_TOLERANCE)


def verify(network: MaskNetwork, bins: int, path: Path, single_frames: bool, tolerance: float = TOLERANCE) -> float:
    """Return the largest difference of a mask between `network` and the graph in `path`.

    They are compared on two recordings in several blocks. Raises ModelError if the difference exceeds `tolerance`, and
    UsageError if the graph works for one number of frames only.
    """
    draw = np.random.default_rng(0)
    graph, largest = ExportedGraph(path), 0.0
    for level in (1e-3, 1.0):
        known, states = None, graph.start
        for frames in (1,) * 12 if single_frames else (1, 2, 40, 3):
            spectrum = draw.standard_normal((1, bins, frames, 2)) * draw.exponential(size=(1, bins, 1, 1))
            spectrum = torch.view_as_complex(torch.from_numpy(level * spectrum).float())
            # Any number of hops, as phases are random; phase of all bins, as enhancement has it.
            inputs = features(spectrum[:, None], None, 2, network.uses_phase)
            try:
                masks, states = graph(inputs.numpy(), states)
            except Exception as error:  # ONNX Runtime's own types have no other base class
                found, expected = "a loop over frames", "a network that computes many frames at once"
                remedy = "Add --streaming, for a graph of single frames."
                raise UsageError(network.name, found, expected, remedy) from error
            with torch.no_grad():
                expected, known = network(inputs, known)
            largest = np.maximum(largest, np.abs(masks - expected.numpy()).max())  # keeps a NaN
    if not largest <= tolerance:
        found = f"a graph whose masks differ by {largest:.1g} from those of the model"
        remedy = "Report it with the model." if tolerance == TOLERANCE else "Choose --weights float16 or float32."
        raise ModelError(network.name, found, f"at most {tolerance:g}", remedy)
    return float(largest)


@contextmanager
def _silence() -> Iterator[None]:
    """Suppress what torch prints about its own future and about graphs that it cannot make, and what ONNX Script prints
    about every constant that it leaves as it is.
    """
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _name_frames(model: Any) -> None:
    """Call the number of frames "frames" wherever sizes depend on it."""
    graph = model.graph
    symbol = graph.input[0].type.tensor_type.shape.dim[-1].dim_param
    for value in (*graph.input, *graph.output, *graph.value_info) if symbol else ():
        for size in value.type.tensor_type.shape.dim:
            if size.dim_param:
                size.dim_param = size.dim_param.replace(symbol, "frames")


def _strip(graph: Any) -> None:
    """Remove where in the source each operation comes from: half of a small file, and paths of this machine."""
    for part in (graph, *graph.node, *graph.value_info, *graph.input, *graph.output, *graph.initializer):
        part.doc_string = ""
        del part.metadata_props[:]


def _fold_parameters(network: MaskNetwork) -> None:
    """Replace the tensors from which parameters are computed by the values of the parameters."""
    for bank in (module for module in network.modules() if isinstance(module, Bank)):
        for name, value in bank.values().items():
            delattr(bank, name)
            bank.register_buffer(name, value.clone())
