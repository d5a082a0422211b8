"""`deepnmf models`: a table for people, JSON for programs."""

from pathlib import Path

import pytest

from deepnmf_cli import zoo
from deepnmf_cli.commands import console


@pytest.fixture
def models(monkeypatch):
    figures = {"SDR": 12.34, "SI-SDR": 11.0, "PESQ": 2.5, "STOI": 0.9, "ESTOI": 0.8}
    shipped = [
        zoo.ModelInfo("best", Path("models/best"), "The one.", 1_350_000, 12.3e9, figures, True),
        zoo.ModelInfo("new", Path("models/new"), "Not scored yet.", 950, 8.1e6, {}, False),
    ]
    monkeypatch.setattr(zoo, "available", lambda: shipped)
    return shipped


def test_table_shows_size_and_scores(deepnmf, models):
    result = deepnmf("models")
    header, rule, best, new = result.out.decode().splitlines()
    assert result.code == 0
    assert header.split("  ")[0].strip() == "model" and set(rule) == {"-", " "}
    assert best.split() == ["best", "*", "1.35", "M", "12.3", "G", "12.34", "11.00", "2.50", "0.800", "The", "one."]
    assert new.split() == ["new", "950", "8.1", "M", "-", "-", "-", "-", "Not", "scored", "yet."]


def test_json_has_every_figure(deepnmf, models):
    best, new = deepnmf("models", "--json").json
    assert best["figures"] == models[0].figures and best["default"] and not new["default"]
    assert best.keys() == {"name", "default", "description", "path", "parameters", "macs_per_s", "figures"}


def test_every_shipped_model_is_described_by_its_report_and_card_without_torch(monkeypatch):
    monkeypatch.setattr(zoo, "load", lambda name: pytest.fail("a network was built"))
    models = zoo.available()
    assert [model.name for model in models if model.default] == ["base"] == [models[0].name]
    assert all(model.description and model.figures and model.parameters > 0 for model in models)
    said = {model.name: model.description.split(":")[0] for model in models}
    assert said == {"base": "Default", "large": "Large", "tiny": "Small", "deep-nmf": "Reference"}


def test_a_report_is_that_of_the_network(monkeypatch):
    reported = {model.name: model for model in zoo.available()}
    monkeypatch.setattr(zoo, "_reported", lambda name: None)
    for name, model in reported.items():
        counted = zoo.info(name)
        assert (counted.parameters, counted.macs_per_s) == (model.parameters, pytest.approx(model.macs_per_s))


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"systems": [{"model": null}]}', '{"systems": 3}', "[" * 100000])
def test_a_report_that_is_none_of_these_weights_counts_for_nothing(tmp_path, content):
    copy = tmp_path / "model.safetensors"
    copy.write_bytes((zoo.models_folder() / "tiny" / "model.safetensors").read_bytes())
    (tmp_path / "README.md").write_text("# x\n\n> Y.\n")
    (tmp_path / "report.json").write_text(content)
    assert zoo.info(copy).description.startswith("Relaxed steps of mean field")


def test_numbers_are_aligned_to_the_right():
    lines = console.table(["name", "SDR"], [["a", "1.50"], ["longer", "-"]]).splitlines()
    assert lines == ["name     SDR", "------  ----", "a       1.50", "longer     -"]


@pytest.mark.parametrize(
    ("done", "failed", "code", "summary"),
    [
        (1, 0, 0, "Enhanced 1 file."),
        (2, 0, 0, "Enhanced 2 files."),
        (0, 1, 1, ""),
        (0, 2, 1, "2 of 2 files failed."),
        (2, 1, 3, "Enhanced 2 files. 1 of 3 files failed."),
    ],
)
def test_outcome_decides_wording_and_exit_code(done, failed, code, summary, capsys):
    from deepnmf_cli.errors import AudioError

    outcome = console.Outcome()
    for _ in range(done):
        outcome.done({})
    for _ in range(failed):
        outcome.failed({}, AudioError("x.wav", "a", "b", "C."))
    assert (outcome.exit_code, outcome.summary("Enhanced")) == (code, summary)
    assert capsys.readouterr().err == "Error: x.wav: found a; expected b. C.\n" * failed
