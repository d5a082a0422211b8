"""--backend native gives what ONNX Runtime gives; it is built when asked for, and what stands in its way is said."""

import dataclasses
import os
import pickle
import re
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from deepnmf_cli import checkpoint, zoo
from deepnmf_cli.commands.group import temporary_caches
from deepnmf_cli.errors import EXIT_FAILED, EXIT_USAGE, DeepnmfError, ModelError, NativeError, UsageError
from deepnmf_cli.inspector.recording import hear
from deepnmf_cli.native import library, model
from deepnmf_cli.native.backend import NativeBackend
from deepnmf_cli.pace import Pace

TOLERANCE = 1e-5

DEMO = Path(__file__).parents[2] / "data/demo/noisy.wav"

REAL_CACHE_FOLDER = library.cache_folder  # which no test sees, see conftest.py

needs_compiler = pytest.mark.skipif(not any(map(shutil.which, library.COMPILERS)), reason="no C compiler is installed")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The folder of a user's caches, with a library."""
    folder = tmp_path_factory.mktemp("caches")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(library, "cache_folder", lambda: folder / "deepnmf")
        library.build()
    return folder


@pytest.fixture
def cache(made, tmp_path, monkeypatch):
    """A copy of it, which is that of this user."""
    shutil.copytree(made, tmp_path / "caches")
    monkeypatch.setattr(library, "cache_folder", lambda: tmp_path / "caches/deepnmf")
    return tmp_path / "caches/deepnmf"


@pytest.fixture
def empty(tmp_path, monkeypatch):
    monkeypatch.setattr(library, "cache_folder", lambda: tmp_path / "caches/deepnmf")
    return tmp_path / "caches/deepnmf"


def replace(file, content):
    """Another file of that name: what is loaded of the first one must stay as it is."""
    file.unlink()
    file.write_bytes(content)


def sound(voice, hiss, rate_hz, channels, seconds=1.2):
    mono = voice(seconds, rate_hz) + hiss(seconds, rate_hz) + 0.01
    mono[rate_hz // 2 : rate_hz * 3 // 4] = 0
    return np.stack([(1 - 0.4 * c) * np.roll(mono, 20 * c) for c in range(channels)]).astype(np.float32)


@needs_compiler
@pytest.mark.parametrize("name, rate_hz, channels, limits", [
    ("tiny", 16000, 1, (None, 1.0)), ("tiny", 8000, 2, (None, 1.0)), ("tiny", 44100, 1, (12.0, 0.7)),
    ("base", 16000, 2, (None, 1.0)), ("base", 48000, 1, (6.0, 1.0)), ("large", 8000, 1, (None, 0.5)),
])  # fmt: skip
def test_results_are_those_of_onnx_runtime(cache, voice, hiss, name, rate_hz, channels, limits):
    samples = sound(voice, hiss, rate_hz, channels)
    expected = zoo.load_enhancer(name, backend="onnx").enhance(samples, rate_hz, *limits)
    enhancer = zoo.load_enhancer(name, backend="native")
    found = enhancer.enhance(samples, rate_hz, *limits)
    assert found.shape == samples.shape and np.abs(expected - samples).max() > 0.01
    np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE)
    stream, pieces, at = enhancer.stream(rate_hz, channels, *limits), [], 0
    for size in (0, 1, 255, 257, 5000, 3):
        pieces.append(stream.feed(samples[:, at : at + size]))
        at += size
    np.testing.assert_array_equal(np.concatenate([*pieces, stream.flush(samples[:, at:])], 1), found)
    np.testing.assert_array_equal(np.concatenate([stream.feed(samples), stream.flush()], 1), found)  # begun anew


@needs_compiler
def test_separate_channels_threads_and_pickles(cache, voice, hiss):
    samples = sound(voice, hiss, 16000, 2)
    with zoo.load_enhancer("tiny", backend="native") as enhancer:
        apart = enhancer.enhance(samples, 16000, separate=True)
        for c in range(2):
            np.testing.assert_array_equal(apart[c : c + 1], enhancer.enhance(samples[c : c + 1], 16000))
        copied, results = pickle.loads(pickle.dumps(enhancer)), {}
        threads = [
            threading.Thread(target=lambda k=k: results.update({k: copied.enhance(samples, 16000)})) for k in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for found in results.values():
            np.testing.assert_array_equal(found, enhancer.enhance(samples, 16000))
        assert len(results) == 4 and repr(enhancer) == "Enhancer('tiny', native code, 1 thread)"


@needs_compiler
@pytest.mark.parametrize("name", ["tiny", "base"])
def test_the_network_alone_gives_the_masks(cache, voice, hiss, name):
    samples = sound(voice, hiss, 16000, 1)
    ours, theirs = (hear(zoo.load_enhancer(name, backend=b), samples, 16000) for b in ("native", "onnx"))
    np.testing.assert_allclose(ours.mask, theirs.mask, rtol=0, atol=TOLERANCE)
    np.testing.assert_allclose(ours.speech, theirs.speech, rtol=0, atol=TOLERANCE)


@needs_compiler
def test_a_tied_grid_without_export_runs_too(cache, tmp_path, voice, hiss):
    from deepnmf_cli import model_file
    from deepnmf_cli.networks import build
    from deepnmf_cli.networks.grid_settings import GridSettings
    from deepnmf_cli.signal.stft import FrontEnd

    torch.manual_seed(0)
    network = build("grid", GridSettings(channels=6, tied=True, iterations=2))
    model_file.describe(tmp_path / "grid.safetensors", network, FrontEnd(), {}).write()
    samples = sound(voice, hiss, 16000, 1)
    found = zoo.load_enhancer(tmp_path / "grid.safetensors")
    assert isinstance(found.backend, NativeBackend)
    expected = zoo.load_enhancer(tmp_path / "grid.safetensors", backend="torch").enhance(samples, 16000)
    np.testing.assert_allclose(found.enhance(samples, 16000), expected, rtol=0, atol=TOLERANCE)


@needs_compiler
@pytest.mark.parametrize("depth", [1, 3])
def test_any_depth_is_that_of_torch(cache, voice, hiss, depth):
    noisy, rate_hz = sound(voice, hiss, 16000, 1), 16000
    ours, theirs = (zoo.load_enhancer("tiny", "cpu", backend, depth=depth) for backend in ("native", "torch"))
    expected = theirs.enhance(noisy, rate_hz)
    np.testing.assert_allclose(ours.enhance(noisy, rate_hz), expected, atol=TOLERANCE)
    np.testing.assert_array_equal(
        pickle.loads(pickle.dumps(ours)).enhance(noisy, rate_hz), ours.enhance(noisy, rate_hz)
    )
    whole = zoo.load_enhancer("tiny", backend="native").enhance(noisy, rate_hz)
    assert abs(whole - expected).max() > 1e-3


@needs_compiler
def test_depths_that_there_are_not_and_that_change(cache):
    with pytest.raises(UsageError, match="--depth: found 5; expected 1 to 4, the layers of this model"):
        zoo.load_enhancer("tiny", backend="native", depth=5)
    with pytest.raises(UsageError, match=r"--keep-up: found machine code; expected a network that torch runs"):
        Pace.of(zoo.load_enhancer("tiny", backend="native"))


# What auto chooses


@needs_compiler
def test_auto_prefers_it_and_falls_back_without_a_word(deepnmf, cache, tiny_model, voice, tmp_path, caplog):
    def backends():
        return [repr(zoo.load_enhancer(name, device="cpu").backend) for name in ("tiny", "deep-nmf", tiny_model)]

    assert backends() == ["native code, 1 thread", "ONNX Runtime, 1 thread", "torch on cpu"]
    assert repr(zoo.load_enhancer("tiny", depth=2).backend) == "native code, 1 thread"
    assert repr(zoo.load_enhancer("deep-nmf", depth=2).backend) == "torch on cpu"
    (file,) = cache.iterdir()
    content = file.read_bytes()
    for spoilt in (content[:20000], content[:-1], b"", b"x" + content[1:]):
        replace(file, spoilt)
        assert backends()[0] == "ONNX Runtime, 1 thread"
    file.unlink()
    assert backends()[0] == "ONNX Runtime, 1 thread" and not list(cache.iterdir())  # nothing is compiled unasked
    assert not caplog.records


@needs_compiler
@pytest.mark.parametrize("change", ["format", "setting", "weight"])
def test_models_of_newer_versions_are_refused(cache, tmp_path, change):
    """What this version does not know may decide what comes out."""
    _, file = zoo.load("tiny")
    meta = {"model": "grid", "network": file.network_table(), "front_end": dataclasses.asdict(file.front_end)}
    weights = dict(file.weights)
    if change == "setting":
        meta["network"]["newer"] = 3
    if change == "weight":
        weights["newer_0"] = torch.zeros(3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "FORMAT", 99 if change == "format" else checkpoint.FORMAT)
        checkpoint.save(tmp_path / "newer.safetensors", weights, meta)
    with pytest.raises(ModelError, match="newer|format 99"):
        zoo.load_enhancer(tmp_path / "newer.safetensors", backend="native")
    with pytest.raises(DeepnmfError, match="newer|format 99"):
        zoo.load_enhancer(tmp_path / "newer.safetensors", device="cpu")


@needs_compiler
@pytest.mark.parametrize("rate_hz", [16000.0, 11025.5])
def test_rates_may_be_floats(cache, voice, hiss, rate_hz):
    """As sounddevice gives them; between whole ones the library does not go the whole way."""
    samples = sound(voice, hiss, 16000, 1)
    native, onnx = (zoo.load_enhancer("tiny", backend=name).enhance(samples, rate_hz) for name in ("native", "onnx"))
    np.testing.assert_allclose(native, onnx, atol=TOLERANCE)


@needs_compiler
def test_a_stream_of_the_whole_way_cannot_change_its_backend(cache):
    enhancer = zoo.load_enhancer("tiny", backend="native")
    with pytest.raises(UsageError, match="a stream of native code"):
        enhancer.stream(16000, 1).run_by(enhancer.backend.at_depth(2))


@needs_compiler
def test_costs_are_those_of_the_layers_that_run(cache):
    found = [zoo.load_described("base", backend=name, depth=1)[1].macs_per_s for name in ("native", "torch")]
    assert found[0] == found[1] < zoo.info("base").macs_per_s / 2


@needs_compiler
def test_a_library_on_a_file_system_without_execution_is_no_lack_of_memory(deepnmf, cache, monkeypatch):
    def refused(path):
        raise OSError(f"{path}: failed to map segment from shared object")

    monkeypatch.setattr(library.ctypes, "CDLL", refused)
    result = deepnmf("enhance", DEMO, "-o", cache.parent / "x.wav", "--backend", "native")
    assert result.code == EXIT_FAILED and "memory ran out" not in result.err
    assert "a library that this machine cannot load" in result.err and "(noexec)" in result.err


@needs_compiler
def test_what_cannot_be_computed_is_an_error_when_asked_for(cache, tiny_model, monkeypatch):
    for name, message in (
        (tiny_model, "found what machine code cannot compute (the network dnn); expected a grid"),
        ("deep-nmf", "the network deep-nmf"),
        (zoo.find("tiny").with_suffix(".onnx"), "found no .safetensors file, or a damaged or truncated one"),
    ):
        with pytest.raises(ModelError, match=re.escape(message)):
            zoo.load_enhancer(name, backend="native")
    monkeypatch.setattr(library, "INTERFACE", 99)
    with pytest.raises(
        NativeError, match=r"found a library with interface 1; expected interface 99. Run `deepnmf build-native`"
    ):
        zoo.load_enhancer("tiny", backend="native")
    (file,) = cache.iterdir()
    replace(file, file.read_bytes()[:-200])
    with pytest.raises(NativeError, match="found a damaged or truncated library"):
        zoo.load_enhancer("tiny", backend="native")


@needs_compiler
def test_a_library_that_cannot_be_loaded(cache):
    import hashlib

    (file,) = cache.iterdir()
    other = b"\x7fELF of another machine"
    replace(file, other + library.MARK + hashlib.sha256(other).hexdigest().encode())
    with pytest.raises(NativeError, match="found a library that this machine cannot load"):
        zoo.load_enhancer("tiny", backend="native")
    assert repr(zoo.load_enhancer("tiny").backend) == "ONNX Runtime, 1 thread"


@needs_compiler
@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="files have no owner here")
def test_a_library_of_another_user_is_taken_from_the_package_alone(cache, monkeypatch, tmp_path):
    (file,) = cache.iterdir()
    if os.geteuid():
        monkeypatch.setattr(os, "geteuid", lambda own=os.geteuid(): own + 1)
    else:
        os.chown(file, 4242, -1)
    with pytest.raises(NativeError, match="found a library of another user"):
        library.load(file)
    monkeypatch.setattr(library, "__file__", str(file.with_name("library.py")))
    assert library.load(file).deepnmf_interface() == library.INTERFACE


def test_without_a_library(deepnmf, empty, tmp_path):
    result = deepnmf("enhance", DEMO, "-o", tmp_path / "x.wav", "--backend", "native")
    assert result.code == EXIT_FAILED and "found no library of this version" in result.err
    assert "Run `deepnmf build-native`" in result.err and not (tmp_path / "x.wav").exists() and not empty.exists()
    given = "--backend", "native", "--device", "cuda", "--model", "tiny"
    result = deepnmf("enhance", DEMO, "-o", tmp_path / "x.wav", *given)
    assert result.code == EXIT_USAGE and "--device cuda: found --backend native" in result.err


# The command


@needs_compiler
def test_the_command_builds_and_evaluate_finds_it(deepnmf, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(library, "cache_folder", REAL_CACHE_FOLDER)
    result = deepnmf("build-native")
    file = tmp_path / ".cache/deepnmf" / library.file_name()
    assert result.code == 0 and f"Wrote {file}" in result.err and file.is_file()
    assert [path.name for path in file.parent.iterdir()] == [file.name]
    assert library.find() == file
    with temporary_caches():  # of commands that leave no caches
        assert library.find().resolve() == file
    assert file.is_file()


def test_no_compiler(deepnmf, empty, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    result = deepnmf("build-native")
    assert (
        result.code == EXIT_FAILED and "found no C compiler; expected one of cc, gcc, clang. Install one" in result.err
    )
    monkeypatch.setenv("CC", "quick-c -O")
    result = deepnmf("build-native")
    assert result.code == EXIT_FAILED and "found no program 'quick-c', which CC names" in result.err
    assert not empty.exists()


@pytest.mark.skipif(shutil.which("sh") is None, reason="needs a shell")
def test_a_compiler_that_fails(deepnmf, empty, monkeypatch, tmp_path):
    broken = tmp_path / "broken"
    broken.write_text("#!/usr/bin/env sh\necho 'deepnmf.c:1: all is wrong' >&2\nexit 4\n")
    broken.chmod(0o755)
    monkeypatch.setenv("CC", str(broken))
    result = deepnmf("build-native")
    assert result.code == EXIT_FAILED and "fails (exit code 4: deepnmf.c:1: all is wrong)" in result.err
    assert not empty.exists()


@needs_compiler
def test_a_cache_that_cannot_be_written(deepnmf, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(library, "cache_folder", lambda: tmp_path / "file/deepnmf")
    monkeypatch.setattr(library, "_compile", lambda command: shutil.copy(__file__, command[command.index("-o") + 1]))
    monkeypatch.setattr(library, "load", lambda path: None)
    result = deepnmf("build-native")
    assert result.code == EXIT_FAILED and "found no way to write the library (Not a directory)" in result.err
    assert "Name another by XDG_CACHE_HOME." in result.err and library.find() is None


# What the two languages share


def test_the_structure_is_that_of_the_source():
    source = (library.SOURCE / "deepnmf.c").read_text()
    body = re.sub(r"/\*.*?\*/", "", re.search(r"typedef struct \{([^}]*)\} deepnmf_model;", source)[1], flags=re.DOTALL)
    kinds = {"int": model.SIZES, "double": model.CONSTANTS, "const": model.ARRAYS, "matrix": model.MATRICES}
    found = {kind: [] for kind in kinds}
    for declaration in filter(str.strip, body.split(";")):
        kind, rest = declaration.split(maxsplit=1)
        found[kind] += re.sub(r"\bint\b|\bfloat\b|\*|\s", "", rest).split(",")
    assert {kind: tuple(names) for kind, names in found.items()} == kinds
    assert f"INTERFACE = {library.INTERFACE} " in source and f"BLOCK = {model.BLOCK}," in source


def test_weights_that_do_not_fit_are_refused():
    network, file = zoo.load("tiny")
    weights = {key: tensor.numpy() for key, tensor in network.weights().items()}
    settings = file.network_table()
    model.pack("grid", settings, weights, file.front_end)
    for changed in (
        {"channels": 14}, {"bins": 257}, {"iterations": 5}, {"frame_spins": 8}, {"phase": False, "single_bands": 47},
        {"messages": "geometric"}, {"wide_bands": 10**9}, {"context": "3"}, {"bands_per_node": 0},
    ):  # fmt: skip
        with pytest.raises(ValueError):
            model.pack("grid", settings | changed, weights, file.front_end)
    for key, weight in weights.items():
        for spoilt in (weight[..., :-1], weight * np.nan):
            with pytest.raises(ValueError):
                model.pack("grid", settings, weights | {key: spoilt}, file.front_end)
