"""CHiME-2 as it is delivered: noisy utterances in `isolated/`, by set and by SNR, references beside them."""

import re
from pathlib import Path

from deepnmf_cli.corpus.manifest import pair_files
from deepnmf_cli.errors import CorpusError
from deepnmf_cli.signal import formats

NOISY, REFERENCE = "isolated", "scaled"
SETS = {"train": "si_tr_s", "dev": "si_dt_05", "test": "si_et_05"}
"""Folders of the sets below both trees; copies that hold a single set have none of them."""

SNR_FOLDER = re.compile(r"m?\d+dB")
"""Of the SNRs -6, -3, 0, 3, 6, 9 dB: m6dB, m3dB, 0dB, 3dB, 6dB, 9dB."""


def is_chime(folder: Path) -> bool:
    """Whether the folder has the trees of CHiME-2."""
    return (folder / NOISY).is_dir()


def pairs(folder: Path, split: str) -> list[tuple[Path, Path]]:
    """(clean, noisy) files of the split "train", "dev" or "test".

    The reference of `isolated/<set>/<SNR>/<name>` is `scaled/<set>/<SNR>/<name>`, or where references are kept once for
    all SNRs `scaled/<set>/<name>`. A copy without folders of sets is its training split. `reverberated/` is no
    reference: mixture minus unscaled speech is not the noise. Raises CorpusError when a file has no partner, or one of
    another rate or length.
    """
    if not (folder / REFERENCE).is_dir():
        found = "the tree isolated/ without scaled/"
        raise CorpusError(folder, found, "speech at the level that it has in the mixtures", "Add the tree scaled/.")
    noisy, clean = folder / NOISY, folder / REFERENCE
    if any((noisy / name).is_dir() for name in SETS.values()):
        noisy, clean = noisy / SETS[split], clean / SETS[split]
    elif split != "train":
        return []
    if not noisy.is_dir():
        return []
    references, mixtures = (formats.by_name(formats.find(tree, follow_links=True), tree) for tree in (clean, noisy))
    return pair_files([(_reference(name, references, path), path) for name, path in mixtures.items()])


def _reference(name: str, references: dict[str, Path], noisy: Path) -> Path:
    without_snr = "/".join(part for part in name.split("/") if not SNR_FOLDER.fullmatch(part))
    for candidate in (name, without_snr):
        if candidate in references:
            return references[candidate]
    raise CorpusError(noisy, "no reference of its name", f"one below {REFERENCE}/", "Copy it, or take this file away.")
