"""Quality over size, ours beside published programs: python docs/figures/quality.py

Draws docs/figures/quality.png from models/*/report.json, and from docs/reports/rivals/test-2/files.csv, where other
programs enhanced the same files, with their sizes of docs/research/rivals/rivals.toml.
"""

import csv
import json
import statistics
import tomllib
from collections import defaultdict
from pathlib import Path

from matplotlib.figure import Figure

ROOT = Path(__file__).parent.parent.parent
METRICS = ("SDR", "PESQ")
CROWDED = {"FastEnhancer-B": {"xytext": (-6, -3), "ha": "right"}, "large": {"xytext": (0, -12), "ha": "center"}}
"""Where names go that would lie on others."""


def main() -> None:
    figure = Figure(figsize=(10, 4), layout="constrained")
    ours, others, noisy = own_models(), other_programs(), noisy_input()
    for axes, metric in zip(figure.subplots(1, 2), METRICS):
        for points, colour, label in ((ours, "#2f6f9f", "deepnmf"), (others, "#b2443c", "published programs")):
            axes.plot([p["parameters"] for p in points], [p[metric] for p in points], "o", color=colour, label=label)
            for point in points:
                place = (point["parameters"], point[metric])
                place_of_name = CROWDED.get(point["name"], {"xytext": (5, 4)})
                axes.annotate(point["name"], place, textcoords="offset points", fontsize=8, **place_of_name)
        axes.axhline(noisy[metric], color="gray", lw=0.8, ls=":", label="noisy input")
        axes.set(xscale="log", xlabel="parameters", ylabel=f"{metric} on test-2" + " [dB]" * (metric == "SDR"))
        axes.set_xlim(1e4, 1e7)
        axes.grid(alpha=0.3)
    figure.legend(*figure.axes[0].get_legend_handles_labels(), fontsize="small", loc="outside lower center", ncols=3)
    figure.savefig(ROOT / "docs/figures/quality.png", dpi=110)


def own_models() -> list[dict]:
    """Name, parameters and mean scores of the models that ship."""
    points = []
    for path in sorted((ROOT / "models").glob("*/report.json")):
        report = json.loads(path.read_text())
        if "systems" not in report:  # models of repair
            continue
        (system,) = (s for s in report["systems"] if s["kind"] == "model")
        scores = {metric: system["summary"][metric]["mean"] for metric in METRICS}
        points.append({"name": path.parent.name, "parameters": system["model"]["parameters"], **scores})
    return points


def noisy_input() -> dict[str, float]:
    """Mean scores of the mixtures as they are."""
    (system,) = (
        s for s in json.loads((ROOT / "models/base/report.json").read_text())["systems"] if s["kind"] == "noisy"
    )
    return {metric: system["summary"][metric]["mean"] for metric in METRICS}


def other_programs() -> list[dict]:
    """The same of the programs whose size is known."""
    scores: dict[str, list[dict]] = defaultdict(list)
    with (ROOT / "docs/reports/rivals/test-2/files.csv").open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            scores[row["system"]].append(row)
    sizes = tomllib.loads((ROOT / "docs/research/rivals/rivals.toml").read_text("utf-8"))
    return [
        {"name": name, "parameters": described["parameters"]}
        | {metric: statistics.mean(float(row[metric]) for row in scores[name]) for metric in METRICS}
        for name, described in sizes.items()
        if "parameters" in described
    ]


if __name__ == "__main__":
    main()
