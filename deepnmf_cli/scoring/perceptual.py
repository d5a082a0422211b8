"""Perceptual scores, computed by the packages with the reference implementations: `pesq` and `pystoi`.

* PESQ: ITU-T P.862 mapped by P.862.1 (narrow band) or P.862.2 (wide band), 1.0 (bad) to about 4.6 (transparent).
* STOI (Taal, Hendriks, Heusdens, Jensen, IEEE TASLP 19(7), 2011) and ESTOI (Jensen, Taal, IEEE/ACM TASLP 24(11),
  2016): correlations of short-time band envelopes, 0 to 1, higher is more intelligible.

Each function raises `NoScore` where its measure is not defined for the signal. Recordings beyond `LONGEST_WHOLE_S` are
scored in pieces, since the packages need memory in proportion to the length, and PESQ's C code holds 50 utterances.
"""

import functools
import hashlib
import math
import subprocess
import sys
import warnings
from collections.abc import Callable
from itertools import pairwise
from typing import TypeVar

import numpy as np

Value = TypeVar("Value")

NARROW_BAND_HZ = 8000
WIDE_BAND_HZ = 16000

LONGEST_SAFE_PESQ_S = 20.0
"""The C code of PESQ keeps at most 50 utterances and writes past its tables beyond that. It needs 0.2 s of speech and
0.2 s of pause for one utterance, so that 20 s can never hold more; longer signals are scored in a process of their
own, which may crash without taking the evaluation with it."""

PIECE_S = LONGEST_SAFE_PESQ_S
"""Longest piece of a long recording; ITU-T P.862.3 recommends 8 to 30 s for PESQ."""

LONGEST_WHOLE_S = 40.0
"""Longer recordings are scored in pieces. The utterances of common corpora are shorter, so they score as elsewhere."""

FRAME_S = 0.025
DYNAMIC_RANGE_DB = 40.0
"""What counts as speech in a reference: frames whose power is at most 40 dB below that of the loudest, as in STOI."""

QUIET_PEAK = 1e-6
"""pystoi adds 2e-16 to its norms. Above this peak, no digit shows that; quieter signals are scaled to a peak of 1."""

LARGEST_PEAK_RATIO = 1e6
"""The C code of PESQ computes in single precision. Signals that differ more in level are scaled to the same peak; PESQ
aligns their levels itself."""

LOWEST_PESQ, LOWEST_STOI = 1.0, 0.0
"""Scores of a piece in which the estimate is silent and the reference is not: the packages divide by zero there."""

SHORTEST_STOI_S = 0.03
"""pystoi cuts frames of 256 samples at 10 kHz and fails without a single one."""

STOI_HZ = 10_000
LARGEST_STOI_RATIO = 1000
"""pystoi resamples with filters of 36 taps times the larger number of the ratio of rates, such as 441 / 100; for rates
like 44,101 Hz that takes minutes and gigabytes."""

_BUFFER_TOO_SHORT = -6
"""Code that the package returns for signals of less than 0.25 s."""

_ISOLATED_PESQ = """
import sys
import numpy as np
from pesq import PesqError, pesq
samples = np.frombuffer(sys.stdin.buffer.read()).reshape(2, -1)
mode = "nb" if sys.argv[1] == "8000" else "wb"
print(float(pesq(int(sys.argv[1]), samples[0], samples[1], mode, on_error=PesqError.RETURN_VALUES)))
"""


class NoScore(Exception):
    """A measure is not defined for a signal; the text says why."""


class _TooManyUtterances(Exception):
    """PESQ's C code crashed, as it does where a recording holds more utterances than it can keep."""


def remember_last(score: Callable[[np.ndarray, np.ndarray, int], Value]) -> Callable[..., Value]:
    """Return the function of two signals (N,) and a rate, with a memory of its last call.

    It is computed once for several scores that ask for it one after the other with the same signals. Of the signals,
    only a digest is kept.
    """
    last: list[tuple[tuple, Value]] = []

    @functools.wraps(score)
    def remembering(reference: np.ndarray, estimate: np.ndarray, rate_hz: int) -> Value:
        key = (rate_hz, *(hashlib.blake2b(np.ascontiguousarray(x).data).digest() for x in (reference, estimate)))
        for known, value in tuple(last):  # a copy, and one item: threads may share the function
            if known == key:
                return value
        value = score(reference, estimate, rate_hz)
        last[:] = [(key, value)]
        return value

    return remembering


def pesq_score(reference: np.ndarray, estimate: np.ndarray, rate_hz: int) -> float:
    """Return PESQ (MOS-LQO) of `estimate` against `reference`, both float arrays of shape (N,).

    It is narrow band at 8 kHz and wide band at 16 kHz. Signals at any other rate are resampled to 16 kHz, for this
    measure only. Long recordings get the mean over their pieces (see `pieces`). Raises NoScore for signals that are too
    short (0.25 s) or hold no utterance.
    """
    if len(reference) <= LONGEST_WHOLE_S * rate_hz:
        try:
            return _whole_pesq(reference, estimate, rate_hz)
        except _TooManyUtterances:
            pass
    return _mean_over_pieces(_whole_pesq, reference, estimate, rate_hz, LOWEST_PESQ)


shared_pesq = remember_last(pesq_score)
"""`pesq_score`, computed once for the composite scores and itself, as it takes most of the time of an evaluation."""


def stoi_score(reference: np.ndarray, estimate: np.ndarray, rate_hz: int, extended: bool = False) -> float:
    """Return STOI, or ESTOI with `extended`, of `estimate` against `reference`, both float arrays of shape (N,).

    The package resamples to 10 kHz itself. Long recordings get the mean over their pieces (see `pieces`). Raises
    NoScore if fewer than 30 frames (0.4 s) of speech remain, where the package would return a placeholder of 1e-5.
    """

    def whole(reference: np.ndarray, estimate: np.ndarray, rate_hz: int) -> float:
        return _whole_stoi(reference, estimate, rate_hz, extended)

    if len(reference) <= LONGEST_WHOLE_S * rate_hz:
        return whole(reference, estimate, rate_hz)
    return _mean_over_pieces(whole, reference, estimate, rate_hz, LOWEST_STOI)


def pieces(reference: np.ndarray, rate_hz: int) -> list[tuple[slice, float]]:
    """Return the pieces of a reference (N,) that hold speech, each with its seconds of speech.

    The pieces are of equal length, at most `PIECE_S`.
    """
    count = math.ceil(len(reference) / (PIECE_S * rate_hz))
    edges = [len(reference) * number // count for number in range(count + 1)]
    cuts = [slice(*both) for both in pairwise(edges)]
    peak = max(float(reference.max()), -float(reference.min())) or 1.0
    frame = max(1, round(FRAME_S * rate_hz))
    powers = [_frame_powers(reference[cut] / peak, frame) for cut in cuts]
    threshold = max(float(power.max()) for power in powers) * 10 ** (-DYNAMIC_RANGE_DB / 10)
    speech_s = [float(np.count_nonzero(power > threshold)) * frame / rate_hz for power in powers]
    return [(cut, seconds) for cut, seconds in zip(cuts, speech_s, strict=True) if seconds]


def _frame_powers(samples: np.ndarray, frame: int) -> np.ndarray:
    return np.add.reduceat(samples**2, np.arange(0, len(samples), frame))


def _mean_over_pieces(
    measure: Callable[[np.ndarray, np.ndarray, int], float],
    reference: np.ndarray,
    estimate: np.ndarray,
    rate_hz: int,
    lowest: float,
) -> float:
    """Return the mean of a measure over the pieces for which it is defined, weighted by the speech that each holds.

    Raises the last NoScore if there is no such piece.
    """
    scores, weights, reason = [], [], NoScore("no speech")
    for piece, speech_s in pieces(reference, rate_hz):
        try:
            scores.append(measure(reference[piece], estimate[piece], rate_hz) if estimate[piece].any() else lowest)
            weights.append(speech_s)
        except NoScore as error:
            reason = error
    if not scores:
        raise reason
    return float(np.average(scores, weights=weights))


def _whole_pesq(reference: np.ndarray, estimate: np.ndarray, rate_hz: int) -> float:
    peaks = [float(np.abs(x).max()) for x in (reference, estimate)]
    if min(peaks) < max(QUIET_PEAK, max(peaks) / LARGEST_PEAK_RATIO):
        reference, estimate = (x / (peak or 1.0) for x, peak in zip((reference, estimate), peaks, strict=True))
    if rate_hz not in (NARROW_BAND_HZ, WIDE_BAND_HZ):
        reference, estimate = (resampled(x, rate_hz, WIDE_BAND_HZ) for x in (reference, estimate))
        rate_hz = WIDE_BAND_HZ
    if len(reference) == 0:  # left of a few samples at a higher rate
        raise NoScore("PESQ: too short")
    if not (reference.any() and estimate.any()):
        raise NoScore("PESQ: no utterance found")
    score = (_isolated_pesq if len(reference) > LONGEST_SAFE_PESQ_S * rate_hz else _pesq)(reference, estimate, rate_hz)
    if not score >= 0:  # an error code of the package, or NaN
        raise NoScore("PESQ: too short" if score == _BUFFER_TOO_SHORT else "PESQ: no utterance found")
    return score


def _pesq(reference: np.ndarray, estimate: np.ndarray, rate_hz: int) -> float:
    """Return what the package computes: a score, a negative code, or NaN."""
    from pesq import PesqError, pesq

    mode = "nb" if rate_hz == NARROW_BAND_HZ else "wb"
    return float(pesq(rate_hz, reference, estimate, mode, on_error=PesqError.RETURN_VALUES))


def _whole_stoi(reference: np.ndarray, estimate: np.ndarray, rate_hz: int, extended: bool) -> float:
    from pystoi import stoi

    name = "ESTOI" if extended else "STOI"
    if len(reference) < SHORTEST_STOI_S * rate_hz:
        raise NoScore(f"{name}: too short")
    reference, estimate = _audible(reference), _audible(estimate)
    if max(rate_hz, STOI_HZ) / math.gcd(rate_hz, STOI_HZ) > LARGEST_STOI_RATIO:
        reference, estimate = (resampled(x, rate_hz, STOI_HZ) for x in (reference, estimate))
        rate_hz = STOI_HZ
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="Not enough STFT frames", category=RuntimeWarning)
        try:
            return float(stoi(reference, estimate, rate_hz, extended=extended))
        except RuntimeWarning as warning:
            raise NoScore(f"{name}: too little speech") from warning


def _audible(samples: np.ndarray) -> np.ndarray:
    """Return `samples` (N,), scaled to a peak of 1 if they are so quiet that the floor of pystoi would show."""
    peak = float(np.abs(samples).max())
    return samples / peak if 0 < peak < QUIET_PEAK else samples


def resampled(samples: np.ndarray, from_hz: int, to_hz: int) -> np.ndarray:
    """Return samples (N,) at another rate, or the same samples if the rates are equal."""
    if from_hz == to_hz:
        return samples
    import soxr

    return soxr.resample(samples, from_hz, to_hz, quality="VHQ")


def _isolated_pesq(reference: np.ndarray, estimate: np.ndarray, rate_hz: int) -> float:
    """Compute `_pesq` in a Python process of its own, because too many utterances make the C code crash the process."""
    samples = np.stack([reference, estimate]).astype(np.float64)
    command = [sys.executable, "-c", _ISOLATED_PESQ, str(rate_hz)]
    child = subprocess.run(command, input=samples.tobytes(), capture_output=True)
    if child.returncode < 0:
        raise _TooManyUtterances
    if child.returncode > 0:
        raise NoScore(f"PESQ: {child.stderr.decode(errors='replace').strip().splitlines()[-1]}")
    return float(child.stdout)
