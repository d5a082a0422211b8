"""The analysis/synthesis pair."""

import math

import numpy as np
import pytest
import torch

from deepnmf_cli.signal.stft import FrontEnd

FRONT_END = FrontEnd()


def noise(*shape: int) -> torch.Tensor:
    return 0.2 * torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("rate_hz", [8000, 11025, 16000, 22050, 44100, 48000, 96000, 192000])
@pytest.mark.parametrize("length", [1, 255, 256, 257, 5000])
def test_synthesis_of_the_analysis_is_the_signal(rate_hz: int, length: int) -> None:
    pair, samples = FRONT_END.pair(rate_hz), noise(2, length)
    spectrum = pair.analysis(samples)
    assert spectrum.shape == (2, pair.bins, math.ceil(length / pair.hop_samples) + 1)
    torch.testing.assert_close(pair.synthesis(spectrum, length), samples, rtol=0, atol=1e-6)


def test_analysis_equals_the_transform_by_its_definition() -> None:
    pair, samples = FRONT_END.pair(8000), noise(1000)
    window = torch.hann_window(256, dtype=torch.float64).sqrt()
    padded = torch.cat([torch.zeros(128), samples, torch.zeros(400)]).double()
    spectrum = pair.analysis(samples)
    for frame in (0, 3, 8):
        expected = torch.fft.rfft(padded[frame * 128 : frame * 128 + 256] * window) / window.sum()
        torch.testing.assert_close(spectrum[:, frame].to(torch.complex128), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("hop_s", [0.004, 0.008, 0.016])
@pytest.mark.parametrize("window_hops", [2, 3, 4, 8])
@pytest.mark.parametrize("rate_hz", [8000, 11025, 16000, 44100])
def test_every_window_reconstructs_perfectly(hop_s: float, window_hops: int, rate_hz: int) -> None:
    pair, samples = FrontEnd(hop_s=hop_s, window_hops=window_hops).pair(rate_hz), noise(2, 3001).double()
    spectrum = pair.analysis(samples)
    assert spectrum.shape == (2, pair.bins, math.ceil(3001 / pair.hop_samples) + 1)
    torch.testing.assert_close(pair.synthesis(spectrum, 3001), samples, rtol=0, atol=1e-13)


@pytest.mark.parametrize("window_hops", [2, 3, 4, 8])
def test_windows_multiply_to_a_hann_window_of_two_hops(window_hops: int) -> None:
    pair = FrontEnd(window_hops=window_hops).pair(16000)
    hann = torch.hann_window(512, dtype=torch.float64).numpy()
    assert pair.window.shape == (256 * window_hops,) and pair.latency_samples == 512
    np.testing.assert_allclose(pair.window[-512:] * pair.synthesis_window, hann, atol=1e-15)
    if window_hops == 2:
        np.testing.assert_allclose(pair.window, pair.synthesis_window, atol=1e-15)


@pytest.mark.parametrize("window_hops", [2, 4])
def test_numpy_and_torch_give_the_same(window_hops: int) -> None:
    pair, samples = FrontEnd(window_hops=window_hops).pair(16000), noise(2, 5000)
    spectrum, expected = pair.analysis(samples.numpy()), pair.analysis(samples)
    assert spectrum.dtype == np.complex64
    np.testing.assert_allclose(spectrum, expected.numpy(), atol=1e-7)
    output = pair.synthesis(0.5 * spectrum, 5000)
    assert output.dtype == np.float32
    np.testing.assert_allclose(output, pair.synthesis(0.5 * expected, 5000).numpy(), atol=1e-6)


@pytest.mark.parametrize("rate_hz", [16000, 22050, 44100, 48000])
def test_a_tone_falls_into_the_same_bin_and_level_at_every_rate(rate_hz: int) -> None:
    time_s = torch.arange(rate_hz, dtype=torch.float64) / rate_hz
    magnitude = FRONT_END.pair(rate_hz).analysis(torch.sin(2 * math.pi * 1000 * time_s)).abs()
    assert int(magnitude[:, 20].argmax()) == 32  # 1000 Hz / 31.25 Hz
    assert float(magnitude[32, 20]) == pytest.approx(0.5, abs=0.002)


def test_a_hop_may_be_one_sample_and_a_second() -> None:
    assert FrontEnd(rate_hz=1, hop_s=1.0).pair(1).hop_samples == 1
    for rate_hz in (0, -1):
        with pytest.raises(ValueError, match="rate_hz must be positive"):
            FrontEnd(rate_hz=rate_hz, hop_s=-1.0)
