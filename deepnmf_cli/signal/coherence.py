"""Test whether the channels of a recording have sound in common, or hold a source each, as those of calls do."""

import itertools
import logging
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from deepnmf_cli.signal.audio import AudioReader
from deepnmf_cli.signal.samples import LARGEST

logger = logging.getLogger(__name__)

LEAST = 0.06
"""Minimum coherence of two channels that are taken for two views of one scene. Simulated calls of 3 and 20 s
have at most .02 with an echo of -25 dB or less; simulated stereo recordings of a talker in rooms, with a reverberation
of .3 to 1 s, microphones .2 to 3 m apart, and unrelated noise at 0 to 20 dB SNR, at least .11."""

LONGEST_S = 300.0
"""At most this much of a recording is analysed."""

MOST_CHANNELS = 8
"""More channels are those of a microphone array, which records one scene."""

WINDOW_S = 0.256
"""Long compared with the time that sound takes from one microphone to another, and with early reflections."""

BAND_HZ = (100.0, 8000.0)

SHORTEST_S = 1.0
"""In shorter recordings, the coherence of unrelated channels is not reliably small."""


def are_separate(path: str | Path, name: str | None = None) -> bool:
    """Return whether no two channels of an audio file have sound in common.

    False for one channel, more than MOST_CHANNELS, less than SHORTEST_S, and silence. Raises AudioError for a file that
    cannot be read; `name` stands for the path in messages.
    """
    with AudioReader(path, name) as reader:
        if not 1 < reader.info.channels <= MOST_CHANNELS or reader.info.seconds < SHORTEST_S:
            return False
        blocks = reader.blocks(end=round(LONGEST_S * reader.info.rate_hz), check=False)
        found = coherence(map(_usable, blocks), reader.info.rate_hz)
        logger.info("%s: coherence of channels %s", reader.name, "unknown" if found is None else f"{found:.3f}")
    return found is not None and found < LEAST


def _usable(block: np.ndarray) -> np.ndarray:
    """Return the block with zeros for samples that only a repair lets through."""
    return np.where(np.abs(block) <= LARGEST, block, 0)  # NaN compares as false


def coherence(blocks: Iterable[np.ndarray], rate_hz: int) -> float | None:
    """Return the largest coherence of any two channels; None if fewer than two have sound, or there are fewer than two
    frames. It is at most 1, and about 0 for unrelated channels.

    `blocks` (C, n) float32 are consecutive. For channels with spectra X and Y in frames of `WINDOW_S`, the magnitude
    squared coherence at a frequency f is |sum_t X Y*|^2 / (sum_t |X|^2 sum_t |Y|^2) (Carter, Proc. IEEE 75, 1987). The
    mean over f in `BAND_HZ` has weights (sum_t |X|^2 sum_t |Y|^2)^(1/4): loud frequencies count more, but a hum does
    not dominate. As sums run over all frames, the echo of one speaker in the other's channel counts only in proportion
    to its level relative to the other. What unrelated noise would give by chance, 1 / T for T frames that do not
    overlap, is subtracted.
    """
    size = 2 * round(WINDOW_S * rate_hz / 2)
    window = np.hanning(size + 1)[:-1].astype(np.float32)
    bins = np.fft.rfftfreq(size, 1 / rate_hz)
    band = (bins >= BAND_HZ[0]) & (bins <= BAND_HZ[1])
    products, frames, waiting = np.zeros(()), 0, None
    for block in blocks:
        waiting = block if waiting is None else np.concatenate([waiting, block], 1)
        count = waiting.shape[1] // size
        if count == 0:
            continue
        hops = waiting[:, : count * size].reshape(len(waiting), count, size)
        spectra = np.fft.rfft(hops * window, axis=-1)[..., band]
        products = products + np.einsum("atf,btf->abf", spectra, spectra.conj())
        frames, waiting = frames + count, waiting[:, count * size :]
    if frames < 2:
        return None
    power = np.einsum("aaf->af", products).real
    found = [
        _coherence(products[a, b], power[a], power[b], frames)
        for a, b in itertools.combinations(range(len(power)), 2)
        if power[a].any() and power[b].any()
    ]
    return max(found, default=None)


def _coherence(cross: np.ndarray, one: np.ndarray, other: np.ndarray, frames: int) -> float:
    power = one * other
    audible = power > 0
    squared = np.abs(cross[audible]) ** 2 / power[audible]
    by_chance = 1 / frames
    return float(np.average((squared - by_chance) / (1 - by_chance), weights=power[audible] ** 0.25))
