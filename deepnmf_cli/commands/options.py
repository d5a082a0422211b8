"""Options that several commands share, so that they read and behave alike."""

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from deepnmf_cli.commands import console
from deepnmf_cli.errors import AudioError, UsageError

if TYPE_CHECKING:
    from deepnmf_cli.enhancer import Enhancer


def _refuse_nan(context: click.Context, option: click.Parameter, value: float | None) -> float | None:
    """A callback for numbers that refuses NaN: comparisons with it are all false, so click's ranges accept it."""
    if value is not None and math.isnan(value):
        raise click.BadParameter("nan is not a number.", context, option)
    return value


def refuse_endless(context: click.Context, option: click.Parameter, value: float | None) -> float | None:
    """A callback for numbers that must be finite."""
    if value is not None and math.isinf(value):
        raise click.BadParameter("inf is not finite.", context, option)
    return _refuse_nan(context, option, value)


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
    help="Where the network runs; auto uses a GPU if there is one.",
)
backend_option = click.option(
    "--backend",
    type=click.Choice(["auto", "native", "onnx", "torch"]),
    default="auto",
    show_default=True,
    help="What computes the network. On a CPU, auto uses the library that `deepnmf build-native` compiled if it can run"
    " the model, else the model's ONNX file if there is one, else torch; on a GPU it uses torch.",
)
max_attenuation_option = click.option(
    "--max-attenuation",
    "max_attenuation_db",
    metavar="DB",
    type=click.FloatRange(min=0),
    callback=_refuse_nan,
    show_default="no limit",
    help="Attenuate no sound by more than this. It leaves some noise and sounds more natural; 12 to 20 is common.",
)
mix_option = click.option(
    "--mix",
    metavar="SHARE",
    type=click.FloatRange(0, 1),
    callback=_refuse_nan,
    default=1.0,
    show_default=True,
    help="Share of the enhanced sound in the output; the rest is the input. 0.8 leaves some noise.",
)
DEPTH = click.IntRange(min=1)
depth_option = click.option(
    "--depth",
    metavar="K",
    type=DEPTH,
    show_default="all layers",
    help="Stop the network after its first K layers: faster, but removes less noise. Needs the backend torch or"
    " native.",
)
skip_existing_option = click.option(
    "--skip-existing", is_flag=True,
    help="Resume an interrupted run: skip files that are complete, and warn if the input, the model or an option has"
    " changed since. With --overwrite, redo those.",
)  # fmt: skip
overwrite_option = click.option("--overwrite", is_flag=True, help="Replace existing outputs.")
json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON document on standard output instead of text."
)
VERBOSE = {"is_flag": True, "help": "Log each step to standard error, and where the time goes."}
verbose_option = click.option("-v", "--verbose", **VERBOSE)


def _log(context: click.Context, option: click.Parameter, value: bool) -> None:
    if value:
        console.log()


logging_option = click.option("-v", "--verbose", **VERBOSE, expose_value=False, callback=_log)
"""The same for commands that do all their work in this process."""

TOGETHER, SEPARATE, AUTO = "together", "separate", "auto"
"""How the channels of a recording are enhanced: with one mask, each with its own, or as their coherence decides."""
quiet_option = click.option(
    "-q", "--quiet", is_flag=True, help="Print only errors and warnings: no progress bar, no summary."
)


LONGEST_S = 60.0
"""Longest part of a profile that is used."""

_STRETCH = re.compile(r"(\d*\.?\d*):(\d*\.?\d*)")


@dataclass(frozen=True)
class NoiseProfile:
    """Seconds `start_s` to `end_s` (None: the end) of `file`, or of each recording itself if that is None."""

    file: str | None
    start_s: float = 0.0
    end_s: float | None = None

    def teach(self, enhancer: "Enhancer", recording: str | Path, name: str) -> "Enhancer":
        """Return the enhancer with atoms for the noise. `name` stands for the recording in messages.

        Raises UsageError for a model without atoms, and AudioError for a stretch that is missing, too short or silent.
        """
        from deepnmf_cli.signal import audio

        source, name = (recording, name) if self.file is None else (self.file, self.file)
        end_s = self.start_s + LONGEST_S if self.end_s is None else min(self.end_s, self.start_s + LONGEST_S)
        samples, rate_hz = audio.read_stretch(source, self.start_s, end_s, name)
        if self.end_s is not None and self.end_s > (length_s := audio.info(source).seconds) + 0.5 / rate_hz:
            found, remedy = f"{length_s:.2f} s of audio", "Name seconds inside the recording."
            raise AudioError(name, found, f"noise up to {self.end_s:g} s, as --noise-profile says", remedy)
        try:
            return enhancer.with_noise(samples, rate_hz)
        except AudioError as error:
            raise AudioError(name, f"a noise profile of {error.found}", error.expected, error.remedy) from error


def parse(context: click.Context, option: click.Parameter, value: str | None) -> NoiseProfile | None:
    """A callback for the option: START:END in seconds, either of which may be left out, or the name of a file."""
    if value is None:
        return None
    match = _STRETCH.fullmatch(value)
    if match is None:
        return NoiseProfile(value)
    start, end = match.groups()
    try:
        profile = NoiseProfile(None, float(start or 0), float(end) if end else None)
    except ValueError as error:  # a lone dot
        raise click.BadParameter(f"{value!r} is neither START:END in seconds nor a file.", context, option) from error
    if profile.end_s is not None and profile.end_s <= profile.start_s:
        raise click.BadParameter(f"{value!r} ends before it starts.", context, option)
    return profile


_ATOMS = "There must be no speech in it. For models with atoms, such as deep-nmf."
noise_profile_option = click.option(
    "--noise-profile", metavar="START:END|FILE", callback=parse,
    help=f"Learn the noise from these seconds of each input, or from this file. {_ATOMS}",
)  # fmt: skip
live_noise_profile_option = click.option(
    "--noise-profile", metavar="FILE", callback=parse, help=f"Learn the noise from this file. {_ATOMS}"
)


def backend_for(backend: str, profile: NoiseProfile | None, changes_depth: bool = False) -> str:
    """Return the backend that can learn from a profile, or change its depth, if the choice is free: an exported model
    can do neither.
    """
    return "torch" if (profile is not None or changes_depth) and backend == "auto" else backend


def require_file(profile: NoiseProfile | None) -> None:
    """Raise UsageError for a stretch of an input that has not arrived yet."""
    if profile is not None and profile.file is None:
        raise UsageError(
            "--noise-profile", "seconds of the input", "a file, as the input is still to come", "Name one."
        )
