"""Matrices as integers of 8 bits and scales."""

import numpy as np
import pytest
import torch

from deepnmf_cli import zoo
from deepnmf_cli.errors import ModelError
from deepnmf_cli.export import graph
from deepnmf_cli.export.int8 import rounded, scaled_axis
from deepnmf_cli.exported import WEIGHTS
from deepnmf_cli.networks.deep_nmf import DeepNmf, DeepNmfSettings

DRAW = np.random.default_rng(0)


@pytest.mark.parametrize("shared", [(0,), (1,), (0, 2), (1, 2)])
def test_products_come_next_to_the_values(shared: tuple[int, ...]) -> None:
    values = DRAW.standard_normal((2, 5, 3)).astype(np.float32)
    values[1, :, 2] = 0
    steps, scales = rounded(values, shared)
    assert steps.dtype == np.int8 and steps.shape == values.shape and scales.dtype == np.float32
    assert scales.shape == tuple(1 if k in shared else n for k, n in enumerate(values.shape))
    assert (np.abs(steps * scales - values) <= 0.501 * scales).all() and np.abs(steps).max() == 127


def test_nothing_is_lost_of_small_rows_or_small_columns() -> None:
    matrix = DRAW.standard_normal((40, 30)).astype(np.float32)
    sizes = np.geomspace(1e-3, 1e3, 30, dtype=np.float32)
    assert scaled_axis(matrix * sizes) == 1 and scaled_axis((matrix * sizes).T) == 0
    assert scaled_axis(np.zeros((3, 2, 2), np.float32)) == 0


def test_atoms_of_any_size_keep_their_masks(tmp_path) -> None:
    torch.manual_seed(0)
    settings = DeepNmfSettings(bins=257, context=1, atoms=20, iterations=4, trained_layers=2)
    network = DeepNmf(settings)
    with torch.no_grad():
        for slot in settings.ties.trained:
            held = getattr(network.unfolded.bank, f"dictionary_{slot}")
            held.become(held() * torch.logspace(-3, 3, 40))
    path = tmp_path / "network.onnx"
    assert graph.export(network, settings.bins, path, {WEIGHTS: "deep-nmf"}, False, "int8") < 0.02


def test_a_network_that_would_be_another_is_refused(tmp_path) -> None:
    with pytest.raises(
        ModelError, match=r"deep-nmf: found a graph .* differ by 0\.\d .* expected at most 0\.1\. Choose"
    ):
        zoo.export("deep-nmf", tmp_path / "small.onnx", False, "int8", False)
    assert not any(tmp_path.iterdir())
