"""Model files and recipes from strangers: whatever they hold, what they get is a short sentence, and soon."""

import copy
import dataclasses
import json
import pickle
import time
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper

from deepnmf_cli import checkpoint, model_file, zoo
from deepnmf_cli.errors import ModelError, RecipeError, shortened
from deepnmf_cli.exported import CHECKSUM, META_KEY, NO_CHECKSUM, WEIGHTS, OnnxBackend, with_checksum
from deepnmf_cli.recipe import read_recipe

LONGEST_MESSAGE = 1200
SOON_S = 2.0


@pytest.fixture(scope="module")
def shipped() -> tuple[dict, dict]:
    """Weights of a model, and the tables that describe its network."""
    file = model_file.read(zoo.find("tiny"))
    tables = {"network": file.network_table(), "front_end": dataclasses.asdict(file.front_end)}
    return file.weights, {"model": file.model, **tables}


def changed(table: dict, keys: str, value: object) -> dict:
    """The nested table with another value at "a.b.c"."""
    table = inner = copy.deepcopy(table)
    *path, last = keys.split(".")
    for key in path:
        inner = inner[key]
    inner[last] = value
    return table


def refused(kind: type[Exception], call) -> str:
    begin = time.process_time()
    with pytest.raises(kind) as caught:
        call()
    assert time.process_time() - begin < SOON_S and len(str(caught.value)) < LONGEST_MESSAGE
    return str(caught.value)


@pytest.mark.parametrize(
    "keys, value",
    [
        ("model", ["grid"]),
        ("model", True),
        ("network", 5),
        ("network", []),
        ("network.context", 5_000_000),
        ("network.iterations", 200_000),
        ("network.channels", 10**9),
        ("network.channels", 10**30),
        ("network.wide_bands", 10**6),
        ("network.bins", 10**8),
        ("front_end.hop_s", 1e308),
        ("front_end.rate_hz", 10**9),
        ("front_end.window_hops", 10**6),
    ],
)
@pytest.mark.parametrize("former", [False, True])
def test_settings_of_a_model_file_are_checked_before_anything_is_built(tmp_path, shipped, former, keys, value) -> None:
    tensors, tables = shipped
    meta = changed(tables, keys, value)
    checkpoint.save(tmp_path / "model.safetensors", tensors, {"recipe": meta} if former else meta)
    refused(ModelError, lambda: zoo.load(tmp_path / "model.safetensors"))


@pytest.mark.parametrize("meta", [{}, {"recipe": 5}, {"recipe": {}}, {"recipe": None, "model": "grid"}])
def test_a_file_that_does_not_name_its_network_is_no_model(tmp_path, shipped, meta) -> None:
    checkpoint.save(tmp_path / "model.safetensors", shipped[0], meta)
    assert "no description" in refused(ModelError, lambda: zoo.load(tmp_path / "model.safetensors"))


@pytest.mark.parametrize("depth", [100_000])
def test_deep_json_in_a_model_file_is_a_damaged_file(tmp_path, monkeypatch, shipped, depth) -> None:
    monkeypatch.setattr(checkpoint.json, "dumps", lambda meta: "[" * depth)
    checkpoint.save(tmp_path / "model.safetensors", shipped[0], {})
    monkeypatch.undo()
    assert "damaged" in refused(ModelError, lambda: checkpoint.load(tmp_path / "model.safetensors"))


def graph(path: Path, meta: object, state: tuple = (1, 4), heard: str = "magnitude", bins: int = 257) -> None:
    """An ONNX file that passes states and masks on."""
    inputs = [
        helper.make_tensor_value_info(heard, TensorProto.FLOAT, [1, bins, "frames"]),
        helper.make_tensor_value_info("state_0", TensorProto.FLOAT, list(state)),
    ]
    outputs = [
        helper.make_tensor_value_info("masks", TensorProto.FLOAT, None),
        helper.make_tensor_value_info("next_state_0", TensorProto.FLOAT, None),
    ]
    nodes = [
        helper.make_node("Identity", [heard], ["masks"]),
        helper.make_node("Identity", ["state_0"], ["next_state_0"]),
    ]
    model = helper.make_model(
        helper.make_graph(nodes, "g", inputs, outputs), ir_version=8, opset_imports=[helper.make_opsetid("", 18)]
    )
    helper.set_model_props(model, {META_KEY: json.dumps(meta)})
    content = model.SerializeToString()
    path.write_bytes(with_checksum(content) if NO_CHECKSUM.encode() in content else content)


META = {
    "format": 1, WEIGHTS: "x", "single_frames": False, "front_end": {"rate_hz": 16000, "hop_s": 0.016, "window_hops": 2},
    CHECKSUM: NO_CHECKSUM,
}  # fmt: skip


def test_the_graph_of_these_tests_is_one_that_is_taken(tmp_path) -> None:
    graph(tmp_path / "x.onnx", META)
    backend = OnnxBackend(tmp_path / "x.onnx")
    assert backend(np.zeros((1, 257, 3), np.float32), None)[0].shape == (1, 257, 3)


@pytest.mark.parametrize(
    "keys, value",
    [
        ("format", None),
        ("format", "1"),
        ("front_end", None),
        ("front_end", {"rate_hz": 16000, "hops": 1}),
        ("front_end.rate_hz", 10**9),
        ("front_end.hop_s", 1e308),
        ("front_end.hop_s", "long"),
        ("front_end.window_hops", 10**7),
        ("single_frames", 3),
        (WEIGHTS, 5),
    ],
)
def test_what_an_exported_file_says_of_itself_is_checked(tmp_path, keys, value) -> None:
    graph(tmp_path / "x.onnx", changed(META, keys, value))
    refused(ModelError, lambda: OnnxBackend(tmp_path / "x.onnx").front_end())


@pytest.mark.parametrize(
    "shape",
    [{"state": (1, "any")}, {"state": (10**5, 10**5)}, {"heard": "sound"}, {"bins": 31}],
)
def test_a_graph_of_another_shape_is_refused_before_it_runs(tmp_path, shape) -> None:
    graph(tmp_path / "x.onnx", META, **shape)
    assert "another shape" in refused(ModelError, lambda: OnnxBackend(tmp_path / "x.onnx").front_end())


@pytest.mark.parametrize(
    "text",
    [
        'model = ["dnn"]',
        "model = true",
        "network = 5",
        "[network]\ncontext = 1" + "0" * 5000,
        "[front_end]\nrate_hz = 1" + "0" * 30,
        "[training]\nlearning_rate = 1" + "0" * 400,
        "[objective]\nsnr = nan",
        "x = " + "[" * 20_000,
        "a" + ".a" * 20_000 + " = 1",
        'base = "two"',
        "base = 7",
        "[network]\n" + "k" * 50_000 + " = 1",
    ],
)
def test_recipes_of_any_content_end_in_a_sentence(tmp_path, text) -> None:
    (tmp_path / "one.toml").write_text(text)
    (tmp_path / "two.toml").write_text('base = "one"')
    refused(RecipeError, lambda: read_recipe(tmp_path / "one.toml"))


@pytest.mark.parametrize("override", ["model=1", "model.x=1", "network=3", "network.context=1" + "0" * 5000, "a.b.c=1"])
def test_settings_on_the_command_line_end_in_a_sentence(override) -> None:
    refused(RecipeError, lambda: read_recipe("dnn", overrides=[override]))


def test_an_error_never_quotes_a_whole_file() -> None:
    error = ModelError("w" * 10**6, "f" * 10**6, "e" * 10**6, "r" * 10**6)
    assert len(str(error)) < 8100 and str(error).endswith("r ...")
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


def test_a_message_of_a_library_is_shortened() -> None:
    assert shortened("a\n b" * 5) == "a " + "ba " * 4 + "b"
    assert len(shortened("x" * 10**6)) < 310
