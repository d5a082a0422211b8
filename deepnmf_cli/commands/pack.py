"""`deepnmf pack`."""

import math
import re
import sys
from pathlib import Path

import click

from deepnmf_cli.commands import console
from deepnmf_cli.errors import EXIT_DONE

FOLDER = click.Path(path_type=Path)

UNITS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "ki": 2**10, "Mi": 2**20, "Gi": 2**30}


class Size(click.ParamType):
    """A number of bytes, such as 40MB."""

    name = "SIZE"

    def convert(self, value: str | int, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        match = re.fullmatch(r"(\d+(?:\.\d+)?) ?([kKMG]i?|)B?", value)
        size = float(match[1]) * UNITS[match[2].replace("K", "k")] if match else 0.0
        if not 1 <= size < math.inf:
            self.fail(f"{value!r} is no size. Write for example 40MB, 38MiB or 500kB.", param, ctx)
        return int(size)


class Part(click.ParamType):
    """One of several parts, such as 2/3."""

    name = "I/N"

    def convert(self, value: str | tuple, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        if isinstance(value, tuple):
            return value
        match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", value)
        if match is None or not 1 <= int(match[1]) <= int(match[2]):
            self.fail(f"{value!r} is no part. Write for example 1/2 for the first of two.", param, ctx)
        return int(match[1]), int(match[2])


@click.command()
@click.argument("corpora", metavar="CORPUS...", nargs=-1, required=True, type=FOLDER)
@click.option("-o", "--output", type=FOLDER, required=True, help="Folder to write; must be new or empty.")
@click.option("--max-size", type=Size(), default="40MB", show_default=True, help="Largest total size of its files.")
@click.option("--dev", type=FOLDER, help="Folder with clean/ and noisy/; pairs that fit into 15 % of the pack join it.")
@click.option(
    "--part", type=Part(), default="1/1", show_default=True,
    help="Take only every N-th recording, starting with the I-th, to make N packs that share no recording.",
)  # fmt: skip
@click.option(
    "--rate", "rate_hz", metavar="HZ", type=int, default=16000, show_default=True, help="Sampling rate of the pieces."
)
def command(
    corpora: tuple[Path, ...], output: Path, max_size: int, dev: Path | None, part: tuple[int, int], rate_hz: int
) -> int:
    """Pack as much of a corpus as fits into a given size, to train on it elsewhere.

    CORPUS is a folder with speech/, noise/, and optionally rooms/ or rir/, or a manifest (CSV). Speakers take turns,
    and so do kinds of noise, so that even a small pack holds many of them. Pieces of at most 15 s are encoded at 22 to
    31 kbit/s, speech in Opus and noise in Vorbis; room responses and dev pairs stay lossless. `deepnmf train --pack`
    reads the pack on any machine.

    Exit code: 0 done, 1 failed, 2 wrong usage, 130 interrupted.

    \b
    Examples:
      deepnmf pack . -o small/ --max-size 1MB
      deepnmf pack . -o scored/ --max-size 4MB --dev pairs/
    """
    from tqdm import tqdm

    from deepnmf_cli.corpus import inspection
    from deepnmf_cli.corpus.pack import pack

    def say(sentence: str, warning: bool) -> None:
        (console.warn if warning else console.say)(sentence)

    shown = sys.stderr.isatty()
    with tqdm(total=max_size, unit="B", unit_scale=True, file=sys.stderr, disable=not shown, leave=False) as bar:

        def show(size: int) -> None:
            bar.update(size - bar.n)

        packed = pack(corpora, output, max_size, rate_hz, dev, part, say, show)
    for role, group in (("speech", "speaker"), ("noise", "kind")):
        pieces = packed.pieces[role]
        groups = console.count(len({piece.clip.group for piece in pieces}), group)
        length = inspection.duration(sum(piece.seconds for piece in pieces))
        console.say(f"{role}: {console.count(len(pieces), 'piece')}, {groups}, {length}")
    rooms, pairs = console.count(len(packed.pieces["rir"]), "response"), console.count(packed.pairs, "pair")
    console.say(f"rooms: {rooms}; dev: {pairs}")
    console.announce(f"Pack: {output} ({console.size(packed.bytes)})")
    return EXIT_DONE
