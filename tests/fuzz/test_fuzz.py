"""The harness finds faults that are planted, and none in a short campaign of fixed seed."""

import json
import os
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest

from tests.fuzz import containers, sounds, trees
from tests.fuzz.campaign import DEFAULT_TARGETS, case_of

ROOT = Path(__file__).parents[2]
SEED = 18
CASES, MINUTES = 120, 3

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs processes that fork")


def fuzz(folder: Path, *arguments: object) -> tuple[int, dict, str]:
    """(exit code, report, all that was printed) of a campaign in processes of its own."""
    report = folder / "report.json"
    command = [sys.executable, "-m", "tests.fuzz", "--findings", folder / "findings", "--report", report, *arguments]
    done = subprocess.run(list(map(str, command)), cwd=ROOT, capture_output=True, text=True)
    return done.returncode, json.loads(report.read_text()) if report.exists() else {}, done.stdout + done.stderr


def test_a_short_campaign_finds_nothing(tmp_path):
    code, report, printed = fuzz(tmp_path, "--seed", SEED, "--cases", CASES, "--minutes", MINUTES, "--processes", 2)
    assert code == 0 and report["findings"] == [], printed
    assert all(report["cases"].get(target, 0) > 5 for target in DEFAULT_TARGETS)
    assert report["exit_codes"]["0"] > 0 and report["exit_codes"]["1"] > 0


PLANTED = {
    "crash": "crash: SIGSEGV",
    "traceback": "traceback: planted.py in _traceback",
    "partial": "left behind: a hidden .wav file",
    "overwritten": "left behind: a .wav file with exit code #",
    "hang": "hang: # s of CPU",
    "memory": "memory: # MB with exit code #",
    "temporary": "left behind: a file in the temporary folder",
    "home": "left behind: a .db file in the home folder",
    "code": "exit code: #",
    "silence": "result: exit code # without the output",
    "loss": "result: # of # samples",
}


def test_every_planted_fault_is_found_and_others_are_not(tmp_path):
    targets = [word for name in ("nothing", *PLANTED) for word in ("--target", f"planted-{name}")]
    code, report, printed = fuzz(tmp_path, *targets, "--cases", len(PLANTED) + 1)
    assert code == 1, printed
    found = {finding["target"].removeprefix("planted-"): finding["signature"] for finding in report["findings"]}
    assert found.keys() == PLANTED.keys() and len(report["findings"]) == len(PLANTED), printed
    assert not {name: text for name, text in found.items() if not text.startswith(PLANTED[name])}
    kept = {path.name: json.loads((path / "finding.json").read_text()) for path in (tmp_path / "findings").iterdir()}
    assert len(kept) == len(PLANTED) and (tmp_path / "findings/crash-planted-crash-1-0/files/in.wav").exists()


def test_a_finding_comes_again_by_its_seed_and_index(tmp_path):
    code, _, printed = fuzz(tmp_path, "--target", "planted-traceback", "--seed", 5, "--index", 3)
    assert code == 1 and "KeyError: 'planted'" in printed
    assert (tmp_path / "findings/traceback-planted-traceback-5-3/finding.json").exists()


def test_cases_of_one_seed_are_the_same():
    assert sounds.mutated(Random("1/2")) == sounds.mutated(Random("1/2"))
    assert trees.table(["a"], [["b"]], Random(7)) == trees.table(["a"], [["b"]], Random(7))


@pytest.mark.parametrize("suffix", sounds.MAIN)
def test_the_structure_of_every_main_format_is_seen(suffix):
    """Parts lie inside the file, in order, and the fields of the header are among the numbers."""
    random = Random(0)
    sound = next(s for s in iter(lambda: sounds.whole(random), None) if s.suffix == suffix and s.frames >= 4000)
    outline = containers.outline(sound.data)
    assert outline.cuts == sorted(set(outline.cuts)) and outline.cuts[0] == 0 and outline.cuts[-1] < len(sound.data)
    assert len(outline.cuts) > 1 and all(number.offset + number.width <= len(sound.data) for number in outline.numbers)
    if suffix not in ("mp3", "opus", "flac"):  # where rates are codes
        assert sound.rate_hz in {number.read(sound.data) for number in outline.numbers} or suffix in ("aiff", "caf")
    assert containers.seal(sound.data) == sound.data


def test_checksums_of_ogg_pages_are_put_right():
    random = Random(1)
    sound = next(s for s in iter(lambda: sounds.whole(random), None) if s.suffix == "ogg")
    assert containers.seal(sound.data[:22] + b"\0\0\0\0" + sound.data[26:]) == sound.data


@pytest.mark.parametrize("target", ["recipe", "manifest", "interface"])
def test_a_case_depends_on_its_number_alone(target):
    """So that a finding can be run again by itself."""
    once, again = ([case_of(target, 1, index) for index in order] for order in (range(80), reversed(range(80))))
    for first, second in zip(once, reversed(again), strict=True):
        assert first.arguments == second.arguments and first.files == second.files
