"""What is known of the mixtures of a corpus: input SNR, speaker, noise, and groups by which scores are reported."""

import math
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deepnmf_cli.errors import CorpusError
from deepnmf_cli.signal.formats import audio_suffixes
from deepnmf_cli.tables import misspelt, read_rows

IN_NAME = re.compile(r"(?:^|_)([+-]?\d+(?:\.\d+)?)dB(?:_([^_]+)_(.+))?(?:_|$)")
"""Input SNR, speaker and noise as parts of a file name, as in 003_+3dB_p232_street-5; the last two may be missing."""

GROUPS = ("sex", "language", "noise_kind", "room")
"""Columns of a table whose values get rows of their own in a report, if there are at most MOST_VALUES of them."""

MOST_VALUES = 20

FACTORS = ("speaker", "noise")
"""What several mixtures may share, so that their scores are not independent."""

DESCRIBED = ("snr_db", *FACTORS, *GROUPS)
"""Columns of a table other than the name."""


@dataclass(frozen=True)
class Mixture:
    """What is known of one mixture; what is unknown is None, or has no entry in `groups`."""

    snr_db: float | None = None
    speaker: str | None = None
    noise: str | None = None
    groups: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, row: Mapping[str, Any], snr_db: float | None) -> "Mixture":
        """Return what a row of a table says, whose empty cells are unknown."""
        groups = {column: value for column in GROUPS if (value := row.get(column))}
        return cls(snr_db, row.get("speaker") or None, row.get("noise") or None, groups)


def known_mixtures(names: Sequence[str], table: str | Path | None = None) -> dict[str, Mixture]:
    """Return name -> what is known, from a CSV file with the column `name` and others, or else from the names.

    Names of which nothing is known are left out. The table must hold every name once, with or without the suffix of an
    audio file. Raises CorpusError if it does not, and if it cannot be read.
    """
    if table is None:
        found = {name: _from_name(name) for name in names}
        return {name: mixture for name, mixture in found.items() if mixture is not None}
    known = _read(Path(table))
    missing = [name for name in names if name not in known]
    if missing:
        found = f"no row for {len(missing)} of {len(names)} files, the first being {missing[0]!r}"
        raise CorpusError(table, found, "one row for each reference", "Add the rows that are missing.")
    return {name: known[name] for name in names}


def recording_of(cell: str | None) -> str:
    """Return the name of the recording that a cell names, with or without the suffix of an audio file.

    Names are in composed form (NFC), as file names are where they are paired.
    """
    name = unicodedata.normalize("NFC", cell or "")
    return name[: -len(suffix)] if (suffix := Path(name).suffix) and suffix.lower() in audio_suffixes() else name


def remarks_on(table: str | Path) -> list[str]:
    """Return remarks on the columns of a table. Raises CorpusError if it cannot be read."""
    return [f"{Path(table).name}: {remark}" for remark in misspelt(table, ("name", *DESCRIBED))]


def table_of(reference_folder: str | Path) -> Path | None:
    """Return the file mixtures.csv beside a folder of references, or None if there is none."""
    path = Path(reference_folder).absolute().parent / "mixtures.csv"
    return path if path.is_file() else None


def factors(mixtures: Sequence[Mixture]) -> dict[str, list[str]]:
    """Return speaker and noise of every mixture, each only if it is known of all mixtures."""
    columns = {factor: [getattr(mixture, factor) for mixture in mixtures] for factor in FACTORS}
    return {factor: column for factor, column in columns.items() if column and None not in column}


def _from_name(name: str) -> Mixture | None:
    match = IN_NAME.search(Path(name).name)
    if not match or not math.isfinite(snr_db := float(match[1])):
        return None
    return Mixture(snr_db, match[2], match[3])


def _read(path: Path) -> dict[str, Mixture]:
    expected, remedy = f"the column name and some of {', '.join(DESCRIBED)}", "Write it as docs/evaluation.md shows."
    rows = read_rows(path, lambda there: "name" in there and not there.isdisjoint(DESCRIBED), expected, remedy)
    known: dict[str, Mixture] = {}
    for line, row in rows:
        if (name := recording_of(row["name"])) in known and name:
            found = f"a second row for {name!r} in line {line}"
            raise CorpusError(path, found, "one row for each reference", "Leave one of the two out.")
        known[name] = _mixture(path, line, row)
    return known


def _mixture(path: Path, line: int, row: Mapping[str, str | None]) -> Mixture:
    snr_db = _snr(path, line, row["snr_db"]) if "snr_db" in row else None
    return Mixture.of(row, snr_db)


def _snr(path: Path, line: int, text: str | None) -> float:
    try:
        snr_db = float(text or "")
    except ValueError:
        snr_db = math.nan
    if not math.isfinite(snr_db):
        raise CorpusError(path, f"{text!r} as snr_db in line {line}", "a number", "Correct the line.")
    return snr_db
