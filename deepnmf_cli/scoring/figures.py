"""Pictures of a report: one panel for each measure, one colour for each system, bars for the intervals."""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepnmf_cli.scoring.scorer import LABELS, METRICS, NOISY

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SCORES, GAIN = "scores.png", "gain_by_snr.png"


def draw(report: Mapping[str, Any]) -> "dict[str, Figure]":
    """File name -> figure: the mean scores and, where a noisy input and SNRs are known, the gain over input SNR.

    The figures are made without pyplot, so that no window system and no global state is touched.
    """
    figures = {SCORES: _scores(report)}
    improved = [system for system in report["systems"] if system["gain"] and system["by_snr"]]
    if improved:
        figures[GAIN] = _gains(improved, report["interval"])
    return figures


def save(figure: "Figure", path: Path) -> None:
    """Write a figure as an image of the kind that the suffix of `path` names."""
    with warnings.catch_warnings():  # a name in a script that the font lacks is drawn as boxes; the tables have it
        warnings.filterwarnings("ignore", message="Glyph .* missing from font", category=UserWarning)
        figure.savefig(path, dpi=150)


def _scores(report: Mapping[str, Any]) -> "Figure":
    systems = report["systems"]
    figure, panels = _panels(f"Mean and {report['interval']}", height_in=1.6 + 0.3 * len(systems))
    places = range(len(systems))
    for metric, panel in zip(METRICS, panels, strict=True):
        for place, system in zip(places, systems, strict=True):
            summary = system["summary"][metric]
            if summary["mean"] is not None:
                colour = "0.5" if system["kind"] == NOISY else f"C{place}"
                panel.errorbar(summary["mean"], place, xerr=summary["ci95"] or 0.0, fmt="o", color=colour, capsize=3)
        panel.set_xlabel(LABELS[metric])
        panel.set_yticks(places, [_label(system) for system in systems] if panel is panels[0] else [])
        panel.set_ylim(len(systems) - 0.5, -0.5)
    return figure


def _gains(systems: list[Mapping[str, Any]], interval: str) -> "Figure":
    figure, panels = _panels(f"Gain over the noisy input, and {interval}", height_in=3.4)
    for metric, panel in zip(METRICS, panels, strict=True):
        for number, system in enumerate(systems, start=1):
            levels = [level for level in system["by_snr"] if level["gain"][metric]["mean"] is not None]
            gains = [level["gain"][metric] for level in levels]
            panel.errorbar(
                [level["snr_db"] for level in levels],
                [gain["mean"] for gain in gains],
                yerr=[gain["ci95"] or 0.0 for gain in gains],
                fmt="o-", color=f"C{number}", capsize=3, label=_label(system),
            )  # fmt: skip
        panel.axhline(0, color="0.5", linewidth=0.8)
        panel.set(xlabel="input SNR [dB]", title=LABELS[metric])
    panels[0].legend(loc="best", fontsize="small")
    return figure


def _label(system: Mapping[str, Any]) -> str:
    """The name, in which matplotlib shall see no formula and no mark of what to hide."""
    name = system["name"].replace("$", r"\$")
    return f" {name}" if name.startswith("_") else name


def _panels(title: str, height_in: float) -> "tuple[Figure, list[Axes]]":
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(14, height_in), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title)
    panels = list(figure.subplots(1, len(METRICS)))
    for panel in panels:
        panel.grid(alpha=0.3)
    return figure, panels
