"""DNSMOS P.835: how listeners would rate speech, noise and the whole, predicted from the estimate alone.

Reddy, Gopal & Cutler, "DNSMOS P.835: A non-intrusive perceptual objective speech quality metric to evaluate noise
suppressors", ICASSP 2022. The network is that of the package `speechmos`, whose own function also computes P.808, which
takes longer than all the rest. The steps around the network are those of that function; a test compares the results.
"""

import math
from functools import cache, lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from deepnmf_cli.scoring.perceptual import WIDE_BAND_HZ, NoScore, resampled

WINDOW_S, HOP_S = 9.01, 1.0

NAMES = ("SIG", "BAK", "OVRL")

CALIBRATION = (
    (-0.08397278, 1.22083953, 0.0052439),
    (-0.13166888, 1.60915514, -0.39604546),
    (-0.06766283, 1.11546468, 0.04602535),
)
"""Polynomials, as published, from the outputs of the network to mean opinion scores, 1 to 5."""


def dnsmos_score(estimate: np.ndarray, rate_hz: int, name: str) -> float:
    """Return SIG (speech), BAK (background) or OVRL (overall) of an array (N,), the mean over windows of 9 s.

    A shorter recording is repeated. Rates above 16 kHz are resampled; a peak beyond full scale is scaled to it. Raises
    NoScore below 16 kHz, for which the network was not made, and for less than a sample at 16 kHz.
    """
    if rate_hz < WIDE_BAND_HZ:
        raise NoScore(f"{name}: a sampling rate below {WIDE_BAND_HZ} Hz")
    samples = np.asarray(estimate, np.float32)
    if not (found := _scores(samples.tobytes(), rate_hz)):
        raise NoScore(f"{name}: too short")
    return found[NAMES.index(name)]


@lru_cache(maxsize=1)
def _scores(content: bytes, rate_hz: int) -> tuple[float, ...]:
    """Return all three at once, because they are asked for one after the other; none if nothing is left at 16 kHz."""
    samples = resampled(np.frombuffer(content, np.float32), rate_hz, WIDE_BAND_HZ).astype(np.float32)
    if not len(samples):
        return ()
    samples = samples / max(1.0, float(np.abs(samples).max()))
    length, hop = int(WINDOW_S * WIDE_BAND_HZ), int(HOP_S * WIDE_BAND_HZ)
    while len(samples) < length:
        samples = np.append(samples, samples)
    count = int(math.floor(len(samples) / WIDE_BAND_HZ) - WINDOW_S) + 1
    windows = [samples[i * hop : i * hop + length] for i in range(count)]
    said = [_network().run(None, {"input_1": window[None]})[0][0] for window in windows if len(window) == length]
    values = [np.mean([np.polyval(p, row[i]) for row in said]) for i, p in enumerate(CALIBRATION)]
    return tuple(float(value) for value in values)


@cache
def _network() -> Any:
    import onnxruntime

    package = find_spec("speechmos")
    assert package is not None and package.origin is not None  # `extras.require` was called before
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1  # because several processes score
    path = Path(package.origin).parent / "dnsmos_models" / "sig_bak_ovr.onnx"
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
