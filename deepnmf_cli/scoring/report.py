"""From scores to a report: means with intervals, by input SNR, as one dict that all tables, files and figures use."""

import csv
import importlib.metadata
import itertools
import json
import math
import os
import platform
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from deepnmf_cli import __version__
from deepnmf_cli.checkpoint import remove_leftovers, write_all
from deepnmf_cli.errors import DeepnmfError, count
from deepnmf_cli.scoring import bootstrap
from deepnmf_cli.scoring.figures import GAIN, SCORES, draw, png
from deepnmf_cli.scoring.listening import Example
from deepnmf_cli.scoring.metrics import DNSMOS
from deepnmf_cli.scoring.mixtures import FACTORS, GROUPS, MOST_VALUES, Mixture, factors
from deepnmf_cli.scoring.page import page
from deepnmf_cli.scoring.scorer import ESTIMATE, MODEL, NOISY, Scores
from deepnmf_cli.scoring.tables import markdown, metrics

FORMAT = 1
"""Version of the layout of report.json."""

INTERVAL = "95 % confidence interval (Student t over files, taken as independent)"
FILES_CSV, REPORT_JSON, REPORT_MD, REPORT_HTML = "files.csv", "report.json", "report.md", "report.html"
FILES = (REPORT_JSON, REPORT_MD, REPORT_HTML, FILES_CSV, SCORES, GAIN)
"""Names of the files that a report may consist of."""

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
    """Return mean, half-width of its 95 % confidence interval (ci95), and count of the values that are not NaN.

    ci95 = t(0.975, n - 1) s / sqrt(n), where s is the sample's standard deviation: the spread over files, taken as
    independent draws. A mean is None without values, and an interval with fewer than two. With `clusters`, the speaker
    of each file and its noise, or one of the two, there is also an `interval` [low, high] by the bootstrap.
    """
    from scipy.special import stdtrit

    defined = [value for value in values if not math.isnan(value)]
    count = len(defined)
    mean = ci95 = None
    if count:
        mean = math.fsum(defined) / count
    if mean is not None and count > 1:
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
    """Return all of an evaluation as JSON-serialisable data, documented in docs/evaluation.md.

    Every system holds the same files in the same order. `mixtures` maps their names to what is known of them; files
    that it lacks count in the overall means only. If there is a system of the kind NOISY, the others get "gain": the
    mean over files of their improvement on it, with the interval of these differences, which is narrower than that of
    the means. "differences" has the same for every two of the others. Intervals are those of the bootstrap if speakers
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


def command_of(folder: str | Path) -> str | None:
    """Return the command line that wrote the report in a folder, or None if there is no report."""
    try:
        report = json.loads((Path(folder) / REPORT_JSON).read_text(encoding="utf-8"))
        return str(report["command"]) if report["format"] == FORMAT else None
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None


def write_report(report: Mapping[str, Any], folder: str | Path, examples: Sequence[Example] = ()) -> list[Path]:
    """Write the files of a report to an existing folder, replacing files of the same names, and return the paths.

    They are files.csv, report.json, report.md, report.html and the figures (PNG). `examples` can be listened to in
    report.html. Raises DeepnmfError if the folder cannot be written.
    """
    folder = Path(folder)
    figures = {name: png(figure) for name, figure in draw(report).items()}
    texts = {
        REPORT_JSON: _json(report),
        REPORT_MD: markdown(report, list(figures)),
        REPORT_HTML: page(report, figures, examples),
    }
    writers = {
        FILES_CSV: lambda path: _write_csv(report, path),
        **{name: lambda path, text=text: path.write_text(text, encoding="utf-8") for name, text in texts.items()},
        **{name: lambda path, image=image: path.write_bytes(image) for name, image in figures.items()},
    }
    remove_leftovers(folder)
    try:
        write_all({folder / name: write for name, write in writers.items()})
    except OSError as error:
        found = f"that it cannot be written ({error.strerror})"
        raise DeepnmfError(folder, found, "a folder for the report", "Choose another, or free some space.") from error
    return [folder / name for name in writers]


def _further(metrics: Iterable[str]) -> list[str]:
    """Return the packages of the scores that are computed only on request."""
    return ["speechmos"] if DNSMOS.keys() & set(metrics) else []


def _interval(counts: Mapping[str, int]) -> str:
    """Return in words how intervals are computed, from the numbers of speakers and noises that are known."""
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
    """Return value -> places where it occurs, in the order of values; None is left out."""
    found: dict[Any, list[int]] = {value: [] for value in sorted({value for value in values if value is not None})}
    for place, value in enumerate(values):
        if value is not None:
            found[value].append(place)
    return found


def _minus(first: System, second: System) -> list[dict[str, float]]:
    """Return by how much each file scores higher in one system than in the other; NaN if either has no score."""
    pairs = zip(first.scores, second.scores, strict=True)
    return [{metric: one.values[metric] - two.values[metric] for metric in one.values} for one, two in pairs]


def _means(values: Sequence[Mapping[str, float]], clusters: Sequence[Sequence[str]]) -> dict[str, Any]:
    return {metric: summarise([one[metric] for one in values], clusters) for metric in values[0]}


def _file_row(one: Scores, mixture: Mixture) -> dict[str, Any]:
    values = {metric: None if math.isnan(value) else value for metric, value in one.values.items()}
    known = {"snr_db": mixture.snr_db, "speaker": mixture.speaker, "noise": mixture.noise, **mixture.groups}
    return {"name": one.name, **known, "seconds": one.seconds, **values, "notes": list(one.notes)}


def _mean(scores: Sequence[Scores], metric: str) -> float | None:
    return summarise([one.values[metric] for one in scores])["mean"]


def _remarks(systems: Sequence[System]) -> list[str]:
    """Return what a reader of the means must know: scores that are missing from them, and two kinds of PESQ in one
    mean.
    """
    found: dict[tuple[str, str, str], list[str]] = {}
    for system in systems:
        for one in system.scores:
            lost = "no score" if any(map(math.isnan, one.values.values())) else "no score of a channel"
            for note in one.notes:
                found.setdefault((system.name, lost, note), []).append(one.name)
    total = len(systems[0].scores)
    remarks = [
        f"{system}: {lost} in {len(names)} of {count(total, 'file')} ({note}), the first being {names[0]}"
        for (system, lost, note), names in found.items()
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
            verb = "is" if len(found) == 1 else "are"
            remarks.append(
                f"{system.name}: {len(found)} of {count(len(system.scores), 'file')} {verb} {word} by {spread} ms "
                f"(median: {statistics.median_low(samples)} samples), the first being {found[0].name}; SI-SDR forgives "
                f"no delay, so that its value tells nothing here: align the files and score them again"
            )
    return remarks


def _json(report: Mapping[str, Any]) -> str:
    return json.dumps(report, indent=1, allow_nan=False) + "\n"


def _write_csv(report: Mapping[str, Any], path: Path) -> None:
    rows = report["systems"][0]["files"]
    groups = [column for column in GROUPS if any(column in row for row in rows)]
    columns = ["system", "name", "snr_db", *FACTORS, *groups, "seconds", *metrics(report), "notes"]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        for system in report["systems"]:
            for row in system["files"]:
                writer.writerow({**row, "system": system["name"], "notes": "; ".join(row["notes"])})
