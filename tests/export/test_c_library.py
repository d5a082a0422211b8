"""The library in C gives what `enhance` gives: at any rate, by any pieces, for all shapes of grids, without a fault."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from deepnmf_cli import zoo
from deepnmf_cli.enhancer import Enhancer
from deepnmf_cli.errors import EXIT_FAILED, EXIT_USAGE
from deepnmf_cli.export import c_library
from deepnmf_cli.networks import build
from deepnmf_cli.networks.backend import TorchBackend
from deepnmf_cli.networks.grid_settings import GridSettings
from deepnmf_cli.signal.stft import FrontEnd

ROOT = Path(__file__).parents[2]
COMPILERS = [name for name in ("gcc", "clang") if shutil.which(name)]
TOLERANCE = 1e-5

pytestmark = pytest.mark.skipif(not COMPILERS, reason="no C compiler is installed")

DRIVER = """
#include "deepnmf.h"
#include <stdio.h>
#include <stdlib.h>

/* rate, channels, attenuation in dB, mix, seed of the sizes of blocks (0: one block), 1 for interleaved samples; float32 in
 * and out */
int main(int count, char **words)
{
    int rate = atoi(words[1]), channels = atoi(words[2]), interleaved = atoi(words[6]);
    float attenuation = (float)atof(words[3]), mix = (float)atof(words[4]);
    unsigned seed = (unsigned)atoi(words[5]);
    size_t frames = 0, room = 1 << 16, done = 0, block;
    float *x = (float *)malloc(room * sizeof(float));
    deepnmf *d = deepnmf_create(rate, channels, attenuation, mix), *other = deepnmf_create(16000, 1, 0, 1);
    if (count != 7 || !d || !other) return deepnmf_destroy(d), deepnmf_destroy(other), free(x), 7;
    while (fread(x + frames * channels, sizeof(float), channels, stdin) == (size_t)channels)
        if ((++frames + 1) * channels > room) x = (float *)realloc(x, (room *= 2) * sizeof(float));
    for (; done < frames; done += block) {
        float noise[64] = {1};
        seed = seed ? seed * 1664525u + 1013904223u : 0;
        block = seed ? (seed >> 16) % 1000 : frames;
        block = block < frames - done ? block : frames - done;
        deepnmf_process(other, noise, noise, 64, 1, 1);
        if (interleaved)
            deepnmf_process(d, x + done * channels, x + done * channels, block, channels, 1);
        else
            deepnmf_process(d, x + done, x + done, block, 1, frames);
    }
    fwrite(x, sizeof(float), frames * channels, stdout);
    fprintf(stderr, "%d", deepnmf_latency(d));
    deepnmf_destroy(d);
    deepnmf_destroy(other);
    deepnmf_destroy(NULL);
    free(x);
    return 0;
}
"""


def compiled(folder, compiler=COMPILERS[0] if COMPILERS else "", *options):
    (folder / "driver.c").write_text(DRIVER)
    sources = ["driver.c", "deepnmf.c"]
    command = [compiler, "-Wall", "-Wextra", "-Werror", *options, *sources, "-lm", "-o", "driver"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    return folder / "driver"


def export_tiny(folder):
    network, file = zoo.load("tiny")
    c_library.write(network, file.front_end, "tiny", folder)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A program with the model tiny under AddressSanitizer and UBSan."""
    folder = tmp_path_factory.mktemp("tiny")
    export_tiny(folder)
    options = ["-std=c99", "-O1", "-DDEEPNMF_PLAIN", "-fsanitize=address,undefined", "-fno-sanitize-recover"]
    return compiled(folder, COMPILERS[0], *options)


VECTORS = {"AVX2": [], "SSE2": ["-DDEEPNMF_PLAIN"], "none": ["-DDEEPNMF_SCALAR"]}
"""What chooses the width of vectors on x86-64."""

POISON = "#include <sanitizer/asan_interface.h>\n"

RED_ZONE = """
    if (a->begin) __asan_poison_memory_region(a->begin + a->used, 64);
    a->used += 64;
"""
"""Follows an array in the one block of memory, so that AddressSanitizer sees what is read or written behind it."""


@pytest.fixture(scope="module", params=VECTORS)
def guarded(request, tmp_path_factory):
    """The model tiny under both sanitizers with vectors of each width, and red zones between its arrays."""
    processor = Path("/proc/cpuinfo")
    if request.param == "AVX2" and not (processor.exists() and " avx2 " in processor.read_text()):
        pytest.skip("this processor has no AVX2, or does not say so")
    folder = tmp_path_factory.mktemp("guarded")
    export_tiny(folder)
    source = (folder / "deepnmf.c").read_text()
    line = "    a->used = at + count * size;\n"
    assert source.count(line) == 1
    text = source.replace(line, line + RED_ZONE).replace("#include <math.h>\n", "#include <math.h>\n" + POISON, 1)
    (folder / "deepnmf.c").write_text(text)
    options = ["-std=c99", "-O0", *VECTORS[request.param], "-fsanitize=address,undefined", "-fno-sanitize-recover"]
    return compiled(folder, COMPILERS[0], *options)


def run(program, samples, rate_hz, attenuation_db=np.inf, mix=1.0, seed=0, interleaved=True):
    channels = len(samples)
    words = [rate_hz, channels, attenuation_db, mix, seed, int(interleaved)]
    latency = 2 * FrontEnd().pair(rate_hz).hop_samples
    padded = np.concatenate([samples, np.zeros((channels, latency))], 1).astype("<f4")
    given = (padded.T if interleaved else padded).tobytes()
    done = subprocess.run([program, *map(str, words)], input=given, capture_output=True)
    assert done.returncode == 0 and done.stderr == str(latency).encode(), done.stderr
    found = np.frombuffer(done.stdout, "<f4")
    found = found.reshape(-1, channels).T if interleaved else found.reshape(channels, -1)
    assert found.shape == padded.shape and not found[:, :latency].any()
    return found[:, latency:]


@pytest.fixture(scope="module")
def sound(voice, hiss):
    """sound(rate_hz, channels) -> (C, N): a voice in hiss, a gap of digital silence, an offset, channels that differ."""

    def make(rate_hz, channels):
        mono = voice(1.5, rate_hz) + hiss(1.5, rate_hz) + 0.01
        mono[rate_hz // 2 : rate_hz * 3 // 4] = 0
        return np.stack([(1 - 0.4 * c) * np.roll(mono, 20 * c) for c in range(channels)]).astype(np.float32)

    return make


@pytest.mark.parametrize(("rate_hz", "channels"), [
    (16000, 1), (16000, 2), (8000, 1), (48000, 2), (44100, 1), (11025, 3), (1000, 1), (17501, 2), (12007, 1),
])  # fmt: skip
def test_output_is_that_of_enhance(tiny, sound, rate_hz, channels):
    samples = sound(rate_hz, channels)
    expected = zoo.load_enhancer("tiny").enhance(samples, rate_hz)
    assert np.abs(expected - samples).max() > 0.01
    np.testing.assert_allclose(run(tiny, samples, rate_hz), expected, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("seed", range(1, 6))
@pytest.mark.parametrize("interleaved", [True, False])
def test_sizes_of_blocks_change_nothing(tiny, sound, seed, interleaved):
    samples = sound(16000, 2)
    whole = run(tiny, samples, 16000)
    np.testing.assert_array_equal(run(tiny, samples, 16000, seed=seed, interleaved=interleaved), whole)


def test_no_width_of_vectors_touches_what_is_not_its_own(guarded, sound):
    draw = np.random.default_rng(0)
    for rate_hz in (1000, 8000, 16000, 44100, int(draw.integers(1000, 20000))):
        samples, mix = sound(rate_hz, int(draw.integers(1, 4))), float(draw.choice([0.5, 1.0]))
        samples = samples[:, : int(draw.integers(rate_hz // 3, rate_hz * 2 // 3))]
        expected = zoo.load_enhancer("tiny").enhance(samples, rate_hz, 12.0, mix)
        whole = run(guarded, samples, rate_hz, 12.0, mix)
        np.testing.assert_allclose(whole, expected, rtol=0, atol=TOLERANCE)
        for interleaved in (True, False):
            pieces = run(guarded, samples, rate_hz, 12.0, mix, int(draw.integers(1, 2**31)), interleaved)
            np.testing.assert_array_equal(pieces, whole)


@pytest.mark.parametrize(("attenuation_db", "mix"), [(12.0, 1.0), (np.inf, 0.7), (6.0, 0.5), (0.0, 1.0), (np.inf, 0.0)])
def test_limits_are_those_of_enhance(tiny, sound, attenuation_db, mix):
    samples = sound(16000, 1)
    expected = zoo.load_enhancer("tiny").enhance(samples, 16000, attenuation_db, mix)
    np.testing.assert_allclose(run(tiny, samples, 16000, attenuation_db, mix), expected, rtol=0, atol=TOLERANCE)


def test_silence_clipping_and_what_is_no_number(tiny, sound):
    assert not run(tiny, np.zeros((2, 9000)), 16000).any()
    loud = np.clip(40 * sound(16000, 1), -1, 1)
    expected = zoo.load_enhancer("tiny").enhance(loud, 16000)
    np.testing.assert_allclose(run(tiny, loud, 16000), expected, rtol=0, atol=TOLERANCE)
    samples = sound(16000, 1)
    spoilt, zeroed = samples.copy(), samples.copy()
    places = [100, 4000, 9000]
    spoilt[0, places], zeroed[0, places] = (np.nan, np.inf, 1e30), 0
    np.testing.assert_array_equal(run(tiny, spoilt, 16000), run(tiny, zeroed, 16000))


@pytest.mark.parametrize("words", [
    "999 1 1 1", "768001 1 1 1", "16000 0 1 1", "16000 65 1 1", "16000 1 -1 1", "16000 1 nan 1", "16000 1 1 1.1",
    "16000 1 1 nan",
])  # fmt: skip
def test_impossible_recordings_are_refused(tiny, words):
    assert subprocess.run([tiny, *words.split(), "1", "1"], input=b"").returncode == 7


SHAPES = {
    "first": ({}, FrontEnd()),
    "tied, without phase": ({"phase": False, "tied": True, "local_fields": False}, FrontEnd()),
    "without spins of the frame": ({"frame_spins": 0}, FrontEnd()),
    "other sizes": ({"channels": 6, "context": 1, "bands_per_node": 4, "wide_bands": 8, "iterations": 1}, FrontEnd()),
    "three hops": ({"bins": 385}, FrontEnd(window_hops=3)),
}
SMALL = {"single_bands": 24, "wide_bands": 12, "bands_per_node": 3, "channels": 8, "iterations": 2, "frame_spins": 4}


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("compiler", COMPILERS)
def test_all_shapes_of_grids_and_all_compilers(tmp_path, sound, name, compiler):
    changed, front_end = SHAPES[name]
    torch.manual_seed(0)
    network = build("grid", GridSettings(**{"phase": True, "local_fields": True, **SMALL, **changed}))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    c_library.write(network, front_end, name, tmp_path)
    samples = sound(16000, 2)
    expected = Enhancer(TorchBackend(network, "cpu"), front_end).enhance(samples, 16000)
    program = compiled(tmp_path, compiler, *(["-O3"] if name == "first" else ["-O1", "-DDEEPNMF_PLAIN"]), "-std=c99")
    np.testing.assert_allclose(run(program, samples, 16000), expected, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("options", [["-O3"], ["-O1", "-DDEEPNMF_PLAIN"], ["-O1", "-DDEEPNMF_SCALAR"]])
def test_int8_is_the_network_of_the_weights_that_it_stands_for(tmp_path, sound, options):
    torch.manual_seed(0)
    network = build("grid", GridSettings(**{"phase": True, "local_fields": True, **SMALL}))
    with torch.no_grad():
        for key, value in network.unfolded.bank.named_parameters():
            if "weight" in key or "join" in key or key.startswith(("frame_s", "frame_r")):
                # Whole numbers times powers of two, of which the largest in each row is 127.
                numbers = torch.randint(-127, 128, value.shape)
                numbers[:, 0] = 127
                value.copy_(numbers / 2.0**9)
    c_library.write(network, FrontEnd(), "grid", tmp_path, "int8")
    assert "static const signed char time_weight[" in (tmp_path / c_library.MODEL).read_text()
    samples = sound(16000, 1)
    expected = Enhancer(TorchBackend(network, "cpu"), FrontEnd()).enhance(samples, 16000)
    program = compiled(tmp_path, COMPILERS[0], *options, "-std=gnu99")
    np.testing.assert_allclose(run(program, samples, 16000), expected, rtol=0, atol=TOLERANCE)


def test_the_source_without_vectors(tmp_path, sound):
    export_tiny(tmp_path)
    program = compiled(tmp_path, COMPILERS[0], "-std=c99", "-O1", "-DDEEPNMF_SCALAR")
    samples = sound(16000, 2)
    expected = zoo.load_enhancer("tiny").enhance(samples, 16000)
    np.testing.assert_allclose(run(program, samples, 16000), expected, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("compiler", [name for name in ("g++", "clang++") if shutil.which(name)])
def test_the_source_is_c_plus_plus_too(tmp_path, compiler):
    export_tiny(tmp_path)
    command = [compiler, "-x", "c++", "-Wall", "-Wextra", "-Werror", "-fsyntax-only", "deepnmf.c"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_example_filters_a_file(deepnmf, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert deepnmf("export", "tiny", "--format", "c", "-o", "denoise", "-q").code == 0
    source = ROOT / "docs/examples/c/filter.c"
    command = [
        COMPILERS[0],
        "-O2",
        "-DDEEPNMF_PLAIN",
        "-Wall",
        "-Wextra",
        "-Werror",
        "-Idenoise",
        source,
        "denoise/deepnmf.c",
        "-lm",
        "-o",
        "filter",
    ]
    assert subprocess.run(command).returncode == 0
    noisy = ROOT / "data/demo/noisy.wav"
    (tmp_path / "tagged.wav").write_bytes(noisy.read_bytes() + b"LIST\x08\0\0\0" + b"\x7f" * 8)
    assert subprocess.run(["./filter", "tagged.wav", "clean.wav"]).returncode == 0
    assert deepnmf("enhance", noisy, "-o", "expected.wav", "--model", "tiny").code == 0
    ours, theirs = (soundfile.read(name, dtype="int16")[0].astype(int) for name in ("clean.wav", "expected.wav"))
    assert ours.shape == theirs.shape and np.abs(ours - theirs).max() <= 1
    for names in (["none.wav", "x.wav"], ["filter", "x.wav"], []):
        assert subprocess.run(["./filter", *names], capture_output=True).returncode == 1


# The command


def test_the_command_writes_three_files(deepnmf, tmp_path):
    result = deepnmf("export", "tiny", "--format", "c", "-o", tmp_path / "new/denoise")
    assert result.code == 0 and "Wrote deepnmf.h, deepnmf.c, deepnmf_model.h to" in result.err
    assert sorted(path.name for path in (tmp_path / "new/denoise").iterdir()) == sorted(c_library.FILES)
    again = deepnmf("export", "tiny", "--format", "c", "-o", tmp_path / "new/denoise")
    assert again.code == EXIT_USAGE and "pass --overwrite" in again.err
    assert deepnmf("export", "tiny", "--format", "c", "-o", tmp_path / "new/denoise", "--overwrite").code == 0


def test_a_full_disk_leaves_no_part_of_a_library(deepnmf, tmp_path, monkeypatch):
    write = Path.write_text

    def full(path, text, *rest, **more):
        if len(text) > 100_000:  # the weights
            raise OSError(28, "No space left on device")
        return write(path, text, *rest, **more)

    monkeypatch.setattr(Path, "write_text", full)
    result = deepnmf("export", "tiny", "--format", "c", "-o", tmp_path / "c")
    assert result.code == EXIT_FAILED and list((tmp_path / "c").iterdir()) == []
    assert (
        result.err
        == f"Error: {tmp_path / 'c' / c_library.MODEL}: No space left on device. Free some space, then repeat.\n"
    )


def test_what_cannot_be_a_library_is_refused(deepnmf, tmp_path, tiny_model):
    for arguments, code, message in (
        (["tiny"], EXIT_USAGE, "--format c: found no -o"),
        (["tiny", "-o", "x", "--weights", "float16"], EXIT_USAGE, "found --weights float16; expected no option"),
        (["tiny", "-o", "x", "--streaming"], EXIT_USAGE, "--format c: found --streaming; expected"),
        (["tiny", "-o", "x", "--streaming", "--share-weights"], EXIT_USAGE, "found --streaming and --share-weights;"),
        (["tiny", "-o", __file__], EXIT_USAGE, "found a file; expected a folder"),
        ([tiny_model, "-o", "x"], EXIT_USAGE, "--format c: found the model dnn; expected a grid"),
        (["none", "-o", "x"], EXIT_FAILED, "found no model of that name"),
    ):
        result = deepnmf("export", *arguments, "--format", "c")
        assert result.code == code and message in result.err, result.err
    assert not Path("x").exists()
