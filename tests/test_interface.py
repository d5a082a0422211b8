"""The Python interface: a few names at the top of the package, loaded when they are asked for."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import deepnmf_cli
from deepnmf_cli import Enhancer, StreamingEnhancer, load_enhancer
from deepnmf_cli.errors import AudioError, UsageError
from deepnmf_cli.signal.samples import LARGEST


def test_package_imports_nothing_heavy_until_a_name_is_asked_for():
    program = "import sys, deepnmf_cli; dir(deepnmf_cli); print({'torch', 'numpy', 'click'} & set(sys.modules))"
    home = Path(deepnmf_cli.__file__).parent.parent
    done = subprocess.run([sys.executable, "-c", program], cwd=home, capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_the_package_runs_as_the_program():
    home = Path(deepnmf_cli.__file__).parent.parent
    words = [sys.executable, "-m", "deepnmf_cli"]
    done = subprocess.run([*words, "--version"], cwd=home, capture_output=True, text=True, check=True)
    assert deepnmf_cli.__version__ in done.stdout
    done = subprocess.run([*words, "enhance", "gone.wav", "-o", "x.wav"], cwd=home, capture_output=True, text=True)
    assert done.returncode == 1 and "gone.wav" in done.stderr


def test_every_public_name_exists():
    assert set(deepnmf_cli.__all__) <= set(dir(deepnmf_cli))
    names = {}
    exec("from deepnmf_cli import *", names)
    assert all(names[name].__name__ == name for name in deepnmf_cli.__all__)


def test_other_names_do_not():
    with pytest.raises(AttributeError, match="has no attribute 'denoise'"):
        deepnmf_cli.denoise  # noqa: B018


def test_a_loaded_model_streams(tiny_model, hiss):
    enhancer = load_enhancer(tiny_model, "cpu")
    stream = enhancer.stream(rate_hz=16000, channels=1)
    assert isinstance(enhancer, Enhancer) and isinstance(stream, StreamingEnhancer)
    samples = hiss(0.2)[None]
    out = np.concatenate([stream.feed(samples), stream.flush()], -1)
    np.testing.assert_allclose(out, enhancer.enhance(samples, 16000), atol=1e-6)


@pytest.fixture(scope="module", params=["torch", "onnx"])
def enhancer(request):
    return load_enhancer("tiny", "cpu", request.param)


@pytest.mark.parametrize(
    "given", [{"device": "gpu"}, {"device": "cuda:0"}, {"backend": "abacus"}, {"threads": 0}, {"threads": -1}]
)
def test_values_that_a_model_cannot_run_by_are_refused(given):
    (what,) = given
    with pytest.raises(UsageError, match=f"^{what}: found .*; expected (one of auto|at least one)"):
        load_enhancer("tiny", **given)


BAD_SHAPES = [
    (np.zeros((16000, 2)), "16000 channels.*x.T"), (np.zeros((16000, 1)), "16000 channels.*x.T"),
    (np.zeros(16000), r"shape \(16000,\).*x\[None\]"), (np.zeros((0, 100)), "0 channels"),
    (np.zeros((65, 100)), "65 channels; expected 1 to 64"), (np.zeros((1, 2, 3)), r"shape \(1, 2, 3\)"),
    (np.zeros((1, 9), complex), "type complex128"), ([[0.0, 1.0], [0.0]], "rows of several lengths"),
    (np.array([["a"]]), "type <U1"), (None, "type object"),
]  # fmt: skip


@pytest.mark.parametrize(("samples", "message"), BAD_SHAPES, ids=[message for _, message in BAD_SHAPES])
def test_what_is_no_recording_is_refused_at_once(enhancer, samples, message):
    with pytest.raises(AudioError, match=f"samples: found .*{message}"):
        enhancer.enhance(samples, 16000)


@pytest.mark.parametrize("rate_hz", [0, -5, 16, 999, 768_001, float("nan"), float("inf"), "16000", None])
def test_rates_that_no_sound_has_are_refused(enhancer, rate_hz):
    for call in (
        lambda: enhancer.enhance(np.zeros((1, 100), np.float32), rate_hz),
        lambda: enhancer.stream(rate_hz, 1),
        lambda: next(enhancer.enhance_blocks([np.zeros((1, 100))], rate_hz, 1)),
    ):
        with pytest.raises(AudioError, match="samples: found .*sampling rate"):
            call()


@pytest.mark.parametrize("channels", [0, -1, 65, 1.5, None])
def test_numbers_of_channels_that_no_sound_has_are_refused(enhancer, channels):
    with pytest.raises(AudioError, match="channels"):
        enhancer.stream(16000, channels)


@pytest.mark.parametrize(
    "options",
    [{"mix": -0.1}, {"mix": 1.1}, {"mix": np.nan}, {"max_attenuation_db": -1}, {"max_attenuation_db": np.nan}],
)
def test_options_out_of_range_are_refused(enhancer, options):
    (name,) = options
    with pytest.raises(UsageError, match=f"{name}: found"):
        enhancer.stream(16000, 1, **options)


def test_blocks_of_another_shape_are_refused(enhancer):
    with pytest.raises(AudioError, match=r"shape \(3, 50\); expected samples of shape \(2, n\)"):
        list(enhancer.enhance_blocks([np.zeros((2, 50)), np.zeros((3, 50))], 16000, 2))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e25, -1e16, 1e300])
def test_samples_that_arithmetic_cannot_carry_are_refused_and_leave_the_stream_as_it_was(enhancer, hiss, value):
    samples = hiss(0.5)[None]
    expected = enhancer.enhance(samples, 16000)
    bad = np.zeros((1, 300))
    bad[0, 100] = value
    with pytest.raises(AudioError, match=r"samples: found a sample .* at 0\.006 s \(sample 100, channel 1\)"):
        enhancer.enhance(bad, 16000)
    stream, pieces = enhancer.stream(16000, 1), []
    for start in range(0, samples.shape[1], 1000):
        pieces.append(stream.feed(samples[:, start : start + 1000]))
        with pytest.raises(AudioError, match=f"sample {min(start + 1000, 8000) + 100}, channel 1"):
            stream.feed(bad)
    with pytest.raises(AudioError):
        stream.flush(bad)
    np.testing.assert_allclose(np.concatenate([*pieces, stream.flush()], -1), expected, atol=1e-6)


def test_the_largest_samples_are_enhanced_like_others(enhancer, hiss):
    samples = hiss(0.5)[None]
    scaled = samples * np.float32(LARGEST / np.abs(samples).max())
    gain = scaled[0, 0] / samples[0, 0]
    difference = enhancer.enhance(scaled, 16000) / gain - enhancer.enhance(samples, 16000)
    assert np.abs(difference).max() < 1e-5


def test_other_kinds_of_numbers_are_taken_as_they_are(enhancer):
    samples = np.random.default_rng(0).integers(-9, 9, (2, 4000))
    expected = enhancer.enhance(samples.astype(np.float32), 16000)
    for given in (samples, samples.astype(np.int16), samples.astype(np.float64), samples.tolist()):
        np.testing.assert_array_equal(enhancer.enhance(given, np.int64(16000)), expected)
    assert enhancer.enhance(np.zeros((2, 0)), 16000).shape == (2, 0)
