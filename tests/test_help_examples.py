"""Every example that `--help` shows works as written, in a folder that holds what the example names."""

import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import click
import numpy as np
import pytest
import soundfile

import deepnmf_cli
from deepnmf_cli.commands.group import COMMANDS, main
from deepnmf_cli.corpus import sources
from deepnmf_cli.corpus.pack import pack
from deepnmf_cli.main import run
from deepnmf_cli.native import library

DEMO = Path(__file__).parent.parent / "data" / "demo"

HURRY = {
    "train": "--set training.steps=2 --set training.learning_rate=1e-6 --set training.batch=2 --set mixing.segment_s=0.5"
    " --set dictionary.batches=2 --set dictionary.batch_frames=300",
}
"""Arguments appended to the examples of a command: the same work, less of it."""


def examples(name: str) -> list[str]:
    """The command lines below "Try:" or "Examples:" in the help of a command ("" is the program itself)."""
    command = main.get_command(click.Context(main), name) if name else main
    lines, inside = [], False
    for line in map(str.strip, command.help.splitlines()):
        if inside and line:
            lines.append(line)
        inside = line in {"Try:", "Examples:"} or (inside and bool(line))
    return lines


def rooms_full_of_sound(folder: Path) -> None:
    """Write recordings, speech by speaker, noise and pairs, all short, below `folder`."""
    clean, rate_hz = soundfile.read(DEMO / "clean.wav", dtype="float32")
    noisy, _ = soundfile.read(DEMO / "noisy.wav", dtype="float32")
    # Both sentences, so that every piece holds speech.
    sentences = [slice(int(start * rate_hz), int((start + 2.5) * rate_hz)) for start in (0.6, 4.4)]

    def write(path: str, samples: np.ndarray) -> None:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(folder / path, samples, rate_hz)

    write("noisy.wav", noisy[sentences[0]])
    (folder / "labels.txt").write_text("0.5\t0.52\tlost\n")
    write("recordings/monday.flac", noisy[sentences[0]])
    write("recordings/town/tuesday.wav", np.stack([noisy[sentences[1]]] * 2, 1))
    for take in range(8):
        piece = sentences[take % 2]
        gain = np.float32(0.5 + take / 16)
        write(f"speech/speaker{take % 4}/{take}.wav", gain * clean[piece])
        write(f"noise/{take}.wav", gain * (noisy - clean)[piece])
        for root in ("", "pairs/"):
            write(f"{root}clean/{take}.wav", gain * clean[piece])
            write(f"{root}noisy/{take}.wav", gain * noisy[piece])
        write(f"enhanced/{take}.wav", gain * (0.7 * clean + 0.3 * noisy)[piece])


@pytest.fixture(scope="module")
def material(tmp_path_factory):
    folder = tmp_path_factory.mktemp("material")
    rooms_full_of_sound(folder)
    pack([folder], folder / "pack", 10**6)
    return folder


@pytest.mark.parametrize("name", ["", *COMMANDS])
def test_every_help_shows_examples_of_its_own_command(name):
    lines = examples(name)
    assert lines
    assert all(f"deepnmf {name}".strip() in line for line in lines)


@pytest.mark.parametrize("name", ["", *COMMANDS])
def test_examples_work_as_written_one_after_the_other(name, material, tmp_path, monkeypatch):
    folder = shutil.copytree(material, tmp_path / "folder")
    monkeypatch.chdir(folder)
    monkeypatch.setattr(library, "cache_folder", lambda: tmp_path / "caches")
    monkeypatch.setattr(sources, "HELD_OUT_MIXTURES", 3)  # of 40: training scores its dev mixtures again and again
    if name == "build-native" and not any(map(shutil.which, library.COMPILERS)):
        pytest.skip("no C compiler is installed")
    for line in examples(name):
        # Standard input and output of pipelines are the shell's business; all others run here, which is quicker.
        code = run_in_a_shell(line) if set(line) & set("|<>") else run_here(line)
        assert code == 0, line


def run_here(line: str) -> int:
    program, *arguments = shlex.split(line)
    assert program == "deepnmf"
    with pytest.raises(SystemExit) as ended:
        run([*arguments, *HURRY.get(arguments[0], "").split()])
    return ended.value.code or 0  # sys.exit(None) is success


def run_in_a_shell(line: str) -> int:
    home = Path(deepnmf_cli.__file__).parent.parent
    program = f"PYTHONPATH={shlex.quote(str(home))} {shlex.quote(sys.executable)} -m deepnmf_cli.main"
    script = f'deepnmf() {{ {program} "$@"; }}\n{line}'
    return subprocess.run(["bash", "-o", "pipefail", "-c", script]).returncode
