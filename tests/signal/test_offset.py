"""Constant offset: found at once, forgotten in silence, and never part of what the network decides on."""

import numpy as np
import pytest

from deepnmf_cli.signal.offset import TIME_CONSTANT_HOPS, Offset, RunningMean

HOP = 64


def noise(seed=0, hops=40, channels=2):
    return np.random.default_rng(seed).standard_normal((channels, hops * HOP)).astype(np.float32)


def test_mean_is_exact_from_the_first_value_on_and_forgets():
    mean = RunningMean(2)
    values = np.array([3.0, 1.0, 2.0])
    assert mean.follow(values)[1::2] == pytest.approx([3.0, 2.0, 2.0], rel=0.01)
    assert mean.follow(np.full(20 * TIME_CONSTANT_HOPS, 5.0))[-1] == pytest.approx(5.0)


@pytest.mark.parametrize("pieces", [[40], [1] * 40, [3, 17, 20]])
def test_a_constant_is_taken_away_whole_whatever_the_pieces(pieces):
    offset, samples = Offset(2, HOP), np.full((2, 40 * HOP), 0.25, np.float32)
    ends = np.cumsum(pieces) * HOP
    left = [offset.remove(part) for part in np.split(samples, ends[:-1], axis=1)]
    np.testing.assert_allclose(np.concatenate(left, 1), 0, atol=1e-7)


@pytest.mark.parametrize("gain", [0.0, 0.3, 1.0])
def test_what_is_taken_away_comes_back_with_the_gain_of_the_mask(gain):
    """With a mask of one everywhere the samples come back as they were, one hop later."""
    offset, samples = Offset(2, HOP), noise() + 0.25
    removed = np.concatenate([offset.remove(samples[:, : 7 * HOP]), offset.remove(samples[:, 7 * HOP :])], 1)
    late = np.concatenate([np.zeros((2, HOP)), removed[:, :-HOP]], 1)
    out = offset.restore(gain * late, np.full(40, gain))
    expected = np.concatenate([np.zeros((2, HOP)), samples[:, :-HOP]], 1)
    np.testing.assert_allclose(out, gain * expected, atol=1e-6)


def test_gain_of_the_offset_is_the_harmonic_mean_over_frames():
    """So that frames which keep everything cannot bring an offset back that others took for noise."""
    offset, samples = Offset(1, HOP), np.full((1, 4 * HOP), 0.25, np.float32)
    offset.remove(samples)
    out = offset.restore(np.zeros((1, 4 * HOP), np.float32), np.array([0.5, 1.0, 0.1, 0.25]))
    expected = 0.25 * 4 / (1 / 0.5 + 1 / 1.0 + 1 / 0.1 + 1 / 0.25)  # after four hops nothing is forgotten to speak of
    assert out[0, -1] == pytest.approx(expected, rel=0.01)


def test_a_hop_of_zeros_proves_that_there_is_no_offset():
    offset, samples = Offset(1, HOP), 0.1 * noise(channels=1) + 0.25
    samples[:, 10 * HOP : 20 * HOP] = 0
    left = offset.remove(samples)
    assert not left[:, 11 * HOP : 20 * HOP].any()
    assert np.abs(left[:, 21 * HOP :].mean()) < 0.02


def test_a_mean_forgets_within_four_seconds():
    """Of hops of 16 ms: each weighs 1 - 0.016/4 of the one after it."""
    keep, hops = 1 - 0.016 / 4, 1000
    values = np.zeros(hops)
    values[0] = 1
    weights = keep ** np.arange(hops)
    np.testing.assert_allclose(RunningMean(1).follow(values), weights / np.cumsum(weights), rtol=1e-9)
