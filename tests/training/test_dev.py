"""The dev score and its parts."""

import csv
from pathlib import Path

import numpy as np
import pytest

from deepnmf_cli.errors import DeepnmfError
from deepnmf_cli.experiment import Recordings, train
from deepnmf_cli.networks.dnn import Dnn, DnnSettings
from deepnmf_cli.recipe import Recipe
from deepnmf_cli.scoring.perceptual import NoScore
from deepnmf_cli.signal.stft import FrontEnd
from deepnmf_cli.training import dev
from deepnmf_cli.training.dev import DevScore, dev_score


def pairs(count: int) -> list:
    """Pairs at 8 kHz whose number can be told from their clean recording."""
    noise = np.random.default_rng(0).standard_normal((count, 4000)).astype(np.float32)
    clean = np.sin(np.arange(4000) / 9).astype(np.float32)
    return [(clean + i, clean + i + 0.1 * noise[i]) for i in range(count)]


def network() -> Dnn:
    return Dnn(DnnSettings(bins=129, context=1, hidden=(4,)))


def test_score_is_si_sdr_plus_ten_times_pesq() -> None:
    assert DevScore(7.5).value == 7.5
    assert DevScore(7.5, 1.4).value == pytest.approx(7.5 + 14.0)


@pytest.mark.parametrize("count,expected", [(5, 5), (90, dev.PESQ_PAIRS)])
def test_pesq_hears_the_same_few_pairs_every_time(count: int, expected: int, monkeypatch) -> None:
    heard = []

    def hear(clean: np.ndarray, estimate: np.ndarray, rate_hz: int) -> float:
        heard.append(round(float(clean.mean())))
        return 2.0

    monkeypatch.setattr(dev, "pesq_score", hear)
    scores = [dev_score(network(), FrontEnd(8000), pairs(count), score="si-sdr+pesq") for _ in range(2)]
    assert scores[0].pesq == 2.0 and len(heard) == 2 * expected == 2 * len(set(heard))
    assert heard[:expected] == heard[expected:]
    heard.clear()
    assert dev_score(network(), FrontEnd(8000), pairs(count)).pesq is None and not heard


def test_dev_recordings_without_speech_are_no_basis_for_pesq(monkeypatch) -> None:
    def refuse(*_) -> float:
        raise NoScore("PESQ: no utterance found")

    monkeypatch.setattr(dev, "pesq_score", refuse)
    with pytest.raises(DeepnmfError, match="no score that is finite"):
        dev_score(network(), FrontEnd(8000), pairs(2), score="si-sdr+pesq")


def test_runs_are_chosen_by_the_combined_score(tiny_corpus: Path, tmp_path: Path, monkeypatch) -> None:
    qualities = iter([1.5] * 2 + [1.0] * 20)  # two dev pairs: PESQ falls after the first score
    monkeypatch.setattr(dev, "pesq_score", lambda *_: next(qualities))
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
        rows = [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]
    assert [row["step"] for row in rows] == [2, 4, 6]  # two scores without a new best end the run
    assert [row["dev_pesq"] for row in rows] == [1.5, 1.0, 1.0]
    assert all(row["dev_score"] == pytest.approx(row["dev_si_sdr"] + 10 * row["dev_pesq"]) for row in rows)
