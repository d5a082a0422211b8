"""Tables and figures of the ladder from docs/ladder/results.json: python docs/ladder/report.py

Writes the tables into docs/ladder.md, between their marks, and docs/ladder/{parameters,depth}.png.
"""

import json
import re
import statistics
from collections import defaultdict
from pathlib import Path

from matplotlib.figure import Figure
from scipy.stats import t as student

from deepnmf_cli.checkpoint import atomic_path

HERE = Path(__file__).parent
METRICS = ("SDR", "SI-SDR", "PESQ", "STOI", "ESTOI")
FAMILIES = {"deep NMF": "#2f6f9f", "sigmoid DNN": "#b2443c"}


def main() -> None:
    results = json.loads((HERE / "results.json").read_text())
    noisy = results.pop("noisy")
    chosen = best_rates(results)
    page = HERE.parent / "ladder.md"
    text = page.read_text()
    tables = {
        "rates": rates_table(results), "scores": scores_table(chosen, noisy), "snr": snr_table(chosen, noisy),
        "pairs": pairs_table(chosen),
    }  # fmt: skip
    for name, table in tables.items():
        text = re.sub(rf"(<!-- {name} -->\n).*?(?=\n<!-- end -->)", lambda m: m[1] + table, text, flags=re.DOTALL)
    page.write_text(text)
    for name, figure in {"parameters": over_parameters(chosen), "depth": over_depth(chosen)}.items():
        with atomic_path(HERE / f"{name}.png") as path:
            figure.savefig(path, dpi=110)


def best_rates(results: dict) -> dict[str, list[dict]]:
    """Rung -> its runs, one for each seed, with the learning rate that is best on dev at seed 1."""
    by_rung = defaultdict(list)
    for row in results.values():
        by_rung[row["rung"]].append(row)
    chosen = {}
    for rung, rows in by_rung.items():
        rate = max((r for r in rows if r["seed"] == 1), key=lambda r: r["dev_si_sdr"])["learning_rate"]
        chosen[rung] = sorted((r for r in rows if r["learning_rate"] == rate), key=lambda r: r["seed"])
    return chosen


def family(rung: str) -> str:
    return "sigmoid DNN" if rung.startswith("dnn-") else "deep NMF"


def mean(rows: list[dict], metric: str) -> float:
    return statistics.mean(r["test"]["summary"][metric]["mean"] for r in rows)


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
    """One row for each rung, best on dev first; means over seeds, the spread over seeds where there are three."""
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
            if metric == "SDR":
                if len(each) > 2:
                    cells[-1] += f" ± {statistics.stdev(each):.2f}"
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def snr_table(chosen: dict, noisy: dict) -> str:
    """Mean SDR by input SNR of every tested rung, and the 95 % interval of its gain over all files."""
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


def pairs_table(chosen: dict) -> str:
    """SDR of deep NMF less that of a DNN on the same files, mean over files and seeds with its 95 % interval."""
    tested = {rung: [r["test"]["sdr"] for r in rows if "test" in r] for rung, rows in chosen.items()}
    means = {rung: [statistics.mean(x) for x in zip(*each)] for rung, each in tested.items() if each}
    dnns = [rung for rung in means if family(rung) == "sigmoid DNN"]
    lines = ["| deep NMF less | " + " | ".join(dnns) + " |", "|---|" + "---|" * len(dnns)]
    for rung in means:
        if rung not in dnns:
            cells = [interval([a - b for a, b in zip(means[rung], means[dnn])]) for dnn in dnns]
            lines.append(f"| {rung} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def interval(values: list[float]) -> str:
    """Mean and 95 % confidence interval (Student's t) over files."""
    half = student.ppf(0.975, len(values) - 1) * statistics.stdev(values) / len(values) ** 0.5
    return f"{statistics.mean(values):+.2f} ± {half:.2f}"


def over_parameters(chosen: dict) -> Figure:
    """Mean test SDR over the number of parameters that inference needs."""
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for rung, rows in chosen.items():
        tested = [r for r in rows if "test" in r]
        if tested:
            x, y = tested[0]["parameters"], mean(tested, "SDR")
            axes.plot(x, y, "o", color=FAMILIES[family(rung)])
            axes.annotate(rung.removeprefix("deep-nmf-"), (x, y), xytext=(4, 3), textcoords="offset points", fontsize=6)
    for name, colour in FAMILIES.items():
        axes.plot([], [], "o", color=colour, label=name)
    axes.set(xscale="log", xlabel="parameters", ylabel="SDR on test [dB]", xlim=(4e4, 1e7))
    axes.grid(alpha=0.3)
    axes.legend(loc="lower left")
    return figure


def over_depth(chosen: dict) -> Figure:
    """Dev SI-SDR and test SDR over the number of trained layers C at K = 25, and over K at C = 4."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    by_c, by_k = figure.subplots(1, 2)
    nine = {0: "sparse-nmf", 1: "dnmf", 2: "deep-nmf-c2", 3: "deep-nmf-c3", 4: "deep-nmf-c4"}
    one = {0: "sparse-nmf-context-1", 1: "dnmf-context-1", 2: "context-1-c2", 4: "context-1-c4", 8: "context-1-c8"}
    steps = {5: "context-1-k5-c4", 10: "context-1-k10-c4", 25: "context-1-c4"}
    every = {5: "context-1-k5-all", 10: "context-1-k10-all", 25: "context-1-all"}
    lines = (
        (by_c, nine, "T = 9", "#2f6f9f"),
        (by_c, one | {26: "context-1-all"}, "T = 1", "#c9912f"),
        (by_k, steps, "T = 1, C = 4", "#c9912f"),
        (by_k, every, "T = 1, all layers", "#5a8f4e"),
    )
    for axes, rungs, label, colour in lines:
        for measure, style in (("dev SI-SDR", "s--"), ("test SDR", "o-")):
            points = []
            for x, rung in rungs.items():
                rows = [r for r in chosen.get(rung, []) if measure.startswith("dev") or "test" in r]
                if rows:
                    dev = statistics.mean(r["dev_si_sdr"] for r in rows)
                    points.append((x, dev if measure.startswith("dev") else mean(rows, "SDR")))
            if points:
                axes.plot(*zip(*points), style, color=colour, label=f"{label}, {measure}")
    by_c.set_xscale("symlog")
    by_c.set_xticks([0, 1, 2, 4, 8, 26], ["0", "1", "2", "4", "8", "26"])
    by_c.set(xlabel="trained layers C (K = 25)", ylabel="dB")
    by_k.set(xlabel="iterations K", xticks=[5, 10, 25])
    for axes in (by_c, by_k):
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small")
    return figure


if __name__ == "__main__":
    main()
