"""`enhance` is killed at its fault points and at random times: see tests/fuzz/kills.py."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs processes that fork")
def test_killed_enhancement_leaves_whole_files_and_comes_to_the_same_end():
    command = [sys.executable, "-m", "tests.fuzz.kills", "--command", "enhance", "--count", "24"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and "0 faults" in done.stdout, done.stdout + done.stderr
