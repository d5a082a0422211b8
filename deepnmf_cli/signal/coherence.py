"""Whether the channels of a recording have sound in common, or each holds a source of its own, as calls do."""

import itertools
import logging
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from deepnmf_cli.signal.audio import AudioReader

logger = logging.getLogger(__name__)

LEAST = 0.06
"""Coherence of two channels from which on they are taken for two views of one scene. Simulated calls of 3 and 20 s
have at most .02 with an echo of -25 dB or less; simulated stereo recordings of a talker in rooms, with a reverberation
of .3 to 1 s, microphones .2 to 3 m apart, and unrelated noise at 0 to 20 dB SNR, at least .11."""

LONGEST_S = 300.0
"""So much of a recording is looked at."""

MOST_CHANNELS = 8
"""More are those of an array, which hears one scene."""

WINDOW_S = 0.256
"""Long against the time that sound takes from one microphone to another, and against early reflections."""

BAND_HZ = (100.0, 8000.0)

SHORTEST_S = 1.0
"""In less than this, the coherence of unrelated channels is not surely small."""


def are_separate(path: str | Path, name: str | None = None) -> bool:
    """Return whether no two channels of an audio file have sound in common; False for one channel, and for silence.

    Raises AudioError for a file that cannot be read; `name` stands for the path in messages.
    """
    with AudioReader(path, name) as reader:
        if not 1 < reader.info.channels <= MOST_CHANNELS or reader.info.seconds < SHORTEST_S:
            return False
        found = coherence(reader.blocks(end=round(LONGEST_S * reader.info.rate_hz)), reader.info.rate_hz)
        logger.info("%s: coherence of channels %s", reader.name, "unknown" if found is None else f"{found:.3f}")
    return found is not None and found < LEAST


def coherence(blocks: Iterable[np.ndarray], rate_hz: int) -> float | None:
    """The largest coherence, from 0 to 1, that two channels of a recording have; None where fewer than two sound.

    `blocks` (C, n) float32 follow each other. Of channels with spectra X and Y in frames of `WINDOW_S`, the magnitude
    squared coherence at a frequency f is |sum_t X Y*|^2 / (sum_t |X|^2 sum_t |Y|^2) (Carter, Proc. IEEE 75, 1987). The
    mean over f in `BAND_HZ` has weights (sum_t |X|^2 sum_t |Y|^2)^(1/4): what is loud counts more, but a hum is not
    all. As sums run over all frames, the echo of one speaker in the other's channel counts as little as it is loud
    against the other. What unrelated noise would give by chance, 1 / T for T frames that do not overlap, is taken off.
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
