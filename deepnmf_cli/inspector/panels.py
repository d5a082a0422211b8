"""The content of an inspection, and its rendering as one HTML page or one PNG."""

import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from deepnmf_cli import __version__
from deepnmf_cli.pages.render import data_uri, picture, render, sound

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMNS = 4
"""Number of panels side by side in a PNG."""


@dataclass(frozen=True)
class Panel:
    """A picture of values (F, T), the first row at the bottom, and the sound that can be played with it."""

    title: str
    values: np.ndarray
    lowest: float
    highest: float
    top: str = ""
    """Label of the upper end of the vertical axis."""
    end: str = ""
    """Label of the right end of the horizontal axis."""
    colours: str = "magma"
    text: str = ""
    samples: np.ndarray | None = None
    """(C, N); full scale is 1, and louder sounds are scaled down to it."""


@dataclass(frozen=True)
class Lines:
    """Curves over time: name -> (seconds (N,), values (N,))."""

    title: str
    label: str
    curves: dict[str, tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Section:
    """A part of an inspection."""

    title: str
    text: str = ""
    facts: dict[str, str] = field(default_factory=dict)
    panels: Sequence[Panel] = ()
    lines: Lines | None = None
    table: tuple[Sequence[str], Sequence[Sequence[str]]] | None = None
    rate_hz: int = 0
    """Sampling rate of the samples of the panels."""
    seconds: float = 0.0
    """Length of these samples."""


def html(title: str, sections: Sequence[Section]) -> str:
    """Return the HTML page; the sounds of a section are turned down by one factor if any exceeds full scale."""
    return render("inspect.html", title=title, version=__version__, sections=[_filled(section) for section in sections])


def png(title: str, sections: Sequence[Section]) -> bytes:
    """Return the pictures and curves of all sections as one image."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows: list[Sequence[Panel | Lines]] = []
    for section in sections:
        rows += [section.panels[i : i + COLUMNS] for i in range(0, len(section.panels), COLUMNS)]
        rows += [[section.lines]] if section.lines else []
    figure = Figure(figsize=(3.6 * COLUMNS, 0.6 + 2.5 * max(1, len(rows))), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title.replace("$", r"\$"))
    for part, row in zip(figure.subfigures(max(1, len(rows)), 1, squeeze=False)[:, 0], rows, strict=False):
        for axes, shown in zip(np.atleast_1d(part.subplots(1, len(row))), row, strict=True):
            if isinstance(shown, Lines):
                _draw_lines(axes, shown)
            else:
                _draw_panel(axes, shown)
    return _saved(figure)


def _draw_panel(axes: "Axes", panel: Panel) -> None:
    image = axes.imshow(
        panel.values, origin="lower", aspect="auto", vmin=panel.lowest, vmax=panel.highest, cmap=panel.colours
    )
    axes.set_title(panel.title.replace("$", r"\$"), fontsize="medium")
    axes.set_yticks([0, len(panel.values) - 1], ["0", panel.top])
    axes.set_xticks([0, panel.values.shape[1] - 1], ["0", panel.end])
    axes.figure.colorbar(image, ax=axes)


def _draw_lines(axes: "Axes", lines: Lines) -> None:
    for name, (seconds, values) in lines.curves.items():
        axes.plot(seconds, values, label=name, linewidth=1)
    axes.set(xlabel="s", ylabel=lines.label, title=lines.title)
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small", loc="upper right")


def _saved(figure: "Figure") -> bytes:
    file = io.BytesIO()
    figure.savefig(file, dpi=120)
    return file.getvalue()


def _filled(section: Section) -> dict[str, Any]:
    """Return the values that the template shows for a section."""
    heard = [panel.samples for panel in section.panels if panel.samples is not None]
    gain = 1 / max([1.0, *(float(np.abs(samples).max(initial=0)) for samples in heard)])
    signals = [
        {
            "label": panel.title,
            "text": panel.text,
            "top": panel.top,
            "end": panel.end,
            "first": number == 0,
            "sound": "" if panel.samples is None else sound(gain * panel.samples, section.rate_hz),
            "picture": picture(panel.values, panel.lowest, panel.highest, panel.colours),
        }
        for number, panel in enumerate(section.panels)
    ]
    return {
        "title": section.title,
        "text": section.text,
        "facts": section.facts,
        "signals": signals,
        "playable": bool(heard),
        "seconds": round(section.seconds, 3),
        "lines": data_uri("image/png", _curves(section.lines)) if section.lines else "",
        "table": section.table,
    }


def _curves(lines: Lines) -> bytes:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 2.8), layout="constrained")
    FigureCanvasAgg(figure)
    _draw_lines(figure.subplots(), lines)
    return _saved(figure)
