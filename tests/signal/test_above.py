"""Gains above the reach of a network: the slow twin, what they promise, and what they do to hiss and to sibilants."""

import numpy as np
import pytest

from deepnmf_cli import load_enhancer
from deepnmf_cli.signal.masks import EDGES, FARTHEST, LOWER_EDGES, SILENT, AboveBands, above_gains, weights
from deepnmf_cli.signal.stft import FrontEnd

FRONT_END = FrontEnd(hop_s=0.016, window_hops=4)
BINS = 513
ALL = np.ones((7, 1), np.float32)


def powers(frames: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    draw = np.random.default_rng(seed)
    below, above = (np.exp(draw.normal(-9, 2, (bands, frames))).astype(np.float32) for bands in (6, 7))
    return below, below * draw.uniform(0, 1, below.shape).astype(np.float32), above


def sigmoid(x: float) -> float:
    return 1 / (1 + np.exp(-x))


def twin(below: np.ndarray, kept: np.ndarray, above: np.ndarray, present: np.ndarray) -> np.ndarray:
    """The equations, number by number, in double precision."""
    w = {key: value.astype(float) for key, value in weights().items()}
    averages, spins, gains = np.zeros(14), np.zeros(len(w["spin"])), np.zeros(above.shape)
    for t in range(above.shape[1]):
        level, speech, mixture = ([np.log(float(p) + SILENT) for p in power[:, t]] for power in (above, kept, below))
        share = [min(max(speech[b] - mixture[b], -FARTHEST), 0) for b in range(6)]
        inputs = [*share, speech[4] - speech[1], mixture[4] - mixture[1]]
        inputs += [(level[b] - speech[4]) * present[b, 0] for b in range(7)]
        for i in range(14):
            if t == 0:
                averages[i] = level[i % 7]
            averages[i] += sigmoid(w["rate"][i] @ share + w["rate_bias"][i]) * (level[i % 7] - averages[i])
            inputs.append((level[i % 7] - averages[i]) * present[i % 7, 0])
        inputs = [min(max(x, -FARTHEST), FARTHEST) for x in inputs]
        for i in range(len(spins)):
            aim = np.tanh(w["spin"][i] @ inputs + w["spin_bias"][i])
            if t == 0:
                spins[i] = aim
            spins[i] += sigmoid(w["spin_rate"][i] @ inputs + w["spin_rate_bias"][i]) * (aim - spins[i])
        highest = np.sqrt(kept[5, t] / below[5, t])
        for b in range(7):
            gains[b, t] = sigmoid(w["gain"][b] @ spins + w["gain_bias"][b] + np.log(highest / (1 - highest)))
    return gains


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("bands", [7, 3])
def test_gains_are_those_of_the_equations(seed: int, bands: int) -> None:
    below, kept, above = powers(40, seed)
    present = (np.arange(7)[:, None] < bands).astype(np.float32)
    gains, _ = above_gains(below, kept, above, present, None)
    np.testing.assert_allclose(gains, twin(below, kept, above, present), atol=2e-5)


def test_blocks_give_what_the_whole_gives() -> None:
    below, kept, above = powers(30)
    whole, last = above_gains(below, kept, above, ALL, None)
    state, parts = None, []
    for piece in (slice(0, 1), slice(1, 12), slice(12, 30)):
        gains, state = above_gains(below[:, piece], kept[:, piece], above[:, piece], ALL, state)
        parts.append(gains)
    np.testing.assert_allclose(np.concatenate(parts, 1), whole, atol=1e-6)
    for found, expected in zip(state, last, strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("gain_db", [-40, 30])
def test_gains_do_not_depend_on_the_level(gain_db: float) -> None:
    below, kept, above = powers(50)
    gain = np.float32(10 ** (gain_db / 10))
    expected, _ = above_gains(below, kept, above, ALL, None)
    found, _ = above_gains(gain * below, gain * kept, gain * above, ALL, None)
    np.testing.assert_allclose(found, expected, atol=1e-3)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_a_network_that_keeps_nothing_or_everything_does_so_above(share: float) -> None:
    below, _, above = powers(20)
    below[:, 5:9] = 0
    gains, _ = above_gains(below, np.float32(share) * below, above, ALL, None)
    np.testing.assert_allclose(gains[:, :5], share, atol=1e-6)
    np.testing.assert_allclose(gains[:, 9:], share, atol=1e-6)
    np.testing.assert_allclose(gains[:, 5:9], 1)  # nothing was taken away


def test_a_band_that_a_rate_does_not_have_changes_nothing() -> None:
    below, kept, above = powers(30)
    present = (np.arange(7)[:, None] < 3).astype(np.float32)
    other = above.copy()
    other[3:] = 1.0
    first, second = (above_gains(below, kept, x, present, None)[0] for x in (above, other))
    np.testing.assert_array_equal(first[:3], second[:3])


@pytest.mark.parametrize("rate_hz,bands", [(22050, 3), (24000, 3), (32000, 5), (44100, 7), (96000, 7)])
def test_bands_hold_every_bin_above_once(rate_hz: int, bands: int) -> None:
    found = AboveBands(FRONT_END.pair(rate_hz), BINS)
    assert found.present.sum() == bands
    below, above = found.means
    np.testing.assert_allclose(below.sum(1), 1)
    assert ((above > 0).sum(0) == 1).all()
    hz = np.arange(found.pair.bins)[BINS:] * 8000 / (BINS - 1)
    for band, (start, end) in enumerate(zip(EDGES, (*EDGES[1:], np.inf), strict=True)):
        inside = hz[found.band_of_bin == band]
        assert ((inside > start * 8000) & (inside <= end * 8000)).all()
    ends = found.ends_below
    for band in range(6):
        assert np.flatnonzero(below[band])[[0, -1]].tolist() == [ends[band], ends[band + 1] - 1]
    assert abs(ends * 8000 / (BINS - 1) - np.array(LOWER_EDGES) * 8000).max() <= 16


def test_hiss_goes_and_a_sibilant_stays() -> None:
    """White noise, and in it for an eighth of a second, 30 dB louder, noise from 4 to 15 kHz with a voice before and after."""
    rate_hz, draw = 48000, np.random.default_rng(1)
    time_s = np.arange(3 * rate_hz) / rate_hz
    voice = sum(np.sin(2 * np.pi * 140 * k * time_s) / k for k in range(1, 25))
    voice *= 0.05 * ((time_s > 1.6) & (time_s < 2.4) & ~((time_s > 1.95) & (time_s < 2.08)))
    spectrum, hz = np.fft.rfft(draw.standard_normal(len(time_s))), np.fft.rfftfreq(len(time_s), 1 / rate_hz)
    sibilant = 0.06 * np.fft.irfft(spectrum * ((hz > 4000) & (hz < 15000)), len(time_s))
    sibilant *= (time_s > 1.95) & (time_s < 2.08)
    hiss = 0.002 * draw.standard_normal(len(time_s))
    out = load_enhancer("base", device="cpu").enhance((voice + sibilant + hiss)[None].astype(np.float32), rate_hz)[0]

    def power_db(samples: np.ndarray, start_s: float, end_s: float) -> float:
        piece = samples[round(start_s * rate_hz) : round(end_s * rate_hz)]
        power = abs(np.fft.rfft(piece * np.hanning(len(piece)))) ** 2
        hz = np.fft.rfftfreq(len(piece), 1 / rate_hz)
        return 10 * np.log10(power[(hz > 9000) & (hz < 14000)].sum())

    assert power_db(out, 0.5, 1.5) < power_db(hiss, 0.5, 1.5) - 15
    assert power_db(out, 1.97, 2.06) > power_db(sibilant, 1.97, 2.06) - 3
