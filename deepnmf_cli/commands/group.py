"""The `deepnmf` command: a group that loads each subcommand only when it is asked for."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import Any

import click

from deepnmf_cli import __version__
from deepnmf_cli.checkpoint import temporary_folder
from deepnmf_cli.errors import UsageError, nearest

COMMANDS = {
    "build-native": "Compile the library for --backend native.",
    "enhance": "Remove noise from recordings.",
    "evaluate": "Score enhanced recordings, or models, against clean references.",
    "export": "Write a model as an ONNX file, or as a C library.",
    "help": "Show this help, or the help of a command.",
    "inspect": "Inspect a recording or a model: spectrograms, mask, layers, atoms, units.",
    "models": "List the models that ship with the program.",
    "pack": "Pack as much of a corpus as fits into a given size, to train on it elsewhere.",
    "repair": "Fill gaps, remove clicks, and restore clipped sound.",
    "stream": "Remove noise from sound as it arrives.",
    "train": "Train a model on folders of speech and noise.",
}
"""Name -> one line of help. Kept here so that `deepnmf --help` imports none of the commands."""

CACHING = {"evaluate", "export", "inspect", "train"}
"""Commands that draw figures, train or trace a network, with libraries that leave caches."""

CACHES = {"MPLCONFIGDIR": "matplotlib", "XDG_CACHE_HOME": "cache", "TORCHINDUCTOR_CACHE_DIR": "torch"}
"""Environment variable that says where a cache goes -> name of a folder: lists of fonts (matplotlib and fontconfig),
and code that torch compiles."""


def variable(command: str, option: click.Option) -> str:
    """Return the environment variable that stands for an option: DEEPNMF_ENHANCE_MODEL for --model of enhance."""
    longest = max(option.opts, key=len).lstrip("-")
    return f"deepnmf_{command}_{longest}".replace("-", "_").upper()


def refuse_empty(parameter: click.Parameter) -> None:
    """Make a parameter raise UsageError for an empty value, such as that of a variable that a script has not set: as a
    path it would be the current folder.
    """
    convert = type(parameter).type_cast_value

    def checked(ctx: click.Context, value: Any) -> Any:
        if "" in (value if isinstance(value, (tuple, list)) else (value,)):
            name = parameter.make_metavar(ctx) if isinstance(parameter, click.Argument) else parameter.opts[-1]
            raise UsageError(name, "an empty value", "a name or a number", "Check the variable it came from.")
        return convert(parameter, ctx, value)

    parameter.type_cast_value = checked


class LazyGroup(click.Group):
    """A click group whose commands live in `deepnmf_cli.commands.<name>` as the function `command`."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(COMMANDS)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in COMMANDS and not args[0].startswith("-"):
            remedy = nearest(args[0], COMMANDS, "See `deepnmf help`.")
            raise click.UsageError(f"No such command {args[0]!r}. {remedy}", ctx)
        return super().resolve_command(ctx, args)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        command = import_module(f"deepnmf_cli.commands.{name.replace('-', '_')}").command
        for parameter in command.params:
            refuse_empty(parameter)
            if isinstance(parameter, click.Option):
                parameter.envvar = variable(name, parameter)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(sorted(COMMANDS.items()))


VARIABLES = "DEEPNMF"
"""Prefix of the environment variables that stand for options: DEEPNMF_ENHANCE_MODEL."""


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "auto_envvar_prefix": VARIABLES})
@click.version_option(__version__, "-V", "--version", prog_name="deepnmf", allow_from_autoenv=False)
@click.pass_context
def main(context: click.Context) -> None:
    """Enhance noisy speech with networks made by deep unfolding.

    \b
    Try:
      deepnmf enhance noisy.wav
      deepnmf train --speech speech/ --noise noise/ -o run/
      deepnmf evaluate --reference clean/ --estimate enhanced/
    """
    if context.invoked_subcommand in CACHING:
        context.with_resource(temporary_caches())


def call(arguments: list[str] | None) -> int:
    """Run the command line (None: that of the process) and return its exit code. Raises whatever stops a command.

    A closed pipe (`deepnmf ... | head`) is handled by click, which ends the program silently with code 1.
    """
    try:
        return main.main(args=arguments, prog_name="deepnmf", standalone_mode=False) or 0
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except click.Abort as error:  # what click makes of Ctrl-C, and of the end of a file
        raise error.__cause__ or KeyboardInterrupt from None


@contextmanager
def temporary_caches() -> Iterator[None]:
    """Let libraries keep their caches in a folder that is removed, unless the user has named one, so that nothing but
    the outputs is left on the disk.
    """
    before = {name: os.environ.get(name) for name in CACHES}
    with temporary_folder() as folder:
        (folder / CACHES["XDG_CACHE_HOME"]).mkdir()  # PyTorch makes its own only in a folder that exists
        if not before["XDG_CACHE_HOME"]:
            _keep_native(folder)
        os.environ.update({name: os.path.join(folder, CACHES[name]) for name, value in before.items() if not value})
        try:
            yield
        finally:
            for name, value in before.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value


def _keep_native(folder: Path) -> None:
    """Make the code that `deepnmf build-native` compiled available in the temporary caches too."""
    from deepnmf_cli.native.library import cache_folder

    with suppress(OSError, RuntimeError):  # there is no cache folder, or the system has no links
        made = cache_folder()
        if made.is_dir():
            (folder / CACHES["XDG_CACHE_HOME"] / made.name).symlink_to(made.absolute())
