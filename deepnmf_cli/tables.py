"""Tables that users write: CSV files whose first line names the columns."""

import csv
import difflib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from deepnmf_cli.errors import CorpusError


def read_rows(
    path: str | Path, fit: Callable[[set[str]], bool], expected: str, remedy: str
) -> Iterator[tuple[int, dict[str, str | None]]]:
    """Yield (line, row) of a file in UTF-8, with or without a byte order mark; cells that a line lacks are None.

    Raises CorpusError with `expected` and `remedy` if the file cannot be read or its columns do not `fit`, and also if
    two columns have the same name.
    """
    try:
        with Path(path).open(newline="", encoding="utf-8-sig") as file:
            rows = csv.DictReader(file)
            names = rows.fieldnames or []
            if twice := [name for name in names if name and names.count(name) > 1]:
                raise CorpusError(path, f"the column {twice[0]!r} twice", "each column once", "Rename one of the two.")
            if not fit(set(names)):
                raise CorpusError(path, f"the columns {', '.join(names) or '(none)'}", expected, remedy)
            for row in rows:
                yield rows.line_num, row
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise CorpusError(path, f"no readable CSV file ({error})", expected, remedy) from error


def misspelt(path: str | Path, known: Iterable[str]) -> list[str]:
    """Return remarks on columns that are not `known`, but resemble a known one that is missing.

    Raises CorpusError if the file cannot be read.
    """
    names: set[str] = set()
    for _ in read_rows(path, lambda there: not names.update(there), "a CSV file", "Correct it."):
        break
    absent = [name for name in known if name not in names]
    return [
        f"the column {name!r} is not used; {near[0]!r} would be"
        for name in sorted(filter(None, names.difference(known)))
        if (near := difflib.get_close_matches(name.strip().lower(), absent, n=1, cutoff=0.65))
    ]
