"""The examples of docs/api.md and README.md run as they stand."""

import re
import shutil
from pathlib import Path

import pytest

import deepnmf_cli

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("page", ["docs/api.md", "README.md"])
def test_examples_run_one_after_the_other(page, tmp_path, monkeypatch):
    text = (ROOT / page).read_text("utf-8")
    shutil.copy(ROOT / "data/demo/noisy.wav", tmp_path)
    monkeypatch.chdir(tmp_path)
    names = {}
    for example in re.findall(r"```python\n(.+?)```", text, re.DOTALL):
        exec(compile(example, page, "exec"), names)
    assert (tmp_path / "clean.wav").stat().st_size == (tmp_path / "noisy.wav").stat().st_size
    assert names["speech"].shape == names["samples"].shape
    assert page == "README.md" or names["bar"].n > 7


def test_page_shows_every_public_name():
    page = (ROOT / "docs" / "api.md").read_text("utf-8")
    for name in deepnmf_cli.__all__:
        assert f"::: {getattr(deepnmf_cli, name).__module__}.{name}\n" in page
