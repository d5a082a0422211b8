"""The examples of docs/export.md enhance as the program does."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import soundfile

from deepnmf_cli import zoo

ROOT = Path(__file__).parents[2]
EXAMPLES, NOISY = ROOT / "docs" / "examples", ROOT / "data" / "demo" / "noisy.wav"


HOP_SAMPLES = 256

MODELS = ["base", "tiny"]  # one that hears phase, and one that does not


def check(name: str, command: list[str | Path], folder: Path, **options: object) -> None:
    """Compares on a recording whose hops have no mean: what the program does about offsets the examples leave out."""
    model = folder / "model.streaming.onnx"  # whole, as `deepnmf export` writes one by default
    onnx.save(onnx.load(zoo.models_folder() / name / "model.streaming.onnx"), model)
    samples, rate_hz = soundfile.read(NOISY, dtype="int16")
    for start in range(0, len(samples), HOP_SAMPLES):
        hop = samples[start : start + HOP_SAMPLES]
        hop -= np.int16(hop.mean())
        rest = int(hop.sum())
        hop[: abs(rest)] -= np.int16(np.sign(rest))
        assert hop.sum() == 0
    noisy, clean = folder / "noisy.wav", folder / "clean.wav"
    soundfile.write(noisy, samples, rate_hz)
    subprocess.run([*map(str, command), str(model), str(noisy), str(clean)], check=True, **options)
    samples, _ = soundfile.read(noisy, dtype="float32")
    expected = zoo.load_enhancer(name, "cpu").enhance(samples[None], rate_hz)[0]
    speech, _ = soundfile.read(clean, dtype="float32")
    np.testing.assert_allclose(speech, expected, rtol=0, atol=1.01 * 2**-15)  # one step of 16 bits


@pytest.mark.parametrize("name", MODELS)
def test_python_example(name: str, tmp_path: Path) -> None:
    check(name, [sys.executable, EXAMPLES / "enhance.py"], tmp_path)


def node_packages() -> Path | None:
    """Where onnxruntime-web lies, if NODE_PATH or this folder says so."""
    folders = [*os.environ.get("NODE_PATH", "").split(os.pathsep), "node_modules"]
    return next((Path(f).absolute() for f in folders if f and (Path(f) / "onnxruntime-web").is_dir()), None)


@pytest.mark.skipif(shutil.which("node") is None or node_packages() is None, reason="needs Node and onnxruntime-web")
@pytest.mark.parametrize("name", MODELS)
def test_javascript_example(name: str, tmp_path: Path) -> None:
    shutil.copy(EXAMPLES / "enhance.mjs", tmp_path)
    (tmp_path / "node_modules").symlink_to(node_packages())
    check(name, ["node", tmp_path / "enhance.mjs"], tmp_path, cwd=tmp_path)


@pytest.mark.parametrize("name", ["enhance.py", "enhance.mjs"])
def test_examples_are_short(name: str) -> None:
    assert len((EXAMPLES / name).read_text("utf-8").splitlines()) <= 60
