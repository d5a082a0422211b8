"""Which files count as audio, what their headers promise, and which sample format an output gets."""

import os
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from unicodedata import normalize

import soundfile

from deepnmf_cli.errors import AudioError, CorpusError

WRITABLE = {
    ".wav": "WAV",
    ".wave": "WAV",
    ".flac": "FLAC",
    ".ogg": "OGG",
    ".oga": "OGG",
    ".opus": "OGG",
    ".mp3": "MP3",
    ".aiff": "AIFF",
    ".aif": "AIFF",
    ".au": "AU",
    ".snd": "AU",
    ".caf": "CAF",
    ".w64": "W64",
    ".rf64": "RF64",
}
"""Suffix of an output -> container. libsndfile can write more, but not all of those keep the length to the sample."""

PCM_BITS = {"PCM_S8": 8, "PCM_U8": 8, "PCM_16": 16, "PCM_24": 24, "PCM_32": 32}
"""Integer sample formats -> bits: the formats that are written, and read back, exactly."""

UNBOUNDED = frozenset({"FLOAT", "DOUBLE", "VORBIS", "OPUS", "MPEG_LAYER_III"})
"""Sample formats that hold values beyond full scale; all others clip at [-1, 1)."""

_WAV_SAMPLES = ("PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW", "ALAW")
_SAMPLES = {
    "WAV": _WAV_SAMPLES,
    "WAVEX": _WAV_SAMPLES,
    "W64": _WAV_SAMPLES,
    "RF64": _WAV_SAMPLES,
    "FLAC": ("PCM_S8", "PCM_16", "PCM_24"),
    # 8-bit samples and companded samples in AIFF are left out: libsndfile pads odd lengths by one sample.
    "AIFF": ("PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE"),
    "AU": ("PCM_S8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW", "ALAW"),
    "CAF": ("PCM_S8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW", "ALAW"),
    "OGG": ("VORBIS", "OPUS"),
    "MP3": ("MPEG_LAYER_III",),
}
_SOURCE_BITS = PCM_BITS | {"ALAC_16": 16, "ALAC_20": 20, "ALAC_24": 24, "ALAC_32": 32, "FLOAT": 32, "DOUBLE": 32}
_SAMPLE_BYTES = {"FLOAT": 4, "DOUBLE": 8, "ULAW": 1, "ALAW": 1} | {name: bits // 8 for name, bits in PCM_BITS.items()}

_COMPRESSED = {"FLAC", "OGG", "MP3"}
_PACKED = {"SDS", "PAF"}
"""Containers that can pack samples into blocks."""
_LENGTH_AS_PROMISED = {"MP3", "SDS"}
"""Containers whose length is not shortened by libsndfile where the file is."""

UNKNOWN_FRAMES = (1 << 63) - 1
"""What libsndfile gives as the length of a FLAC file written to a pipe, whose header says 0 for "unknown"."""

MAX_CHANNELS = 64
MIN_RATE_HZ, MAX_RATE_HZ = 1_000, 768_000

_OTHER_SUFFIXES = {".wave", ".aif", ".aifc", ".oga", ".opus", ".snd", ".sph"}
_NOT_FOUND_BY_SUFFIX = {"RAW", "SD2"}
"""Header-less samples have no known rate; SD2 keeps its header in a resource fork."""


@dataclass(frozen=True)
class AudioInfo:
    """What a file holds: `frames` samples in each of `channels`, and how they are stored (libsndfile's names)."""

    rate_hz: int
    channels: int
    frames: int
    container: str
    subtype: str

    @property
    def seconds(self) -> float:
        return self.frames / self.rate_hz


def audio_suffixes() -> frozenset[str]:
    """The suffixes, in lower case, by which a folder scan recognises audio: all that the installed libsndfile reads."""
    containers = set(soundfile.available_formats()) - _NOT_FOUND_BY_SUFFIX
    return frozenset({f".{name.lower()}" for name in containers} | _OTHER_SUFFIXES)


def is_writable(path: str | Path) -> bool:
    """Whether the suffix of `path` names a container that can be written."""
    return Path(path).suffix.lower() in WRITABLE


def output_format(path: str | Path, source: AudioInfo) -> tuple[str, str]:
    """(container, subtype) for writing the like of `source` to `path`, whose suffix `is_writable`.

    The subtype is the source's own where the container has it; else the shallowest integer format that is at least
    as deep; else the deepest one (float in FLAC becomes 24 bits). Lossy and block-coded sources count as 16 bits.
    """
    suffix = Path(path).suffix.lower()
    container = WRITABLE[suffix]
    if container == "WAV" and source.container == "WAVEX":  # a longer header, which names the loudspeakers
        container = "WAVEX"
    offered = _SAMPLES[container]
    if suffix == ".opus":
        return container, "OPUS"
    if source.subtype in offered:
        return container, source.subtype
    if container in ("OGG", "MP3"):
        return container, offered[0]
    depths = {name: PCM_BITS[name] for name in offered if name in PCM_BITS}
    wanted = _SOURCE_BITS.get(source.subtype, 16)
    return container, next((name for name, bits in depths.items() if bits >= wanted), max(depths, key=depths.get))


def data_bytes(info: AudioInfo) -> int:
    """Bytes that the samples take on disk; for compressed containers an upper estimate."""
    return info.frames * info.channels * _SAMPLE_BYTES.get(info.subtype, 1)


def least_bytes(info: AudioInfo) -> int:
    """Bytes that the samples are sure to take on disk; nobody knows for compressed containers."""
    return 0 if info.container in _COMPRESSED else data_bytes(info)


def find(folder: str | Path, skip: Collection[Path] = ()) -> list[Path]:
    """All audio files below `folder`, by suffix and sorted; hidden files, partial outputs and `skip` folders left out.

    Symbolic links to files count, links to folders are not followed. Raises AudioError when there is none.
    """
    folder, suffixes, found = Path(folder), audio_suffixes(), []
    skipped = {path.resolve() for path in skip}
    for root, folders, names in os.walk(folder):
        here = Path(root)
        folders[:] = [name for name in folders if name[0] != "." and (here / name).resolve() not in skipped]
        found += [here / name for name in names if name[0] != "." and Path(name).suffix.lower() in suffixes]
    if not found:
        raise AudioError(
            folder, "no audio files", "files ending in .wav, .flac, .ogg, .mp3, .aiff or .au", "Choose another folder."
        )
    return sorted(found)


def by_name(files: Iterable[Path], folder: str | Path) -> dict[str, Path]:
    """Path below `folder` without its suffix -> file: how recordings of two folders pair.

    Accents are composed (NFC): file systems and copying programs differ in how they write the same name.

    Raises CorpusError when two files have one name, as a.wav and a.flac do.
    """
    named: dict[str, Path] = {}
    for path in files:
        name = normalize("NFC", path.relative_to(folder).with_suffix("").as_posix())
        if name in named:
            found = f"{named[name].name} and {path.name}"
            raise CorpusError(folder, found, "one file of each name", "Take one of the two away.")
        named[name] = path
    return named


def check_shape(where: str | Path, channels: int, rate_hz: int) -> None:
    """Raise AudioError for a signal that cannot be sound, such as the (frames, channels) array of a library's user."""
    if not 1 <= channels <= MAX_CHANNELS:
        remedy = "Split the channels; an array must have the shape (channels, frames)."
        raise AudioError(where, f"{channels} channels", f"1 to {MAX_CHANNELS}", remedy)
    if not MIN_RATE_HZ <= rate_hz <= MAX_RATE_HZ:
        expected = f"{MIN_RATE_HZ} to {MAX_RATE_HZ} Hz"
        raise AudioError(where, f"a sampling rate of {rate_hz} Hz", expected, "Correct the rate, or resample the file.")


def is_seekable(info: AudioInfo) -> bool:
    """Whether any frame is found exactly, at once: where all take the same room, and in FLAC."""
    return info.container == "FLAC" or (info.subtype in _SAMPLE_BYTES and info.container not in _PACKED)


def cut_frames(info: AudioInfo, there: int, promised: int) -> tuple[int, int]:
    """(found, expected) frames where `there` of the `promised` bytes, or packets, of samples are in the file.

    Exact where frames lie one after the other; else in proportion to what libsndfile makes of the file in `info`.
    """
    if info.container in _LENGTH_AS_PROMISED:
        return info.frames * there // promised, info.frames
    if size := _SAMPLE_BYTES.get(info.subtype, 0) * info.channels:
        return there // size, promised // size
    return info.frames, info.frames * promised // max(1, there)


def is_placeholder(size: int) -> bool:
    """Whether a size is what programs that write to a pipe, unable to come back to the header, put there."""
    return any(abs(size - limit) < 1 << 16 for limit in ((1 << 31) - 1, (1 << 32) - 1))
