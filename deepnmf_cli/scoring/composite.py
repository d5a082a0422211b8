"""Segmental SNR, and the composite scores CSIG, CBAK and COVL, as most papers on speech enhancement report them.

Hu & Loizou, "Evaluation of objective quality measures for speech enhancement", IEEE TASLP 16(1), 2008: regressions of
listeners' ratings of speech, background and the whole on PESQ, on the log-likelihood ratio of linear prediction
(LLR), on the weighted spectral slope (WSS; Klatt, ICASSP 1982) and on the segmental SNR. Frames, filters and constants
are those of the authors' program `composite.m`. They used the PESQ of P.862; since then, everybody has used that of
P.862.2 for 16 kHz, and so does this file.
"""

import math
from collections.abc import Callable, Iterator

import numpy as np

from deepnmf_cli.scoring.perceptual import NARROW_BAND_HZ, WIDE_BAND_HZ, NoScore, remember_last, resampled, shared_pesq

NAMES = ("CSIG", "CBAK", "COVL")

FRAME_S, HOP_PER_FRAME = 0.03, 4
LOWEST_DB, HIGHEST_DB = -10.0, 35.0
"""Limits of the SNR of a frame."""

KEPT = 0.95
"""LLR and WSS are means over this share of the frames, those with the smallest values."""

EPSILON = float(np.finfo(np.float64).eps)
"""Keeps ratios of silent frames finite. As an offset of the samples, as in `composite.m`, it determines what digital
silence has instead of a spectrum."""

LLR_WITHOUT_RATIO = math.log(1000)
"""LLR of a frame in which rounding left no positive ratio."""

WIDE_ORDER, NARROW_ORDER, LOWEST_WIDE_HZ = 16, 10, 10_000
"""Orders of linear prediction at sampling rates from LOWEST_WIDE_HZ on, and below."""

K_MAX, K_LOCAL = 20.0, 1.0
"""Constants in dB that set how much less a band counts in WSS the further it is below the maximum and the next peak."""

CENTRES_HZ = (
    50, 120, 190, 260, 330, 400, 470, 540, 617.372, 703.378, 798.717, 904.128, 1020.38, 1148.30, 1288.72, 1442.54,
    1610.70, 1794.16, 1993.93, 2211.08, 2446.71, 2701.97, 2978.04, 3276.17, 3597.63,
)  # fmt: skip
WIDTHS_HZ = (
    70, 70, 70, 70, 70, 70, 70, 77.3724, 86.0056, 95.3398, 105.411, 116.256, 127.914, 140.423, 153.823, 168.154,
    183.457, 199.776, 217.153, 235.631, 255.255, 276.072, 298.126, 321.465, 346.136,
)  # fmt: skip
"""Critical bands of WSS."""

SMALLEST_FILTER = math.exp(-30 / (2 * 2.303))
QUIETEST_BAND_DB = -100.0

BLOCK_FRAMES = 2000
"""Number of frames held in memory at once."""


def segmental_snr(reference: np.ndarray, estimate: np.ndarray, rate_hz: int) -> float:
    """Return the mean over frames of the SNR in dB, limited to -10 to 35, of float64 arrays (N,).

    SNR_t = 10 log10(sum s^2 / sum (s - x)^2), s and x in a Hann window of 30 ms. Frames without speech count, as they
    do in the program of the authors. Raises NoScore for signals shorter than a frame and a hop.
    """

    def snr_db(s: np.ndarray, x: np.ndarray) -> np.ndarray:
        noise = np.square(s - x).sum(-1)
        return 10 * np.log10(np.square(s).sum(-1) / (noise + EPSILON) + EPSILON)

    return float(np.clip(_over_frames(snr_db, reference, estimate, rate_hz, "SSNR"), LOWEST_DB, HIGHEST_DB).mean())


def composite_score(reference: np.ndarray, estimate: np.ndarray, rate_hz: int, name: str) -> float:
    """Return CSIG (speech), CBAK (background) or COVL (overall), 1 to 5, of float64 arrays (N,).

    Signals at rates other than 8 and 16 kHz are resampled to 16 kHz. Raises NoScore where `pesq_score` and
    `segmental_snr` do.
    """
    try:
        return _composites(reference, estimate, rate_hz)[NAMES.index(name)]
    except NoScore as error:
        raise NoScore(f"{name}: {str(error).partition(': ')[2]}") from error


@remember_last
def _composites(reference: np.ndarray, estimate: np.ndarray, rate_hz: int) -> tuple[float, float, float]:
    """Return all three at once, because they are asked for one after the other."""
    if rate_hz not in (NARROW_BAND_HZ, WIDE_BAND_HZ):
        reference, estimate = (resampled(x, rate_hz, WIDE_BAND_HZ) for x in (reference, estimate))
        rate_hz = WIDE_BAND_HZ
    ssnr = segmental_snr(reference, estimate, rate_hz)
    pesq = shared_pesq(reference, estimate, rate_hz)
    if rate_hz == NARROW_BAND_HZ:
        pesq = _raw_pesq(pesq)
    order = WIDE_ORDER if rate_hz >= LOWEST_WIDE_HZ else NARROW_ORDER
    offset = (reference + EPSILON, estimate + EPSILON)
    llr = _smallest_mean(_over_frames(lambda s, x: _llr(s, x, order), *offset, rate_hz))
    filters = _filters(rate_hz)
    wss = _smallest_mean(_over_frames(lambda s, x: _wss(s, x, filters), *offset, rate_hz))
    values = (
        3.093 - 1.029 * llr + 0.603 * pesq - 0.009 * wss,
        1.634 + 0.478 * pesq - 0.007 * wss + 0.063 * ssnr,
        1.594 + 0.805 * pesq - 0.512 * llr - 0.007 * wss,
    )
    csig, cbak, covl = (float(np.clip(value, 1, 5)) for value in values)
    return csig, cbak, covl


def _raw_pesq(mos_lqo: float) -> float:
    """Return the score of P.862 that P.862.1 maps to `mos_lqo`."""
    return (4.6607 - math.log(4 / (mos_lqo - 0.999) - 1)) / 1.4945


def _over_frames(
    measure: Callable[[np.ndarray, np.ndarray], np.ndarray],
    reference: np.ndarray,
    estimate: np.ndarray,
    rate_hz: int,
    name: str = "LLR",
) -> np.ndarray:
    """Return `measure` (T,) of windowed frames (T, size) of both signals."""
    blocks = [measure(*block) for block in zip(_frames(reference, rate_hz), _frames(estimate, rate_hz), strict=True)]
    if not blocks:
        raise NoScore(f"{name}: too short")
    return np.concatenate(blocks)


def _frames(samples: np.ndarray, rate_hz: int) -> Iterator[np.ndarray]:
    """Yield windowed frames (T, size), block after block; the last frame that fits is left out, as in `composite.m`."""
    size = round(FRAME_S * rate_hz)
    hop = int(FRAME_S * rate_hz / HOP_PER_FRAME)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(1, size + 1) / (size + 1))
    count = (len(samples) - size) // hop if len(samples) >= size else 0
    for first in range(0, count, BLOCK_FRAMES):
        last = min(count, first + BLOCK_FRAMES)
        part = samples[first * hop : (last - 1) * hop + size]
        yield np.lib.stride_tricks.sliding_window_view(part, size)[::hop] * window


def _smallest_mean(values: np.ndarray) -> float:
    return float(np.sort(values)[: round(len(values) * KEPT)].mean())


def _llr(reference: np.ndarray, estimate: np.ndarray, order: int) -> np.ndarray:
    """Return log-likelihood ratios (T,): log (a_x' R_s a_x / a_s' R_s a_s).

    a_x and a_s are the prediction filters of estimate and reference, R_s is the autocorrelation of the reference.
    """
    correlation = _autocorrelation(reference, order)
    own, other = (_prediction_filter(r) for r in (correlation, _autocorrelation(estimate, order)))
    lags = np.abs(np.subtract.outer(np.arange(order + 1), np.arange(order + 1)))
    matrix = correlation[:, lags]
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = np.einsum("ti,tij,tj->t", other, matrix, other) / np.einsum("ti,tij,tj->t", own, matrix, own)
        llr = np.log(ratio)
    return np.where(ratio > 0, llr, LLR_WITHOUT_RATIO)


def _autocorrelation(frames: np.ndarray, order: int) -> np.ndarray:
    """Return the autocorrelation at lags 0 to `order` (T, order + 1) of frames (T, size)."""
    size = frames.shape[1]
    return np.stack([np.einsum("ts,ts->t", frames[:, : size - k], frames[:, k:]) for k in range(order + 1)], 1)


def _prediction_filter(correlation: np.ndarray) -> np.ndarray:
    """Return filters (T, order + 1) that begin with 1, from autocorrelations (T, order + 1), by Levinson and Durbin."""
    count, lags = correlation.shape
    a, error = np.zeros((count, lags)), correlation[:, 0].copy()
    a[:, 0] = 1
    with np.errstate(invalid="ignore", divide="ignore"):
        for i in range(1, lags):
            reflection = -np.einsum("tk,tk->t", a[:, :i], correlation[:, i:0:-1]) / error
            a[:, : i + 1] += reflection[:, None] * a[:, i::-1]
            error *= 1 - reflection**2
    return a


def _filters(rate_hz: int) -> np.ndarray:
    """Return critical-band filters (25, bins) over the power spectrum."""
    bins = 2 ** math.ceil(math.log2(2 * round(FRAME_S * rate_hz))) // 2
    centres, widths = (np.array(x)[:, None] / (rate_hz / 2) * bins for x in (CENTRES_HZ, WIDTHS_HZ))
    gain = WIDTHS_HZ[0] / np.array(WIDTHS_HZ)[:, None]
    filters = gain * np.exp(-11 * ((np.arange(bins) - np.floor(centres)) / widths) ** 2)
    return np.where(filters > SMALLEST_FILTER, filters, 0)


def _wss(reference: np.ndarray, estimate: np.ndarray, filters: np.ndarray) -> np.ndarray:
    """Return weighted spectral slopes (T,): sum_b w_b (d_b - d'_b)^2 / sum_b w_b.

    d are the differences in dB between neighbouring bands, w is the mean of both signals' weights.
    """
    bins = filters.shape[1]
    slopes, weights = [], []
    for frames in (reference, estimate):
        power = np.square(np.abs(np.fft.rfft(frames, 2 * bins)[:, :bins]))
        level = np.maximum(10 * np.log10(power @ filters.T + 1e-300), QUIETEST_BAND_DB)
        slope = np.diff(level)
        below_max = level.max(1, keepdims=True) - level[:, :-1]
        below_peak = _next_peak(level, slope) - level[:, :-1]
        slopes.append(slope)
        weights.append(K_MAX / (K_MAX + below_max) * K_LOCAL / (K_LOCAL + below_peak))
    weight = (weights[0] + weights[1]) / 2
    return (weight * (slopes[0] - slopes[1]) ** 2).sum(1) / weight.sum(1)


def _next_peak(level: np.ndarray, slope: np.ndarray) -> np.ndarray:
    """Return the level (T, 24) of the peak that each band rises to or, if it falls, has fallen from.

    If a band rises, this is the level of the band before the peak, as in `composite.m`.
    """
    bands = slope.shape[1]
    rising, falling = np.empty(slope.shape, int), np.empty(slope.shape, int)
    reached = np.full(len(slope), bands)
    for i in range(bands)[::-1]:
        rising[:, i] = reached = np.where(slope[:, i] > 0, reached, i)
    reached = np.full(len(slope), -1)
    for i in range(bands):
        falling[:, i] = reached = np.where(slope[:, i] <= 0, reached, i)
    return np.take_along_axis(level, np.where(slope > 0, rising - 1, falling + 1), 1)
