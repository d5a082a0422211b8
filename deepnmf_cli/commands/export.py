"""`deepnmf export`: a model as an ONNX file."""

from pathlib import Path

import click

from deepnmf_cli.commands import console
from deepnmf_cli.commands.options import overwrite_option, quiet_option
from deepnmf_cli.errors import EXIT_DONE, UsageError


@click.command()
@click.argument("model", metavar="MODEL")
@click.option(
    "-o", "--output", metavar="FILE", type=click.Path(path_type=Path),
    show_default="beside the weights, where `enhance` finds it", help="The file to write, ending in .onnx.",
)  # fmt: skip
@click.option(
    "--streaming", is_flag=True,
    help="For a single frame at a time: three times as quick for sound that comes in as it is spoken.",
)  # fmt: skip
@click.option(
    "--weights", type=click.Choice(["float32", "float16", "int8"]), default="float32", show_default=True,
    help="How matrices are stored: fewer bits make the file smaller, not faster, and differ a little from the model.",
)  # fmt: skip
@click.option(
    "--share-weights", is_flag=True,
    help="Leave the weights in the .safetensors file, beside which the new file must lie: one copy for all graphs.",
)  # fmt: skip
@overwrite_option
@quiet_option
def command(
    model: str,
    output: Path | None,
    streaming: bool,
    weights: str,
    share_weights: bool,
    overwrite: bool,
    quiet: bool,
) -> int:
    """Write a model as an ONNX file, which runs without torch, and in other languages.

    MODEL is a name of `deepnmf models`, or a .safetensors file that `deepnmf train` wrote. The graph takes magnitudes
    (1, F, T) and states and gives masks (1, 2, F, T), speech first, and the next states; graphs of models that use
    phase, such as base, take features (1, 5, F, T) and give masks (1, 3, F, T). The transform from waveform to spectra
    and back stays outside. docs/export.md describes it all and has examples. The written file is compared with the
    model, and refused if a mask differs by more than 1e-5 (float32 weights).

    \b
    Examples:
      deepnmf export base --streaming -o base.streaming.onnx

    Exit code: 0 done, 1 failed, 2 wrong usage, 130 interrupted.
    """
    from deepnmf_cli import zoo

    source = zoo.find(model)
    suffix = zoo.EXPORTED_STREAMING if streaming else zoo.EXPORTED
    target = output or source.with_suffix(suffix)
    if target.suffix != zoo.EXPORTED:
        raise UsageError(target, "another suffix", f"a name that ends in {zoo.EXPORTED}", "Change the name.")
    if target.exists() and not overwrite:
        raise UsageError(target, "a file of that name", "a new name", "Choose another, or pass --overwrite.")
    difference = zoo.export(model, target, streaming, weights, share_weights)
    if not quiet:
        size = target.stat().st_size / 1000
        console.say(f"Wrote {target}, {size:.0f} kB. Its masks are those of the model to {difference:.0e}.")
    return EXIT_DONE
