"""Write the tables and figures of an experiment from its results: python docs/research/report.py ladder

Fills the marked places of NAME/index.md beside this file from NAME/results.json, and draws the figures that
NAME/figures.py defines. Marks are <!-- rates -->, <!-- scores -->, <!-- dev -->, <!-- dev RUNG ... --> for the rungs in
this order, <!-- snr --> and, with the names of rungs to compare with, <!-- pairs RUNG ... --> and <!-- seeds RUNG -->,
and those of NAME/tables.py if it exists; the text that belongs to a mark ends with <!-- end -->.
"""

import csv
import importlib
import json
import re
import statistics
import sys
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import t as student

from deepnmf_cli.checkpoint import atomic_path
from deepnmf_cli.scoring import bootstrap
from deepnmf_cli.scoring.mixtures import FACTORS

HERE = Path(__file__).parent
METRICS = ("SDR", "SI-SDR", "PESQ", "STOI", "ESTOI")


def main(name: str) -> None:
    results = json.loads((HERE / name / "results.json").read_text())
    noisy = results.pop("noisy", None)  # only where runs were scored on test
    chosen = best_rates(results)
    tables = {
        "rates": lambda: rates_table(results), "scores": lambda: scores_table(chosen, noisy),
        "dev": lambda *order: dev_table(chosen, order), "snr": lambda: snr_table(chosen, noisy),
        "pairs": lambda *others: pairs_table(chosen, others), "seeds": lambda other: seeds_table(chosen, other),
    }  # fmt: skip
    if (HERE / name / "tables.py").is_file():
        tables |= importlib.import_module(f"{name}.tables").tables()

    fill(HERE / name / "index.md", tables)
    if not (HERE / name / "figures.py").is_file():
        return
    for title, figure in importlib.import_module(f"{name}.figures").figures(chosen).items():
        with atomic_path(HERE / name / f"{title}.png") as path:
            figure.savefig(path, dpi=110)


def fill(page: Path, tables: Mapping[str, Callable[..., str]]) -> None:
    """Write tables into the marked places of a page; words after the name in a mark are arguments of its function."""

    def filled(match: re.Match) -> str:
        kind, *arguments = match[2].split()
        return f"{match[1]}{tables[kind](*arguments)}\n{match[3]}"

    with atomic_path(page) as path:
        marks = r"(<!-- ((?!end).+?) -->\n).*?(<!-- end -->)"
        path.write_text(re.sub(marks, filled, page.read_text("utf-8"), flags=re.DOTALL), "utf-8")


NOT_THERE = "These runs are not complete."
"""Text in place of a table whose runs are missing."""


def difference(values: np.ndarray, rows: Sequence[Mapping[str, str]]) -> str:
    """Return the mean of differences in dB with its 95 % interval over the speakers and noises of `rows`."""
    low, high = bootstrap.interval(values, [[row[factor] for row in rows] for factor in FACTORS])
    return f"{values.mean():+.2f} [{low:+.2f}, {high:+.2f}]"


def read_rows(path: Path) -> list[dict[str, str]]:
    """Return the rows of a CSV file."""
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write a CSV file with the columns of the first row."""
    with atomic_path(path) as partial, open(partial, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def best_rates(results: dict) -> dict[str, list[dict]]:
    """Return rung -> its runs, one for each seed, with the learning rate that is best on dev at seed 1."""
    by_rung = defaultdict(list)
    for row in results.values():
        by_rung[row["rung"]].append(row)
    chosen = {}
    for rung, rows in by_rung.items():
        rate = max((r for r in rows if r["seed"] == 1), key=lambda r: r["dev_si_sdr"])["learning_rate"]
        chosen[rung] = sorted((r for r in rows if r["learning_rate"] == rate), key=lambda r: r["seed"])
    return chosen


def rates_table(results: dict) -> str:
    lines = ["| rung | learning rate | dev SI-SDR |", "|---|---|---|"]
    tuned = defaultdict(dict)
    for row in results.values():
        if row["seed"] == 1:
            tuned[row["rung"]][row["learning_rate"]] = row["dev_si_sdr"]
    for rung, rates in sorted(tuned.items()):
        if len(rates) > 1:
            lines += [f"| {rung} | {rate:g} | {score:.2f} |" for rate, score in sorted(rates.items())]
    return "\n".join(lines)


def scores_table(chosen: dict, noisy: dict) -> str:
    """Return the table of rungs, best on dev first: means over seeds, and the spread over seeds if there are three."""
    head = ["rung", "seeds", "parameters", "trained", "MMAC/s", "minutes", "dev SI-SDR", *METRICS]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    first = ["noisy", "", "", "", "", "", ""]
    cells = [f"{noisy['summary'][m]['mean']:.{2 if 'SDR' in m else 3}f}" for m in METRICS]
    lines.append("| " + " | ".join(first + cells) + " |")
    for rung, rows in sorted(chosen.items(), key=lambda item: -statistics.mean(r["dev_si_sdr"] for r in item[1])):
        dev = [r["dev_si_sdr"] for r in rows]
        spread = f" ± {statistics.stdev(dev):.2f}" if len(dev) > 2 else ""
        one = rows[0]
        cells = [rung, str(len(rows)), f"{one['parameters']:,}", f"{one['trained_parameters']:,}"]
        cells += [f"{one['macs_per_s'] / 1e6:.0f}", f"{one.get('seconds', 0) / 60:.1f}"]
        cells += [f"{statistics.mean(dev):.2f}{spread}"]
        tested = [r for r in rows if "test" in r]
        for metric in METRICS:
            if not tested:
                cells.append("")
                continue
            digits = 2 if "SDR" in metric else 3
            each = [r["test"]["summary"][metric]["mean"] for r in tested]
            cells.append(f"{statistics.mean(each):.{digits}f}")
            if metric == "SDR" and len(each) > 2:
                cells[-1] += f" ± {statistics.stdev(each):.2f}"
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def dev_table(chosen: dict, order: tuple[str, ...] = ()) -> str:
    """Return a table with a row for each rung, best on dev first or those of `order`, for runs that are not scored on
    test: with PESQ on dev, and ESTOI if runs were scored on dev."""
    if not order:
        order = sorted(chosen, key=lambda rung: -statistics.mean(r["dev_si_sdr"] for r in chosen[rung]))
    scores = {
        "dev SI-SDR": (2, lambda r: r["dev_si_sdr"]),
        "dev PESQ": (3, lambda r: r["dev_pesq"] if "dev_pesq" in r else r["dev"]["summary"]["PESQ"]["mean"]),
        "dev ESTOI": (3, lambda r: r["dev"]["summary"]["ESTOI"]["mean"]),
    }  # fmt: skip
    if not any("dev" in r for rows in chosen.values() for r in rows):
        del scores["dev ESTOI"]
    head = ["run", "seeds", "parameters", "MMAC/s", "minutes", *scores]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for rung in order:
        if rung not in chosen:  # not complete yet
            lines.append(f"| {rung} |" + " - |" * (len(head) - 1))
            continue
        rows = chosen[rung]
        one, cells = rows[0], [rung, str(len(rows))]
        cells += [f"{one['parameters']:,}", f"{one['macs_per_s'] / 1e6:.1f}", f"{one['seconds'] / 60:.1f}"]
        for name, (digits, score) in scores.items():
            each = [
                score(r) for r in rows if "dev" in r or name == "dev SI-SDR" or (name == "dev PESQ" and "dev_pesq" in r)
            ]
            if not each:
                cells.append("-")
                continue
            spread = f" ± {statistics.stdev(each):.{digits}f}" if len(each) > 2 else ""
            cells.append(f"{statistics.mean(each):.{digits}f}{spread}")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def snr_table(chosen: dict, noisy: dict) -> str:
    """Return the mean SDR by input SNR of every tested rung, and the 95 % interval of its gain over all files."""
    levels = [level["snr_db"] for level in noisy["by_snr"]]
    lines = [
        "| rung | " + " | ".join(f"{x:g} dB" for x in levels) + " | gain in SDR |",
        "|---|" + "---|" * (len(levels) + 1),
    ]
    for rung, rows in chosen.items():
        tested = [r for r in rows if "test" in r]
        if tested:
            cells = [
                f"{statistics.mean(r['test']['by_snr'][i]['summary']['SDR']['mean'] for r in tested):.2f}"
                for i in range(len(levels))
            ]
            gains = [statistics.mean(x) - n for *x, n in zip(*(r["test"]["sdr"] for r in tested), noisy["sdr"])]
            lines.append(f"| {rung} | " + " | ".join(cells) + f" | {interval(gains)} |")
    return "\n".join(lines)


def pairs_table(chosen: dict, others: tuple[str, ...]) -> str:
    """Return test SDR of rungs minus that of others on the same files: mean over files and seeds, 95 % interval."""
    tested = {rung: [r["test"]["sdr"] for r in rows if "test" in r] for rung, rows in chosen.items()}
    means = {rung: [statistics.mean(x) for x in zip(*each)] for rung, each in tested.items() if each}
    lines = ["| SDR less that of | " + " | ".join(others) + " |", "|---|" + "---|" * len(others)]
    for rung, sdr in means.items():
        if rung not in others:
            cells = [interval([a - b for a, b in zip(sdr, means[other])]) for other in others]
            lines.append(f"| {rung} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def seeds_table(chosen: dict, other: str) -> str:
    """Return the dev SI-SDR of each rung with at least three seeds minus that of `other` with the same seed."""
    base = {r["seed"]: r["dev_si_sdr"] for r in chosen[other]}
    lines = [f"| dev SI-SDR less that of {other} | " + " | ".join(f"seed {s}" for s in base) + " | mean |"]
    lines.append("|---|" + "---|" * (len(base) + 1))
    for rung, rows in chosen.items():
        gains = [r["dev_si_sdr"] - base[r["seed"]] for r in rows if r["seed"] in base]
        if len(gains) == len(base) > 2 and rung != other:
            mean_gain = f"{statistics.mean(gains):+.2f} ± {statistics.stdev(gains):.2f}"
            lines.append(f"| {rung} | " + " | ".join(f"{g:+.2f}" for g in gains) + f" | {mean_gain} |")
    return "\n".join(lines)


def interval(values: list[float]) -> str:
    """Return the mean and the 95 % confidence interval (Student's t) over files."""
    half = student.ppf(0.975, len(values) - 1) * statistics.stdev(values) / len(values) ** 0.5
    return f"{statistics.mean(values):+.2f} ± {half:.2f}"


if __name__ == "__main__":
    main(sys.argv[1])
