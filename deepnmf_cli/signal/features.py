"""Features of a spectrum that networks take as input: magnitudes, or magnitudes and phase differences.

The phase of a single bin says nothing by itself, but differences do not change when the phases of all bins are shifted
by the same angle. The difference from the bin's own phase in the previous frame gives the frequency within the bin, and
the difference from the next bin tells where within the window its energy lies. NumPy and torch alike.
"""

from collections.abc import Callable
from functools import cache

import numpy as np

from deepnmf_cli.signal.arrays import Array, like, namespace

PLANES = 5
"""Number of planes of `phase_features`: magnitude, and the real and imaginary parts of two products."""

SMALLEST = 1e-30
"""Product of magnitudes that counts as zero: that of two frames of digital silence."""


def features(
    spectrum: Array,
    before: Array | None,
    window_hops: int,
    with_phase: bool,
    modulus: Callable[[Array], Array] = abs,
    phase_bins: int | None = None,
) -> Array:
    """Return the features of the complex spectra (..., C, F, T) of C channels.

    These are magnitudes (..., F, T), averaged over channels, or with phase `phase_features` (..., PLANES, F, T), for
    which `before` (..., C, F, 1) is the previous frame, None at the start of a recording. Training, dev scores and
    enhancement all use this function; training, where no number is so large that its square overflows, with a faster
    `modulus`, and with products of the lowest `phase_bins` alone, those that the network reads.
    """
    if not with_phase:
        return over_channels(modulus(spectrum))
    before = namespace(spectrum).zeros_like(spectrum[..., :1]) if before is None else before
    return phase_features(spectrum, before, window_hops, modulus, phase_bins)


def phase_features(
    spectrum: Array,
    before: Array,
    window_hops: int,
    modulus: Callable[[Array], Array] = abs,
    bins: int | None = None,
) -> Array:
    """Magnitudes and phase differences (..., PLANES, F, T) of the complex spectra X (..., C, F, T) of C channels.

    `before` (..., C, F, 1) is the previous frame, zeros at the start of a recording, and `window_hops` is the number H
    of hops in a window. The magnitude |X| is followed by two products. In X_ft conj(X_f,t-1) exp(-2 pi i f / H), the
    last factor undoes what a hop adds to the phase at the centre of a bin; for H = 2 it is an alternating sign. The
    other product is X_ft conj(X_f+1,t), zero for the last bin. Both are zero from bin `bins` on, if that is given.

    Magnitudes and products are each averaged over channels, so that opposite channels do not cancel. The mean of
    products is scaled by mean |X| mean |Y| / mean |X||Y|: channels that differ only in gain, including silent ones,
    have the features of one channel with the mean gain.
    """
    arrays, bins = namespace(spectrum), int(spectrum.shape[-2] if bins is None else bins)
    magnitude = over_channels(modulus(spectrum))
    low, following = spectrum[..., :bins, :], spectrum[..., 1 : bins + 1, :]
    past = arrays.concatenate([before[..., :bins, :], low[..., :-1]], -1)
    if bins == spectrum.shape[-2]:
        following = arrays.concatenate([following, arrays.zeros_like(spectrum[..., :1, :])], -2)
    in_frequency = _product(low, following)
    in_time = _product(low, past) * like(_turns(bins, window_hops), spectrum)
    planes = (in_time.real, in_time.imag, in_frequency.real, in_frequency.imag)
    if bins < spectrum.shape[-2]:
        rest = arrays.zeros_like(magnitude[..., bins:, :])
        planes = (arrays.concatenate([plane, rest], -2) for plane in planes)
    return arrays.stack((magnitude, *planes), -3)


def over_channels(x: Array) -> Array:
    """The mean of x (..., C, F, T) over channels.

    A single channel is returned as it is, which saves time that matters for single frames.
    """
    return x[..., 0, :, :] if x.shape[-3] == 1 else x.mean(-3)


def _product(x: Array, y: Array) -> Array:
    """Mean of x conj(y) over channels (..., F, T), scaled as in `phase_features`."""
    product = over_channels(x * y.conj())
    if x.shape[-3] == 1:
        return product
    sizes = abs(x), abs(y)
    together = over_channels(sizes[0] * sizes[1]).clip(SMALLEST, None)
    return product * (over_channels(sizes[0]) * over_channels(sizes[1]) / together)


@cache
def _turns(bins: int, window_hops: int) -> np.ndarray:
    """exp(-2 pi i f / H) for every bin, (F, 1) complex64."""
    parts = np.arange(bins) % window_hops  # without whole turns, for precision
    return np.exp(-2j * np.pi * parts / window_hops).astype(np.complex64)[:, None]
