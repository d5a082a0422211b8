"""Speech activity detection from the masks of a network: a chain of binary units, one for every frame.

A unit z_t in {0, 1} says whether there is speech in frame t. The evidence for it is three differences of levels in
dB, of the recording (x) and of what the mask keeps of it (y), from 100 Hz to 8 kHz:

    gain_t    = y_t - x_t                               what is kept
    height_t  = y_t - max(Y_t, X_t - 15)                how loud that is relative to its loud moments
    share_t   = Y_t - X_t                               how much of the loud moments is speech

X and Y follow the loud moments of x and y: they rise quickly and fall slowly. Neighbours agree more often than not:

    p(z)  proportional to  exp( sum_t z_t (w . (gain, height, share)_t + b) + J sum_t [z_t = z_{t-1}] )

This is (6) of Hershey et al., 2014, on a chain, where messages in both directions, (21)-(23), give the marginals
P(z_t = 1) exactly. The weights were trained through these messages.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from deepnmf_cli.errors import UsageError
from deepnmf_cli.signal.stft import StftPair

BAND_HZ = (100.0, 8000.0)

QUIET_DB = -130.0
"""Frames of the recording below this level hold no speech: zeros, and the rounding noise of 24 bits."""

RISE, FALL = 0.3, 0.002
"""Fraction of the way up or down that X and Y move in a frame: time constants of 50 ms and 8 s."""

BELOW_DB = 15.0
"""The loud moments of speech count as no further than this below those of the recording: where all is noise, what is
kept of it is no speech."""

RANGES_DB = ((-30.0, 3.0), (-50.0, 10.0), (-30.0, 3.0))
"""Ranges to which gain, height and share are clipped."""

WEIGHTS = (0.00329, 0.00514, 0.00886)
BIAS = 0.216
"""w, per dB, and b."""

AGREEMENT = 3.758
"""J."""

MEASURED = ("base", "large", "tiny")
"""Models with whose masks these weights were evaluated. Masks that leave more noise make it pass for speech."""

MOST_PARTS = 1000
"""Number of arrays that are kept before they are joined."""

NEVER = -50.0
"""Log-odds of quiet frames."""


@dataclass(frozen=True)
class Stretch:
    """Speech from `start_s` to `end_s`, in seconds, and how probable it is on average, 0.5 to 1."""

    start_s: float
    end_s: float
    probability: float


class SpeechActivity:
    """Probability of speech in the frames of one recording, computed while the recording is enhanced.

    Use base, large or tiny with all layers: masks that leave more noise, such as those of deep-nmf, make it pass for
    speech.

    Examples:
        >>> import soundfile
        >>> from deepnmf_cli import SpeechActivity, enhance
        >>> samples, rate_hz = soundfile.read("data/demo/noisy.wav")
        >>> activity = SpeechActivity()
        >>> speech = enhance(samples, rate_hz, "tiny", device="cpu", activity=activity)
        >>> [(round(s.start_s, 1), round(s.end_s, 1)) for s in activity.stretches(len(samples) / rate_hz)]
        [(0.6, 3.4), (4.2, 7.5)]
        >>> activity.probabilities().shape
        (470,)
    """

    def __init__(self) -> None:
        self.hop_s = 0.0
        """Seconds between frames; frame t lies around t * hop_s. 0 until `listener` is called."""
        self._parts: list[list[np.ndarray]] = []

    def listener(self, pair: StftPair, rate_hz: int) -> Callable[[np.ndarray, np.ndarray], None]:
        """Return a function that takes spectra (C, F, T) of the recording and the mask (F, T) of each block.

        Channels with masks of their own have a listener each; their powers are added. Raises UsageError if a recording
        was heard before.
        """
        if any(self._parts):
            found = "one that has heard a recording"
            raise UsageError("activity", found, "a new SpeechActivity for each", "Make another one.")
        hz = np.arange(pair.bins) * rate_hz / pair.window_samples
        used = (hz >= BAND_HZ[0]) & (hz < BAND_HZ[1])
        self.hop_s = pair.hop_samples / rate_hz
        self._parts.append(parts := [])

        def hear(spectrum: np.ndarray, mask: np.ndarray) -> None:
            power = np.square(np.abs(spectrum[:, used])).sum(0)
            parts.append(np.stack([power.sum(0), (power * np.square(np.abs(mask[used]))).sum(0)]))
            if len(parts) == MOST_PARTS:  # arrays of single frames take ten times the memory
                parts[:] = [np.concatenate(parts, 1)]

        return hear

    def levels_db(self) -> np.ndarray:
        """Levels (2, T) of the recording, and of what the masks keep of it: -5 dB for a sinusoid of full scale."""
        channels = [np.concatenate(parts, 1, dtype=np.float64) for parts in self._parts if parts]
        return 10 * np.log10(sum(channels, np.zeros((2, 0 if not channels else 1))) + 1e-20)

    def probabilities(self) -> np.ndarray:
        """P(speech) of every frame (T,) heard so far; a whole recording of N samples has ceil(N / hop) + 1."""
        return 1 / (1 + np.exp(-marginal_log_odds(evidence(*self.levels_db()))))

    def stretches(self, seconds: float = math.inf) -> list[Stretch]:
        """Return the stretches where speech is more probable than not, in a recording that lasts `seconds`."""
        probabilities = self.probabilities()
        edges = np.flatnonzero(np.diff(probabilities > 0.5, prepend=False, append=False)).reshape(-1, 2).tolist()
        times = [(max(0.0, (a - 0.5) * self.hop_s), min(seconds, (b - 0.5) * self.hop_s)) for a, b in edges]
        return [
            Stretch(round(start_s, 6), round(end_s, 6), float(probabilities[first:last].mean()))
            for (start_s, end_s), (first, last) in zip(times, edges, strict=True)
            if start_s < end_s
        ]


def evidence(recording_db: np.ndarray, kept_db: np.ndarray) -> np.ndarray:
    """Log-odds of speech (T,) in each frame alone, from the levels (T,) of a recording and of what is kept of it."""
    weighted = np.asarray(WEIGHTS) @ differences(recording_db, kept_db) + BIAS
    return np.where(recording_db < QUIET_DB, NEVER, weighted)


def differences(recording_db: np.ndarray, kept_db: np.ndarray) -> np.ndarray:
    """Gain, height and share (3, T) in dB."""
    loud, left = loud_moments(recording_db), loud_moments(kept_db)
    found = (kept_db - recording_db, kept_db - np.maximum(left, loud - BELOW_DB), left - loud)
    return np.stack([np.clip(values, *limits) for values, limits in zip(found, RANGES_DB, strict=True)])


def loud_moments(levels_db: np.ndarray) -> np.ndarray:
    """Level (T,) of the loud moments up to each frame, from levels (T,). Quiet frames do not change it."""
    level, found = QUIET_DB, []
    for now in levels_db.tolist():
        if now >= QUIET_DB:
            level = now if level <= QUIET_DB else level + (RISE if now > level else FALL) * (now - level)
        found.append(level)
    return np.array(found)


def marginal_log_odds(log_odds: np.ndarray, agreement: float = AGREEMENT) -> np.ndarray:
    """Log-odds (T,) of the marginals of the chain, from those (T,) of frames alone: evidence plus both messages."""
    before = _messages(log_odds.tolist(), agreement)
    after = _messages(log_odds[::-1].tolist(), agreement)[::-1]
    return np.array(before) + np.array(after) + log_odds


def _messages(log_odds: Sequence[float], agreement: float) -> list[float]:
    """Message that each unit receives from the one before it, as log-odds, by (23); 0 for the first unit."""
    message, found, agree = 0.0, [], math.exp(agreement)
    for own in log_odds:
        found.append(message)
        odds = math.exp(min(message + own, -NEVER))
        message = math.log((odds * agree + 1) / (odds + agree))
    return found
