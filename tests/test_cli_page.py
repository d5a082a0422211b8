"""docs/cli.md has every option of every command, as `python docs/cli.py` writes them."""

import importlib.util
import re
from pathlib import Path

import click
import pytest

from deepnmf_cli.commands.group import COMMANDS, main

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "cli.md").read_text("utf-8")


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("cli_page", ROOT / "docs" / "cli.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_up_to_date(script):
    assert script.page(PAGE) == PAGE, "Run: python docs/cli.py"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_stands_on_the_page(name):
    section = re.search(rf"^## deepnmf {name}\n(.*?)^## ", PAGE, re.DOTALL | re.MULTILINE)[1]
    for option in main.get_command(click.Context(main), name).params:
        if isinstance(option, click.Option) and not option.hidden:
            assert all(word in section for word in option.opts), option.opts


def test_options_that_change_are_written_anew_and_prose_stays(script, monkeypatch):
    models = main.get_command(click.Context(main), "models")
    more = [*models.params, click.Option(["--new"], metavar="A|B", help="What is\n new.")]
    monkeypatch.setattr(models, "params", more)
    changed = script.page(PAGE)
    assert changed.replace("| `--new A\\|B` | What is new. |\n", "") == PAGE != changed


def test_a_command_that_the_page_lacks_gets_a_section(script):
    without = re.sub(r"^## deepnmf models\n.*?(?=^## )", "", PAGE, flags=re.DOTALL | re.MULTILINE)
    assert "## deepnmf models\n\nList the models" not in without
    written = script.page(without)
    assert "## deepnmf models\n\nList the models" in written and script.page(written) == written
