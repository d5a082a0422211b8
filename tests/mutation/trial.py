"""A mutant and its tests, in a process that is forked from one which has imported what takes long."""

import contextlib
import importlib
import math
import os
import resource
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.mutation.mutants import Mutant

WARM = ("numpy", "scipy.signal", "soundfile", "torch")
"""Packages that take long to import. Not what this project is made of: that differs from mutant to mutant."""

MEMORY_BYTES = 16 << 30
PATIENCE, PATIENCE_CPU_S, PATIENCE_S = 10, 10, 120
"""A test may take so many times the CPU seconds of the unchanged program, and so many CPU seconds and seconds more."""


@dataclass(frozen=True)
class Outcome:
    verdict: str
    """killed, timeout, crash, survived, or untested where no test runs the line."""
    test: str = ""
    """The test that noticed."""
    cpu_seconds: float = 0.0


class Bench:
    """A copy of the checkout, in which one mutant at a time is tried."""

    def __init__(self, checkout: Path, folder: Path):
        self.checkout, self.folder, self.log = checkout, folder, folder / "trial.log"
        shutil.rmtree(folder, ignore_errors=True)
        listed = subprocess.check_output(["git", "ls-files", "-co", "--exclude-standard"], cwd=checkout, text=True)
        for name in listed.splitlines():
            if (checkout / name).is_file():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(checkout / name, folder / name)

    def start(self, mutant: Mutant | None, tests: dict[str, float]) -> int:
        """Fork a process that runs tests, by their CPU seconds, on the mutant; returns its number."""
        for package in WARM:
            importlib.import_module(package)
        self.log.write_bytes(b"")
        if mutant:
            self.path = self.folder / mutant.file
            self.original = self.path.read_text("utf-8")
            self._put(mutant.applied(self.original))
        process = os.fork()
        if process:
            return process
        code = 3
        try:
            code = _run(self.checkout, self.folder, self.log, tests)
        finally:
            os._exit(code)

    def finish(self, mutant: Mutant | None, process: int, status: int, cpu_seconds: float) -> Outcome:
        """What came of it; puts the original back."""
        if mutant:
            self._put(self.original)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process, signal.SIGKILL)  # what tests started and left
        lines = self.log.read_text("utf-8").splitlines()
        words, _, test = lines[-1].partition(" ") if lines else ("", "", "")
        if os.WIFSIGNALED(status):
            late = os.WTERMSIG(status) in {signal.SIGALRM, signal.SIGPROF, signal.SIGXCPU}
            return Outcome("timeout" if late else "crash", test, cpu_seconds)
        code = os.WEXITSTATUS(status)
        if code in {pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED}:
            return Outcome("survived", "", cpu_seconds)
        return Outcome("killed", test if words == "failed" else "import", cpu_seconds)

    def _put(self, source: str) -> None:
        """Write the file and forget its byte code, whose date may be the same."""
        self.path.write_text(source, "utf-8")
        for compiled in (self.path.parent / "__pycache__").glob(f"{self.path.stem}.*.pyc"):
            compiled.unlink()


def _run(checkout: Path, folder: Path, log: Path, tests: dict[str, float]) -> int:
    """In the child: pytest on some tests; returns its exit code."""
    os.setsid()
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (600, 600))
    silence = os.open(log.with_name("pytest.log"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(silence, stream)
    sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
    os.chdir(folder)
    os.environ["PYTHONPATH"] = str(folder)
    sys.path[:] = [str(folder), *(path for path in sys.path if Path(path).resolve() != checkout)]
    for name in [name for name in sys.modules if name.partition(".")[0] in {"tests", "deepnmf_cli"}]:
        del sys.modules[name]
    files = sorted({test.partition("::")[0] for test in tests})
    return pytest.main(["-x", "-n", "0", "-p", "no:cacheprovider", *files], plugins=[Choice(tests, log)])


class Choice:
    """Of all tests that pytest finds, runs the chosen ones, quick ones first, and writes down which is at work."""

    def __init__(self, tests: dict[str, float], log: Path):
        self.tests, self.log = tests, log

    def pytest_collection_modifyitems(self, config, items):
        chosen = [item for item in items if item.nodeid in self.tests]
        items[:] = sorted(chosen, key=lambda item: rank(item.nodeid, self.tests[item.nodeid]))

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item):
        self._note("runs", item.nodeid)
        patience = PATIENCE * self.tests[item.nodeid]
        signal.setitimer(signal.ITIMER_PROF, PATIENCE_CPU_S + patience)
        signal.setitimer(signal.ITIMER_REAL, PATIENCE_S + patience)

    def pytest_runtest_logreport(self, report):
        if report.failed:
            self._note("failed", report.nodeid)

    def pytest_sessionfinish(self):
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)

    def _note(self, word: str, test: str) -> None:
        with self.log.open("a", encoding="utf-8") as file:
            file.write(f"{word} {test}\n".replace("\n", " ").rstrip() + "\n")


def rank(test: str, seconds: float) -> tuple:
    """Order of tests: quick ones first, and among those about as quick, file by file, so that they share fixtures."""
    return round(math.log(max(seconds, 0.01), 4)), test.partition("::")[0], seconds
