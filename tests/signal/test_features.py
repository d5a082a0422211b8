"""What phase features say of sounds that are known, and how masks turn phases; the same in NumPy and torch."""

import numpy as np
import pytest
import torch

from deepnmf_cli.signal.features import PLANES, phase_features
from deepnmf_cli.signal.masks import at_least, complex_masks
from deepnmf_cli.signal.stft import FrontEnd

FRONT_END = FrontEnd()


def spectrum(frequency_hz: float, rate_hz: int = 16000, phase: float = 0.0, hops: int = 2) -> np.ndarray:
    """(1, F, T) of a quarter of a second of a sinusoid."""
    time = np.arange(rate_hz // 4) / rate_hz
    samples = np.cos(2 * np.pi * frequency_hz * time + phase).astype(np.float32)
    return FrontEnd(window_hops=hops).pair(rate_hz).analysis(samples[None])


def heard(x: np.ndarray, hops: int = 2) -> np.ndarray:
    return phase_features(x, np.zeros_like(x[..., :1]), hops)


@pytest.mark.parametrize("rate_hz", [8000, 16000, 48000])
@pytest.mark.parametrize("beside", [-0.4, 0.0, 0.3])
@pytest.mark.parametrize("hops", [2, 3, 4])
def test_phase_differences_give_the_frequency_within_a_bin(hops: int, beside: float, rate_hz: int) -> None:
    for number in (20, 21, 22, 23):
        frequency_hz = (number + beside) / (hops * FRONT_END.hop_s)
        planes = heard(spectrum(frequency_hz, rate_hz, hops=hops), hops)[:, number, hops + 2 : -hops - 2]
        assert planes.shape[0] == PLANES
        # From one end of a bin to the other a window has one turn more, and a hop its part of it.
        np.testing.assert_allclose(np.arctan2(planes[2], planes[1]), 2 * np.pi * beside / hops, atol=0.02)
        np.testing.assert_allclose(np.hypot(planes[1], planes[2]), planes[0] ** 2, rtol=0.05)


def test_features_stay_when_all_phases_turn_and_for_steady_tones_when_time_begins_elsewhere() -> None:
    reference = heard(spectrum(700.0))
    for phase in (0.5, 2.0, np.pi):
        np.testing.assert_allclose(heard(spectrum(700.0, phase=phase))[..., 3:-3], reference[..., 3:-3], atol=1e-3)
    draw = np.random.default_rng(0)
    x = (draw.standard_normal((1, 9, 5)) + 1j * draw.standard_normal((1, 9, 5))).astype(np.complex64)
    np.testing.assert_allclose(heard(x * np.complex64(np.exp(1.3j))), heard(x), atol=1e-6)


@pytest.mark.parametrize("bins", [0, 1, 40, 256, 257])
@pytest.mark.parametrize("convert", [np.asarray, torch.from_numpy])
def test_phase_of_the_lowest_bins_is_that_of_all(convert, bins: int) -> None:
    x = convert(spectrum(500.0) + spectrum(2130.0))
    full, planes = (phase_features(x, 0 * x[..., :1], 2, bins=number) for number in (None, bins))
    assert planes.shape == full.shape
    np.testing.assert_array_equal(planes[0], full[0])
    np.testing.assert_allclose(planes[:, :bins], full[:, :bins], rtol=1e-5, atol=1e-7)
    assert (planes[1:, bins:] == 0).all()


def test_channels_of_opposite_phase_do_not_cancel() -> None:
    x = spectrum(500.0)
    np.testing.assert_allclose(heard(np.concatenate([x, -x])), heard(x), atol=1e-7)


def test_channels_that_differ_by_gains_are_heard_as_one_of_the_mean_gain() -> None:
    x = spectrum(500.0) + spectrum(2130.0)
    for gains in ((1.0, 0.0), (2.0, -0.5, 0.5)):
        several = np.concatenate([np.float32(gain) * x for gain in gains])
        np.testing.assert_allclose(heard(several), heard(np.float32(np.abs(gains).mean()) * x), rtol=1e-4, atol=1e-6)


def test_phase_differences_of_white_noise_scatter_around_what_overlaps_make() -> None:
    noise = np.random.default_rng(0).standard_normal((1, 16000 * 30)).astype(np.float32)
    magnitude, *parts = heard(FRONT_END.pair(16000).analysis(noise))[:, 5:-5]
    time, frequency = parts[0] + 1j * parts[1], parts[2] + 1j * parts[3]
    power = np.square(magnitude).mean()
    assert abs(time.mean() / power - 1 / np.pi) < 0.02
    assert abs(frequency.mean() / power + 0.5) < 0.02


def test_blocks_give_the_features_of_the_whole_in_numpy_and_torch() -> None:
    x = spectrum(431.0)
    parts = [heard(x[..., :5]), phase_features(x[..., 5:], x[..., 4:5], 2)]
    np.testing.assert_array_equal(np.concatenate(parts, -1), heard(x))
    tensor = torch.from_numpy(x)
    np.testing.assert_allclose(
        phase_features(tensor, torch.zeros_like(tensor[..., :1]), 2).numpy(), heard(x), atol=1e-6
    )


@pytest.mark.parametrize("convert", [np.asarray, torch.from_numpy])
def test_three_planes_are_complex_masks_that_sum_to_one(convert) -> None:
    planes = np.random.default_rng(0).random((1, 3, 4, 5)).astype(np.float32)
    planes[:, 1] = 1 - planes[:, 0]
    masks = np.asarray(complex_masks(convert(planes)))
    assert masks.shape == (1, 2, 4, 5) and masks.dtype == np.complex64
    np.testing.assert_allclose(masks.sum(1), 1, atol=1e-6)
    np.testing.assert_array_equal(masks[:, 0].imag, planes[:, 2])
    real = convert(planes[:, :2])
    assert complex_masks(real) is real


@pytest.mark.parametrize("convert", [np.asarray, torch.from_numpy])
def test_a_floor_raises_the_modulus_and_keeps_the_phase(convert) -> None:
    masks = np.array([[0, 1e-35, 0.1, 0.1j, -0.6]], np.complex64)
    np.testing.assert_allclose(np.asarray(at_least(convert(masks), 0.2)), [[0.2, 0.2, 0.2, 0.2j, -0.6]], atol=1e-7)
    np.testing.assert_allclose(np.asarray(at_least(convert(masks.real.clip(0)), 0.2)), [[0.2] * 5], atol=1e-7)
