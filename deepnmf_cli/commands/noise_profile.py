"""--noise-profile: where there is nothing but noise, from which models with atoms learn more."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from deepnmf_cli.errors import AudioError, UsageError

if TYPE_CHECKING:
    from deepnmf_cli.enhancer import Enhancer

LONGEST_S = 60.0
"""So much of a profile is used."""

_STRETCH = re.compile(r"(\d*\.?\d*):(\d*\.?\d*)")


@dataclass(frozen=True)
class NoiseProfile:
    """Seconds `start_s` to `end_s` (None: the end) of `file`, or of each recording itself where that is None."""

    file: str | None
    start_s: float = 0.0
    end_s: float | None = None

    def teach(self, enhancer: "Enhancer", recording: str | Path, name: str) -> "Enhancer":
        """The enhancer with atoms for the noise. `name` stands for the recording in messages.

        Raises UsageError for a model without atoms, and AudioError for a stretch that is not there, too short or
        silent.
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


noise_profile_option = click.option(
    "--noise-profile",
    metavar="START:END|FILE",
    callback=parse,
    help="Learn the noise from these seconds of each input, or from this file, in which there must be no speech."
    " For models with atoms, such as deep-nmf.",
)


def backend_for(backend: str, profile: NoiseProfile | None) -> str:
    """The backend that can learn from a profile, where the choice is free: exported models are what they are."""
    return "torch" if profile is not None and backend == "auto" else backend


def require_file(profile: NoiseProfile | None) -> None:
    """Raise UsageError for a stretch of an input that has not come yet."""
    if profile is not None and profile.file is None:
        raise UsageError(
            "--noise-profile", "seconds of the input", "a file, as the input is still to come", "Name one."
        )
