"""Exponential smoothing as a GPU runs it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from deepnmf_cli.kernels import recursion

pytest.importorskip("triton", reason="Triton comes with PyTorch for CUDA alone")

from deepnmf_cli.kernels import triton_recursion


def test_values_and_gradients_equal_the_definition_in_the_interpreter() -> None:
    forms = Path(__file__).with_name("test_forms.py")
    command = [sys.executable, "-m", "pytest", "-n", "0", "-p", "no:cacheprovider", "-k", "Triton", "-rs", str(forms)]
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    run = subprocess.run(command, env=environment, cwd=forms.parents[2], capture_output=True, text=True)
    assert run.returncode == 0 and "12 passed" in run.stdout and "skipped" not in run.stdout, run.stdout + run.stderr


def test_without_a_gpu_or_a_compiler_there_is_no_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*arguments: object, **options: object) -> None:
        raise RuntimeError("Failed to find C compiler")

    monkeypatch.setattr(triton_recursion, "relax", fails)
    assert recursion._triton.__wrapped__() is None
    assert recursion.gpu_kernel(torch.zeros(1)) is None
