"""Exported graphs that leave their weights in the model file: the same masks, and no other file is ever opened."""

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper

from deepnmf_cli import exported, model_file, zoo
from deepnmf_cli.errors import ModelError
from deepnmf_cli.exported import CHECKSUM, META_KEY, NO_CHECKSUM, WEIGHTS, ExportedGraph, with_checksum
from deepnmf_cli.external import external_tensors
from deepnmf_cli.networks import build
from deepnmf_cli.recipe import Recipe

WEIGHT = np.arange(12, dtype=np.float32).reshape(4, 3)
NAME = "model.safetensors"


@pytest.fixture(scope="module")
def both(tmp_path_factory) -> Path:
    """A folder with a model, its graph with shared weights (model.onnx) and one that is whole (whole.onnx)."""
    folder = tmp_path_factory.mktemp("shared")
    torch.manual_seed(1)
    recipe = Recipe.from_dict({"model": "dnn", "network": {"context": 2, "hidden": [40]}})
    network = build("dnn", recipe.network)
    model_file.describe(folder / NAME, network, recipe.front_end, {}).write()
    zoo.export(folder / NAME, folder / "model.onnx", share_weights=True)
    zoo.export(folder / NAME, folder / "whole.onnx")
    return folder


def test_shared_weights_give_the_same_masks_from_a_smaller_file(both) -> None:
    whole, shared = (ExportedGraph(both / name) for name in ("whole.onnx", "model.onnx"))
    inputs = np.random.default_rng(0).random((1, 257, 9), np.float32)
    (one, its), (two, theirs) = (graph(inputs, graph.start) for graph in (whole, shared))
    assert np.array_equal(one, two) and all(map(np.array_equal, its, theirs))
    weights = sum(x.numel() for x in model_file.read(both / NAME).weights.values() if x.numel() >= 32)
    sizes = [(both / name).stat().st_size for name in ("whole.onnx", "model.onnx")]
    assert sizes[0] - sizes[1] > 0.98 * 4 * weights
    assert not external_tensors((both / "whole.onnx").read_bytes())  # by default a file needs no other


def test_any_onnx_runtime_opens_the_files_beside_each_other(both) -> None:
    onnx.checker.check_model(str(both / "model.onnx"))
    session = onnxruntime.InferenceSession(str(both / "model.onnx"), providers=["CPUExecutionProvider"])
    assert session.get_outputs()[0].name == "masks"


def test_a_model_is_found_and_run_with_the_weights_beside_it(both, tmp_path) -> None:
    for name in (NAME, "model.onnx"):
        shutil.copy(both / name, tmp_path)
    assert type(zoo.load_enhancer(tmp_path / NAME, "cpu").backend).__name__ == "OnnxBackend"
    with (tmp_path / NAME).open("r+b") as file:
        file.seek(-2, 2)
        file.write(b"\1")
    with pytest.raises(ModelError, match=r"model\.onnx: found other weights beside it"):
        ExportedGraph(tmp_path / "model.onnx")
    (tmp_path / NAME).unlink()
    with pytest.raises(ModelError, match=r"no model\.safetensors beside it; .*Copy it too"):
        ExportedGraph(tmp_path / "model.onnx")


def test_links_into_one_other_folder_are_followed_and_others_are_not(both, tmp_path) -> None:
    (tmp_path / "installed").mkdir()
    for name in (NAME, "model.onnx"):
        (tmp_path / "installed" / name).symlink_to(both / name)
    assert ExportedGraph(tmp_path / "installed" / "model.onnx").start
    (tmp_path / "alone").mkdir()
    shutil.copy(both / "model.onnx", tmp_path / "alone")
    (tmp_path / "alone" / NAME).symlink_to(both / NAME)
    with pytest.raises(ModelError, match="a file of another folder"):
        ExportedGraph(tmp_path / "alone" / "model.onnx")


def test_only_float32_beside_the_weights_can_share_them(both, tmp_path, deepnmf) -> None:
    for options in (["--weights", "int8", "--overwrite"], ["-o", tmp_path / "x.onnx"]):
        result = deepnmf("export", both / NAME, "--share-weights", *options)
        assert result.code == 2 and "--share-weights: found" in result.err
    assert not (tmp_path / "x.onnx").exists()


def graph(folder: Path, nested: bool = False, shape: tuple[int, ...] = WEIGHT.shape, **entries: str) -> Path:
    """A graph, and its WEIGHT as external data of these entries; `nested` in an operation in place of an initialiser."""
    (folder / NAME).write_bytes(bytes(8) + WEIGHT.tobytes())
    tensor = TensorProto(name="w", dims=shape, data_type=TensorProto.FLOAT, data_location=TensorProto.EXTERNAL)
    for key, value in ({"location": NAME, "offset": "8", "length": "48"} | entries).items():
        tensor.external_data.add(key=key, value=value)
    inputs = helper.make_tensor_value_info("magnitude", TensorProto.FLOAT, [1, 3, "frames"])
    masks = helper.make_tensor_value_info("masks", TensorProto.FLOAT, None)
    nodes = [helper.make_node("MatMul", ["w", "magnitude"], ["masks"])]
    if nested:
        nodes.insert(0, helper.make_node("Constant", [], ["w"], value=tensor))
    made = helper.make_graph(nodes, "g", [inputs], [masks], [] if nested else [tensor])
    model = helper.make_model(made, ir_version=8, opset_imports=[helper.make_opsetid("", 18)])
    digest = hashlib.sha256((folder / NAME).read_bytes()).hexdigest()
    meta = {"format": 1, WEIGHTS: digest, "single_frames": False, CHECKSUM: NO_CHECKSUM}
    helper.set_model_props(model, {META_KEY: json.dumps(meta)})
    (folder / "model.onnx").write_bytes(with_checksum(model.SerializeToString()))
    return folder / "model.onnx"


def test_the_graph_of_these_tests_is_one_that_is_taken(tmp_path) -> None:
    opened = ExportedGraph(graph(tmp_path))
    inputs = np.random.default_rng(0).random((1, 3, 2), np.float32)
    np.testing.assert_allclose(opened(inputs, [])[0], WEIGHT @ inputs, rtol=1e-6)


@pytest.mark.parametrize(
    "entries",
    [
        {"location": "/dev/zero"},
        {"location": "/usr/model.safetensors"},
        {"location": "../model.safetensors"},
        {"location": "below/model.safetensors"},
        {"location": ".."},
        {"location": ""},
        {"location": "model.onnx"},
        {"location": "model.safetensors\0"},
        {"location": "x" * 5000 + ".safetensors"},
        {"offset": "12"},
        {"offset": "10"},
        {"offset": "-8"},
        {"shape": (0, 3), "length": "0"},
        {"shape": (2**40, 3), "length": str(12 * 2**40)},
        {"shape": (-1, 3), "length": "-12"},
        {"offset": "1" * 30},
        {"offset": "1" * 5000},
        {"offset": "eight"},
        {"length": "52"},
        {"length": "-48"},
        {"nested": True},
    ],
    ids=lambda entries: str(entries)[:50],
)
def test_weights_elsewhere_are_refused_before_anything_is_opened(tmp_path, monkeypatch, entries) -> None:
    (tmp_path / "in").mkdir()
    shutil.copy(graph(tmp_path), tmp_path / "in")
    path = graph(tmp_path / "in", **entries)
    (tmp_path / "in/below").mkdir()
    shutil.copy(tmp_path / NAME, tmp_path / "in/below")
    monkeypatch.setattr(exported.onnxruntime, "InferenceSession", lambda *_, **__: pytest.fail("it was opened"))
    with pytest.raises(ModelError, match="must not be|beyond the end|no graph") as caught:
        ExportedGraph(path)
    assert len(str(caught.value)) < 700


def test_bytes_that_are_cut_anywhere_are_found_out(both) -> None:
    content = (both / "model.onnx").read_bytes()
    assert len(external_tensors(content)) >= 2
    marker, refused, passed = content.index(b"location"), 0, 0
    for end in range(len(content) - 1, 0, -97):
        try:
            found = external_tensors(content[:end])
        except ValueError:
            refused += 1
            continue
        assert found == [] and end < marker + 200, end  # nothing of what lies elsewhere was left to be read
        passed += 1
    assert refused > 3 and passed > 3
