"""The figures of a report: the mean scores, and the gain over input SNR."""

import io
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from deepnmf_cli.scoring.metrics import metric_of
from deepnmf_cli.scoring.scorer import NOISY

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SCORES, GAIN = "scores.png", "gain_by_snr.png"


def draw(report: Mapping[str, Any]) -> "dict[str, Figure]":
    """Return file name -> figure: the mean scores and, if a noisy input and SNRs are known, the gain over input SNR.

    The figures are made without pyplot, so that no window system and no global state is touched.
    """
    figures = {SCORES: _score_figure(report)}
    improved = [system for system in report["systems"] if system["gain"] and system["by_snr"]]
    if improved:
        figures[GAIN] = _gain_figure(improved, report["interval"])
    return figures


def png(figure: "Figure") -> bytes:
    """Return a figure as an image."""
    file = io.BytesIO()
    with warnings.catch_warnings():  # a name in a script that the font lacks is drawn as boxes; the tables have it
        warnings.filterwarnings("ignore", message="Glyph .* missing from font", category=UserWarning)
        figure.savefig(file, dpi=150)
    return file.getvalue()


def _score_figure(report: Mapping[str, Any]) -> "Figure":
    systems = report["systems"]
    metrics = list(systems[0]["summary"])
    title = _title("Mean", [value for system in systems for value in system["summary"].values()], report["interval"])
    figure, panels = _panels(title, len(metrics), height_in=1.6 + 0.3 * len(systems))
    places = range(len(systems))
    for metric, panel in zip(metrics, panels, strict=True):
        for place, system in zip(places, systems, strict=True):
            summary = system["summary"][metric]
            if summary["mean"] is not None:
                colour = "0.5" if system["kind"] == NOISY else f"C{place}"
                panel.errorbar(summary["mean"], place, xerr=_reach(summary), fmt="o", color=colour, capsize=3)
        panel.set_xlabel(metric_of(metric).label)
        panel.set_yticks(places, [_label(system) for system in systems] if panel is panels[0] else [])
        panel.set_ylim(len(systems) - 0.5, -0.5)
    return figure


def _gain_figure(systems: list[Mapping[str, Any]], interval: str) -> "Figure":
    metrics = list(systems[0]["summary"])
    drawn = [value for system in systems for level in system["by_snr"] for value in level["gain"].values()]
    figure, panels = _panels(_title("Gain over the noisy input", drawn, interval), len(metrics), height_in=3.4)
    for metric, panel in zip(metrics, panels, strict=True):
        for number, system in enumerate(systems, start=1):
            levels = [level for level in system["by_snr"] if level["gain"][metric]["mean"] is not None]
            gains = [level["gain"][metric] for level in levels]
            panel.errorbar(
                [level["snr_db"] for level in levels],
                [gain["mean"] for gain in gains],
                yerr=np.hstack([_reach(gain) for gain in gains]) if gains else None,
                fmt="o-", color=f"C{number}", capsize=3, label=_label(system),
            )  # fmt: skip
        panel.axhline(0, color="0.5", linewidth=0.8)
        panel.set(xlabel="input SNR [dB]", title=metric_of(metric).label)
    panels[0].legend(loc="best", fontsize="small")
    return figure


def _title(what: str, drawn: Sequence[Mapping[str, Any]], interval: str) -> str:
    """Return a title that says what is drawn, with intervals only if there are any."""
    if any(value.get("interval") or ("interval" not in value and value["ci95"] is not None) for value in drawn):
        return f"{what}, and {interval}"
    return f"{what} (too few files at each point for intervals)"


def _reach(summary: Mapping[str, Any]) -> np.ndarray:
    """Return how far the interval reaches below and above the mean, (2, 1)."""
    half = 0.0 if "interval" in summary else summary["ci95"] or 0.0
    low, high = summary.get("interval") or (summary["mean"] - half, summary["mean"] + half)
    return np.array([[summary["mean"] - low], [high - summary["mean"]]]).clip(0)


def _label(system: Mapping[str, Any]) -> str:
    """Return the name, escaped so that matplotlib neither reads a formula into it nor hides it from the legend."""
    name = system["name"].replace("$", r"\$")
    return f" {name}" if name.startswith("_") else name


def _panels(title: str, count: int, height_in: float) -> "tuple[Figure, list[Axes]]":
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(2.8 * count, height_in), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title)
    panels = list(figure.subplots(1, count))
    for panel in panels:
        panel.grid(alpha=0.3)
    return figure, panels
