"""The tool that changes the program and asks whether its tests notice."""

import json
from collections import Counter
from pathlib import Path

import pytest

from tests.mutation.__main__ import find, identity, joined, read, row_of, table, trials, write
from tests.mutation.coverers import Coverers
from tests.mutation.mutants import ROOMS, Mutant, mutants, sample
from tests.mutation.trial import Bench

SOURCE = '''"""A module: 1 + 1."""

LIMIT = 3


@decorated(keep=True)
def clipped(x: "int < 4" = 5) -> int:
    """Returns x, 0 at least."""
    if x < 0 and not x > 9:
        raise ValueError(f"{x + 1}")
    total = 0
    total += min(x, LIMIT)
    forget(x)
    return total * 0.5 if x else helper(x, way=-2, must=x).mT


def helper(x, must, way=1):
    return [y / 2 for y in x if y]
'''


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A package with one file in one room."""
    place = tmp_path / "deepnmf_cli" / "signal"
    place.mkdir(parents=True)
    (place / "clip.py").write_text(SOURCE, "utf-8")
    return tmp_path


def changes(checkout: Path) -> list[tuple[int, str, str, str]]:
    return [(m.line, m.kind, m.before, m.after) for m in mutants(checkout)]


def test_every_kind_of_change_is_made_where_it_may_matter_and_nowhere_else(checkout: Path) -> None:
    assert changes(checkout) == [
        (3, "constant", "3", "4"),
        (7, "constant", "5", "6"),
        (9, "branch", "x < 0 and (not x > 9)", "(not (x < 0 and (not x > 9)))"),
        (9, "boolean", "x < 0 and (not x > 9)", "(x < 0 or not x > 9)"),
        (9, "comparison", "x < 0", "(x <= 0)"),
        (9, "constant", "0", "1"),
        (9, "not", "not x > 9", "(x > 9)"),
        (9, "comparison", "x > 9", "(x >= 9)"),
        (9, "constant", "9", "10"),
        (11, "constant", "0", "1"),
        (12, "statement", "total += min(x, LIMIT)", "pass"),
        (12, "arithmetic", "total += min(x, LIMIT)", "total -= min(x, LIMIT)"),
        (12, "function", "min(x, LIMIT)", "(max(x, LIMIT))"),
        (13, "statement", "forget(x)", "pass"),
        (14, "branch", "total * 0.5 if x else helper(x, way=-2, must=x).mT", "(helper(x, way=-2, must=x).mT if x else total * 0.5)"),
        (14, "arithmetic", "total * 0.5", "(total / 0.5)"),
        (14, "constant", "0.5", "1.0"),
        (14, "transpose", "helper(x, way=-2, must=x).mT", "(helper(x, way=-2, must=x))"),
        (14, "argument", "helper(x, way=-2, must=x)", "(helper(x, must=x))"),
        (14, "sign", "-2", "(2)"),
        (14, "constant", "2", "3"),
        (17, "constant", "1", "2"),
        (17, "constant", "1", "0"),
        (18, "arithmetic", "y / 2", "(y * 2)"),
        (18, "constant", "2", "3"),
        (18, "filter", "y", "(not y)"),
    ]  # fmt: skip


def test_a_change_replaces_the_text_that_it_names_and_leaves_the_rest(checkout: Path) -> None:
    for mutant in mutants(checkout):
        source = mutant.applied(SOURCE)
        line = source.splitlines()[mutant.line - 1]
        assert mutant.after in line and line != SOURCE.splitlines()[mutant.line - 1]
        others = [text.splitlines()[: mutant.line - 1] + text.splitlines()[mutant.line :] for text in (source, SOURCE)]
        assert others[0] == others[1]


def test_columns_count_bytes_and_text_may_span_lines(checkout: Path) -> None:
    path = checkout / "deepnmf_cli" / "signal" / "clip.py"
    path.write_text("x = 'é', (2 -\n     3)\n", "utf-8")
    first = mutants(checkout)[0]
    assert first.applied(path.read_text("utf-8")) == "x = 'é', ((2 + 3))\n"
    assert first.lines == (1, 2)


def some(count: int, room: str) -> list[Mutant]:
    return [Mutant(f"deepnmf_cli/{room}/a.py", n, 0, "constant", "1", "2", (n, 1), (n, n)) for n in range(count)]


def test_a_sample_is_drawn_by_seed_and_takes_from_each_room_its_share() -> None:
    population = some(50, ROOMS[0]) + some(30, ROOMS[1]) + some(20, ROOMS[2])
    chosen = sample(population, 11, 4)
    assert Counter(mutant.room for mutant in chosen) == {ROOMS[0]: 6, ROOMS[1]: 3, ROOMS[2]: 2}  # 5.5, 3.3, 2.2
    assert chosen == sample(population, 11, 4) != sample(population, 11, 5)
    assert len(set(chosen)) == 11


RECORD = {
    "passed": ["tests/a.py::quick", "tests/a.py::slow", "tests/b.py::other"],
    "seconds": {"tests/a.py::quick": 0.1, "tests/a.py::slow": 3.0, "tests/b.py::other": 0.2, "tests/b.py::bad": 0.1, "fixture f of tests": 1.0},
    "users": {"fixture f of tests": ["tests/b.py::other", "tests/b.py::bad"]},
    "lines": {"deepnmf_cli/signal/clip.py": {"9": ["tests/a.py::slow", "tests/b.py::bad"], "12": ["tests/a.py::quick", "fixture f of tests"]}},
}  # fmt: skip


def test_tests_of_a_mutant_run_its_line_or_share_a_fixture_that_does(checkout: Path) -> None:
    (checkout / "tests").mkdir()
    for name in "ab":
        (checkout / "tests" / f"{name}.py").write_text("", "utf-8")
    (checkout / "record.json").write_text(json.dumps(RECORD), "utf-8")
    coverers = Coverers(checkout / "record.json", checkout)

    def of(line: int, most: float = 20) -> dict[str, float]:
        return coverers.of(next(m for m in mutants(checkout) if m.line == line), most)

    assert of(9) == {"tests/a.py::slow": 3.0}  # `bad` did not pass
    assert of(12) == {"tests/a.py::quick": 0.1, "tests/b.py::other": 1.2}
    assert list(of(12)) == ["tests/a.py::quick", "tests/b.py::other"] and list(of(12, most=1)) == ["tests/a.py::quick"]
    assert of(11).keys() == set(RECORD["passed"])  # no test runs it, so all that run the file
    assert of(3) == of(12)  # LIMIT is used in line 12
    (checkout / "tests" / "a.py").write_text("from deepnmf_cli.signal.clip import LIMIT", "utf-8")
    assert of(3).keys() == set(RECORD["passed"])


def test_a_newer_record_adds_to_an_older_one() -> None:
    new = {"passed": ["tests/b.py::bad"], "seconds": {"tests/b.py::bad": 0.5}, "users": {}, "lines": {"deepnmf_cli/signal/clip.py": {"9": ["tests/b.py::bad"]}}}  # fmt: skip
    both = joined(RECORD, new)
    assert (
        both["passed"] == sorted([*RECORD["passed"], "tests/b.py::bad"]) and both["seconds"]["tests/b.py::bad"] == 0.5
    )
    assert both["lines"]["deepnmf_cli/signal/clip.py"]["9"] == ["tests/a.py::slow", "tests/b.py::bad"]
    assert both["users"] == {"fixture f of tests": ["tests/b.py::bad", "tests/b.py::other"]}


def test_rows_are_read_as_written_and_found_again_after_lines_moved(checkout: Path) -> None:
    first = next(mutant for mutant in mutants(checkout) if mutant.line == 12)
    row = {**row_of(first), "verdict": "survived", "test": "", "cpu_seconds": "1.0", "reason": "with, comma\nand line"}
    write(checkout / "rows.csv", [row])
    assert read(checkout / "rows.csv") == [row] and identity(row) == identity(row_of(first))
    path = checkout / first.file
    path.write_text("\n\n" + SOURCE, "utf-8")
    assert find(row, mutants(checkout)).line == 14
    path.write_text(SOURCE.replace("total +=", "total -="), "utf-8")
    assert find(row, mutants(checkout)) is None


def test_the_table_counts_by_room() -> None:
    rows = [
        {"file": "deepnmf_cli/signal/a.py", "verdict": verdict, "reason": reason}
        for verdict, reason in (("killed", ""), ("timeout", ""), ("survived", "equal"), ("untested", ""))
    ]
    assert table(rows).splitlines()[2:] == ["| signal | 4 | 2 | 1 | 1 | 75.0 % |", "| all | 4 | 2 | 1 | 1 | 75.0 % |"]


def test_verdicts_of_real_runs(checkout: Path, monkeypatch) -> None:
    import subprocess

    (checkout / "deepnmf_cli" / "signal" / "clip.py").write_text("def f(n):\n    while n > 1:\n        n -= 1\n    return n + 5\n", "utf-8")  # fmt: skip
    (checkout / "deepnmf_cli" / "__init__.py").write_text("", "utf-8")
    (checkout / "tests").mkdir()
    (checkout / "tests" / "test_f.py").write_text("from deepnmf_cli.signal.clip import f\ndef test_f(): assert f(3) == 6\n", "utf-8")  # fmt: skip
    (checkout / ".gitignore").write_text("__pycache__\nbench\n", "utf-8")
    subprocess.run(["git", "init", "-q", checkout], check=True)
    monkeypatch.setattr("tests.mutation.trial.PATIENCE_CPU_S", 0.2)
    bench = Bench(checkout, checkout / "bench")
    chosen = mutants(checkout)
    outcomes = dict(trials([bench], [None, *chosen], [{"tests/test_f.py::test_f": 0.01}] * (1 + len(chosen))))
    verdicts = [(m.line, m.after, outcomes[1 + n].verdict) for n, m in enumerate(chosen)]
    assert outcomes[0].verdict == "survived"
    assert verdicts == [
        (2, "(n >= 1)", "killed"),
        (2, "2", "killed"),
        (2, "0", "killed"),
        (3, "pass", "timeout"),
        (3, "n += 1", "timeout"),
        (3, "2", "survived"),  # 3 is odd
        (3, "0", "timeout"),
        (4, "(n - 5)", "killed"),
        (4, "6", "killed"),
    ]
    assert {outcomes[1 + n].test for n, row in enumerate(verdicts) if row[2] != "survived"} == {
        "tests/test_f.py::test_f"
    }
    assert (bench.folder / "deepnmf_cli/signal/clip.py").read_text() == (
        checkout / "deepnmf_cli/signal/clip.py"
    ).read_text()
