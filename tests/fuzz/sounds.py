"""Small recordings in every format that libsndfile writes, and what a raw or WAV stream may hold."""

import io
from dataclasses import dataclass
from random import Random

import numpy as np
import soundfile

from tests.fuzz import containers

MAIN = {
    "wav": (
        "WAV",
        ("PCM_16", "PCM_U8", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW", "ALAW", "MS_ADPCM", "IMA_ADPCM"),
    ),
    "wave": ("WAVEX", ("PCM_16", "PCM_24", "FLOAT")),
    "rf64": ("RF64", ("PCM_16", "PCM_24", "FLOAT")),
    "w64": ("W64", ("PCM_16", "FLOAT", "ULAW")),
    "aiff": ("AIFF", ("PCM_16", "PCM_24", "FLOAT", "PCM_S8", "ULAW")),
    "flac": ("FLAC", ("PCM_16", "PCM_24", "PCM_S8")),
    "ogg": ("OGG", ("VORBIS",)),
    "opus": ("OGG", ("OPUS",)),
    "mp3": ("MP3", ("MPEG_LAYER_III",)),
    "au": ("AU", ("PCM_16", "FLOAT", "ULAW", "PCM_S8")),
    "caf": ("CAF", ("PCM_16", "PCM_24", "FLOAT", "ALAC_16", "ALAW")),
}
"""Suffix -> container and sample formats of what people have."""

RARE = {
    "sph": ("NIST", ("PCM_16", "ULAW")),
    "ircam": ("IRCAM", ("PCM_16", "FLOAT")),
    "voc": ("VOC", ("PCM_16", "PCM_U8")),
    "avr": ("AVR", ("PCM_16",)),
    "pvf": ("PVF", ("PCM_16",)),
    "paf": ("PAF", ("PCM_16", "PCM_24")),
    "mat4": ("MAT4", ("PCM_16", "DOUBLE")),
    "mat5": ("MAT5", ("PCM_16", "DOUBLE")),
    "svx": ("SVX", ("PCM_16", "PCM_S8")),
    "wve": ("WVE", ("ALAW",)),
    "xi": ("XI", ("DPCM_16",)),
    "mpc": ("MPC2K", ("PCM_16",)),
    "htk": ("HTK", ("PCM_16",)),
    "sds": ("SDS", ("PCM_16",)),
}
"""The same for formats of old programs."""

_ONE_CHANNEL = {"svx", "wve", "xi", "htk", "sds"}
_TWO_CHANNELS = {"mp3", "avr", "mpc", "voc"}
_RATES = {"wve": [8000], "xi": [44100], "opus": [8000, 16000, 48000], "mp3": [8000, 16000, 22050, 44100, 48000]}
FINITE = (1e25, -1e30, 1e10, 1e-40, 3e38)
"""Samples that files of floats may hold, and hardly do."""
POISON = (*FINITE, np.nan, np.inf, -np.inf, 1e300)


@dataclass(frozen=True)
class Sound:
    """A file as bytes; `frames` is the number of samples of a channel that it held before any mutation."""

    suffix: str
    data: bytes
    frames: int
    rate_hz: int
    channels: int
    mutations: tuple[str, ...] = ()
    original: bytes = b""
    """What `data` was before."""


def samples(random: Random, frames: int, channels: int) -> np.ndarray:
    """(frames, channels) float64: a tone in noise, at one of several levels."""
    noise = np.random.default_rng(random.randrange(1 << 30))
    tone = np.sin(np.arange(frames) * random.uniform(0.01, 1))[:, None]
    level = random.choice([0.3, 0.3, 0.3, 0.99, 1e-5, 0.0])
    return level * (0.8 * tone + 0.2 * noise.uniform(-1, 1, (frames, channels)))


def whole(random: Random) -> Sound:
    """A file as a program writes it."""
    suffix = random.choice([*list(MAIN) * 3, *RARE])
    container, subtypes = (MAIN | RARE)[suffix]
    subtype = random.choice(subtypes)
    rate_hz = random.choice(_RATES.get(suffix, [8000, 16000, 16000, 22050, 44100, 48000, 96000]))
    few = suffix in _TWO_CHANNELS or subtype.endswith("ADPCM")
    channels = 1 if suffix in _ONE_CHANNEL else random.choice([1, 1, 1, 2, 2, 2 if few else 6])
    frames = random.choice([1, 100, 1000, 4000, 16_000, 16_000, 40_000])
    sound = samples(random, frames, channels)
    if subtype in ("FLOAT", "DOUBLE") and random.random() < 0.3:
        for _ in range(random.choice([1, 1, 30])):
            sound[random.randrange(frames), random.randrange(channels)] = random.choice(POISON)
        with np.errstate(over="ignore"):
            sound = sound.astype(np.float32 if subtype == "FLOAT" else np.float64)
    file = io.BytesIO()
    soundfile.write(file, sound, rate_hz, subtype, format=container)
    file.seek(0)  # some formats fill their last block
    return Sound(suffix, file.getvalue(), soundfile.info(file).frames, rate_hz, channels)


def mutated(random: Random) -> Sound:
    """A file in which something may be wrong."""
    sound = whole(random)
    data, names = containers.mutate(sound.data, random)
    suffix = random.choice(list(MAIN)) if random.random() < 0.08 else sound.suffix
    return Sound(suffix, data, sound.frames, sound.rate_hz, sound.channels, tuple(names), sound.data)


def speech(random: Random, frames: int = 4000) -> bytes:
    """A WAV file of 16 kHz and 16 bits that is as it should be."""
    file = io.BytesIO()
    soundfile.write(file, 0.3 * samples(random, frames, 1) + 0.01, 16_000, "PCM_16", format="WAV")
    return file.getvalue()


def noisy(data: bytes) -> bytes:
    """The same WAV file with noise."""
    sound, rate_hz = soundfile.read(io.BytesIO(data))
    file = io.BytesIO()
    noise = np.random.default_rng(0).uniform(-0.05, 0.05, sound.shape)
    soundfile.write(file, sound + noise, rate_hz, "PCM_16", format="WAV")
    return file.getvalue()


def pieces(data: bytes, random: Random) -> list[bytes]:
    """What a pipe may give at a time."""
    sizes = random.choice([[1 << 20], [1 << 20], [1, 3, 7, 4096], [11, 1 << 16], [44, 1000]])
    split, at = [], 0
    while at < len(data) and len(split) < 40:
        size = random.choice(sizes)
        split.append(data[at : at + size])
        at += size
    return [*split, data[at:]] if at < len(data) else split
