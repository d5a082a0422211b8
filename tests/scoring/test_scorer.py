"""Scores of arrays, files and enhanced files; processes that give the same numbers, and errors that travel."""

import dataclasses
import math
import os
from concurrent.futures import Future

import numpy as np
import pytest

from deepnmf_cli.errors import CorpusError, DeepnmfError, ModelError
from deepnmf_cli.scoring.metrics import METRICS
from deepnmf_cli.scoring.pairing import Pair
from deepnmf_cli.scoring.scorer import Scores, ScoringPool, _done, score, score_enhanced, score_files


@pytest.fixture(scope="module")
def channels(signals):
    """(reference, noisier, cleaner), each (N,), 16 kHz."""
    reference, noisier, _ = signals["noise at 0 dB"]
    return reference, noisier, signals["noise at 20 dB"][1]


@pytest.fixture
def pairs(write, channels):
    reference, noisier, cleaner = channels
    return [
        Pair(name, write(f"clean/{name}.wav", reference), write(f"noisy/{name}.wav", noisy))
        for name, noisy in (("one", noisier), ("two", cleaner))
    ]


def end_the_process(*_: object) -> Scores:
    """A call that does what running out of memory does."""
    import os

    os._exit(1)


def test_every_measure_has_its_golden_value(signals, golden):
    for case in ("noise at 0 dB", "8 kHz with noise at 3 dB"):
        reference, estimate, rate_hz = signals[case]
        scores = score(reference[None], estimate[None], rate_hz, case)
        assert scores.values == pytest.approx(golden[case], abs=1e-3)
        assert list(scores.values) == list(METRICS)
        assert (scores.name, scores.notes, scores.seconds, scores.rate_hz) == (case, (), 3.0, rate_hz)


def test_channels_score_their_mean(channels):
    reference, noisier, cleaner = channels
    one, other = (score(reference[None], estimate[None], 16000) for estimate in (noisier, cleaner))
    both = score(np.stack([reference, reference]), np.stack([noisier, cleaner]), 16000)
    expected = {metric: (one.values[metric] + other.values[metric]) / 2 for metric in METRICS}
    assert both.values == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("role", ["reference", "estimate"])
def test_silence_has_no_score_and_a_note(channels, role):
    signals = {"reference": channels[0], "estimate": channels[1]} | {role: np.zeros_like(channels[0])}
    scores = score(signals["reference"][None], signals["estimate"][None], 16000)
    assert all(map(math.isnan, scores.values.values()))
    assert scores.notes == (f"all: the {role} is silent",)


def test_a_silent_channel_is_left_out_with_a_note(channels):
    reference, noisier, _ = channels
    mono = score(reference[None], noisier[None], 16000)
    stereo = score(np.stack([reference, np.zeros_like(reference)]), np.stack([noisier, noisier]), 16000)
    assert stereo.values == pytest.approx(mono.values, abs=1e-9)
    assert stereo.notes == ("all: the reference is silent",)


def test_a_signal_too_short_for_the_perceptual_measures_has_the_others(channels):
    reference, noisier, _ = (channel[2000:3000] for channel in channels)
    scores = score(reference[None], noisier[None], 16000)
    assert {metric for metric in METRICS if math.isnan(scores.values[metric])} == {"PESQ", "STOI", "ESTOI"}
    assert scores.notes == ("PESQ: too short", "STOI: too little speech", "ESTOI: too little speech")


@pytest.mark.parametrize("samples", [1, 2, 100])
def test_a_few_samples_do_not_crash(samples):
    scores = score(np.ones((1, samples)), np.ones((1, samples)), 16000)
    assert scores.values["SDR"] == pytest.approx(100, abs=0.1) and len(scores.notes) == 4
    assert "SI-SDR: a constant signal" in scores.notes


@pytest.mark.parametrize("rate_hz", [1000, 44100, 192000])
@pytest.mark.parametrize(
    "kind", ["one sample", "two samples", "constant", "nearly constant", "impulse", "subnormal", "loud"]
)
def test_no_signal_ends_in_a_failure_or_an_infinite_score(kind, rate_hz, channels):
    reference, noisier, _ = (channel[: rate_hz // 2] for channel in channels)
    odd = {
        "one sample": noisier[250:251],
        "two samples": noisier[250:252],
        "constant": np.full_like(noisier, 0.1),
        "nearly constant": np.where(np.arange(len(noisier)) == 9, np.nextafter(0.1, 1), 0.1),
        "impulse": np.where(np.arange(len(noisier)) == 9, 1.0, 0.0),
        "subnormal": np.where(np.arange(len(noisier)) % 7, 0.0, 5e-324),
        "loud": 3e38 * noisier / np.abs(noisier).max(),
    }[kind]
    pairs = [(odd, odd), (reference[: len(odd)] + 1e-3, odd), (odd, reference[: len(odd)] + 1e-3)]
    for one, other in pairs:
        scores = score(one[None], other[None], rate_hz)
        for metric, value in scores.values.items():
            assert math.isfinite(value) or any(note.startswith((metric, "all")) for note in scores.notes)


def test_64_channels_have_one_score(channels):
    many = [np.tile(channel[2000:4000], (64, 1)) for channel in channels[:2]]
    one = score(many[0][:1], many[1][:1], 16000)
    assert score(*many, 16000).values == pytest.approx(one.values, abs=1e-9, nan_ok=True)


def test_what_is_finished_is_not_scored_again_and_the_others_are_kept(pairs):
    known = {pairs[1]: Scores("two", dict.fromkeys(METRICS, 1.0), (), 7.0, 16000)}

    class Finished:
        get = known.get
        add = known.__setitem__

    enhanced, seconds = [], []
    with ScoringPool() as pool:
        one, two = score_enhanced(pairs, lambda x, _: enhanced.append(x) or x, pool, seconds.append, Finished())
        again = score_files(pairs, pool, None, Finished())
    assert two.values["SDR"] == 1.0 and seconds == [7.0, 3.0] and len(enhanced) == 1
    assert again == [one, two] == [known[pair] for pair in pairs]


def test_what_is_done_comes_before_what_failed():
    pending = {Future(): number for number in range(4)}
    failed, one, waiting, other = pending
    failed.set_exception(CorpusError("a", "b", "c", "d"))
    one.set_result("one")
    other.set_result("other")
    done = _done(pending)
    assert {next(done), next(done)} == {(1, "one"), (3, "other")}
    with pytest.raises(CorpusError):
        next(done)
    assert list(pending) == [waiting]


def test_one_process_is_this_one_where_no_number_is_named():
    with ScoringPool() as pool:
        assert list(pool.map(lambda: os.getpid(), [(), ()])) == [(0, os.getpid()), (1, os.getpid())]


def test_files_are_scored_in_order_with_progress(pairs, golden):
    seconds: list[float] = []
    with ScoringPool() as pool:
        one, two = score_files(pairs, pool, seconds.append)
    assert (one.name, two.name, seconds) == ("one", "two", [3.0, 3.0])
    assert one.values == pytest.approx(golden["noise at 0 dB"], abs=1e-3)
    assert two.values == pytest.approx(golden["noise at 20 dB"], abs=1e-3)


def test_enhanced_files_are_scored_as_files_of_the_enhanced_signals(pairs, channels, write):
    shapes = []

    def enhance(samples, rate_hz):
        shapes.append((samples.shape, samples.dtype, rate_hz))
        return samples - np.float32(0.5) * samples

    enhanced = [Pair("one", pairs[0].reference, write("out/one.wav", 0.5 * channels[1]))]
    with ScoringPool() as pool:
        (by_model,) = score_enhanced(pairs[:1], enhance, pool)
        (by_file,) = score_files(enhanced, pool)
    assert shapes == [((1, 48000), np.float32, 16000)]
    assert by_model.values == pytest.approx(by_file.values, abs=1e-4)


def test_a_model_hears_the_rate_that_is_asked_for(pairs):
    heard = []
    asked = [dataclasses.replace(pairs[0], rate_hz=8000)]
    with ScoringPool() as pool:
        (scores,) = score_enhanced(
            asked, lambda x, rate_hz: heard.append((x.shape, rate_hz)) or x, pool, metrics=["SDR"]
        )
    assert heard == [((1, 24000), 8000)] and scores.rate_hz == 8000


@pytest.mark.parametrize("spoil", [lambda x: x[:, 1:], lambda x: x * np.float32(np.nan), lambda x: x[0]])
def test_a_model_that_breaks_its_promise_is_named_with_the_file(pairs, spoil):
    with ScoringPool() as pool, pytest.raises(ModelError, match=r"noisy.one\.wav: found an enhanced signal of shape"):
        score_enhanced(pairs, lambda samples, rate_hz: spoil(samples), pool)


def test_processes_give_the_same_scores_and_hand_on_errors(pairs, tmp_path, write):
    with ScoringPool() as pool:
        alone = score_files(pairs, pool)
    bad = Pair("bad", pairs[0].reference, write("bad.wav", np.zeros(100)))
    with ScoringPool(jobs=2) as pool:
        together = score_files(pairs * 3, pool)
        enhanced = score_enhanced(pairs, lambda samples, rate_hz: samples, pool)
        with pytest.raises(CorpusError, match="found 100 samples; expected 48000 samples"):
            score_files([*pairs, bad], pool)
    assert [one.name for one in together] == ["one", "two"] * 3
    for one, other in zip(together + enhanced, alone * 4, strict=True):
        assert one.values == pytest.approx(other.values, abs=1e-4)


def test_a_process_that_ends_is_an_error_with_a_remedy(monkeypatch):
    with ScoringPool(jobs=2) as pool, pytest.raises(DeepnmfError, match="use fewer with --jobs"):
        list(pool.map(end_the_process, [(None,)]))
