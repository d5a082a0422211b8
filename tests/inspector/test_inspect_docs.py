"""The example of docs/inspect.md runs as it stands."""

import re
from pathlib import Path

import soundfile

ROOT = Path(__file__).parent.parent.parent


def test_the_example_writes_a_page(tmp_path, monkeypatch, hiss, capsys):
    (example,) = re.findall(r"```python\n(.+?)```", (ROOT / "docs" / "inspect.md").read_text("utf-8"), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    soundfile.write("noisy.wav", hiss(1.0), 16000)
    exec(compile(example, "docs/inspect.md", "exec"), {})
    assert capsys.readouterr().out == "(513, 64)\n"
    assert Path("page.html").read_text("utf-8").count("data:audio/flac") == 3
