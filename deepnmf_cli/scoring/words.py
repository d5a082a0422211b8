"""Word error rate: what any speech recognition program hears in an estimate, compared with what was said."""

import os
import re
import shlex
import subprocess
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from deepnmf_cli.checkpoint import is_temporary, temporary_folder
from deepnmf_cli.errors import CorpusError, DeepnmfError, shortened
from deepnmf_cli.scoring.mixtures import recording_of
from deepnmf_cli.scoring.perceptual import NoScore
from deepnmf_cli.tables import read_rows

NAME = "WER"

PLACE = "{}"
"""Placeholder for the recording in a command; without it, the recording becomes the last argument."""


@dataclass(frozen=True)
class Speech:
    """What was said in a recording, and the command that is to recognise it."""

    text: str
    command: str


def read_transcripts(path: str | Path, names: Sequence[str]) -> dict[str, str]:
    """Return name -> text, from a CSV file with these two columns; names may have the suffix of an audio file.

    Raises CorpusError if it cannot be read, lacks one of `names`, or has one twice.
    """
    expected = "the columns name and text, and a row for each recording"
    rows = read_rows(path, {"name", "text"}.issubset, expected, "Write it as docs/evaluation.md shows.")
    texts: dict[str, str] = {}
    for line, row in rows:
        if (name := recording_of(row["name"])) in texts and name:
            found = f"a second row for {name!r} in line {line}"
            raise CorpusError(path, found, "one row for each recording", "Leave one of the two out.")
        texts[name] = row["text"] or ""
    if missing := [name for name in names if name not in texts]:
        found = f"no text for {len(missing)} of {len(names)} recordings, the first being {missing[0]!r}"
        raise CorpusError(path, found, expected, "Add the rows that are missing.")
    return {name: texts[name] for name in names}


def words(text: str) -> list[str]:
    """Return the words of a text without case and punctuation; inner apostrophes stay, digits are words as written."""
    text = unicodedata.normalize("NFKC", text).casefold().replace("\u2019", "'")
    # Marks are parts of words: vowels in Hindi and Thai, accents that have no composed form.
    kept = "".join(c if c == "'" or c.isalnum() or unicodedata.category(c)[0] == "M" else " " for c in text)
    found = [word.strip("'") for word in re.sub("''+", " ", kept).split()]
    return [word for word in found if any(map(str.isalnum, word))]


def errors(said: Sequence[str], heard: Sequence[str]) -> int:
    """Return the smallest number of word substitutions, deletions and insertions that turns `said` into `heard`."""
    row = np.arange(len(heard) + 1)
    steps = np.arange(len(heard) + 1)
    for count, word in enumerate(said, 1):
        changed = row[:-1] + np.array([word != other for other in heard], int)
        best = np.concatenate([[count], np.minimum(changed, row[1:] + 1)])
        row = np.minimum.accumulate(best - steps) + steps  # insertions: any number of steps to the right
    return int(row[-1])


def word_error_rate(speech: Speech, samples: np.ndarray, rate_hz: int) -> float:
    """Return the word errors in samples (C, N), in percent of the words that were said.

    Raises NoScore if nothing was said, and DeepnmfError if the command fails.
    """
    said = words(speech.text)
    if not said:
        raise NoScore(f"{NAME}: no words in the transcript")
    return 100 * errors(said, words(recognised(speech.command, samples, rate_hz))) / len(said)


def recognised(command: str, samples: np.ndarray, rate_hz: int) -> str:
    """Return what the command prints on standard output when it is given samples (C, N) as a 16-bit WAV file.

    Raises DeepnmfError if it cannot be started or exits with a code other than 0.
    """
    with temporary_folder() as folder:
        path = folder / "estimate.wav"
        soundfile.write(path, np.clip(samples.T, -1, 1), rate_hz, "PCM_16")
        arguments = arguments_of(command)
        filled = [argument.replace(PLACE, str(path)) for argument in arguments]
        if filled == arguments:
            filled.append(str(path))
        try:
            done = subprocess.run(filled, capture_output=True, stdin=subprocess.DEVNULL, env=_users_environment())
        except OSError as error:
            raise _failure(command, f"that it cannot be started ({error.strerror})") from error
    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines() or ["no message"]
        raise _failure(command, f"exit code {done.returncode} ({shortened(lines[-1])})")
    return done.stdout.decode(errors="replace")


def _users_environment() -> dict[str, str]:
    """Return the environment without what leads to temporary caches of this program: a recogniser keeps its own."""
    return {name: value for name, value in os.environ.items() if not any(map(is_temporary, value.split(os.sep)))}


def arguments_of(command: str) -> list[str]:
    """Return the arguments of a command line. Raises DeepnmfError for unclosed quotes, and if there are none."""
    try:
        if found := shlex.split(command):
            return found
    except ValueError as error:
        raise _failure(command, f"a command that cannot be read ({error})") from error
    raise _failure(command, "no command")


def overall(texts: Mapping[str, str], rates: Mapping[str, float]) -> float | None:
    """Return all errors in percent of all words, as corpora are scored, from the rates of recordings in percent."""
    counts = {name: len(words(texts[name])) for name in rates}
    total = sum(counts.values())
    return sum(counts[name] * rate for name, rate in rates.items()) / total if total else None


def _failure(command: str, found: str) -> DeepnmfError:
    expected = f"a program that prints what is said in the WAV file {PLACE}"
    return DeepnmfError(f"--asr-command {shortened(command)}", found, expected, "Try it on one file.")
