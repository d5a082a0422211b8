"""The dev score and its parts."""

import csv
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from deepnmf_cli.enhancer import Enhancer
from deepnmf_cli.errors import CorpusError, DeepnmfError
from deepnmf_cli.experiment import Recordings, train
from deepnmf_cli.networks.backend import TorchBackend
from deepnmf_cli.networks.dnn import Dnn, DnnSettings
from deepnmf_cli.recipe import Recipe
from deepnmf_cli.scoring.metrics import METRICS
from deepnmf_cli.scoring.perceptual import NoScore
from deepnmf_cli.scoring.sdr import si_sdr
from deepnmf_cli.signal.stft import FrontEnd
from deepnmf_cli.training import dev
from deepnmf_cli.training.dev import DevScore, check_dev, dev_score


def pairs(count: int) -> list:
    """Pairs at 8 kHz whose number can be told from their clean recording."""
    noise = np.random.default_rng(0).standard_normal((count, 4000)).astype(np.float32)
    clean = np.sin(np.arange(4000) / 9).astype(np.float32)
    return [(clean + i, clean + i + 0.1 * noise[i]) for i in range(count)]


def network() -> Dnn:
    return Dnn(DnnSettings(bins=129, context=1, hidden=(4,)))


def take_for_pesq(monkeypatch: pytest.MonkeyPatch, compute: Callable) -> None:
    monkeypatch.setitem(METRICS, "PESQ", replace(METRICS["PESQ"], compute=compute))


def test_score_is_si_sdr_plus_ten_times_pesq() -> None:
    assert DevScore(7.5).value == 7.5
    assert DevScore(7.5, 1.4).value == pytest.approx(7.5 + 14.0)


def test_the_score_is_that_of_what_enhancement_gives() -> None:
    """With an offset, which enhancement takes away before the network, and a pair that is longer than a block."""
    torch.manual_seed(0)
    made, draw = network(), np.random.default_rng(0)
    clean = 0.1 * draw.standard_normal(5 * 8000).astype(np.float32)
    noisy = clean + 0.05 * draw.standard_normal(len(clean)).astype(np.float32) + np.float32(0.5)
    trained = [p.requires_grad for p in made.parameters()]
    score = dev_score(made, FrontEnd(8000), [(clean, noisy)])
    assert [p.requires_grad for p in made.parameters()] == trained and made.training
    speech = Enhancer(TorchBackend(made), FrontEnd(8000)).enhance(noisy[None], 8000)[0]
    assert score.si_sdr == pytest.approx(si_sdr(clean.astype(float), speech.astype(float)), abs=1e-4)


@pytest.mark.parametrize("count,expected", [(5, 5), (90, dev.PESQ_PAIRS)])
def test_pesq_hears_the_same_few_pairs_every_time(count: int, expected: int, monkeypatch) -> None:
    heard = []

    def hear(clean: np.ndarray, estimate: np.ndarray, rate_hz: int) -> float:
        heard.append(round(float(clean.mean())))
        return 2.0

    take_for_pesq(monkeypatch, hear)
    scores = [dev_score(network(), FrontEnd(8000), pairs(count), score="si-sdr+pesq") for _ in range(2)]
    assert scores[0].pesq == 2.0 and len(heard) == 2 * expected == 2 * len(set(heard))
    assert heard[:expected] == heard[expected:]
    heard.clear()
    assert dev_score(network(), FrontEnd(8000), pairs(count)).pesq is None and not heard


def test_dev_recordings_without_speech_are_no_basis_for_pesq(monkeypatch) -> None:
    def refuse(*_) -> float:
        raise NoScore("PESQ: no utterance found")

    take_for_pesq(monkeypatch, refuse)
    with pytest.raises(DeepnmfError, match="no score that is finite"):
        dev_score(network(), FrontEnd(8000), pairs(2), score="si-sdr+pesq")


def speech(seconds: float) -> np.ndarray:
    """Bursts of noise at 8 kHz."""
    return np.random.default_rng(1).standard_normal(round(8000 * seconds)).astype(np.float32) * (
        np.sin(np.arange(round(8000 * seconds)) / 4000) > 0
    )


def test_dev_pairs_that_cannot_be_scored_are_said_before_the_first_step() -> None:
    good, silent, short = speech(2), np.zeros(16000, np.float32), speech(0.2)
    assert check_dev([(good, good)] * 3, 8000, "si-sdr+pesq") == []
    notes = check_dev(
        [(good, good), (silent, good), (good, silent), (short, short), (silent, good)], 8000, "si-sdr+pesq"
    )
    assert notes == [
        "dev: 2 of 5 pairs have no full score (the clean recording is silent), the first being pair 2",
        "dev: 1 of 5 pairs have no full score (the noisy recording is silent), the first being pair 3",
        "dev: 1 of 5 pairs have no full score (shorter than 0.25 s), the first being pair 4",
    ]
    assert check_dev([(short, short)], 8000) == []
    (note,) = check_dev([(long := np.tile(good, 100), long)], 8000)
    assert note.startswith("dev: a recording of 3.3 minutes is enhanced as a whole")


@pytest.mark.parametrize(
    "pairs, score, found",
    [
        (
            [(np.zeros(8000, np.float32), speech(1))],
            "si-sdr",
            r"no pair that can be scored \(the clean recording is silent",
        ),
        ([(speech(0.1), speech(0.1))], "si-sdr+pesq", r"no pair that can be scored \(shorter than 0.25 s"),
        ([], "si-sdr", r"no pair that can be scored \(none is there"),
        (
            [(speech(1), speech(1)), (speech(1), speech(1.1))],
            "si-sdr",
            r"a clean recording of 8000 samples beside a noisy one of 8800 \(pair 2\)",
        ),
    ],
)
def test_dev_pairs_without_any_score_are_refused(pairs, score: str, found: str) -> None:
    with pytest.raises(CorpusError, match=f"dev: found {found}"):
        check_dev(pairs, 8000, score)


def test_a_dev_recording_of_many_utterances_has_a_score() -> None:
    word = np.where(np.arange(4800) < 2400, speech(0.6), 0).astype(np.float32)
    words = np.tile(word, 75)  # in 45 s; PESQ can hold 50
    score = dev_score(network(), FrontEnd(8000), [(words, words)], score="si-sdr+pesq")
    assert 1 <= score.pesq <= 4.7 and np.isfinite(score.si_sdr)


def test_dev_recordings_are_checked_before_training(tiny_corpus: Path, tmp_path: Path) -> None:
    for kind, samples in (("clean", np.zeros(8000)), ("noisy", np.ones(8000) / 9)):
        shutil.copytree(tiny_corpus / "dev" / kind, tmp_path / "dev" / kind)
        soundfile.write(tmp_path / "dev" / kind / "zz.wav", samples, 8000)

    def end(report: dict) -> None:
        if "recording is silent" in report.get("note", ""):
            raise InterruptedError(report["note"])

    recipe = Recipe.from_dict({"model": "dnn", "front_end": {"rate_hz": 8000}})
    where = Recordings(speech=tiny_corpus / "speech", noise=tiny_corpus / "noise", dev=tmp_path / "dev")
    with pytest.raises(InterruptedError, match="the clean recording is silent"):
        train(recipe, where, tmp_path / "run", progress=end)


def test_runs_are_chosen_by_the_combined_score(tiny_corpus: Path, tmp_path: Path, monkeypatch) -> None:
    # Two dev pairs: the noisy recordings, the score of the beginning, then PESQ falls after the first score.
    qualities = iter([1.1] * 2 + [1.2] * 2 + [1.5] * 2 + [1.0] * 20)
    take_for_pesq(monkeypatch, lambda *_: next(qualities))
    recipe = Recipe.from_dict(
        {
            "model": "dnn",
            "network": {"context": 1, "hidden": [4]},
            "front_end": {"rate_hz": 8000},
            "mixing": {"segment_s": 0.5},
            "augmentation": {"equalizer_probability": 0.5},
            "training": {"steps": 20, "batch": 2, "score_every": 2, "score": "si-sdr+pesq", "patience": 2},
        }
    )
    where = Recordings(speech=tiny_corpus / "speech", noise=tiny_corpus / "noise", dev=tiny_corpus / "dev")
    assert train(recipe, where, tmp_path / "run")
    with open(tmp_path / "run/history.csv", newline="") as file:
        rows = [{key: float(value) for key, value in row.items() if value} for row in csv.DictReader(file)]
    assert [row["step"] for row in rows] == [2, 4, 6]  # two scores without a new best end the run
    assert [row["dev_pesq"] for row in rows] == [1.5, 1.0, 1.0]
    assert all(row["dev_score"] == pytest.approx(row["dev_si_sdr"] + 10 * row["dev_pesq"]) for row in rows)


def test_without_the_package_pesq_is_estimated_and_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dev.extras, "has", lambda package: package != "pesq")
    take_for_pesq(monkeypatch, lambda *arguments: pytest.fail("PESQ was computed"))
    (note,) = check_dev(pairs(2), 8000, "si-sdr+pesq")
    assert "PESQ is estimated" in note and "deepnmf[evaluate]" in note
    score = dev_score(network(), FrontEnd(rate_hz=8000), pairs(2), score="si-sdr+pesq")
    assert score.pesq is None and 1 <= score.pesq_estimated <= 4.65
    assert score.value == pytest.approx(score.si_sdr + 10 * score.pesq_estimated)
    assert dev_score(network(), FrontEnd(rate_hz=8000), pairs(2)).pesq_estimated is None
    assert not check_dev(pairs(2), 8000, "si-sdr")
