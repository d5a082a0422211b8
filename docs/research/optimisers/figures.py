"""Figures of index.md, drawn by docs/research/report.py."""

import json
from collections import defaultdict
from pathlib import Path

from matplotlib.figure import Figure

COLOURS = {
    "adam": "#b2443c", "adam-equal": "#d98b3a", "exponentiated-entries": "#2f6f9f", "exponentiated": "#6fa8cf",
    "muon": "#5a8f4e", "sgd": "#777777",
}  # fmt: skip


RATES = (0.025, 0.05, 0.1, 0.2, 0.4)


def figures(chosen: dict[str, list[dict]]) -> dict[str, Figure]:
    """Name -> figure, from all runs of seed 1."""
    results = json.loads(Path(__file__).with_name("results.json").read_text())
    by_rung = defaultdict(dict)
    for row in results.values():
        if row["seed"] == 1 and row["rung"] in COLOURS:
            by_rung[row["rung"]][row["learning_rate"]] = row
    return {"rates": over_rates(by_rung)}


def over_rates(by_rung: dict[str, dict[float, dict]]) -> Figure:
    """Dev score and training error over the learning rate; that of plain descent is a thousandth of what it was."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    dev, error = figure.subplots(1, 2)
    for rung, rows in sorted(by_rung.items()):
        rates, label = sorted(rows), f"{rung}, rate / 1000" if rung == "sgd" else rung
        shown = [rate / 1000 if rung == "sgd" else rate for rate in rates]
        for axes, measure in ((dev, "dev_si_sdr"), (error, "loss")):
            axes.plot(shown, [rows[rate][measure] for rate in rates], "o-", color=COLOURS[rung], label=label)
    dev.set(ylabel="dev SI-SDR [dB]")
    error.set(ylabel="training error, mean over all steps")
    for axes in (dev, error):
        axes.set(xscale="log", xlabel="learning rate")
        axes.set_xticks(RATES, [f"{rate:g}" for rate in RATES])
        axes.minorticks_off()
        axes.grid(alpha=0.3)
    error.legend(fontsize="small", loc="upper left")
    return figure
