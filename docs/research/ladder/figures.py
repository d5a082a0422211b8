"""Figures of index.md, drawn by docs/research/report.py."""

import statistics

from ladder.tables import over_sizes, read, rows_of
from matplotlib.figure import Figure

FAMILIES = {"deep NMF": "#2f6f9f", "sigmoid DNN": "#b2443c"}


def figures(chosen: dict[str, list[dict]]) -> dict[str, Figure]:
    """Name -> figure, from the runs of each rung."""
    found = {"parameters": over_parameters(chosen), "depth": over_depth(chosen)}
    return found | {"sizes": over_sizes()} if rows_of(read("sizes")) else found


def family(rung: str) -> str:
    return "sigmoid DNN" if rung.startswith("dnn-") else "deep NMF"


def test_sdr(rows: list[dict]) -> float:
    """Mean over runs of the mean over files."""
    return statistics.mean(r["test"]["summary"]["SDR"]["mean"] for r in rows)


def over_parameters(chosen: dict) -> Figure:
    """Mean test SDR over the number of parameters that inference needs."""
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for rung, rows in chosen.items():
        tested = [r for r in rows if "test" in r]
        if tested:
            x, y = tested[0]["parameters"], test_sdr(tested)
            axes.plot(x, y, "o", color=FAMILIES[family(rung)])
            axes.annotate(rung.removeprefix("deep-nmf-"), (x, y), xytext=(4, 3), textcoords="offset points", fontsize=6)
    for name, colour in FAMILIES.items():
        axes.plot([], [], "o", color=colour, label=name)
    axes.set(xscale="log", xlabel="parameters", ylabel="SDR on test [dB]", xlim=(4e4, 1e7))
    axes.grid(alpha=0.3)
    axes.legend(loc="upper left")
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
                    points.append((x, dev if measure.startswith("dev") else test_sdr(rows)))
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
