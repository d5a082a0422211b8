"""What networks are given of a spectrum: magnitudes, or magnitudes and what phase tells of a sound.

The phase of a single bin says nothing by itself, but differences stay the same when the phases of all bins turn by the
same angle. The difference to the bin's own phase a frame ago is its frequency within the bin, and the difference to the
next bin says where within the window its energy lies. NumPy and torch alike.
"""

from collections.abc import Callable
from functools import cache

import numpy as np

from deepnmf_cli.signal.arrays import Array, like, namespace

PLANES = 5
"""Of `phase_features`: magnitude, and two products of real and imaginary part each."""

SMALLEST = 1e-30
"""Product of magnitudes that counts as zero: that of two frames of digital silence."""


def features(
    spectrum: Array,
    before: Array | None,
    window_hops: int,
    with_phase: bool,
    modulus: Callable[[Array], Array] = abs,
) -> Array:
    """Return what a network is given of C channels' spectra (..., C, F, T), complex.

    Magnitudes (..., F, T), their mean over channels; or with phase `phase_features` (..., PLANES, F, T), for which
    `before` (..., C, F, 1) is the frame that came before, None at the start of a recording. Training, dev scores and
    enhancement all go through here; training, where no number is so large that its square overflows, with a quicker
    `modulus`.
    """
    if not with_phase:
        return over_channels(modulus(spectrum))
    before = namespace(spectrum).zeros_like(spectrum[..., :1]) if before is None else before
    return phase_features(spectrum, before, window_hops)


def phase_features(spectrum: Array, before: Array, window_hops: int) -> Array:
    """Magnitudes and phase differences (..., PLANES, F, T) of C channels' spectra X (..., C, F, T), complex.

    `before` (..., C, F, 1) is the frame that came before, zeros at the start of a recording, and `window_hops` how many
    hops a window has (H). After the magnitude |X| follow the products X_ft conj(X_f,t-1) exp(-2 pi i f / H), which
    undoes what a hop adds to the phase of the middle of a bin, for H = 2 by an alternating sign, and X_ft
    conj(X_f+1,t), zero for the last bin.

    Channels are averaged, magnitudes and products each, so that opposite ones do not cancel. The mean of products is
    scaled by mean |X| mean |Y| / mean |X||Y|: channels that differ by gains alone, silent ones among them, have the
    features of one channel with the mean gain.
    """
    arrays = namespace(spectrum)
    past = arrays.concatenate([before, spectrum[..., :-1]], -1)
    above = arrays.concatenate([spectrum[..., 1:, :], arrays.zeros_like(spectrum[..., :1, :])], -2)
    magnitude, in_frequency = over_channels(abs(spectrum)), _product(spectrum, above)
    in_time = _product(spectrum, past) * like(_turns(spectrum.shape[-2], window_hops), spectrum)
    planes = (magnitude, in_time.real, in_time.imag, in_frequency.real, in_frequency.imag)
    return arrays.stack(planes, -3)


def over_channels(x: Array) -> Array:
    """The mean of x (..., C, F, T) over channels; of one, without the time to compute it, which counts for single
    frames.
    """
    return x[..., 0, :, :] if x.shape[-3] == 1 else x.mean(-3)


def _product(x: Array, y: Array) -> Array:
    """X conj(y) over channels (..., F, T), see `phase_features`."""
    product = over_channels(x * y.conj())
    if x.shape[-3] == 1:
        return product
    sizes = abs(x), abs(y)
    together = over_channels(sizes[0] * sizes[1]).clip(SMALLEST, None)
    return product * (over_channels(sizes[0]) * over_channels(sizes[1]) / together)


@cache
def _turns(bins: int, window_hops: int) -> np.ndarray:
    """exp(-2 pi i f / H) for every bin, (F, 1) complex64."""
    parts = np.arange(bins) % window_hops  # whole turns left out, for the sake of precision
    return np.exp(-2j * np.pi * parts / window_hops).astype(np.complex64)[:, None]
