"""Every form in which a recursion runs against its definition: one table, values and gradients."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper
from torch import Tensor
from torch.nn.functional import linear

from deepnmf_cli.inference.chain import LONGEST, MESSAGES, relax_both_ways, relax_spins
from deepnmf_cli.inference.grid import GridInference
from deepnmf_cli.kernels import recursion
from deepnmf_cli.kernels.grid_layer import GridKernel, compile_kernel
from deepnmf_cli.kernels.onnx_operators import spell_out
from tests.reference import recursions

CHANNELS, BATCH, NODES = 8, 2, 3
STOPPED = -40.0
"""Logit of a schedule that leaves states where they are."""

Run = Callable[[Tensor, Tensor, Tensor, Tensor, bool], Tensor]
"""Field x (T, B, N, C), weight (2C, C), bias (2C,), start (B, N, C) and direction -> states (T, B, N, C).

Both ways at once, from zeros, `weight` and `bias` are those of C/2 spins for either.
"""


def sums(x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, ...]:
    return linear(x, weight, bias).chunk(2, -1)


def in_pytorch(x: Tensor, weight: Tensor, bias: Tensor, start: Tensor, reverse: bool) -> Tensor:
    target, schedule = sums(x, weight, bias)
    return recursion.relax(target.tanh(), schedule.sigmoid(), start, reverse)


def to_tanh(x: Tensor, weight: Tensor, bias: Tensor, start: Tensor, reverse: bool) -> Tensor:
    return recursion.relax_to_tanh(*sums(x, weight, bias), start, reverse)


def filtered(x: Tensor, weight: Tensor, bias: Tensor, start: Tensor, reverse: bool) -> Tensor:
    evidence, schedule = sums(x, weight, bias)
    return recursion.combine(evidence.tanh(), LONGEST * (-schedule).sigmoid(), start, reverse)


def on_chain(name: str, x: Tensor, weight: Tensor, bias: Tensor, start: Tensor, reverse: bool) -> Tensor:
    messages = MESSAGES[name]
    # Geometric means carry half the log odds.
    begin = start.atanh() if name == "geometric" else start
    return messages.expectations(relax_spins(x, weight, bias, begin, reverse, messages))


def chain_both_ways(name: str, x: Tensor, weight: Tensor, bias: Tensor, start: Tensor, reverse: bool) -> Tensor:
    return MESSAGES[name].expectations(relax_both_ways(x, weight, bias, MESSAGES[name]))


def in_triton(spins: bool, x: Tensor, weight: Tensor, bias: Tensor, start: Tensor, reverse: bool) -> Tensor:
    triton_recursion = pytest.importorskip("deepnmf_cli.kernels.triton_recursion", reason="Triton comes with CUDA")
    if not torch.cuda.is_available() and os.environ.get("TRITON_INTERPRET") != "1":
        pytest.skip("needs CUDA, or TRITON_INTERPRET=1, with which another test calls this one")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    target, schedule = sums(x, weight, bias)
    if not spins:
        target, schedule = target.tanh(), schedule.sigmoid()
    moved = (part.to(device) for part in (target, schedule, start))
    return triton_recursion.relax(*moved, reverse, spins).to("cpu")


def kernel() -> GridKernel:
    found = compile_kernel(CHANNELS)
    if found is None:
        pytest.skip("there is no C++ compiler")
    return found


def layer(x: Tensor, start: Tensor, **given: Tensor) -> Tensor:
    """What a layer of the grid in machine code adds to a field (T, B, N, C)."""
    c = CHANNELS
    stopped = torch.cat([torch.zeros(c), torch.full((c,), STOPPED)])
    parameters = {"time_weight": torch.zeros(2 * c, c), "time_bias": stopped, "frequency_join": torch.zeros(c, c)}
    parameters |= {"frequency_weight": torch.zeros(2 * c, c), "frequency_bias": torch.zeros(2 * c)}
    algorithm = GridInference(x.shape[2], c, observed=1, shown=1, kernel=kernel())
    return algorithm.step((x, (), None), (x, ((start,),), ()), parameters | given)[0] - x


def in_cpp(x: Tensor, weight: Tensor, bias: Tensor, start: Tensor, reverse: bool) -> Tensor:
    along = x.flip(0) if reverse else x
    path = layer(along, start, time_weight=weight, time_bias=bias)
    return path.flip(0) if reverse else path


def in_cpp_both_ways(x: Tensor, weight: Tensor, bias: Tensor, start: Tensor, reverse: bool) -> Tensor:
    nodes = x.movedim(0, 2).movedim(1, 0)  # the chain is that along frequency
    found = layer(
        nodes,
        nodes.new_zeros(nodes.shape[1:]),
        frequency_weight=weight,
        frequency_bias=bias,
        frequency_join=torch.eye(CHANNELS),
    )
    return found.movedim(0, 1).movedim(2, 0)


def operator(name: str, single_frames: bool, *inputs: Tensor, spins: int, reverse: bool = False) -> Tensor:
    """An operation of exported graphs, spelled out and run by ONNX Runtime."""
    x = inputs[0]
    names = [f"input{i}" for i in range(len(inputs))]
    given = dict(zip(names, inputs, strict=True))
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, list(t.shape)) for n, t in given.items()]
    result = helper.make_tensor_value_info("path", TensorProto.FLOAT, [*x.shape[:-1], spins])
    node = helper.make_node(name, names, ["path"], domain=recursion.DOMAIN, reverse=int(reverse))
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid(recursion.DOMAIN, 1)]
    model = helper.make_model(helper.make_graph([node], "one", values, [result]), opset_imports=opsets, ir_version=9)
    spell_out(model, single_frames)
    onnx.checker.check_model(model)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {n: t.detach().numpy() for n, t in given.items()})[0])


def onnx_relax(x: Tensor, weight: Tensor, bias: Tensor, start: Tensor, reverse: bool) -> Tensor:
    target, schedule = sums(x, weight, bias)
    inputs = (target.tanh(), schedule.sigmoid(), start)
    return operator(recursion.RELAX, False, *inputs, spins=CHANNELS, reverse=reverse)


def onnx_spins(x: Tensor, weight: Tensor, bias: Tensor, start: Tensor, reverse: bool) -> Tensor:
    return operator(recursion.SPINS, False, x, weight, bias, start, spins=CHANNELS, reverse=reverse)


def onnx_filtered(x: Tensor, weight: Tensor, bias: Tensor, start: Tensor, reverse: bool) -> Tensor:
    evidence, schedule = sums(x, weight, bias)
    inputs = (evidence.tanh(), LONGEST * (-schedule).sigmoid(), start)
    return operator(recursion.COMBINE, False, *inputs, spins=CHANNELS, reverse=reverse)


def onnx_both_ways(x: Tensor, weight: Tensor, bias: Tensor, start: Tensor, reverse: bool) -> Tensor:
    beyond = torch.zeros(*x.shape[1:-1], CHANNELS // 2)
    return operator(recursion.BOTH_WAYS, False, x, weight, bias, beyond, spins=CHANNELS)


def onnx_gated_unit(x: Tensor, weight: Tensor, bias: Tensor, start: Tensor, reverse: bool) -> Tensor:
    """In graphs for single frames, whose batch is one: chain by chain."""
    beyond, chains = torch.zeros(1, 1, CHANNELS // 2), x.flatten(1, 2).split(1, 1)
    paths = [
        operator(recursion.BOTH_WAYS, True, chain[:, :, None], weight, bias, beyond, spins=CHANNELS)
        for chain in chains
    ]  # fmt: skip
    return torch.cat(paths, 1).reshape(x.shape)


@dataclass
class Form:
    """A recursion, how it runs, and what can be asked of it."""

    step: recursions.Step
    run: Run
    both_ways: bool = False
    gradient: bool = True
    dtype: torch.dtype = torch.float32


MEAN_FIELD, GEOMETRIC, FILTERING = recursions.mean_field, recursions.geometric, recursions.filtering(LONGEST)
DOUBLE = torch.float64

FORMS = {
    "mean field, loop in PyTorch": Form(MEAN_FIELD, in_pytorch, dtype=DOUBLE),
    "mean field, loop in PyTorch from logits": Form(MEAN_FIELD, to_tanh, dtype=DOUBLE),
    "mean field, chain equations": Form(MEAN_FIELD, partial(on_chain, "mean-field"), dtype=DOUBLE),
    "mean field, Triton": Form(MEAN_FIELD, partial(in_triton, False)),
    "mean field, Triton from logits": Form(MEAN_FIELD, partial(in_triton, True)),
    "mean field, C++": Form(MEAN_FIELD, in_cpp),
    "mean field, ONNX relaxation": Form(MEAN_FIELD, onnx_relax, gradient=False),
    "mean field, ONNX spins": Form(MEAN_FIELD, onnx_spins, gradient=False),
    "geometric, chain equations": Form(GEOMETRIC, partial(on_chain, "geometric"), dtype=DOUBLE),
    "filtering, loop in PyTorch": Form(FILTERING, filtered, dtype=DOUBLE),
    "filtering, chain equations": Form(FILTERING, partial(on_chain, "belief-propagation"), dtype=DOUBLE),
    "filtering, ONNX": Form(FILTERING, onnx_filtered, gradient=False),
    "mean field both ways, chain equations": Form(MEAN_FIELD, partial(chain_both_ways, "mean-field"), True, dtype=DOUBLE),
    "geometric both ways, chain equations": Form(GEOMETRIC, partial(chain_both_ways, "geometric"), True, dtype=DOUBLE),
    "filtering both ways, chain equations": Form(
        FILTERING, partial(chain_both_ways, "belief-propagation"), True, dtype=DOUBLE
    ),
    "mean field both ways, C++": Form(MEAN_FIELD, in_cpp_both_ways, True),
    "mean field both ways, ONNX scan": Form(MEAN_FIELD, onnx_both_ways, True, gradient=False),
    "mean field both ways, ONNX gated unit": Form(MEAN_FIELD, onnx_gated_unit, True, gradient=False),
}  # fmt: skip


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("length", [1, 2, 7])
@pytest.mark.parametrize("name", FORMS)
def test_every_form_equals_the_definition(name: str, length: int, reverse: bool) -> None:
    form, draw = FORMS[name], torch.Generator().manual_seed(length)
    shapes = [(length, BATCH, NODES, CHANNELS), (2 * CHANNELS, CHANNELS), (2 * CHANNELS,)]
    given = [torch.randn(shape, generator=draw) / 2 for shape in shapes]
    given.append(torch.rand(BATCH, NODES, CHANNELS, generator=draw) - 0.5)
    arriving = torch.randn(shapes[0], generator=draw)

    def results(run: Callable[..., Tensor], dtype: torch.dtype, *options: bool) -> list[Tensor]:
        """States, and the gradients of everything where the form has any."""
        inputs = [x.to(dtype).requires_grad_(form.gradient) for x in given]
        states = run(*inputs, *options)
        if not form.gradient:
            return [states]
        used = inputs[:3] if form.both_ways else inputs
        return [states, *torch.autograd.grad(states, used, arriving.to(dtype))]

    def definition(x: Tensor, weight: Tensor, bias: Tensor, start: Tensor) -> Tensor:
        if form.both_ways:
            return recursions.both_ways(form.step, x, weight, bias)
        return recursions.path(form.step, x, weight, bias, start, reverse)

    found, expected = results(form.run, form.dtype, reverse), results(definition, DOUBLE)
    precision = 1e-8 if form.dtype == DOUBLE else 3e-6
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.dtype == form.dtype
        scale = max(1.0, theirs.abs().max().item())
        torch.testing.assert_close(ours.to(DOUBLE), theirs, rtol=0, atol=precision * scale)
