"""A pack: recordings of a corpus as coded pieces, as many as fit into a number of bytes, with an index.

A pack is a folder:

    index.csv        a manifest (`manifest.read_manifest`) of all pieces, with the file that each is from
    speech/          pieces of at most PIECE_S, one channel, in Ogg Opus
    noise/           the same in Ogg Vorbis
    rooms/           room responses in FLAC
    dev/clean/ and dev/noisy/   pairs as they are, which must stay as they are for scores to be compared
    SHA256SUMS       checksums of all files, as `sha256sum` writes them

At 24 kbit/s Opus is nearly transparent for speech, and Vorbis is not; in noise Opus loses 3 to 5 dB above 4 kHz, where
Vorbis stays within 2 dB. Both keep the number of samples and their places, Opus the latter at one of its own sampling
rates: a decoder drops what the encoder put before them (RFC 7845, pre-skip).
"""

import csv
import hashlib
import io
import itertools
import re
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import soundfile

from deepnmf_cli import checkpoint
from deepnmf_cli.corpus import inspection
from deepnmf_cli.corpus.clips import Block, converted, decode, explaining
from deepnmf_cli.corpus.effects import CODED_HZ
from deepnmf_cli.corpus.manifest import ROLES, SMALLEST_CORPUS, Clip, find_pairs, read_manifest, remarks_on, scan
from deepnmf_cli.corpus.mixing import is_silent
from deepnmf_cli.errors import CorpusError, DeepnmfError, UsageError, count
from deepnmf_cli.signal import audio
from deepnmf_cli.signal.audio import AudioReader
from deepnmf_cli.signal.formats import is_seekable
from deepnmf_cli.workers import available_cpus

INDEX, SUMS = "index.csv", "SHA256SUMS"

COLUMNS = ("path", "role", "speaker", "split", "source", "start_s", "seconds")
"""Columns of the index: those of a manifest, and where a piece is from."""

PIECE_S = 15.0
"""Length of the longest piece. Longer recordings are cut into several, so that a single one does not fill the pack."""

SHORTEST_S = 0.3
"""The remainder at the end of a recording is left out if it is shorter."""

CODINGS = {
    "speech": (".opus", {"format": "OGG", "subtype": "OPUS", "compression_level": 0.93}),
    "noise": (".ogg", {"format": "OGG", "subtype": "VORBIS", "compression_level": 0.9}),
    "rir": (".flac", {"format": "FLAC", "subtype": "PCM_16"}),
}
"""Role -> suffix, and settings of libsndfile: 22 to 24 and 25 to 31 kbit/s at 16 kHz for speech and noise."""

SHARES = {"speech": 0.6, "noise": 0.4}
"""Shares of the bytes that rooms and dev pairs leave. Speech gets more: it differs by speaker, of which there are many
more than kinds of noise. What one role cannot fill goes to the other."""

ROOMS_SHARE, DEV_SHARE = 0.05, 0.15
"""Largest shares of the bytes that room responses and dev pairs may take."""

MOST_OPEN = 128
"""Most files that are open at a time to be read piece by piece; the one whose turn lies furthest back goes first."""

ROOM_FOLDERS = ("rooms", "rir")

Say = Callable[[str, bool], None]
"""Takes a sentence for the user, and whether it is a warning."""


@dataclass(frozen=True)
class Piece:
    """A stretch of a recording: its role, its group, and its start and end in seconds."""

    role: str
    clip: Clip
    start_s: float
    end_s: float

    @property
    def seconds(self) -> float:
        """Length of the piece in seconds."""
        return self.end_s - self.start_s


@dataclass
class Packed:
    """What has been written to a pack."""

    lines: list[str] = field(default_factory=list)
    """Lines of the index."""
    bytes: int = 0
    """Size of all files, including index and checksums."""
    pieces: dict[str, list[Piece]] = field(default_factory=lambda: {role: [] for role in ROLES})
    """Pieces by role."""
    pairs: int = 0
    full: bool = False
    """Whether there was more material than fits."""


def pack(
    corpora: Sequence[Path],
    output: Path,
    max_bytes: int,
    rate_hz: int = 16000,
    dev: Path | None = None,
    part: tuple[int, int] = (1, 1),
    say: Say = lambda sentence, warning: None,
    progress: Callable[[int], None] = lambda size: None,
) -> Packed:
    """Write a pack of at most `max_bytes` with pieces of all corpora; see `find_clips` for what a corpus is.

    Speakers take turns with one piece each, and so do kinds of noise, so that all of them are in before any has a
    second piece. With `part` = (i, n), only every n-th recording is taken, from the i-th on, for n packs that have no
    recording in common. Pairs of the folder `dev` are chosen evenly, whatever the part. `progress` is called with the
    number of bytes written so far.

    Raises UsageError when the folder `output` is not empty or its parent is missing, when Opus does not have the rate,
    or when `max_bytes` is too small for a pack to train on;
    CorpusError when there is no speech or no noise, or when a recording cannot be read;
    DeepnmfError when the disk is full.
    """
    if rate_hz not in CODED_HZ["opus"]:
        rates = ", ".join(map(str, CODED_HZ["opus"]))
        raise UsageError("--rate", f"{rate_hz} Hz", f"a rate that Opus keeps: {rates}", "Choose one of these.")
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UsageError(output, "something there", "a new or an empty folder", "Remove it, or choose another.")
    if not output.absolute().parent.is_dir():
        raise UsageError(output, "no folder to make it in", "a folder that exists", "Make it, or choose another.")
    clips = _distinct(find_clips(corpora, say), say)
    for role in SHARES:
        if not clips[role]:
            remedy = f"A corpus has {role} in a folder of this name, or in its manifest."
            raise CorpusError(", ".join(map(str, corpora)), f"no {role}", f"recordings of {role}", remedy)
    pairs = find_pairs(dev) if dev else []
    for remark in remarks_on(dev) if dev else ():
        say(remark, True)
    _warn_of_shared(clips, pairs, say)
    chosen = {role: _of_part(clips[role], part) for role in SHARES}
    checkpoint.remove_leftovers(output.absolute().parent)
    packed = Packed()
    try:
        with checkpoint.atomic_folder(output) as folder, ThreadPoolExecutor(available_cpus()) as pool:
            packed.bytes += len(_line(COLUMNS).encode()) + len(_sum_line("0" * 64, Path(INDEX)))
            _pack_dev(pairs, folder, DEV_SHARE * max_bytes, packed)
            if pairs and not packed.pairs:
                say(f"{dev}: not one pair fits into {DEV_SHARE:.0%} of the pack; it has none.", True)
            _pack_rooms(clips["rir"], folder, ROOMS_SHARE * max_bytes, rate_hz, packed)
            _pack_pieces(chosen, folder, max_bytes, rate_hz, pool, packed, progress)
            _require_enough(packed, corpora, max_bytes)
            (folder / INDEX).write_text(_line(COLUMNS) + "".join(sorted(packed.lines)), encoding="utf-8")
            write_sums(folder)
    except OSError as error:
        found = f"no way to write it ({error.strerror})"
        raise DeepnmfError(output, found, "room on the disk", "Free some space, or choose another folder.") from error
    return packed


def find_clips(corpora: Iterable[Path], say: Say) -> dict[str, list[Clip]]:
    """Return role (speech, noise, rir) -> clips of all corpora, calling `say` for what is left out.

    A corpus is a folder with speech/, noise/, and rooms/ or rir/, or a manifest, whose training rows are used. Raises
    CorpusError for anything that is neither.
    """
    clips: dict[str, list[Clip]] = {"speech": [], "noise": [], "rir": []}
    for corpus in corpora:
        if corpus.is_file():
            for remark in remarks_on(corpus):
                say(remark, True)
            for (role, split), rows in read_manifest(corpus).items():
                clips[role] += rows if split == "train" else []
            continue
        folders = {name: corpus / name for name in (*SHARES, *ROOM_FOLDERS) if (corpus / name).is_dir()}
        if not folders:
            expected = "a manifest, or a folder with speech/, noise/, and perhaps rooms/ or rir/"
            found = "none of these folders in it" if corpus.is_dir() else "nothing"
            raise CorpusError(corpus, found, expected, "Name the folder above them.")
        for name, folder in folders.items():
            for remark in remarks_on(folder):
                say(remark, True)
            clips["rir" if name in ROOM_FOLDERS else name] += scan(folder)
    return clips


def write_sums(folder: Path) -> None:
    """Write the checksums of all files of a complete pack."""
    paths = sorted(folder.rglob("*.*"))
    sums = [_sum_line(checkpoint.file_hash(path), path.relative_to(folder)) for path in paths]
    (folder / SUMS).write_text("".join(sums), encoding="utf-8")


def verify(folder: Path) -> Path:
    """Return the index of a pack. Raises CorpusError unless all its files are there as they were written."""
    sums, again = folder / SUMS, "Copy the pack again, or make it anew with `deepnmf pack`."
    if not (folder / INDEX).is_file() or not sums.is_file():
        found = f"no {SUMS if (folder / INDEX).is_file() else INDEX}" if folder.is_dir() else "no folder"
        raise CorpusError(folder, found, "a pack, as `deepnmf pack` writes it", "Check the path.")
    try:
        listed = [line.split("  ", 1) for line in sums.read_text(encoding="utf-8").splitlines()]
        with ThreadPoolExecutor() as pool:
            digests = pool.map(lambda line: checkpoint.file_hash(folder / line[1]), listed)
            for (digest, name), found in zip(listed, digests, strict=True):
                if digest != found:
                    raise CorpusError(folder / name, "another content than was packed", "the file as written", again)
    except FileNotFoundError as error:
        raise CorpusError(error.filename, "no file", f"all files that {SUMS} lists", again) from error
    except (OSError, ValueError, IndexError) as error:
        raise CorpusError(sums, f"no readable list ({error})", "checksums and names of files", again) from error
    if INDEX not in {name for _, name in listed}:
        raise CorpusError(sums, f"no line for {INDEX}", "one for every file", again)
    return folder / INDEX


def _distinct(clips: dict[str, list[Clip]], say: Say) -> dict[str, list[Clip]]:
    """Leave out all but the first of several clips of one role and one content."""
    kept, twice = {}, 0
    for role, found in clips.items():
        sizes = [clip.path.stat().st_size for clip in found]
        many, firsts = Counter(sizes), {}
        for clip, size in zip(found, sizes, strict=True):
            firsts.setdefault(checkpoint.file_hash(clip.path) if many[size] > 1 else clip.path, clip)
        kept[role] = list(firsts.values())
        twice += len(found) - len(firsts)
    if twice:
        say(f"{count(twice, 'file')} more than once in the corpus, taken once.", False)
    return kept


def _warn_of_shared(clips: dict[str, list[Clip]], pairs: Sequence[tuple[Path, Path]], say: Say) -> None:
    given = (clip.path for role in SHARES for clip in clips[role])
    if shared := inspection.shared_files(given, (path for pair in pairs for path in pair)):
        say(f"{len(shared)} dev files are in the corpora, the first {shared[0]}: the dev score will flatter.", True)


def _of_part(clips: Sequence[Clip], part: tuple[int, int]) -> list[Clip]:
    """Return every n-th clip from the i-th on, in the order of groups and names, so that groups are divided up too."""
    first, step = part
    return sorted(clips, key=lambda clip: (clip.group, clip.path))[first - 1 :: step]


def _turns(role: str, clips: Sequence[Clip]) -> Iterator[Piece]:
    """Yield pieces in the order of packing: groups take turns with a piece each, and so do the clips of a group."""
    groups: dict[str, list[Clip]] = {}
    for clip in clips:
        groups.setdefault(clip.group, []).append(clip)
    waiting = deque(_pieces(role, _shuffled(group)) for _, group in sorted(groups.items()))
    while waiting:
        if (piece := next(waiting[0], None)) is None:
            waiting.popleft()
        else:
            yield piece
            waiting.rotate(-1)


def _shuffled(clips: Sequence[Clip]) -> list[Clip]:
    """Return the clips in an order unrelated to their names, since neighbours are alike, but the same every time."""
    return sorted(clips, key=lambda clip: hashlib.sha256(clip.path.name.encode()).digest())


def _pieces(role: str, clips: Sequence[Clip]) -> Iterator[Piece]:
    """Yield the first piece of each clip, then the second ones, and so on."""
    for start in (PIECE_S * number for number in itertools.count()):
        left = [clip for clip in clips if clip.seconds - start >= (SHORTEST_S if start else 0)]
        if not left:
            return
        yield from (Piece(role, clip, start, min(clip.seconds, start + PIECE_S)) for clip in left)


class _Readers:
    """Recordings that are read piece by piece, in the order of their pieces, and stay open until the last one.

    In formats that do not tell where a sample lies, such as MP3, every piece would be decoded from the start on.
    """

    def __init__(self) -> None:
        self._open: OrderedDict[Path, AudioReader] = OrderedDict()
        self._seekable: set[Path] = set()

    def read(self, piece: Piece) -> Block | None:
        """Return the samples (n, channels) of a piece and their rate, or None for a piece that is read as quickly at
        any time. Raises CorpusError if it cannot be read.
        """
        path = piece.clip.path
        if piece.seconds == piece.clip.seconds or path in self._seekable:
            return None
        with explaining(path):
            reader = self._open[path] = self._open.pop(path, None) or AudioReader(path)
            if is_seekable(reader.info):
                self._seekable.add(path)
                self._close(path)
                return None
            start, end = (round(time * reader.info.rate_hz) for time in (piece.start_s, piece.end_s))
            samples = np.concatenate([*reader.blocks(start=start, end=end)], 1)
        if piece.end_s >= piece.clip.seconds:
            self._close(path)
        elif len(self._open) > MOST_OPEN:
            self._close(next(iter(self._open)))
        return samples.T, reader.info.rate_hz

    def close(self) -> None:
        """Close what is still open."""
        for path in list(self._open):
            self._close(path)

    def _close(self, path: Path) -> None:
        self._open.pop(path).close()


def _coded(piece: Piece, rate_hz: int, block: Block | None = None) -> bytes | None:
    """Return a piece, which may have been read already, in the coding of its role; None for silence.

    Raises CorpusError if it cannot be read.
    """
    path = piece.clip.path
    if block is not None:
        samples = converted(path, *block, rate_hz)
    else:
        with explaining(path):
            own_hz = audio.info(path).rate_hz
        start, end = (round(time * own_hz) for time in (piece.start_s, piece.end_s))
        samples = decode(path, rate_hz, first_channel=piece.role == "rir", start=start, frames=end - start)
    if not len(samples) or (is_silent(samples) if piece.role in SHARES else not samples.any()):
        return None
    samples = samples / max(1.0, float(np.abs(samples).max()))  # neither coding goes beyond 1
    file = io.BytesIO()
    soundfile.write(file, samples, rate_hz, **CODINGS[piece.role][1])
    return file.getvalue()


def _ahead(
    pieces: Iterator[Piece], rate_hz: int, pool: ThreadPoolExecutor
) -> Generator[tuple[Piece, bytes | None], None, None]:
    """Yield (piece, result of `_coded`) in the order of the pieces, coded ahead by the threads of the pool."""
    waiting: deque[tuple[Piece, Future[bytes | None]]] = deque()
    readers = _Readers()
    try:
        while True:
            while len(waiting) < 2 * available_cpus() and (piece := next(pieces, None)) is not None:
                waiting.append((piece, pool.submit(_coded, piece, rate_hz, readers.read(piece))))
            if not waiting:
                return
            piece, future = waiting.popleft()
            yield piece, future.result()
    finally:
        for _, future in waiting:
            future.cancel()
        readers.close()


def _pack_dev(pairs: Sequence[tuple[Path, Path]], folder: Path, most: float, packed: Packed) -> None:
    """Copy as many of the pairs as fit, evenly spread, without changing them."""

    def files(number: int) -> list[tuple[Path, Path]]:
        """Return (source, target) of the files of `number` pairs."""
        chosen = [(i, pairs[i]) for i in (k * len(pairs) // number for k in range(number))]
        kinds = ("clean", "noisy")
        return [
            (path, folder / "dev" / kind / f"{i:04d}_{_plain(pair[0].stem)}{path.suffix}")
            for i, pair in chosen
            for kind, path in zip(kinds, pair, strict=True)
        ]

    packed.pairs = len(pairs)
    while packed.pairs and sum(path.stat().st_size for path, _ in files(packed.pairs)) > most:
        packed.pairs -= 1
    for path, target in files(packed.pairs) if packed.pairs else ():
        _write(target, path.read_bytes(), folder, packed)


def _pack_rooms(rooms: Sequence[Clip], folder: Path, most: float, rate_hz: int, packed: Packed) -> None:
    """Write as many of the room responses as fit, short ones first, because most rooms are small."""
    used = 0
    for clip in sorted(rooms, key=lambda clip: (clip.seconds, clip.path)):
        content = _coded(piece := Piece("rir", clip, 0.0, clip.seconds), rate_hz)
        if content is not None:
            if (used := used + len(content)) > most:
                return
            _enter(piece, content, folder, packed)


def _pack_pieces(
    clips: dict[str, list[Clip]],
    folder: Path,
    max_bytes: int,
    rate_hz: int,
    pool: ThreadPoolExecutor,
    packed: Packed,
    progress: Callable[[int], None],
) -> None:
    """Write pieces of speech and noise, in bytes proportional to their shares, until the next piece does not fit."""
    ways = {role: _ahead(_turns(role, clips[role]), rate_hz, pool) for role in SHARES}
    used = dict.fromkeys(SHARES, 0)
    with closing(ways["speech"]), closing(ways["noise"]):
        while ways:
            role = min(ways, key=lambda role: used[role] / SHARES[role])
            if (found := next(ways[role], None)) is None:
                del ways[role]
                continue
            piece, content = found
            if content is not None:
                if packed.bytes + len(content) + _entry_bytes(piece, packed) > max_bytes:
                    packed.full = True
                    return
                used[role] += len(content)
                _enter(piece, content, folder, packed)
                progress(packed.bytes)


def _entry(piece: Piece, packed: Packed) -> tuple[Path, str]:
    """Return the path of the next piece of a role inside the pack, and its line of the index."""
    number, suffix = len(packed.pieces[piece.role]), CODINGS[piece.role][0]
    path = (
        Path(piece.role if piece.role in SHARES else ROOM_FOLDERS[0])
        / f"{number:05d}_{_plain(piece.clip.group)}{suffix}"
    )
    source, group = piece.clip.path.as_posix(), piece.clip.group
    return path, _line((path, piece.role, group, "train", source, f"{piece.start_s:g}", f"{piece.seconds:.2f}"))


def _entry_bytes(piece: Piece, packed: Packed) -> int:
    """Return the number of bytes that a piece takes in the index and the checksums."""
    path, line = _entry(piece, packed)
    return len(line.encode()) + len(_sum_line("0" * 64, path))


def _enter(piece: Piece, content: bytes, folder: Path, packed: Packed) -> None:
    path, line = _entry(piece, packed)
    packed.lines.append(line)
    packed.bytes += len(line.encode())
    packed.pieces[piece.role].append(piece)
    _write(folder / path, content, folder, packed)


def _write(target: Path, content: bytes, folder: Path, packed: Packed) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(content)
    packed.bytes += len(content) + len(_sum_line("0" * 64, target.relative_to(folder)))


def _line(cells: Iterable[object]) -> str:
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerow(cells)
    return file.getvalue()


def _sum_line(digest: str, path: Path) -> str:
    """Return a line of SHA256SUMS."""
    return f"{digest}  {path.as_posix()}\n"


def _plain(name: str) -> str:
    """Return a name of letters, digits and a few signs, which every file system and every tool accepts."""
    return re.sub(r"[^A-Za-z0-9.+-]+", "-", name)[:40]


def _require_enough(packed: Packed, corpora: Sequence[Path], max_bytes: int) -> None:
    """Raise UsageError, or CorpusError if the size is not the reason, for a pack that nothing could be trained on."""
    speech, noise = (len(packed.pieces[role]) for role in SHARES)
    if speech >= SMALLEST_CORPUS and noise:
        return
    found = f"{speech} pieces of speech and {noise} of noise"
    expected = f"at least {SMALLEST_CORPUS} and 1"
    if packed.full:
        remedy = "Choose a larger one; 15 s take 45 to 60 kB."
        raise UsageError(f"--max-size {max_bytes:,} bytes", f"room for {found}", expected, remedy)
    raise CorpusError(", ".join(map(str, corpora)), found, expected, "Add recordings that are not silent.")
