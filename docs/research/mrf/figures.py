"""Figures of index.md, drawn by docs/research/report.py."""

import statistics

from matplotlib.axes import Axes
from matplotlib.figure import Figure


def figures(chosen: dict[str, list[dict]]) -> dict[str, Figure]:
    """Name -> figure, from the runs of each recipe."""
    return {"learned": learned(chosen), "sizes": over_size(chosen)}


def learned(chosen: dict[str, list[dict]]) -> Figure:
    """What trained exponents and trained schedules have become."""
    exponents = {name: rows for name, rows in chosen.items() if name.startswith("power-mean")}
    gammas = {name: rows for name, rows in chosen.items() if "schedule" in rows[0]}
    figure = Figure(figsize=(10 if gammas else 5, 4), layout="constrained")
    panels = figure.subplots(1, 2 if gammas else 1, squeeze=False)[0]
    of_alpha(panels[0], exponents)
    if gammas:
        of_gamma(panels[1], gammas)
    return figure


def of_alpha(axes: Axes, chosen: dict[str, list[dict]]) -> None:
    """A dot for every layer and seed; a layer that gets messages from hidden units further up lies further right."""
    for place, (_, rows) in enumerate(sorted(chosen.items())):
        for row in rows:
            layers = [alpha for (alpha,) in row["alpha"]]
            x = [place + 0.2 * (k - (len(layers) - 1) / 2) for k in range(len(layers))]
            axes.plot(x, layers, "o", color="#2f6f9f", alpha=0.7)
    for value, label in ((0, "mean field"), (1, "belief propagation")):
        axes.axhline(value, color="gray", lw=0.8)
        axes.annotate(label, (0, value), (2, 2), ("axes fraction", "data"), textcoords="offset points", fontsize=7)
    axes.set_xticks(range(len(chosen)), sorted(chosen), rotation=20, ha="right", fontsize=7)
    axes.set(ylabel="trained exponent alpha, layer by layer")
    axes.grid(alpha=0.3, axis="y")


def of_gamma(axes: Axes, chosen: dict[str, list[dict]]) -> None:
    """Distribution over units; a layer of one gamma is a vertical line."""
    for name, rows in sorted(chosen.items()):
        for k, gammas in enumerate(slot for slot in rows[0]["schedule"] if slot):
            shares = [i / max(1, len(gammas) - 1) for i in range(len(gammas))]
            x, y = (gammas, shares) if len(gammas) > 1 else (gammas * 2, [0, 1])
            axes.plot(x, y, label=f"{name}, {k + 1}")
    axes.axvline(0.88, color="gray", lw=0.8, ls=":")
    axes.set(xlabel="trained gamma (dotted: where it began)", ylabel="share of units below")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=6)


def over_size(chosen: dict[str, list[dict]]) -> Figure:
    """Dev SI-SDR of the three kinds of messages over the shapes of the network."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    shapes = {"": "2 x 256", "-every": "2 x 256, evidence for all", "-deep": "4 x 256", "-large": "2 x 512"}
    for shift, (kind, colour) in enumerate(
        (("mean-field", "#b2443c"), ("power-mean", "#7d5a9c"), ("belief-propagation", "#2f6f9f"))
    ):
        for place, suffix in enumerate(shapes):
            rows = chosen.get(kind + suffix, [])
            scores = [row["dev_si_sdr"] for row in rows]
            x = [place + 0.15 * (shift - 1)] * len(scores)
            axes.plot(x, scores, "o", color=colour, label=kind if not place else None, alpha=0.7)
            if scores:
                axes.plot(x[:1], [statistics.mean(scores)], "_", color=colour, ms=16)
    axes.set_xticks(range(len(shapes)), shapes.values())
    axes.set(ylabel="dev SI-SDR [dB]")
    axes.grid(alpha=0.3, axis="y")
    axes.legend()
    return figure
