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
from deepnmf_cli.signal.rewrite import rewrite

ROOT = Path(__file__).parents[2]
EXAMPLES, DEMO = ROOT / "docs" / "examples", ROOT / "data" / "demo" / "noisy.wav"

MODELS = ["base", "tiny"]  # one that hears phase, and one that does not


def check(name: str, command: list[str | Path], folder: Path, **options: object) -> None:
    """Compares the files that the example and the program make, on a recording with a constant offset and pauses too."""
    model = folder / "model.streaming.onnx"  # whole, as `deepnmf export` writes one by default
    onnx.save(onnx.load(zoo.models_folder() / name / "model.streaming.onnx"), model)
    samples, rate_hz = soundfile.read(DEMO, dtype="int16")
    shifted = samples[12000:32000] // 2 + 1000
    shifted[8000:10000] = 0  # a pause, after which the offset is another
    shifted[10000:] -= 3000
    for case, recording in {"demo": samples, "shifted": shifted}.items():
        noisy, clean, expected = (folder / f"{case}-{part}.wav" for part in ("noisy", "clean", "expected"))
        soundfile.write(noisy, recording, rate_hz)
        subprocess.run([*map(str, command), str(model), str(noisy), str(clean)], check=True, **options)
        rewrite(noisy, expected, zoo.load_enhancer(name, "cpu").enhance_blocks)
        ours, theirs = (soundfile.read(path, dtype="int16")[0].astype(int) for path in (clean, expected))
        assert len(ours) == len(recording) and np.abs(ours - theirs).max() <= 1, case


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
    for script in ("enhance.mjs", "denoiser.mjs"):
        shutil.copy(EXAMPLES / script, tmp_path)
    (tmp_path / "node_modules").symlink_to(node_packages())
    check(name, ["node", tmp_path / "enhance.mjs"], tmp_path, cwd=tmp_path)


@pytest.mark.parametrize("name", ["enhance.py", "enhance.mjs", "denoiser.mjs", "browser.html"])
def test_examples_are_short(name: str) -> None:
    assert len((EXAMPLES / name).read_text("utf-8").splitlines()) <= 100
