"""Intervals of clustered means: as wide as the clusters demand, and equal to Student's where there is nothing to cluster."""

import numpy as np
import pytest

from deepnmf_cli.scoring.bootstrap import interval

SPEAKERS, NOISES = 20, 30


def effects(seed: int, speaker: float, noise: float, rest: float):
    """Values of all pairs of speakers and noises, and the two factors."""
    draw = np.random.default_rng(seed)
    by_speaker, by_noise = speaker * draw.standard_normal(SPEAKERS), noise * draw.standard_normal(NOISES)
    values = by_speaker[:, None] + by_noise + rest * draw.standard_normal((SPEAKERS, NOISES))
    one, two = np.meshgrid(np.arange(SPEAKERS), np.arange(NOISES), indexing="ij")
    return values.ravel(), [f"s{i}" for i in one.ravel()], [f"n{i}" for i in two.ravel()]


def test_files_of_their_own_cluster_give_the_plain_interval():
    values = np.random.default_rng(0).standard_normal(100)
    low, high = interval(values, [[str(i) for i in range(100)]])
    half = 1.98 * values.std(ddof=1) / 10
    assert low == pytest.approx(values.mean() - half, abs=0.02) and high == pytest.approx(
        values.mean() + half, abs=0.02
    )


def test_copies_of_a_file_tell_no_more_than_the_file():
    values = np.random.default_rng(0).standard_normal(40)
    names = [str(i) for i in range(40)]
    assert interval(np.repeat(values, 9), [np.repeat(names, 9)]) == pytest.approx(interval(values, [names]), abs=1e-12)


@pytest.mark.parametrize("speaker,noise", [(1.0, 0.0), (0.0, 1.0), (1.0, 1.0)])
def test_interval_covers_the_mean_of_all_speakers_and_noises(speaker, noise):
    """0 in about 95 of 100 drawn corpora; the plain interval over files would in a third of them."""
    covered = 0
    for seed in range(60):
        values, *factors = effects(seed, speaker, noise, 0.5)
        low, high = interval(values, factors)
        covered += low <= 0 <= high
    assert covered >= 52


def test_one_factor_alone_is_too_sure_where_the_other_decides():
    values, speakers, noises = effects(3, 0.0, 1.0, 0.1)
    width = [np.diff(interval(values, factors))[0] for factors in ([speakers], [speakers, noises])]
    assert width[0] < 0.2 * width[1]


def test_missing_values_count_as_if_their_files_were_not_there():
    values, speakers, noises = effects(1, 1.0, 1.0, 1.0)
    holes = values.copy()
    holes[::7] = np.nan
    kept = ~np.isnan(holes)
    expected = interval(values[kept], [np.array(speakers)[kept], np.array(noises)[kept]])
    assert interval(holes, [speakers, noises]) == expected


def test_one_cluster_says_nothing_about_others():
    assert interval([1.0, 2.0, 3.0], [["a", "a", "a"]]) is None
    assert interval([1.0, 2.0, np.nan], [["a", "b", "c"], ["x", "x", "y"]]) is None


def test_equal_seeds_give_equal_intervals():
    values, speakers, noises = effects(1, 1.0, 1.0, 1.0)
    assert interval(values, [speakers, noises]) == interval(values, [speakers, noises])
    assert interval(values, [speakers, noises]) != interval(values, [speakers, noises], seed=1)
