"""`deepnmf_cli.enhance`: any kind of array in, the same kind out; and enhancers in threads and processes."""

import doctest
import importlib
import multiprocessing
import os
import pickle
import shutil
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

import deepnmf_cli
from deepnmf_cli import api, enhance, load_enhancer, zoo
from deepnmf_cli.errors import AudioError, ModelError, UsageError
from deepnmf_cli.networks import NETWORKS, build
from deepnmf_cli.networks.backend import TorchBackend
from deepnmf_cli.recipe import read_recipe

DOCUMENTED = ["api", "enhancer", "signal.activity", "streaming", "treatment", "zoo"]


@pytest.fixture(scope="module")
def tiny():
    return load_enhancer("tiny", "cpu")


@pytest.fixture(scope="module")
def noisy(voice, hiss):
    """Two unlike channels (2, 9000)."""
    return np.stack([voice(0.6), 0.3 * voice(0.6)[::-1]])[:, :9000] + np.stack(
        [hiss(0.6)[:9000], hiss(0.6, seed=1)[:9000]]
    )


@pytest.fixture(scope="module")
def expected(tiny, noisy):
    return tiny.enhance(noisy, 16000)


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", ">f4"])
def test_floats_come_back_as_they_went_in(tiny, noisy, expected, dtype):
    given = noisy.astype(dtype)
    kept = given.copy()
    speech = enhance(given, 16000, tiny)
    assert speech.dtype == given.dtype and speech.shape == given.shape and np.array_equal(given, kept)
    np.testing.assert_allclose(speech.astype("f4"), expected, atol=2e-3 if dtype == "float16" else 1e-7)


@pytest.mark.parametrize(
    ("dtype", "bits", "silence"),
    [("int16", 16, 0), ("int32", 32, 0), ("uint8", 8, 128), ("int8", 8, 0), (">i2", 16, 0)],
)
def test_integers_are_fractions_of_full_scale(tiny, noisy, dtype, bits, silence):
    scale = 2.0 ** (bits - 1)
    given = (np.rint(noisy * scale) + silence).astype(dtype)
    speech = enhance(given, 16000, tiny)
    assert speech.dtype == given.dtype and speech.shape == given.shape
    exact = tiny.enhance((given.astype(float) - silence) / scale, 16000).astype(float) * scale + silence
    assert np.abs(speech - exact).max() <= 0.5 + (bits == 32) * scale * 1e-7
    assert np.abs(speech.astype(float) - given).max() > 0.01 * scale


def test_integers_are_clipped_to_full_scale(tiny):
    loud = np.where(np.arange(8000) // 40 % 2, -32768, 32767).astype(np.int16)
    speech = enhance(loud, 16000, tiny, mix=0.0)
    assert np.array_equal(speech, loud)


def test_a_channel_alone_stays_alone(tiny, noisy):
    speech = enhance(noisy[0], 16000, tiny)
    assert speech.shape == (9000,)
    assert np.array_equal(speech, tiny.enhance(noisy[:1], 16000)[0])
    assert enhance(noisy[0].tolist(), 16000, tiny).tolist() == pytest.approx(speech.tolist())
    assert enhance(np.empty(0, np.float32), 16000, tiny).shape == (0,)


def test_both_layouts_are_told_apart(tiny, noisy, expected):
    assert np.array_equal(enhance(noisy, 16000, tiny), expected)
    columns = enhance(np.asfortranarray(noisy.T), 16000, tiny)
    assert np.array_equal(columns, expected.T) and columns.flags.c_contiguous
    assert enhance(noisy[:, :65], 16000, tiny).shape == (2, 65)
    assert enhance(np.zeros((1, 70)), 16000, tiny).shape == (1, 70)


@pytest.mark.parametrize("shape", [(2, 64), (64, 2), (9, 16000), (16000, 9), (300, 200), (0, 0), (2, 0)])
def test_a_layout_that_is_not_plain_must_be_said(tiny, shape):
    with pytest.raises(AudioError, match=r"samples: found shape .* Pass channels_first=True for \(channels, n\)"):
        enhance(np.zeros(shape, np.float32), 16000, tiny)


def test_a_layout_that_is_said_is_taken(tiny, noisy):
    short = noisy[:, :50]
    assert np.array_equal(enhance(short, 16000, tiny, channels_first=True), tiny.enhance(short, 16000))
    assert np.array_equal(enhance(short.T, 16000, tiny, channels_first=False), tiny.enhance(short, 16000).T)
    assert enhance(np.zeros((16, 100)), 16000, tiny, channels_first=True).shape == (16, 100)
    with pytest.raises(AudioError, match="9000 channels"):
        enhance(noisy, 16000, tiny, channels_first=False)


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        (np.zeros(9, np.int64), "type int64; expected floats, or integers of type int8, uint8, int16, int32"),
        ([1, 2, 3], "type int64"), (np.zeros(9, bool), "type bool"), (np.zeros(9, complex), "type complex128"),
        (["a"], "type <U1"), (None, "type object"), (np.zeros((1, 1, 9)), r"shape \(1, 1, 9\).*one recording at a time"),
        (np.array(0.5), r"shape \(\)"), (torch.zeros(9, dtype=torch.int64), "type int64"),
        (np.full(100, np.nan), "not finite"), (np.full(100, 1e300), "too large|not finite"),
    ],
)  # fmt: skip
def test_what_is_no_recording_is_refused(tiny, samples, message):
    with pytest.raises(AudioError, match=f"samples: found .*({message})"):
        enhance(samples, 16000, tiny)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.int16])
@pytest.mark.parametrize("shape", ["(n,)", "(channels, n)", "(n, channels)"])
def test_tensors_come_back_as_tensors(tiny, noisy, dtype, shape):
    array = {"(n,)": noisy[0], "(channels, n)": noisy, "(n, channels)": noisy.T}[shape]
    scale = 2.0**15 if dtype == torch.int16 else 1
    tensor = torch.from_numpy(array * scale)
    tensor = (tensor.round() if dtype == torch.int16 else tensor).to(dtype)
    speech = enhance(tensor, 16000, tiny)
    assert isinstance(speech, torch.Tensor)
    assert (speech.dtype, speech.device, speech.shape) == (dtype, tensor.device, tensor.shape)
    heard = (tensor.double() / scale).float().numpy()
    right = tiny.enhance(heard.T if shape == "(n, channels)" else np.atleast_2d(heard), 16000)
    right = torch.from_numpy(right.T.copy() if shape == "(n, channels)" else right).reshape(speech.shape)
    rtol, atol = {torch.int16: (0, 0.5001 / scale), torch.bfloat16: (2.0**-8, 0)}.get(dtype, (0, 0))  # one rounding
    torch.testing.assert_close(speech.float() / scale, right, rtol=rtol, atol=atol)


def test_a_tensor_with_gradients_gives_one_without(tiny, noisy):
    assert not enhance(torch.from_numpy(noisy).requires_grad_(), 16000, tiny).requires_grad


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_tensor_stays_on_its_gpu(noisy, expected):
    for device in ("cpu", "cuda"):
        speech = enhance(torch.from_numpy(noisy).cuda(), 16000, "tiny", device=device)
        assert speech.device == torch.device("cuda:0")
        torch.testing.assert_close(speech.cpu(), torch.from_numpy(expected), rtol=0, atol=1e-4)


def test_options_do_what_they_do_elsewhere(tiny, noisy):
    done = []
    speech = enhance(noisy, 16000, tiny, max_attenuation_db=6.0, mix=0.5, progress=done.append)
    assert np.array_equal(speech, tiny.enhance(noisy, 16000, 6.0, 0.5))
    assert sum(done) == pytest.approx(9000 / 16000)
    each = [tiny.enhance(channel[None], 16000)[0] for channel in noisy]
    assert np.array_equal(enhance(noisy, 16000, tiny, separate=True), each)
    with pytest.raises(UsageError, match="mix: found 2"):
        enhance(noisy, 16000, tiny, mix=2)


def test_progress_comes_every_four_seconds(tiny):
    done = []
    tiny.enhance(np.zeros((1, 10 * 16000), np.float32), 16000, progress=done.append)
    assert sum(done) == pytest.approx(10) and len(done) == 3 and max(done) <= 4.1


def test_the_default_model_is_that_of_the_program(noisy):
    assert np.array_equal(enhance(noisy, 16000, device="cpu"), load_enhancer(device="cpu").enhance(noisy, 16000))


def test_a_model_is_loaded_once_until_its_file_changes(tmp_path, monkeypatch, tiny_model, noisy):
    loads, load = [], zoo.load_enhancer
    monkeypatch.setattr(zoo, "load_enhancer", lambda *given: loads.append(given) or load(*given))
    model = shutil.copy(tiny_model, tmp_path / "own.safetensors")
    first = enhance(noisy, 16000, model, device="cpu")
    monkeypatch.chdir(tmp_path)
    assert np.array_equal(enhance(noisy, 16000, "own.safetensors", device="cpu"), first) and len(loads) == 1
    os.utime(model, ns=(1, 1))
    enhance(noisy, 16000, model, device="cpu")
    assert len(loads) == 2
    with pytest.raises(ModelError, match="gone.safetensors"):
        enhance(noisy, 16000, tmp_path / "gone.safetensors")
    assert api._loaded.cache_info().maxsize == 4


ENHANCERS = [("tiny", "onnx", None), ("base", "onnx", None), ("tiny", "torch", None), ("deep-nmf", "torch", 3)]


def load(name, backend, depth):
    return load_enhancer(name, "cpu", backend, depth=depth)


def enhance_both_ways(enhancer, samples):
    """The recording as a whole, and frame by frame."""
    stream = enhancer.stream(16000, len(samples))
    pieces = [stream.feed(samples[:, start : start + 256]) for start in range(0, samples.shape[1], 256)]
    return enhancer.enhance(samples, 16000), np.concatenate([*pieces, stream.flush()], -1)


@pytest.mark.parametrize("which", ENHANCERS, ids=str)
def test_a_pickled_enhancer_is_the_same(which, noisy):
    enhancer = load(*which)
    enhancer.enhance(noisy, 16000)  # with all open that will be
    again = pickle.loads(pickle.dumps(enhancer))
    assert repr(again) == repr(enhancer)
    for ours, theirs in zip(enhance_both_ways(again, noisy), enhance_both_ways(enhancer, noisy)):
        assert np.array_equal(ours, theirs)


@pytest.mark.parametrize("model", NETWORKS)
def test_every_network_can_be_pickled(model):
    recipe = read_recipe(None, model)
    backend = TorchBackend(build(model, recipe.network))
    again = pickle.loads(pickle.dumps(backend)).network
    assert all(torch.equal(again.weights()[name], tensor) for name, tensor in backend.network.weights().items())


def test_an_exported_model_is_pickled_as_the_place_of_its_file(noisy, tmp_path, monkeypatch):
    folder = shutil.copytree(zoo.models_folder() / "tiny", tmp_path / "tiny")
    monkeypatch.chdir(tmp_path)
    pickled = pickle.dumps(load_enhancer("tiny/model.onnx", "cpu"))
    assert len(pickled) < 5000
    monkeypatch.chdir("/")
    pickle.loads(pickled).enhance(noisy, 16000)
    for file in (zoo.models_folder() / "large").iterdir():
        shutil.copy(file, folder / file.name)
    with pytest.raises(ModelError, match="other weights"):
        pickle.loads(pickled).enhance(noisy, 16000)


def test_a_spawned_worker_enhances(tiny, noisy, expected):
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert np.array_equal(pool.apply(tiny.enhance, (noisy, 16000)), expected)


@pytest.mark.parametrize("which", ENHANCERS, ids=str)
def test_threads_share_an_enhancer(which, noisy):
    recordings = [np.roll(noisy, 700 * i, -1)[:, :3000] for i in range(4)]
    alone = [enhance_both_ways(load(*which), samples) for samples in recordings]
    enhancer = load(*which)
    with ThreadPoolExecutor(4) as threads:
        together = list(threads.map(lambda samples: enhance_both_ways(enhancer, samples), recordings))
    for ours, theirs in zip(together, alone):
        assert all(map(np.array_equal, ours, theirs))


def test_a_closed_enhancer_says_so(noisy):
    with load_enhancer("tiny", "cpu") as enhancer:
        stream = enhancer.stream(16000, 2)
        assert repr(enhancer) == "Enhancer('tiny', ONNX Runtime, 1 thread)"
    assert repr(enhancer) == "Enhancer('tiny', closed)"
    enhancer.close()
    for call in (
        lambda: enhancer.enhance(noisy, 16000),
        lambda: enhance(noisy, 16000, enhancer),
        lambda: enhancer.stream(16000, 1),
    ):
        with pytest.raises(UsageError, match="Enhancer: found one that was closed; expected an open one"):
            call()
    assert stream.flush(noisy).shape == noisy.shape


def test_a_stream_shows_how_far_it_is(tiny, noisy):
    assert "2 x StreamingEnhancer(44100 Hz, 1 channel, 0.00 s in" in repr(tiny.stream(44100, 2, separate=True))
    stream = tiny.stream(44100, 2)
    stream.feed(noisy)
    assert (
        repr(stream)
        == f"StreamingEnhancer(44100 Hz, 2 channels, {9000 / 44100:.2f} s in, {11 * 706 / 44100:.2f} s out)"
    )


@pytest.mark.parametrize("module", DOCUMENTED)
def test_examples_in_docstrings_give_what_they_show(module):
    found = doctest.testmod(importlib.import_module(f"deepnmf_cli.{module}"))
    assert found.attempted and not found.failed


def test_every_public_name_has_an_example():
    for name in deepnmf_cli.__all__:
        assert ">>>" in getattr(deepnmf_cli, name).__doc__, name
