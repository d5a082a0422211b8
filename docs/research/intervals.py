"""Remake reports from the scores of their files, which are kept: nothing is enhanced or scored.

    python docs/research/intervals.py REPORT.json ...
    python docs/research/intervals.py REPORT.json --of NAME ... --compact FOLDER
    python docs/research/intervals.py FOLDER/origin.json --of NAME ...
    python docs/research/intervals.py FOLDER/origin.json --only NAME --to models/NAME/report.json
    python docs/research/intervals.py FOLDER/origin.json --of NAME ... --where room=yes
    python docs/research/intervals.py FOLDER/origin.json --of NAME ... --take REPORT.json

This is for reports that were written before intervals took account of speakers and noises, and for those of many
systems: with --of, the named systems come first, and only their differences to others are kept. report.json is
rewritten, and so are report.md and the figures beside it if they exist. --compact writes what a repository should hold
of a comparison: files.csv with rounded scores, origin.json with everything that is neither a score nor computed from
scores, and the page and figures made from the two. --only writes the report of one system and the noisy input. --where
prints the tables for the files that have a value in a column of files.csv. --take replaces systems by those of the same
names in a report on the same files, such as that of a new release, and leaves the others as they were.
"""

import argparse
import csv
import json
import math
from collections.abc import Collection
from pathlib import Path

from deepnmf_cli.checkpoint import atomic_path
from deepnmf_cli.scoring.figures import GAIN, SCORES
from deepnmf_cli.scoring.metrics import ALL
from deepnmf_cli.scoring.mixtures import DESCRIBED, GROUPS, Mixture, known_mixtures
from deepnmf_cli.scoring.report import FILES_CSV, REPORT_HTML, REPORT_JSON, REPORT_MD, System, make_report, write_report
from deepnmf_cli.scoring.scorer import NOISY, Scores
from deepnmf_cli.scoring.tables import markdown

ORIGIN_JSON = "origin.json"
COMPUTED = ("summary", "gain", "by_snr", "by_group", "files")
"""Keys of every system that origin.json leaves out."""

DECIMALS = 4

EARLIER = "scored earlier, by"


def read(path: Path) -> dict:
    """Return the report in report.json, or that in origin.json with its files from files.csv."""
    report = json.loads(path.read_text("utf-8"))
    if path.name == ORIGIN_JSON:
        with (path.parent / FILES_CSV).open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        for described in report["systems"]:
            described["files"] = [_values(row) for row in rows if row["system"] == described["name"]]
    return report


def _values(row: dict[str, str]) -> dict:
    """Return a row of files.csv as report.json has it."""
    numbers = {key: float(row[key]) if row[key] else None for key in row.keys() & {*ALL, "seconds", "snr_db"}}
    known = {key: value for key, value in row.items() if value or key not in GROUPS}
    return {**known, **numbers, "notes": [note for note in row["notes"].split("; ") if note]}


def system(described: dict, rate_hz: int) -> System:
    """Return the system that a report describes."""
    scores = [
        Scores(
            row["name"],
            {metric: math.nan if row[metric] is None else row[metric] for metric in row if metric in ALL},
            tuple(row["notes"]),
            row["seconds"],
            rate_hz,
        )
        for row in described["files"]
    ]
    return System(described["name"], described["kind"], described["source"], scores, described["model"])


def again(report: dict, of: Collection[str] = ()) -> dict:
    """Return the report with new intervals and, if `of` names systems, their differences only; its origin is kept."""
    systems = [system(described, report["reference"]["rates_hz"][0]) for described in report["systems"]]
    systems.sort(key=lambda one: (one.kind != NOISY, one.name not in of))
    rows = report["systems"][0]["files"]
    described = [row for row in rows if any(row.get(column) for column in DESCRIBED)]
    mixtures = {row["name"]: Mixture.of(row, row.get("snr_db")) for row in described}
    mixtures = mixtures or known_mixtures([row["name"] for row in rows])
    new = make_report(systems, mixtures, report["reference"]["sha256"], report["command"])
    if of:
        new["differences"] = [pair for pair in new["differences"] if pair["of"] in of]
    kept = ("deepnmf", "date", "machine", "packages", "reference", "remarks", "figures")
    return new | {key: report[key] for key in kept if report[key]}


def compact(report: dict, of: Collection[str], folder: Path) -> None:
    """Write files.csv, origin.json, the page and the figures of a report to a folder."""
    for described in report["systems"]:
        for row in described["files"]:
            row.update({key: round(row[key], DECIMALS) for key in row if isinstance(row[key], float)})
    folder.mkdir(parents=True, exist_ok=True)
    systems = [{key: one[key] for key in one if key not in COMPUTED} for one in report["systems"]]
    origin = {key: report[key] for key in report if key != "differences"} | {"systems": systems}
    _write_json(origin, folder / ORIGIN_JSON)
    _write_pages(again(report, of), folder)


def only(report: dict, name: str) -> dict:
    """Return the report of the noisy input and one system."""
    systems = [one for one in report["systems"] if one["kind"] == NOISY or one["name"] == name]
    if len(systems) != 2:
        raise SystemExit(f"{name}: not among {', '.join(one['name'] for one in report['systems'])}")
    remarks = [one for one in report["remarks"] if EARLIER not in one or name in one.partition(":")[0].split(", ")]
    return again(report | {"systems": systems, "remarks": remarks})


def updated(report: dict, newer: dict) -> dict:
    """Return the report with the systems of a newer one in the place of those of the same names.

    Raises SystemExit if the newer one is of other files, or has a system that the report lacks.
    """
    if newer["reference"]["sha256"] != report["reference"]["sha256"]:
        raise SystemExit("the two reports are of different reference files")
    new = {one["name"]: one for one in newer["systems"] if one["kind"] != NOISY}
    names = [one["name"] for one in report["systems"] if one["kind"] != NOISY]
    if unknown := new.keys() - set(names):
        raise SystemExit(f"{', '.join(sorted(unknown))}: not among {', '.join(names)}")
    told = {key: newer[key] for key in ("deepnmf", "command", "date", "machine", "packages")}
    earlier = f"{', '.join(name for name in names if name not in new)}: {EARLIER} {report['command']}"
    systems = [new.get(one["name"], one) for one in report["systems"]]
    return report | told | {"systems": systems, "remarks": [*report["remarks"], earlier]}


def where(report: dict, column: str, value: str) -> dict:
    """Return the report with the files that have a value in a column. Raises SystemExit if there are none."""
    systems = [one | {"files": [row for row in one["files"] if row.get(column) == value]} for one in report["systems"]]
    if not (kept := systems[0]["files"]):
        raise SystemExit(f"{column}={value}: no such file")
    reference = {"files": len(kept), "seconds": math.fsum(row["seconds"] for row in kept)}
    return report | {"systems": systems, "reference": report["reference"] | reference}


def _write_pages(report: dict, folder: Path) -> None:
    """Write what `evaluate --report` writes except for report.json, report.html and the gain by SNR, whose lines are
    too many to tell apart.
    """
    write_report(report, folder)
    for name in (REPORT_JSON, REPORT_HTML):
        (folder / name).unlink()
    (folder / GAIN).unlink(missing_ok=True)
    with atomic_path(folder / REPORT_MD) as partial:
        partial.write_text(markdown(report, [SCORES]), "utf-8")


def _write_json(content: dict, path: Path) -> None:
    with atomic_path(path) as partial:
        partial.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", "utf-8")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("reports", nargs="+", type=Path)
    parser.add_argument("--of", nargs="+", default=(), metavar="NAME")
    parser.add_argument("--compact", type=Path, metavar="FOLDER")
    parser.add_argument("--only", metavar="NAME")
    parser.add_argument("--where", metavar="COLUMN=VALUE")
    parser.add_argument("--take", type=Path, metavar="REPORT")
    parser.add_argument("--to", type=Path, metavar="FILE")
    given = parser.parse_args(arguments)
    if given.only and not given.to:
        parser.error("--only needs --to, a file for the report of the one system")
    for path in given.reports:
        report = read(path)
        if given.only:
            _write_json(only(report, given.only), given.to)
        elif given.take and path.name != ORIGIN_JSON:
            raise SystemExit(f"{path}: --take is for {ORIGIN_JSON}")
        elif given.take:
            compact(updated(report, read(given.take)), given.of, path.parent)
        elif given.where:
            column, _, value = given.where.partition("=")
            print(markdown(again(where(report, column, value), given.of)))
        elif given.compact and given.compact.resolve() == path.parent.resolve():
            raise SystemExit(f"{given.compact}: the folder of the report; choose another for its compact form")
        elif given.compact:
            compact(report, given.of, given.compact)
        elif path.name == ORIGIN_JSON:
            _write_pages(again(report, given.of), path.parent)
        elif (path.parent / REPORT_MD).exists():
            write_report(again(report, given.of), path.parent)
        else:
            _write_json(again(report, given.of), path)


if __name__ == "__main__":
    main()
