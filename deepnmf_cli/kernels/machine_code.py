"""Compile the C++ files beside the modules to machine code on demand, if there is a compiler."""

import ctypes
import os
import shutil
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from deepnmf_cli.checkpoint import temporary_folder

FLAGS = ("-O3", "-fno-math-errno", "-fno-trapping-math", "-shared", "-fPIC")
"""Compiler flags. Without -ffast-math, so that NaN is kept and the trainer notices it."""

COMPILE_S = 60
"""Time limit in seconds for the compiler, which normally takes a second or two."""


def compile_library(source: Path, *definitions: str) -> ctypes.CDLL | None:
    """Return the library compiled from one file for this processor, or None if that fails. Nothing stays on disk."""
    compiler = shutil.which(os.environ.get("CXX") or "c++") or shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        return None
    with temporary_folder() as folder:
        library = folder / f"{source.stem}.so"
        for processor in (["-march=native"], []):  # not every compiler knows the processor that it runs on
            command = [compiler, *FLAGS, *processor, *definitions, str(source), "-o", str(library)]
            try:
                subprocess.run(command, check=True, capture_output=True, timeout=COMPILE_S)
                return ctypes.CDLL(str(library))
            except (OSError, subprocess.SubprocessError):
                continue
    return None


def for_each(work: Callable[[int], None], count: int) -> None:
    """Run `work(0)` .. `work(count - 1)` in as many threads as PyTorch uses."""
    threads = min(torch.get_num_threads(), count)
    if threads == 1:
        for index in range(count):
            work(index)
        return
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, range(count)))
