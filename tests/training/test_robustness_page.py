"""Scores of robustness and depth: what was collected from one folder of runs stays when another one is added."""

import sys
from pathlib import Path

import pytest

RESEARCH = Path(__file__).parent.parent.parent / "docs/research"
FILES = [("dev", "a"), ("dev", "b"), ("clipped", "a"), ("clipped", "b")]


@pytest.fixture
def scripts(monkeypatch):
    monkeypatch.setattr(sys, "path", [str(RESEARCH), *sys.path])
    import depth
    import report
    import robustness

    return robustness, depth, report


@pytest.fixture
def page_of(tmp_path, monkeypatch):
    """A function that gives a script an empty table and a page with marked places, which it returns."""

    def page_of(script, *marks):
        page = tmp_path / "page.md"
        page.write_text("".join(f"<!-- {mark} -->\n<!-- end -->\n" for mark in marks))
        monkeypatch.setattr(script, "KEPT", tmp_path / "kept.csv")
        monkeypatch.setattr(script, "PAGE", page)
        return page

    return page_of


def test_scores_of_several_machines_are_collected_together(scripts, page_of, tmp_path):
    robustness, _, report = scripts
    page = page_of(robustness, "means grid", "pairs grid")
    runs = {(run.rung, run.seed): run.name for run in robustness.runs_of_question()}

    def scored(folder: str, rung: str, seed: int, values: list[float]) -> None:
        rows = [
            {"condition": condition, "name": name, "speaker": name, "noise": name, "si_sdr": f"{value:.3f}"}
            for (condition, name), value in zip(FILES, values, strict=True)
        ]
        (tmp_path / folder / runs[rung, seed]).mkdir(parents=True)
        report.write_rows(tmp_path / folder / runs[rung, seed] / robustness.SCORES, rows)
        report.write_rows(tmp_path / folder / robustness.NOISY, [row | {"si_sdr": "1.000"} for row in rows])

    scored("first", "grid-noise", 1, [2.0, 3.0, 4.0, 4.0])
    robustness.collect(tmp_path / "first")
    scored("second", "grid-descent-noise", 1, [3.0, 3.0, 4.0, 4.0])
    scored("second", "grid-noise", 2, [3.0, 4.0, 5.0, 5.0])
    robustness.collect(tmp_path / "second")
    rows = report.read_rows(tmp_path / "kept.csv")
    assert [(row["condition"], row["name"]) for row in rows] == FILES
    assert [row["grid-noise"] for row in rows] == ["2.500", "3.500", "4.500", "4.500"]
    assert [row["grid-noise, seed 2"] for row in rows] == ["3.000", "4.000", "5.000", "5.000"]
    assert {row["noisy"] for row in rows} == {"1.000"}
    text = page.read_text()
    assert "| dev | 1.00 | 3.00 | 3.00 |" in text  # noise, both
    assert "| dev | +0.50 [+0.00, +1.00]; +0.50 |" in text  # seed 1, the only one that both have: 3.0 against 2.5
    before = (tmp_path / "kept.csv").read_text()
    robustness.collect(tmp_path / "second")
    assert (tmp_path / "kept.csv").read_text() == before
    report.write_rows(tmp_path / "second" / runs["grid-noise", 2] / robustness.SCORES, rows[:1])
    with pytest.raises(SystemExit):
        robustness.collect(tmp_path / "second")
    assert (tmp_path / "kept.csv").read_text() == before


def test_depths_of_several_machines_are_collected_together(scripts, page_of, tmp_path, monkeypatch):
    _, depth, report = scripts
    page = page_of(depth, "depths grid")
    monkeypatch.setattr(depth, "FIGURE", tmp_path / "figure.png")
    runs = {run.rung: run.name for run in depth.runs_of_question()}
    for folder, rung, score in (("first", "grid", 5.0), ("second", "grid-supervised", 6.0)):
        rows = [
            {"depth": k, "macs_per_s": 1000 * k, "name": name, "speaker": name, "noise": name,
             "SI-SDR": f"{score + k:.3f}", "PESQ": "1.5"}
            for k in depth.DEPTHS["grid"] for name in "ab"
        ]  # fmt: skip
        (tmp_path / folder / runs[rung]).mkdir(parents=True)
        report.write_rows(tmp_path / folder / runs[rung] / depth.SCORES, rows)
        depth.collect(tmp_path / folder)
    assert [row["rung"] for row in report.read_rows(tmp_path / "kept.csv")] == ["grid"] * 8 + ["grid-supervised"] * 8
    assert "| deep supervision | 7.00 / 1.500 |" in page.read_text()
