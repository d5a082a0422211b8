"""Nothing leaves the machine, and nothing is written beside the outputs: checked in processes with an empty home."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

import deepnmf_cli

ROOT = Path(deepnmf_cli.__file__).parent.parent
NOISY = Path(__file__).parents[1] / "data" / "demo" / "noisy.wav"

WATCH = """
import sys
def watch(event, arguments):
    # Python's own modules make pairs of connected sockets to talk to themselves.
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto", "socket.bind"):
        print("NETWORK", event, arguments, file=sys.__stderr__, flush=True)
sys.addaudithook(watch)
"""
"""Runs before all else in each Python process; what libraries of C do, strace sees where there is one."""

STRACE = ["strace", "-f", "--seccomp-bpf", "-qq", "-e", "trace=connect,sendto,sendmsg", "-o"]


@pytest.fixture
def sealed(tmp_path):
    """sealed(*arguments, stdin) -> standard error of the program in a folder with outputs, with an empty home."""
    folders = {name: tmp_path / name for name in ("home", "hooks", "work", "tmp")}
    for folder in folders.values():
        folder.mkdir()
    (folders["hooks"] / "sitecustomize.py").write_text(WATCH)
    caches = {"MPLCONFIGDIR", "TORCHINDUCTOR_CACHE_DIR", "ORT_DISABLE_TELEMETRY"}
    inherited = {k: v for k, v in os.environ.items() if k not in caches and not k.startswith("XDG_")}
    environment = inherited | {
        "HOME": str(folders["home"]), "TMPDIR": str(folders["tmp"]), "PYTHONPATH": f"{folders['hooks']}:{ROOT}",
    }  # fmt: skip

    def run(*arguments: object, stdin: bytes = b"") -> None:
        command, trace = [sys.executable, "-m", "deepnmf_cli.main", *map(str, arguments)], tmp_path / "trace"
        if traced := can_trace():
            command = [*STRACE, str(trace), *command]
        done = subprocess.run(command, input=stdin, capture_output=True, env=environment, cwd=folders["work"])
        assert done.returncode == 0 and b"NETWORK" not in done.stderr, done.stderr.decode()
        assert not traced or "AF_INET" not in trace.read_text()
        assert os.listdir(folders["home"]) == [] and os.listdir(folders["tmp"]) == []

    return run


def can_trace() -> bool:
    """Whether strace is there, and allowed: without it, only what Python itself connects to is noticed."""
    if shutil.which("strace") is None:
        return False
    return subprocess.run([*STRACE, os.devnull, "true"], capture_output=True).returncode == 0


@pytest.mark.skipif(not can_trace(), reason="needs strace")
def test_what_is_traced_shows_a_connection(tmp_path):
    program = "import socket; socket.socket(socket.AF_INET).connect_ex(('127.0.0.1', 1))"
    subprocess.run([*STRACE, str(tmp_path / "trace"), sys.executable, "-c", program], check=True)
    assert "AF_INET" in (tmp_path / "trace").read_text()


@pytest.mark.skipif(sys.platform == "win32", reason="the home is another variable there")
@pytest.mark.parametrize("backend", ["onnx", "torch"])
def test_enhancing_writes_its_outputs_only_and_asks_nothing_of_the_network(sealed, tmp_path, backend):
    sealed("enhance", NOISY, "-o", "clean.wav", "--backend", backend)
    assert os.listdir(tmp_path / "work") == ["clean.wav"]


@pytest.mark.skipif(sys.platform == "win32", reason="the home is another variable there")
def test_streaming_writes_nothing_and_asks_nothing_of_the_network(sealed, tmp_path):
    sealed("stream", stdin=NOISY.read_bytes())
    assert os.listdir(tmp_path / "work") == []


@pytest.mark.skipif(sys.platform == "win32", reason="the home is another variable there")
@pytest.mark.parametrize(
    ("arguments", "left"),
    [
        (["repair", NOISY, "-o", "repaired.wav"], ["repaired.wav"]),
        (["inspect", NOISY, "-o", "page.html"], ["page.html"]),
    ],
    ids=lambda given: given[0] if given else "",
)
def test_other_commands_write_their_outputs_only_and_ask_nothing_of_the_network(sealed, tmp_path, arguments, left):
    sealed(*arguments)
    assert os.listdir(tmp_path / "work") == left


def test_what_python_asks_of_the_network_is_noticed(sealed, tmp_path):
    (tmp_path / "hooks" / "deepnmf_cli").mkdir()  # in place of the program
    (tmp_path / "hooks" / "deepnmf_cli" / "__init__.py").write_text("")
    (tmp_path / "hooks" / "deepnmf_cli" / "main.py").write_text("import socket; socket.getaddrinfo('127.0.0.1', 9)")
    with pytest.raises(AssertionError, match="NETWORK"):
        sealed("models")


@pytest.mark.skipif(sys.platform == "win32", reason="the home is another variable there")
def test_training_writes_its_run_only_and_asks_nothing_of_the_network(sealed, tmp_path):
    draw = np.random.default_rng(0)
    for role in ("speech", "noise"):
        (tmp_path / role).mkdir()
        for k in range(8):
            samples = 0.1 * draw.standard_normal(16000) * np.sin(np.arange(16000) / 2000)
            soundfile.write(tmp_path / role / f"{k}.wav", samples, 16000)
    folders = ["--speech", tmp_path / "speech", "--noise", tmp_path / "noise", "-o", "run"]
    sealed("train", *folders, "--model", "dnn", "--set", "training.steps=2", "--threads", 1)
    assert os.listdir(tmp_path / "work") == ["run"] and (tmp_path / "work" / "run" / "curves.png").is_file()


@pytest.mark.parametrize(("given", "expected"), [(None, "1"), ("", "1"), ("0", "0")])
def test_telemetry_is_off_from_the_first_import_on_unless_asked_for(given, expected):
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    if given is not None:
        environment["ORT_DISABLE_TELEMETRY"] = given
    program = "import deepnmf_cli, os; print(os.environ['ORT_DISABLE_TELEMETRY'])"
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout == f"{expected}\n"
