"""What `pip install .` brings: one typed package, its models inside, with a torch and torchaudio that fit together."""

import importlib
import os
import shutil
import subprocess
import sys
import sysconfig
from email.parser import BytesParser
from pathlib import Path
from zipfile import ZipFile

import pytest

import deepnmf_cli
from deepnmf_cli.native import library

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel as users get it, built from the checkout without a network."""
    folder = tmp_path_factory.mktemp("dist")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    built = subprocess.run(build, cwd=ROOT, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    (path,) = folder.glob("*.whl")
    with ZipFile(path) as opened:
        yield opened


@pytest.fixture(scope="module")
def names(wheel):
    return set(wheel.namelist())


def dist_info(wheel, name: str) -> bytes:
    return wheel.read(f"deepnmf-{deepnmf_cli.__version__}.dist-info/{name}")


def test_torch_and_torchaudio_import_together():
    # A pair built for two CUDA versions raises here.
    torch, torchaudio = map(importlib.import_module, ("torch", "torchaudio"))
    assert torchaudio.functional.resample(torch.ones(1, 160), 16000, 8000).shape == (1, 80)


def test_wheel_installs_nothing_but_the_package(names):
    assert {name.split("/")[0] for name in names} == {"deepnmf_cli", f"deepnmf-{deepnmf_cli.__version__}.dist-info"}


def test_wheel_holds_every_module_and_the_mark_of_a_typed_package(names):
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "deepnmf_cli").rglob("*.py")}
    assert "deepnmf_cli/main.py" in modules
    assert modules | {"deepnmf_cli/py.typed"} <= names


def test_every_room_is_a_package_of_its_own():
    # A folder without __init__.py would work in a checkout and still confuse type checkers.
    folders = {path.parent for path in (ROOT / "deepnmf_cli").rglob("*.py")}
    assert not [folder for folder in folders if not (folder / "__init__.py").is_file()]


@pytest.mark.parametrize("source, target", [("models", "models"), ("data/recipes", "recipes")])
def test_wheel_carries_models_and_recipes_unchanged(wheel, names, source, target):
    files = [path for path in (ROOT / source).rglob("*") if path.is_file() and not path.name.startswith(".")]
    assert files
    for path in files:
        inside = f"deepnmf_cli/{target}/{path.relative_to(ROOT / source).as_posix()}"
        assert inside in names and wheel.read(inside) == path.read_bytes()


def test_wheel_carries_the_recipes_that_users_train_and_nothing_of_research(names):
    shipped = {f"deepnmf_cli/recipes/{path.name}" for path in (ROOT / "data/recipes").glob("*.toml")}
    assert {name for name in names if name.endswith(".toml")} == shipped
    assert not [name for name in names if "research" in name or "benchmark" in name or "plan" in name]


def test_every_model_comes_with_its_card_and_figures(names):
    models = {name.rpartition("/")[0] for name in names if name.endswith("/model.safetensors")}
    assert models
    assert {f"{model}/{part}" for model in models for part in ("README.md", "report.json")} <= names


def test_wheel_stays_small(wheel):
    assert sum(item.compress_size for item in wheel.infolist()) < 20e6
    assert all(item.file_size <= 5e6 for item in wheel.infolist())


def test_metadata_states_the_version_and_the_licence(wheel, names):
    metadata = BytesParser().parsebytes(dist_info(wheel, "METADATA"))
    assert metadata["Name"] == "deepnmf" and metadata["Version"] == deepnmf_cli.__version__
    assert metadata["License-Expression"] == "MIT" and metadata["License-File"] == "LICENSE"
    assert f"deepnmf-{deepnmf_cli.__version__}.dist-info/licenses/LICENSE" in names


def test_torch_and_torchaudio_are_constrained_as_a_pair(wheel):
    # A release of torchaudio that mends nothing but its build can need another torch: 2.11.1 does.
    required = BytesParser().parsebytes(dist_info(wheel, "METADATA")).get_all("Requires-Dist")
    specifiers = {line.partition(";")[0] for line in required if line.startswith("torch")}
    (torch,) = (line for line in specifiers if line.startswith(("torch<", "torch>")))
    assert "<" in torch and ">=" in torch
    (torchaudio,) = specifiers - {torch}
    assert torchaudio.startswith("torchaudio==") and "*" not in torchaudio


def test_the_command_is_named_deepnmf(wheel):
    assert dist_info(wheel, "entry_points.txt") == b"[console_scripts]\ndeepnmf = deepnmf_cli.main:run\n"


# Wheels with machine code


def build_native(folder: Path, **variables: str) -> subprocess.CompletedProcess:
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    return subprocess.run(build, cwd=ROOT, capture_output=True, text=True, env=os.environ | variables)


@pytest.mark.skipif(not any(map(shutil.which, library.COMPILERS)), reason="no C compiler")
def test_a_wheel_with_machine_code_is_for_this_platform_and_brings_a_library_that_loads(tmp_path, names):
    built = build_native(tmp_path, DEEPNMF_NATIVE="1")
    assert built.returncode == 0, built.stderr
    (path,) = tmp_path.glob("*.whl")
    platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
    assert path.name == f"deepnmf-{deepnmf_cli.__version__}-py3-none-{platform}.whl"
    with ZipFile(path) as opened:
        inside = f"deepnmf_cli/native/{library.file_name()}"
        assert set(opened.namelist()) == names | {inside}
        assert b"Root-Is-Purelib: false" in dist_info(opened, "WHEEL")
        assert library.load(Path(opened.extract(inside, tmp_path))).deepnmf_interface() == library.INTERFACE


def test_a_wheel_with_machine_code_needs_a_compiler_that_works(tmp_path):
    built = build_native(tmp_path, DEEPNMF_NATIVE="1", CC="false")
    assert built.returncode and "that false fails (exit code 1" in built.stderr + built.stdout
    assert not list(tmp_path.iterdir())
