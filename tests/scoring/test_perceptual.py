"""PESQ, STOI and ESTOI: frozen values, other rates, and signals for which they are not defined."""

import numpy as np
import pytest

from deepnmf_cli.scoring import perceptual
from deepnmf_cli.scoring.perceptual import NoScore, pesq_score, stoi_score

CASES = ["noise at 0 dB", "noise at 20 dB", "filtered with noise at 10 dB", "8 kHz with noise at 3 dB"]


def noise(length: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(length)


@pytest.mark.parametrize("case", CASES)
def test_pesq_equals_the_golden_value(case, signals, golden):
    assert pesq_score(*signals[case]) == pytest.approx(golden[case]["PESQ"], abs=1e-3)


@pytest.mark.parametrize("case", CASES)
def test_stoi_and_estoi_equal_the_golden_values(case, signals, golden):
    assert stoi_score(*signals[case]) == pytest.approx(golden[case]["STOI"], abs=1e-5)
    assert stoi_score(*signals[case], extended=True) == pytest.approx(golden[case]["ESTOI"], abs=1e-5)


@pytest.mark.parametrize("rate_hz", [11025, 44100, 48000])
def test_pesq_at_other_rates_is_that_of_the_signals_at_16_khz(rate_hz, signals, golden):
    import soxr

    reference, estimate, from_hz = signals["noise at 20 dB"]
    resampled = [soxr.resample(x, from_hz, rate_hz, "VHQ") for x in (reference, estimate)]
    expected = pesq_score(*(soxr.resample(x, rate_hz, 16000, "VHQ") for x in resampled), 16000)
    assert pesq_score(*resampled, rate_hz) == pytest.approx(expected, abs=1e-6)
    if rate_hz > from_hz:
        assert expected == pytest.approx(golden["noise at 20 dB"]["PESQ"], abs=0.05)


def test_pesq_needs_a_quarter_of_a_second():
    with pytest.raises(NoScore, match="PESQ: too short"):
        pesq_score(noise(3000), noise(3000), 16000)


def test_pesq_needs_an_utterance():
    burst = np.pad(noise(800), 8000)
    with pytest.raises(NoScore, match="PESQ: no utterance found"):
        pesq_score(burst, burst + 1e-4 * noise(len(burst)), 16000)


@pytest.mark.parametrize("samples", [1, 200, 479, 480, 4000])
@pytest.mark.parametrize("extended", [False, True])
def test_stoi_needs_30_frames_of_speech(samples, extended):
    with pytest.raises(NoScore, match="ESTOI: too" if extended else "STOI: too"):
        stoi_score(noise(samples), noise(samples), 16000, extended)


def test_long_signals_score_the_same_in_a_process_of_their_own(signals, monkeypatch):
    expected = pesq_score(*signals["noise at 20 dB"])
    monkeypatch.setattr(perceptual, "LONGEST_SAFE_PESQ_S", 1)
    assert pesq_score(*signals["noise at 20 dB"]) == expected


def test_a_crash_of_pesq_is_a_missing_score(signals, monkeypatch):
    monkeypatch.setattr(perceptual, "LONGEST_SAFE_PESQ_S", 1)
    monkeypatch.setattr(perceptual, "_ISOLATED_PESQ", "import os; os.kill(os.getpid(), 9)")
    with pytest.raises(NoScore, match="PESQ: crashed"):
        pesq_score(*signals["noise at 20 dB"])


def test_a_failure_of_pesq_in_its_own_process_says_why(monkeypatch):
    monkeypatch.setattr(perceptual, "LONGEST_SAFE_PESQ_S", 0)
    with pytest.raises(NoScore, match="PESQ: .*No utterances"):
        pesq_score(np.pad(noise(800), 8000), np.pad(noise(800), 8000), 16000)
