"""What descent constraints do to LISTA on synthetic codes, in a quarter of the training after which
docs/research/descent/descent.py looks at its gates.
"""

import importlib.util
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).parents[2] / "docs" / "research" / "descent" / "descent.py"


@pytest.fixture
def descent(monkeypatch):
    """The script as a module, and torch on one thread."""
    spec = importlib.util.spec_from_file_location("descent", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "descent", module)
    spec.loader.exec_module(module)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield module
    torch.set_num_threads(threads)


def test_constraints_pull_the_layers_in_the_middle_and_a_small_share_binds_nothing(descent) -> None:
    task = descent.toy(torch.Generator().manual_seed(0))
    with torch.no_grad():
        targets = task.targets(task.inputs["train"])
        test = {0.0: (task.inputs["test"], task.targets(task.inputs["test"]))}
    middle, last, multipliers = {}, {}, {}
    for name in ("ISTA start, plain", *descent.GATED):
        made, rows = descent.train(task, descent.PLANS[name], 400, 64, 0, targets)
        layers = descent.judge(task, made, name, test, 0)["layers"]
        middle[name], last[name] = layers[5]["distance"], layers[10]["distance"]
        multipliers[name] = [multiplier for _, _, multiplier, _ in rows[-10:]]
    plain, strong, weak = middle
    assert middle[strong] < middle[plain] - 0.03 and last[strong] < last[plain]
    assert max(multipliers[strong]) > 0.1
    # ISTA, from which training starts, descends by more than a twentieth already.
    assert max(multipliers[weak]) <= 0.01 and middle[weak] == pytest.approx(middle[plain], abs=0.005)
