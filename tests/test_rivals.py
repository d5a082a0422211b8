"""The scripts that compare published programs with ours, without any of these programs."""

import csv
import importlib.util
import json
import re
from pathlib import Path

import numpy as np
import pytest
import soundfile

from deepnmf_cli.scoring.metrics import METRICS
from deepnmf_cli.scoring.mixtures import Mixture, known_mixtures
from deepnmf_cli.scoring.report import System, make_report
from deepnmf_cli.scoring.scorer import Scores

RESEARCH = Path(__file__).resolve().parents[1] / "docs/research"


def load(path: Path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def rivals():
    return load(RESEARCH / "rivals/enhance.py")


@pytest.fixture(scope="module")
def intervals():
    return load(RESEARCH / "intervals.py")


def late(samples: int):
    """A program that does nothing but delay, in frames of 160 samples, and drops what is left of the last frame."""
    return lambda heard: np.concatenate([np.zeros(samples, np.float32), heard])[: len(heard) // 160 * 160]


def tones(seconds: float, rate_hz: int) -> np.ndarray:
    """Two channels (n, 2) of different tones below 4 kHz, which fade in and out."""
    times = np.arange(round(seconds * rate_hz)) / rate_hz
    return np.stack([np.sin(2 * np.pi * hz * times) for hz in (440, 1234)], 1) * np.hanning(len(times))[:, None] / 2


@pytest.mark.parametrize("rate_hz", [16000, 44100])
def test_the_delay_of_a_program_is_undone_at_every_rate(rivals, rate_hz):
    samples = tones(0.5107, rate_hz).astype(np.float32)
    enhanced = rivals.enhance(late(384), {"rate_hz": 16000, "delay": 384}, samples, rate_hz)
    assert enhanced.shape == samples.shape
    np.testing.assert_allclose(enhanced[: -rate_hz // 50], samples[: -rate_hz // 50], atol=2e-3)


def test_a_folder_is_enhanced_once(rivals, tmp_path, monkeypatch):
    noisy, out = tmp_path / "noisy", tmp_path / "out"
    noisy.mkdir()
    for name in ("a", "b"):
        soundfile.write(noisy / f"{name}.flac", 0.5 * tones(0.3, 16000), 16000)
    (noisy / "mixtures.csv").write_text("name\n")
    calls = []
    monkeypatch.setitem(rivals.LOADERS, "GTCRN", lambda folder: lambda heard: calls.append(1) or 0.5 * heard)
    monkeypatch.setattr(rivals, "check", lambda rival, folder: None)
    arguments = ["GTCRN", str(tmp_path), str(noisy), str(out)]
    rivals.main(arguments)
    assert sorted(path.name for path in out.iterdir()) == ["a.wav", "b.wav"] and len(calls) == 4  # two channels each
    samples, rate_hz = soundfile.read(out / "a.wav")
    assert soundfile.info(out / "a.wav").subtype == "FLOAT" and rate_hz == 16000
    np.testing.assert_allclose(samples, 0.25 * tones(0.3, 16000), atol=1e-4)
    (out / "b.wav").unlink()
    rivals.main(arguments)
    assert len(calls) == 6


def test_other_weights_and_other_versions_are_refused(rivals, tmp_path):
    (tmp_path / "weights").write_bytes(b"x")
    right = "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"
    rivals.check({"files": {"weights": right}}, tmp_path)
    with pytest.raises(SystemExit, match=f"weights: found SHA-256 {right}; expected 0"):
        rivals.check({"files": {"weights": "0" * 64}}, tmp_path)
    with pytest.raises(SystemExit, match=r"numpy: found version \d.*; expected 0\.0"):
        rivals.check({"package": "numpy==0.0"}, tmp_path)


def test_every_program_is_described(rivals):
    described = rivals.described()
    assert described.keys() == rivals.LOADERS.keys()
    for one in described.values():
        assert one["source"] and one["licence"] and one["rate_hz"] in (16000, 48000) and one["delay"] >= 0
        assert "package" in one or (len(one["commit"]) == 40 and one["files"])


def made_report() -> dict:
    names = [f"{place:03}_+{3 * (place % 2)}dB_s{place % 3}_n{place % 4}" for place in range(12)]
    draw = np.random.default_rng(0)

    def system(name: str, kind: str, mean: float) -> System:
        scores = [
            Scores(
                one, {"SDR": mean + draw.normal(), "PESQ": draw.normal(), "BAK": float("nan")}, ("no BAK",), 2.5, 16000
            )
            for one in names
        ]
        model = {"parameters": 5, "macs_per_s": 7.0, "sha256": "ab"} if kind == "model" else None
        return System(name, kind, f"from/{name}", scores, model)

    systems = [system("noisy", "noisy", 0), system("ours", "model", 5)]
    systems = [system("one", "estimate", 3), *systems, system("two", "estimate", 4)]
    return make_report(systems, known_mixtures(names), "cd", "deepnmf evaluate ...", ["a remark"])


def test_a_comparison_is_kept_without_what_can_be_computed_again(intervals, tmp_path):
    report = made_report()
    (tmp_path / "report.json").write_text(json.dumps(report))
    kept = tmp_path / "kept"
    intervals.main([str(tmp_path / "report.json"), "--of", "ours", "--compact", str(kept)])
    assert {path.name for path in kept.iterdir()} >= {"files.csv", "origin.json", "report.md", "scores.png"}
    assert not (kept / "report.json").exists() and not (kept / "gain_by_snr.png").exists()
    assert (kept / "origin.json").stat().st_size < 4000
    page = (kept / "report.md").read_text()
    rows = {line.split(" | ")[0].strip("| "): line for line in page.splitlines() if line.startswith("|")}
    assert "ours - one" in rows and "ours - two" in rows and "one - two" not in rows
    assert "bootstrap over 3 speakers and 4 noises" in page and "a remark" in page and "`deepnmf evaluate ...`" in page
    expected = next(d for d in report["differences"] if d["to"] == "two" and d["of"] == "ours")["summary"]["SDR"]
    assert (
        "ours - two | {:+.2f} [{:+.2f}, {:+.2f}]".format(expected["mean"], *expected["interval"]) in rows["ours - two"]
    )
    with (kept / "files.csv").open(newline="") as file:
        first = next(csv.DictReader(file))
    noisy = next(one for one in report["systems"] if one["name"] == "noisy")
    assert first["SDR"] == str(round(noisy["files"][0]["SDR"], 4)) and first["BAK"] == ""

    (kept / "report.md").unlink()
    intervals.main([str(kept / "origin.json"), "--of", "ours"])
    assert (kept / "report.md").read_text() == page

    before = (kept / "origin.json").read_bytes()
    with pytest.raises(SystemExit):  # nowhere to write to but the report itself
        intervals.main([str(kept / "origin.json"), "--only", "ours"])
    assert (kept / "origin.json").read_bytes() == before


def test_a_new_version_of_a_system_takes_the_place_of_the_old_one(intervals, tmp_path):
    kept, newer = tmp_path / "kept", tmp_path / "newer.json"
    report = made_report()
    (tmp_path / "report.json").write_text(json.dumps(report))
    intervals.main([str(tmp_path / "report.json"), "--of", "ours", "--compact", str(kept)])
    before = intervals.read(kept / "origin.json")
    noisy, ours = (next(one for one in report["systems"] if one["name"] == name) for name in ("noisy", "ours"))
    rows = [row | {"SDR": row["SDR"] + 1} for row in ours["files"]]
    newer.write_text(json.dumps(report | {"systems": [noisy, ours | {"files": rows}], "command": "deepnmf again"}))
    intervals.main([str(kept / "origin.json"), "--of", "ours", "--take", str(newer)])
    after = intervals.read(kept / "origin.json")
    for old, new in zip(before["systems"], after["systems"], strict=True):
        risen = [n["SDR"] - o["SDR"] for o, n in zip(old["files"], new["files"], strict=True)]
        assert risen == pytest.approx([float(old["name"] == "ours")] * len(risen), abs=1e-3)
    assert after["command"] == "deepnmf again" and after["remarks"][:-1] == before["remarks"]
    assert after["remarks"][-1] == f"one, two: scored earlier, by {before['command']}"
    assert after["remarks"][-1] in (kept / "report.md").read_text("utf-8")
    for name, remarks in (("ours", before["remarks"]), ("one", after["remarks"])):
        intervals.main([str(kept / "origin.json"), "--only", name, "--to", str(tmp_path / "only.json")])
        assert json.loads((tmp_path / "only.json").read_text())["remarks"] == remarks
    for wrong in ({"reference": report["reference"] | {"sha256": "0"}}, {"systems": [noisy, ours | {"name": "other"}]}):
        newer.write_text(json.dumps(report | wrong))
        with pytest.raises(SystemExit):
            intervals.main([str(kept / "origin.json"), "--take", str(newer)])


def test_files_with_one_value_are_compared_by_themselves(intervals, tmp_path, capsys):
    report = made_report()
    (tmp_path / "report.json").write_text(json.dumps(report))
    intervals.main([str(tmp_path / "report.json"), "--of", "ours", "--where", "noise=n1"])
    page = capsys.readouterr().out
    assert "3 files, 0.1 minutes" in page
    rows = {line.split(" | ")[0].strip("| "): line for line in page.splitlines() if line.startswith("|")}
    files = {one["name"]: [row["SDR"] for row in one["files"] if row["noise"] == "n1"] for one in report["systems"]}
    assert rows["ours - two"].split(" | ")[1].startswith(f"{np.subtract(files['ours'], files['two']).mean():+.2f}")
    for wrong in ("noise=n9", "noise"):
        with pytest.raises(SystemExit, match=rf"noise=({wrong[6:]}): no such file"):
            intervals.main([str(tmp_path / "report.json"), "--where", wrong])
    with pytest.raises(SystemExit, match="the folder of the report"):
        intervals.main([str(tmp_path / "report.json"), "--compact", str(tmp_path)])
    assert (tmp_path / "report.json").exists()


def test_groups_and_further_scores_are_kept_as_well(intervals, tmp_path):
    names = [f"f{place}" for place in range(4)]
    values = [{"SDR": 1.0 * place, "CSIG": 2.0 + place, "OVRL": 3.0} for place in range(4)]
    scores = [Scores(name, value, (), 2.5, 16000) for name, value in zip(names, values, strict=True)]
    known = {name: Mixture(3.0, None, "xy"[place % 2], {"sex": "fm"[place // 2]}) for place, name in enumerate(names)}
    known["f3"] = Mixture(3.0, None, "y")
    report = make_report([System("ours", "estimate", "from", scores)], known, "cd", "deepnmf evaluate ...")
    (tmp_path / "report.json").write_text(json.dumps(report))
    intervals.main([str(tmp_path / "report.json"), "--compact", str(tmp_path / "kept")])
    (again,) = intervals.again(intervals.read(tmp_path / "kept/origin.json"))["systems"]
    (before,) = report["systems"]
    assert again == before
    assert [group["value"] for group in again["by_group"]["sex"]] == ["f", "m"]
    assert list(again["summary"]) == ["SDR", "CSIG", "OVRL"] and "interval" in again["summary"]["SDR"]


ROOT = RESEARCH.parents[1]
REPORTS = ROOT / "docs/reports/rivals"
SHOWN = (*METRICS, "OVRL")
CELL = re.compile(r"([+-]?\d+\.\d+) \[([+-]?\d+\.\d+), ([+-]?\d+\.\d+)\]")


@pytest.fixture(scope="module")
def scores() -> dict[str, dict[str, dict[str, float]]]:
    """System -> file -> score, on test-2."""
    found = {}
    with (REPORTS / "test-2/files.csv").open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            found.setdefault(row["system"], {})[row["name"]] = {metric: float(row[metric]) for metric in SHOWN}
    return found


def rows_of(page: str, cells: int) -> dict[str, list[str]]:
    """First cell, as the name of a system -> the others, of the tables of a page with so many columns."""
    found = {}
    for line in (ROOT / page).read_text("utf-8").splitlines():
        parts = (
            [part.strip() for part in line.strip("|").split("|")]
            if line.startswith("| ") and "[dB]" not in line
            else []
        )
        if len(parts) == cells:
            name = re.split(r"[,(]", parts[0].replace("*", ""))[0].strip().replace(" ", "-")
            found[{"noisy-input": "noisy", "deep-NMF": "deep-nmf"}.get(name, name)] = parts[1:]
    return found


def check_cells(cells: list[str], means: dict[str, float]) -> None:
    for cell, metric in zip(cells, METRICS, strict=True):
        match = CELL.fullmatch(cell)
        assert match, cell
        mean, low, high = map(float, match.groups())
        assert mean == pytest.approx(means[metric], abs=0.51 * 10.0 ** -METRICS[metric].digits + 1e-4), metric
        assert low <= mean <= high


def test_the_readme_shows_the_scores_that_are_committed(scores, rivals):
    rows = rows_of("README.md", 9)
    assert rows.keys() > {"noisy", "tiny", "base", "large", *rows_of("README.md", 6)}
    for name, cells in rows.items():
        for cell, metric in zip(cells[-len(SHOWN) :], SHOWN, strict=True):
            digits = METRICS[metric].digits if metric in METRICS else 2
            mean = np.mean([one[metric] for one in scores[name].values()])
            assert re.fullmatch(rf"-?\d+\.\d{{{digits}}}", cell) and abs(float(cell) - mean) < 0.51 * 10.0**-digits, (
                metric
            )
    text = " ".join((ROOT / "README.md").read_text("utf-8").split())
    assert f"has all {len(scores) - 1} systems with confidence intervals" in text
    units = {"k": 1e3, "M": 1e6}
    for name, described in rivals.described().items():
        for cell, key in zip(rows.get(name, []), ("parameters", "macs_per_s")):
            number, _, unit = cell.partition(" ")
            assert (cell == "-") == (key not in described)
            assert cell == "-" or float(number) * units[unit] == pytest.approx(described[key], rel=0.05), (name, key)


def test_the_leads_that_the_readme_claims_are_those_of_the_committed_scores(scores):
    rows = rows_of("README.md", 6)
    assert len(rows) >= 5
    for name, cells in rows.items():
        pairs = [(one, scores[name][file]) for file, one in scores["base"].items()]
        check_cells(cells, {m: np.mean([ours[m] - theirs[m] for ours, theirs in pairs]) for m in METRICS})


def test_the_files_that_the_readme_says_base_worsens_are_those(scores):
    text = " ".join((ROOT / "README.md").read_text("utf-8").split())
    worse = {m: sum(one[m] < scores["noisy"][file][m] for file, one in scores["base"].items()) for m in METRICS}
    claim = (
        "of 180 files it worsens {SDR} in SDR, {SI-SDR} in SI-SDR, {PESQ} in PESQ, {STOI} in STOI and {ESTOI} in ESTOI"
    )
    assert claim.format(**worse) in text


@pytest.mark.parametrize("part", sorted(path.name for path in REPORTS.iterdir()))
def test_the_pages_of_the_comparison_are_those_of_its_files(intervals, part):
    report = intervals.read(REPORTS / part / "origin.json")
    page = (REPORTS / part / "report.md").read_text("utf-8")
    for described in report["systems"]:
        assert len(described["files"]) == (180 if part == "test-2" else 120)
        sdr = np.mean([row["SDR"] for row in described["files"]])
        assert re.search(rf"^\| {re.escape(described['name'])} \| {sdr:.2f} \[", page, re.MULTILINE)
