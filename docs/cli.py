"""Write the usage, examples and options of every command into docs/cli.md: python docs/cli.py

The text between `<!-- options of NAME -->` and `<!-- end of options -->` is made from the commands themselves; the rest
of the page is prose and is kept. A command that the page does not have yet gets a section before the exit codes.
"""

import re
import sys
from pathlib import Path

import click

from deepnmf_cli.commands.group import COMMANDS, main

PAGE = Path(__file__).with_name("cli.md")
BLOCK = "<!-- options of {} -->\n{}<!-- end of options -->\n"
NEXT = "## Exit codes"


def page(text: str) -> str:
    """Return the page with all blocks replaced by those of the present commands."""
    context = main.make_context("deepnmf", [], resilient_parsing=True)
    for name in ("", *sorted(COMMANDS)):
        command = main.get_command(context, name) if name else main
        own = command.make_context(name, [], context, resilient_parsing=True) if name else context
        block = BLOCK.format(name or "deepnmf", described(command, own))
        pattern = re.compile(re.escape(BLOCK.format(name or "deepnmf", "\0")).replace("\0", ".*?"), re.DOTALL)
        if not pattern.search(text):
            text = text.replace(NEXT, f"## deepnmf {name}\n\n{COMMANDS[name]}\n\n{block}\n{NEXT}", 1)
        text = pattern.sub(lambda _: block, text, count=1)
    return text


def described(command: click.Command, context: click.Context) -> str:
    """Return the usage and examples of a command as a block of code, and a table of its options."""
    usage = " ".join(command.get_usage(context).removeprefix("Usage: ").split())
    records = [p.get_help_record(context) for p in command.get_params(context) if isinstance(p, click.Option)]
    rows = [f"| `{cell(names)}` | {prose(text)} |\n" for names, text in filter(None, records)]
    commands = [f"| [`deepnmf {name}`](#deepnmf-{name}) | {cell(COMMANDS[name])} |\n" for name in sorted(COMMANDS)]
    tables = [*([table("command", commands)] if command is main else []), table("option", rows)]
    return "\n```\n" + "\n".join([usage, *examples(command)]) + "\n```\n\n" + "".join(tables)


def table(of: str, rows: list[str]) -> str:
    return f"| {of} | meaning |\n|---|---|\n{''.join(rows)}\n"


def examples(command: click.Command) -> list[str]:
    """Return the lines below "Try:" or "Examples:" in the help of a command."""
    shown = re.search(r"^\s*(?:Try|Examples):\n((?:.*\S.*\n?)+)", command.help or "", re.MULTILINE)
    return ["", *map(str.strip, shown[1].strip().splitlines())] if shown else []


def cell(text: str) -> str:
    """Return the text in a form that a Markdown table can hold."""
    return " ".join(text.split()).replace("|", "\\|")


def prose(text: str) -> str:
    """Return the same for text outside of code, where brackets would be links."""
    return cell(text).replace("[", "\\[")


if __name__ == "__main__":
    written = page(PAGE.read_text("utf-8"))
    PAGE.write_text(written, "utf-8")
    sys.stdout.write(f"{PAGE}\n")
