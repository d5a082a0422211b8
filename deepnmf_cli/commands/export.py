"""`deepnmf export`: a model as an ONNX file, or as a library in C."""

from pathlib import Path

import click

from deepnmf_cli.checkpoint import make_folder
from deepnmf_cli.commands import console
from deepnmf_cli.commands.options import overwrite_option, quiet_option
from deepnmf_cli.errors import EXIT_DONE, UsageError


@click.command()
@click.argument("model", metavar="MODEL")
@click.option(
    "-o", "--output", metavar="FILE|FOLDER", type=click.Path(path_type=Path),
    show_default="beside the weights, where `enhance` finds it",
    help="The file to write, ending in .onnx; for C the folder for the three files.",
)  # fmt: skip
@click.option(
    "--format", "kind", type=click.Choice(["onnx", "c"]), default="onnx", show_default=True,
    help="c writes deepnmf.c, deepnmf.h and the weights: from waveform to waveform, with no dependencies. For grid"
    " models such as tiny, base and large.",
)  # fmt: skip
@click.option(
    "--streaming", is_flag=True,
    help="One frame per call: about three times as fast for live sound.",
)  # fmt: skip
@click.option(
    "--weights", type=click.Choice(["float32", "float16", "int8"]), default="float32", show_default=True,
    help="How matrices are stored. Fewer bits make the file smaller, not faster, and change the output a little.",
)  # fmt: skip
@click.option(
    "--share-weights", is_flag=True,
    help="Leave the weights in the .safetensors file, which must stay beside the new file: one copy for all graphs.",
)  # fmt: skip
@overwrite_option
@quiet_option
def command(
    model: str,
    output: Path | None,
    kind: str,
    streaming: bool,
    weights: str,
    share_weights: bool,
    overwrite: bool,
    quiet: bool,
) -> int:
    """Write a model as an ONNX file, which runs without torch and from other languages, or as a C library.

    MODEL is a name of `deepnmf models`, or a .safetensors file that `deepnmf train` wrote. The ONNX graph takes
    magnitudes (1, F, T) and states, and returns masks (1, 2, F, T), speech first, and the next states. Graphs of models
    that use phase, such as base, take features (1, 5, F, T) and return masks (1, 3, F, T). The transforms from waveform
    to spectra and back are not part of the graph; docs/export.md has details and examples. The written file is compared
    with the model and rejected if a mask differs by more than 1e-5, with weights of fewer bits by more than 0.1.

    \b
    Examples:
      deepnmf export base --streaming -o base.streaming.onnx
      deepnmf export base --format c -o denoise/
      deepnmf export tiny --format c --weights int8 -o denoise-small/

    Exit code: 0 done, 1 failed, 2 wrong usage, 130 interrupted.
    """
    from deepnmf_cli import zoo

    source = zoo.find(model)
    if kind == "c":
        given = {"--streaming": streaming, "--share-weights": share_weights, "--weights float16": weights == "float16"}
        of_onnx = [option for option, is_given in given.items() if is_given]
        _write_c(model, output, weights, of_onnx, overwrite, quiet)
        return EXIT_DONE
    suffix = zoo.EXPORTED_STREAMING if streaming else zoo.EXPORTED
    target = output or source.with_suffix(suffix)
    if target.suffix != zoo.EXPORTED:
        raise UsageError(target, "another suffix", f"a name that ends in {zoo.EXPORTED}", "Change the name.")
    if target.exists() and not overwrite:
        raise UsageError(target, "a file of that name", "a new name", "Choose another, or pass --overwrite.")
    make_folder(target.parent, "the file", UsageError)
    difference = zoo.export(model, target, streaming, weights, share_weights)
    if not quiet:
        size = target.stat().st_size / 1000
        console.say(f"Wrote {target}, {size:.0f} kB. Its masks are those of the model to {difference:.0e}.")
    return EXIT_DONE


def _write_c(model: str, folder: Path | None, weights: str, of_onnx: list[str], overwrite: bool, quiet: bool) -> None:
    from deepnmf_cli import extras, zoo

    extras.require("torch", "deepnmf export --format c")
    from deepnmf_cli.export.c_library import FILES, write

    if folder is None:
        raise UsageError("--format c", "no -o", "the folder for the library", "Name one.")
    if of_onnx:
        raise UsageError("--format c", " and ".join(of_onnx), "no option that is for ONNX alone", "Leave it out.")
    if folder.exists() and not folder.is_dir():
        raise UsageError(folder, "a file", "a folder", "Choose another name.")
    if not overwrite and (there := [folder / name for name in FILES if (folder / name).exists()]):
        raise UsageError(there[0], "a file of that name", "a new name", "Choose another folder, or pass --overwrite.")
    network, file = zoo.load(model)
    written = write(network, file.front_end, model, folder, weights)
    if not quiet:
        size = sum(path.stat().st_size for path in written) / 1000
        console.say(f"Wrote {', '.join(path.name for path in written)} to {folder}, {size:.0f} kB of text.")
