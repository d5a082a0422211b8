"""Blocks of atoms: in each source, those of neighbouring frequencies, as many in every block.

Atoms are put in the order of the centres of their spectra, so that blocks are neighbours.
"""

import torch
from torch import Tensor


def check(atoms: tuple[int, int], blocks: int) -> None:
    """Raise ValueError unless the atoms of both sources can be shared by 2 `blocks` of equal size, each within a
    source.
    """
    size, rest = divmod(sum(atoms), 2 * blocks) if blocks > 0 else (0, 0)
    if rest or not size or any(count % size for count in atoms):
        raise ValueError(f"{atoms} atoms cannot be shared by {blocks} blocks of equal size per source")


def by_centre(dictionary: Tensor, atoms: tuple[int, int], bins: int) -> Tensor:
    """Return the dictionary (E, R) with the atoms of each source in the order of the centres of their last `bins`
    rows.
    """
    rows = dictionary[-bins:].square()
    centres = (torch.arange(bins, dtype=rows.dtype)[:, None] * rows).sum(0) / rows.sum(0)
    speech, noise = (part.argsort() for part in centres.split(list(atoms)))
    return dictionary[:, torch.cat([speech, atoms[0] + noise])]
