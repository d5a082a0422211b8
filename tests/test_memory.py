"""Peak memory does not grow with the length of a recording: measured as the operating system sees it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

ALLOWED_MIB = 50
"""How much the long recording may need above the short one; held whole, in the smallest form, it would need 132."""

SCRIPT = """
import os, resource, sys
import numpy as np
import soundfile
from deepnmf_cli.zoo import load_enhancer
from deepnmf_cli.signal.rewrite import rewrite

RATE_HZ, CHANNELS, SECONDS = 48000, 2, 360

def zeros(path, seconds):
    soundfile.write(path, np.zeros((100, CHANNELS)), RATE_HZ, "PCM_16")
    size = 2 * CHANNELS * RATE_HZ * seconds
    os.truncate(path, 44 + size)  # a hole, which takes no time to write
    with open(path, "r+b") as file:
        file.seek(40)
        file.write(size.to_bytes(4, "little"))

def peak_mib():
    unit = 1 << 20 if sys.platform == "darwin" else 1 << 10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit

enhancer = load_enhancer(sys.argv[1], "cpu")
peaks = []
for seconds in (10, SECONDS):
    zeros("in.wav", seconds)
    done = rewrite("in.wav", "speech.wav", enhancer.enhance_blocks, "noise.wav")
    assert done.info.seconds == seconds and soundfile.info("noise.wav").frames == RATE_HZ * seconds
    peaks.append(peak_mib())
print(peaks[1] - peaks[0])
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no peak memory of a process in the standard library")
def test_peak_memory_does_not_grow_with_the_length_of_a_recording(tmp_path, tiny_model):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tiny_model)],
        cwd=tmp_path, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < ALLOWED_MIB
