"""Compute the intervals and differences of reports again from the scores of their files, which stay as they are.

    python docs/research/intervals.py REPORT.json ...

For reports that were written before intervals took account of speakers and noises: nothing is enhanced or scored.
report.json is rewritten, and report.md and the figures beside it where they are there.
"""

import argparse
import json
import math
from pathlib import Path

from deepnmf_cli.checkpoint import atomic_path
from deepnmf_cli.scoring.metrics import METRICS
from deepnmf_cli.scoring.mixtures import known_mixtures
from deepnmf_cli.scoring.report import REPORT_MD, System, make_report, write_report
from deepnmf_cli.scoring.scorer import Scores


def system(described: dict, rate_hz: int) -> System:
    """The system that a report describes."""
    scores = [
        Scores(
            row["name"],
            {metric: math.nan if row[metric] is None else row[metric] for metric in METRICS},
            tuple(row["notes"]),
            row["seconds"],
            rate_hz,
        )
        for row in described["files"]
    ]
    return System(described["name"], described["kind"], described["source"], scores, described["model"])


def again(report: dict) -> dict:
    """The report with new intervals; where its numbers come from stays."""
    systems = [system(described, report["reference"]["rates_hz"][0]) for described in report["systems"]]
    mixtures = known_mixtures([one.name for one in systems[0].scores])
    new = make_report(systems, mixtures, report["reference"]["sha256"], report["command"])
    kept = ("deepnmf", "date", "machine", "packages", "remarks", "figures")
    return new | {key: report[key] for key in kept}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("reports", nargs="+", type=Path)
    for path in parser.parse_args().reports:
        report = again(json.loads(path.read_text("utf-8")))
        if (path.parent / REPORT_MD).exists():
            write_report(report, path.parent)
            continue
        with atomic_path(path) as partial:
            partial.write_text(json.dumps(report, indent=1, allow_nan=False) + "\n", "utf-8")


if __name__ == "__main__":
    main()
