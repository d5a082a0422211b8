"""`deepnmf evaluate --report`: what is continued after an interruption, and what is replaced."""

import os
from pathlib import Path

import pytest
import soundfile

from deepnmf_cli import zoo
from deepnmf_cli.scoring import report, scorer
from tests.commands.test_evaluate import NAMES, models, sets, write  # noqa: F401 (fixtures)


@pytest.fixture
def counted(monkeypatch):
    """The names that are scored, in their order."""
    names = []

    def count(pair, metrics):
        names.append(pair.name)
        return real(pair, metrics)

    real = scorer.score_pair
    monkeypatch.setattr(scorer, "score_pair", count)
    return names


def test_the_same_command_goes_on_where_it_stopped(deepnmf, sets, counted, hiss):  # noqa: F811
    words = ["evaluate", "--reference", "clean", "--noisy", "noisy", "--estimate", "enhanced", "--report", "report"]
    whole = deepnmf(*words[:-2], "--json").json
    write("noisy/3_-6dB_a.wav", hiss(1.1))
    counted.clear()
    result = deepnmf(*words)
    assert result.code == 1 and "found 17600 samples" in result.err and counted == NAMES
    assert [path.name for path in Path("report").iterdir()] == ["unfinished.jsonl"]
    clean, _ = soundfile.read("clean/3_-6dB_a.wav", dtype="float32")
    write("noisy/3_-6dB_a.wav", clean + hiss(1.0, seed=2))
    counted.clear()
    again = deepnmf(*words, "--json")
    assert counted == [NAMES[2], *NAMES]
    assert "2 scores of an earlier call did not have to be computed again." in again.err
    assert [s["files"] for s in again.json["systems"]] == [
        [{**row, "ESTOI": pytest.approx(row["ESTOI"])} for row in system["files"]] for system in whole["systems"]
    ]
    assert not Path("report/unfinished.jsonl").exists()


COMPARED = ["evaluate", "--reference", "clean", "--estimate", "enhanced", "--report", "report"]


@pytest.mark.parametrize("name", ["report.md", "files.csv", "scores.png", "report.json"])
def test_a_report_replaces_nothing_of_the_user(deepnmf, sets, counted, name):  # noqa: F811
    Path("report").mkdir()
    Path("report", name).write_text('{"mine": 1}')
    result = deepnmf(*COMPARED)
    assert result.code == 2 and counted == [] and result.out == b""
    assert f"report/{name}: found an existing file; expected a new name" in result.err and "--overwrite" in result.err
    assert os.listdir("report") == [name] and Path("report", name).read_text() == '{"mine": 1}'
    assert deepnmf(*COMPARED, "--overwrite").code == 0
    assert len(os.listdir("report")) == 5 and Path("report", name).read_bytes() != b'{"mine": 1}'


def test_a_report_is_replaced_by_its_own_command_alone(deepnmf, sets, counted):  # noqa: F811
    assert deepnmf(*COMPARED).code == 0
    date = Path("report/report.json").stat().st_mtime_ns
    assert deepnmf(*COMPARED[:-1], "report/", "--jobs", "1", "--json", "--examples", "0").code == 0
    assert Path("report/report.json").stat().st_mtime_ns != date
    counted.clear()
    other = deepnmf(*COMPARED, "--noisy", "noisy")
    assert other.code == 2 and counted == []
    assert "report/report.json: found the report of another command (deepnmf evaluate --reference clean" in other.err
    assert deepnmf(*COMPARED, "--noisy", "noisy", "--overwrite").code == 0
    assert deepnmf(*COMPARED, "--noisy", "noisy").code == 0
    Path("report/report.json").write_text(Path("report/report.json").read_text().replace("--noisy", "--gone"))
    assert deepnmf(*COMPARED, "--noisy", "noisy").code == 2  # an option of another version


def test_a_report_that_was_stopped_in_the_midst_is_finished(deepnmf, sets, monkeypatch):  # noqa: F811
    def stop(*_: object) -> None:
        Path("report/files.csv").write_text("")
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(report, "write_report", stop)
        assert deepnmf(*COMPARED).code == 130
    assert sorted(os.listdir("report")) == ["files.csv", "unfinished.jsonl"]
    assert deepnmf(*COMPARED).code == 0 and len(os.listdir("report")) == 5


def test_an_interrupted_command_lets_no_other_replace_the_report_that_it_may_replace(deepnmf, sets, monkeypatch):  # noqa: F811
    assert deepnmf(*COMPARED).code == 0
    before = Path("report/report.json").read_bytes()
    with monkeypatch.context() as patched:
        patched.setattr(report, "write_report", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        assert deepnmf(*COMPARED, "--noisy", "noisy", "--overwrite").code == 130
    refused = deepnmf(*COMPARED, "--rate", "8000")
    assert refused.code == 2 and "found the report of another command" in refused.err
    assert Path("report/report.json").read_bytes() == before
    assert deepnmf(*COMPARED, "--noisy", "noisy").code == 0


def test_a_changed_file_and_a_changed_model_are_scored_again(deepnmf, sets, models, counted, monkeypatch):  # noqa: F811
    words = ["evaluate", "--reference", "clean", "--noisy", "noisy", "--model", "best", "--report", "report"]

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(report, "write_report", interrupt)
        assert deepnmf(*words).code == 130 and len(counted) == 3 and len(models) == 3
    models.clear()
    counted.clear()
    Path("clean/2_+3dB_b.wav").touch()
    (zoo.find("best")).write_text("other weights")
    assert deepnmf(*words).code == 0
    assert counted == [NAMES[1]] and len(models) == 3
