"""`deepnmf inspect`: look into a recording, a model, or what a model makes of a recording layer by layer."""

from contextlib import suppress
from pathlib import Path

import click

from deepnmf_cli import extras
from deepnmf_cli.checkpoint import atomic_path
from deepnmf_cli.commands import console
from deepnmf_cli.commands.options import overwrite_option, quiet_option, stretch_of
from deepnmf_cli.errors import EXIT_DONE, DeepnmfError, UsageError

LONGEST_S = 20.0
"""Length of the part of a recording that is inspected unless --seconds says otherwise."""

SUFFIXES = (".html", ".png")


@click.command()
@click.argument("recording", required=False, type=click.Path(path_type=Path))
@click.option(
    "--model", metavar="NAME|FILE",
    help="The model to inspect: a name of `deepnmf models`, or a .safetensors file that `deepnmf train` wrote.",
)  # fmt: skip
@click.option(
    "-o", "--output", metavar="FILE", type=click.Path(path_type=Path),
    show_default="a page, named after the recording or the model, in the current folder",
    help="The file to write: .html for a page with pictures and sounds, .png for the pictures alone.",
)  # fmt: skip
@click.option(
    "--seconds", metavar="START:END", show_default=f"the first {LONGEST_S:g} s",
    help="The part of the recording to inspect; either number may be left out.",
)  # fmt: skip
@overwrite_option
@quiet_option
def command(
    recording: Path | None,
    model: str | None,
    output: Path | None,
    seconds: str | None,
    overwrite: bool,
    quiet: bool,
) -> int:
    """Inspect a recording, a model, or both.

    For a RECORDING: spectrograms and sounds of the recording, of what the model keeps and of what it removes; the mask;
    levels over time; the estimated SNR, the bandwidth, clipping. With --model also the estimate after every layer as
    picture and sound, the activations of models with atoms, and what the units of a grid respond to. For a --model
    alone: its structure and its atoms.

    \b
    Examples:
      deepnmf inspect noisy.wav
      deepnmf inspect noisy.wav --model deep-nmf -o layers.html
      deepnmf inspect --model deep-nmf -o atoms.png

    Exit code: 0 done, 1 failed, 2 wrong usage, 130 interrupted.
    """
    if recording is None and model is None:
        expected = "a recording, --model NAME, or both"
        raise UsageError("deepnmf inspect", "nothing to look into", expected, "Name one of them.")
    if seconds is not None and recording is None:
        raise UsageError(
            "--seconds", "no recording", "a recording with that part", "Name one, or leave the option out."
        )
    stretch = _stretch(seconds)
    stem = recording.stem if recording else Path(str(model)).stem
    target = output or Path(f"{stem}.inspect.html")
    if target.suffix.lower() not in SUFFIXES:
        expected = f"a name that ends in {' or '.join(SUFFIXES)}"
        raise UsageError(target, "another suffix", expected, "Change the name.")
    if target.exists() and not overwrite:
        raise UsageError(target, "a file of that name", "a new name", "Choose another with -o, or pass --overwrite.")
    extras.require("inspect", "deepnmf inspect")
    from deepnmf_cli.inspector import panels

    title, sections = _sections(recording, model, stretch)
    page = target.suffix.lower() == ".html"
    if not page and not any(section.panels for section in sections):
        expected = "something to draw: a recording, or a model with atoms"
        raise UsageError(target, "a model of which there are numbers only", expected, "Name a recording too.")
    content = panels.html(title, sections).encode() if page else panels.png(title, sections)
    try:
        with atomic_path(target) as partial:
            partial.write_bytes(content)
    except OSError as error:
        found = f"that it cannot be written ({error.strerror})"
        raise DeepnmfError(target, found, "a place for the page", "Choose another with -o.") from error
    if not quiet:
        console.say(f"Wrote {target}, {console.size(len(content))}.")
    return EXIT_DONE


def _sections(recording: Path | None, model: str | None, stretch: tuple[float, float]) -> tuple[str, list]:
    """Return the title and the sections of the inspection."""
    from deepnmf_cli import zoo
    from deepnmf_cli.inspector import recording as recordings
    from deepnmf_cli.scoring.pairing import printable

    if model is None:
        enhancer, info = zoo.load_described(zoo.find(None))
        heard, rate_hz, facts = _heard(recording, stretch, enhancer)
        highest_hz = enhancer.front_end.rate_hz / 2
        name = printable(str(recording))
        facts |= {"model": info.name}
        return name, [recordings.section(heard, rate_hz, highest_hz, "The recording", facts)]

    extras.require("torch", "deepnmf inspect --model")
    from deepnmf_cli.inspector import model as models
    from deepnmf_cli.inspector.panels import Section

    network, file = zoo.load(model)
    inspected = models.Inspected(network, file.front_end)
    name = printable(model)
    sections = [Section("The model", facts=models.facts(inspected)), models.atom_section(inspected)]
    if recording is not None:
        heard, rate_hz, facts = _heard(recording, stretch, inspected.enhancer)
        sections[:0] = [
            recordings.section(heard, rate_hz, inspected.highest_hz, "The recording", facts | {"model": name}),
            models.layers(inspected, heard, rate_hz),
        ]
        sections += [models.activations(inspected, heard), models.units(inspected, heard)]
        name = f"{printable(str(recording))} through {name}"
    return name, [section for section in sections if section is not None]


def _heard(recording: Path | None, stretch: tuple[float, float], enhancer) -> tuple:
    """Return what the enhancer makes of the stretch, its rate, and facts about the file."""
    from deepnmf_cli.inspector import recording as recordings
    from deepnmf_cli.signal import audio

    assert recording is not None
    samples, info = audio.read_stretch(recording, *stretch)
    rate_hz = info.rate_hz
    shown = samples.shape[1] / rate_hz
    facts = {
        "file": f"{info.seconds:.2f} s, {info.channels} channel(s) at {rate_hz} Hz, {info.container} {info.subtype}",
    }
    if shown < info.seconds:
        facts["shown"] = f"{shown:.2f} s from {stretch[0]:g} s on"
    return recordings.hear(enhancer, samples, rate_hz), rate_hz, facts


def _stretch(text: str | None) -> tuple[float, float]:
    """Return where the part to inspect begins and ends. Raises UsageError for a text that is not START:END."""
    if text is None:
        return 0.0, LONGEST_S
    with suppress(ValueError):
        if found := stretch_of(text):
            start, end = found
            return start, start + LONGEST_S if end is None else end
    expected = "START:END in seconds, as in 10:20"
    raise UsageError("--seconds", f"{text!r}", expected, "Correct it.")
