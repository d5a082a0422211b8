"""What phase tells: features of spectra that do not depend on where time begins, and masks that turn the phase.

The phase of a single bin says nothing. The difference to the bin's own phase a frame ago is its frequency within the
bin, and the difference to the next bin says where within the window its energy lies. NumPy and torch alike.
"""

from functools import cache

import numpy as np

from deepnmf_cli.signal.arrays import Array, library, like

PLANES = 5
"""Of `features`: magnitude, and two products of real and imaginary part each."""


SMALLEST = 1e-30
"""Keeps the direction of a mask that is almost zero finite."""


def features(spectrum: Array, before: Array) -> Array:
    """Magnitudes and phase differences (..., PLANES, F, T) of C channels' spectra X (..., C, F, T), complex.

    `before` (..., C, F, 1) is the frame that came before, zeros at the start of a recording. After the magnitude |X| follow
    the products X_ft conj(X_f,t-1) (-1)^f, whose sign undoes what a hop of half a window adds to the phase of the middle
    of a bin, and X_ft conj(X_f+1,t), zero for the last bin. All are means over channels: products of channels with
    opposite phases do not cancel.
    """
    arrays = library(spectrum)
    past = arrays.concatenate([before, spectrum[..., :-1]], -1)
    above = arrays.concatenate([spectrum[..., 1:, :], arrays.zeros_like(spectrum[..., :1, :])], -2)
    in_time = _over_channels(spectrum * past.conj()) * like(_signs(spectrum.shape[-2]), spectrum.real)
    in_frequency = _over_channels(spectrum * above.conj())
    planes = (_over_channels(abs(spectrum)), in_time.real, in_time.imag, in_frequency.real, in_frequency.imag)
    return arrays.stack(planes, -3)


def _over_channels(x: Array) -> Array:
    """The mean over channels; of one, without the time that it takes to compute it, which counts for single frames."""
    return x[..., 0, :, :] if x.shape[-3] == 1 else x.mean(-3)


@cache
def _signs(bins: int) -> np.ndarray:
    """(-1)^f for every bin, (F, 1)."""
    return (1 - 2 * (np.arange(bins, dtype=np.float32) % 2))[:, None]


def turning(masks: Array) -> Array:
    """Masks (..., 2, F, T) of speech and noise, as they are, or complex ones made of three planes (..., 3, F, T).

    The third plane is the imaginary part of the speech mask, and less that of the noise mask: they still sum to one.
    """
    if masks.shape[-3] == 2:
        return masks
    turn = masks[..., 2:, :, :]
    return masks[..., :2, :, :] + 1j * library(masks).concatenate([turn, -turn], -3)


def at_least(mask: Array, floor: float) -> Array:
    """The mask, real or complex, with its modulus raised to `floor` >= 0 where it is less."""
    if not floor:
        return mask
    size = abs(mask)
    return library(mask).where(size > 0, mask * (size.clip(floor, None) / size.clip(SMALLEST, None)), floor)
