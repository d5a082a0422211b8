"""The program itself: quick to start, clear about mistakes."""

import os
import subprocess
import sys
from pathlib import Path

import click
import pytest

import deepnmf_cli
from deepnmf_cli.commands.group import COMMANDS, main
from deepnmf_cli.errors import EXIT_FAILED, EXIT_USAGE

ROOT = Path(__file__).parents[2]


def test_version(deepnmf):
    assert deepnmf("--version").out.decode() == f"deepnmf, version {deepnmf_cli.__version__}\n"


def test_help_lists_every_command(deepnmf):
    text = deepnmf("--help").out.decode()
    assert all(f"  {name} " in text for name in COMMANDS)
    assert deepnmf("-h").out.decode() == text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["enhanse"], "No such command 'enhanse'. Did you mean 'enhance'?"),
        (["xyz"], "No such command 'xyz'. See `deepnmf help`."),
        (["enhance"], "Missing argument 'INPUT...'"),
        (["enhance", "x.wav", "-o", "y.wav", "--device", "abacus"], "'abacus' is not one of"),
        (["enhance", "x.wav", "-o", "y.wav", "--max-attenuation", "-3"], "x>=0"),
        (["enhance", "x.wav", "-o", "y.wav", "--max-attenuation", "nan"], "'--max-attenuation': nan is not a number"),
        (["stream", "--block", "nan"], "'--block': nan is not a number"),
        (["stream", "--repair", "--longest-gap", "nan"], "'--longest-gap': nan is not a number"),
        (["train", "--minutes", "nan", "-o", "run"], "'--minutes': nan is not a number"),
        (["train", "--minutes", "inf", "-o", "run"], "'--minutes': inf is not finite"),
    ],
)
def test_wrong_usage_exits_with_two(deepnmf, arguments, message):
    result = deepnmf(*arguments)
    assert result.code == EXIT_USAGE and message in result.err and result.out == b""


@pytest.mark.parametrize("value", ["0.3.0", "1"])
def test_a_variable_for_the_version_is_that_of_somebody_else(deepnmf, monkeypatch, value):
    monkeypatch.setenv("DEEPNMF_VERSION", value)
    result = deepnmf("models")
    assert result.code == 0 and b"multiply-adds" in result.out


def values(command):
    """Pairs of what comes before a value on the command line, and what an error calls it."""
    for parameter in main.get_command(click.Context(main), command).params:
        if isinstance(parameter, click.Argument):
            yield [], parameter.make_metavar(click.Context(main))
        elif not (parameter.is_flag or parameter.is_eager):
            yield [parameter.opts[0]], parameter.opts[-1]


@pytest.mark.parametrize("command", COMMANDS)
def test_no_command_takes_an_empty_value(deepnmf, tmp_path, monkeypatch, command):
    """A script gives one where a variable is not set; as a path it would be the current folder."""
    monkeypatch.chdir(tmp_path)
    for before, name in values(command):
        result = deepnmf(command, *before, "")
        assert result.code == EXIT_USAGE and not result.out, name
        assert result.err.startswith(f"Error: {name}: found an empty value; expected a name or a number. Check"), name


@pytest.mark.parametrize(
    "arguments",
    [["enhance", "--in-place", ""], ["enhance", "noisy.wav", "", "--in-place"], ["repair", "", "--in-place"],
     ["enhance", "noisy.wav", "--output="], ["enhance", "file://", "--in-place"],
     ["enhance", "noisy.wav", "-o", "local://"], ["evaluate", "--estimate", "a", "--estimate", ""]],
)  # fmt: skip
def test_an_empty_path_is_not_the_current_folder(deepnmf, tmp_path, monkeypatch, arguments):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    Path("noisy.wav").write_bytes(b"mine")
    result = deepnmf(*arguments)
    assert result.code == EXIT_USAGE and result.err.count("\n") == 1
    assert [path.name for path in tmp_path.rglob("*")] == ["here", "noisy.wav"]
    assert Path("noisy.wav").read_bytes() == b"mine"


def test_an_unknown_model_is_named(deepnmf, tmp_path):
    result = deepnmf("enhance", "x.wav", "-o", tmp_path / "y.wav", "--model", "nonesuch")
    assert result.code == EXIT_FAILED
    assert result.err.startswith("Error: nonesuch: found no model") and "deepnmf models" in result.err


def test_a_reader_that_went_away_causes_no_traceback():
    reading, writing = os.pipe()
    os.close(reading)
    script = "from deepnmf_cli.main import run; run(['--help'])"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, stdout=writing, stderr=subprocess.PIPE)
    os.close(writing)
    assert (done.returncode, done.stderr) == (EXIT_FAILED, b"")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shell_completion_offers_the_commands(shell):
    script = "from deepnmf_cli.main import run; run()"
    environment = {"_DEEPNMF_COMPLETE": f"{shell}_complete", "COMP_WORDS": "deepnmf en", "COMP_CWORD": "1"}
    if shell == "fish":
        environment["COMP_CWORD"] = "en"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, env=environment)
    assert "enhance" in done.stdout
