"""Which recordings a corpus holds: from folders, from a manifest, or as ready pairs of clean and noisy files."""

import csv
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import soundfile

from deepnmf_cli.errors import CorpusError

AUDIO_SUFFIXES = frozenset(f".{name.lower()}" for name in soundfile.available_formats()) | {".mp3", ".aif", ".oga", ".opus"}

SMALLEST_CORPUS = 6
"""Clips of speech, or pairs, below which training cannot mean anything."""

ROLES = ("speech", "noise", "rir", "clean", "noisy")


@dataclass(frozen=True)
class Clip:
    """One recording: its file, the group it is sampled by (speaker, or kind of noise), and its length."""

    path: Path
    group: str
    seconds: float


def audio_files(folder: str | Path) -> list[Path]:
    """All audio files below `folder`, hidden ones left out, in a stable order."""
    folder = Path(folder)
    if not folder.is_dir():
        raise CorpusError(folder, "no folder", "a folder with audio files", "Check the path.")
    found = (p for p in folder.rglob("*") if p.suffix.lower() in AUDIO_SUFFIXES and not p.name.startswith("."))
    return sorted(p for p in found if p.is_file())


def scan(folder: str | Path, smallest: int = 1) -> list[Clip]:
    """The clips below `folder`, grouped by the folder that holds them: `speech/<speaker>/*.flac`.

    In a folder without subfolders each file is a group of its own, since nothing is known about who speaks.
    Raises CorpusError when there are fewer than `smallest` clips.
    """
    files = audio_files(folder)
    if len(files) < smallest:
        raise CorpusError(
            folder, f"{len(files)} audio files", f"at least {smallest}", "Add recordings, or name another folder."
        )
    flat = all(p.parent == Path(folder) for p in files)
    return _with_lengths([(p, p.stem if flat else str(p.parent.relative_to(folder))) for p in files])


def read_manifest(path: str | Path) -> dict[tuple[str, str], list[Clip]]:
    """Clips of a CSV with the columns path, role, speaker, split, by (role, split).

    `role` is speech, noise or rir; `split` is train when empty; `speaker` (any kind of group) may be empty. Paths are
    relative to the manifest. Raises CorpusError naming the line of the first fault.
    """
    path = Path(path)
    if not path.is_file():
        raise CorpusError(path, "no file", "a CSV manifest", "Check the path.")
    wanted: dict[tuple[str, str], list[tuple[Path, str]]] = {}
    with open(path, newline="", encoding="utf-8") as file:
        rows = csv.DictReader(file)
        if missing := {"path", "role"} - set(rows.fieldnames or ()):
            raise CorpusError(
                path, f"no column {', '.join(sorted(missing))}", "the columns path, role, speaker, split", "Add it."
            )
        for line, row in enumerate(rows, start=2):
            clip = path.parent / row["path"]
            if row["role"] not in ROLES[:3]:
                raise CorpusError(f"{path}:{line}", f"role {row['role']!r}", f"one of {', '.join(ROLES[:3])}", "Mend it.")
            if not clip.is_file():
                raise CorpusError(f"{path}:{line}", f"no file {clip}", "a path relative to the manifest", "Mend the path.")
            key = row["role"], row.get("split") or "train"
            wanted.setdefault(key, []).append((clip, row.get("speaker") or clip.stem))
    return {key: _with_lengths(clips) for key, clips in wanted.items()}


def pair_folders(clean: str | Path, noisy: str | Path) -> list[tuple[Path, Path]]:
    """(clean, noisy) files with equal names in two folders, as VoiceBank+DEMAND comes.

    Raises CorpusError when the folders do not pair or when two files of a pair differ in sampling rate or length.
    """
    folders = Path(clean), Path(noisy)
    names = [{str(p.relative_to(f).with_suffix("")): p for p in audio_files(f)} for f in folders]
    alone = sorted(names[0].keys() ^ names[1].keys())
    if alone or not names[0]:
        found = f"{len(alone)} files without a partner, the first {alone[0]!r}" if alone else "no audio files"
        raise CorpusError(noisy, found, f"the same file names as in {clean}", "Give both folders the same names.")
    pairs = [(names[0][key], names[1][key]) for key in sorted(names[0])]
    for pair in pairs:
        infos = [soundfile.info(p) for p in pair]
        if infos[0].samplerate != infos[1].samplerate or infos[0].frames != infos[1].frames:
            raise CorpusError(
                pair[1],
                f"{infos[1].frames} samples at {infos[1].samplerate} Hz",
                f"{infos[0].frames} samples at {infos[0].samplerate} Hz as in {pair[0]}",
                "Cut or convert the pair to the same length and rate.",
            )
    return pairs


def find_pairs(folder: str | Path) -> list[tuple[Path, Path]]:
    """The pairs in `folder`/clean and `folder`/noisy."""
    return pair_folders(Path(folder) / "clean", Path(folder) / "noisy")


def summary(clips: Sequence[Clip]) -> str:
    """For example "2739 clips, 256 groups, 4.3 hours"."""
    hours = sum(c.seconds for c in clips) / 3600
    return f"{len(clips)} clips, {len(Counter(c.group for c in clips))} groups, {hours:.1f} hours"


def _with_lengths(clips: Sequence[tuple[Path, str]], info: Callable = soundfile.info) -> list[Clip]:
    """Read the headers in parallel; an unreadable file is a fault of the corpus and named."""

    def measure(clip: tuple[Path, str]) -> Clip:
        try:
            return Clip(clip[0], clip[1], info(clip[0]).duration)
        except soundfile.LibsndfileError as error:
            raise CorpusError(clip[0], f"a file that cannot be read ({error})", "an audio file", "Remove it.") from error

    with ThreadPoolExecutor() as pool:
        return [clip for clip in pool.map(measure, clips) if clip.seconds > 0]
