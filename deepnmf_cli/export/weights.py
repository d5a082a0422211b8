"""Weights of an ONNX graph in fewer bits; all computation stays in float32."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

WEIGHTS = ("float32", "float16", "int8")

SMALLEST = 512
"""Tensors of fewer numbers stay as they are: biases and the like."""


def shrink(model: onnx.ModelProto, weights: str) -> None:
    """Store the matrices of `model` as `weights`, one of WEIGHTS; they are converted back when the file is opened.

    "int8": each row has a scale of its own, the largest magnitude of the row over 127.
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
        rows = np.abs(values).reshape(len(values), -1).max(1)
        scale = np.where(rows > 0, rows / 127, 1).astype(np.float32)
        steps = np.rint(values / scale.reshape(-1, *[1] * (values.ndim - 1))).astype(np.int8)
        kept += [numpy_helper.from_array(steps, small), numpy_helper.from_array(scale, f"{small}.scale")]
        nodes.append(helper.make_node("DequantizeLinear", [small, f"{small}.scale"], [tensor.name], axis=0))
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    nodes += model.graph.node
    del model.graph.node[:]
    model.graph.node.extend(nodes)
