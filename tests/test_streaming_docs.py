"""The examples of docs/streaming.md run as they stand, and give what the page promises."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile

from deepnmf_cli import zoo
from deepnmf_cli.streaming import StreamingEnhancer

ROOT = Path(__file__).parent.parent
EXAMPLES = re.findall(r"```python\n(.+?)```", (ROOT / "docs" / "streaming.md").read_text("utf-8"), re.DOTALL)


@pytest.fixture
def folder(tmp_path, monkeypatch, tiny_model):
    """A folder with noisy.wav, and an untrained network as the default model: what is shown holds for any weights."""
    shipped = tmp_path / "models" / zoo.DEFAULT_MODEL
    shipped.mkdir(parents=True)
    shutil.copy(tiny_model, shipped / zoo.MODEL_FILE)
    monkeypatch.setattr(zoo, "models_folder", lambda: tmp_path / "models")
    noisy = 0.1 * np.random.default_rng(0).standard_normal((150_000, 2)).clip(-4, 4)
    soundfile.write(tmp_path / "noisy.wav", noisy, 48000)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_both_examples_run_and_agree(folder, capsys):
    streaming, whole = ({}, {})
    assert len(EXAMPLES) == 2
    for example, names in zip(EXAMPLES, (streaming, whole)):
        exec(compile(example, "docs/streaming.md", "exec"), names)
    streamed, rate_hz = soundfile.read(folder / "clean.wav", dtype="float32", always_2d=True)
    assert rate_hz == 48000 and streamed.shape == (150_000, 2)
    np.testing.assert_allclose(streamed.T, whole["speech"], atol=1.5 * 2**-15)  # the file has 16 bits
    assert capsys.readouterr().out == "(2, 150000)\n"  # the blocks, gathered


def test_page_names_every_public_part_of_a_stream():
    page = (ROOT / "docs" / "streaming.md").read_text("utf-8")
    assert all(f"stream.{name}" in page for name in vars(StreamingEnhancer) if not name.startswith("_"))
