"""The scenes in which an enhancer may fail: what is measured, and a few of the sounds."""

import csv
import importlib.util
from pathlib import Path

import numpy as np
import pytest
import soundfile

SCRIPT = Path(__file__).resolve().parents[1] / "docs/research/scenes/scenes.py"


@pytest.fixture(scope="module")
def scenes():
    spec = importlib.util.spec_from_file_location("scenes", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_level_is_that_of_a_span_and_of_a_band(scenes):
    seconds = np.arange(48000) / 48000
    low, high = (np.sin(2 * np.pi * hz * seconds)[:, None] for hz in (1000, 12000))
    out = low + np.where(seconds < 0.5, 0.1, 0.5)[:, None] * high
    assert scenes.level(0.5 * low, low, low, 48000) == pytest.approx(-6.02, abs=0.01)
    assert scenes.level(out, low + high, low, 48000, span_s=(0, 0.4), above_hz=8500) == pytest.approx(-20, abs=0.1)
    assert scenes.level(out, low + high, low, 48000, span_s=(0.6, None), above_hz=8500) == pytest.approx(-6, abs=0.1)
    assert scenes.level(0 * low, low, low, 48000) == pytest.approx(-120)
    assert scenes.peak(0 * low, low, low, 48000) == -120


def test_sounds_have_the_pitch_and_level_that_they_say(scenes):
    vowel = scenes.vowel(210, 2)
    assert len(vowel) == 2.5 * scenes.RATE_HZ and np.abs(vowel[:8000]).max() < 0.002
    strength = np.abs(np.fft.rfft(vowel[8000:40000] * np.hanning(32000)))
    assert np.argmax(strength[:600]) / 2 == pytest.approx(210, abs=3)
    speech = np.random.default_rng(0).standard_normal(8000)
    mixture = scenes.mixed(0.1 * speech, scenes.white(0.5), 6)
    noise = mixture - 0.1 * speech
    assert 10 * np.log10(0.01 * (speech**2).sum() / (noise**2).sum()) == pytest.approx(6)
    assert len(scenes.coded(scenes.white(1))) == scenes.RATE_HZ


def test_scores_have_a_row_for_each_measure_and_system(scenes, tmp_path, capsys):
    for part, gain in (("noisy", 1), ("clean", 1), ("half", 0.5)):
        (tmp_path / part).mkdir()
        for place, name in enumerate(("hum", "clean")):
            sound = gain * scenes.white(1, place) + (part == "half") * 1e-3 * scenes.white(1, 7)
            soundfile.write(tmp_path / part / f"{name}.wav", sound, scenes.RATE_HZ, "FLOAT")
    (tmp_path / "scenes.csv").write_text("scene,what\nhum,a hum\nclean,clean speech\n")
    scenes.score(tmp_path, {"half": tmp_path / "half"})
    rows = list(csv.DictReader(capsys.readouterr().out.splitlines()))
    assert [(row["scene"], row["measure"], row["better"], row["system"]) for row in rows] == [
        ("hum", "level", "lower", "input"),
        ("hum", "level", "lower", "half"),
        ("clean", "SI-SDR", "higher", "input"),
        ("clean", "SI-SDR", "higher", "half"),
    ]
    assert [float(row["db"]) for row in rows[:2]] == pytest.approx([0, -6.02], abs=0.01)
    assert float(rows[3]["db"]) == pytest.approx(54, abs=0.5) and rows[0]["what"] == "a hum"


def test_every_measure_belongs_to_a_scene_of_the_table(scenes):
    with SCRIPT.with_name("scenes.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert scenes.MEASURES.keys() <= {row["scene"] for row in rows}
    assert len({row["scene"] for row in rows}) >= 25 and {"tiny", "base", "large"} <= {row["system"] for row in rows}
