"""Sentences on what a corpus holds, and on what looks wrong with it, for whoever trains on it."""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from deepnmf_cli.checkpoint import file_hash
from deepnmf_cli.corpus.clips import ClipCache
from deepnmf_cli.corpus.manifest import Clip
from deepnmf_cli.corpus.mixing import Samples, rms
from deepnmf_cli.signal import audio

LOOKED_AT = 20
"""Largest number of pairs, and of room responses, that are examined, spread over all."""

EXCERPT_S = 10.0
"""Length of the part of a pair that is examined, from where its clean side is audible."""

EQUAL_DB = -60.0
"""A difference that is this far below the noisy recording counts as none."""

FOUND = 12.0
"""How far the peak of a correlation must rise above its mean size to tell when speech comes."""

GAIN_DB = 1.5
"""A gain that differs from 1 by less may be due to chance, as noise resembles speech a little."""

LONG_DELAY_S = 0.05
"""If the direct sound of a room response comes later than this, its delay is worth mentioning."""

COMPARED_BYTES = 4096
"""Number of bytes read from the middle of two files of equal size before the files are compared as a whole."""


def listing(what: str, clips: Sequence[Clip], group: str) -> str:
    """Return files, groups and hours in words, such as "speech: 120 files, 8 speakers, 2.1 hours"."""
    kinds = len({clip.group for clip in clips})
    alone = ", each taken for one of its own" if kinds == len(clips) > 1 else ""
    length = duration(sum(clip.seconds for clip in clips))
    return f"{what}: {_many(len(clips), 'file')}, {_many(kinds, group)}{alone}, {length}"


def rooms_listing(rooms: Sequence[Clip]) -> str:
    """Return the number of room responses, and what is done with those of several microphones or with a long delay.

    Raises AudioError for a response that cannot be read.
    """
    several, late, looked = 0, 0, spread(rooms)
    for clip in looked:
        samples, rate_hz = audio.read(clip.path)
        several += len(samples) > 1
        late += int(np.argmax(np.abs(samples[0]))) > LONG_DELAY_S * rate_hz
    text = f"rooms: {_many(len(rooms), 'response')}"
    of = "" if len(looked) == len(rooms) else f" of {len(looked)} looked at"
    if several:
        text += f"; {several}{of} have several channels, of which the first is used"
    if late:
        text += f"; {late}{of} begin with more than {1000 * LONG_DELAY_S:.0f} ms before the direct sound, which are cut"
    return text


def suspicious_pairs(pairs: Sequence[tuple[Path, Path]], rate_hz: int) -> Iterator[str]:
    """Yield sentences on pairs whose noisy side is not the clean side plus noise, one for each kind of fault."""
    looked, found = spread(pairs), defaultdict(list)
    for clean_path, noisy_path in looked:
        cache = ClipCache(rate_hz)
        starts = cache.audible_starts(clean_path, length := round(EXCERPT_S * rate_hz))
        start = int(starts[0]) if len(starts) else 0
        clean, noisy = (cache.read(path, start, start + length, like=clean_path) for path in (clean_path, noisy_path))
        fault, measured = _fault(clean, noisy, rate_hz)
        if fault:
            found[fault].append(f"{noisy_path}{measured}")
    for fault, named in found.items():
        yield f"{len(named)} of {len(looked)} pairs looked at {fault}, the first {named[0]}"


def shared_files(train: Iterable[Path], dev: Iterable[Path]) -> list[Path]:
    """Return the files of `dev` that are also in `train`, whatever their names."""
    sized, shared = defaultdict(list), []
    for path in dev:
        sized[path.stat().st_size].append(path)
    marks = {mark: path for paths in sized.values() for path in paths for mark in (_mark(path),)}
    for path in train:
        if path.stat().st_size in sized and (twin := marks.get(_mark(path))) and _same(path, twin):
            shared.append(twin)
    return sorted(set(shared))


def shared_groups(train: Iterable[Clip], dev: Iterable[Clip]) -> list[str]:
    """Return the names of groups in both; a file that is a group of its own has no such name."""
    one, two = ({clip.group for clip in clips if clip.group != clip.path.stem} for clips in (train, dev))
    return sorted(one & two)


def spread(items: Sequence) -> list:
    """Return at most `LOOKED_AT` of the items, evenly spread."""
    return list(items[:: -(-len(items) // LOOKED_AT)]) if items else []


def _fault(clean: Samples, noisy: Samples, rate_hz: int) -> tuple[str, str]:
    """Return (what is wrong with a pair, what was measured), both empty if nothing is wrong."""
    if not clean.any() or not noisy.any():
        return "have a silent side", ""
    if rms(noisy - clean) < 10 ** (EQUAL_DB / 20) * rms(noisy):
        return "have equal sides, and no noise", ""
    lag, certainty = _lag(clean, noisy)
    if certainty < FOUND:
        return "have a noisy side in which the clean one is not found", ""
    if lag:
        late = "later" if lag < 0 else "earlier"
        measured = f" ({1000 * abs(lag) / rate_hz:.2f} ms {late})"
        return "have a clean side that is not aligned with the noisy one", measured
    gain_db, swapped = _gain(clean, noisy)
    if swapped:
        return "seem to have their sides swapped", ""
    if abs(gain_db) > GAIN_DB:
        return "have speech of another level in the noisy side", f" ({gain_db:+.1f} dB)"
    return "", ""


def _lag(clean: Samples, noisy: Samples) -> tuple[int, float]:
    """Return the number of samples by which speech comes later in the noisy recording, and how clear that is.

    The latter is how far this peak of the correlation of the phases of both (Knapp and Carter, 1976) rises above the
    root mean square of the correlation.
    """
    size = 1 << (2 * len(clean) - 1).bit_length()
    cross = np.fft.rfft(noisy, size) * np.fft.rfft(clean, size).conj()
    correlation = np.fft.irfft(cross / np.maximum(np.abs(cross), 1e-12 * np.abs(cross).max()), size)
    peak = int(np.argmax(correlation))
    return (peak + size // 2) % size - size // 2, float(correlation[peak] / rms(correlation))


def _gain(clean: Samples, noisy: Samples) -> tuple[float, bool]:
    """Return the gain in dB of the clean recording in the noisy one, and whether the clean one is the noisy plus noise.

    Bins are weighted by the inverse of the power of both, as for noise of any colour; the residual of the right
    hypothesis is uncorrelated with speech in each of them.
    """
    size = 512
    frames = [x[: len(x) // size * size].reshape(-1, size) * np.hanning(size) for x in (clean, noisy)]
    one, two = (np.fft.rfft(x, axis=1) for x in frames)
    clean_power, noisy_power = (np.sum(np.abs(x) ** 2, 0) for x in (one, two))
    cross = np.sum(two * one.conj(), 0).real
    weight = 1 / (noisy_power + clean_power + 1e-9 * noisy_power.max())
    gain = np.sum(weight * cross) / np.sum(weight * clean_power)
    right = np.sum(weight * np.abs(cross - gain * clean_power))
    turned = np.sum(weight * np.abs(cross - noisy_power))
    return 20 * np.log10(max(abs(gain), 1e-6)), bool(gain < 1 and turned < right)


def _mark(path: Path) -> tuple[int, bytes]:
    size = path.stat().st_size
    with path.open("rb") as file:
        file.seek(max(0, size // 2 - COMPARED_BYTES // 2))
        return size, hashlib.sha256(file.read(COMPARED_BYTES)).digest()


def _same(one: Path, two: Path) -> bool:
    return file_hash(one) == file_hash(two)


def _many(count: int, what: str) -> str:
    return f"{count:,} {what}" if count == 1 else f"{count:,} {what}s"


def duration(seconds: float) -> str:
    """Return a length in words, such as "2.1 hours"."""
    return f"{seconds / 3600:.1f} hours" if seconds >= 3600 else f"{seconds / 60:.1f} minutes"
