"""Blocks of atoms: atoms of one source with neighbouring frequencies, the same number in every block.

Atoms are sorted by the centres of their spectra, so that the atoms of a block are neighbours.
"""

import torch
from torch import Tensor


def check(atoms: tuple[int, int], blocks: int) -> None:
    """Raise ValueError unless the atoms of both sources can be divided into 2 * `blocks` blocks of equal size, each
    within one source.
    """
    size, rest = divmod(sum(atoms), 2 * blocks) if blocks > 0 else (0, 0)
    if rest or not size or any(count % size for count in atoms):
        raise ValueError(f"{atoms} atoms cannot be divided into {2 * blocks} equal blocks, each within one source")


def by_centre(dictionary: Tensor, atoms: tuple[int, int], bins: int) -> Tensor:
    """Return the dictionary (E, R) with the atoms of each source sorted by the spectral centres of their last `bins`
    rows.
    """
    rows = dictionary[-bins:].square()
    centres = (torch.arange(bins, dtype=rows.dtype)[:, None] * rows).sum(0) / rows.sum(0)
    speech, noise = (part.argsort() for part in centres.split(list(atoms)))
    return dictionary[:, torch.cat([speech, atoms[0] + noise])]
