"""A report as tables: as text for terminals, in Markdown and in LaTeX."""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from deepnmf_cli.errors import count
from deepnmf_cli.scoring.metrics import metric_of


def latex(report: Mapping[str, Any]) -> str:
    """Return means and paired differences as a table for the package booktabs, the best mean of each score in bold."""
    header, rows = overall_table(report)
    systems = report["systems"]
    for column, name in enumerate(metrics(report), 1):
        means = [system["summary"][name]["mean"] for system in systems]
        sign = -1 if metric_of(name).lower_is_better else 1
        best = max((sign * mean for mean in means if mean is not None), default=None)
        for row, mean in zip(rows, means, strict=False):
            row[column] = _tex(row[column])
            if len(systems) > 1 and mean is not None and sign * mean == best:
                row[column] = rf"\textbf{{{row[column]}}}"
        for row in rows[len(systems) :]:
            row[column] = _tex(row[column])
    lines = [" & ".join([_tex(row[0]), *row[1:]]) + r" \\" for row in rows]
    middle = [r"\midrule"] if rows[len(systems) :] else []
    return "\n".join(
        [
            f"% {caption(report)}",
            rf"\begin{{tabular}}{{l{'r' * (len(header) - 1)}}}",
            r"\toprule",
            " & ".join(map(_tex, header)) + r" \\",
            r"\midrule",
            *lines[: len(systems)],
            *middle,
            *lines[len(systems) :],
            r"\bottomrule",
            r"\end{tabular}",
        ]
    )


_TEX = {character: rf"\{character}" for character in "&%$#_{}"}
_TEX |= {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$"}
_TEX |= {"<": r"$<$", ">": r"$>$"}


def _tex(text: str) -> str:
    """Return `text` escaped so that LaTeX sets it unchanged; numbers get a minus sign, not a hyphen."""
    text = re.sub(r"(?<![\w.])-(?=\d)", "\N{MINUS SIGN}", text)
    return "".join(_TEX.get(c, c) for c in text).replace("\N{MINUS SIGN}", "$-$")


def metrics(report: Mapping[str, Any]) -> list[str]:
    """Return the names of the scores in the report, in the order of its tables."""
    return list(report["systems"][0]["summary"])


def overall_table(report: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Return (header, rows) for all files.

    There is one row of means with intervals for each system, then one of its gain over the noisy input, then one for
    the difference of every two systems, file by file.
    """
    files = report["reference"]["files"]
    rows = [[system["name"], *_cells(system["summary"], files)] for system in report["systems"]]
    rows += [[f"gain of {s['name']}", *_cells(s["gain"], files, "+")] for s in report["systems"] if s["gain"]]
    rows += [[f"{d['of']} - {d['to']}", *_cells(d["summary"], files, "+")] for d in report["differences"]]
    return ["system", *_labels(report)], rows


def snr_table(report: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Return (header, rows): one row for each input SNR and system; no rows if no SNR is known."""
    parts = [system["by_snr"] for system in report["systems"]]
    return _table_by_part(report, "input SNR", parts, lambda part: f"{part['snr_db']:+g} dB")


def group_tables(report: Mapping[str, Any]) -> dict[str, tuple[list[str], list[list[str]]]]:
    """Return column of a table of mixtures -> (header, rows): one row for each of its values and each system."""
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
    """Return (header, rows) of what each system scored in each part of the files, part after part."""
    rows = [
        [name(part), system["name"], str(part["files"]), *_cells(part["summary"], part["files"])]
        for alike in zip(*parts, strict=True)
        for system, part in zip(report["systems"], alike, strict=True)
    ]
    return [heading, "system", "files", *_labels(report)], rows


def caption(report: Mapping[str, Any]) -> str:
    """Return one sentence that says what the numbers of the tables are."""
    reference = report["reference"]
    rates = " and ".join(f"{rate / 1000:g}" for rate in reference["rates_hz"])
    files = count(reference["files"], "file")
    sign = "and" if reference["clusters"] else "±"
    return f"{files}, {reference['seconds'] / 60:.1f} minutes at {rates} kHz; mean {sign} {report['interval']}."


def markdown(report: Mapping[str, Any], figures: Sequence[str] = ()) -> str:
    """Return the report as a page: tables, figures (file names), remarks, and where the numbers come from."""
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
            f"* Recordings: {count(reference['files'], 'file')}, SHA-256 `{reference['sha256']}`\n"
            f"* deepnmf {report['deepnmf']}, {', '.join(f'{k} {v}' for k, v in report['packages'].items())}, "
            f"Python {machine['python']}\n"
            f"* {report['date']} on {machine['platform']}, {machine['cpus']} CPUs"
        ),
    ]
    parts += [_model_line(system) for system in report["systems"] if system["model"]]
    return "\n\n".join(parts) + "\n"


def _labels(report: Mapping[str, Any]) -> list[str]:
    """Return the headings of the columns of scores."""
    return [metric_of(name).label for name in metrics(report)]


def _cells(summary: Mapping[str, Any], files: int, sign: str = "") -> list[str]:
    """Return cells such as "7.32 ± 0.41" or "7.32 [6.1, 8.9]", with the count in brackets if a file has no score."""
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
    """Return `text` with a backslash before the characters that Markdown would take for markup inside a line."""
    return re.sub(r"[\\`*|<>]|\](?=\()", r"\\\g<0>", text)


def _code(text: str) -> str:
    """Return `text` as a code span, between more backticks than it holds in a row."""
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    space = " " if "`" in text else ""
    return f"{fence}{space}{text}{space}{fence}"


def _markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    first_number = 1 + max(header.index(word) for word in ("system", "files") if word in header)
    rule = ["---" if column < first_number else "---:" for column in range(len(header))]
    lines = [" | ".join(map(_plain, row)) for row in [header, rule, *rows]]
    return "\n".join(f"| {line} |" for line in lines)


def _model_line(system: Mapping[str, Any]) -> str:
    model = system["model"]
    size = f"{model['parameters']:,} parameters, {model['macs_per_s'] / 1e6:,.1f} million multiply-adds per second"
    return f"* Model {_plain(system['name'])}: {size}, SHA-256 `{model['sha256']}`"
