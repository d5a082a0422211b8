"""The unfolded projection: its frame, its proximal maps, and what stays bit for bit."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from deepnmf_cli import checkpoint
from deepnmf_cli.errors import ModelError
from deepnmf_cli.repair import autoregression, model
from deepnmf_cli.repair.projection import (
    BANDS,
    Observation,
    band_weights,
    nmf_wiener,
    persistent_wiener,
    problem,
    smoothed,
    soft_threshold,
    step,
)
from deepnmf_cli.repair.unfolded import ConsistentProjection, network
from deepnmf_cli.signal.tight_frame import TightFrame

RATE_HZ = 16000
DEMO = Path(__file__).parents[2] / "data" / "demo" / "clean.wav"


def draw(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


def gap(samples: np.ndarray, first: int, end: int) -> Observation:
    missing = np.zeros(samples.shape, bool)
    missing[..., first:end] = True
    infinite = np.full(samples.shape, np.inf)
    return Observation(np.where(missing, 0, samples), missing, -infinite, infinite)


def tensors(observed: Observation) -> Observation:
    values = (observed.samples, observed.missing, observed.lower, observed.upper)
    return Observation(*(torch.from_numpy(value.copy()) for value in values))


@pytest.mark.parametrize("length", [1, 31, 32, 500])
def test_the_frame_is_parseval(length):
    frame, samples = TightFrame(32), draw(2, length)
    coefficients = frame.analysis(samples)
    np.testing.assert_allclose(frame.synthesis(coefficients, length), samples, atol=1e-12)
    weights = np.full(frame.bins, 2.0)
    weights[[0, -1]] = 1
    energy = (weights * np.abs(coefficients) ** 2).sum((-2, -1))
    np.testing.assert_allclose(energy, (samples**2).sum(-1))


def test_synthesis_is_the_adjoint_of_the_analysis():
    frame, samples = TightFrame(16), draw(200)
    coefficients = frame.analysis(draw(200, seed=1)) * draw(frame.bins, seed=2)
    weights = np.full(frame.bins, 2.0)
    weights[[0, -1]] = 1
    inner = (weights * (frame.analysis(samples) * coefficients.conj()).real).sum()
    np.testing.assert_allclose(inner, (samples * frame.synthesis(coefficients, 200)).sum())


def test_smoothing_is_a_mean_over_neighbours():
    power, weights = draw(6, 5) ** 2, np.array([1.0, 2.0, 1.0])
    found = smoothed(power, weights, -2)
    for t in range(6):
        near = [power[min(max(t + k - 1, 0), 5)] for k in range(3)]
        np.testing.assert_allclose(found[t], (near[0] + 2 * near[1] + near[2]) / 4)


def test_soft_threshold_is_the_proximal_map_of_the_magnitude():
    c = np.array([[3 + 4j, 0.3 + 0.4j, 0]])
    np.testing.assert_allclose(soft_threshold(c, 1.0), [[2.4 + 3.2j, 0, 0]], atol=1e-9)


def test_persistent_gain_is_wiener_of_the_mean_power():
    c = np.ones((9, 9), complex)
    c[4, 4] = 10
    one, alone = np.ones(1), persistent_wiener(c, 2.0, np.ones(1), np.ones(1))
    np.testing.assert_allclose(alone[4, 4], 10 * (1 - 4 / 100))
    assert alone[0, 0] == 0
    np.testing.assert_allclose(persistent_wiener(c, 2.0, np.ones(3), one)[3, 4], 1 - 4 / 34)


def test_nmf_gain_is_wiener_of_the_model():
    dictionary = np.array([[1.0], [2.0], [0.0]])
    c = 3.0 * dictionary.T + 0j
    np.testing.assert_allclose(nmf_wiener(c, 1.0, dictionary)[0, :2], [3 * 0.9, 6 * 36 / 37], rtol=1e-6)


def test_bands_interpolate():
    weights = band_weights(257, 16000)
    assert weights.shape == (257, BANDS)
    np.testing.assert_allclose(weights.sum(-1), 1)
    assert weights[0, 0] == 1 and weights[-1, -1] == 1
    # Above 8 kHz the threshold of the highest band holds.
    assert (band_weights(257, 48000)[100:, -1] == 1).all()


def test_known_samples_stay_bit_for_bit_and_bounds_hold():
    samples = draw(1, 1000)
    observed = Observation(
        np.clip(samples, -0.5, 0.7), (samples > 0.7) | (samples < -0.5),
        np.where(samples > 0.7, 0.7, -np.inf), np.where(samples < -0.5, -0.5, np.inf),
    )  # fmt: skip
    found = observed.project(3 * draw(1, 1000, seed=1))
    assert np.array_equal(found[~observed.missing], samples[~observed.missing])
    assert (found[samples > 0.7] >= 0.7).all() and (found[samples < -0.5] <= -0.5).all()
    assert np.array_equal(observed.project(samples), samples)


@pytest.mark.parametrize("prox", ["l1", "pew", "nmf"])
def test_the_network_is_the_classical_iteration_in_numpy(prox):
    frame, samples = TightFrame(32), draw(2, 1000)
    dictionary = torch.rand(frame.bins, 3) if prox == "nmf" else None
    unfolded = network(ConsistentProjection(prox, momentum=0.3), 3, dictionary).double()
    observed = gap(samples, 480, 520)
    begun = problem(observed, frame, RATE_HZ, observed.samples)
    state = begun.start, begun.start
    for k in range(3):
        layer = {name: value.detach().numpy() for name, value in unfolded.bank.layer(k).items()}
        state = step(begun, state, layer, prox)
    estimate = state[0]
    found = unfolded(problem(tensors(observed), frame, RATE_HZ, torch.from_numpy(observed.samples)))
    np.testing.assert_allclose(found.detach().numpy(), estimate, atol=1e-7)
    assert np.array_equal(estimate[~observed.missing], samples[~observed.missing])
    assert not np.array_equal(estimate[observed.missing], np.zeros(observed.missing.sum()))
    found.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in unfolded.parameters())


def test_autoregression_continues_what_it_can_predict():
    time = np.arange(3000) / RATE_HZ
    samples = np.sin(2 * np.pi * 440 * time) + 0.5 * np.sin(2 * np.pi * 1234 * time + 1)
    observed = gap(samples, 1400, 1560)
    filled = autoregression.fill(observed.samples, observed.missing, RATE_HZ)
    assert np.array_equal(filled[~observed.missing], samples[~observed.missing])
    error = filled[1400:1560] - samples[1400:1560]
    assert 10 * np.log10((samples[1400:1560] ** 2).sum() / (error**2).sum()) > 15


def test_least_errors_minimises_what_the_filter_leaves():
    samples, errors = draw(60), np.array([1.0, -0.7, 0.2])
    missing = np.zeros(60, bool)
    missing[30:35] = True

    def left(x: np.ndarray) -> float:
        return (np.convolve(x, errors) ** 2).sum()

    filled = autoregression.least_errors(samples, missing, errors)
    assert np.array_equal(filled[~missing], samples[~missing])
    for place in range(30, 35):
        for change in (-1e-3, 1e-3):
            other = filled.copy()
            other[place] += change
            assert left(other) > left(filled)


def test_gaps_that_are_too_long_are_silent():
    filled = autoregression.fill(draw(8000), np.arange(8000) // 2000 == 1, RATE_HZ)
    assert not filled[2000:4000].any() and filled[:2000].all()


def test_a_file_of_its_parameters_rebuilds_the_network(tmp_path):
    unfolded = network(ConsistentProjection(), 2)
    settings = model.RepairSettings(layers=2)
    model.save(tmp_path / "m.safetensors", settings, unfolded.bank.values(), {"seed": 1})
    read = model.load(tmp_path / "m.safetensors")
    assert read.settings == settings and len(read.layers) == 2
    for k in range(2):
        for name, value in unfolded.bank.layer(k).items():
            np.testing.assert_allclose(read.layers[k][name], value.detach().numpy())
    samples = draw(1, 3000) + 5
    observed = gap(samples, 1400, 1500)
    found = read.restore(observed, RATE_HZ)
    assert np.array_equal(found[~observed.missing], samples[~observed.missing])
    # Level in, level out.
    np.testing.assert_allclose(read.restore(observed.scaled(100.0), RATE_HZ), 100 * found, rtol=1e-6)


@pytest.mark.parametrize("wrong", ["momentum_1", "slope_0"])
def test_a_file_that_lacks_a_parameter_is_refused(tmp_path, wrong):
    values = dict(network(ConsistentProjection(), 2).bank.values())
    for change in ({}, {wrong: torch.zeros(3)}):
        broken = {name: value for name, value in values.items() if name != wrong} | change
        model.save(tmp_path / "m.safetensors", model.RepairSettings(layers=2), broken, {})
        with pytest.raises(ModelError, match=f"no model of repair .*{wrong}"):
            model.load(tmp_path / "m.safetensors")


def test_a_file_of_a_newer_format_is_refused(tmp_path, monkeypatch):
    values = network(ConsistentProjection(), 2).bank.values()
    monkeypatch.setattr(checkpoint, "FORMAT", 99)
    model.save(tmp_path / "m.safetensors", model.RepairSettings(layers=2), values, {})
    monkeypatch.undo()
    with pytest.raises(ModelError, match="found format 99; expected format 2 or older"):
        model.load(tmp_path / "m.safetensors")


@pytest.mark.parametrize("task", model.TASKS)
def test_models_that_ship_are_small(task, models):
    assert models[task].count <= 100_000 and len(models[task].layers) <= 20
    assert model.shipped(task).stat().st_size < 1 << 20


@pytest.mark.parametrize(("task", "least_db"), [("fill-gaps", 6), ("declip", 4)])
def test_shipped_models_restore_speech(task, least_db, models):
    samples = soundfile.read(DEMO, start=12000, frames=12000)[0][None]
    if task == "fill-gaps":
        loudest = int(np.convolve(samples[0, 2000:-2000] ** 2, np.ones(80), "same").argmax()) + 2000
        observed = gap(samples, loudest - 40, loudest + 40)
    else:
        level = 0.3 * np.abs(samples).max()
        above, below = samples > level, samples < -level
        lower, upper = np.where(above, level, -np.inf), np.where(below, -level, np.inf)
        observed = Observation(np.clip(samples, -level, level), above | below, lower, upper)
    found = models[task].restore(observed, RATE_HZ)
    before, after = ((samples - x)[observed.missing] for x in (observed.samples, found))
    assert 10 * np.log10((before**2).sum() / (after**2).sum()) > least_db
