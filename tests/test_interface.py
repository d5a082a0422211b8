"""The Python interface: a few names at the top of the package, loaded when they are asked for."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import deepnmf_cli
from deepnmf_cli import Enhancer, StreamingEnhancer, load_enhancer


def test_package_imports_nothing_heavy_until_a_name_is_asked_for():
    program = "import sys, deepnmf_cli; dir(deepnmf_cli); print({'torch', 'numpy', 'click'} & set(sys.modules))"
    home = Path(deepnmf_cli.__file__).parent.parent
    done = subprocess.run([sys.executable, "-c", program], cwd=home, capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


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
