"""Which recordings a corpus holds: from folders, from a manifest, or as ready pairs of clean and noisy files, CHiME-2's
included.
"""

import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from deepnmf_cli.errors import AudioError, CorpusError, count
from deepnmf_cli.signal import audio, formats
from deepnmf_cli.signal.formats import AudioInfo
from deepnmf_cli.tables import misspelt, read_rows

SMALLEST_CORPUS = 6
"""Number of speech clips, or of pairs, below which training cannot mean anything."""

ROLES = ("speech", "noise", "rir")
SPLITS = ("train", "dev", "test")
COLUMNS = ("path", "role", "speaker", "split")
"""Columns of a manifest that are used."""

NAMED = 10
"""Largest number of files of a folder that are named if they cannot be read; all are counted."""


@dataclass(frozen=True)
class Clip:
    """One recording: its file, the group it is sampled by (speaker, or kind of noise), and its length."""

    path: Path
    group: str
    seconds: float


def audio_files(folder: str | Path, smallest: int = 1) -> list[Path]:
    """Return all audio files below `folder` except hidden ones, in a stable order. Links to folders are followed.

    Raises CorpusError if there is no such folder, or if it holds fewer than `smallest` files.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise CorpusError(folder, "no folder", "a folder with audio files", "Check the path.")
    found = formats.scan(folder, follow_links=True)
    if (there := len(found.audio)) < smallest:
        remedy = "Add recordings, or name another folder."
        raise CorpusError(folder, f"{count(there, 'audio file')}{found.beside}", f"at least {smallest}", remedy)
    return found.audio


def scan(folder: str | Path, smallest: int = 1) -> list[Clip]:
    """Return the clips below `folder`, grouped by the folder that holds them: `speech/<speaker>/*.flac`.

    In a folder without subfolders each file is a group of its own, since nothing is known about who speaks.
    Raises CorpusError for a missing folder, fewer than `smallest` files, and a file that cannot be read.
    """
    files = audio_files(folder, smallest)
    flat = all(p.parent == Path(folder) for p in files)
    return _with_lengths([(p, p.stem if flat else str(p.parent.relative_to(folder))) for p in files])


def read_manifest(path: str | Path) -> dict[tuple[str, str], list[Clip]]:
    """Return the clips of a CSV file with the columns path, role, speaker and split, by (role, split).

    `role` is speech, noise or rir; `split` is train (also when empty), dev or test; `speaker` (any kind of group) may
    be empty. Paths are relative to the manifest. Raises CorpusError naming the line of the first fault.
    """
    path = Path(path)
    if not path.is_file():
        raise CorpusError(path, "no file", "a CSV manifest", "Check the path.")
    wanted: dict[tuple[str, str], list[tuple[Path, str]]] = {}
    expected, remedy = f"the columns {', '.join(COLUMNS)}", "Name them in the first line of a CSV file in UTF-8."
    for line, row in read_rows(path, {"path", "role"}.issubset, expected, remedy):
        where, clip = f"{path}:{line}", path.parent / (row["path"] or "")
        role, split = row["role"], (row.get("split") or SPLITS[0]).lower()
        if role not in ROLES:
            raise CorpusError(where, f"role {role!r}", f"one of {', '.join(ROLES)}", "Mend it.")
        if split not in SPLITS:
            raise CorpusError(where, f"split {split!r}", f"one of {', '.join(SPLITS)}, or nothing", "Mend it.")
        if not clip.is_file():
            raise CorpusError(where, f"no file {clip}", "a path relative to the manifest", "Mend the path.")
        wanted.setdefault((role, split), []).append((clip, row.get("speaker") or clip.stem))
    return {key: _with_lengths(clips) for key, clips in wanted.items()}


def remarks_on(source: str | Path) -> Iterator[str]:
    """Yield remarks on a source of recordings, sentence by sentence.

    For a folder, they say which media in it cannot be read and are left out; for a manifest, which columns look like
    one that is used, but are not. Raises CorpusError if a manifest cannot be read.
    """
    source = Path(source)
    if source.is_file():
        yield from (f"{source}: {remark}." for remark in misspelt(source, COLUMNS))
    elif source.is_dir() and (left_out := formats.scan(source, follow_links=True).unreadable):
        yield from map(str, left_out[:NAMED])
        yield f"{source}: {count(len(left_out), 'file')} left out as unreadable."


def pair_folders(clean: str | Path, noisy: str | Path) -> list[tuple[Path, Path]]:
    """Return the (clean, noisy) files with equal names in two folders, the layout of VoiceBank+DEMAND.

    Raises CorpusError if the folders do not pair, if a file cannot be read, and if two files of a pair differ in
    sampling rate or length.
    """
    names = [formats.by_name(audio_files(folder), folder) for folder in (clean, noisy)]
    alone = sorted(names[0].keys() ^ names[1].keys())
    if alone:
        found = f"{count(len(alone), 'file')} without a partner, the first {alone[0]!r}"
        raise CorpusError(noisy, found, f"the same file names as in {clean}", "Give both folders the same names.")
    return pair_files([(names[0][key], names[1][key]) for key in sorted(names[0])])


def pair_files(pairs: list[tuple[Path, Path]]) -> list[tuple[Path, Path]]:
    """Return the same (clean, noisy) files; raises CorpusError if two of a pair differ in sampling rate or length."""
    with ThreadPoolExecutor() as pool:
        headers = list(pool.map(_header, [path for pair in pairs for path in pair]))
    for pair, clean, noisy in zip(pairs, headers[::2], headers[1::2], strict=True):
        if clean.rate_hz != noisy.rate_hz or clean.frames != noisy.frames:
            raise CorpusError(
                pair[1],
                f"{noisy.frames} samples at {noisy.rate_hz} Hz",
                f"{clean.frames} samples at {clean.rate_hz} Hz as in {pair[0]}",
                "Cut or convert the pair to the same length and rate.",
            )
    return pairs


def find_pairs(folder: str | Path) -> list[tuple[Path, Path]]:
    """Return the pairs in `folder`/clean and `folder`/noisy."""
    return pair_folders(Path(folder) / "clean", Path(folder) / "noisy")


def _with_lengths(clips: Sequence[tuple[Path, str]]) -> list[Clip]:
    """Read the headers in parallel. Raises CorpusError naming a file that cannot be read."""
    with ThreadPoolExecutor() as pool:
        measured = pool.map(lambda clip: Clip(clip[0], clip[1], _header(clip[0]).seconds), clips)
        return [clip for clip in measured if clip.seconds > 0]


def _header(path: Path) -> AudioInfo:
    """Return rate and length of a file. Raises CorpusError naming the file."""
    try:
        return audio.info(path)
    except AudioError as error:
        raise CorpusError(path, error.found, error.expected, error.remedy) from error


CHIME_NOISY, CHIME_REFERENCE = "isolated", "scaled"
CHIME_SETS = {"train": "si_tr_s", "dev": "si_dt_05", "test": "si_et_05"}
"""Folders of the sets below both trees; copies that hold a single set have none of them."""

SNR_FOLDER = re.compile(r"m?\d+dB")
"""Names of the folders for SNRs of -6, -3, 0, 3, 6, 9 dB: m6dB, m3dB, 0dB, 3dB, 6dB, 9dB."""


def is_chime(folder: Path) -> bool:
    """Return whether the folder has the trees of CHiME-2."""
    return (folder / CHIME_NOISY).is_dir()


def chime_pairs(folder: Path, split: str) -> list[tuple[Path, Path]]:
    """Return the (clean, noisy) files of the split "train", "dev" or "test".

    The reference of `isolated/<set>/<SNR>/<name>` is `scaled/<set>/<SNR>/<name>` or, where references are kept once for
    all SNRs, `scaled/<set>/<name>`. A copy without folders of sets is the training split. `reverberated/` cannot serve
    as reference: mixture minus unscaled speech is not the noise. Raises CorpusError if a file has no partner, or one of
    another rate or length.
    """
    if not (folder / CHIME_REFERENCE).is_dir():
        found = "the tree isolated/ without scaled/"
        raise CorpusError(folder, found, "speech at the level that it has in the mixtures", "Add the tree scaled/.")
    noisy, clean = folder / CHIME_NOISY, folder / CHIME_REFERENCE
    if any((noisy / name).is_dir() for name in CHIME_SETS.values()):
        noisy, clean = noisy / CHIME_SETS[split], clean / CHIME_SETS[split]
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
    raise CorpusError(
        noisy, "no reference of its name", f"one below {CHIME_REFERENCE}/", "Copy it, or take this file away."
    )
