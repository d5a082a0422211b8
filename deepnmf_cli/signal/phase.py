"""What phase tells: features of spectra that do not depend on where time begins, and masks that turn the phase.

The phase of a single bin says nothing. The difference to the bin's own phase a frame ago is its frequency within the
bin, and the difference to the next bin says where within the window its energy lies. NumPy and torch alike.
"""

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
    sign = like(1.0 - 2.0 * (np.arange(spectrum.shape[-2]) % 2), spectrum.real)[:, None]
    above = arrays.concatenate([spectrum[..., 1:, :], arrays.zeros_like(spectrum[..., :1, :])], -2)
    in_time, in_frequency = ((spectrum * other.conj()).mean(-3) for other in (past, above))
    in_time = in_time * sign
    planes = (abs(spectrum).mean(-3), in_time.real, in_time.imag, in_frequency.real, in_frequency.imag)
    return arrays.stack(planes, -3)


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
