"""`deepnmf build-native`: the machine code of `--backend native`."""

import click

from deepnmf_cli.commands import console
from deepnmf_cli.commands.options import quiet_option
from deepnmf_cli.errors import EXIT_DONE


@click.command()
@quiet_option
def command(quiet: bool) -> int:
    """Compile a library that runs models such as tiny, base and large several times as fast.

    The source code ships with this program; it needs a C compiler (cc, gcc, clang, or the one that the variable CC
    names). The library is stored in the folder `deepnmf` below XDG_CACHE_HOME, or below ~/.cache, where `enhance`,
    `stream` and `evaluate` find it. Delete it to undo this. Each version of the program needs its own. Results agree
    with those of ONNX Runtime to 1e-5.

    \b
    Examples:
      deepnmf build-native
      deepnmf build-native -q

    Exit code: 0 done, 1 failed (no compiler, one that fails, a folder that cannot be written), 2 wrong usage, 130
    interrupted.
    """
    from deepnmf_cli.native import library

    path = library.build()
    if not quiet:
        console.say(f"Wrote {path}, {path.stat().st_size / 1000:.0f} kB. --backend auto uses it from now on.")
    return EXIT_DONE
