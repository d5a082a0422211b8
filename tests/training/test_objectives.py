"""Terms of the objective on signals whose value is known."""

import math

import pytest
import torch

from deepnmf_cli.scoring.sdr import si_sdr
from deepnmf_cli.signal.stft import FrontEnd
from deepnmf_cli.training.objectives import (
    ObjectiveSettings,
    Truth,
    compressed,
    objective,
    pauses,
    phase_sensitive_target,
    relative_error,
    residue_db,
    si_sdr_db,
    snr_db,
)

FRONT_END = FrontEnd(rate_hz=8000)
PAIR = FRONT_END.pair(8000)
ONLY = {"magnitude": 0.0, "compressed_half": 0.0, "compressed_third": 0.0, "snr": 0.0}


def scene(batch: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    """Waveforms (B, 2, N) and their spectra."""
    waveforms = 0.1 * torch.randn(batch, 2, 4000, generator=torch.Generator().manual_seed(0))
    return waveforms, PAIR.analysis(waveforms)


def masks_for(spectra: torch.Tensor, speech: torch.Tensor | float) -> torch.Tensor:
    speech = torch.as_tensor(speech).expand_as(spectra[:, 0].real)
    return torch.stack([speech, 1 - speech], 1)


@pytest.mark.parametrize("term", ["magnitude", "compressed_half", "compressed_third"])
def test_true_magnitudes_cost_nothing_and_silence_costs_its_weight(term: str) -> None:
    waveforms, spectra = scene()
    settings = ObjectiveSettings(**ONLY | {term: 3.0})
    ideal = spectra[:, 0].abs() / spectra.sum(1).abs()
    assert float(objective(settings, masks_for(spectra, ideal), Truth(spectra, waveforms), FRONT_END)) == pytest.approx(
        0, abs=1e-5
    )
    assert float(objective(settings, masks_for(spectra, 0.0), Truth(spectra, waveforms), FRONT_END)) == pytest.approx(
        3.0, rel=0.15
    )


@pytest.mark.parametrize("gain", [1e-3, 30.0])
def test_objective_does_not_depend_on_the_level(gain: float) -> None:
    waveforms, spectra = scene()
    settings = ObjectiveSettings(magnitude=1.0, noise_weight=0.5)
    values = [
        float(objective(settings, masks_for(spectra, 0.6), Truth(g * spectra, g * waveforms), FRONT_END))
        for g in (1.0, gain)
    ]
    assert values[0] == pytest.approx(values[1], rel=1e-4)


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0, 2.0])
def test_masked_magnitude_of_any_divergence_vanishes_at_the_truth_only(beta: float) -> None:
    waveforms, spectra = scene()
    settings = ObjectiveSettings(**ONLY | {"magnitude": 1.0, "magnitude_beta": beta})
    ideal = (spectra[:, 0].abs() / spectra.sum(1).abs()).requires_grad_()
    loss = objective(settings, masks_for(spectra, ideal), Truth(spectra, waveforms), FRONT_END)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(0, abs=1e-5)
    assert float(ideal.grad.abs().max()) < 1e-3
    assert float(objective(settings, masks_for(spectra, 0.3), Truth(spectra, waveforms), FRONT_END)) > 0.01


def test_snr_term_counts_decibels() -> None:
    waveforms, _ = scene()
    target = waveforms[:, 0]
    torch.testing.assert_close(snr_db(0.9 * target, target), torch.full((2,), 20.0), rtol=0, atol=1e-3)
    _, spectra = scene()
    passed = objective(
        ObjectiveSettings(**ONLY | {"snr": 1.0}), masks_for(spectra, 1.0), Truth(spectra, waveforms), FRONT_END
    )
    expected = 10 * math.log10(float(waveforms[:, 0].square().sum() / waveforms[:, 1].square().sum()))
    assert -float(passed) == pytest.approx(expected, abs=0.1)


def test_si_sdr_term_is_the_score_and_ignores_the_gain() -> None:
    waveforms, _ = scene()
    target, estimate = waveforms[:, 0], waveforms[:, 0] + 0.3 * waveforms[:, 1]
    expected = [si_sdr(t.double().numpy(), e.double().numpy()) for t, e in zip(target, estimate)]
    for gain in (1.0, 0.05):
        assert si_sdr_db(gain * estimate, target).tolist() == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("term", ["snr", "si_sdr"])
def test_waveform_terms_fall_by_their_weight_per_decibel_gained(term: str) -> None:
    waveforms, spectra = scene()
    ideal = (spectra[:, 0] / spectra.sum(1)).abs().clamp_max(1)
    losses, decibels = [], []
    for speech in (0.9 * torch.ones_like(ideal), ideal):
        masks = masks_for(spectra, speech)
        losses.append(
            float(objective(ObjectiveSettings(**ONLY | {term: 0.1}), masks, Truth(spectra, waveforms), FRONT_END))
        )
        estimate = PAIR.synthesis(speech * spectra.sum(1), waveforms.shape[-1])
        score = {"snr": snr_db, "si_sdr": si_sdr_db}[term](estimate, waveforms[:, 0])
        decibels.append(float(score.mean()))
    assert decibels[1] > decibels[0] + 1
    assert losses[0] - losses[1] == pytest.approx(0.1 * (decibels[1] - decibels[0]), rel=1e-3)


def test_phase_sensitive_target_is_the_projection_clipped_at_zero() -> None:
    spectra = torch.tensor([1 + 1j, -2 + 0j]).reshape(1, 2, 1, 1)
    mixture = spectra.sum(1)  # -1 + 1j: speech is orthogonal to it, noise at 45 degrees
    target = phase_sensitive_target(spectra, mixture[:, None])
    torch.testing.assert_close(target.flatten(), torch.tensor([0.0, math.sqrt(2)]), rtol=0, atol=1e-6)
    assert (
        float(
            phase_sensitive_target(torch.tensor([1 + 0j, -3 + 0j]).reshape(1, 2, 1, 1), mixture[:, None] * 0 - 2)[0, 0]
        )
        == 0
    )


def test_gradients_are_finite_for_silent_targets() -> None:
    waveforms, spectra = scene()
    waveforms, spectra = waveforms.clone(), spectra.clone()
    waveforms[0], spectra[0] = 0, 0
    masks = masks_for(spectra, 0.5).clone().requires_grad_()
    objective(
        ObjectiveSettings(magnitude=1.0, phase_sensitive=True), masks, Truth(spectra, waveforms), FRONT_END
    ).backward()
    assert torch.isfinite(masks.grad).all()


@pytest.mark.parametrize("level", [0.0, 1e-6, 1.0])
def test_errors_of_targets_that_are_next_to_silent_are_relative_to_a_floor(level: float) -> None:
    target, estimate = level * torch.ones(1, 2, 2), (level + 1.0) * torch.ones(1, 2, 2)
    assert float(relative_error(estimate, target)) == pytest.approx(4 / (4 * level**2 + 1e-8), rel=1e-5)


def test_compression_weighs_quiet_bins_more() -> None:
    target = torch.tensor([1.0, 0.01]).reshape(1, 1, 2)
    quiet_wrong = target * torch.tensor([1.0, 0.5])
    assert relative_error(compressed(quiet_wrong, 0.3), compressed(target, 0.3)) > 50 * relative_error(
        compressed(quiet_wrong, 1.0), compressed(target, 1.0)
    )


def test_pauses_keep_clear_of_speech_and_of_what_noise_does_not_cover() -> None:
    clean, noisy = torch.zeros(1, 40), torch.ones(1, 40)
    clean[0, :10] = 1.0
    clean[0, 20] = 10 ** (-4.4) / 4  # 44 dB below the mean of the frames, which is a quarter
    clean[0, 30], noisy[0, 30] = 1e-6, 1e-5  # quiet, but only 10 dB below the mixture
    marked = pauses(clean, noisy)[0]
    assert marked.nonzero().flatten().tolist() == [13, 14, 15, 16, 24, 25, 26, 34, 35, 36, 37, 38, 39]


def test_the_term_on_pauses_counts_decibels_of_what_is_left_there() -> None:
    clean, mixture = torch.zeros(2, 5, 40), torch.ones(2, 5, 40)
    clean[:, :, :17] = 1.0
    share = 20 / 40
    for gain in (1.0, 0.1):
        expected = 10 * math.log10(gain**2 + 3e-4) * share
        assert float(residue_db(gain * mixture, clean, mixture)) == pytest.approx(expected, abs=1e-3)
    anywhere = residue_db(torch.cat([0.3 * mixture[..., :20], 0.1 * mixture[..., 20:]], -1), clean, mixture)
    assert float(anywhere) == pytest.approx(float(residue_db(0.1 * mixture, clean, mixture)), abs=1e-5)


def test_the_objective_takes_the_term_on_pauses_by_its_weight() -> None:
    waveforms, spectra = scene()
    spectra = spectra.clone()
    spectra[:, 0, :, 20:] = 0
    kept, removed = (masks_for(spectra, gain) for gain in (1.0, 0.01))
    settings = ObjectiveSettings(**ONLY | {"pauses": 0.5})
    losses = [float(objective(settings, masks, Truth(spectra, waveforms), FRONT_END)) for masks in (kept, removed)]
    share = (spectra.shape[-1] - 23) / spectra.shape[-1]
    depth = -10 * math.log10(1e-4 + 3e-4)
    assert losses[0] - losses[1] == pytest.approx(0.5 * share * depth, rel=1e-3)
