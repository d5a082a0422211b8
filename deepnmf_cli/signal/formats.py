"""Which files count as audio, what their headers promise, and which sample format an output gets."""

import math
import os
import shlex
from collections.abc import Collection, Container, Iterable
from dataclasses import dataclass
from numbers import Integral, Real
from pathlib import Path
from typing import Self
from unicodedata import normalize

import numpy as np
import soundfile

from deepnmf_cli import extras
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

MEDIA = "MEDIA"
"""Name that stands for the container of all files that FFmpeg reads and writes here."""

MEDIA_WRITABLE = {".m4a": "AAC", ".mp4": "AAC", ".mov": "AAC", ".mkv": "AAC", ".webm": "OPUS"}
"""Suffix of an output that is written with the extra [media] -> codec of its sound."""

PCM_BITS = {"PCM_S8": 8, "PCM_U8": 8, "PCM_16": 16, "PCM_24": 24, "PCM_32": 32}
"""Integer sample formats -> bits: the formats that are written, and read back, exactly."""

UNBOUNDED = frozenset({"FLOAT", "DOUBLE", "VORBIS", "MPEG_LAYER_III"})
"""Sample formats that hold values beyond full scale; all others clip at [-1, 1)."""

MAX_CHANNELS = 64
MIN_RATE_HZ, MAX_RATE_HZ = 1_000, 768_000


@dataclass(frozen=True)
class Limits:
    """What an encoder accepts. Beyond it, encoders fail, write a different signal, or end the process with a signal."""

    rates: str
    rates_hz: Container[int]
    channels: int
    peak: float = math.inf


class _Rates(tuple[range, ...]):
    """Rates of several ranges, without a list of them all."""

    def __new__(cls, *ranges: range) -> Self:
        return super().__new__(cls, ranges)

    def __contains__(self, rate_hz: object) -> bool:
        return any(rate_hz in one for one in self)


LIMITS = {
    "FLOAT": Limits("any rate", range(MAX_RATE_HZ + 1), MAX_CHANNELS, peak=float(np.finfo(np.float32).max)),
    # Above 65535 Hz the header of a FLAC frame counts in tens of Hz.
    "FLAC": Limits(
        "up to 65535 Hz, or a multiple of 10 Hz up to 655350 Hz", _Rates(range(65536), range(0, 655_360, 10)), 8
    ),
    # Up to a peak of 64 the error stays that of the codec; louder sound is reduced to a hundredth or less.
    "VORBIS": Limits("up to 200000 Hz", range(200_001), MAX_CHANNELS, peak=64.0),
    "AAC": Limits(
        "8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 64000, 88200 or 96000 Hz",
        (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 64000, 88200, 96000), 8,
    ),
    "OPUS": Limits("8000, 12000, 16000, 24000 or 48000 Hz", (8000, 12000, 16000, 24000, 48000), MAX_CHANNELS),
    # LAME fails an assertion, and ends the process, from a peak of 30000 on.
    "MPEG_LAYER_III": Limits(
        "8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100 or 48000 Hz",
        (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000), 2, peak=1000.0,
    ),
}  # fmt: skip
"""Container or subtype -> limits. Those not listed accept everything that passes `check_shape`."""

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

_PACKED = {"SDS", "PAF", MEDIA}
"""Containers that can pack samples into blocks."""
_LENGTH_AS_PROMISED = {"MP3", "SDS"}
"""Containers whose length is reported by libsndfile as promised even if the file is shorter."""

EXACT = frozenset(_SAMPLE_BYTES)
"""Sample formats that stay the same, bit for bit, when they are read and written again."""

UNKNOWN_FRAMES = (1 << 63) - 1
"""Length that libsndfile reports for a FLAC file written to a pipe, whose header says 0 for "unknown"."""

_OTHER_SUFFIXES = {".wave", ".bwf", ".amb", ".aif", ".aifc", ".oga", ".opus", ".snd", ".sph", ".mp1", ".mp2", ".8svx"}
_NOT_FOUND_BY_SUFFIX = {"RAW", "SD2"}
"""Header-less samples have no known rate; SD2 keeps its header in a resource fork."""

UNREADABLE = frozenset({
    ".aac", ".adts", ".m4a", ".m4b", ".m4p", ".m4r", ".mpga", ".mpc", ".ac3", ".eac3", ".ec3", ".ac4", ".dts", ".thd",
    ".mlp", ".wma", ".ra", ".weba", ".mka", ".spx", ".ape", ".wv", ".tta", ".tak", ".ofr", ".shn", ".dsf", ".dff",
    ".amr", ".awb", ".3ga", ".qcp", ".dss", ".ds2", ".dvf", ".msv", ".gsm", ".vox", ".g722", ".g729",  # of telephones
    ".raw", ".pcm", ".sln", ".ulaw", ".alaw", ".sd2",  # samples without a header
    ".mp4", ".m4v", ".mov", ".qt", ".mkv", ".webm", ".avi", ".divx", ".wmv", ".asf", ".flv", ".f4v", ".mpg", ".mpeg",
    ".m2ts", ".mts", ".vob", ".ogv", ".ogm", ".3gp", ".3g2", ".rm", ".rmvb", ".mxf",
})  # fmt: skip
"""Suffixes of media that libsndfile cannot read: a scan names such files, and stays silent about all others."""

_NOT_BY_FFMPEG = frozenset({
    ".raw", ".pcm", ".sln", ".ulaw", ".alaw", ".sd2", ".gsm", ".vox", ".g722", ".g729",
    ".m4p", ".ac4", ".ofr", ".ds2", ".dvf", ".msv",
})  # fmt: skip
"""Those of UNREADABLE without a header or without a decoder; the extra [media] reads the others."""


VORBIS_ORDER = {3: (0, 2, 1), 5: (0, 2, 1, 3, 4), 6: (0, 2, 1, 5, 3, 4), 7: (0, 2, 1, 6, 5, 3, 4),
                8: (0, 2, 1, 7, 5, 6, 3, 4)}  # fmt: skip
"""Number of channels -> where in a file of Vorbis or Opus the loudspeakers stand, in the order of WAV (section 4.3.9 of
the Vorbis I specification, RFC 7845): left, right, centre, deep sounds, and those behind. libsndfile leaves theirs."""

FOR_DEEP_SOUNDS = "its fourth channel is taken for that of deep sounds (LFE), of which {} keeps little above 120 Hz"
"""Note on more than five channels in a lossy codec."""


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

    @property
    def order(self) -> tuple[int, ...] | None:
        """Where in the file the channels stand, in the order of WAV; None if that is theirs."""
        is_vorbis = self.container == "OGG" and self.subtype in ("VORBIS", "OPUS")
        return VORBIS_ORDER.get(self.channels) if is_vorbis else None


def audio_suffixes() -> frozenset[str]:
    """The suffixes, in lower case, by which a folder scan recognises audio: all that the installed libsndfile reads,
    and with the extra [media] those of FFmpeg.
    """
    containers = set(soundfile.available_formats()) - _NOT_FOUND_BY_SUFFIX
    media = UNREADABLE - _NOT_BY_FFMPEG if extras.has("av") else frozenset()
    return frozenset({f".{name.lower()}" for name in containers} | _OTHER_SUFFIXES | media)


def is_writable(path: str | Path) -> bool:
    """Return whether the suffix of `path` names a container that can be written."""
    return Path(path).suffix.lower() in WRITABLE


def is_media(path: str | Path) -> bool:
    """Return whether the suffix of `path` names a container that can be written with the extra [media]."""
    return Path(path).suffix.lower() in MEDIA_WRITABLE


def output_format(path: str | Path, source: AudioInfo) -> tuple[str, str]:
    """(container, subtype) for writing audio like `source` to `path`, whose suffix `is_writable` or `is_media`.

    The subtype is the source's own where the container has it; else the shallowest integer format that is at least
    as deep; else the deepest one (float in FLAC becomes 24 bits). Lossy and block-coded sources count as 16 bits.
    """
    suffix = Path(path).suffix.lower()
    if suffix in MEDIA_WRITABLE:
        return MEDIA, MEDIA_WRITABLE[suffix]
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
    return container, next(
        (name for name, bits in depths.items() if bits >= wanted), max(depths, key=lambda name: depths[name])
    )


def data_bytes(info: AudioInfo) -> int:
    """Bytes of the samples as they are stored; in FLAC, before compression."""
    return info.frames * info.channels * _SAMPLE_BYTES.get(info.subtype, 1)


def least_bytes(info: AudioInfo) -> int:
    """Bytes that the samples take on disk at least; in compressed containers, those of speech with many pauses."""
    if info.container == "FLAC":
        return data_bytes(info) // 8
    if info.container in ("OGG", "MP3", MEDIA):
        return int(2000 * info.seconds)
    return data_bytes(info)


def check_limits(where: str | Path, info: AudioInfo) -> None:
    """Raise AudioError for a signal that the encoder of `info` does not accept, which is not safe to try."""
    limits = LIMITS.get(info.container) or LIMITS.get(info.subtype)
    if limits and (info.channels > limits.channels or info.rate_hz not in limits.rates_hz):
        found = f"{info.channels} channel(s) at {info.rate_hz} Hz"
        expected = f"at most {limits.channels} at {limits.rates} in {info.container} ({info.subtype})"
        raise AudioError(where, found, expected, "Choose a name that ends in .wav.")


@dataclass(frozen=True)
class Found:
    """Result of a scan: `audio` files, sorted, and errors that say why other media and folders cannot be read."""

    audio: list[Path]
    unreadable: list[AudioError]

    @property
    def beside(self) -> str:
        """Return what to add to a sentence that counts the audio files; empty if all can be read."""
        if not self.unreadable:
            return ""
        return f" beside {len(self.unreadable)} that cannot be read, the first being {self.unreadable[0].where}"


def scan(folder: str | Path, skip: Collection[Path] = (), follow_links: bool = False) -> Found:
    """Find all audio files below `folder`, by suffix, and all media in it that cannot be read (`UNREADABLE`).

    Hidden files, partial outputs and `skip` folders are left out. Symbolic links to files are included. Links to
    folders are followed if `follow_links`, except those that lead back to a folder on the way to them.
    """
    folder, suffixes, audio, unreadable = Path(folder), audio_suffixes(), [], []
    skipped = {path.resolve() for path in skip}

    def closed(error: OSError) -> None:
        remedy = "Change its permissions, or leave the folder out."
        unreadable.append(AudioError(error.filename, f"no way in ({error.strerror})", "a folder to search", remedy))

    for root, folders, names in os.walk(folder, onerror=closed, followlinks=follow_links):
        here = Path(root)
        way = {path.resolve() for path in (here, *here.parents) if path.is_relative_to(folder)} if follow_links else ()
        left_out = {*skipped, *way}
        folders[:] = [name for name in folders if name[0] != "." and (here / name).resolve() not in left_out]
        for name in names:
            suffix = Path(name).suffix.lower()
            if name[0] != "." and suffix in suffixes:
                audio.append(here / name)
            elif name[0] != "." and suffix in UNREADABLE:
                unreadable.append(unreadable_media(here / name))
    return Found(sorted(audio), sorted(unreadable, key=lambda error: error.where))


def find(folder: str | Path, skip: Collection[Path] = (), follow_links: bool = False) -> list[Path]:
    """Return the audio files of `scan`. Raises AudioError if there are none."""
    found = scan(folder, skip, follow_links)
    if not found.audio:
        raise nothing_in(folder, found.beside)
    return found.audio


def nothing_in(folder: str | Path, beside: str = "") -> AudioError:
    """The error for a folder without audio."""
    expected = "files ending in .wav, .flac, .ogg, .mp3, .aiff or .au"
    return AudioError(folder, f"no audio files{beside}", expected, "Choose another folder.")


def unreadable_media(place: str | Path) -> AudioError:
    """Return the error for a file of a known format that cannot be read here."""
    path = Path(place)
    names = shlex.join([path.name, f"{path.stem}.wav"])
    convert = f"onvert it first, for example with `ffmpeg -i {names}`."
    is_media = path.suffix.lower() not in _NOT_BY_FFMPEG
    remedy = f"{extras.install('media').removesuffix('.')}, or c{convert}" if is_media else f"C{convert}"
    return AudioError(place, f"a {path.suffix} file, which cannot be read", "WAV, FLAC, OGG, MP3, AIFF or AU", remedy)


def by_name(files: Iterable[Path], folder: str | Path) -> dict[str, Path]:
    """Map paths below `folder`, without their suffixes, to the files, so that recordings of two folders can be paired.

    Accents are composed (NFC), as file systems and copying programs differ in how they write the same name. Raises
    CorpusError if two files have the same name, as a.wav and a.flac do.
    """
    named: dict[str, Path] = {}
    for path in files:
        name = normalize("NFC", path.relative_to(folder).with_suffix("").as_posix())
        if name in named:
            found = f"{named[name].name} and {path.name}"
            raise CorpusError(folder, found, "one file of each name", "Take one of the two away.")
        named[name] = path
    return named


def check_shape(where: str | Path, channels: int, rate_hz: int, is_array: bool = True) -> None:
    """Raise AudioError for a signal that cannot be sound, such as an array (frames, channels) passed to the library."""
    for value, kind, noun in ((channels, Integral, "channels"), (rate_hz, Real, "a sampling rate")):
        if not isinstance(value, kind):
            raise AudioError(where, f"{value!r} for {noun}", "a number", "Pass a number.")
    if not 1 <= channels <= MAX_CHANNELS:
        remedy = "Split the channels."
        if is_array:
            remedy += " An array must have the shape (channels, frames): pass x.T for (frames, channels)."
        raise AudioError(where, f"{channels} channels", f"1 to {MAX_CHANNELS}", remedy)
    if not MIN_RATE_HZ <= rate_hz <= MAX_RATE_HZ:
        expected = f"{MIN_RATE_HZ} to {MAX_RATE_HZ} Hz"
        raise AudioError(where, f"a sampling rate of {rate_hz} Hz", expected, "Correct the rate, or resample the file.")


def is_seekable(info: AudioInfo) -> bool:
    """Return whether seeking to any frame is exact and immediate: if all have the same size, and in FLAC."""
    return info.container == "FLAC" or (info.subtype in _SAMPLE_BYTES and info.container not in _PACKED)


def cut_frames(info: AudioInfo, there: int, promised: int) -> tuple[int, int]:
    """(found, expected) frames if `there` of the `promised` bytes, or packets, of samples are in the file.

    Exact where frames lie one after the other; otherwise in proportion to what libsndfile reports in `info`.
    """
    if info.container in _LENGTH_AS_PROMISED:
        return info.frames * there // promised, info.frames
    if size := _SAMPLE_BYTES.get(info.subtype, 0) * info.channels:
        return there // size, promised // size
    return info.frames, info.frames * promised // max(1, there)


def is_placeholder(size: int) -> bool:
    """Return whether a size is a placeholder of programs that write to a pipe and cannot go back to the header."""
    return any(abs(size - limit) < 1 << 16 for limit in ((1 << 31) - 1, (1 << 32) - 1))
