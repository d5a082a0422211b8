"""Figures of a shipped model's card, and of README.md, from their reports: python docs/card.py MODEL ... [rivals]

Rewrites what stands in models/MODEL/README.md in the rows of scores and in the line of checksums, and the last five
cells of the model's row in README.md, from models/MODEL/report.json; with `rivals` the last five cells of the rows of
the noisy input and of other programs in README.md, and what base is ahead of them by, from docs/reports/rivals/test-2.
All else stays.
"""

import json
import re
import sys
from pathlib import Path

from deepnmf_cli.checkpoint import atomic_path
from deepnmf_cli.scoring.metrics import METRICS

ROOT = Path(__file__).parents[1]
DIGITS = {name: metric.digits for name, metric in METRICS.items()}


def main(model: str) -> None:
    card = ROOT / "models" / model / "README.md"
    report = json.loads(card.with_name("report.json").read_text())
    noisy, own = (next(s for s in report["systems"] if s["kind"] == kind) for kind in ("noisy", "model"))
    rows = {
        "noisy input": with_intervals(noisy["summary"]),
        model: with_intervals(own["summary"]),
        "gain": with_intervals(own["gain"], "+"),
    }
    for before, after in zip(noisy["by_snr"], own["by_snr"]):
        cells = [f"{mean(before, name)} → {mean(after, name)}" for name in DIGITS]
        rows[f"{before['snr_db']:+.0f} dB"] = [str(before["files"]), *cells]
    text = card.read_text()
    for name, cells in rows.items():
        text = replaced(text, rf"^\| {re.escape(name)} \|.*$", f"| {name} | {' | '.join(cells)} |")
    text = replaced(text, r"mean (?:±|and) 95 % confidence interval \([^)]*\)", f"mean and {report['interval']}")
    checksums = f"files: `{report['reference']['sha256']}`; of the model: `{own['model']['sha256']}`. "
    text = replaced(text, "files: `[0-9a-f]{64}`; of the model: `[0-9a-f]{64}`. ", checksums)
    write(card, replaced(text, "Command: `deepnmf evaluate .*?`", f"Command: `{report['command']}`"))
    page = ROOT / "README.md"
    last = "".join(f" {cell} |" for cell in rows[model])
    label = model.replace("deep-nmf", "deep NMF")
    write(page, replaced(page.read_text(), rf"^(\| (?:\*\*)?{label}\b.*\|)(?:[^|\n]*\|){{5}}$", rf"\g<1>{last}"))


def rivals() -> None:
    sys.path.insert(0, str(ROOT / "docs/research"))
    from intervals import again, read

    report = again(read(ROOT / "docs/reports/rivals/test-2/origin.json"), ["base"])
    ahead = {row["to"]: row["summary"] for row in report["differences"]}
    text = (ROOT / "README.md").read_text()
    for system in report["systems"]:
        if system["kind"] == "model":
            continue
        shown = system["name"].replace("-0.", " 0.").replace("-NS", " NS")
        name = re.escape("noisy input" if system["kind"] == "noisy" else shown)
        leads = [(1, with_intervals(ahead[system["name"]], "+"))] if system["name"] in ahead else []
        for before, cells in ((4, with_intervals(system["summary"])), *leads):
            row = rf"^(\| {name}(?=[ ,])(?:[^|\n]*\|){{{before}}})(?:[^|\n]*\|){{5}}$"
            text = re.sub(row, rf"\g<1>{''.join(f' {cell} |' for cell in cells)}", text, flags=re.MULTILINE)
    write(ROOT / "README.md", text)


def with_intervals(summary: dict, sign: str = "") -> list[str]:
    """Mean of each score, and the ends of its confidence interval."""
    cells = []
    for name, digits in DIGITS.items():
        mean, low, high = (f"{x:{sign}.{digits}f}" for x in (summary[name]["mean"], *summary[name]["interval"]))
        cells.append(f"{mean} [{low}, {high}]")
    return cells


def mean(level: dict, name: str) -> str:
    """The mean of a score at one input SNR."""
    return f"{level['summary'][name]['mean']:.{DIGITS[name]}f}"


def replaced(text: str, pattern: str, by: str) -> str:
    """The text with its one match of the pattern replaced."""
    new, count = re.subn(pattern, by, text, flags=re.MULTILINE)
    if count != 1:
        raise SystemExit(f"{pattern}: {count} matches in place of one")
    return new


def write(page: Path, text: str) -> None:
    with atomic_path(page) as path:
        path.write_text(text)


if __name__ == "__main__":
    for name in sys.argv[1:]:
        rivals() if name == "rivals" else main(name)
