"""Storage of the weights of an ONNX graph: in fewer bits, or in the model file beside it.

All computation stays in float32.
"""

import json
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from deepnmf_cli.export.int8 import rounded, scaled_axis

WEIGHTS = ("float32", "float16", "int8")

SMALLEST = 512
"""Tensors with fewer elements, such as biases, are not stored in fewer bits."""

SMALLEST_SHARED = 32
"""Tensors with fewer elements stay in the graph, because a reference to their place would take as much space."""


def shrink(model: onnx.ModelProto, weights: str) -> None:
    """Store the matrices of `model` as `weights`, one of WEIGHTS; they are converted back when the file is opened.

    "int8": each row of a matrix, or each column (see `scaled_axis`), has a scale of its own.
    """
    if weights == "float32":
        return
    kept, nodes = [], []
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.dtype != np.float32 or values.ndim < 2 or values.size < SMALLEST:
            kept.append(tensor)
            continue
        small = f"{tensor.name}.{weights}"
        if weights == "float16":
            kept.append(numpy_helper.from_array(values.astype(np.float16), small))
            nodes.append(helper.make_node("Cast", [small], [tensor.name], to=TensorProto.FLOAT))
            continue
        axis = scaled_axis(values)
        steps, scale = rounded(values, tuple(k for k in range(values.ndim) if k != axis))
        kept += [numpy_helper.from_array(steps, small), numpy_helper.from_array(scale.ravel(), f"{small}.scale")]
        nodes.append(helper.make_node("DequantizeLinear", [small, f"{small}.scale"], [tensor.name], axis=axis))
    _replace(model.graph, kept, nodes)


def share(model: onnx.ModelProto, file: Path) -> None:
    """Remove from `model` the weights that the model file `file` contains, as they are or transposed.

    They become external data at their offsets in that file, which must lie beside the graph. ONNX Runtime transposes
    them when it opens the graph.
    """
    content = file.read_bytes()
    begin = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:begin])
    places, turned = {}, {}
    for name, tensor in header.items():
        if name == "__metadata__" or tensor["dtype"] != "F32":
            continue
        first, last = (begin + offset for offset in tensor["data_offsets"])
        values = np.frombuffer(content[first:last], np.float32).reshape(tensor["shape"])
        places[values.tobytes()] = first
        if values.ndim == 2:
            turned[values.T.tobytes()] = first
    kept, nodes = [], []
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        content = values.tobytes()
        if (
            values.dtype != np.float32
            or values.size < SMALLEST_SHARED
            or not {content} & (places.keys() | turned.keys())
        ):
            kept.append(tensor)
        elif content in places:
            kept.append(_external(tensor.name, values.shape, file.name, places[content]))
        else:
            rows = f"{tensor.name}.transposed"
            kept.append(_external(rows, values.shape[::-1], file.name, turned[content]))
            nodes.append(helper.make_node("Transpose", [rows], [tensor.name], perm=[1, 0]))
    _replace(model.graph, kept, nodes)


def _external(name: str, shape: tuple[int, ...], location: str, offset: int) -> TensorProto:
    """Return a float32 tensor whose values lie at the byte `offset` in the file `location`."""
    tensor = TensorProto(name=name, dims=shape, data_type=TensorProto.FLOAT, data_location=TensorProto.EXTERNAL)
    entries = {"location": location, "offset": offset, "length": 4 * int(np.prod(shape))}
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=str(value))
    return tensor


def _replace(graph: onnx.GraphProto, initialisers: list[TensorProto], nodes: list[onnx.NodeProto]) -> None:
    """Replace the initialisers of the graph, and insert `nodes` before its own nodes."""
    del graph.initializer[:]
    graph.initializer.extend(initialisers)
    nodes = [*nodes, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
