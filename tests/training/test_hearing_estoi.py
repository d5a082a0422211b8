"""The term that follows ESTOI, against the package `pystoi`."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from pystoi import stoi

from deepnmf_cli.signal.stft import FrontEnd
from deepnmf_cli.training import hearing
from deepnmf_cli.training.hearing import power_spectra, third_octaves

DEMO = Path(__file__).parents[2] / "data" / "demo"
RATE_HZ = 16000


def intelligibility_lost(estimate: torch.Tensor, target: torch.Tensor, rate_hz: int) -> torch.Tensor:
    return hearing.intelligibility_lost(*(power_spectra(x, rate_hz) for x in (estimate, target)), rate_hz)


@pytest.fixture(scope="module")
def clean() -> np.ndarray:
    samples = soundfile.read(DEMO / "clean.wav", dtype="float32")[0]
    return samples / samples.std()


@pytest.fixture(scope="module")
def noise(clean: np.ndarray) -> np.ndarray:
    samples = soundfile.read(DEMO / "noisy.wav", dtype="float32")[0]
    added = samples - soundfile.read(DEMO / "clean.wav", dtype="float32")[0]
    return added / added.std()


def lost(estimate: np.ndarray, target: np.ndarray, rate_hz: int = RATE_HZ) -> float:
    return float(intelligibility_lost(*(torch.from_numpy(x)[None] for x in (estimate, target)), rate_hz))


def test_it_follows_estoi(clean: np.ndarray, noise: np.ndarray) -> None:
    for snr_db in (-5, 0, 5, 10, 20):
        noisy = clean + np.float32(10 ** (-snr_db / 20)) * noise
        assert 1 - lost(noisy, clean) == pytest.approx(stoi(clean, noisy, RATE_HZ, extended=True), abs=0.05), snr_db


def test_a_mask_that_descends_it_raises_estoi(clean: np.ndarray, noise: np.ndarray) -> None:
    noisy = clean + noise
    pair, target = FrontEnd().pair(RATE_HZ), torch.from_numpy(clean)[None]
    spectrum = pair.analysis(torch.from_numpy(noisy)[None])
    logits = torch.full(spectrum.shape, 1.0, requires_grad=True)

    def estimate() -> torch.Tensor:
        return pair.synthesis(torch.sigmoid(logits) * spectrum, len(noisy))

    descent = torch.optim.Adam([logits], 0.3)
    for _ in range(20):
        descent.zero_grad()
        intelligibility_lost(estimate(), target, RATE_HZ).mean().backward()
        descent.step()
    after = stoi(clean, estimate()[0].detach().numpy(), RATE_HZ, extended=True)
    assert after > stoi(clean, noisy, RATE_HZ, extended=True) + 0.15


@pytest.mark.parametrize("gain", [0.1, 1.0])
def test_what_is_equal_but_for_its_level_loses_nothing(clean: np.ndarray, gain: float) -> None:
    assert lost(np.float32(gain) * clean, clean) < 0.01


def test_silence_costs_nothing_and_slopes_are_finite() -> None:
    target = torch.randn(3, 12000, generator=torch.Generator().manual_seed(0))
    target[0] = 0
    target[1, 6000:] = 0
    for estimate in (torch.zeros(3, 12000), target.flip(1).clone()):
        lost_points = intelligibility_lost(estimate.requires_grad_(), target, RATE_HZ)
        lost_points.sum().backward()
        assert float(lost_points[0].detach()) == 0
        assert torch.isfinite(lost_points).all() and torch.isfinite(estimate.grad).all()
    assert not intelligibility_lost(target[:, :3000], target[:, :3000], RATE_HZ).any()  # too short to compare


@pytest.mark.parametrize("rate_hz", [8000, 16000, 48000])
def test_bands_are_third_octaves_that_do_not_overlap(rate_hz: int) -> None:
    bands = third_octaves(rate_hz)
    assert bands.any(1).all() and (bands.sum(0) <= 1).all()
    frequency = torch.arange(bands.shape[1]) * rate_hz / (2 * (bands.shape[1] - 1))
    inside = (frequency >= 150 * 2 ** (-1 / 6)) & (frequency < 150 * 2 ** (14 / 3 + 1 / 6))
    assert torch.equal(bands.sum(0) == 1, inside)
    highest = bands[-1].nonzero().flatten() * rate_hz / (2 * (bands.shape[1] - 1))
    assert 3300 < highest.min() < highest.max() < 4300
