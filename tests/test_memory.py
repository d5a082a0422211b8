"""Peak memory does not grow with the length of a recording: measured as the operating system sees it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

ALLOWED_MIB = 70
"""How much the long recording may need above the short one; held whole, it would need 88.
It also holds what the allocator leaves between blocks: that stops growing after some minutes."""

SCRIPT = """
import os, resource, sys
import numpy as np
import soundfile
from deepnmf_cli.repair.examine import RepairOptions
from deepnmf_cli.repair.live import LiveRepairer, repaired_live
from deepnmf_cli.signal.activity import SpeechActivity
from deepnmf_cli.zoo import load_enhancer
from deepnmf_cli.signal.rewrite import rewrite

RATE_HZ, CHANNELS, SECONDS = 48000, 2, 240

def zeros(path, seconds):
    soundfile.write(path, np.zeros((100, CHANNELS)), RATE_HZ, "PCM_16")
    size = 2 * CHANNELS * RATE_HZ * seconds
    os.truncate(path, 44 + size)  # a hole, which takes no time to write
    with open(path, "r+b") as file:
        file.seek(40)
        file.write(size.to_bytes(4, "little"))

def peak_mib():
    if os.path.exists("/proc/self/status"):  # the peak of this program: ru_maxrss begins with that of its parent
        (line,) = (line for line in open("/proc/self/status") if line.startswith("VmHWM:"))
        return int(line.split()[1]) / 1024
    unit = 1 << 20 if sys.platform == "darwin" else 1 << 10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit

def held(blocks, rate_hz, channels):
    # What must be noticed: all blocks are held before one is given back.
    yield from list(blocks)

def more(blocks, rate_hz, channels):
    blocks = repaired_live(blocks, LiveRepairer(RepairOptions(), rate_hz, channels, 0.04))
    yield from enhancer.enhance_blocks(blocks, rate_hz, channels, separate=True, activity=SpeechActivity())

enhancer = load_enhancer(sys.argv[1], "cpu")
process = {"alone": enhancer.enhance_blocks, "with all that there is": more, "held": held}[sys.argv[2]]
peaks = []
for seconds in (10, SECONDS):
    zeros("in.wav", seconds)
    done = rewrite("in.wav", "speech.wav", process, "noise.wav")
    assert done.info.seconds == seconds and soundfile.info("noise.wav").frames == RATE_HZ * seconds
    peaks.append(peak_mib())
print(peaks[1] - peaks[0])
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no peak memory of a process in the standard library")
@pytest.mark.parametrize("way", ["alone", "with all that there is", "held"])
def test_peak_memory_does_not_grow_with_the_length_of_a_recording(tmp_path, tiny_model, way):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tiny_model), way],
        cwd=tmp_path, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (float(done.stdout) < ALLOWED_MIB) == (way != "held")  # which shows that growth is noticed
