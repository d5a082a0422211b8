"""The Dockerfile: what it copies is enough for the wheel, and passes a linter where there is one."""

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from zipfile import ZipFile

import pytest

ROOT = Path(__file__).parent.parent
DOCKERFILE = (ROOT / "Dockerfile").read_text("utf-8")
COPIES = [line.split()[1:-1] for line in DOCKERFILE.splitlines() if line.startswith("COPY ")]


def test_what_is_copied_makes_the_whole_wheel(tmp_path):
    for name in (name for names in COPIES for name in names):
        target = tmp_path / "source" / name
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, target)
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=tmp_path / "source", check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = set(ZipFile(wheel).namelist())
    sources = {f"deepnmf_cli/{path.relative_to(ROOT / 'deepnmf_cli')}" for path in (ROOT / "deepnmf_cli").rglob("*.py")}
    assert sources | {"deepnmf_cli/models/base/model.onnx", "deepnmf_cli/recipes/base.toml"} <= names


def test_nothing_that_is_copied_is_kept_from_docker():
    let_through = re.findall(r"^!(.+)$", (ROOT / ".dockerignore").read_text("utf-8"), re.MULTILINE)
    assert sorted(name for names in COPIES for name in names) == sorted(let_through)


def test_extras_exist_and_the_program_has_no_rights():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    (named,) = re.findall(r"\.whl\)\[([\w,]+)\]", DOCKERFILE)
    assert set(named.split(",")) <= extras.keys()
    stages = DOCKERFILE.split("\nFROM ")
    assert stages[-1].startswith("user AS cpu") and all(stage.rstrip().endswith("USER 1000") for stage in stages[-2:])


@pytest.mark.skipif(shutil.which("hadolint") is None, reason="needs hadolint")
def test_the_linter_finds_nothing():
    done = subprocess.run(["hadolint", str(ROOT / "Dockerfile")], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
