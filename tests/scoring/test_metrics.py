"""The table of metrics: one entry is all that a new one takes."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from deepnmf_cli.scoring.figures import draw
from deepnmf_cli.scoring.metrics import METRICS, Metric
from deepnmf_cli.scoring.mixtures import Mixture
from deepnmf_cli.scoring.perceptual import NoScore
from deepnmf_cli.scoring.report import System, make_report, write_report
from deepnmf_cli.scoring.scorer import score
from deepnmf_cli.scoring.tables import markdown, overall_table


def peak_ratio(reference: np.ndarray, estimate: np.ndarray, rate_hz: int) -> float:
    if rate_hz != 16000:
        raise NoScore("TOY: another rate")
    return float(np.abs(estimate).max() / np.abs(reference).max())


def test_a_metric_that_is_added_is_in_every_table_file_and_figure(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(METRICS, "TOY", Metric("TOY", "peaks", 1, peak_ratio))
    clean = np.random.default_rng(0).standard_normal((1, 2000))
    scored = [score(clean, 2 * clean, 16000, "a_0dB"), score(clean, 3 * clean, 16000, "b_0dB")]
    other = [score(clean, clean, rate_hz, name) for name, rate_hz in (("a_0dB", 16000), ("b_0dB", 8000))]
    systems = [System("noisy", "noisy", "noisy/", other), System("x", "estimate", "x/", scored)]
    report = make_report(systems, {"a_0dB": Mixture(0.0), "b_0dB": Mixture(0.0)}, "", "")

    assert report["systems"][1]["summary"]["TOY"]["mean"] == pytest.approx(2.5)
    assert report["systems"][1]["by_snr"][0]["gain"]["TOY"] == {"mean": pytest.approx(1.0), "ci95": None, "count": 1}
    header, rows = overall_table(report)
    assert header[-1] == "TOY [peaks]" and rows[1][-1].startswith("2.5 ±") and rows[0][-1] == "1.0 (n=1)"
    assert "TOY [peaks]" in markdown(report)
    assert any("TOY: another rate" in remark for remark in report["remarks"])
    for figure in draw(report).values():
        assert len(figure.axes) == len(METRICS)
    write_report(report, tmp_path)
    written = list(csv.DictReader((tmp_path / "files.csv").read_text("utf-8").splitlines()))
    assert [row["TOY"] for row in written] == ["1.0", "", "2.0", "3.0"]
    kept = json.loads((tmp_path / "report.json").read_text("utf-8"))
    assert kept["systems"][1]["files"][0]["TOY"] == 2.0
