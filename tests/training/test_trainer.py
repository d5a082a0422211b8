"""What the loop does to rates and to the mean of the weights, against the formulas."""

import copy
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from deepnmf_cli.networks.deep_nmf import DeepNmf, DeepNmfSettings
from deepnmf_cli.networks.dnn import Dnn, DnnSettings
from deepnmf_cli.signal.stft import FrontEnd
from deepnmf_cli.training import trainer
from deepnmf_cli.training.dev import DevScore
from deepnmf_cli.training.journal import Journal
from deepnmf_cli.training.objectives import ObjectiveSettings
from deepnmf_cli.training.trainer import Trainer, TrainingSettings

RATE_HZ = 8000


def made(folder: Path, **settings) -> Trainer:
    torch.manual_seed(0)
    network = Dnn(DnnSettings(bins=129, context=1, hidden=(4,)))
    chosen = TrainingSettings(**{"steps": 40, "warmup_steps": 4, "learning_rate": 0.02} | settings)
    return Trainer(network, FrontEnd(RATE_HZ), ObjectiveSettings(), chosen, Journal(folder), lambda *_: ({}, {}))


def learn(one: Trainer) -> list[list[torch.Tensor]]:
    """Steps to the last; returns the weights after each."""
    weights, draw = [], torch.Generator().manual_seed(1)
    for step in range(one.settings.steps):
        one.step = step
        one.update(one.batch(0.1 * torch.randn(2, 2, 2000, generator=draw)))
        weights.append([p.detach().clone() for p in one.trained])
    return weights


@pytest.mark.parametrize("average", [0.0, 0.5, 0.95])
def test_mean_of_the_weights_looks_back_as_far_as_asked_and_not_to_the_start(tmp_path: Path, average: float) -> None:
    one = made(tmp_path, average=average)
    expected = [p.detach().clone() for p in one.trained]
    for step, weights in enumerate(learn(one)):
        keep = min(average, (1 + step) / (10 + step)) if average else 0.0
        expected = [keep * mean + (1 - keep) * weight for mean, weight in zip(expected, weights, strict=True)]
    for found, mean in zip(one.average, expected, strict=True):
        torch.testing.assert_close(found, mean, rtol=1e-5, atol=1e-7)


def test_rate_rises_in_a_line_and_falls_by_a_cosine_to_a_hundredth(tmp_path: Path) -> None:
    one = made(tmp_path, schedule="cosine")

    def rate(step: int) -> float:
        one.step = step
        return one._learning_rate()

    assert [rate(step) for step in range(4)] == pytest.approx([0.005, 0.01, 0.015, 0.02])
    assert rate(4) == pytest.approx(0.02) and rate(40) == pytest.approx(0.0002)
    assert rate(22) == pytest.approx(0.02 * (0.01 + 0.99 / 2))
    assert rate(13) == pytest.approx(0.02 * (0.01 + 0.99 * (1 + math.cos(math.pi / 4)) / 2))


def test_constant_rate_stays(tmp_path: Path) -> None:
    one = made(tmp_path, schedule="constant")
    for step in (4, 20, 40):
        one.step = step
        assert one._learning_rate() == 0.02


def test_weight_decay_reaches_the_optimiser_and_is_not_negative(tmp_path: Path) -> None:
    (_, adam), *others = made(tmp_path, weight_decay=0.3).optimiser.parts
    assert [group["weight_decay"] for group in adam.param_groups] == [0.3] and not others
    with pytest.raises(ValueError, match="weight_decay"):
        TrainingSettings(weight_decay=-0.1)


def test_dev_score_and_model_are_of_the_mean_and_the_weights_stay(tmp_path: Path, monkeypatch) -> None:
    one = made(tmp_path, average=0.9)
    learn(one)
    own, scored = copy.deepcopy(one.network.state_dict()), []

    def score(network, *_) -> DevScore:
        scored.extend(p.detach().clone() for p in network.parameters())
        return DevScore(1.0)

    monkeypatch.setattr(trainer, "dev_score", score)
    one._dev_score([], lambda: None)
    assert all(torch.equal(a, b) for a, b in zip(scored, one.average, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(scored, one.trained, strict=True))
    assert all(torch.equal(own[name], value) for name, value in one.network.state_dict().items())


@pytest.mark.parametrize(("score_every", "due"), [(1, [1, 2, 3, 4, 5]), (2, [2, 4, 5]), (9, [5])])
def test_a_score_is_due_at_multiples_and_at_the_end_and_once(tmp_path: Path, score_every: int, due: list[int]) -> None:
    one, found = made(tmp_path, steps=5, score_every=score_every), []
    for one.step in range(6):
        if one._unscored():
            found.append(one.step)
            one.journal.rows.append({"step": one.step})
            assert not one._unscored()
    assert found == due


def test_greedy_training_lets_one_layer_after_another_learn(tmp_path: Path, monkeypatch) -> None:
    one = made(tmp_path, greedy=True, steps=7)
    one.network = DeepNmf(DeepNmfSettings(bins=129, context=1, atoms=3, iterations=3, trained_layers=3))
    layers = []
    monkeypatch.setattr(one.network, "train_last", layers.append)
    learn(one)
    assert layers == [1, 1, 1, 2, 2, 3, 3] and all(type(count) is int for count in layers)


@pytest.mark.parametrize("learns", [True, False])
def test_a_run_that_learns_says_first_where_it_begins(tmp_path: Path, monkeypatch, learns: bool) -> None:
    one, said = made(tmp_path, steps=1), []
    if not learns:
        one.trained, one.average = [], []
    monkeypatch.setattr(trainer, "dev_score", lambda *_: DevScore(1.0))
    for work in ("_save", "_publish", "_score", "_steps"):
        monkeypatch.setattr(one, work, lambda *_: None)
    source = SimpleNamespace(length=RATE_HZ)
    one.train(source, [], 0, lambda news: said.append(copy.deepcopy(news)), lambda: False)
    assert said == ([{"began": {}}, {"began": {"step 0": 1.0}}] if learns else [])


def test_history_counts_the_hours_of_audio_that_were_learned_from(tmp_path: Path, monkeypatch) -> None:
    one = made(tmp_path, steps=9, batch=3)
    monkeypatch.setattr(trainer, "dev_score", lambda *_: DevScore(1.0))
    for work in ("_save", "_publish", "_steps"):
        monkeypatch.setattr(one, work, lambda *_: None)
    one.train(SimpleNamespace(length=2 * RATE_HZ), [], 0)
    one.step = 7
    one._score([], lambda: None)
    assert one.journal.rows[-1]["hours"] == pytest.approx(7 * 3 * 2 / 3600, rel=1e-9)


def test_the_best_model_is_written_with_the_score_of_its_step(tmp_path: Path, monkeypatch) -> None:
    one, described = made(tmp_path), []
    monkeypatch.setattr(one.journal, "write_history", lambda: None)
    one.describe = lambda path, _, *told: described.append((path, *told)) or SimpleNamespace(write=lambda: None)
    scores = {"dev_pesq": None, "dev_pesq_estimated": None}
    one.journal.rows = [{"step": 2, "dev_si_sdr": 1.0} | scores, {"step": 4, "dev_si_sdr": 3.0} | scores]
    for one.step, one.since_best in ((4, 1), (5, 0), (4, 0)):
        one._publish()
    assert described == [(one.journal.best_path, 4, DevScore(3.0))]


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"batch": 0}, {"score_every": 0}, {"seed": -1}])
def test_runs_of_one_step_and_one_example_are_the_smallest(wrong: dict) -> None:
    smallest = {"steps": 1, "batch": 1, "score_every": 1, "seed": 0}
    assert TrainingSettings(**smallest).batch == 1
    with pytest.raises(ValueError, match="must be at least 1, seed not negative"):
        TrainingSettings(**smallest | wrong)


def test_a_batch_has_speech_and_noise_of_each_example(tmp_path: Path) -> None:
    class Source:
        length = 600

        def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
            return np.full(self.length, index, np.float32), np.full(self.length, -index, np.float32)

    one = made(tmp_path, steps=2, batch=3)
    found = [batch.waveforms for batch in one._batches(Source(), 1, lambda: None)]
    assert [x.shape for x in found] == [(3, 2, 600)] * 2
    assert [x[:, :, 0].tolist() for x in found] == [[[i, -i] for i in range(first, first + 3)] for first in (0, 3)]
