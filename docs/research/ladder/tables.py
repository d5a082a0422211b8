"""Tables of index.md made of sizes.json and paper.json, which report.py fills in, and the figure over sizes.

Intervals are those of `deepnmf evaluate`: 95 %, by the bootstrap over speakers and noise recordings.
"""

import json
import re
import statistics
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from deepnmf_cli.scoring import bootstrap

HERE = Path(__file__).parent
COLOURS = {"deep-nmf": "#2f6f9f", "dnn": "#b2443c"}
NAMES = {"deep-nmf": "deep NMF", "dnn": "sigmoid DNN"}
LOWEST_DB = -50
"""Scores below are those of trials that diverged."""

SHORT = {
    "network.dropout": "dropout", "network.compression": "inputs", "training.weight_decay": "decay",
    "training.learning_rate": "rate", "network.iterations": "K", "network.sparsity": "mu",
    "training.optimizer": "by",
}  # fmt: skip


def read(name: str) -> dict[str, Any]:
    """The results of sizes.py or paper.py; empty ones before there are any."""
    path = HERE / f"{name}.json"
    return json.loads(path.read_text()) if path.is_file() else {}


def tables() -> dict[str, Callable[..., str]]:
    """Mark -> what makes the table."""
    return {
        "trials": lambda: trials_table(read("sizes")), "sizes": lambda: sizes_table(read("sizes")),
        "leads": lambda part: leads_table(read("sizes"), part),
        "same-size": lambda: same_size_table(read("sizes")),
        "cost": lambda: cost_table(read("sizes"), read("paper")),
        "paper": lambda part: paper_table(read("paper"), part),
        "paper-leads": lambda part: paper_leads_table(read("paper"), part),
    }  # fmt: skip


def table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A table in Markdown; nothing where it would have no lines."""
    if not lines:
        return ""
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *lines))


def settings(row: dict) -> str:
    """Layers and what was searched, in few words."""
    layers = {"tied": "one dictionary", "all": "C = K + 1"}.get(row["layers"])
    if layers is None:
        layers = f"C = {row['layers']}" if row["family"] == "deep-nmf" else f"{row['layers']} hidden"
    return ", ".join([layers, *(f"{SHORT[key]} {value}" for key, value in row["settings"].items())])


def trials_table(kept: dict) -> str:
    """For each family, size and context: the settings of the best trial, and the scores of all."""
    groups = defaultdict(list)
    for name, row in kept.get("runs", {}).items():
        if "-trial" in name:
            groups[row["size"], -row["context"], row["family"]].append(row)
    lines = []
    for (size, context, family), rows in sorted(groups.items()):
        scores = sorted(r["dev_si_sdr"] for r in rows)
        best = max(rows, key=lambda r: r["dev_si_sdr"])
        spread = ["diverged" if scores[0] < LOWEST_DB else f"{scores[0]:.2f}"]
        spread += [f"{x:.2f}" for x in (statistics.median(scores), scores[-1])]
        lines.append([NAMES[family], f"{size:,}", str(-context), str(len(rows)), *spread, settings(best)])
    return table(["family", "size", "T", "trials", "worst", "median", "best", "settings of the best"], lines)


def rows_of(kept: dict) -> dict[tuple[str, int, int], list[dict]]:
    """(family, size, context) -> its runs, one for each seed."""
    groups = defaultdict(list)
    for name, row in sorted(kept.get("runs", {}).items()):
        if "-trial" not in name:
            groups[row["family"], row["size"], row["context"]].append(row)
    return groups


def files(rows: Sequence[dict], part: str, metric: str) -> list[float] | None:
    """The score of every file of dev or test, mean over the seeds that have it."""
    each = [row[part][metric] for row in rows if part in row]
    return [statistics.mean(x) for x in zip(*each, strict=True)] if each else None


def shown(values: Sequence[float] | None, mixtures: dict, sign: str = "", digits: int = 2) -> str:
    """Mean and interval."""
    if values is None:
        return ""
    ends = bootstrap.interval(values, [mixtures["speaker"], mixtures["noise"]])
    return f"{statistics.mean(values):{sign}.{digits}f} [{ends[0]:.{digits}f}, {ends[1]:.{digits}f}]"


def sizes_table(kept: dict) -> str:
    """One line for each family, size and context, and the figure."""
    lines = []
    for (family, _, context), rows in sorted(rows_of(kept).items(), key=lambda item: (item[0][2], item[0][1])):
        first = rows[0]
        end = f"{first['best_step']:,}" if first["level"] else f"{first['best_step']:,}, no plateau"
        cells = [NAMES[family], f"{first['parameters']:,}", str(context), f"{first['macs_per_s'] / 1e6:.0f}"]
        cells += [str(len(rows)), end, f"{first['cpu_seconds'] / 60:.0f}"]
        cells += [f"{statistics.mean(r['dev_si_sdr'] for r in rows):.2f}"]
        cells += [shown(files(rows, part, "SDR"), kept[part]) for part in ("dev", "test")]
        lines.append(cells)
    head = ["family", "parameters", "T", "MMAC/s", "seeds", "best step", "minutes", "dev SI-SDR", "dev SDR"]
    figure = "\n\n![SDR over parameters, both families, with intervals](sizes.png)" if lines else ""
    return table([*head, "test SDR"], lines) + figure


def best_of_contexts(kept: dict) -> dict[tuple[str, int], list[dict]]:
    """(family, size) -> the rows of the context that is better on dev."""
    found: dict[tuple[str, int], list[dict]] = {}
    for (family, size, _), rows in rows_of(kept).items():
        other = found.get((family, size))
        if other is None or rows[0]["dev_si_sdr"] > other[0]["dev_si_sdr"]:
            found[family, size] = rows
    return found


def leads_table(kept: dict, part: str) -> str:
    """SDR of deep NMF less that of DNNs on the same files of dev or test, of sizes in lines and columns, each with its
    better T.
    """
    best = best_of_contexts(kept)
    sizes = {family: sorted(s for f, s in best if f == family) for family in NAMES}
    lines = []
    for own in sizes["deep-nmf"]:
        cells = []
        for other in sizes["dnn"]:
            pair = [files(best[key], part, "SDR") for key in (("deep-nmf", own), ("dnn", other))]
            known = None not in pair
            cells.append(shown([a - b for a, b in zip(*pair, strict=True)], kept[part], "+") if known else "")
        if any(cells):
            lines.append([f"{own:,}", *cells])
    return table([f"SDR on {part}: deep NMF less DNN of", *(f"{other:,}" for other in sizes["dnn"])], lines)


def same_size_table(kept: dict) -> str:
    """What deep NMF scores more than the DNN of the same size and context, where both were scored on test."""
    columns = [("dev", "SDR"), *(("test", metric) for metric in ("SDR", "SI-SDR", "PESQ", "STOI", "ESTOI"))]
    rows, lines = rows_of(kept), []
    for (family, size, context), own in sorted(rows.items()):
        other = rows.get(("dnn", size, context), [])
        pairs = [(files(own, *column), files(other, *column)) for column in columns]
        if family == "dnn" or any(None in pair for pair in pairs):
            continue
        cells = [f"{size:,}", str(context)]
        for (part, metric), pair in zip(columns, pairs, strict=True):
            values = [a - b for a, b in zip(*map(list, pair), strict=True)]
            cells.append(shown(values, kept[part], "+", 2 if "SDR" in metric else 3))
        lines.append(cells)
    head = (f"{part} {metric}" + ", dB" * ("SDR" in metric) for part, metric in columns)
    return table(["parameters", "T", *head], lines)


def cost_table(sizes: dict, paper: dict) -> str:
    """Core-hours by part."""
    runs, rows = sizes.get("runs", {}), list(paper.get("rows", {}).values())
    parts = {
        "search": [r for name, r in runs.items() if "-trial" in name],
        "rows, seed 1": [r for name, r in runs.items() if name.endswith("-seed1")],
        "rows, further seeds": [r for name, r in runs.items() if "-seed" in name and not name.endswith("-seed1")],
        "the paper's table": rows,
    }
    lines = []
    for part, done in parts.items():
        if not done:
            continue
        by_family = [sum(r["cpu_seconds"] for r in done if family_of(r) == family) / 3600 for family in NAMES]
        lines.append([part, str(len(done)), *(f"{hours:.2f}" for hours in by_family)])
    return table(["part", "runs", *(f"{name}, core-hours" for name in NAMES.values())], lines)


def family_of(row: dict) -> str:
    return row.get("family") or ("dnn" if row["name"].startswith("dnn") else "deep-nmf")


def paper_rows(kept: dict, part: str) -> dict[str, list[dict]]:
    """Name of a row of the paper's table -> its seeds with scores on dev or test; NMF first, from small to large."""
    groups = defaultdict(list)
    for row in kept.get("rows", {}).values():
        if part in row:
            groups[row["name"]].append(row)

    def place(name: str) -> tuple[bool, list[int], str]:
        return name.startswith("dnn"), [int(x) for x in re.findall(r"\d+", name)], name

    return {name: groups[name] for name in sorted(groups, key=place)}


def paper_leads_table(kept: dict, part: str) -> str:
    """SDR of NMF less that of DNNs, and of NMF with as many layers trained by (38), on the same files of `part`."""
    groups = paper_rows(kept, part)
    others = sorted((n for n in groups if n.startswith("dnn")), key=lambda n: groups[n][0]["parameters"])

    def lead(name: str, other: str) -> str:
        if other not in groups or other == name:
            return ""
        pair = (files(groups[one], part, "SDR") or [] for one in (name, other))
        return shown([a - b for a, b in zip(*pair, strict=True)], kept[part], "+")

    lines = [
        [in_words(name), *(lead(name, other) for other in (name.replace("-adam", "-printed"), *others))]
        for name in groups
        if name.endswith(("-adam", "-nothing"))
    ]
    return table([f"SDR on {part}, less that of", "(38)", *(in_words(other)[5:] for other in others)], lines)


def paper_table(kept: dict, part: str) -> str:
    """SDR by input SNR, as the paper prints it, on dev or test; means over seeds."""
    groups = paper_rows(kept, part)
    snrs = [float(x) for x in kept[part]["snr_db"]] if part in kept else []
    levels = sorted(set(snrs))
    lines = []
    noisy = {"noisy": None} if part in kept.get("noisy", {}) else {}
    for name, rows in {**noisy, **groups}.items():
        sdr = files(rows, part, "SDR") if rows else kept["noisy"][part]["SDR"]
        cells = [f"{rows[0]['parameters']:,}", str(len(rows))] if rows else ["", ""]
        by_snr = [statistics.mean(x for x, snr in zip(sdr, snrs, strict=True) if snr == level) for level in levels]
        rising = [row for row in rows or () if row["trained_parameters"] and not row["level"]]
        words = in_words(name) + ", no plateau" * bool(rising)
        lines.append([words, *cells, *(f"{x:.2f}" for x in by_snr), shown(sdr, kept[part])])
    return table(["", "parameters", "seeds", *(f"{level:g} dB" for level in levels), "mean"], lines)


RULES = {"adam": "by Adam", "printed": "by (38)", "nothing": "not trained"}


def in_words(name: str) -> str:
    """The name of a row of the paper's table, such as nmf-r100-c2-adam or dnn-2x512, in words."""
    family, *parts = name.split("-")
    if family == "dnn":
        layers, units = parts[0].split("x")
        return f"DNN, {layers} x {units}"
    if family == "nmf":
        atoms, trained, rule = parts
        return f"NMF, R = {atoms[1:]}, C = {trained[1:]}, {RULES[rule]}"
    return name


def over_sizes() -> Figure:
    """SDR over parameters of both families with intervals; on test where rows were scored there, else on dev."""
    kept = read("sizes")
    groups = rows_of(kept)
    parts = [part for part in ("dev", "test") if any(part in row for rows in groups.values() for row in rows)]
    figure = Figure(figsize=(5 * max(1, len(parts)), 4), layout="constrained")
    for axes, part in zip(figure.subplots(1, max(1, len(parts)), squeeze=False)[0], parts, strict=False):
        lines = defaultdict(list)
        for (family, _, context), rows in groups.items():
            if sdr := files(rows, part, "SDR"):
                ends = bootstrap.interval(sdr, [kept[part]["speaker"], kept[part]["noise"]])
                lines[family, context].append((rows[0]["parameters"], statistics.mean(sdr), *ends))
        for number, ((family, context), points) in enumerate(sorted(lines.items())):
            x, y, low, high = zip(*sorted(points), strict=True)
            x = [value * 1.04 ** (number - 1.5) for value in x]  # side by side
            ends = [[a - b for a, b in zip(y, low, strict=True)], [a - b for a, b in zip(high, y, strict=True)]]
            style = {"fmt": "o-" if context > 1 else "s--", "color": COLOURS[family], "elinewidth": 0.6}
            axes.errorbar(x, y, ends, label=f"{NAMES[family]}, T = {context}", markersize=4, **style)
        axes.set(xscale="log", xlabel="parameters", ylabel=f"SDR on {part} [dB]")
        axes.grid(alpha=0.3)
        axes.legend(loc="lower right", fontsize="small")
    return figure
