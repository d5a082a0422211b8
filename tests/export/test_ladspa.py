"""The LADSPA plugin of the examples does in hosts what `enhance` does, and what LADSPA asks of plugins."""

import ctypes
import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import soundfile

from deepnmf_cli import zoo
from deepnmf_cli.export import c_library

ROOT = Path(__file__).parents[2]
COMPILER = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
TOLERANCE = 1e-5


def has_header():
    probe = [COMPILER, "-E", "-x", "c", "-"]
    return bool(COMPILER) and subprocess.run(probe, input=b"#include <ladspa.h>", capture_output=True).returncode == 0


pytestmark = pytest.mark.skipif(not has_header(), reason="ladspa.h is not installed (Debian: ladspa-sdk)")
needs_host = pytest.mark.skipif(
    not (shutil.which("applyplugin") and shutil.which("analyseplugin")), reason="ladspa-sdk is not installed"
)


@pytest.fixture(scope="module")
def plugin(tmp_path_factory):
    """The plugin with the model tiny."""
    folder = tmp_path_factory.mktemp("plugin")
    network, file = zoo.load("tiny")
    c_library.write(network, file.front_end, "tiny", folder)
    command = [COMPILER, "-std=c99", "-O1", "-DDEEPNMF_PLAIN", "-Wall", "-Wextra", "-Werror", "-fPIC", "-shared"]
    source = ROOT / "docs/examples/c/ladspa.c"
    command += ["-fvisibility=hidden", f"-I{folder}", source, folder / "deepnmf.c", "-lm", "-o", folder / "deepnmf.so"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    return folder / "deepnmf.so"


# Programs of the LADSPA SDK


@needs_host
def test_applyplugin_writes_what_enhance_writes(deepnmf, plugin, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    noisy = ROOT / "data/demo/noisy.wav"
    command = ["applyplugin", "-s", "0.032", noisy, "late.wav", plugin, "deepnmf"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert deepnmf("enhance", noisy, "-o", "expected.wav", "--model", "tiny").code == 0
    late, expected = (soundfile.read(name, dtype="int16")[0].astype(int) for name in ("late.wav", "expected.wav"))
    latency = 512
    assert len(late) == len(expected) + latency and abs(expected).max() > 3000 and not late[:latency].any()
    assert abs(late[latency:] - expected).max() <= 1  # applyplugin rounds towards zero or down


@needs_host
def test_analyseplugin_finds_what_hosts_look_for(plugin):
    environment = os.environ | {"LADSPA_PATH": str(plugin.parent)}
    done = subprocess.run(["analyseplugin", "deepnmf.so"], capture_output=True, text=True, env=environment)
    assert done.returncode == 0
    for line in (
        'Plugin Label: "deepnmf"',
        '"Input" input, audio',
        '"Output" output, audio',
        '"latency" output, control',
    ):
        assert line in done.stdout
    assert "In-Place Broken" not in done.stdout and "Environment: Normal or Hard Real-Time" in done.stdout
    assert 1 <= int(re.search(r"Unique ID: (\d+)", done.stdout)[1]) <= 1000  # those that are for development


# A host of our own

Floats = ctypes.POINTER(ctypes.c_float)


class Descriptor(ctypes.Structure):
    """LADSPA_Descriptor."""

    _fields_ = [
        ("unique_id", ctypes.c_ulong), ("label", ctypes.c_char_p), ("properties", ctypes.c_int),
        ("name", ctypes.c_char_p), ("maker", ctypes.c_char_p), ("copyright", ctypes.c_char_p),
        ("ports", ctypes.c_ulong), ("kinds", ctypes.POINTER(ctypes.c_int)), ("names", ctypes.POINTER(ctypes.c_char_p)),
        ("hints", ctypes.c_void_p), ("data", ctypes.c_void_p),
        ("instantiate", ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_ulong)),
        ("connect_port", ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_ulong, Floats)),
        ("activate", ctypes.CFUNCTYPE(None, ctypes.c_void_p)),
        ("run", ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_ulong)),
        ("run_adding", ctypes.c_void_p), ("set_run_adding_gain", ctypes.c_void_p), ("deactivate", ctypes.c_void_p),
        ("cleanup", ctypes.CFUNCTYPE(None, ctypes.c_void_p)),
    ]  # fmt: skip


@pytest.fixture(scope="module")
def descriptor(plugin):
    function = ctypes.CDLL(str(plugin)).ladspa_descriptor
    function.argtypes, function.restype = [ctypes.c_ulong], ctypes.POINTER(Descriptor)
    assert not function(1)
    return function(0).contents


def run(descriptor, handle, samples, sizes, in_place):
    """What comes out of blocks of these sizes, again and again, and the last latency."""
    found, latency, at, number = [], ctypes.c_float(-1), 0, 0
    descriptor.activate(handle)
    while at < len(samples):
        block = np.array(samples[at : at + sizes[number % len(sizes)]], np.float32)
        output = block if in_place else np.full_like(block, np.nan)
        descriptor.connect_port(handle, 0, block.ctypes.data_as(Floats))
        descriptor.connect_port(handle, 1, output.ctypes.data_as(Floats))
        descriptor.connect_port(handle, 2, ctypes.byref(latency))
        descriptor.run(handle, len(block))
        found.append(output)
        at, number = at + len(block), number + 1
    return np.concatenate(found), int(latency.value)


@pytest.mark.parametrize("rate_hz", [16000, 44100, 48000])
def test_blocks_buffers_and_activation_change_nothing(descriptor, voice, hiss, rate_hz):
    samples = (voice(0.8, rate_hz) + hiss(0.8, rate_hz)).astype(np.float32)
    expected = zoo.load_enhancer("tiny").enhance(samples[None], rate_hz)[0]
    padded = np.concatenate([samples, np.zeros(rate_hz // 10, np.float32)])
    handle = descriptor.instantiate(None, rate_hz)
    whole, latency = run(descriptor, handle, padded, [len(padded)], in_place=False)
    assert latency / rate_hz == pytest.approx(0.032, abs=1e-4) and not whole[:latency].any()
    np.testing.assert_allclose(whole[latency:][: len(samples)], expected, rtol=0, atol=TOLERANCE)
    for sizes in ([64], [1, 0, 1000, 3, 257]):
        for in_place in (False, True):  # activated anew each time
            np.testing.assert_array_equal(run(descriptor, handle, padded, sizes, in_place)[0], whole)
    descriptor.cleanup(handle)


@pytest.mark.parametrize("rate_hz", [0, 999, 768001, 2**32 + 16000])
def test_rates_that_the_library_does_not_take_are_refused(descriptor, rate_hz):
    assert descriptor.instantiate(None, rate_hz) is None


@pytest.mark.skipif(not shutil.which("nm"), reason="nm is not installed")
def test_it_needs_nothing_that_waits(plugin):
    done = subprocess.run(["nm", "-D", "-P", plugin], capture_output=True, text=True, check=True)
    kinds = dict(line.split()[:2] for line in done.stdout.splitlines())
    # Distributions that harden what they compile have functions that check sizes, such as __memcpy_chk.
    taken = {re.sub(r"^__(\w+)_chk$", r"\1", name.partition("@")[0]) for name, kind in kinds.items() if kind == "U"}
    numbers = {"cos", "sin", "sincos", "sqrtf", "powf", "rint"}
    assert taken - numbers <= {"calloc", "free", "memcpy", "memmove", "memset", "__stack_chk_fail"}
    assert [name for name, kind in kinds.items() if kind == "T"] == ["ladspa_descriptor"]
