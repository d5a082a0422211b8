"""`deepnmf models`: what ships with the program, and how good it is."""

from typing import TYPE_CHECKING, Any

import click

from deepnmf_cli.commands import console
from deepnmf_cli.commands.options import json_option
from deepnmf_cli.errors import EXIT_DONE

if TYPE_CHECKING:
    from deepnmf_cli.zoo import ModelInfo

SCORES = ("SDR", "SI-SDR", "PESQ", "ESTOI")
"""The columns of scores, means over the test mixtures of the model's report."""


@click.command()
@json_option
def command(as_json: bool) -> int:
    """List the models that ship with the program.

    Scores are means over the test mixtures that the model's card describes: SDR and SI-SDR in dB, PESQ in MOS points,
    ESTOI from 0 to 1. Higher is better. The model marked * is the default of --model.

    \b
    Examples:
      deepnmf models
      deepnmf models --json
    """
    from deepnmf_cli import zoo

    models = zoo.available()
    if as_json:
        console.echo_json([_row(model) for model in models])
    else:
        header = ["model", "parameters", "multiply-adds/s", *SCORES, "description"]
        click.echo(console.table(header, [_cells(model) for model in models]))
    return EXIT_DONE


def _row(model: "ModelInfo") -> dict[str, Any]:
    return {
        "name": model.name,
        "default": model.default,
        "description": model.description,
        "path": str(model.path),
        "parameters": model.parameters,
        "macs_per_s": model.macs_per_s,
        "figures": model.figures,
    }


def _cells(model: "ModelInfo") -> list[str]:
    from deepnmf_cli.scoring.metrics import METRICS

    figures = [f"{model.figures[name]:.{METRICS[name].digits}f}" if name in model.figures else "-" for name in SCORES]
    name = f"{model.name} *" if model.default else model.name
    return [name, _magnitude(model.parameters), _magnitude(model.macs_per_s), *figures, model.description]


def _magnitude(number: float) -> str:
    """Three digits with a unit: 950, 1.35 M, 12.3 G."""
    for power, unit in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if number >= power:
            return f"{number / power:.3g}{unit}"
    return f"{number:.3g}"
