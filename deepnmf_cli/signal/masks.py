"""Masks as the path from waveform to waveform uses them, in NumPy and torch alike."""

from deepnmf_cli.signal.arrays import Array, namespace

SMALLEST = 1e-30
"""Modulus below which a mask has no phase worth keeping."""


def complex_masks(masks: Array) -> Array:
    """Masks (..., 2, F, T) of speech and noise, as they are, or complex ones made of three planes (..., 3, F, T).

    The third plane is the imaginary part of the speech mask, and less that of the noise mask: they still sum to one.
    """
    if masks.shape[-3] == 2:
        return masks
    turn = masks[..., 2:, :, :]
    return masks[..., :2, :, :] + 1j * namespace(masks).concatenate([turn, -turn], -3)


def at_least(mask: Array, floor: float) -> Array:
    """The mask, real >= 0 or complex, with its modulus raised to `floor` >= 0 where it is less."""
    if not floor:
        return mask
    size = abs(mask)
    return namespace(mask).where(size > SMALLEST, mask * (size.clip(floor, None) / size.clip(SMALLEST, None)), floor)
