"""From scores to a report: means with intervals, by input SNR, as one dict that every table, file and figure is made
of.
"""

import csv
import importlib.metadata
import itertools
import json
import math
import os
import platform
import re
import statistics
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from deepnmf_cli import __version__
from deepnmf_cli.checkpoint import atomic_path, remove_leftovers
from deepnmf_cli.errors import DeepnmfError
from deepnmf_cli.scoring import bootstrap
from deepnmf_cli.scoring.metrics import DNSMOS, metric_of
from deepnmf_cli.scoring.mixtures import GROUPS, MOST_VALUES, Mixture, factors
from deepnmf_cli.scoring.scorer import ESTIMATE, MODEL, NOISY, Scores

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FORMAT = 1
"""Number of the layout of report.json."""

INTERVAL = "95 % confidence interval (Student t over files, taken as independent)"
FILES_CSV, REPORT_JSON, REPORT_MD = "files.csv", "report.json", "report.md"

_PACKAGES = ("fast-bss-eval", "pesq", "pystoi")


@dataclass(frozen=True)
class System:
    """One row of the comparison: who made the estimates, and what each file scored."""

    name: str
    kind: str
    """NOISY, ESTIMATE or MODEL."""
    source: str
    """The folder or model, as the user named it."""
    scores: Sequence[Scores]
    model: Mapping[str, Any] | None = None
    """For a model: parameters, multiply-adds per second (macs_per_s) and the hash of its file (sha256)."""

    def __post_init__(self) -> None:
        if self.kind not in (NOISY, ESTIMATE, MODEL):
            raise ValueError(f"a system is {NOISY}, {ESTIMATE} or {MODEL}, not {self.kind!r}")


def summarise(values: Sequence[float], clusters: Sequence[Sequence[str]] = ()) -> dict[str, Any]:
    """Mean, half-width of its 95 % confidence interval (ci95), and count of the values that are not NaN.

    ci95 = t(0.975, n - 1) s / sqrt(n), s being the sample's standard deviation: the spread over files, taken as
    independent draws. None stands for a mean without values and an interval with fewer than two. With `clusters`, the
    speaker of each file and its noise, or one of the two, there is also an `interval` [low, high] by the bootstrap.
    """
    from scipy.special import stdtrit

    defined = [value for value in values if not math.isnan(value)]
    count = len(defined)
    mean = math.fsum(defined) / count if count else None
    ci95 = None
    if count > 1:
        variance = math.fsum((value - mean) ** 2 for value in defined) / (count - 1)
        ci95 = float(stdtrit(count - 1, 0.5 + bootstrap.CONFIDENCE / 2)) * math.sqrt(variance / count)
    summary = {"mean": mean, "ci95": ci95, "count": count}
    if clusters:
        ends = bootstrap.interval(values, clusters)
        summary["interval"] = ends and list(ends)
    return summary


def make_report(
    systems: Sequence[System],
    mixtures: Mapping[str, Mixture],
    reference_sha256: str,
    command: str,
    remarks: Sequence[str] = (),
) -> dict[str, Any]:
    """All of an evaluation as JSON-serialisable data, documented in docs/evaluation.md.

    Every system holds the same files in the same order. `mixtures` tells what is known of them by name; files that it
    lacks count in the overall means only. When a system of the kind NOISY is there, the others get "gain": the mean
    over files of their improvement on it, with the interval of these differences, which is narrower than that of the
    means. "differences" has the same for every two of the others. Intervals are those of the bootstrap where speakers
    or noises are known of all files. With one model, its means are also the report's "figures".
    """
    files = systems[0].scores
    noisy = next((system for system in systems if system.kind == NOISY), None)
    models = [system for system in systems if system.kind == MODEL]
    known = [mixtures.get(one.name, Mixture()) for one in files]
    columns = factors(known)
    counts, clusters = {factor: len(set(column)) for factor, column in columns.items()}, list(columns.values())
    described = [_describe(system, noisy, known, clusters) for system in systems]
    others = [system for system in systems if system is not noisy]
    return {
        "format": FORMAT,
        "deepnmf": __version__,
        "command": command,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {"platform": platform.platform(), "python": platform.python_version(), "cpus": os.cpu_count()},
        "packages": {name: importlib.metadata.version(name) for name in (*_PACKAGES, *_further(files[0].values))},
        "reference": {
            "files": len(files),
            "seconds": math.fsum(one.seconds for one in files),
            "rates_hz": sorted({one.rate_hz for one in files}),
            "sha256": reference_sha256,
            "clusters": counts,
        },
        "interval": _interval(counts),
        "remarks": [*remarks, *_remarks(systems)],
        "figures": {metric: _mean(models[0].scores, metric) for metric in files[0].values} if len(models) == 1 else {},
        "systems": described,
        "differences": [
            {"of": first.name, "to": second.name, "summary": _means(_minus(first, second), clusters)}
            for first, second in itertools.combinations(others, 2)
        ],
    }


def overall_table(report: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """(header, rows): one row of means with intervals for each system, then one of its gain over the noisy input, then
    one for the difference of every two systems, file by file.
    """
    files = report["reference"]["files"]
    rows = [[system["name"], *_cells(system["summary"], files)] for system in report["systems"]]
    rows += [[f"gain of {s['name']}", *_cells(s["gain"], files, "+")] for s in report["systems"] if s["gain"]]
    rows += [[f"{d['of']} - {d['to']}", *_cells(d["summary"], files, "+")] for d in report["differences"]]
    return ["system", *_labels(report)], rows


def snr_table(report: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """(header, rows): one row for each input SNR and system; no rows where no SNR is known."""
    parts = [system["by_snr"] for system in report["systems"]]
    return _table_by_part(report, "input SNR", parts, lambda part: f"{part['snr_db']:+g} dB")


def group_tables(report: Mapping[str, Any]) -> dict[str, tuple[list[str], list[list[str]]]]:
    """Column of a table of mixtures -> (header, rows): one row for each of its values and each system."""
    return {
        column: _table_by_part(
            report,
            column.replace("_", " "),
            [system["by_group"][column] for system in report["systems"]],
            lambda part: part["value"],
        )
        for column in report["systems"][0]["by_group"]
    }


def _table_by_part(
    report: Mapping[str, Any],
    heading: str,
    parts: Sequence[Sequence[Mapping[str, Any]]],
    name: Callable[[Mapping[str, Any]], str],
) -> tuple[list[str], list[list[str]]]:
    """(header, rows) for what each system scored in each part of the files, part after part."""
    rows = [
        [name(part), system["name"], str(part["files"]), *_cells(part["summary"], part["files"])]
        for alike in zip(*parts, strict=True)
        for system, part in zip(report["systems"], alike, strict=True)
    ]
    return [heading, "system", "files", *_labels(report)], rows


def caption(report: Mapping[str, Any]) -> str:
    """Return what the numbers of the tables are, in one sentence."""
    reference = report["reference"]
    rates = " and ".join(f"{rate / 1000:g}" for rate in reference["rates_hz"])
    files = "1 file" if reference["files"] == 1 else f"{reference['files']} files"
    sign = "and" if reference["clusters"] else "±"
    return f"{files}, {reference['seconds'] / 60:.1f} minutes at {rates} kHz; mean {sign} {report['interval']}."


def write_report(report: Mapping[str, Any], folder: str | Path) -> list[Path]:
    """Write files.csv, report.json, report.md and the figures (PNG) to an existing folder; returns their paths.

    Raises DeepnmfError when the folder cannot be written.
    """
    folder = Path(folder)
    figures = draw(report)
    writers = {
        FILES_CSV: lambda path: _write_csv(report, path),
        REPORT_JSON: lambda path: path.write_text(_json(report), encoding="utf-8"),
        REPORT_MD: lambda path: path.write_text(markdown(report, list(figures)), encoding="utf-8"),
    } | {name: lambda path, figure=figure: save(figure, path) for name, figure in figures.items()}
    remove_leftovers(folder)
    try:
        for name, write in writers.items():
            with atomic_path(folder / name) as partial:
                write(partial)
    except OSError as error:
        found = f"that it cannot be written ({error.strerror})"
        raise DeepnmfError(folder, found, "a folder for the report", "Choose another, or free some space.") from error
    return [folder / name for name in writers]


def markdown(report: Mapping[str, Any], figures: Sequence[str] = ()) -> str:
    """The report as a page: tables, figures (file names), remarks, and where the numbers come from."""
    reference, machine = report["reference"], report["machine"]
    parts = ["# Evaluation", caption(report), _markdown_table(*overall_table(report))]
    if (by_snr := snr_table(report))[1]:
        parts += ["## By input SNR", _markdown_table(*by_snr)]
    for column, table in group_tables(report).items():
        parts += [f"## By {column.replace('_', ' ')}", _markdown_table(*table)]
    parts += [f"![{Path(name).stem.replace('_', ' ')}]({name})" for name in figures]
    if report["remarks"]:
        parts += ["## Remarks", "\n".join(f"* {_plain(remark)}" for remark in report["remarks"])]
    parts += [
        "## Origin",
        (
            f"* Command: {_code(report['command'])}\n"
            f"* Reference: {reference['files']} files, SHA-256 `{reference['sha256']}`\n"
            f"* deepnmf {report['deepnmf']}, {', '.join(f'{k} {v}' for k, v in report['packages'].items())}, "
            f"Python {machine['python']}\n"
            f"* {report['date']} on {machine['platform']}, {machine['cpus']} CPUs"
        ),
    ]
    parts += [_model_line(system) for system in report["systems"] if system["model"]]
    return "\n\n".join(parts) + "\n"


def _further(metrics: Iterable[str]) -> list[str]:
    """Return the packages of the scores that are computed when asked for."""
    return ["speechmos"] if DNSMOS.keys() & set(metrics) else []


def _interval(counts: Mapping[str, int]) -> str:
    """Say how intervals are computed, from the numbers of speakers and noises that are known."""
    clusters = " and ".join(f"{count} {factor}{'s' * (count != 1)}" for factor, count in counts.items())
    return f"95 % confidence interval (bootstrap over {clusters})" if clusters else INTERVAL


def _describe(
    system: System, noisy: System | None, known: Sequence[Mixture], clusters: Sequence[Sequence[str]]
) -> dict[str, Any]:
    values = [one.values for one in system.scores]
    gains = _minus(system, noisy) if noisy and system is not noisy else None

    def part(chosen: Sequence[int]) -> dict[str, Any]:
        shared = [[column[i] for i in chosen] for column in clusters]
        summary = _means([values[i] for i in chosen], shared)
        return {"summary": summary, "gain": gains and _means([gains[i] for i in chosen], shared)}

    by_snr = [
        {"snr_db": level, "files": len(chosen), **part(chosen)}
        for level, chosen in _places([mixture.snr_db for mixture in known]).items()
    ]
    by_group = {
        column: [{"value": value, "files": len(chosen), **part(chosen)} for value, chosen in places.items()]
        for column in GROUPS
        if 0 < len(places := _places([mixture.groups.get(column) for mixture in known])) <= MOST_VALUES
    }
    return {
        "name": system.name,
        "kind": system.kind,
        "source": system.source,
        "model": dict(system.model) if system.model else None,
        **part(range(len(known))),
        "by_snr": by_snr,
        "by_group": by_group,
        "files": [_file_row(one, mixture) for one, mixture in zip(system.scores, known, strict=True)],
    }


def _places(values: Sequence[Any]) -> dict[Any, list[int]]:
    """Value -> where it stands, in the order of values; None is left out."""
    found: dict[Any, list[int]] = {value: [] for value in sorted({value for value in values if value is not None})}
    for place, value in enumerate(values):
        if value is not None:
            found[value].append(place)
    return found


def _minus(first: System, second: System) -> list[dict[str, float]]:
    """Return by how much each file scores higher in one system; NaN where either has no score."""
    pairs = zip(first.scores, second.scores, strict=True)
    return [{metric: one.values[metric] - two.values[metric] for metric in one.values} for one, two in pairs]


def _means(values: Sequence[Mapping[str, float]], clusters: Sequence[Sequence[str]]) -> dict[str, Any]:
    return {metric: summarise([one[metric] for one in values], clusters) for metric in values[0]}


def _file_row(one: Scores, mixture: Mixture) -> dict[str, Any]:
    values = {metric: None if math.isnan(value) else value for metric, value in one.values.items()}
    known = {"snr_db": mixture.snr_db, "speaker": mixture.speaker, "noise": mixture.noise}
    return {"name": one.name, **known, "seconds": one.seconds, **values, "notes": list(one.notes)}


def _mean(scores: Sequence[Scores], metric: str) -> float | None:
    return summarise([one.values[metric] for one in scores])["mean"]


def _remarks(systems: Sequence[System]) -> list[str]:
    """Return what a reader of the means must know: scores that are missing from them, and two kinds of PESQ in one
    mean.
    """
    found: dict[tuple[str, str], list[str]] = {}
    for system in systems:
        for one in system.scores:
            for note in one.notes:
                found.setdefault((system.name, note), []).append(one.name)
    total = len(systems[0].scores)
    remarks = [
        f"{system}: no score in {len(names)} of {total} files ({note}), the first being {names[0]}"
        for (system, note), names in found.items()
    ]
    remarks += [remark for system in systems for remark in _late(system)]
    rates = {one.rate_hz for one in systems[0].scores}
    if 8000 in rates and len(rates) > 1:
        remarks.append("PESQ is narrow band for files at 8 kHz and wide band for the others: its mean mixes the two")
    return remarks


def _late(system: System) -> list[str]:
    """Return how many files are late, or early, by how much, and what to do."""
    remarks = []
    for sign, word in ((1, "late"), (-1, "early")):
        found = [one for one in system.scores if sign * one.lag_s > 0]
        if found:
            lags_ms = sorted(abs(one.lag_s) * 1e3 for one in found)
            samples = [round(abs(one.lag_s) * one.rate_hz) for one in found]
            spread = f"{lags_ms[0]:.2f}" if lags_ms[0] == lags_ms[-1] else f"{lags_ms[0]:.2f} to {lags_ms[-1]:.2f}"
            remarks.append(
                f"{system.name}: {len(found)} of {len(system.scores)} files are {word} by {spread} ms "
                f"(median: {statistics.median_low(samples)} samples), the first being {found[0].name}; SI-SDR forgives "
                f"no delay, so that its value tells nothing here: align the files and score them again"
            )
    return remarks


def _labels(report: Mapping[str, Any]) -> list[str]:
    """Return the headings of the columns of scores."""
    return [metric_of(name).label for name in _metrics(report)]


def _metrics(report: Mapping[str, Any]) -> list[str]:
    """Return the names of the scores in the report, in the order of its tables."""
    return list(report["systems"][0]["summary"])


def _cells(summary: Mapping[str, Any], files: int, sign: str = "") -> list[str]:
    """Cells such as "7.32 ± 0.41" or "7.32 [6.1, 8.9]"; with the count in brackets where some files have no score."""
    return [_cell(value, f"{sign}.{metric_of(name).digits}f", files) for name, value in summary.items()]


def _cell(value: Mapping[str, Any], form: str, files: int) -> str:
    if value["mean"] is None:
        return "-"
    text = f"{value['mean']:{form}}"
    if value.get("interval"):
        text += " [{}, {}]".format(*(f"{end:{form}}" for end in value["interval"]))
    elif "interval" not in value and value["ci95"] is not None:
        text += f" ± {value['ci95']:{form.lstrip('+')}}"
    return text if value["count"] == files else f"{text} (n={value['count']})"


def _plain(text: str) -> str:
    """`text` with a backslash before the characters that Markdown would take for markup inside a line."""
    return re.sub(r"[\\`*|<>]|\](?=\()", r"\\\g<0>", text)


def _code(text: str) -> str:
    """`text` as a code span, between more backticks than it holds in a row."""
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    space = " " if "`" in text else ""
    return f"{fence}{space}{text}{space}{fence}"


def _json(report: Mapping[str, Any]) -> str:
    return json.dumps(report, indent=1, allow_nan=False) + "\n"


def _markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    first_number = 1 + max(header.index(word) for word in ("system", "files") if word in header)
    rule = ["---" if column < first_number else "---:" for column in range(len(header))]
    lines = [" | ".join(map(_plain, row)) for row in [header, rule, *rows]]
    return "\n".join(f"| {line} |" for line in lines)


def _model_line(system: Mapping[str, Any]) -> str:
    model = system["model"]
    size = f"{model['parameters']:,} parameters, {model['macs_per_s'] / 1e6:,.1f} million multiply-adds per second"
    return f"* Model {_plain(system['name'])}: {size}, SHA-256 `{model['sha256']}`"


def _write_csv(report: Mapping[str, Any], path: Path) -> None:
    columns = ["system", "name", "snr_db", "speaker", "noise", "seconds", *_metrics(report), "notes"]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        for system in report["systems"]:
            for row in system["files"]:
                writer.writerow({**row, "system": system["name"], "notes": "; ".join(row["notes"])})


SCORES, GAIN = "scores.png", "gain_by_snr.png"


def draw(report: Mapping[str, Any]) -> "dict[str, Figure]":
    """File name -> figure: the mean scores and, where a noisy input and SNRs are known, the gain over input SNR.

    The figures are made without pyplot, so that no window system and no global state is touched.
    """
    figures = {SCORES: _score_figure(report)}
    improved = [system for system in report["systems"] if system["gain"] and system["by_snr"]]
    if improved:
        figures[GAIN] = _gain_figure(improved, report["interval"])
    return figures


def save(figure: "Figure", path: Path) -> None:
    """Write a figure as an image of the kind that the suffix of `path` names."""
    with warnings.catch_warnings():  # a name in a script that the font lacks is drawn as boxes; the tables have it
        warnings.filterwarnings("ignore", message="Glyph .* missing from font", category=UserWarning)
        figure.savefig(path, dpi=150)


def _score_figure(report: Mapping[str, Any]) -> "Figure":
    systems = report["systems"]
    metrics = _metrics(report)
    figure, panels = _panels(f"Mean and {report['interval']}", len(metrics), height_in=1.6 + 0.3 * len(systems))
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
    figure, panels = _panels(f"Gain over the noisy input, and {interval}", len(metrics), height_in=3.4)
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


def _reach(summary: Mapping[str, Any]) -> np.ndarray:
    """Return how far the interval reaches below and above the mean, (2, 1)."""
    half = 0.0 if "interval" in summary else summary["ci95"] or 0.0
    low, high = summary.get("interval") or (summary["mean"] - half, summary["mean"] + half)
    return np.array([[summary["mean"] - low], [high - summary["mean"]]]).clip(0)


def _label(system: Mapping[str, Any]) -> str:
    """The name, in which matplotlib shall see no formula and no mark of what to hide."""
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
