"""Signal-to-distortion ratios, computed in float64, and the delay that one of them does not tolerate.

* SDR as defined by BSS-eval version 3 (Vincent, Gribonval, Févotte, "Performance measurement in blind audio source
  separation", IEEE TASLP 14(4), 2006; one source, so that interference is part of the distortion): the reference may
  pass a time-invariant filter of 512 taps before the rest counts as distortion. The arithmetic is `fast_bss_eval`'s.
* SI-SDR (Le Roux, Wisdom, Erdogan, Hershey, "SDR - half-baked or well done?", ICASSP 2019): only a gain is allowed.
* The lag: the delay that a codec, a driver or another program adds to an estimate.

Both ratios copy at most one block at a time, so that memory beyond the two signals does not grow with their length.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from deepnmf_cli.scoring.perceptual import pieces

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

BLOCK_SAMPLES = 1 << 20
"""Longer signals are correlated block by block: the library's transforms of ten minutes take more than a gigabyte."""


def sdr(reference: np.ndarray, estimate: np.ndarray) -> float:
    """Return the SDR in dB of `estimate` against `reference`, both float arrays of shape (N,), N >= 1.

    With P the projection on the span of the reference's copies delayed by 0 .. 511 samples,
    SDR = 10 log10(|P e|^2 / |e - P e|^2). NaN when either signal is silent: the ratio is then 0/0.
    """
    of_reference, of_estimate = _unit_energy(reference), _unit_energy(estimate)
    if of_reference is None or of_estimate is None:
        return math.nan
    if len(reference) > BLOCK_SAMPLES:
        return _sdr_by_blocks(reference, estimate, of_reference, of_estimate)
    from fast_bss_eval import sdr_loss  # imports torch where it is installed, which takes seconds

    reference, estimate = of_reference(reference), of_estimate(estimate)
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
    return -float(np.asarray(loss_db)[0, 0])


def si_sdr(reference: np.ndarray, estimate: np.ndarray) -> float:
    """Return the zero-mean SI-SDR in dB of `estimate` against `reference`, both float arrays of shape (N,), N >= 1.

    With r and e free of their means and scaled to unit energy, and c = r.e, SI-SDR = 10 log10(c^2 / |e - c r|^2)
    (eq. (4) of the paper). NaN when either signal is constant: the ratio is then 0/0.
    """
    of_reference, of_estimate = (_unit_energy(signal, zero_mean=True) for signal in (reference, estimate))
    if of_reference is None or of_estimate is None:
        return math.nan

    def blocks() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for r, e in zip(_blocks(reference), _blocks(estimate), strict=True):
            yield of_reference(r), of_estimate(e)

    cosine = math.fsum(float(r @ e) for r, e in blocks())
    distortions = (e - cosine * r for r, e in blocks())
    return _ratio_db(cosine * cosine, math.fsum(float(d @ d) for d in distortions))


@dataclass(frozen=True)
class _UnitEnergy:
    """The scaling of a signal to energy 1, called with any stretch of it.

    Both ratios ignore the level of either signal. Scaling here keeps the library from comparing energies with its
    own absolute floor, which would make quiet recordings score differently from loud ones.
    """

    peak: float
    mean: float
    norm: float

    def __call__(self, samples: np.ndarray) -> np.ndarray:
        # Divide by the peak first, because the squares of very quiet samples would underflow.
        return (np.asarray(samples, dtype=np.float64) / self.peak - self.mean) / self.norm


def _unit_energy(samples: np.ndarray, zero_mean: bool = False) -> _UnitEnergy | None:
    """Return the scale of `samples` (N,), after removing their mean if asked to, or None if they have no energy."""
    lowest, highest = float(samples.min()), float(samples.max())
    peak = max(highest, -lowest)
    if peak == 0 or (zero_mean and lowest == highest):
        return None
    total = math.fsum(float(_UnitEnergy(peak, 0.0, 1.0)(block).sum()) for block in _blocks(samples))
    mean = total / len(samples) if zero_mean else 0.0
    centred = map(_UnitEnergy(peak, mean, 1.0), _blocks(samples))
    energy = math.fsum(float(block @ block) for block in centred)
    return _UnitEnergy(peak, mean, math.sqrt(energy)) if energy else None


def _sdr_by_blocks(reference: np.ndarray, estimate: np.ndarray, of_reference: _UnitEnergy, of_estimate: _UnitEnergy):
    """Return the `sdr` of long signals, block by block.

    With a the autocorrelation of the reference and x its correlation with the estimate at delays of 0 .. 511 samples,
    both summed over blocks, and A the Toeplitz matrix of a, |P e|^2 = x.A^-1 x.
    """
    from scipy.linalg import toeplitz
    from scipy.signal import correlate

    def delayed(samples: np.ndarray, scale: _UnitEnergy, start: int, length: int) -> np.ndarray:
        found = scale(samples[start : start + length + FILTER_TAPS - 1])
        return np.pad(found, (0, length + FILTER_TAPS - 1 - len(found)))

    auto, cross = np.zeros(FILTER_TAPS), np.zeros(FILTER_TAPS)
    for number, block in enumerate(map(of_reference, _blocks(reference))):
        start = number * BLOCK_SAMPLES
        auto += correlate(delayed(reference, of_reference, start, len(block)), block, "valid", "fft")
        cross += correlate(delayed(estimate, of_estimate, start, len(block)), block, "valid", "fft")
    auto[0] += DIAGONAL_LOADING
    target_energy = float(cross @ np.linalg.solve(toeplitz(auto), cross))
    return _ratio_db(target_energy, 1 - target_energy)


def _blocks(samples: np.ndarray) -> Iterator[np.ndarray]:
    for start in range(0, len(samples), BLOCK_SAMPLES):
        yield samples[start : start + BLOCK_SAMPLES]


def _ratio_db(signal_energy: float, distortion_energy: float) -> float:
    floor = 10 ** (-LIMIT_DB / 10)
    ratio = max(signal_energy, floor * distortion_energy) / max(distortion_energy, floor * signal_energy)
    return 10 * math.log10(ratio)


LARGEST_LAG_S = 1.0
LONGEST_STRETCH_SAMPLES = 1 << 20

SMALLEST_GAIN_DB = 6.0
LEAST_SI_SDR_DB = -6.0
"""A lag counts if undoing it raises SI-SDR by at least the first and to at least the second; otherwise it is due to
chance, or to a periodic sound."""


def lag_s(reference: np.ndarray, estimate: np.ndarray, rate_hz: int) -> float:
    """Return by how many seconds `estimate` (C, N) is later than `reference` (C, N); negative if earlier, 0.0 for none.

    The peak of the cross-correlation over +-1 s, in the piece with the most speech of the channel with the largest
    range.
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
    """Return `samples` (N,) with a peak of about 1 and without their mean, which would correlate at every lag."""
    peak = float(np.abs(samples).max(initial=0.0)) or 1.0
    return samples / peak - (samples / peak).mean() if len(samples) else samples
