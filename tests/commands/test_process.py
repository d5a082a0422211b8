"""The program as a process: signals, standard streams that are closed or full, memory that runs out."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

import deepnmf_cli
from deepnmf_cli import main
from deepnmf_cli.commands.record import RECORD
from deepnmf_cli.errors import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_TERMINATED, ModelError, lack_of_memory

ROOT = Path(deepnmf_cli.__file__).parent.parent
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}
PROGRAM = [sys.executable, "-m", "deepnmf_cli.main"]
PATIENCE_S = 60
CODES = {signal.SIGINT: EXIT_INTERRUPTED, signal.SIGTERM: EXIT_TERMINATED, signal.SIGHUP: EXIT_TERMINATED}
WORDS = {signal.SIGINT: "Interrupted.", signal.SIGTERM: "Terminated.", signal.SIGHUP: "Terminated."}

FULL = pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full here")


# Standard streams


def shell(arguments: str, redirections: str) -> subprocess.CompletedProcess:
    command = f"{sys.executable} -m deepnmf_cli.main {arguments} {redirections}"
    return subprocess.run(["sh", "-c", command], capture_output=True, text=True, env=ENVIRONMENT)


@pytest.mark.parametrize("redirection", ["2>&-", pytest.param("2>/dev/full", marks=FULL)])
@pytest.mark.parametrize(("arguments", "code"), [("noisy.wav", 0), ("missing.wav", EXIT_FAILED)])
def test_messages_that_nobody_can_read_change_nothing(noisy, redirection, arguments, code):
    done = shell(f"enhance {arguments} -o clean.wav --json", redirection)
    assert done.returncode == code and done.stderr == ""
    assert json.loads(done.stdout.splitlines()[-1])["failed"] == bool(code)
    if not code:
        shell("enhance noisy.wav -o usual.wav", "")
        assert Path("clean.wav").read_bytes() == Path("usual.wav").read_bytes()  # no message got into it


@pytest.mark.parametrize("redirection", [">&-", pytest.param(">/dev/full", marks=FULL), "<&- >&-"])
def test_a_result_that_is_lost_is_a_failure(noisy, redirection):
    for arguments in ("--version", "enhance noisy.wav -o clean.wav --overwrite --json"):
        done = shell(arguments, redirection)
        assert done.returncode == EXIT_FAILED and done.stderr.startswith("Error: standard output: "), arguments
        assert len(done.stderr.splitlines()) == 1
    assert Path("clean.wav").exists()


@pytest.mark.parametrize("redirection", [">&-", pytest.param(">/dev/full", marks=FULL)])
def test_standard_output_that_is_not_needed_may_be_closed(noisy, redirection):
    done = shell("enhance noisy.wav -o clean.wav", redirection)
    assert done.returncode == 0 and "Enhanced 1 file." in done.stderr


@FULL
def test_sound_that_is_lost_is_a_failure(noisy):
    for arguments in ("enhance noisy.wav -o -", "stream -q < noisy.wav"):
        done = shell(arguments, "> /dev/full")
        assert done.returncode == EXIT_FAILED and done.stderr.count("\n") == 1, done.stderr
        assert done.stderr.startswith("Error: standard output: No space left on device.")


# Signals


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("module", ["deepnmf_cli.errors", "click", "numpy", "onnxruntime"])
def test_a_signal_while_libraries_are_imported_shows_no_traceback(noisy, module, number):
    script = """
import os, sys
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == sys.argv[1]:
            sys.meta_path.remove(self)
            os.kill(os.getpid(), int(sys.argv[2]))
sys.meta_path.insert(0, Finder())
from deepnmf_cli.main import run
run(["enhance", "noisy.wav", "-o", "clean.wav"])
"""
    command = [sys.executable, "-c", script, module, str(int(number))]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True)
    assert (done.returncode, done.stderr.strip()) == (CODES[number], WORDS[number])
    assert os.listdir() == ["noisy.wav"]


def test_a_signal_while_a_line_is_written_does_not_write_it_again(tmp_path):
    """The reader of the line sends it, at once: it arrives between the writing and the return from it."""
    script = """
import signal, sys, click
from deepnmf_cli.commands import console
from deepnmf_cli.signals import handled, ending
def stop(number, frame):
    raise ending(number)[0]
with handled(stop):
    console.guard()
    output = sys.stdout if sys.argv[1] == "stdout" else sys.stderr
    try:
        while True:
            click.echo("line " * 60, file=output)
            for _ in range(10**6):
                pass
    except KeyboardInterrupt:
        click.echo("end", file=output)
"""
    for name in ("stdout", "stderr"):
        for _ in range(5):
            pipes = {name: subprocess.PIPE, "text": True, "env": ENVIRONMENT}
            with subprocess.Popen([sys.executable, "-c", script, name], **pipes) as process:
                getattr(process, name).readline()
                process.send_signal(signal.SIGINT)
                rest = "".join(process.communicate(timeout=PATIENCE_S)[name == "stderr"])
            assert rest == "end\n", name


@pytest.mark.parametrize("number", CODES)
def test_a_signal_that_a_library_turns_into_another_error_is_still_that_signal(number):
    assert main._ending(ImportError("numpy failed"), [number]) == (CODES[number], WORDS[number])


def test_errors_that_nobody_expected_are_raised_again():
    with pytest.raises(ZeroDivisionError):
        main._ending(ZeroDivisionError(), [])


@pytest.mark.parametrize("number", CODES)
@pytest.mark.parametrize("jobs", [1, 2])
def test_what_was_done_before_a_signal_is_told(folder, jobs, number):
    """The first file is short, the second one is not."""
    os.makedirs("in")
    soundfile.write("in/a.wav", np.full(100, 0.1), 48000)
    endless("in/b.wav")
    command = [*PROGRAM, "enhance", "in/a.wav", "in/b.wav", "-o", "out", "--jobs", str(jobs), "--json"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=ENVIRONMENT, start_new_session=True, **pipes) as process:
        wait_for(process, lambda: any(Path("out").glob(".b-*.wav")))
        told = process.stdout.readline()  # the outcome of a file is told after the file is there
        os.killpg(process.pid, number)
        out, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == CODES[number] and err.strip() == WORDS[number]
    lines = (told + out).splitlines()
    assert len(lines) == 2, lines
    first, summary = map(json.loads, lines)
    assert first["input"] == "in/a.wav" and summary["done"] == 1
    assert summary["stopped"] == WORDS[number].lower().rstrip(".")
    assert summary["exit_code"] == CODES[number]
    assert sorted(os.listdir("out")) == [RECORD, "a.wav"]


def test_a_closed_terminal_leaves_nothing_of_an_export(folder):
    os.makedirs("out")
    command = [*PROGRAM, "export", "tiny", "-o", "out/x.onnx"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=ENVIRONMENT, start_new_session=True, **pipes) as process:
        wait_for(process, lambda: any(Path("out").glob(".x-*")))
        os.killpg(process.pid, signal.SIGHUP)
        _, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == EXIT_TERMINATED and err.strip().endswith("Terminated.")
    assert os.listdir("out") == []


def endless(name: str) -> None:
    """A file of zeros without end, as far as these tests are concerned."""
    soundfile.write(name, np.zeros(100), 48000)
    with open(name, "r+b") as file:
        file.seek(40)
        file.write(((1 << 30) - 44).to_bytes(4, "little"))
    os.truncate(name, 1 << 30)


def wait_for(process: subprocess.Popen, condition) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)


def test_what_a_library_prints_is_a_message_and_no_result():
    script = (
        "import os; from deepnmf_cli.commands import console; console.guard(); os.write(1, b'chatter'); print('result')"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=ENVIRONMENT)
    assert (done.returncode, done.stdout, done.stderr) == (0, "result\n", "chatter")


# Memory


@pytest.mark.skipif(sys.platform != "linux", reason="limits of memory are as Linux has them")
@pytest.mark.parametrize("limit_mib", [100, 150])
def test_too_little_memory_is_said_in_a_sentence(noisy, limit_mib):
    script = f"ulimit -v {limit_mib * 1024}; {sys.executable} -m deepnmf_cli.main enhance noisy.wav -o clean.wav"
    alone = {
        "OPENBLAS_NUM_THREADS": "1",
        "OMP_NUM_THREADS": "1",
    }  # threads want room for stacks before we can say a word
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, env=ENVIRONMENT | alone)
    assert done.returncode == EXIT_FAILED and len(done.stderr.splitlines()) == 1, done.stderr
    assert done.stderr.startswith("Error: system: found that memory ran out") and "ulimit -v" in done.stderr


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        ImportError("libtorch.so: failed to map segment from shared object"),
        OSError(12, "Cannot allocate memory"),
        RuntimeError("[ONNXRuntimeError] : 1 : FAIL : Failed to allocate memory for requested buffer"),
    ],
)
def test_lack_of_memory_is_recognised_and_so_is_what_it_caused(error):
    assert main._ending(error, [])[0] == EXIT_FAILED and "memory ran out" in main._ending(error, [])[1]
    caused = ModelError("model.onnx", "no graph", "one", "Export it again.")
    caused.__cause__ = error
    assert lack_of_memory(caused) is not None


def test_names_that_the_output_cannot_encode_are_printed(tmp_path):
    """A listing goes on where a name has characters that the encoding of standard output lacks."""
    soundfile.write(tmp_path / "\u9332\u97f3.wav", np.zeros(100), 8000)
    call = [sys.executable, "-m", "deepnmf_cli", "enhance", str(tmp_path), "--dry-run"]
    done = subprocess.run(call, capture_output=True, env=os.environ | {"PYTHONIOENCODING": "latin-1"}, cwd=ROOT)
    assert done.returncode == 0 and rb"\u9332\u97f3.wav" in done.stdout, done.stderr


@pytest.mark.parametrize("kept", ["stream", "train"])
def test_a_signal_that_is_ignored_stays_ignored(kept):
    """As Ctrl-C is for what a script runs in the background."""
    from deepnmf_cli.commands import stream, train

    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with stream._UntilInterrupted(io.BytesIO()) if kept == "stream" else train._Stopping():
            assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
            assert signal.getsignal(signal.SIGTERM) not in (signal.SIG_IGN, signal.SIG_DFL)
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize(
    "error", [ImportError("no torch"), ModelError("out of memory.onnx", "x", "y", "z"), OSError(2, "x")]
)
def test_other_errors_are_no_lack_of_memory(error):
    assert lack_of_memory(error) is None
