"""Means and intervals, the report as data, tables, files and figures."""

import csv
import dataclasses
import hashlib
import json
import math
from pathlib import Path

import numpy as np
import pytest

from deepnmf_cli import __version__
from deepnmf_cli.errors import DeepnmfError
from deepnmf_cli.scoring import figures
from deepnmf_cli.scoring.bootstrap import interval
from deepnmf_cli.scoring.figures import draw
from deepnmf_cli.scoring.metrics import METRICS
from deepnmf_cli.scoring.mixtures import Mixture
from deepnmf_cli.scoring.report import System, make_report, summarise, write_report
from deepnmf_cli.scoring.scorer import Scores
from deepnmf_cli.scoring.tables import caption, group_tables, latex, markdown, overall_table, snr_table

SNRS_DB = {"a": -3.0, "b": -3.0, "c": 6.0, "d": 6.0}
MIXTURES = {name: Mixture(snr_db) for name, snr_db in SNRS_DB.items()}
MODEL = {"parameters": 1234567, "macs_per_s": 25.5e6, "sha256": "ab" * 32}


def scores(offset: float, missing: str = "", rates_hz: dict[str, int] | None = None) -> list[Scores]:
    """Four files: SDR = offset + 0 .. 3, every other score a tenth of it; the file `missing` lacks its PESQ."""
    made = []
    for number, name in enumerate(SNRS_DB):
        values = {metric: (offset + number) * (1 if metric == "SDR" else 0.1) for metric in METRICS}
        notes = ()
        if name == missing:
            values["PESQ"], notes = math.nan, ("PESQ: too short",)
        made.append(Scores(name, values, notes, 30.0, (rates_hz or {}).get(name, 16000)))
    return made


def test_a_system_of_an_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="not 'tool'"):
        System("other", "tool", "out/", scores(0))


@pytest.fixture
def report():
    systems = [
        System("noisy", "noisy", "noisy/", scores(0)),
        System("other|tool", "estimate", "out/", scores(5, missing="b")),
        System("ours", "model", "default", scores(7), MODEL),
    ]
    return make_report(systems, MIXTURES, "cd" * 32, "deepnmf evaluate", ["out: 1 file left out"])


def test_the_interval_is_student_t_over_files():
    values = [1.0, 2.0, 4.0, 7.0]
    # t(0.975, 3 degrees of freedom) from a printed table.
    expected = 3.182446 * np.std(values, ddof=1) / 2
    assert summarise(values) == {"mean": 3.5, "ci95": pytest.approx(expected, rel=1e-6), "count": 4}


def test_missing_scores_are_left_out_of_mean_and_count():
    assert summarise([1.0, math.nan, 3.0]) == summarise([1.0, 3.0])
    assert summarise([math.nan, 2.0]) == {"mean": 2.0, "ci95": None, "count": 1}
    assert summarise([math.nan]) == summarise([]) == {"mean": None, "ci95": None, "count": 0}


def test_the_interval_of_equal_scores_is_zero():
    assert summarise([0.1] * 7)["ci95"] == pytest.approx(0, abs=1e-15)


def test_the_interval_holds_the_true_mean_in_95_of_100_corpora():
    random = np.random.default_rng(0)
    summaries = [summarise(list(random.normal(3, 2, 5))) for _ in range(2000)]
    held = np.mean([abs(one["mean"] - 3) <= one["ci95"] for one in summaries])
    assert held == pytest.approx(0.95, abs=0.015)


def test_the_report_says_where_its_numbers_come_from(report):
    assert report["deepnmf"] == __version__ and report["command"] == "deepnmf evaluate"
    expected = {"files": 4, "seconds": 120.0, "rates_hz": [16000], "sha256": "cd" * 32, "clusters": {}}
    assert report["reference"] == expected and report["interval"].endswith(
        "(Student t over files, taken as independent)"
    )
    assert {"platform", "python", "cpus"} == report["machine"].keys()
    assert report["packages"].keys() == {"fast-bss-eval", "pesq", "pystoi"}
    assert report["date"].endswith("+00:00")
    noisy, other, ours = report["systems"]
    assert noisy["model"] is None and other["model"] is None and ours["model"] == MODEL
    assert [(one["name"], one["kind"], one["source"]) for one in report["systems"]] == [
        ("noisy", "noisy", "noisy/"), ("other|tool", "estimate", "out/"), ("ours", "model", "default"),
    ]  # fmt: skip


def test_means_are_over_all_files_and_by_input_snr(report):
    noisy, other, _ = report["systems"]
    assert noisy["summary"]["SDR"]["mean"] == 1.5
    assert [(one["snr_db"], one["files"], one["summary"]["SDR"]["mean"]) for one in noisy["by_snr"]] == [
        (-3.0, 2, 0.5), (6.0, 2, 2.5),
    ]  # fmt: skip
    assert other["summary"]["PESQ"] == summarise([5 * 0.1, 7 * 0.1, 8 * 0.1])
    assert other["by_snr"][0]["summary"]["PESQ"]["count"] == 1


def test_gains_are_differences_file_by_file(report):
    noisy, other, ours = report["systems"]
    assert noisy["gain"] is None and noisy["by_snr"][0]["gain"] is None
    assert ours["gain"]["SDR"] == {"mean": 7.0, "ci95": 0.0, "count": 4}
    assert other["gain"]["PESQ"]["mean"] == pytest.approx(0.5) and other["gain"]["PESQ"]["count"] == 3
    assert ours["by_snr"][1]["gain"]["SDR"]["mean"] == 7.0


def test_differences_of_systems_are_taken_file_by_file(report):
    (difference,) = report["differences"]
    assert (difference["of"], difference["to"]) == ("other|tool", "ours")
    assert difference["summary"]["SDR"] == {"mean": -2.0, "ci95": 0.0, "count": 4}
    assert difference["summary"]["PESQ"]["count"] == 3


def clustered() -> dict:
    mixtures = {
        name: Mixture(snr_db, f"p{number % 2}", f"n{number}", {"language": "nl" if number else "de"})
        for number, (name, snr_db) in enumerate(SNRS_DB.items())
    }
    systems = [System("noisy", "noisy", "n", scores(0)), System("x", "estimate", "x", scores(1))]
    return make_report(systems, mixtures, "", "")


def test_intervals_are_over_speakers_and_noises_where_they_are_known():
    report = clustered()
    assert report["reference"]["clusters"] == {"speaker": 2, "noise": 4}
    assert report["interval"] == "95 % confidence interval (bootstrap over 2 speakers and 4 noises)"
    expected = interval([0.0, 1.0, 2.0, 3.0], [["p0", "p1"] * 2, ["n0", "n1", "n2", "n3"]])
    noisy, x = report["systems"]
    assert noisy["summary"]["SDR"]["interval"] == list(expected) and expected[0] < 1.0 and expected[1] > 2.0
    assert x["gain"]["SDR"]["interval"] == [1.0, 1.0]
    assert noisy["by_snr"][0]["summary"]["SDR"]["interval"] == list(interval([0.0, 1.0], [["p0", "p1"], ["n0", "n1"]]))
    low, high = (f"{end:.2f}" for end in expected)
    assert overall_table(report)[1][0][1] == f"1.50 [{low}, {high}]"
    assert caption(report).endswith("mean and 95 % confidence interval (bootstrap over 2 speakers and 4 noises).")


def test_groups_have_tables_of_their_own():
    report = clustered()
    header, rows = group_tables(report)["language"]
    assert header[:3] == ["language", "system", "files"]
    assert [row[:3] for row in rows] == [
        ["de", "noisy", "1"], ["de", "x", "1"], ["nl", "noisy", "3"], ["nl", "x", "3"],
    ]  # fmt: skip
    assert rows[0][3] == "0.00" and rows[2][3].startswith("2.00 [")  # one file has no interval
    assert "## By language" in markdown(report) and draw(report)


def test_files_have_rows_and_missing_scores_are_null(report):
    a, b, *_ = report["systems"][1]["files"]
    assert a["name"] == "a" and a["SDR"] == 5.0 and a["snr_db"] == -3.0 and a["notes"] == []
    assert b["PESQ"] is None and b["notes"] == ["PESQ: too short"]


def test_the_figures_are_the_means_of_a_single_model(report):
    assert report["figures"] == {"SDR": 8.5} | dict.fromkeys(list(METRICS)[1:], pytest.approx(0.85))
    two = [System(name, "model", name, scores(1), MODEL) for name in "xy"]
    assert make_report(two, {}, "", "")["figures"] == {}


def test_remarks_count_what_is_missing(report):
    expected = "other|tool: no score in 1 of 4 files (PESQ: too short), the first being b"
    assert report["remarks"] == ["out: 1 file left out", expected]


def test_a_mean_of_narrow_band_and_wide_band_pesq_is_remarked():
    mixed = make_report([System("x", "estimate", "x", scores(1, rates_hz={"a": 8000}))], {}, "", "")
    assert mixed["reference"]["rates_hz"] == [8000, 16000]
    assert any("mixes the two" in remark for remark in mixed["remarks"])


def test_tables_show_means_intervals_gains_and_counts(report):
    header, rows = overall_table(report)
    assert header == ["system", "SDR [dB]", "SI-SDR [dB]", "PESQ", "STOI", "ESTOI"]
    assert [row[0] for row in rows] == [
        "noisy", "other|tool", "ours", "gain of other|tool", "gain of ours", "other|tool - ours",
    ]  # fmt: skip
    assert rows[0][1] == "1.50 ± 2.05" and rows[4][1] == "+7.00 ± 0.00" and rows[1][3] == "0.67 ± 0.38 (n=3)"
    header, rows = snr_table(report)
    assert [row[:3] for row in rows[:4]] == [
        ["-3 dB", "noisy", "2"], ["-3 dB", "other|tool", "2"], ["-3 dB", "ours", "2"], ["+6 dB", "noisy", "2"],
    ]  # fmt: skip
    assert rows[1][5] == "0.50 (n=1)"


def test_a_single_file_has_no_interval_and_no_score_is_a_dash():
    one = [Scores("a", dict.fromkeys(METRICS, math.nan) | {"SDR": 3.0}, (), 1.0, 16000)]
    assert overall_table(make_report([System("x", "estimate", "x", one)], {}, "", ""))[1] == [["x", "3.00", *"----"]]


def test_without_snrs_there_is_no_table_and_no_figure_by_snr(report):
    bare = make_report([System("noisy", "noisy", "n", scores(0)), System("x", "estimate", "x", scores(1))], {}, "", "")
    assert snr_table(bare)[1] == [] and draw(bare).keys() == {"scores.png"}
    assert draw(report).keys() == {"scores.png", "gain_by_snr.png"}


def test_the_report_is_written_as_csv_json_markdown_and_figures(report, tmp_path):
    written = write_report(report, tmp_path)
    names = {"files.csv", "report.json", "report.md", "report.html", "scores.png", "gain_by_snr.png"}
    assert {path.name for path in written} == names == {path.name for path in tmp_path.iterdir()}
    assert json.loads((tmp_path / "report.json").read_text("utf-8")) == report
    assert report["format"] == 1  # whoever changes the layout raises it
    rows = list(csv.DictReader((tmp_path / "files.csv").read_text("utf-8").splitlines()))
    assert len(rows) == 12 and rows[5]["system"] == "other|tool" and rows[5]["name"] == "b"
    assert float(rows[5]["SDR"]) == 6.0 and rows[5]["PESQ"] == "" and rows[5]["notes"] == "PESQ: too short"
    assert (tmp_path / "report.md").read_text("utf-8") == markdown(report, ["scores.png", "gain_by_snr.png"])
    assert all((tmp_path / name).read_bytes().startswith(b"\x89PNG") for name in names if name.endswith(".png"))


def test_systems_are_named_beside_the_first_panel(report):
    figure = figures._score_figure(report | {"systems": 3 * report["systems"]})
    first, *others = figure.axes
    assert [text.get_text() for text in first.get_yticklabels()] == 3 * [system["name"] for system in report["systems"]]
    assert figure.get_size_inches()[1] > 0.3 * 9  # room for each
    assert not any(text.get_text() for panel in others for text in panel.get_yticklabels())


def test_a_latex_table_sets_names_as_they_are_and_the_best_mean_bold(report):
    report["systems"][1]["name"] = "50_% & \\x"
    lines = latex(report).splitlines()
    assert lines[:3] == [f"% {caption(report)}", r"\begin{tabular}{lrrrrr}", r"\toprule"]
    assert lines[3].startswith("system & SDR [dB] & SI-SDR [dB]") and lines[3].endswith(r" \\")
    assert lines[5].startswith(r"noisy & 1.50 $\pm$ 2.05 &")
    assert lines[6].startswith(r"50\_\% \& \textbackslash{}x & 6.50") and "textbf" not in lines[6]
    assert lines[7].startswith(r"ours & \textbf{8.50 $\pm$ 2.05} & ")
    assert lines[11].startswith(r"other|tool - ours & $-$2.00 $\pm$ 0.00") and lines[-2:] == [
        r"\bottomrule", r"\end{tabular}",
    ]  # fmt: skip


def test_the_lowest_word_error_rate_is_the_best():
    def scored(name: str, rate: float) -> System:
        return System(name, "estimate", name, [Scores("a", {"WER": rate}, (), 1.0, 16000)])

    lines = latex(make_report([scored("x", 30.0), scored("y", 10.0)], {}, "", "")).splitlines()
    assert lines[5] == r"x & 30.0 \\" and lines[6] == r"y & \textbf{10.0} \\"


def test_json_holds_no_nan(report):
    json.dumps(report, allow_nan=False)


def test_the_page_has_tables_figures_remarks_and_origin(report):
    page = markdown(report, ["scores.png"])
    assert r"| other\|tool | 6.50 ± 2.05 |" in page
    assert "| input SNR | system | files | SDR [dB] |" in page
    assert "![scores](scores.png)" in page
    assert "* out: 1 file left out" in page
    assert "* Command: `deepnmf evaluate`" in page and "cd" * 32 in page
    assert "* Model ours: 1,234,567 parameters, 25.5 million multiply-adds per second" in page


def test_a_constant_delay_is_remarked_with_its_size():
    late = [dataclasses.replace(one, lag_s=0.02 if one.name in "bc" else 0.0) for one in scores(1)]
    mixed = [
        dataclasses.replace(one, lag_s=lag) for one, lag in zip(scores(1), (0.001, -0.003, 0.02, 0.02), strict=True)
    ]
    remarks = make_report([System("x", "estimate", "x", late), System("y", "estimate", "y", mixed)], {}, "", "")[
        "remarks"
    ]
    assert [remark.split(";")[0] for remark in remarks] == [
        "x: 2 of 4 files are late by 20.00 ms (median: 320 samples), the first being b",
        "y: 3 of 4 files are late by 1.00 to 20.00 ms (median: 320 samples), the first being a",
        "y: 1 of 4 files is early by 3.00 ms (median: 48 samples), the first being b",
    ]
    assert "SI-SDR forgives no delay" in remarks[0]


def test_names_that_look_like_markup_stay_names(tmp_path):
    """In Markdown, in figures and in their legends."""
    names = ["a|b", "*x* <b>", "`c`", "$\\frac$", "_e", "[f](g)", "\u5f71"]
    systems = [System("noisy", "noisy", "n", scores(0)), *(System(name, "estimate", name, scores(1)) for name in names)]
    report = make_report(systems, MIXTURES, "", "deepnmf evaluate 'a``b'", [f"{name}: left out" for name in names])
    write_report(report, tmp_path)
    page = (tmp_path / "report.md").read_text("utf-8")
    for written in (
        r"| a\|b |",
        r"| \*x\* \<b\> |",
        r"| \`c\` |",
        r"| $\\frac$ |",
        r"| [f\](g) |",
        r"* a\|b: left out",
    ):
        assert written in page
    assert "* Command: ``` deepnmf evaluate 'a``b' ```" in page
    legend = draw(report)["gain_by_snr.png"].axes[0].get_legend()
    assert len(legend.get_texts()) == len(names)
    assert json.loads((tmp_path / "report.json").read_text("utf-8")) == report
    assert [row["system"] for row in csv.DictReader((tmp_path / "files.csv").read_text("utf-8").splitlines())][::4] == [
        "noisy", *names,
    ]  # fmt: skip


def test_a_figure_shows_each_mean_with_its_interval(report):
    means, gains = (figure.axes[0] for figure in draw(report).values())
    (_, ours) = gains.containers
    points, _, bars = ours
    np.testing.assert_allclose(points.get_xydata(), [[-3, 7], [6, 7]])
    segments = bars[0].get_segments()
    np.testing.assert_allclose([segment[:, 1] for segment in segments], [[7, 7], [7, 7]], atol=1e-9)
    assert [text.get_text() for text in gains.get_legend().get_texts()] == ["other|tool", "ours"]
    noisy, *others = (container.lines[0].get_color() for container in means.containers)
    assert noisy == "0.5" and others == [container.lines[0].get_color() for container in gains.containers]


def test_a_figure_without_intervals_does_not_speak_of_them(report):
    assert all("and 95 % confidence interval" in figure.get_suptitle() for figure in draw(report).values())
    mixtures = {name: Mixture(float(number)) for number, name in enumerate(SNRS_DB)}  # one file for each SNR
    systems = [System("noisy", "noisy", "n", scores(0)), System("x", "estimate", "x", scores(1))]
    drawn = draw(make_report(systems, mixtures, "", ""))
    assert drawn["gain_by_snr.png"].get_suptitle() == (
        "Gain over the noisy input (too few files at each point for intervals)"
    )
    assert "and 95 % confidence interval" in drawn["scores.png"].get_suptitle()


def test_a_folder_that_cannot_be_written_is_named(report, tmp_path):
    with pytest.raises(DeepnmfError, match="gone: found that it cannot be written"):
        write_report(report, tmp_path / "gone")


def test_a_failure_leaves_the_earlier_report_whole(report, tmp_path, monkeypatch):
    write_report(report, tmp_path)
    before = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in tmp_path.iterdir()}

    def disk_full(self: Path, *_: object, **__: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", disk_full)
    with pytest.raises(DeepnmfError, match="No space left on device"):
        write_report({**report, "date": "later"}, tmp_path)
    assert {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in tmp_path.iterdir()} == before
