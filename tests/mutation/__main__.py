"""`python -m tests.mutation WORK`: does a test notice when the program changes? See `--help`."""

import argparse
import csv
import json
import os
import signal
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

from tests.mutation.coverers import Coverers
from tests.mutation.mutants import ROOMS, Mutant, mutants, sample
from tests.mutation.trial import Bench, Outcome

ROOT = Path(__file__).resolve().parents[2]
COLUMNS = ("file", "line", "column", "kind", "before", "after", "source", "verdict", "test", "cpu_seconds", "reason")
LIVING = {"survived", "untested"}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.mutation", description=__doc__)
    parser.add_argument("work", type=Path, help="folder for copies of the checkout, and for what is known so far")
    parser.add_argument("--count", type=int, default=600, help="how many mutants; 600 by default")
    parser.add_argument("--seed", type=int, default=1, help="of the sample; 1 by default")
    parser.add_argument(
        "--room", choices=ROOMS, action="append", help="of the sample, those of this room; may be repeated"
    )
    parser.add_argument("--processes", type=int, default=1, help="1 by default")
    parser.add_argument("--most", type=float, default=20, help="CPU seconds of tests for one mutant; 20 by default")
    parser.add_argument("--tests", nargs="+", help="record which lines these tests run, beside what is known of others")
    parser.add_argument("--again", action="store_true", help="try once more what survived without a reason")
    parser.add_argument("--unchanged", type=int, default=0, help="run tests of so many mutants without the mutants")
    parser.add_argument("--table", action="store_true", help="print the table of WORK/mutants.csv, and do no more")
    options = parser.parse_args()
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)  # ignored by a job in the background, and so by what its tests start
    os.environ["OMP_NUM_THREADS"] = "1"  # a process with threads must not be forked
    work = options.work.resolve()
    results = work / "mutants.csv"
    if options.table:
        return print(table(read(results)))
    benches = [Bench(ROOT, work / f"bench-{number}") for number in range(options.processes)]
    if options.tests or not (work / "record.json").exists():
        record(benches[0].folder, work / "record.json", options.tests or ["tests"])
    coverers = Coverers(work / "record.json", benches[0].folder)
    population, rows = mutants(benches[0].folder), read(results)
    if options.again:
        alive = [row for row in rows if row["verdict"] in LIVING and not row["reason"]]
        plan = [(row, mutant) for row in alive if (mutant := find(row, population))]
    else:
        known = {identity(row) for row in rows}
        drawn = [(row_of(mutant), mutant) for mutant in sample(population, options.count, options.seed)]
        plan = [(row, mutant) for row, mutant in drawn if identity(row) not in known]
    plan = [(row, mutant) for row, mutant in plan if mutant.room in (options.room or ROOMS)]
    tests = [coverers.of(mutant, options.most) for _, mutant in plan]
    if options.unchanged:
        for number, outcome in trials(benches, [None] * options.unchanged, tests):
            print(plan[number][1].file, outcome)
        return None
    for number, outcome in trials(benches, [mutant for _, mutant in plan], tests):
        row = plan[number][0]
        row |= {"verdict": outcome.verdict, "test": outcome.test, "cpu_seconds": f"{outcome.cpu_seconds:.1f}"}
        if not options.again:
            rows.append(row)
        write(results, rows)
    return print(table(rows))


def trials(
    benches: list[Bench], chosen: list[Mutant | None], tests: list[dict[str, float]]
) -> Iterator[tuple[int, Outcome]]:
    """The number of each mutant and what came of it, as many at a time as there are benches."""
    free, at_work, waiting = list(benches), {}, iter(range(len(chosen)))
    while True:
        while free and (number := next(waiting, None)) is not None:
            if tests[number]:
                bench = free.pop()
                at_work[bench.start(chosen[number], tests[number])] = bench, number
            else:
                yield number, Outcome("untested")
        if not at_work:
            return
        process, status, usage = os.wait4(-1, 0)
        bench, number = at_work.pop(process)
        yield number, bench.finish(chosen[number], process, status, usage.ru_utime + usage.ru_stime)
        free.append(bench)


def record(checkout: Path, path: Path, tests: list[str]) -> None:
    """Write which of the tests run which line to a file; what it knows of other tests stays."""
    new = path.with_suffix(".new.json")
    options = ["-n", "0", "-p", "no:cacheprovider", "-p", "tests.mutation.record", "--record", new]
    command = [sys.executable, "-m", "pytest", *options, *tests]
    subprocess.run(command, cwd=checkout, env={**os.environ, "PYTHONPATH": str(checkout)})
    known = json.loads(path.read_text("utf-8")) if path.exists() else {}
    path.write_text(json.dumps(joined(known, json.loads(new.read_text("utf-8")))), "utf-8")


def joined(known: dict, new: dict) -> dict:
    """Two records of which tests run which line; the newer one counts where both know a test."""
    lines: dict = defaultdict(lambda: defaultdict(set))
    users: dict = defaultdict(set)
    for part in (known, new):
        for file, by_line in part.get("lines", {}).items():
            for line, contexts in by_line.items():
                lines[file][line] |= set(contexts)
        for fixture, tests in part.get("users", {}).items():
            users[fixture] |= set(tests)
    return {
        "passed": sorted({*known.get("passed", []), *new["passed"]}),
        "seconds": known.get("seconds", {}) | new["seconds"],
        "users": {fixture: sorted(tests) for fixture, tests in users.items()},
        "lines": {file: {line: sorted(c) for line, c in by_line.items()} for file, by_line in lines.items()},
    }


def row_of(mutant: Mutant) -> dict[str, str]:
    return {name: str(getattr(mutant, name)) for name in COLUMNS[:7]}


def identity(row: dict[str, str]) -> tuple[str, ...]:
    return tuple(row[name] for name in COLUMNS[:7])


def find(row: dict[str, str], population: list[Mutant]) -> Mutant | None:
    """The mutant of a row, also where lines above it have come or gone; None where it cannot be made any more."""
    wanted = [row[name] for name in ("file", *COLUMNS[3:7])]
    same = [m for m in population if [m.file, m.kind, m.before, m.after, m.source] == wanted]
    return min(same, key=lambda m: (abs(m.column - int(row["column"])), abs(m.line - int(row["line"]))), default=None)


def read(path: Path) -> list[dict[str, str]]:
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def write(path: Path, rows: Iterable[dict[str, str]]) -> None:
    part = path.with_suffix(".part")
    with part.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    part.replace(path)


def table(rows: list[dict[str, str]]) -> str:
    """Markdown: by room, how many were tried, were noticed, live on for a reason, and live on."""
    lines = ["| room | mutants | killed | justified | alive | killed or justified |", "|---|--:|--:|--:|--:|--:|"]
    counts: dict[str, Counter] = {room: Counter() for room in (*ROOMS, "all")}
    for row in rows:
        word = "killed" if row["verdict"] not in LIVING else "justified" if row.get("reason") else "alive"
        for room in (Path(row["file"]).parts[1], "all"):
            counts[room][word] += 1
    for room, count in counts.items():
        if total := count.total():
            cells = [room, total, count["killed"], count["justified"], count["alive"]]
            lines.append("| " + " | ".join(map(str, cells)) + f" | {100 * (1 - count['alive'] / total):.1f} % |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
