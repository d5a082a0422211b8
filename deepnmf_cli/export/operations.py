"""The operations that ONNX lacks, spelled out: the recursions of `deepnmf_cli.signal.recursion`.

Chains of any length become Scan. A chain of known length, such as that along frequency, becomes a GRU where the graph
is for single frames: a GRU without recurrent weights is the recursion, h = (1 - z) n + z h with z = 1 - g, and its
kernel takes a third of the time of a Scan, whose every step costs as much as a small matrix product.
"""

from dataclasses import dataclass, field

import onnx
from onnx import TensorProto, helper

from deepnmf_cli.signal.recursion import DOMAIN, RELAX, SPINS


def spell_out(model: onnx.ModelProto, single_frames: bool) -> None:
    """Replace every operation of DOMAIN in `model` by standard ones."""
    shapes = _shapes(model.graph)
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        if node.domain != DOMAIN:
            nodes.append(node)
            continue
        writer = _Writer(f"{node.output[0]}.")
        reverse = next(bool(a.i) for a in node.attribute if a.name == "reverse")
        chain = shapes[node.input[0]]
        if node.op_type == SPINS and single_frames and chain[0] > 1:
            spins, local = shapes[node.output[0]][-1], len(shapes[node.input[2]]) > 1
            result = _gated_unit(writer, list(node.input), chain, spins, local, reverse)
        else:
            result = {RELAX: _relax, SPINS: _spins}[node.op_type](writer, list(node.input), chain[0], reverse)
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

    def halves(self, name: str, axis: int = 0) -> tuple[str, str]:
        """The two halves of a tensor along an axis."""
        first = self("Split", name, outputs=2, axis=axis, num_outputs=2)
        return first, self.nodes[-1].output[1]

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
    (couple, gate), (couple_bias, gate_bias) = write.halves(weight), write.halves(bias, -1)
    target = write("Tanh", write.linear(x, couple, couple_bias))
    coefficient = write("Sigmoid", write.linear(x, gate, gate_bias))
    return _relax(write, [target, coefficient, start], length, reverse)


def _gated_unit(
    write: _Writer, inputs: list[str], chain: list[int | None], spins: int, local: bool, reverse: bool
) -> str:
    """A GRU has the gates z = sigmoid(-V x - c), r, which acts on nothing, and n = tanh(W x + b), in this order.

    Biases that are `local` differ from step to step, which a GRU has no place for: then its input are the sums W x + b
    and V x + c, and its weights pick from these.
    """
    x, weight, bias, start = inputs
    steps, *batch, width = chain
    if local:
        x, width = write.linear(x, weight, bias), 2 * spins
        every = write("EyeLike", write.zeros(width, width), dtype=TensorProto.FLOAT)
        weight, bias = every, write.zeros(width)
    (couple, gate), (couple_bias, gate_bias) = write.halves(weight), write.halves(bias)
    rows = write("Concat", write("Neg", gate), write.zeros(spins, width), couple, axis=0)
    biases = write("Concat", write("Neg", gate_bias), write.zeros(spins), couple_bias, write.zeros(3 * spins), axis=0)
    directions = write.constant(0)
    path = write(
        "GRU",
        write("Reshape", x, write.constant(steps, -1, width)),
        write("Unsqueeze", rows, directions),
        write.zeros(1, 3 * spins, spins),
        write("Unsqueeze", biases, directions),
        "",
        write("Reshape", start, write.constant(1, -1, spins)),
        hidden_size=spins,
        direction="reverse" if reverse else "forward",
    )
    return write("Reshape", path, write.constant(steps, *batch, spins))


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


def _shapes(graph: onnx.GraphProto) -> dict[str, list[int | None]]:
    """Name -> sizes, None where the number of frames decides."""
    return {
        value.name: [d.dim_value if d.HasField("dim_value") else None for d in value.type.tensor_type.shape.dim]
        for value in [*graph.value_info, *graph.input, *graph.output]
    } | {tensor.name: list(tensor.dims) for tensor in graph.initializer}
