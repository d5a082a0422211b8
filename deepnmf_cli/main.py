"""The `deepnmf` command: a group that loads each subcommand only when it is asked for."""

import errno
import signal
import sys
from importlib import import_module

import click

from deepnmf_cli import __version__
from deepnmf_cli.errors import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_TERMINATED, DeepnmfError

REMEDIES = {
    errno.ENOSPC: "Free some space, then repeat.",
    errno.EDQUOT: "Free some space, then repeat.",
    errno.ENAMETOOLONG: "Choose a shorter name.",
}
"""What helps against errors of the system, where it is not the path."""

COMMANDS = {
    "enhance": "Remove the noise from recordings.",
    "evaluate": "Score enhanced recordings, or models, against clean references.",
    "export": "Write a model as an ONNX file.",
    "models": "List the models that ship with the program.",
    "stream": "Remove the noise from sound while it comes in.",
    "train": "Train a model on folders of speech and noise.",
}
"""Name -> one line of help. Kept here so that `deepnmf --help` imports none of the commands."""


class LazyGroup(click.Group):
    """A click group whose commands live in `deepnmf_cli.commands.<name>` as the function `command`."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        return import_module(f"deepnmf_cli.commands.{name}").command if name in COMMANDS else None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(sorted(COMMANDS.items()))


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="deepnmf")
def main() -> None:
    """Enhance noisy speech with networks made by deep unfolding.

    \b
    Try:
      deepnmf enhance noisy.wav -o clean.wav
      deepnmf train --speech speech/ --noise noise/ -o run/
      deepnmf evaluate --reference clean/ --estimate enhanced/
    """


def run(arguments: list[str] | None = None) -> None:
    """Entry point of the installed program: every expected error becomes one message and its exit code.

    A closed pipe (`deepnmf ... | head`) is click's business: it ends the program silently with code 1.
    """
    # An orderly end when told to terminate: temporary files are removed on the way out.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(EXIT_TERMINATED))
    try:
        code = main.main(args=arguments, prog_name="deepnmf", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("Interrupted.", err=True)
        code = EXIT_INTERRUPTED
    except DeepnmfError as error:
        click.echo(f"Error: {error}", err=True)
        code = error.exit_code
    except OSError as error:
        # The last net, for a disk that fills up or a folder that disappears in the middle of the work.
        remedy = REMEDIES.get(error.errno, "Mend the path or its permissions, then repeat.")
        click.echo(f"Error: {error.filename or 'system'}: {error.strerror}. {remedy}", err=True)
        code = EXIT_FAILED
    sys.exit(code)


if __name__ == "__main__":
    run()
