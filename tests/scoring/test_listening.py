"""Which files are heard, and which part of them."""

import math

import numpy as np
import pytest

from deepnmf_cli.scoring.listening import LONGEST_S, Source, examples, rank
from deepnmf_cli.scoring.metrics import METRICS
from deepnmf_cli.scoring.pairing import pair_folders
from deepnmf_cli.scoring.report import System, make_report
from deepnmf_cli.scoring.scorer import Scores

MODEL = {"parameters": 1, "macs_per_s": 1.0, "sha256": ""}


def system(name: str, kind: str, pesq: list[float]) -> System:
    scores = [Scores(f"f{i}", dict.fromkeys(METRICS, 0.0) | {"PESQ": p}, (), 1.0, 8000) for i, p in enumerate(pesq)]
    return System(name, kind, name, scores, MODEL if kind == "model" else None)


def test_files_are_ranked_by_the_gain_of_the_first_model_in_pesq():
    noisy = system("noisy", "noisy", [1.0, 2.0, 1.0, 1.0, math.nan])
    other, ours = system("x", "estimate", [0.0] * 5), system("ours", "model", [2.0, 2.5, 1.2, 4.0, 4.0])
    ranking = rank(make_report([noisy, other, ours], {}, "", ""))
    assert (ranking.system, ranking.metric, ranking.of_gains) == ("ours", "PESQ", True)
    assert ranking.order == (2, 1, 0, 3)  # gains of 0.2, 0.5, 1, 3; the last has none
    assert ranking.choose(1) == [("worst 1", 2), ("best 1", 3)]
    assert ranking.choose(3) == [("worst 1", 2), ("worst 2", 1), ("worst 3", 0), ("best 1", 3)]
    assert ranking.choose(0) == []


def test_without_a_noisy_input_the_score_itself_ranks():
    ranking = rank(make_report([system("x", "estimate", [3.0, 1.0, 2.0])], {}, "", ""))
    assert (ranking.system, ranking.of_gains, ranking.order) == ("x", False, (1, 2, 0))
    assert rank(make_report([system("noisy", "noisy", [3.0, 1.0])], {}, "", "")).order == (1, 0)


def test_the_loudest_part_of_a_long_file_is_heard_by_all_systems_alike(write, tmp_path):
    rate_hz = 1000
    draw = np.random.default_rng(0)
    clean = 0.1 * draw.standard_normal(14 * rate_hz)
    clean[3 * rate_hz : 13 * rate_hz] *= 5
    clean = clean.clip(-0.9, 0.9)
    write("clean/a.wav", clean, rate_hz)
    write("noisy/a.wav", clean + 0.01, rate_hz)
    pairs, _ = pair_folders(tmp_path / "clean", tmp_path / "noisy")
    ranking = rank(make_report([system("noisy", "noisy", [1.0]), system("m", "model", [2.0])], {}, "", ""))
    ticks = []
    sources = {"noisy": Source(pairs), "m": Source(pairs, lambda samples, rate: np.float32(4.0) * samples)}
    (example,) = examples(ranking, 4, sources, lambda: ticks.append(1))
    assert (example.title, example.name, example.rate_hz, example.whole_s) == ("worst 1", "a", rate_hz, 14.0)
    assert example.start_s == pytest.approx(3.0, abs=0.1) and example.seconds == LONGEST_S and example.is_cut
    assert list(example.sounds) == ["reference", "noisy", "m"] and ticks == [1]
    start = round(example.start_s * rate_hz)
    part = clean[start : start + 10 * rate_hz]
    assert example.gain == pytest.approx(1 / (4 * np.abs(part + 0.01).max()), rel=1e-6)  # the loudest just fits
    np.testing.assert_allclose(example.sounds["reference"][0], part * example.gain, rtol=1e-6)
    np.testing.assert_allclose(example.sounds["m"][0], 4 * example.gain * (part + 0.01), atol=1e-6)
