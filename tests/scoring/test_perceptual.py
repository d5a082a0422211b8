"""PESQ, STOI and ESTOI: frozen values, other rates, and signals for which they are not defined."""

import numpy as np
import pytest

from deepnmf_cli.scoring import perceptual
from deepnmf_cli.scoring.metrics import ALL
from deepnmf_cli.scoring.perceptual import NoScore, pesq_score, remember_last, stoi_score

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


def test_where_pesq_crashes_the_pieces_are_scored(signals, monkeypatch):
    reference, estimate, rate_hz = signals["noise at 20 dB"]
    half = len(reference) // 2
    scores = [pesq_score(reference[cut], estimate[cut], rate_hz) for cut in (slice(half), slice(half, None))]
    monkeypatch.setattr(perceptual, "LONGEST_SAFE_PESQ_S", 2)
    monkeypatch.setattr(perceptual, "PIECE_S", 2)
    monkeypatch.setattr(perceptual, "_ISOLATED_PESQ", "import os; os.kill(os.getpid(), 9)")
    assert min(scores) < pesq_score(reference, estimate, rate_hz) < max(scores)


def test_a_failure_of_pesq_in_its_own_process_says_why(signals, monkeypatch):
    monkeypatch.setattr(perceptual, "LONGEST_SAFE_PESQ_S", 0)
    with pytest.raises(NoScore, match="PESQ: no utterance found"):
        pesq_score(np.pad(noise(800), 8000), np.pad(noise(800), 8000), 16000)
    monkeypatch.setattr(perceptual, "_ISOLATED_PESQ", "raise MemoryError('no room')")
    with pytest.raises(NoScore, match="PESQ: MemoryError: no room"):
        pesq_score(*signals["noise at 20 dB"])


def test_a_long_recording_scores_the_mean_of_its_pieces_weighted_by_speech(signals, monkeypatch):
    reference, noisier, rate_hz = signals["noise at 0 dB"]
    cleaner = signals["noise at 20 dB"][1]
    mostly_silent = np.where(np.arange(48000) < 24000, reference, 0)
    whole = [np.concatenate([reference, mostly_silent, 0 * reference]), np.concatenate([cleaner, noisier, noisier])]
    measures = [pesq_score, stoi_score, lambda *given: stoi_score(*given, extended=True)]
    parts = [
        [measure(r, e, rate_hz) for measure in measures] for r, e in ((reference, cleaner), (mostly_silent, noisier))
    ]
    monkeypatch.setattr(perceptual, "PIECE_S", 3)
    (first, one_s), (second, other_s) = perceptual.pieces(whole[0], rate_hz)  # the silent piece is none
    assert (first, second) == (slice(0, 48000), slice(48000, 96000))
    assert one_s == pytest.approx(2 * other_s, rel=0.1) and 1 < one_s < 2.2
    share = one_s / (one_s + other_s)
    for measure, one, other in zip(measures, *parts, strict=True):
        monkeypatch.setattr(perceptual, "LONGEST_WHOLE_S", 5)
        assert measure(*whole, rate_hz) == pytest.approx(share * one + (1 - share) * other, abs=1e-6)


@pytest.mark.parametrize(("level_db", "expected_s"), [(-39.0, 2.0), (-41.0, 1.0)])
def test_speech_is_what_is_less_than_40_decibels_below_the_loudest(level_db, expected_s):
    reference = np.repeat([1.0, 10 ** (level_db / 20)], 16000)
    assert perceptual.pieces(reference, 16000) == [(slice(0, 32000), pytest.approx(expected_s, abs=0.02))]


def test_a_recording_up_to_40_s_is_scored_as_a_whole(signals):
    import pesq
    import pystoi

    reference, estimate = (np.tile(x, 8) for x in signals["noise at 20 dB"][:2])
    assert len(reference) == 24 * 16000
    assert pesq_score(reference, estimate, 16000) == pesq.pesq(16000, reference, estimate, "wb")
    assert stoi_score(reference, estimate, 16000) == pystoi.stoi(reference, estimate, 16000)


def test_more_utterances_than_pesq_can_hold_have_a_score():
    words = np.tile(np.pad(noise(4800), (0, 4800)), 100)  # 100 words in 60 s
    assert pesq_score(words, words, 16000) > 4.5


def test_a_piece_in_which_the_estimate_is_silent_has_the_lowest_score(signals, monkeypatch):
    monkeypatch.setattr(perceptual, "LONGEST_WHOLE_S", 2)
    monkeypatch.setattr(perceptual, "PIECE_S", 3)
    reference = np.tile(signals["noise at 20 dB"][0], 2)
    muted = np.where(np.arange(96000) < 48000, reference, 0)
    assert pesq_score(reference, muted, 16000) == pytest.approx((4.6439 + 1) / 2, abs=1e-3)
    assert stoi_score(reference, muted, 16000) == pytest.approx(0.5, abs=1e-6)


def test_a_long_recording_without_any_scored_piece_says_why(monkeypatch):
    monkeypatch.setattr(perceptual, "LONGEST_WHOLE_S", 1)
    clicks = np.zeros(64000)
    clicks[::32000] = 1
    with pytest.raises(NoScore, match="STOI: too little speech"):
        stoi_score(clicks, noise(64000), 16000)


@pytest.mark.parametrize("levels", [(1e-30, 1e-30), (1e-300, 1e-9), (1, 1e-300), (1e38, 1), (1, 1e38), (1e20, 1e20)])
def test_the_level_of_either_signal_does_not_matter(levels, signals, golden):
    reference, estimate, rate_hz = signals["noise at 0 dB"]
    given = levels[0] * reference, levels[1] * estimate, rate_hz
    assert pesq_score(*given) == pytest.approx(golden["noise at 0 dB"]["PESQ"], abs=1e-3)
    assert stoi_score(*given) == pytest.approx(golden["noise at 0 dB"]["STOI"], abs=1e-5)
    assert stoi_score(*given, extended=True) == pytest.approx(golden["noise at 0 dB"]["ESTOI"], abs=1e-5)


@pytest.mark.parametrize("rate_hz", [44100, 48000, 192000, 768000])
def test_a_sample_that_resampling_leaves_nothing_of_is_too_short(rate_hz):
    with pytest.raises(NoScore, match="PESQ: too short"):
        pesq_score(np.ones(1), np.ones(1), rate_hz)


def test_stoi_at_a_rate_of_no_simple_ratio_is_near_that_of_its_neighbour(signals):
    reference, estimate, _ = signals["noise at 0 dB"]
    assert stoi_score(reference, estimate, 16001) == pytest.approx(stoi_score(reference, estimate, 16000), abs=2e-3)


def test_scores_asked_for_one_after_the_other_share_a_computation_of_the_same_signals():
    asked = []
    shared = remember_last(lambda reference, estimate, rate_hz: asked.append(rate_hz) or reference.sum() * rate_hz)
    one, other = noise(100), noise(100) + 1
    assert shared(one, other, 16000) == shared(one.copy(), other.copy(), 16000) == one.sum() * 16000
    assert asked == [16000]
    assert shared(other, one, 16000) == other.sum() * 16000
    assert shared(other, one, 8000) == other.sum() * 8000
    assert asked == [16000, 16000, 8000]


def test_pesq_and_the_composites_compute_pesq_once(signals, monkeypatch):
    computed, whole = [], perceptual._whole_pesq
    monkeypatch.setattr(perceptual, "_whole_pesq", lambda *given: computed.append(given) or whole(*given))
    for name in ("PESQ", "CSIG", "CBAK", "COVL"):
        ALL[name].compute(*(x.copy() for x in signals["noise at 20 dB"][:2]), 16000)
    assert len(computed) == 1
