"""By how much an estimate is late: what a codec, a driver or another program adds, and SI-SDR does not forgive."""

import numpy as np

from deepnmf_cli.scoring.perceptual import pieces
from deepnmf_cli.scoring.sdr import si_sdr

LARGEST_LAG_S = 1.0
LONGEST_STRETCH_SAMPLES = 1 << 20

SMALLEST_GAIN_DB = 6.0
LEAST_SI_SDR_DB = -6.0
"""A lag counts when undoing it gains so much SI-SDR and leaves so much: otherwise chance, or a periodic sound, made it."""


def lag_s(reference: np.ndarray, estimate: np.ndarray, rate_hz: int) -> float:
    """Seconds by which `estimate` (C, N) is later than `reference` (C, N); negative when it is earlier, 0.0 for none.

    The peak of the cross-correlation over +-1 s, in the piece with the most speech of the channel with the most energy.
    """
    from scipy.signal import correlate, correlation_lags

    channel = int(np.argmax([np.ptp(samples) for samples in reference]))
    reference, estimate = reference[channel], estimate[channel]
    piece, _ = max(pieces(reference, rate_hz), key=lambda found: found[1], default=(slice(0), 0.0))
    reference, estimate = (_centred(x[piece][:LONGEST_STRETCH_SAMPLES]) for x in (reference, estimate))
    if not (reference.any() and estimate.any()):
        return 0.0
    lags = correlation_lags(len(estimate), len(reference))
    found = np.abs(correlate(estimate, reference, method="fft"))
    lag = int(lags[np.argmax(np.where(np.abs(lags) <= LARGEST_LAG_S * rate_hz, found, -1.0))])
    if lag == 0:
        return 0.0
    aligned = (
        reference[max(0, -lag) : len(reference) - max(0, lag)],
        estimate[max(0, lag) : len(estimate) + min(0, lag)],
    )
    after_db = si_sdr(*aligned)
    gained = after_db >= LEAST_SI_SDR_DB and after_db - si_sdr(reference, estimate) >= SMALLEST_GAIN_DB
    return lag / rate_hz if gained else 0.0


def _centred(samples: np.ndarray) -> np.ndarray:
    """`samples` (N,) with a peak of about 1 and no mean, which would correlate at every lag."""
    peak = float(np.abs(samples).max(initial=0.0)) or 1.0
    return samples / peak - (samples / peak).mean() if len(samples) else samples
