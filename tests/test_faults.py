"""Every file is written with points between its steps, where a test can stop the program."""

import ast
import errno
import os
import signal
from pathlib import Path

import pytest
import soundfile

import deepnmf_cli
from tests import faults

PACKAGE = Path(deepnmf_cli.__file__).parent
STEPS = ["opened", "written", "synced", "renamed"]

WRITERS = {"write_text", "write_bytes", "savefig", "save_file", "mkstemp", "NamedTemporaryFile", "SequentialFile"}
WRITERS |= {"shutil.copy", "shutil.copyfile", "shutil.copyfileobj", "shutil.copytree", "shutil.move"}
ELSEWHERE = {"commands/jobs.py", "corpus/clips.py", "inspector/panels.py", "scoring/figures.py"}
"""Write standard input and output on their way, and clips that workers share, in a temporary folder; to a path that the
caller has of atomic_path; and to memory."""


def writes(call: ast.Call) -> bool:
    """Whether a call makes or changes a file, as far as its text shows."""
    name = ast.unparse(call.func).split(".")[-1]
    given = [*call.args, *(k.value for k in call.keywords if k.arg == "mode")]
    modes = [a.value for a in given[:2] if isinstance(a, ast.Constant) and isinstance(a.value, str)]
    if name in ("open", "fdopen", "SoundFile", "SequentialFile"):
        return any(set(mode) <= set("rwaxbt+") and set(mode) & set("wax+") for mode in modes)
    return name in WRITERS or ast.unparse(call.func) in WRITERS


def test_every_module_that_writes_files_passes_points():
    found = set()
    for path in PACKAGE.rglob("*.py"):
        text = path.read_text("utf-8")
        if any(writes(node) for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call)):
            found.add(str(path.relative_to(PACKAGE)))
            appends = '.open("a"' in text
            atomic = any(f"{name}(" in text for name in ("atomic_path", "atomic_folder", "write_all"))
            passes = "reached(" in text or (not appends and atomic)
            assert passes or str(path.relative_to(PACKAGE)) in ELSEWHERE, path
    assert {"checkpoint.py", "training/journal.py", "scoring/report.py", "signal/audio_writer.py"} <= found


@pytest.fixture
def noisy(tmp_path, hiss):
    (tmp_path / "in").mkdir()
    soundfile.write(tmp_path / "in" / "noisy.wav", hiss(0.2), 16000)
    return tmp_path / "in" / "noisy.wav"


def test_both_outputs_of_enhance_pass_their_points(deepnmf, stub, noisy, tmp_path):
    with faults.at() as names:
        assert deepnmf("enhance", noisy, "-o", tmp_path / "out.wav", "--noise-out", tmp_path / "rest.flac").code == 0
    for output in ("out.wav", "rest.flac"):
        steps = [name.partition(": ")[2] for name in names if name.startswith(output)]
        assert steps[0] == "opened" and steps[-3:] == STEPS[1:] and set(steps[1:-3]) == {"block"}


@pytest.mark.parametrize("kind", ["ENOSPC", "EIO"])
@pytest.mark.parametrize("number", range(5))
def test_an_error_of_the_disk_at_any_point_of_an_output_is_a_sentence(deepnmf, stub, noisy, tmp_path, kind, number):
    with faults.at(kind, number) as names:
        result = deepnmf("enhance", noisy, "-o", tmp_path / "out.wav")
    assert result.code == 1 and result.err.startswith("Error: ") and "Traceback" not in result.err
    renamed = names[number] == "out.wav: renamed"
    assert [path.name for path in tmp_path.iterdir()] == ["in"] + ["out.wav"] * renamed
    assert os.strerror(getattr(errno, kind)).lower() in result.err.lower() or "full disk" in result.err


def test_a_kill_at_a_point_ends_a_process_there(noisy, tmp_path):
    names, ended = faults.run("SIGKILL", 2, "enhance", noisy, "-o", tmp_path / "out.wav", "--model", "tiny")
    assert names == ["out.wav: opened", "out.wav: block", "out.wav: written"]
    assert ended.returncode == -signal.SIGKILL and not (tmp_path / "out.wav").exists()
