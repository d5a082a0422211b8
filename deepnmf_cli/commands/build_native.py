"""`deepnmf build-native`: the machine code of `--backend native`."""

import click

from deepnmf_cli.commands import console
from deepnmf_cli.commands.options import quiet_option
from deepnmf_cli.errors import EXIT_DONE


@click.command()
@quiet_option
def command(quiet: bool) -> int:
    """Compile the machine code that computes models such as tiny, base and large several times as quickly.

    The source code comes with this program. It needs a C compiler (cc, gcc, clang, or what the variable CC names), and
    what that makes is put into `deepnmf` of the folder XDG_CACHE_HOME, or of .cache in the home folder. There
    `enhance`, `stream` and `evaluate` find it; delete it to undo that. Another version of the program needs it anew.
    Results are those of ONNX Runtime to 1e-5.

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
