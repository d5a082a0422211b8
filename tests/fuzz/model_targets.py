"""Model files of strangers, and arrays for the Python interface."""

import functools
import json
import sys
from pathlib import Path
from random import Random

from tests.fuzz import sounds, trees
from tests.fuzz.cases import MODEL, MODELS, Case, Target, prepare_audio, prepare_training
from tests.fuzz.child import Outcome, measure

_WEIGHTS, _GRAPH, _SINGLE = "model.safetensors", "model.onnx", "model.streaming.onnx"
_DIFFERENCE = 2e-3
"""How far the outputs of two forms of one model may be apart."""


@functools.cache
def _shipped(name: str) -> bytes:
    return (MODELS / MODEL / name).read_bytes()


def model(random: Random) -> Case:
    """`enhance` with weights, an exported graph, or weights beside a graph, in one of which something may be wrong."""
    kind = random.choice(["weights", "weights", "graph", "single", "beside"])
    files = {"in.wav": sounds.speech(Random(0), 16_000)}
    if kind == "weights":
        files["m.safetensors"] = _weights(_shipped(_WEIGHTS), random)
        name, backend = "m.safetensors", random.choice(["torch", "auto"])
    elif kind in ("graph", "single"):
        name = _GRAPH if kind == "graph" else _SINGLE
        files |= {name: _graph(_shipped(name), random), _WEIGHTS: _shipped(_WEIGHTS)}
        backend = random.choice(["onnx", "auto"])
    else:
        files |= {_WEIGHTS: _shipped(_WEIGHTS), _GRAPH: _graph(_shipped(_GRAPH), random)}
        name, backend = _WEIGHTS, "auto"
    arguments = ["enhance", "in.wav", "-o", "out.wav", "--model", name, "--backend", backend, "--device", "cpu"]

    def check(folder: Path, outcome: Outcome) -> str | None:
        if outcome.code != 0:
            return None
        difference = measure(lambda: _difference(folder / "work", files["in.wav"]), folder)
        if difference is None:
            return "an output that cannot be read"
        return (
            f"weights that are whole, and an output off by {difference}"
            if kind == "beside" and difference > _DIFFERENCE
            else None
        )

    return Case(arguments, files, [], ("out.wav",), check, note=kind, cpu_s=10)


def _difference(folder: Path, data: bytes) -> float:
    import io

    import numpy as np
    import soundfile

    from deepnmf_cli import zoo

    found, rate_hz = soundfile.read(folder / "out.wav")
    if not np.isfinite(found).all():
        raise ValueError("samples that are not finite")
    expected = zoo.load_enhancer(MODEL).enhance(soundfile.read(io.BytesIO(data), dtype="float32")[0][None], rate_hz)
    return float(np.abs(found - expected[0]).max())


def _weights(data: bytes, random: Random) -> bytes:
    size = int.from_bytes(data[:8], "little")
    header, body = json.loads(data[8 : 8 + size]), data[8 + size :]
    kind = random.choice(["header", "recipe", "recipe", "recipe", "size", "body", "cut", "deep", "scribble"])
    if kind == "header":
        header = trees.change(header, random, random.choice([1, 1, 2]))
    elif kind == "recipe":
        meta = trees.change(json.loads(header["__metadata__"]["deepnmf"]), random, random.choice([1, 1, 1, 2, 3]))
        header["__metadata__"]["deepnmf"] = json.dumps(meta)
    elif kind == "deep":
        header["__metadata__"]["deepnmf"] = random.choice(["[", '{"recipe":']) * random.choice([500, 100_000])
    elif kind == "body":
        start = random.randrange(len(body))
        body = body[:start] + (random.choice([b"\0", b"\xff"]) * 3000)[: len(body) - start] + body[start + 3000 :]
    text = json.dumps(header).encode()
    if kind == "scribble":
        text = trees.scribble(text, random)
    size = random.choice([0, 1, len(text) + 1, 1 << 40, (1 << 64) - 1]) if kind == "size" else len(text)
    whole = size.to_bytes(8, "little") + text + body
    return whole[: random.randrange(len(whole))] if kind == "cut" else whole


def _graph(data: bytes, random: Random) -> bytes:
    import onnx

    kind = random.choice(
        ["bytes", "bytes", "zeros", "cut", "meta", "meta", "meta", "shape", "node", "initializer", "name", "external"]
    )
    if kind == "bytes":
        return trees.scribble(data, random)
    if kind == "zeros":
        start = random.randrange(len(data) - 3000)
        return data[:start] + bytes(3000) + data[start + 3000 :]
    if kind == "cut":
        return data[: random.randrange(len(data))]
    graph = onnx.load_from_string(data)
    if kind == "meta":
        entry = next(entry for entry in graph.metadata_props if entry.key == "deepnmf")
        entry.value = random.choice(
            ["", "null", "[" * 100_000, "1", json.dumps(trees.change(json.loads(entry.value), random))]
        )
    elif kind == "shape":
        value = random.choice([*graph.graph.input, *graph.graph.output])
        if dimensions := value.type.tensor_type.shape.dim:
            random.choice(dimensions).dim_value = random.choice([0, 1, 2, 300, 1 << 40, -1])
    elif kind == "node":
        del graph.graph.node[random.randrange(len(graph.graph.node))]
    elif kind == "name":
        random.choice([*graph.graph.input, *graph.graph.output]).name = random.choice(["", "x", "state_9", "magnitude"])
    elif kind == "external":
        held = random.choice([tensor for tensor in graph.graph.initializer if tensor.external_data])
        values = ["", "0", "-1", "3", "1" * 30, "/dev/zero", "../model.safetensors", "model.onnx"]
        random.choice(held.external_data).value = random.choice(values)
    else:
        held = random.choice(graph.graph.initializer)
        if held.dims:
            held.dims[0] = random.choice([0, 1, 1 << 40, held.dims[0] + 1])
    return graph.SerializeToString()


def interface(random: Random) -> Case:
    """`Enhancer.enhance` with arrays and rates that people give it."""
    shape = random.choice(
        [(1, 4000), (2, 4000), (4000, 2), (4000, 1), (4000,), (0, 10), (1, 0), (65, 10), (1, 1, 100), ()]
    )
    rate_hz = random.choice([16_000] * 4 + [0, -5, 16, 999, 768_000, 768_001, 44_100.0, 16_000.5, "16000", None])
    kind = random.choice(["float32"] * 3 + ["float64", "int16", "complex64", "object", "bool"])
    special = random.choice([None] * 4 + list(sounds.POISON))

    def call() -> int:
        import numpy as np

        from deepnmf_cli import zoo
        from deepnmf_cli.errors import DeepnmfError

        samples = np.full(shape, 0.1)
        if special is not None and samples.size:
            samples.flat[samples.size // 2] = special
        with np.errstate(all="ignore"):
            samples = samples.astype(kind)
        try:
            speech = zoo.load_enhancer(MODEL).enhance(samples, rate_hz)
        except (DeepnmfError, ValueError, TypeError) as error:
            print(f"Error: {error}", file=sys.stderr)
            return 1
        finite = np.isfinite(samples.astype(complex)).all()
        if speech.shape != shape or (finite and not np.isfinite(speech).all()):
            raise AssertionError(f"{kind} {shape} became {speech.shape}, finite: {np.isfinite(speech).all()}")
        return 0

    return Case([], call=call, note=f"{kind} {shape} at {rate_hz}, {special}")


def prepare() -> None:
    """Import what models of either form need."""
    import onnx  # noqa: F401

    prepare_training()


_REFUSED = Case(["enhance", "in.wav", "-o", "out.wav", "--model", "nowhere"])

TARGETS = {"interface": Target(interface, None, prepare_audio), "model": Target(model, _REFUSED, prepare)}
