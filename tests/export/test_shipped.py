"""The exports that ship are those of the weights that ship, and run without torch, quickly and in little memory."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

import deepnmf_cli
from deepnmf_cli import zoo
from deepnmf_cli.export.graph import IR_VERSION, verify
from deepnmf_cli.export.weights import SMALLEST_SHARED
from deepnmf_cli.exported import has_checksum
from deepnmf_cli.external import external_tensors

ROOT = Path(__file__).parents[2]
NOISY = ROOT / "data" / "demo" / "noisy.wav"
SHIPPED = sorted(zoo.models_folder().glob("*/*.onnx"))


def test_the_default_model_ships_both_graphs() -> None:
    assert {path.name for path in SHIPPED if path.parent.name == zoo.DEFAULT_MODEL} == {
        "model.onnx",
        "model.streaming.onnx",
    }


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_export_is_that_of_the_weights_beside_it(path: Path) -> None:
    """Where it fails: deepnmf export NAME --share-weights --overwrite, once more with --streaming where that file ships."""
    network, recipe = zoo.load(path.with_name(zoo.MODEL_FILE))
    streaming = path.name.endswith(zoo.EXPORTED_STREAMING)
    enhancer = zoo.load_enhancer(path.with_name(zoo.MODEL_FILE), "cpu", "onnx")
    assert enhancer.front_end == recipe.front_end
    assert verify(network.eval(), recipe.front_end.bins, path, streaming) <= 1e-5


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_export_is_whole_and_of_a_version_that_runtimes_of_the_last_years_read(path: Path) -> None:
    assert has_checksum(path.read_bytes())
    assert onnx.load(path).ir_version == IR_VERSION


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_weights_are_there_once(path: Path) -> None:
    shared = external_tensors(path.read_bytes())
    weights = zoo.load(path.parent.name)[1].weights
    assert {tensor.location for tensor in shared} == {zoo.MODEL_FILE}
    assert len({tensor.offset for tensor in shared}) == sum(x.numel() >= SMALLEST_SHARED for x in weights.values())


def test_backends_agree_on_speech() -> None:
    from deepnmf_cli.signal import audio

    samples, rate_hz = audio.read(NOISY)
    outputs = [zoo.load_enhancer(None, "cpu", backend).enhance(samples, rate_hz) for backend in ("torch", "onnx")]
    np.testing.assert_allclose(*outputs, rtol=0, atol=1e-5 * np.abs(samples).max())


def run_in_a_process(arguments: list[str], stdin: bytes = b"") -> dict:
    """Exit code, heavy modules imported, and peak memory in MiB of the program in a process of its own."""
    program = (
        "import json, sys\n"
        "from deepnmf_cli.main import run\n"
        "try: run(sys.argv[1:])\n"
        "except SystemExit as ended: code = ended.code or 0\n"
        "heavy = sorted({'torch', 'scipy', 'librosa', 'matplotlib', 'onnx'} & set(sys.modules))\n"
        "status = dict(line.split(':', 1) for line in open('/proc/self/status'))\n"
        "peak = int(status['VmHWM'].split()[0]) / 1024\n"
        "print(json.dumps({'code': code, 'heavy': heavy, 'peak_mib': peak}), file=sys.stderr)\n"
    )
    home = Path(deepnmf_cli.__file__).parent.parent
    command = [sys.executable, "-c", program, *arguments]
    done = subprocess.run(command, cwd=home, input=stdin, capture_output=True, check=True)
    return json.loads(done.stderr.splitlines()[-1])


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")
def test_enhancement_and_streaming_need_neither_torch_nor_much_memory(tmp_path: Path) -> None:
    options = ["--device", "cpu"]
    done = [
        run_in_a_process(["enhance", str(NOISY), "-o", str(tmp_path / "out.wav"), *options]),
        run_in_a_process(["stream", *options], NOISY.read_bytes()),
    ]
    for found in done:
        assert found["code"] == 0 and found["heavy"] == []
        assert found["peak_mib"] < 150
