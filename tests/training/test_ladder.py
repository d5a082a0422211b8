"""The ladder by size: both families get their search, networks have the sizes that the plan names, and test is scored
once all choices are made."""

import json
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from deepnmf_cli.networks import build

ROOT = Path(__file__).parent.parent.parent
PLAN = ROOT / "docs/research/ladder/sizes.toml"


@pytest.fixture(scope="module")
def sizes() -> ModuleType:
    """The driver as a module."""
    sys.path.insert(0, str(ROOT / "docs/research"))
    try:
        import sizes
    finally:
        sys.path.remove(str(ROOT / "docs/research"))
    return sizes


@pytest.fixture(scope="module")
def trials(sizes) -> list:
    return sizes.Plan(PLAN).trials


def results_of(trials: list, best: dict[tuple[str, int, int], int]) -> dict:
    """Results in which trial number `best` of each family, size and context has the highest dev score."""
    return {
        t.name: {
            "dev_si_sdr": float(best[t.family, t.size, t.context] == int(t.name.rpartition("trial")[2])),
            "layers": t.layers,
            "settings": t.settings,
        }
        for t in trials
    }


def test_a_family_gets_the_trials_of_the_plan_for_every_size_half_of_them_for_each_context(sizes, trials) -> None:
    table = sizes.Plan(PLAN).table
    for family in sizes.FAMILIES:
        for size in table["search"]["sizes"]:
            for context in table["contexts"]:
                found = [t for t in trials if (t.family, t.size, t.context) == (family, size, context)]
                assert len(found) == table["search"]["trials"][family] / 2
                assert {t.steps for t in found} == {table["search"]["steps"]}
    assert table["search"]["trials"]["dnn"] > table["search"]["trials"]["deep-nmf"]  # a DNN's are cheaper
    assert len({t.name for t in trials}) == len(trials)
    assert sizes.Plan(PLAN).trials == trials  # drawn by number


def test_networks_have_the_parameters_that_the_plan_names(sizes, trials) -> None:
    for trial in trials:
        recipe = trial.recipe
        if trial.size < 1e6:
            parameters = build(recipe.model, recipe.network).parameter_counts()[0]
            assert parameters == pytest.approx(trial.size, rel=0.13), trial.name
        assert sizes.step_macs(recipe) <= 20e6 and trial.frames <= 100 and trial.units >= 4


def test_multiply_adds_of_a_step_count_what_is_trained_three_times(sizes) -> None:
    from deepnmf_cli.recipe import read_recipe

    def of(model: str, **network) -> tuple[int, int]:
        recipe = read_recipe(None, model, [f"network.{key}={json.dumps(value)}" for key, value in network.items()])
        return sizes.step_macs(recipe), build(model, recipe.network).macs_per_frame()

    step, frame = of("dnn", context=3, hidden=[20, 30])
    assert step == 3 * frame
    step, frame = of("deep-nmf", context=3, atoms=7, iterations=5, trained_layers=6)
    assert step == 3 * frame
    step, frame = of("deep-nmf", context=3, atoms=7, iterations=5, trained_layers=1)
    assert step == frame + 2 * 257 * 14


def test_drawn_numbers_lie_in_their_range_and_depend_on_the_seed_alone(sizes) -> None:
    draw = np.random.default_rng(0)
    values = [sizes.drawn({"low": 0.01, "high": 1.0}, draw) for _ in range(400)]
    assert 0.01 <= min(values) < 0.02 and 0.5 < max(values) <= 1.0
    assert 0.07 < np.median(values) < 0.14  # the middle of the logarithms
    assert sizes.drawn([1, 2], np.random.default_rng(3)) == sizes.drawn([1, 2], np.random.default_rng(3))


def test_a_row_takes_the_settings_of_the_best_trial_of_the_nearest_size(sizes, trials) -> None:
    plan = sizes.Plan(PLAN)
    best = {(f, s, c): 1 + i % 2 + 2 * (f == "dnn") for f in sizes.FAMILIES for s in (50_000, 400_000, 3_000_000)
            for i, c in enumerate(plan.table["contexts"])}  # fmt: skip
    results = results_of(trials, best)
    rows = {row.name: row for row in plan.rows(results)}
    both = plan.table["both_contexts"]
    assert len(rows) == sum(len(plan.table["sizes"]) + len(both[family]) for family in sizes.FAMILIES)
    for size, nearest in ((100_000, 50_000), (200_000, 400_000), (800_000, 400_000), (6_000_000, 3_000_000)):
        for family in sizes.FAMILIES:
            for context in plan.table["contexts"] if size in both[family] else [9]:  # 9 as good as 1 in the search
                row = rows[f"{family}-{size}-t{context}-seed1"]
                number = best[family, nearest, context]
                (trial,) = (t for t in trials if t.name == f"{family}-{nearest}-trial{number}")
                assert (row.layers, row.settings, row.context) == (trial.layers, trial.settings, trial.context)
                assert row.steps == plan.table["plateau"]["most_steps"]
    without_first = {name: r for name, r in results.items() if not name.endswith("trial1")}
    assert {row.context for row in plan.rows(without_first)} == {1}  # the first trials are those of nine frames


@pytest.mark.parametrize(
    ("scores", "ended"),
    [([1.0, 2.0], False), ([1.0, 2.0, 2.04], False), ([1.0, 2.0, 2.06, 2.04], False), ([1.0, 2.0, 2.02, 2.04], True)],
)
def test_a_run_ends_when_its_scores_have_levelled_off(sizes, scores: list[float], ended: bool) -> None:
    rows = [{"step": str(900 * (i + 1)), "dev_si_sdr": str(score)} for i, score in enumerate(scores)]
    assert sizes.Plan(PLAN).level(rows) == ended


def test_nothing_is_scored_on_test_before_all_runs_are_there(sizes, trials, tmp_path: Path) -> None:
    plan = sizes.Plan(PLAN)
    plan.table["seeds"]["rows"] = ["dnn-50000-t9"]
    first = dict.fromkeys(((t.family, t.size, t.context) for t in trials), 1)
    results = results_of(trials, {key: 1 if key[2] == 9 else 2 for key in first})
    complete = results | {row.name: {} for row in [*plan.rows(results), *plan.seeds(results)]}
    for missing in ("dnn-50000-trial3", "deep-nmf-6000000-t9-seed1", "dnn-50000-t9-seed3"):
        with pytest.raises(SystemExit, match="1 runs are missing"):
            sizes.score(plan, {name: r for name, r in complete.items() if name != missing}, tmp_path, tmp_path)
