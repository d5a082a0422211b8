"""A report as one HTML page, with the sound of some files: opened from disk, it needs nothing else."""

from collections.abc import Mapping, Sequence
from typing import Any

from deepnmf_cli.pages.render import RANGE_DB, data_uri, picture, render, sound
from deepnmf_cli.scoring import tables
from deepnmf_cli.scoring.listening import LONGEST_S, WORST, Example, Ranking, rank
from deepnmf_cli.scoring.metrics import ALL, metric_of
from deepnmf_cli.signal.spectrogram import spectrogram_db

KNOWN = ("snr_db", "speaker", "noise")

COLUMNS = 480
"""Columns of a spectrogram: about as many as its place in the page has."""


def page(report: Mapping[str, Any], figures: Mapping[str, bytes], chosen: Sequence[Example] = ()) -> str:
    """Return the HTML of a report with its figures (name -> PNG); the examples in `chosen` can be listened to."""
    ranking = rank(report)
    by_place = {example.place: f"case-{number}" for number, example in enumerate(chosen, 1)}
    by_snr = tables.snr_table(report)
    parts = [("By input SNR", by_snr)] if by_snr[1] else []
    parts += [(f"By {column.replace('_', ' ')}", table) for column, table in tables.group_tables(report).items()]
    header, rows = tables.overall_table(report)
    return render(
        "report.html",
        title="Evaluation",
        version=report["deepnmf"],
        caption=tables.caption(report),
        remarks=report["remarks"],
        means=(header, rows[: len(report["systems"])]),
        paired={"header": ["difference", *header[1:]], "rows": _paired(report, rows[len(report["systems"]) :])},
        figures={name: data_uri("image/png", figure) for name, figure in figures.items()},
        choice=_choice(ranking, chosen),
        scaled=any(example.gain < 1 for example in chosen),
        range_db=f"{RANGE_DB:.0f}",
        cases=[_case(report, example) for example in chosen],
        tables=parts,
        scores=_ordered(ranking, report),
        files=_files(report, by_place) | {"ranked": ranking.system},
        report=report,
    )


def _paired(report: Mapping[str, Any], rows: Sequence[Sequence[str]]) -> list[tuple[str, list[tuple[str, bool]]]]:
    """Return (name, cells) of each difference; a cell is its text, and whether its interval excludes zero."""
    summaries = [system["gain"] for system in report["systems"] if system["gain"]]
    summaries += [difference["summary"] for difference in report["differences"]]
    return [
        (name, [(text, _sure(value)) for text, value in zip(cells, summary.values(), strict=True)])
        for (name, *cells), summary in zip(rows, summaries, strict=True)
    ]


def _sure(value: Mapping[str, Any]) -> bool:
    if value.get("interval"):
        low, high = value["interval"]
        return low > 0 or high < 0
    return "interval" not in value and value["ci95"] is not None and abs(value["mean"]) > value["ci95"]


def _choice(ranking: Ranking, chosen: Sequence[Example]) -> str:
    """Return a text that says which files are heard, and how much of each."""
    worst = sum(example.title.startswith(WORST) for example in chosen)
    measure = f"gain in {ranking.metric}" if ranking.of_gains else ranking.metric
    text = f"Worst first: the {worst} of {len(ranking.order)} files with the worst {measure} of {ranking.system}"
    text += f", then the {len(chosen) - worst} with the best."
    cut = sum(example.is_cut for example in chosen)
    return f"{text} {cut} of them are longer than {LONGEST_S:g} s; the part with most energy is kept." if cut else text


def _ordered(ranking: Ranking, report: Mapping[str, Any]) -> list[str]:
    """Return the names of the scores, starting with the one that ranks the files."""
    return sorted(tables.metrics(report), key=lambda name: name != ranking.metric)


def _case(report: Mapping[str, Any], example: Example) -> dict[str, Any]:
    pictures = {name: spectrogram_db(samples, example.rate_hz, COLUMNS) for name, samples in example.sounds.items()}
    loudest = max(float(levels.max()) for levels in pictures.values())
    rows = {system["name"]: system["files"][example.place] for system in report["systems"]}
    known = next(iter(rows.values()))
    facts = [f"{known['snr_db']:+g} dB" if known["snr_db"] is not None else "", known["speaker"], known["noise"]]
    facts = [fact for fact in facts if fact]
    if example.is_cut:
        facts.append(f"from {example.start_s:.1f} s on, of {example.whole_s:.1f} s")
    return {
        "title": f"{example.title}: {example.name}",
        "text": ", ".join(facts),
        "seconds": round(example.seconds, 3),
        "signals": [
            {
                "label": name,
                "top": f"{example.rate_hz / 2000:g} kHz",
                "end": f"{example.seconds:.1f} s",
                "text": _scores(rows[name]) if name in rows else "",
                "first": name == report["systems"][0]["name"],
                "sound": sound(samples, example.rate_hz),
                "picture": picture(pictures[name], loudest - RANGE_DB, loudest),
            }
            for name, samples in example.sounds.items()
        ],
    }


def _scores(row: Mapping[str, Any]) -> str:
    values = {name: value for name, value in row.items() if name in ALL and value is not None}
    return ", ".join(f"{name} {value:.{metric_of(name).digits}f}" for name, value in values.items())


def _files(report: Mapping[str, Any], by_place: Mapping[int, str]) -> dict[str, Any]:
    """Return the data from which the browser makes the table of files."""
    first, names = report["systems"][0]["files"], tables.metrics(report)
    shown = [column for column in KNOWN if any(row[column] is not None for row in first)]
    return {
        "columns": ["file", *("SNR [dB]" if column == "snr_db" else column for column in shown)],
        "rows": [
            {"known": [row["name"], *(row[column] for column in shown)], "anchor": by_place.get(place)}
            for place, row in enumerate(first)
        ],
        "systems": [system["name"] for system in report["systems"]],
        "scores": {name: [[row[name] for row in system["files"]] for system in report["systems"]] for name in names},
        "digits": {name: metric_of(name).digits for name in names},
    }
