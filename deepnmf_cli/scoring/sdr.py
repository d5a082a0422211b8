"""Signal-to-distortion ratios, computed in float64.

* SDR as defined by BSS-eval version 3 (Vincent, Gribonval, Févotte, "Performance measurement in blind audio source
  separation", IEEE TASLP 14(4), 2006; one source, so that interference is part of the distortion): the reference may
  pass a time-invariant filter of 512 taps before the rest counts as distortion. The arithmetic is `fast_bss_eval`'s.
* SI-SDR (Le Roux, Wisdom, Erdogan, Hershey, "SDR - half-baked or well done?", ICASSP 2019): only a gain is allowed.
"""

import math

import numpy as np

FILTER_TAPS = 512
"""Length of the allowed distortion filter: the choice of BSS-eval version 3, 32 ms at 16 kHz."""

DIAGONAL_LOADING = 1e-10
"""Added to the diagonal of the reference's autocorrelation matrix, relative to that diagonal: white noise at -100 dB.
A reference without energy in some band (low-passed, or synthesised without any noise) makes the matrix singular, and
its SDR then depends on this number in the third decimal; 1e-10 is the usual choice. It biases the SDR of an estimate
by less than 0.001 dB up to 60 dB."""

LIMIT_DB = 100.0
"""Both ratios are clipped to +-100 dB: a 16-bit file cannot hold more, and beyond it float64 round-off decides. An
estimate that equals its reference thus scores 100 dB and not infinity, which no mean could hold."""


def sdr(reference: np.ndarray, estimate: np.ndarray) -> float:
    """SDR in dB of `estimate` against `reference`, both float arrays of shape (N,), N >= 1.

    With P the projection on the span of the reference's copies delayed by 0 .. 511 samples,
    SDR = 10 log10(|P e|^2 / |e - P e|^2). NaN when either signal is silent: the ratio is then 0/0.
    """
    from fast_bss_eval import sdr_loss  # imports torch where it is installed, which takes seconds

    reference, estimate = _unit_energy(reference), _unit_energy(estimate)
    if reference is None or estimate is None:
        return math.nan
    # The library truncates circular correlations: below 512 samples they would wrap around, zeros keep them linear.
    padding = (0, max(0, FILTER_TAPS - len(reference)))
    # `pairwise` because the library's other path misreads NumPy 2's `linalg.solve`; with one pair they are the same.
    loss_db = sdr_loss(
        np.pad(estimate, padding)[None],
        np.pad(reference, padding)[None],
        filter_length=FILTER_TAPS,
        load_diag=DIAGONAL_LOADING,
        clamp_db=LIMIT_DB,
        pairwise=True,
    )
    return -float(loss_db[0, 0])


def si_sdr(reference: np.ndarray, estimate: np.ndarray) -> float:
    """Zero-mean SI-SDR in dB of `estimate` against `reference`, both float arrays of shape (N,), N >= 1.

    With r and e free of their means and scaled to unit energy, and c = r.e, SI-SDR = 10 log10(c^2 / |e - c r|^2)
    (eq. (4) of the paper). NaN when either signal is constant: the ratio is then 0/0.
    """
    reference, estimate = _unit_energy(reference, zero_mean=True), _unit_energy(estimate, zero_mean=True)
    if reference is None or estimate is None:
        return math.nan
    cosine = float(reference @ estimate)
    distortion = estimate - cosine * reference
    return _ratio_db(cosine * cosine, float(distortion @ distortion))


def _unit_energy(samples: np.ndarray, zero_mean: bool = False) -> np.ndarray | None:
    """`samples` (N,) as float64 with energy 1, or None where there is no energy to scale.

    Both ratios ignore the level of either signal. Scaling here keeps the library from comparing energies with its
    own absolute floor, which would make quiet recordings score differently from loud ones.
    """
    samples = np.asarray(samples, dtype=np.float64)
    peak = np.abs(samples).max()
    if peak == 0 or (zero_mean and np.ptp(samples) == 0):
        return None
    samples = samples / peak  # first by the peak: the squares of very quiet samples would underflow
    if zero_mean:
        samples = samples - samples.mean()
    return samples / np.linalg.norm(samples)


def _ratio_db(signal_energy: float, distortion_energy: float) -> float:
    floor = 10 ** (-LIMIT_DB / 10)
    ratio = max(signal_energy, floor * distortion_energy) / max(distortion_energy, floor * signal_energy)
    return 10 * math.log10(ratio)
