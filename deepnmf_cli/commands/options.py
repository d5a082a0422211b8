"""Options that several commands share, so that they read and behave alike."""

import math

import click


def _refuse_nan(context: click.Context, option: click.Parameter, value: float | None) -> float | None:
    """A callback for numbers: comparisons with NaN are all false, so that click's ranges let it pass."""
    if value is not None and math.isnan(value):
        raise click.BadParameter("nan is not a number.", context, option)
    return value


model_option = click.option(
    "--model",
    metavar="NAME|FILE",
    help="A model of `deepnmf models`, or a .safetensors file that `deepnmf train` wrote.",
    show_default="the one marked * in `deepnmf models`",
)
device_option = click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="auto",
    show_default=True,
    help="Where the network runs; auto takes a GPU when there is one.",
)
backend_option = click.option(
    "--backend",
    type=click.Choice(["auto", "torch", "onnx"]),
    default="auto",
    show_default=True,
    help="What computes the network; auto takes the model's ONNX file on a CPU, if there is one, and torch elsewhere.",
)
max_attenuation_option = click.option(
    "--max-attenuation",
    "max_attenuation_db",
    metavar="DB",
    type=click.FloatRange(min=0),
    callback=_refuse_nan,
    show_default="no limit",
    help="Attenuate nothing by more than this, which leaves some noise and sounds more natural; 12 to 20 is common.",
)
mix_option = click.option(
    "--mix",
    metavar="SHARE",
    type=click.FloatRange(0, 1),
    callback=_refuse_nan,
    default=1.0,
    show_default=True,
    help="Share of the enhanced sound in the output, the rest being the input: 1 is all of it, 0.8 leaves some noise.",
)
overwrite_option = click.option("--overwrite", is_flag=True, help="Replace outputs that exist already.")
json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON document on standard output instead of text."
)
quiet_option = click.option("-q", "--quiet", is_flag=True, help="Show errors only: no progress bar, no summary.")
