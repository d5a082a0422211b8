"""Perceptual scores, by the packages that carry the reference implementations: `pesq` and `pystoi`.

* PESQ: ITU-T P.862 mapped by P.862.1 (narrow band) or P.862.2 (wide band), 1.0 (bad) to about 4.6 (transparent).
* STOI (Taal, Hendriks, Heusdens, Jensen, IEEE TASLP 19(7), 2011) and ESTOI (Jensen, Taal, IEEE/ACM TASLP 24(11),
  2016): correlations of short-time band envelopes, 0 to 1, higher is more intelligible.

Each function raises `NoScore` where its measure is not defined for the signal.
"""

import subprocess
import sys
import warnings

import numpy as np

NARROW_BAND_HZ = 8000
WIDE_BAND_HZ = 16000

LONGEST_SAFE_PESQ_S = 20.0
"""The C code of PESQ keeps at most 50 utterances and writes past its tables beyond that. It needs 0.2 s of speech and
0.2 s of pause for one utterance, so that 20 s can never hold more; longer signals are scored in a process of their
own, which may crash without taking the evaluation with it."""

SHORTEST_STOI_S = 0.03
"""pystoi cuts frames of 256 samples at 10 kHz and fails without a single one."""

_ISOLATED_PESQ = """
import sys
import numpy as np
from pesq import pesq
samples = np.frombuffer(sys.stdin.buffer.read()).reshape(2, -1)
print(float(pesq(int(sys.argv[1]), samples[0], samples[1], sys.argv[2])))
"""


class NoScore(Exception):
    """A measure is not defined for a signal; the text says why."""


def pesq_score(reference: np.ndarray, estimate: np.ndarray, rate_hz: int) -> float:
    """PESQ (MOS-LQO) of `estimate` against `reference`, both float arrays of shape (N,).

    Narrow band at 8 kHz, wide band at 16 kHz. Signals at any other rate are resampled to 16 kHz, for this measure
    only. Raises NoScore for signals that are too short (0.25 s) or hold no utterance.
    """
    from pesq import BufferTooShortError, NoUtterancesError, pesq

    if rate_hz not in (NARROW_BAND_HZ, WIDE_BAND_HZ):
        reference, estimate = (_resample(x, rate_hz, WIDE_BAND_HZ) for x in (reference, estimate))
        rate_hz = WIDE_BAND_HZ
    mode = "nb" if rate_hz == NARROW_BAND_HZ else "wb"
    if len(reference) > LONGEST_SAFE_PESQ_S * rate_hz:
        return _isolated_pesq(reference, estimate, rate_hz, mode)
    try:
        score = float(pesq(rate_hz, reference, estimate, mode))
    except BufferTooShortError as error:
        raise NoScore("PESQ: too short") from error
    except NoUtterancesError as error:
        raise NoScore("PESQ: no utterance found") from error
    return _defined(score)


def stoi_score(reference: np.ndarray, estimate: np.ndarray, rate_hz: int, extended: bool = False) -> float:
    """STOI, or ESTOI with `extended`, of `estimate` against `reference`, both float arrays of shape (N,).

    The package resamples to 10 kHz itself. Raises NoScore when fewer than 30 frames (0.4 s) of speech remain, where
    the package would return a placeholder of 1e-5.
    """
    from pystoi import stoi

    name = "ESTOI" if extended else "STOI"
    if len(reference) < SHORTEST_STOI_S * rate_hz:
        raise NoScore(f"{name}: too short")
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="Not enough STFT frames", category=RuntimeWarning)
        try:
            return float(stoi(reference, estimate, rate_hz, extended=extended))
        except RuntimeWarning as warning:
            raise NoScore(f"{name}: too little speech") from warning


def _resample(samples: np.ndarray, from_hz: int, to_hz: int) -> np.ndarray:
    import soxr

    return soxr.resample(samples, from_hz, to_hz, quality="VHQ")


def _isolated_pesq(reference: np.ndarray, estimate: np.ndarray, rate_hz: int, mode: str) -> float:
    """PESQ in a Python process of its own, because too many utterances make the C code crash the process."""
    samples = np.stack([reference, estimate]).astype(np.float64)
    child = subprocess.run(
        [sys.executable, "-c", _ISOLATED_PESQ, str(rate_hz), mode], input=samples.tobytes(), capture_output=True
    )
    if child.returncode < 0:
        raise NoScore("PESQ: crashed, more utterances than it can hold; cut the recording")
    if child.returncode > 0:
        raise NoScore(f"PESQ: {child.stderr.decode(errors='replace').strip().splitlines()[-1]}")
    return _defined(float(child.stdout))


def _defined(score: float) -> float:
    if not np.isfinite(score):
        raise NoScore("PESQ: no utterance found")
    return score
