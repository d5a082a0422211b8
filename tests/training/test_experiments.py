"""The plans of the documented experiments, and the driver that runs them."""

import importlib.util
import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
import soundfile

ROOT = Path(__file__).parent.parent.parent
PLANS = sorted((ROOT / "docs/research").glob("*/plan.toml"))
TINY = """model = "dnn"
front_end.rate_hz = 8000
mixing.segment_s = 0.3
network = { context = 2, hidden = [4] }
objective = { magnitude = 1.0, compressed_half = 0.0, compressed_third = 0.0, snr = 0.0 }
[training]
steps = 2
batch = 2
frame_stride = 2
score_every = 2
"""


@pytest.fixture(scope="module")
def experiment():
    """The driver as a module."""
    spec = importlib.util.spec_from_file_location("experiment", ROOT / "docs/research/experiment.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["experiment"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("plan", PLANS, ids=lambda plan: plan.parent.name)
def test_every_run_of_a_plan_has_a_recipe_and_a_name_of_its_own(experiment, plan: Path) -> None:
    runs = experiment.read_plan(plan)
    assert all((run.folder / f"{run.rung}.toml").is_file() for run in runs)
    assert len({run.name for run in runs}) == len(runs) > 0
    assert {run.recipe.training.seed for run in runs} >= {1}


@pytest.mark.parametrize("plan", PLANS, ids=lambda plan: plan.parent.name)
def test_all_runs_of_a_plan_have_one_of_the_budgets_that_it_compares(experiment, plan: Path) -> None:
    """What is heard, how much of it is different, and which frames of it count."""
    budgets = {
        (t.steps * t.batch, t.distinct_batches * t.batch, t.frame_stride, r.mixing.segment_s)
        for r in (run.recipe for run in experiment.read_plan(plan))
        for t in [r.training]
    }
    assert len(budgets) == tomllib.loads(plan.read_text()).get("budgets", 1)


def test_the_driver_trains_scores_and_collects(experiment, tiny_corpus: Path, tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    for source, target in (("speech", "train/speech"), ("noise", "train/noise"), ("dev", "dev"), ("dev", "test")):
        (corpus / target).parent.mkdir(parents=True, exist_ok=True)
        (corpus / target).symlink_to(tiny_corpus / source)
    (corpus / "rir").mkdir()
    impulse = np.eye(1, 800)[0]
    soundfile.write(corpus / "rir/none.wav", impulse, 8000)
    (tmp_path / "tiny.toml").write_text(TINY)
    plan = tmp_path / "plan.toml"
    (tmp_path / "again.toml").write_text(TINY + "learning_rate = 0.0\n")
    plan.write_text(
        f'recipes = "{tmp_path}"\n[rates]\ntiny = [0.01, 0.001]\n[seeds]\ntiny = 2\nagain = 1\n[init]\nagain = "tiny"\n'
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    folders = [str(path) for path in (plan, corpus, tmp_path / "runs")]
    for verb, *names in (("train",), ("score", "tiny-seed1-lr0.01"), ("collect",)):
        command = [sys.executable, str(ROOT / "docs/research/experiment.py"), verb, *folders, *names]
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment)
        assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "results.json").read_text())
    assert results.keys() == {
        "tiny-seed1-lr0.01", "tiny-seed1-lr0.001", "tiny-seed2-lr0.001", "again-seed1-lr0.0", "noisy"
    }  # fmt: skip
    # Not trained at all, it is as good as the run whose weights it began with.
    assert results["again-seed1-lr0.0"]["dev_si_sdr"] == results["tiny-seed1-lr0.001"]["dev_si_sdr"]
    row = results["tiny-seed1-lr0.01"]
    assert (row["rung"], row["seed"], row["learning_rate"]) == ("tiny", 1, 0.01)
    assert len(row["test"]["sdr"]) == 2 and row["test"]["summary"]["SI-SDR"]["count"] == 2
    assert [name for name, row in results.items() if "test" in row] == ["tiny-seed1-lr0.01"]  # no other was named
