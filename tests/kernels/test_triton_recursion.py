"""Exponential smoothing as a GPU runs it, here in Triton's interpreter, against the loop in PyTorch."""

import json
import os
import subprocess
import sys

import pytest
import torch

from deepnmf_cli.kernels import recursion

pytest.importorskip("triton", reason="Triton comes with PyTorch for CUDA alone")

from deepnmf_cli.kernels import triton_recursion

COMPARISON = """
import json, torch
from deepnmf_cli.kernels.triton_recursion import relax as relax_kernel
from deepnmf_cli.kernels.recursion import relax

errors = {}
for shape in ((1, 1), (7, 3, 50), (5, 2, 4, 40)):
    for reverse in (False, True):
        for spins in (False, True):
            torch.manual_seed(0)
            x, y = (2 * torch.randn(shape) for _ in range(2))
            x, y = (x if spins else x.tanh()).requires_grad_(), (y if spins else y.sigmoid()).requires_grad_()
            start, arriving = torch.rand(shape[1:], requires_grad=True), torch.randn(shape)
            loop = relax(x.tanh(), y.sigmoid(), start, reverse) if spins else relax(x, y, start, reverse)
            results = [
                (path, *torch.autograd.grad(path, (x, y, start), arriving))
                for path in (relax_kernel(x, y, start, reverse, spins), loop)
            ]
            case = f"{shape}, {reverse=}, {spins=}"
            errors[case] = [float((a - b).abs().max() / b.abs().max()) for a, b in zip(*results)]
print(json.dumps(errors))
"""


def test_values_and_gradients_equal_those_of_the_loop() -> None:
    interpreted = os.environ | {"TRITON_INTERPRET": "1"}
    run = subprocess.run([sys.executable, "-c", COMPARISON], env=interpreted, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    errors = json.loads(run.stdout)
    assert len(errors) == 12
    for case, values in errors.items():
        assert max(values) < 1e-4, (case, values)


def test_without_a_gpu_or_a_compiler_there_is_no_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*arguments: object, **options: object) -> None:
        raise RuntimeError("Failed to find C compiler")

    monkeypatch.setattr(triton_recursion, "relax", fails)
    assert recursion._triton.__wrapped__() is None
    assert recursion.gpu_kernel(torch.zeros(1)) is None
