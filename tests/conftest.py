"""What the tests share: deterministic signals, a command line to call, and cheap models."""

import io
import json
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deepnmf_cli import main, zoo
from deepnmf_cli.native import library

# Their coverage is measured, with pytest-cov's options, while these run. All tests would take half as long again.
COVERED = ("inference", "signal", "test_streaming.py", "unfold")

BROWSERS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def pytest_configure(config: pytest.Config) -> None:
    """Tests find what they rely on, in this process and in those that they start: workers and programs.

    Nobody's library of `deepnmf build-native` changes what these do. One thread is enough for each of several workers.
    An interrupt is heard where tests run in the background of a shell, which has its children ignore it.
    """
    if config.getoption("numprocesses", None):
        os.environ.setdefault("OMP_NUM_THREADS", "1")
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if library.find() is not None:
        caches = tempfile.TemporaryDirectory()
        config.add_cleanup(caches.cleanup)
        os.environ["XDG_CACHE_HOME"] = caches.name


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave tests out of the coverage that are not of what computes; without pytest-cov's options do nothing."""
    covered = [Path(__file__).parent / part for part in COVERED]
    for item in items if config.pluginmanager.hasplugin("_cov") else ():
        if not any(item.path.is_relative_to(path) for path in covered):
            item.add_marker("no_cover")


@pytest.fixture(scope="session", autouse=True)
def nothing_from_outside(tmp_path_factory):
    """Nobody's library of `deepnmf build-native` changes what tests see in this process, and this run's options are not
    for those of pytest that tests start."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("PYTEST_ADDOPTS", raising=False)
        patch.setattr(library, "cache_folder", lambda: tmp_path_factory.getbasetemp() / "no-caches/deepnmf")
        yield


def _no_json(word: str) -> Any:
    raise AssertionError(f"{word} is not JSON")


@dataclass(frozen=True)
class Result:
    """What a call of the program left: exit code, standard output, standard error."""

    code: int
    out: bytes
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out, parse_constant=_no_json)

    @property
    def lines(self) -> list[Any]:
        """The objects of JSON Lines."""
        return [json.loads(line, parse_constant=_no_json) for line in self.out.splitlines()]


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


class StubEnhancer:
    """Halves every sample, in pieces that come late and in odd sizes, as those of a real enhancer do."""

    gain = np.float32(0.5)

    def enhance_blocks(
        self, blocks, rate_hz, channels, max_attenuation_db=None, mix=1.0, at_once=False, separate=False, activity=None
    ):
        held = np.empty((channels, 0), np.float32)
        for block in blocks:
            held = np.concatenate([held, block], axis=1)
            ready = max(0, held.shape[1] - 777)
            yield self.gain * held[:, :ready]
            held = held[:, ready:]
        yield self.gain * held


@pytest.fixture(scope="session")
def voice():
    """voice(seconds, rate_hz) -> (N,) float32 in [-0.5, 0.5]: a gliding harmonic tone, syllable by syllable."""

    def make(seconds: float = 1.0, rate_hz: int = 16000) -> np.ndarray:
        time = np.arange(round(seconds * rate_hz)) / rate_hz
        phase = 2 * np.pi * (140 * time + 6 * np.sin(2 * np.pi * 0.7 * time))
        harmonics = [np.sin(k * phase) / k for k in range(1, 20) if k * 190 < rate_hz / 2]
        syllables = np.clip(np.sin(2 * np.pi * 2.5 * time), 0, 1)
        sound = syllables * sum(harmonics)
        return (0.5 * sound / max(1e-9, np.abs(sound).max(initial=0))).astype(np.float32)

    return make


@pytest.fixture(scope="session")
def hiss():
    """hiss(seconds, rate_hz, seed) -> (N,) float32: white noise of standard deviation 0.05."""

    def make(seconds: float = 1.0, rate_hz: int = 16000, seed: int = 0) -> np.ndarray:
        return (0.05 * np.random.default_rng(seed).standard_normal(round(seconds * rate_hz))).astype(np.float32)

    return make


@pytest.fixture
def deepnmf(monkeypatch, capsysbinary):
    """deepnmf(*arguments, stdin=b"") -> Result: the program as its user calls it, in this process."""

    def call(*arguments: object, stdin: bytes = b"") -> Result:
        if not isinstance(sys.stdin, Terminal):
            monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        capsysbinary.readouterr()
        with pytest.raises(SystemExit) as ended:
            main.run([str(argument) for argument in arguments])
        captured = capsysbinary.readouterr()
        return Result(ended.value.code or 0, captured.out, captured.err.decode())

    return call


@pytest.fixture
def terminal(monkeypatch):
    """terminal("stdin") -> Terminal: a terminal in the place of a standard stream."""

    def replace(stream: str) -> Terminal:
        monkeypatch.setattr(sys, stream, replaced := Terminal())
        return replaced

    return replace


@pytest.fixture
def stub(monkeypatch):
    """A StubEnhancer in the place of every model."""
    enhancer = StubEnhancer()
    monkeypatch.setattr(zoo, "load_enhancer", lambda *_, **__: enhancer)
    return enhancer


@pytest.fixture
def without_media(monkeypatch):
    """An environment without the extra [media]."""
    monkeypatch.setitem(sys.modules, "av", None)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory):
    """The file of an untrained network, for what must hold whatever the weights are."""
    import torch

    from deepnmf_cli import model_file
    from deepnmf_cli.networks import build
    from deepnmf_cli.recipe import Recipe

    torch.manual_seed(0)
    recipe = Recipe.from_dict({"model": "dnn"})
    path = tmp_path_factory.mktemp("model") / "tiny.safetensors"
    model_file.describe(path, build(recipe.model, recipe.network), recipe.front_end, {}).write()
    return path


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Chromium without a window; skips where none is installed."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    with playwright.sync_playwright() as started:
        found = next((path for name in BROWSERS if (path := shutil.which(name))), None)
        path = found or started.chromium.executable_path
        if not Path(path).is_file():
            pytest.skip("needs a browser: apt-get install chromium-headless-shell, or playwright install chromium")
        opened = started.chromium.launch(
            executable_path=path, args=["--autoplay-policy=no-user-gesture-required", "--mute-audio"]
        )
        yield opened
        opened.close()
