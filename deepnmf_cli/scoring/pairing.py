"""The recordings that are compared: files of two folders, paired by name, and the hash of a corpus."""

import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from deepnmf_cli.checkpoint import file_hash
from deepnmf_cli.errors import CorpusError
from deepnmf_cli.scoring.perceptual import resampled
from deepnmf_cli.scoring.words import Speech
from deepnmf_cli.signal import audio
from deepnmf_cli.signal.formats import by_name, find, scan

LENGTH_TOLERANCE_S = 0.01
"""Lossy codecs and framing add or drop a few milliseconds; a larger difference means another recording."""


@dataclass(frozen=True)
class Pair:
    """A reference and what is compared with it.

    `name` is the path below the folder, without its suffix, made `printable`.
    """

    name: str
    reference: Path | None
    """None where there is nothing to compare with."""
    estimate: Path
    rate_hz: int | None = None
    """The rate that both are resampled to; None for the rate of the files, which is then the same."""
    speech: Speech | None = None
    """What was said, for scores that need to know it."""

    @property
    def first(self) -> Path:
        """The reference, or the estimate if there is no reference."""
        return self.reference or self.estimate


def pair_folders(reference_folder: str | Path, estimate_folder: str | Path) -> tuple[list[Pair], list[str]]:
    """Return the pairs of two folders in the order of their names, and the names of estimates without a reference.

    Raises CorpusError when a folder is missing, holds two files of one name or media that cannot be read, or lacks the
    partner of a reference, and AudioError when it holds no audio.
    """
    references, estimates = _index(reference_folder), _index(estimate_folder)
    missing = [name for name in references if name not in estimates]
    if missing:
        raise CorpusError(
            estimate_folder,
            f"no partner for {len(missing)} of {len(references)} references, the first being '{printable(missing[0])}'",
            f"a file of the same name (the suffix may differ) for each file in {reference_folder}",
            "Add the missing files, or take their references away.",
        )
    pairs = [Pair(printable(name), references[name], estimates[name]) for name in references]
    return pairs, [printable(name) for name in estimates if name not in references]


def alone(folder: str | Path, estimate_folder: str | Path) -> tuple[list[Pair], list[str]]:
    """Return what `pair_folders` returns, but without references.

    The estimates are those that have the names of another system's, which lie in `folder`.
    """
    pairs, extra = pair_folders(folder, estimate_folder)
    return [replace(pair, reference=None) for pair in pairs], extra


def printable(name: str | Path) -> str:
    r"""Return a name in a form that every terminal, CSV, JSON and Markdown file can hold.

    Bytes that are not UTF-8 become \xe9, line breaks and other control characters \n.
    """
    text = os.fsencode(name).decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def read_pair(pair: Pair) -> tuple[np.ndarray, np.ndarray, int]:
    """Return (reference, estimate, rate_hz): float64 arrays of one shape (channels, samples), cut to the shorter file.

    Without a reference, both are the same array, that of the estimate. Raises AudioError for a file that cannot be read
    or holds samples that are not finite, and CorpusError if the two files differ in rate, in channels, or by more than
    10 ms in length.
    """
    estimate, found_hz = _read(pair.estimate, pair.rate_hz)
    if pair.reference is None:
        return estimate, estimate, found_hz
    reference, rate_hz = read_reference(pair)
    if found_hz != rate_hz:
        _refuse(pair, f"a sampling rate of {found_hz} Hz", f"{rate_hz} Hz", "Choose one with --rate.")
    if len(estimate) != len(reference):
        _refuse(pair, f"{len(estimate)} channel(s)", f"{len(reference)} channel(s)", "Mix down one of the two.")
    found, expected = estimate.shape[1], reference.shape[1]
    if abs(found - expected) > LENGTH_TOLERANCE_S * rate_hz:
        remedy = "Cut or align the recordings: they must start and end together."
        _refuse(pair, f"{found} samples", f"{expected} samples, give or take {LENGTH_TOLERANCE_S * 1e3:.0f} ms", remedy)
    if not (frames := min(found, expected)):
        _refuse(pair, f"no sample at {rate_hz} Hz", "at least one", "Leave the file out, or choose a higher --rate.")
    return reference[:, :frames], estimate[:, :frames], rate_hz


def read_reference(pair: Pair) -> tuple[np.ndarray, int]:
    """Return (reference, rate_hz) of a pair that has one: float64 (channels, samples). Raises AudioError."""
    assert pair.reference is not None
    return _read(pair.reference, pair.rate_hz)


def _read(path: Path, to_hz: int | None) -> tuple[np.ndarray, int]:
    samples, rate_hz = audio.read(path, "float64")
    if to_hz is None:
        return samples, rate_hz
    return np.stack([resampled(channel, rate_hz, to_hz) for channel in samples]), to_hz


def corpus_hash(paths: Iterable[Path]) -> str:
    """Return the SHA-256 over contents and names of files: what `sha256sum * | sha256sum` prints for a flat folder."""
    total = hashlib.sha256()
    for path in sorted(paths, key=os.fsencode):  # names need not be text
        total.update(file_hash(path).encode() + b"  " + os.fsencode(path.name) + b"\n")
    return total.hexdigest()


def _index(folder: str | Path) -> dict[str, Path]:
    """Return name -> file for all audio below `folder`."""
    folder = Path(folder)
    if not folder.is_dir():
        found = "a file" if folder.exists() else "nothing there"
        raise CorpusError(folder, found, "a folder of audio files", "Check the path.")
    if left_out := scan(folder).unreadable:
        first = left_out[0]
        found = f"{len(left_out)} file(s) that cannot be read, the first being {first.where}"
        raise CorpusError(folder, found, "recordings that can all be read", first.remedy)
    return by_name(find(folder), folder)


def _refuse(pair: Pair, found: str, expected: str, remedy: str) -> None:
    raise CorpusError(pair.estimate, found, f"{expected}, as {pair.reference} has", remedy)
