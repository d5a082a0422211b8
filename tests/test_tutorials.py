"""Every page of docs/tutorials runs as it stands, block by block, in a folder with a little of what it speaks of.

Commands of `deepnmf` run here, which is quicker, and train for two steps with a small network. Programs that download,
or that need a device, are stand-ins.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
import soundfile

from deepnmf_cli.corpus import sources
from tests.commands.test_stream_live import FakeCard
from tests.export.test_examples import node_packages
from tests.test_help_examples import HURRY, rooms_full_of_sound, run_here, run_in_a_shell

ROOT = Path(__file__).parent.parent
PAGES = sorted(path for path in (ROOT / "docs" / "tutorials").glob("*.md") if path.name != "index.md")

NODE = node_packages() if shutil.which("node") else None  # as it is before any page runs
SMALL = "--set network.channels=2 --set network.iterations=1 --set network.frame_spins=2"
LINKS = ("wget", "unzip", "tar", "npm", "pactl")
STANDINS = {
    **dict.fromkeys(LINKS, "exit 0"),
    "arecord": "tail -c +45 talk.wav",
    "aplay": "cat > played.raw",
    "ffmpeg": "cat talk.wav",
}
"""Programs that are not asked for -> what runs in their place."""

ARCHIVE = ("archive/calls/2024/1.wav", "archive/calls/2024/2.wav")
NOT_RUN = ("python -m http.server", "ray ")
CLUSTER = re.compile(r"--engine ray --address \S+ |s3://")
"""Is left out: what runs on a cluster runs here, and a bucket is a folder."""
LEFT = {
    "podcast.md": [
        "episode.enhanced.wav",
        "noise.wav",
        "episode.loud.wav",
        "call.enhanced.wav",
        "season.enhanced/2.wav",
    ],
    "voicebank.md": ["run/curves.png", "table/report.md", "dev/noisy/p287_001.wav", "voicebank/clean/p228_1.wav"],
    "librispeech.md": ["manifest.csv", "run/best.safetensors", "mine.wav"],
    "machine.md": ["tuned/tuning.csv", "talk.clean.wav", "talk.streamed.wav"],
    "realtime.md": ["played.raw", "clean.wav"],
    "million.md": ["sample.wav", "log.jsonl", "clean/calls/2024/2.wav"],
    "browser.md": ["page/model.onnx", "page/denoiser.mjs", "page/ort/ort.wasm.min.mjs"],
}
"""Page -> some of the files that are there in the end."""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    folder = tmp_path / "folder"
    rooms_full_of_sound(folder)
    sound, rate_hz = soundfile.read(folder / "noisy.wav", dtype="int16")
    for place in ("episode.wav", "call.wav", "talk.wav", "season/1.wav", "season/2.wav", *ARCHIVE):
        write(folder / place, sound, rate_hz)
    for kind, source in (("clean", "clean"), ("noisy", "noisy")):
        samples = soundfile.read(folder / source / "0.wav", dtype="int16")[0].repeat(3)  # 48 kHz
        for name in ("p226_001", "p226_100", "p287_001", "p287_100", *(f"p228_{take}" for take in range(6))):
            write(folder / f"{kind}_trainset_28spk_wav" / f"{name}.wav", samples, 48000)
        write(folder / f"{kind}_testset_wav" / "p232_001.wav", samples, 48000)
    for reader in range(8):
        speech = folder / "speech" / f"speaker{reader % 4}" / f"{reader}.wav"
        write(
            folder / f"LibriSpeech/train-clean-100/{reader}/9/{reader}-9-0.flac", *soundfile.read(speech, dtype="int16")
        )
    packages = folder / "node_modules/onnxruntime-web/dist"
    if NODE:
        (folder / "node_modules").symlink_to(NODE)
    else:
        packages.mkdir(parents=True)
        for name in ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm"):
            (packages / name).touch()
    (folder / "docs").symlink_to(ROOT / "docs")
    bin = tmp_path / "bin"
    bin.mkdir()
    for name, line in STANDINS.items():
        (bin / name).write_text(f"#!/usr/bin/env sh\n{line}\n")
        (bin / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{bin}{os.pathsep}{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sources, "HELD_OUT_MIXTURES", 2)
    monkeypatch.setitem(HURRY, "train", f"{HURRY['train']} --set training.score_every=2")
    monkeypatch.setitem(sys.modules, "sounddevice", FakeCard(np.zeros((256, 1), np.float32)))  # one block, then Ctrl-C
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)  # which a detached process ignores
    yield folder
    signal.signal(signal.SIGINT, previous)


def write(path: Path, samples: np.ndarray, rate_hz: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, rate_hz)


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_tutorial_runs_as_it_stands(page, folder):
    for language, code in re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text("utf-8"), re.DOTALL | re.MULTILINE):
        if language == "python":
            exec(compile(code, page.name, "exec"), {})
            continue
        assert language == "", language
        for line in code.replace("\\\n", " ").splitlines():
            run(line)
    assert all((folder / name).is_file() for name in LEFT[page.name])


def run(line: str) -> None:
    """One line of a page; what it says must exist, and work."""
    if line.startswith("pip install"):
        extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
        assert set(re.findall(r"\w+", "".join(re.findall(r"\[(.*?)\]", line)))) <= extras.keys(), line
    elif not line.startswith(NOT_RUN) and (NODE or not line.startswith("node ")):
        line = known(line)
        if line.startswith("deepnmf") and not set(line) & set("|<>"):
            assert run_here(line) in ((0, 130) if "--live" in line else (0,)), line
        elif "deepnmf" in line:
            assert run_in_a_shell(line) == 0, line
        else:
            subprocess.run(["bash", "-c", line], check=True)


def known(line: str) -> str:
    """The line with a small network where one is trained from the beginning, and without a cluster."""
    line = CLUSTER.sub("", line)
    return f"{line} {SMALL}" if line.startswith("deepnmf train") and "--init" not in line else line


def test_every_tutorial_is_on_the_index():
    index = (ROOT / "docs/tutorials/index.md").read_text("utf-8")
    assert all(f"]({page.name})" in index for page in PAGES) and LEFT.keys() == {page.name for page in PAGES}
