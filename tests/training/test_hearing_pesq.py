"""The hearing model of the objective, against the package that carries the standard's reference implementation."""

import math
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from pesq import pesq

from deepnmf_cli.signal.stft import FrontEnd
from deepnmf_cli.training import hearing
from deepnmf_cli.training.hearing import power_spectra

DEMO = Path(__file__).parents[2] / "data" / "demo"
RATE_HZ = 16000


def points_lost(estimate: torch.Tensor, target: torch.Tensor, rate_hz: int) -> torch.Tensor:
    return hearing.points_lost(*(power_spectra(x, rate_hz) for x in (estimate, target)), rate_hz)


def disturbances(estimate: torch.Tensor, target: torch.Tensor, rate_hz: int) -> tuple[torch.Tensor, torch.Tensor]:
    return hearing.disturbances(*(power_spectra(x, rate_hz) for x in (estimate, target)), rate_hz)


@pytest.fixture(scope="module")
def speech() -> np.ndarray:
    return soundfile.read(DEMO / "clean.wav", dtype="float32")[0]


def level(samples: np.ndarray, rms: float = 1.0) -> np.ndarray:
    return samples * (rms / np.sqrt(np.mean(samples**2)))


def noises(count: int) -> dict[str, np.ndarray]:
    """White noise, noise with falling spectrum, and the demo's own, (count,) each."""
    white = np.random.default_rng(0).standard_normal(count)
    brown = np.convolve(white, 0.95 ** np.arange(200))[:count]
    recorded = soundfile.read(DEMO / "noisy.wav")[0][:count] - soundfile.read(DEMO / "clean.wav")[0][:count]
    return {"white": white, "brown": brown, "recorded": recorded}


def lost(estimate: np.ndarray, target: np.ndarray) -> float:
    tensors = (torch.from_numpy(np.asarray(x, np.float32))[None] for x in (estimate, target))
    return float(points_lost(*tensors, RATE_HZ))


def score(estimate: np.ndarray, target: np.ndarray) -> float:
    """Points on the scale of P.862.2, 1.04 to 4.64."""
    return 0.999 + 4 / (1 + math.exp(-1.3669 * (4.5 - lost(estimate, target)) + 3.8224))


@pytest.mark.parametrize("kind", ["white", "brown", "recorded"])
def test_points_follow_the_standard(speech: np.ndarray, kind: str) -> None:
    clean, noise = level(speech), noises(len(speech))[kind]
    for snr_db in (0, 10, 20, 30):
        noisy = (clean + level(noise, 10 ** (-snr_db / 20))).astype(np.float32)
        assert score(noisy, clean) == pytest.approx(pesq(RATE_HZ, clean, noisy, "wb"), abs=0.5), snr_db


def test_a_mask_that_descends_the_points_raises_the_standards_score(speech: np.ndarray) -> None:
    clean = level(speech)
    noisy = (clean + level(noises(len(speech))["recorded"], 0.3)).astype(np.float32)
    pair = FrontEnd().pair(RATE_HZ)
    spectrum = pair.analysis(torch.from_numpy(noisy)[None])
    logits = torch.full(spectrum.shape, 2.0, requires_grad=True)

    def estimate() -> torch.Tensor:
        return pair.synthesis(torch.sigmoid(logits) * spectrum, len(noisy))

    before = pesq(RATE_HZ, clean, estimate()[0].detach().numpy(), "wb")
    descent = torch.optim.Adam([logits], 0.3)
    for _ in range(20):
        descent.zero_grad()
        points_lost(estimate(), torch.from_numpy(clean)[None], RATE_HZ).mean().backward()
        descent.step()
    assert pesq(RATE_HZ, clean, estimate()[0].detach().numpy(), "wb") > before + 0.5


def test_what_is_equal_but_for_its_level_loses_nothing(speech: np.ndarray) -> None:
    assert lost(level(speech), level(speech)) < 0.02
    assert lost(level(speech, 0.1), level(speech)) < 0.02


def test_added_noise_disturbs_more_than_missing_speech(speech: np.ndarray) -> None:
    clean = torch.from_numpy(level(speech))[None]
    pair = FrontEnd().pair(RATE_HZ)
    spectrum = pair.analysis(clean)
    draw = torch.rand(1, 9, spectrum.shape[-1] // 4 + 1, generator=torch.Generator().manual_seed(0))
    # Patches of 20 dB less, or more, come and go: neither a colour nor a gain.
    soft = (draw < 0.05).repeat_interleave(30, 1).repeat_interleave(4, 2)[:, : spectrum.shape[1], : spectrum.shape[2]]
    thin = pair.synthesis(torch.where(soft, 0.1, 1.0) * spectrum, clean.shape[1])
    missing, added = disturbances(thin, clean, RATE_HZ), disturbances(clean, thin, RATE_HZ)
    assert 1.5 * float(missing[1]) < float(added[1])


@pytest.mark.parametrize("estimate", [0.0, 1.0])
def test_silent_targets_cost_nothing_and_every_slope_is_finite(estimate: float) -> None:
    target = torch.randn(3, 8000, generator=torch.Generator().manual_seed(0))
    target[0] = 0
    target[1, 4000:] = 0
    heard = (estimate * target.flip(1)).requires_grad_()
    points = points_lost(heard, target, RATE_HZ)
    points.sum().backward()
    assert float(points[0].detach()) == 0
    assert torch.isfinite(points).all() and torch.isfinite(heard.grad).all()


@pytest.mark.parametrize("rate_hz", [8000, 48000])
def test_other_rates_are_heard_up_to_8_khz(speech: np.ndarray, rate_hz: int) -> None:
    import soxr

    clean = level(speech)
    noisy = clean + level(noises(len(speech))["brown"], 0.2)
    resampled = [soxr.resample(x, RATE_HZ, rate_hz).astype(np.float32) for x in (noisy, clean)]
    points = float(points_lost(*(torch.from_numpy(x)[None] for x in resampled), rate_hz))
    assert points == pytest.approx(lost(noisy, clean), abs=0.35)


@pytest.mark.parametrize("rate_hz", [8000, 16000])
def test_powers_of_bins_add_up_to_the_mean_square(rate_hz: int) -> None:
    sound = torch.randn(1, 4 * rate_hz, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    powers = power_spectra(sound, rate_hz)[:, 1:-1].sum(1).mean() * hearing.share_of_mean_square(rate_hz)
    assert powers.item() == pytest.approx(sound.square().mean().item(), rel=0.03)


def test_the_last_moments_count(speech: np.ndarray) -> None:
    clean = level(speech)[: 4 * RATE_HZ]
    noise = 0.5 * np.random.default_rng(1).standard_normal(2000)
    middle, end = clean.copy(), clean.copy()
    middle[30000:32000] += noise
    end[-2000:] += noise
    assert lost(end, clean) > 0.3 * lost(middle, clean) > 0.1


def test_a_steady_colour_costs_little(speech: np.ndarray) -> None:
    """A shelf of 6 dB, which the equaliser of a room or a microphone may have, against noise of the same energy."""
    clean = level(speech)
    spectrum = np.fft.rfft(clean)
    coloured = np.fft.irfft(spectrum * np.linspace(0.5, 1, len(spectrum)), len(clean))
    added = np.random.default_rng(0).standard_normal(len(clean))
    noisy = clean + level(added, float(np.sqrt(np.mean((coloured - clean) ** 2))))
    assert lost(coloured, clean) < 0.15 * lost(noisy, clean)


def test_a_steady_sound_disturbs_as_one_frame_of_it() -> None:
    """Also where it has another colour than the target: ten times as much of what is hardly heard."""
    target = torch.ones(1, 257, 1)
    target[:, 40:] = 1e-6
    estimate = torch.where(target == 1, target, 10 * target)
    one = hearing.disturbances(estimate, target, RATE_HZ)
    both = hearing.disturbances(estimate.repeat(1, 1, 2), target.repeat(1, 1, 2), RATE_HZ)
    torch.testing.assert_close(both, one, rtol=1e-5, atol=0)
    assert 0.1 < float(one[0]) < 1 < float(one[1])


@pytest.mark.parametrize(("frames", "stretches"), [(7, 1), (20, 1), (25, 2), (30, 2), (40, 3)])
def test_a_disturbance_of_the_last_frame_is_in_one_of_the_stretches_of_20(frames: int, stretches: int) -> None:
    """Which begin every ten frames; the last of them ends with the last frame."""
    disturbance = torch.zeros(1, frames)
    disturbance[0, -1] = 3.0
    expected = 3 * min(20, frames) ** (-1 / 6) / stretches**0.5
    assert float(hearing._over_time(disturbance)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("gain", [1e-12, 1e-6, 1.0])
def test_levels_are_made_equal_down_to_a_floor(gain: float) -> None:
    ear, power = hearing.hearing(RATE_HZ), torch.full((1, 257, 1), 1e-3)
    level, floor = float(ear.voice.sum()) * 1e-3, 1e-8
    expected = ear.densities(power) * gain * (level + floor) / (gain * level + floor)
    torch.testing.assert_close(ear.densities(gain * power), expected)


def test_silence_in_the_place_of_one_frame_of_speech_disturbs_by_its_loudness() -> None:
    """P.862, 10.2.6 to 10.2.11, where nothing is left of the estimate: colour, loudness, weight of the frame."""
    ear, target = hearing.hearing(RATE_HZ), torch.rand(1, 257, 1, generator=torch.Generator().manual_seed(0))
    target[:, 40:] = 0  # above 1250 Hz: there is a largest disturbance
    density, threshold, exponent = (
        x.double().numpy().ravel() for x in (ear.densities(target), ear.threshold, ear.exponent)
    )
    true = density * np.clip(1000 / (np.where(density > 100 * threshold, density, 0) + 1000), 0.01, 100)
    heard = true > threshold
    sone = 0.1866 * (threshold / 0.5) ** exponent * ((0.5 + 0.5 * true / threshold) ** exponent - 1) * heard
    weight = ((true[heard].sum() + 1e5) / 1e7) ** 0.04
    expected = math.sqrt(np.mean(sone**2) * ear.width) * 49 * ear.width / weight
    assert expected < 45
    assert float(hearing.disturbances(0 * target, target, RATE_HZ)[0]) == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("frequency_hz", [1.0, 20.0, 100.0, 1000.0, 4000.0])
def test_the_threshold_of_hearing_is_terhardts_from_20_hz_on(frequency_hz: float) -> None:
    f = max(20.0, frequency_hz) / 1000
    expected = 3.64 * f**-0.8 - 6.5 * math.exp(-0.6 * (f - 3.3) ** 2) + 1e-3 * f**4
    assert hearing._threshold_db(torch.tensor(frequency_hz)).item() == pytest.approx(expected, rel=1e-5)
