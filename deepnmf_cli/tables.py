"""Tables that users write: CSV files whose first line names the columns."""

import csv
from collections.abc import Callable, Iterator
from pathlib import Path

from deepnmf_cli.errors import CorpusError


def read_rows(
    path: str | Path, fit: Callable[[set[str]], bool], expected: str, remedy: str
) -> Iterator[tuple[int, dict[str, str | None]]]:
    """(line, row) of a file in UTF-8, with or without a byte order mark; None where a line is too short.

    Raises CorpusError with `expected` and `remedy` when the file cannot be read, and where its columns do not `fit`.
    """
    try:
        with Path(path).open(newline="", encoding="utf-8-sig") as file:
            rows = csv.DictReader(file)
            names = rows.fieldnames or []
            if not fit(set(names)):
                raise CorpusError(path, f"the columns {', '.join(names) or '(none)'}", expected, remedy)
            for row in rows:
                yield rows.line_num, row
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise CorpusError(path, f"no readable CSV file ({error})", expected, remedy) from error
