"""Write the figures of model cards and of README.md from their reports: python docs/card.py MODEL ... [readme]

For each MODEL, the rows of scores and the line of checksums in models/MODEL/README.md are rewritten from
models/MODEL/report.json. With `readme`, the scores of all systems in README.md, and the leads of base, are rewritten
from docs/reports/rivals/test-2. Everything else stays as it is.
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


def readme() -> None:
    sys.path.insert(0, str(ROOT / "docs/research"))
    from intervals import again, read

    report = again(read(ROOT / "docs/reports/rivals/test-2/origin.json"), ["base"])
    ahead = {row["to"]: row["summary"] for row in report["differences"]}
    text = (ROOT / "README.md").read_text()
    for system in report["systems"]:
        name = re.escape("noisy input" if system["kind"] == "noisy" else system["name"].replace("-0.", " 0."))
        means = [mean(system, score) for score in DIGITS] + [f"{system['summary']['OVRL']['mean']:.2f}"]
        leads = [(1, with_intervals(ahead[system["name"]], "+"))] if system["name"] in ahead else []
        for before, cells in ((3, means), *leads):
            row = rf"^(\| (?:\*\*)?{name}(?=[ ,*])(?:[^|\n]*\|){{{before}}})(?:[^|\n]*\|){{{len(cells)}}}$"
            text = re.sub(row, rf"\g<1>{''.join(f' {cell} |' for cell in cells)}", text, flags=re.MULTILINE)
    write(ROOT / "README.md", text)


def with_intervals(summary: dict, sign: str = "") -> list[str]:
    """Return the mean of each score, with the ends of its confidence interval, as text."""
    cells = []
    for name, digits in DIGITS.items():
        mean, low, high = (f"{x:{sign}.{digits}f}" for x in (summary[name]["mean"], *summary[name]["interval"]))
        cells.append(f"{mean} [{low}, {high}]")
    return cells


def mean(scored: dict, name: str) -> str:
    """Return the mean of a score from a summary: over all files of a system, or over those of one input SNR."""
    return f"{scored['summary'][name]['mean']:.{DIGITS[name]}f}"


def replaced(text: str, pattern: str, by: str) -> str:
    """Return the text with the only match of the pattern replaced."""
    new, count = re.subn(pattern, by, text, flags=re.MULTILINE)
    if count != 1:
        raise SystemExit(f"{pattern}: {count} matches in place of one")
    return new


def write(page: Path, text: str) -> None:
    with atomic_path(page) as path:
        path.write_text(text)


if __name__ == "__main__":
    for name in sys.argv[1:]:
        readme() if name == "readme" else main(name)
