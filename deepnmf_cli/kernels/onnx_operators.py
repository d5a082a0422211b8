"""The recursions of `deepnmf_cli.kernels.recursion`, which ONNX lacks, written in its standard operations.

Chains of any length become a Scan. Chains of known length that are followed in both directions, such as those along
frequency, become a GRU in graphs for single frames: a GRU without recurrent weights is the recursion,
h = (1 - z) n + z h with z = 1 - g, and its kernel takes a third of the time of a Scan, each step of which costs as much
as a small matrix product. In such graphs the overhead of an operation exceeds its computation, so there should be few.
"""

from dataclasses import dataclass, field
from typing import Any

import onnx
from onnx import TensorProto, helper

from deepnmf_cli.kernels.recursion import COMBINE, DOMAIN, RELAX, SPINS

Sizes = list[int | None]
"""Sizes of a tensor; None where the size depends on the number of frames."""


def spell_out(model: onnx.ModelProto, single_frames: bool) -> None:
    """Replace every operation of DOMAIN in `model` by standard operations, in place."""
    shapes = _shapes(model.graph)
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        if node.domain != DOMAIN:
            nodes.append(node)
            continue
        writer = _Writer(f"{node.output[0]}.")
        inputs, length = list(node.input), shapes[node.input[0]][0]
        reverse = next(bool(a.i) for a in node.attribute if a.name == "reverse")
        if node.op_type == COMBINE:
            result = _scan(writer, inputs, reverse, _combination())
        elif node.op_type == RELAX:
            result = _relax(writer, inputs, length, reverse)
        elif node.op_type == SPINS:
            result = _spins(writer, inputs, length, reverse)
        elif single_frames:
            result = _gated_unit(writer, inputs, *(_known(shapes[name]) for name in (*inputs[:2], node.output[0])))
        else:
            result = _both_ways(writer, inputs, length)
        writer("Identity", result, output=node.output[0])
        nodes += writer.nodes
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    kept = [opset for opset in model.opset_import if opset.domain != DOMAIN]
    del model.opset_import[:]
    model.opset_import.extend(kept)


@dataclass
class _Writer:
    """Appends nodes to a list; a call returns the name of the first output of the new node."""

    prefix: str
    nodes: list[onnx.NodeProto] = field(default_factory=list)

    def __call__(self, kind: str, *inputs: str, output: str = "", outputs: int = 1, **attributes: Any) -> str:
        names = [output or f"{self.prefix}{len(self.nodes)}.{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(kind, list(inputs), names, name=names[0], **attributes))
        return names[0]

    def constant(self, *values: int) -> str:
        return self("Constant", value=helper.make_tensor("value", TensorProto.INT64, [len(values)], values))

    def zeros(self, *shape: int) -> str:
        return self("ConstantOfShape", self.constant(*shape))

    def parts(self, name: str, count: int, axis: int = 0) -> list[str]:
        """Return the names of `count` equal parts of a tensor along an axis."""
        self("Split", name, outputs=count, axis=axis, num_outputs=count)
        return list(self.nodes[-1].output)

    def linear(self, x: str, weight: str, bias: str) -> str:
        return self("Add", self("MatMul", x, self("Transpose", weight, perm=[1, 0])), bias)


def _relax(write: _Writer, inputs: list[str], length: int | None, reverse: bool) -> str:
    target, coefficient, start = inputs
    if length == 1:
        return write("Add", start, write("Mul", coefficient, write("Sub", target, start)))
    return _scan(write, inputs, reverse, _step())


def _scan(write: _Writer, inputs: list[str], reverse: bool, body: onnx.GraphProto) -> str:
    """Return the path of a recursion over two sequences from an initial state."""
    first, second, start = inputs
    write(
        "Scan",
        start,
        first,
        second,
        outputs=2,
        num_scan_inputs=2,
        body=body,
        scan_input_directions=[int(reverse)] * 2,
        scan_output_directions=[int(reverse)],
    )
    return write.nodes[-1].output[1]


def _spins(write: _Writer, inputs: list[str], length: int | None, reverse: bool) -> str:
    x, weight, bias, start = inputs
    if length == 1:
        target, coefficient = write.parts(write.linear(x, weight, bias), 2, -1)
    else:  # splitting the long product would copy its parts
        parts = zip(write.parts(weight, 2), write.parts(bias, 2, -1), strict=True)
        target, coefficient = (write.linear(x, w, b) for w, b in parts)
    return _relax(write, [write("Tanh", target), write("Sigmoid", coefficient), start], length, reverse)


def _both_ways(write: _Writer, inputs: list[str], length: int | None) -> str:
    x, weight, bias, start = inputs
    directions = zip(write.parts(weight, 2), write.parts(bias, 2, -1), (False, True), strict=True)
    return write("Concat", *(_spins(write, [x, w, b, start], length, reverse) for w, b, reverse in directions), axis=-1)


def _gated_unit(write: _Writer, inputs: list[str], chain: list[int], weights: list[int], result: list[int]) -> str:
    """Return both directions as one unidirectional GRU, which takes two thirds of the time of a bidirectional one: the
    backward direction is reversed before it and again after it.

    A GRU has the gates z = sigmoid(-g), r, which has no effect here, and n = tanh(f), in this order. It cannot have
    biases that differ from step to step, so its inputs are the sums f and g, and its weights only select among them.
    """
    x, weight, bias, start = inputs
    steps, spins = chain[0], weights[0] // 4
    sums = _reverse_second(write, write.linear(x, weight, bias), steps, 2 * spins)
    pick = write.parts(write("EyeLike", write.zeros(4 * spins, 4 * spins), dtype=TensorProto.FLOAT), 4)
    schedules, couplings = (write("Concat", *pair, axis=0) for pair in (pick[1::2], pick[0::2]))
    rows = write("Concat", write("Neg", schedules), write.zeros(2 * spins, 4 * spins), couplings, axis=0)
    begin = write("Reshape", start, write.constant(1, -1, spins))
    path = write(
        "GRU",
        write("Reshape", sums, write.constant(steps, -1, 4 * spins)),
        write("Unsqueeze", rows, write.constant(0)),
        write.zeros(1, 6 * spins, 2 * spins),
        "",
        "",
        write("Concat", begin, begin, axis=-1),
        hidden_size=2 * spins,
    )
    # The shape is (steps, directions, batch, spins), and a graph for single frames has a batch of one.
    return write("Reshape", _reverse_second(write, path, steps, spins), write.constant(*result))


def _reverse_second(write: _Writer, x: str, steps: int, width: int) -> str:
    """Return the steps of two directions (steps, 2, width), those of the second in reverse order.

    ONNX reverses the first `n` steps of each direction; for the first direction n is 1, which changes nothing.
    """
    shaped = write("Reshape", x, write.constant(steps, 2, width))
    return write("ReverseSequence", shaped, write.constant(1, steps), time_axis=0, batch_axis=1)


def _step() -> onnx.GraphProto:
    """Return the graph h, f, g -> h + g (f - h), both as the next state and as the output."""
    return _body(
        "step",
        helper.make_node("Sub", ["f", "h"], ["difference"]),
        helper.make_node("Mul", ["g", "difference"], ["move"]),
        helper.make_node("Add", ["h", "move"], ["next"]),
    )


def _combination() -> onnx.GraphProto:
    """Return the graph h, f, g -> (f + g h) / (1 + f g h), both as the next state and as the output."""
    one = helper.make_tensor("value", TensorProto.FLOAT, [], [1.0])
    return _body(
        "combination",
        helper.make_node("Mul", ["g", "h"], ["predicted"]),
        helper.make_node("Add", ["f", "predicted"], ["sum"]),
        helper.make_node("Mul", ["f", "predicted"], ["product"]),
        helper.make_node("Constant", [], ["one"], value=one),
        helper.make_node("Add", ["one", "product"], ["both"]),
        helper.make_node("Div", ["sum", "both"], ["next"]),
    )


def _body(name: str, *nodes: onnx.NodeProto) -> onnx.GraphProto:
    """Return the graph of nodes that compute `next` from the state h and from f and g."""
    inputs, outputs = (
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names]
        for names in (("h", "f", "g"), ("next", "path"))
    )
    return helper.make_graph([*nodes, helper.make_node("Identity", ["next"], ["path"])], name, inputs, outputs)


def _shapes(graph: onnx.GraphProto) -> dict[str, Sizes]:
    """Return name -> sizes, None where a size depends on the number of frames."""
    found: dict[str, Sizes] = {}
    for value in [*graph.value_info, *graph.input, *graph.output]:
        sizes = value.type.tensor_type.shape.dim
        found[value.name] = [d.dim_value if d.HasField("dim_value") else None for d in sizes]
    for tensor in graph.initializer:
        found[tensor.name] = list(tensor.dims)
    return found


def _known(sizes: Sizes) -> list[int]:
    """Return the sizes of a tensor in a graph for single frames, where all of them are known."""
    return [size for size in sizes if size is not None]
