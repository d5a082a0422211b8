"""`deepnmf help`."""

import click

from deepnmf_cli.errors import EXIT_DONE


@click.command()
@click.argument("words", metavar="[COMMAND]", nargs=-1)
@click.pass_context
def command(context: click.Context, words: tuple[str, ...]) -> int:
    """Show the help of the program, or that of a command.

    \b
    Examples:
      deepnmf help
      deepnmf help enhance
    """
    parent = context.parent
    assert parent is not None and isinstance(parent.command, click.Group)  # the program is a group
    if not words:
        click.echo(parent.get_help())
        return EXIT_DONE
    name, found, _ = parent.command.resolve_command(parent, list(words))
    assert found is not None  # an unknown one raises an error
    click.echo(found.get_help(click.Context(found, parent, name)))
    return EXIT_DONE
