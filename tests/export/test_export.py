"""Exported networks compute what torch computes, block by block and frame by frame."""

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from deepnmf_cli import zoo
from deepnmf_cli.enhancer import Enhancer
from deepnmf_cli.errors import ModelError, UsageError
from deepnmf_cli.export import graph
from deepnmf_cli.exported import FEW, META_KEY, WEIGHTS, ExportedGraph, OnnxBackend, has_checksum
from deepnmf_cli.inference.chain import MESSAGES
from deepnmf_cli.networks import NETWORKS, build
from deepnmf_cli.networks.backend import TorchBackend
from deepnmf_cli.networks.base import MaskNetwork
from deepnmf_cli.signal.stft import FrontEnd

SETTINGS = {
    "deep-nmf": {"context": 3, "atoms": 4, "iterations": 3},
    "dnn": {"context": 3, "hidden": (16,)},
    "grid": {"channels": 4, "iterations": 2},
}
FRONT_END = FrontEnd()


def random_network(name: str) -> MaskNetwork:
    torch.manual_seed(2)
    return build(name, NETWORKS[name][1](**SETTINGS[name])).eval()


def recording(seconds: float = 1.3, channels: int = 2) -> np.ndarray:
    draw = np.random.default_rng(0)
    samples = 0.1 * draw.standard_normal((channels, round(16000 * seconds)))
    return (samples * np.sin(np.linspace(0, 9, samples.shape[1]))).astype(np.float32)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """exported(name, single_frames) -> file, made once."""
    folder, made = tmp_path_factory.mktemp("export"), {}

    def make(name: str, single_frames: bool) -> Path:
        path = folder / f"{name}-{single_frames}.onnx"
        if path not in made:
            made[path] = graph.export(random_network(name), FRONT_END.bins, path, {WEIGHTS: name}, single_frames)
        return path

    return make


@pytest.mark.parametrize("messages", MESSAGES)
@pytest.mark.parametrize("single_frames", [False, True])
def test_all_messages_biases_of_single_nodes_and_spins_of_frames_are_exported(
    tmp_path: Path, single_frames: bool, messages: str
) -> None:
    torch.manual_seed(3)
    more = {"local_fields": True, "frame_spins": 5, "frame_channels": 2, "messages": messages}
    settings = NETWORKS["grid"][1](channels=4, iterations=2, **more)
    network = build("grid", settings).eval()
    for bias in (x for name, x in network.named_parameters() if "bias" in name):
        torch.nn.init.normal_(bias)
    assert graph.export(network, FRONT_END.bins, tmp_path / "grid.onnx", {}, single_frames) < graph.TOLERANCE


class LoopOverFrames(MaskNetwork):
    """What no graph for any number of frames can hold: a loop in Python."""

    name = "loop"

    def masks(self, evidence: torch.Tensor, state: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        state = torch.zeros_like(evidence[..., 0]) if state is None else state
        path = []
        for frame in evidence.unbind(-1):
            state = torch.sigmoid(frame - state)
            path.append(state)
        speech = torch.stack(path, -1)
        return torch.stack([speech, 1 - speech], 1), state


def test_networks_that_loop_over_frames_are_exported_for_single_frames_only(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="a loop over frames.*--streaming"):
        graph.export(LoopOverFrames(), 257, tmp_path / "loop.onnx", {WEIGHTS: ""}, single_frames=False)
    assert not list(tmp_path.iterdir())
    assert graph.export(LoopOverFrames(), 257, str(tmp_path / "loop.onnx"), {WEIGHTS: ""}, single_frames=True) < 1e-5


def test_steps_that_depend_on_values_are_refused(tmp_path: Path) -> None:
    class Chooses(LoopOverFrames):
        def masks(self, evidence, state):
            return super().masks(evidence if evidence.max() > 1 else 2 * evidence, state)

    with pytest.raises(ModelError, match="steps that cannot be exported"):
        graph.export(Chooses(), 257, tmp_path / "choice.onnx", {WEIGHTS: ""}, single_frames=True)


@pytest.mark.parametrize("name", ["belief-propagation", "power-mean"])
def test_networks_that_choose_by_values_are_refused_in_a_sentence(tmp_path: Path, name: str, capfd) -> None:
    network = build(name, NETWORKS[name][1](hidden=(8,)))
    with pytest.raises(ModelError) as refused:
        graph.export(network, 257, tmp_path / "x.onnx", {WEIGHTS: ""}, single_frames=True)
    assert str(refused.value) == (
        f"{name}: found steps that cannot be exported, since they depend on values; expected a network that ONNX can "
        "express. It runs as it is, with --backend torch."
    )
    assert capfd.readouterr() == ("", "") and not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", SETTINGS)
def test_exported_networks_enhance_as_torch_does(name: str, exported) -> None:
    samples = recording()
    expected = Enhancer(TorchBackend(random_network(name)), FRONT_END).enhance(samples, 16000)
    output = Enhancer(OnnxBackend(exported(name, False)), FRONT_END).enhance(samples, 16000)
    np.testing.assert_allclose(output, expected, rtol=0, atol=1e-5 * np.abs(samples).max())
    assert np.abs(expected - samples).max() > 0.01


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("files", ["both", "single frames"])
def test_any_partition_of_exported_networks_gives_the_offline_output(name: str, files: str, exported) -> None:
    samples, draw = recording(), np.random.default_rng(1)
    whole = Enhancer(OnnxBackend(exported(name, False)), FRONT_END).enhance(samples, 16000)
    backend = OnnxBackend(exported(name, False) if files == "both" else None, exported(name, True))
    stream, pieces, start = Enhancer(backend, FRONT_END).stream(16000, 2), [], 0
    while start < samples.shape[1]:
        size = int(draw.choice([1, 255, 256, 257, 256 * FEW, 3000]))
        pieces.append(stream.feed(samples[:, start : start + size]))
        start += size
    streamed = np.concatenate([*pieces, stream.flush()], -1)
    np.testing.assert_allclose(streamed, whole, rtol=0, atol=1e-6)


def test_recordings_that_share_a_graph_do_not_share_states(exported) -> None:
    samples = [recording()[:, start:9000] for start in (0, 1000)]
    enhancer = Enhancer(OnnxBackend(None, exported("grid", True)), FRONT_END)
    alone = [enhancer.enhance(x, 16000) for x in samples]
    streams = [enhancer.stream(16000, 2) for _ in samples]
    pieces = [[stream.feed(x[:, i : i + 256]) for stream, x in zip(streams, samples)] for i in range(0, 9000, 256)]
    for stream, expected, given in zip(streams, alone, zip(*pieces)):
        np.testing.assert_array_equal(np.concatenate([*given, stream.flush()], -1), expected)


def test_graphs_hold_standard_operations_and_say_what_they_are(exported) -> None:
    for single in (False, True):
        model = onnx.load(exported("grid", single))
        assert {opset.domain for opset in model.opset_import} == {""} and {n.domain for n in model.graph.node} == {""}
        assert [i.name for i in model.graph.input] == ["magnitude", *(f"state_{i}" for i in range(4))]
        assert [o.name for o in model.graph.output] == ["masks", *(f"next_state_{i}" for i in range(4))]
        kinds = {node.op_type for node in model.graph.node}
        assert ("GRU" in kinds) == single and ("Scan" in kinds) == (not single)
        assert not any(node.metadata_props or node.doc_string for node in model.graph.node)  # no paths of this machine
        (meta,) = (json.loads(p.value) for p in model.metadata_props if p.key == META_KEY)
        assert meta["single_frames"] is single and meta["format"] == 1
        assert model.ir_version == graph.IR_VERSION == 8


@pytest.mark.parametrize("weights,part,difference", [("float16", 0.55, 5e-3), ("int8", 0.3, 5e-2)])
def test_weights_of_fewer_bits_differ_a_little(weights: str, part: float, difference: float, exported) -> None:
    whole = exported("dnn", False)
    path = whole.with_name(f"{weights}.onnx")
    found = graph.export(random_network("dnn"), FRONT_END.bins, path, {WEIGHTS: "dnn"}, False, weights)
    assert 1e-5 < found < difference
    assert path.stat().st_size < part * whole.stat().st_size + 10_000  # the graph itself does not shrink
    assert {opset.domain for opset in onnx.load(path).opset_import} == {""}


def test_a_graph_that_differs_is_refused(exported) -> None:
    network = random_network("dnn")
    with torch.no_grad():
        network.layers[0].weight.mul_(1.01)
    with pytest.raises(ModelError, match="masks differ"):
        graph.verify(network, FRONT_END.bins, exported("dnn", False), False)


def test_files_of_other_programs_are_refused(tmp_path: Path, exported) -> None:
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy"]
    nodes = [helper.make_node("Identity", ["x"], ["y"])]
    model = helper.make_model(
        helper.make_graph(nodes, "other", values[:1], values[1:]),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=9,
    )
    onnx.save(model, tmp_path / "other.onnx")
    (tmp_path / "damaged.onnx").write_bytes(exported("dnn", False).read_bytes()[:1000])
    newer = onnx.load(exported("dnn", False))
    newer.metadata_props[0].value = json.dumps({"format": 99})
    onnx.save(newer, tmp_path / "newer.onnx")
    for name, found in [("other", "another program"), ("damaged", "no graph"), ("newer", "format 99")]:
        with pytest.raises(ModelError, match=found):
            ExportedGraph(tmp_path / f"{name}.onnx")


def test_a_damaged_file_is_refused_wherever_the_damage_is(tmp_path: Path, exported) -> None:
    content = exported("dnn", False).read_bytes()
    assert has_checksum(content) and has_checksum(content.replace(b"file_sha256", b"file_sha257")) is None
    for start in np.linspace(0, len(content) - 3000, 9).astype(int):
        (tmp_path / "damaged.onnx").write_bytes(content[:start] + bytes(3000) + content[start + 3000 :])
        with pytest.raises(ModelError, match="a damaged file|no graph that ONNX Runtime can run|no checksum"):
            ExportedGraph(tmp_path / "damaged.onnx")
    (tmp_path / "damaged.onnx").write_bytes(content[:5000] + bytes([content[5000] ^ 1]) + content[5001:])  # one bit
    with pytest.raises(ModelError, match=r"damaged\.onnx: found a damaged file.*--overwrite"):
        ExportedGraph(tmp_path / "damaged.onnx")


def test_two_graphs_must_be_of_the_same_weights(exported) -> None:
    backend = OnnxBackend(exported("dnn", False), exported("grid", True))
    with pytest.raises(ModelError, match="other weights"):
        backend(np.zeros((1, 257, 1), np.float32), None)


@pytest.fixture
def model(tiny_model, tmp_path) -> Path:
    """A model file in a folder of its own."""
    return Path(shutil.copy(tiny_model, tmp_path / "model.safetensors"))


def kind(*arguments: object) -> str:
    return type(zoo.load_enhancer(*arguments).backend).__name__


def test_auto_takes_the_export_beside_the_weights_as_long_as_it_is_theirs(model: Path, deepnmf, tmp_path: Path) -> None:
    assert kind(model, "cpu") == "TorchBackend"
    result = deepnmf("export", model)
    assert result.code == 0 and "model.onnx" in result.err and zoo.find(model) == model
    assert kind(model, "cpu") == kind(model, "cpu", "onnx") == kind(tmp_path / "model.onnx") == "OnnxBackend"
    assert kind(model, "cpu", "torch") == "TorchBackend"
    with pytest.raises(UsageError, match="the CPU"):
        zoo.load_enhancer(model, "cuda", "onnx")
    with pytest.raises(ModelError, match="an exported model"):
        zoo.load(tmp_path / "model.onnx")

    assert deepnmf("export", model).code == 2  # the file exists
    assert deepnmf("export", model, "-o", tmp_path / "model.bin").code == 2
    model.write_bytes((zoo.models_folder() / "base" / zoo.MODEL_FILE).read_bytes())
    assert kind(model, "cpu") == "TorchBackend"  # weights that were trained again
    with pytest.raises(ModelError, match="other weights"):
        zoo.load_enhancer(model, "cpu", "onnx")


def test_an_export_for_single_frames_of_other_weights_is_left_out(model: Path, deepnmf, tmp_path: Path) -> None:
    assert deepnmf("export", model).code == 0
    expected = zoo.load_enhancer(model, "cpu").enhance(recording(), 16000)
    shutil.copy(zoo.models_folder() / "base" / "model.streaming.onnx", tmp_path / "model.streaming.onnx")
    stream = zoo.load_enhancer(model, "cpu").stream(16000, 2)
    pieces = [stream.feed(recording()[:, i : i + 256]) for i in range(0, recording().shape[1], 256)]
    np.testing.assert_allclose(np.concatenate([*pieces, stream.flush()], -1), expected, atol=1e-6)


def test_damage_beside_good_weights_is_said_and_an_export_without_checksum_is_left_out(
    model, deepnmf, tmp_path
) -> None:
    assert deepnmf("export", model).code == 0
    path = tmp_path / "model.onnx"
    content = path.read_bytes()
    path.write_bytes(content[:5000] + bytes(3000) + content[8000:])
    shutil.copy(Path(__file__).parents[2] / "data" / "demo" / "noisy.wav", tmp_path / "noisy.wav")
    arguments = ["enhance", tmp_path / "noisy.wav", "-o", tmp_path / "out.wav", "--device", "cpu", "--model", model]
    result = deepnmf(*arguments)
    assert result.code == 1 and "model.onnx: found a damaged file" in result.err and not (tmp_path / "out.wav").exists()
    assert deepnmf(*arguments, "--backend", "torch").code == 0
    path.write_bytes(content.replace(b"file_sha256", b"file_sha255"))
    assert kind(model, "cpu") == "TorchBackend"
    with pytest.raises(ModelError, match="older version"):
        zoo.load_enhancer(model, "cpu", "onnx")


def test_without_an_export_the_remedy_is_to_export(model: Path, deepnmf, tmp_path: Path) -> None:
    shutil.copy(Path(__file__).parents[2] / "data" / "demo" / "noisy.wav", tmp_path / "noisy.wav")
    arguments = ["enhance", tmp_path / "noisy.wav", "-o", tmp_path / "out.wav", "--model", model, "--backend", "onnx"]
    result = deepnmf(*arguments)
    assert result.code == 1 and "deepnmf export" in result.err and not (tmp_path / "out.wav").exists()


def test_an_export_in_the_place_of_the_other_kind_is_refused(exported) -> None:
    with pytest.raises(ModelError, match="an export for any number of frames.*one for single frames"):
        OnnxBackend(None, exported("grid", False))
    with pytest.raises(ModelError, match="--streaming for single frames"):
        OnnxBackend(exported("grid", True))


def test_files_that_were_opened_may_be_deleted(exported, tmp_path):
    """As on a cluster, where a model comes in a temporary folder, and the graph for few frames is needed late."""
    paths = [shutil.copy(exported("grid", single), tmp_path / f"{single}.onnx") for single in (False, True)]
    enhancer = Enhancer(OnnxBackend(*paths), FRONT_END)
    enhancer.open_all()
    for path in paths:
        path.unlink()
    for length in (16000, 200):
        assert enhancer.enhance(np.zeros((1, length), np.float32), 16000).shape == (1, length)
