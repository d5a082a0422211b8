"""The operations that ONNX lacks, spelled out: the recursions of `deepnmf_cli.signal.recursion`.

Chains of any length become Scan. Chains of known length that are followed both ways, such as those along frequency,
become a GRU where the graph is for single frames: a GRU without recurrent weights is the recursion, h = (1 - z) n + z h
with z = 1 - g, and its kernel takes a third of the time of a Scan, whose every step costs as much as a small matrix
product. In such graphs every operation costs more for being one than for what it computes, so they are to be few.
"""

from dataclasses import dataclass, field

import onnx
from onnx import TensorProto, helper

from deepnmf_cli.signal.recursion import BOTH_WAYS, DOMAIN, RELAX, SPINS

Sizes = list[int | None]
"""Of a tensor; None where the number of frames decides."""


def spell_out(model: onnx.ModelProto, single_frames: bool) -> None:
    """Replace every operation of DOMAIN in `model` by standard ones."""
    shapes = _shapes(model.graph)
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        if node.domain != DOMAIN:
            nodes.append(node)
            continue
        writer = _Writer(f"{node.output[0]}.")
        inputs, length = list(node.input), shapes[node.input[0]][0]
        reverse = next(bool(a.i) for a in node.attribute if a.name == "reverse")
        if node.op_type == RELAX:
            result = _relax(writer, inputs, length, reverse)
        elif node.op_type == SPINS:
            result = _spins(writer, inputs, length, reverse)
        elif single_frames:
            result = _gated_unit(writer, inputs, *(shapes[name] for name in (*inputs[:3], node.output[0])))
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
    """Appends nodes; a call gives the name of the first output."""

    prefix: str
    nodes: list[onnx.NodeProto] = field(default_factory=list)

    def __call__(self, kind: str, *inputs: str, output: str = "", outputs: int = 1, **attributes: object) -> str:
        names = [output or f"{self.prefix}{len(self.nodes)}.{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(kind, list(inputs), names, name=names[0], **attributes))
        return names[0]

    def constant(self, *values: int) -> str:
        return self("Constant", value=helper.make_tensor("value", TensorProto.INT64, [len(values)], values))

    def zeros(self, *shape: int) -> str:
        return self("ConstantOfShape", self.constant(*shape))

    def parts(self, name: str, count: int, axis: int = 0) -> list[str]:
        """Equal parts of a tensor along an axis."""
        self("Split", name, outputs=count, axis=axis, num_outputs=count)
        return list(self.nodes[-1].output)

    def gates(self, parts: list[str], unused: str, *more: str) -> str:
        """A GRU's weights of both directions, from those of couplings and schedules of either: z, r, n, and `more`."""
        ways = (
            self("Concat", self("Neg", gate), unused, couple, *more, axis=0)
            for couple, gate in (parts[:2], parts[2:])
        )
        first = self.constant(0)
        return self("Concat", *(self("Unsqueeze", way, first) for way in ways), axis=0)

    def linear(self, x: str, weight: str, bias: str) -> str:
        return self("Add", self("MatMul", x, self("Transpose", weight, perm=[1, 0])), bias)


def _relax(write: _Writer, inputs: list[str], length: int | None, reverse: bool) -> str:
    target, coefficient, start = inputs
    if length == 1:
        return write("Add", start, write("Mul", coefficient, write("Sub", target, start)))
    directions = {"scan_input_directions": [int(reverse)] * 2, "scan_output_directions": [int(reverse)]}
    write("Scan", start, target, coefficient, outputs=2, num_scan_inputs=2, body=_step(), **directions)
    return write.nodes[-1].output[1]


def _spins(write: _Writer, inputs: list[str], length: int | None, reverse: bool) -> str:
    x, weight, bias, start = inputs
    if length == 1:
        target, coefficient = write.parts(write.linear(x, weight, bias), 2, -1)
    else:  # the parts of a long product would be copies
        parts = zip(write.parts(weight, 2), write.parts(bias, 2, -1))
        target, coefficient = (write.linear(x, w, b) for w, b in parts)
    return _relax(write, [write("Tanh", target), write("Sigmoid", coefficient), start], length, reverse)


def _both_ways(write: _Writer, inputs: list[str], length: int | None) -> str:
    x, weight, bias, start = inputs
    directions = zip(write.parts(weight, 2), write.parts(bias, 2, -1), (False, True))
    return write("Concat", *(_spins(write, [x, w, b, start], length, reverse) for w, b, reverse in directions), axis=-1)


def _gated_unit(
    write: _Writer, inputs: list[str], chain: Sizes, weights: Sizes, biases: Sizes, result: Sizes
) -> str:
    """A GRU has the gates z = sigmoid(-V x - c), r, which acts on nothing, and n = tanh(W x + b), in this order.

    Biases that differ from step to step have no place in a GRU: then its input are the sums W x + b and V x + c of both
    directions, and its weights pick from these.
    """
    x, weight, bias, start = inputs
    steps, *batch, width = chain
    spins = weights[0] // 4
    if len(biases) > 1:
        x, width = write.linear(x, weight, bias), 4 * spins
        weight, bias = write("EyeLike", write.zeros(width, width), dtype=TensorProto.FLOAT), write.zeros(width)
    rows = write.gates(write.parts(weight, 4), write.zeros(spins, width))
    shifts = write.gates(write.parts(bias, 4), write.zeros(spins), write.zeros(3 * spins))
    begin = write("Reshape", start, write.constant(1, -1, spins))
    path = write(
        "GRU",
        write("Reshape", x, write.constant(steps, -1, width)),
        rows,
        write.zeros(2, 3 * spins, spins),
        shifts,
        "",
        write("Concat", begin, begin, axis=0),
        hidden_size=spins,
        direction="bidirectional",
    )
    # (steps, directions, batch, spins), where a graph for single frames has a batch of one.
    return write("Reshape", path, write.constant(*result))


def _step() -> onnx.GraphProto:
    """h, f, g -> h + g (f - h), once as the state and once as the output."""
    nodes = [
        helper.make_node("Sub", ["f", "h"], ["difference"]),
        helper.make_node("Mul", ["g", "difference"], ["move"]),
        helper.make_node("Add", ["h", "move"], ["next"]),
        helper.make_node("Identity", ["next"], ["path"]),
    ]
    inputs, outputs = (
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names]
        for names in (("h", "f", "g"), ("next", "path"))
    )
    return helper.make_graph(nodes, "step", inputs, outputs)


def _shapes(graph: onnx.GraphProto) -> dict[str, Sizes]:
    """Name -> sizes, None where the number of frames decides."""
    return {
        value.name: [d.dim_value if d.HasField("dim_value") else None for d in value.type.tensor_type.shape.dim]
        for value in [*graph.value_info, *graph.input, *graph.output]
    } | {tensor.name: list(tensor.dims) for tensor in graph.initializer}
