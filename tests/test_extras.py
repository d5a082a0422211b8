"""What a light install can do, and what commands say whose packages are missing."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import deepnmf_cli
from deepnmf_cli import extras, zoo
from deepnmf_cli.errors import EXIT_DONE, EXIT_FAILED

ROOT = Path(__file__).parent.parent
HOME = Path(deepnmf_cli.__file__).parent.parent
ALL = sorted({package for packages in extras.EXTRAS.values() for package in packages})

IMPORTED = {"pillow": "PIL"}
"""Packages that are imported by other names than theirs."""


def without(packages: list[str], arguments: list[str], folder: Path) -> subprocess.CompletedProcess:
    """The program where `packages` cannot be imported."""
    program = (
        f"import sys\nsys.path.insert(0, {str(HOME)!r})\nsys.modules.update(dict.fromkeys({packages!r}))\n"
        f"from deepnmf_cli.main import run\nrun({arguments!r})\n"
    )
    return subprocess.run([sys.executable, "-c", program], cwd=folder, capture_output=True, text=True)


def required(extra: str, project: dict) -> set[str]:
    """Names, as they are imported, of what an extra brings, extras that it names included."""
    names = set()
    for line in project["optional-dependencies"][extra]:
        if inner := re.match(r"deepnmf\[(.+)\]$", line):
            names |= {name for other in inner[1].split(",") for name in required(other, project)}
        else:
            name = re.match(r"[\w-]+", line)[0]
            names.add(IMPORTED.get(name, name.replace("-", "_")))
    return names


def test_extras_are_those_of_the_project_file():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert {extra: set(packages) for extra, packages in extras.EXTRAS.items()} == {
        extra: required(extra, project) for extra in extras.EXTRAS
    }
    # Ray has no wheels for every Python, and is as large as all the others.
    assert required("all", project) == set(ALL) - set(extras.EXTRAS["cluster"])
    core = {re.match(r"[\w-]+", line)[0] for line in project["dependencies"]}
    assert core == {"click", "numpy", "onnxruntime", "safetensors", "soundfile", "tqdm"}


@pytest.mark.parametrize("model", [path.parent.name for path in zoo.models_folder().glob("*/model.safetensors")])
def test_every_shipped_model_enhances_without_any_extra(tmp_path, model):
    arguments = ["enhance", str(ROOT / "data/demo/noisy.wav"), "-o", "clean.wav", "--model", model]
    done = without(ALL, arguments, tmp_path)
    assert done.returncode == EXIT_DONE, done.stderr
    assert (tmp_path / "clean.wav").is_file()


@pytest.mark.parametrize(
    "extra, arguments",
    [
        ("torch", ["enhance", str(ROOT / "data/demo/noisy.wav"), "-o", "clean.wav", "--backend", "torch"]),
        ("torch", ["enhance", str(ROOT / "data/demo/noisy.wav"), "-o", "c.wav", "--noise-profile", "0:1", "--model", "deep-nmf"]),
        ("train", ["train", "--speech", ".", "--noise", ".", "-o", "run"]),
        ("evaluate", ["evaluate", "--reference", ".", "--noisy", "."]),
        ("export", ["export", "base", "-o", "base.onnx"]),
        ("inspect", ["inspect", str(ROOT / "data/demo/noisy.wav")]),
        ("live", ["stream", "--list-devices"]),
        ("cluster", ["enhance", str(ROOT / "data/demo/noisy.wav"), "-o", "noisy.wav", "--engine", "ray"]),
        ("cluster", ["enhance", "s3://bucket/noisy.wav", "-o", "noisy.wav"]),
        ("media", ["enhance", str(ROOT / "data/demo/noisy.wav"), "-o", "noisy.m4a"]),
    ],
)  # fmt: skip
def test_a_missing_extra_is_named_in_one_sentence(tmp_path, extra, arguments):
    done = without(ALL, arguments, tmp_path)
    assert done.returncode == EXIT_FAILED
    assert "Traceback" not in done.stderr and len(done.stderr.splitlines()) == 1
    assert f'Run `pip install "deepnmf[{extra}]"`.' in done.stderr
    assert not list(tmp_path.iterdir())


def test_the_compiler_that_pesq_needs_is_named_before_it_is_missed(tmp_path):
    done = without(["pesq"], ["evaluate", "--reference", ".", "--noisy", "."], tmp_path)
    assert "build-essential" in done.stderr
