"""Several packs as one, for a machine that they reach one by one: join_packs.py OUTPUT PACK PACK...

OUTPUT must not exist. It has all pieces, and the dev pairs of the packs; names get the number of the pack before them.
"""

import csv
import shutil
import sys
from pathlib import Path

from deepnmf_cli.corpus.pack import COLUMNS, INDEX, verify, write_sums


def join(output: Path, packs: list[Path]) -> None:
    output.mkdir()
    rows = []
    for number, pack in enumerate(packs):
        with verify(pack).open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                piece = Path(row["path"])
                row["path"] = f"{piece.parent}/{number}-{piece.name}"
                (output / piece.parent).mkdir(exist_ok=True)
                shutil.copyfile(pack / piece, output / row["path"])
                rows.append(row)
        for pair in (pack / "dev").rglob("*.flac"):
            (output / "dev" / pair.parent.name).mkdir(parents=True, exist_ok=True)
            shutil.copyfile(pair, output / "dev" / pair.parent.name / f"{number}-{pair.name}")
    with (output / INDEX).open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    write_sums(output)


if __name__ == "__main__":
    join(Path(sys.argv[1]), [Path(pack) for pack in sys.argv[2:]])
