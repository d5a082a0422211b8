"""Networks that hear phase: what holds for masks and blocks of all others holds for them."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from deepnmf_cli.enhancer import Enhancer
from deepnmf_cli.export import graph
from deepnmf_cli.exported import WEIGHTS, ExportedGraph, OnnxBackend
from deepnmf_cli.kernels.grid_layer import LANES
from deepnmf_cli.networks import build
from deepnmf_cli.networks.backend import TorchBackend
from deepnmf_cli.networks.grid import Grid
from deepnmf_cli.networks.grid_settings import GridSettings
from deepnmf_cli.signal.masks import complex_masks
from deepnmf_cli.signal.stft import FrontEnd
from deepnmf_cli.training.objectives import ObjectiveSettings, Truth, objective

SMALL = GridSettings(bins=33, single_bands=9, wide_bands=6, bands_per_node=3, channels=6, iterations=2, phase=True)
WHOLE = GridSettings(channels=4, iterations=2, local_fields=True, phase=True)
FRONT_END = FrontEnd()


def trained(settings: GridSettings) -> Grid:
    """A network whose weights of phase are not zero any more."""
    torch.manual_seed(5)
    network = build("grid", settings).eval().requires_grad_(False)
    for name, weight in network.named_parameters():
        if "phase" in name or "turn" in name:
            weight.copy_(torch.randn_like(weight) / 2)
    return network


def spectra(frames: int = 40, batch: int = 2) -> torch.Tensor:
    return torch.randn(batch, 33, frames, dtype=torch.complex64, generator=torch.Generator().manual_seed(1)) ** 3


def test_masks_amplify_nothing_and_sum_to_one() -> None:
    network = trained(SMALL)
    masks = complex_masks(network(network.features_of(spectra(), 2))[0])
    torch.testing.assert_close(masks.sum(1), torch.ones(2, 33, 40, dtype=torch.complex64), rtol=0, atol=1e-6)
    assert masks[:, 0].abs().max() <= 1 + 1e-6
    assert (masks[:, 0, :9].abs() > 0.999).any()  # the limit is met
    assert masks[:, 0, :9].imag.abs().mean() > 0.05 and not masks[:, :, 9:].imag.any()


@pytest.mark.parametrize("cut", [1, 17, 39])
def test_blocks_with_carried_state_equal_the_whole(cut: int) -> None:
    network = trained(SMALL)
    inputs = network.features_of(spectra(), 2)
    first, state = network(inputs[..., :cut])
    second, _ = network(inputs[..., cut:], state)
    torch.testing.assert_close(torch.cat([first, second], -1), network(inputs)[0], rtol=0, atol=2e-6)


def test_masks_are_causal_and_independent_of_the_level() -> None:
    network, sound = trained(SMALL), spectra()
    masks, _ = network(network.features_of(sound, 2))
    changed = sound.clone()
    changed[..., 25:] = 1.0
    torch.testing.assert_close(
        network(network.features_of(changed, 2))[0][..., :25], masks[..., :25], rtol=0, atol=2e-6
    )
    torch.testing.assert_close(network(network.features_of(0.01 * sound, 2))[0], masks, rtol=0, atol=1e-5)


def test_silence_gives_finite_masks_before_and_after_sound() -> None:
    network, sound = trained(SMALL), spectra()
    sound[..., :10] = sound[..., 20:30] = 0
    assert torch.isfinite(network(network.features_of(sound, 2))[0]).all()


def test_a_network_that_begins_with_weights_of_magnitudes_gives_their_masks() -> None:
    torch.manual_seed(3)
    plain = build("grid", dataclasses.replace(SMALL, phase=False)).eval().requires_grad_(False)
    network = build("grid", SMALL).eval().requires_grad_(False)
    network.load_weights(network.weights() | network.fitting(plain.weights()))
    masks, expected = network(network.features_of(spectra(), 2))[0], plain(plain.features_of(spectra(), 2))[0]
    torch.testing.assert_close(masks[:, :2], expected, rtol=0, atol=1e-6)
    assert not masks[:, 2].any()


def test_untrained_weights_of_phase_get_a_gradient() -> None:
    torch.manual_seed(3)
    network, pair = build("grid", dataclasses.replace(WHOLE, iterations=1)), FRONT_END.pair(16000)
    waveforms = torch.randn(2, 2, 4000)
    for _ in range(2):
        spectrum = pair.analysis(waveforms)
        masks, _ = network(network.features_of(spectrum.sum(1), 2))
        network.zero_grad()
        objective(ObjectiveSettings(), masks, Truth(spectrum, waveforms), FRONT_END).backward()
        for parameter in network.parameters():
            assert torch.isfinite(parameter.grad).all()
            parameter.data -= 0.1 * parameter.grad
    assert all(network.get_parameter(f"unfolded.bank.{name}_weight_0").grad.any() for name in ("phase", "turn"))


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> list[Path]:
    """The exported network, for any number of frames and for single ones."""
    paths = [tmp_path_factory.mktemp("exported") / name for name in ("any.onnx", "single.onnx")]
    for path, single in zip(paths, (False, True)):
        assert graph.export(trained(WHOLE), FRONT_END.bins, path, {WEIGHTS: ""}, single) < graph.TOLERANCE
    return paths


@pytest.mark.parametrize("rate_hz", [8000, 16000, 44100])
def test_streamed_torch_and_exported_outputs_agree(rate_hz: int, files: list[Path]) -> None:
    network = trained(WHOLE)
    draw = np.random.default_rng(0)
    samples = 0.1 * draw.standard_normal((2, rate_hz)).astype(np.float32)
    expected = Enhancer(TorchBackend(network), FRONT_END).enhance(samples, rate_hz)
    np.testing.assert_allclose(
        Enhancer(OnnxBackend(files[0]), FRONT_END).enhance(samples, rate_hz), expected, atol=1e-6
    )
    stream, pieces, start = Enhancer(OnnxBackend(*files), FRONT_END).stream(rate_hz, 2), [], 0
    while start < samples.shape[1]:
        size = int(draw.choice([1, 255, 256, 3000]))
        pieces.append(stream.feed(samples[:, start : start + size]))
        start += size
    np.testing.assert_allclose(np.concatenate([*pieces, stream.flush()], -1), expected, rtol=0, atol=1e-6)
    assert np.abs(expected - samples).max() > 0.01


def test_one_silent_channel_gives_what_one_channel_gives() -> None:
    samples = 0.1 * np.random.default_rng(0).standard_normal((1, 16000)).astype(np.float32)
    enhancer = Enhancer(TorchBackend(trained(WHOLE)), FRONT_END)
    expected = enhancer.enhance(samples, 16000)[0]
    left, right = enhancer.enhance(np.concatenate([samples, 0 * samples]), 16000)
    np.testing.assert_allclose(left, expected, atol=1e-5)
    assert not right.any()


def test_machine_code_computes_the_same() -> None:
    shape, sound = dataclasses.replace(WHOLE, channels=LANES), torch.randn(1, 257, 30, dtype=torch.complex64)
    network = build("grid", shape)
    network.load_weights(trained(shape).weights())
    expected, _ = network(network.features_of(sound, 2))
    if not network.accelerate():
        pytest.skip("needs a compiler")
    torch.testing.assert_close(network(network.features_of(sound, 2))[0], expected, rtol=0, atol=1e-4)


def test_graphs_say_that_older_readers_cannot_run_them(tmp_path) -> None:
    graph.export(trained(WHOLE), FRONT_END.bins, tmp_path / "model.onnx", {WEIGHTS: ""}, True)
    assert ExportedGraph(tmp_path / "model.onnx").meta["format"] == 2


def test_limited_attenuation_holds_for_masks_that_turn(tmp_path) -> None:
    samples = 0.1 * np.random.default_rng(0).standard_normal((1, 16000)).astype(np.float32)
    enhancer = Enhancer(TorchBackend(trained(WHOLE)), FRONT_END)
    np.testing.assert_allclose(enhancer.enhance(samples, 16000, max_attenuation_db=0.0, mix=0.0), samples, atol=1e-6)
    power = [np.square(enhancer.enhance(samples, 16000, max_attenuation_db=limit)).mean() for limit in (20.0, 3.0)]
    assert power[0] < power[1] < 1.01 * np.square(samples).mean()


def test_shapes_without_phase_are_refused() -> None:
    with pytest.raises(ValueError, match="single_bands must be a multiple"):
        GridSettings(single_bands=63, wide_bands=33, phase=True)
