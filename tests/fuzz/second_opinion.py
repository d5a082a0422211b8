"""How long recordings are, asked of libsndfile and of a second decoder, each in a child of its own."""

from pathlib import Path

from tests.fuzz.child import measure
from tests.fuzz.sounds import MAIN, Sound

try:
    import av
except ImportError:  # the campaign goes on without it
    av = None

CHAINED = ("ogg", "opus", "mp3")
"""Formats of which a file with another one behind it is a longer file."""

_SHARE, _CODEC_FRAMES = 0.05, 4000
"""Decoders may differ by this share of the length, and by what the delay of a codec and its last frame make up."""

_LINK_FRAMES = 3 * 1152
"""What FFmpeg plays too much of each later recording in a file: the delay of the codec, what fills the last block, and
a Xing header as a frame."""

_BEGINNINGS = (b"\x01vorbis", b"OpusHead", b"Xing", b"Info")


def frames_of(path: Path, folder: Path) -> int | None:
    """Samples of a channel in a file that the program wrote, decoded; None for a file that cannot be read."""

    def question() -> int:
        import numpy as np
        import soundfile

        found = 0
        with soundfile.SoundFile(path) as file:
            file.seekable = lambda: False
            while len(block := file.read(1 << 16, always_2d=True)):
                if not np.isfinite(block).all():
                    raise ValueError("samples that are not finite")
                found += len(block)
        return found

    return measure(question, folder)


def lost(sound: Sound, found: int, folder: Path) -> str | None:
    """What is wrong with an output of `found` samples about which the program had nothing to say."""
    if sound.mutations == ("shorten",) and sound.frames >= 4000:
        return f"{sound.suffix}: cut short, {found} of {sound.frames} samples, and not a word"
    if not sound.mutations and found != sound.frames and sound.suffix != "mp3":
        return f"{sound.suffix}: {found} of {sound.frames} samples, and not a word"
    if sound.mutations == ("join",) and sound.suffix in CHAINED and found < 1.9 * sound.frames:
        return f"{sound.suffix}: {found} of {2 * sound.frames} samples of two files joined, and not a word"
    if av is None or sound.suffix not in MAIN:
        return None
    opus = sound.data.find(b"OpusHead")
    if opus >= 0 and int.from_bytes(sound.data[opus + 12 : opus + 16], "little") != 48_000:
        return None  # libsndfile decodes at the rate that the header names, FFmpeg at 48 kHz
    decoded = measure(lambda: _decoded(sound.data), folder)
    if decoded is None or decoded[1] != sound.rate_hz:
        return None
    # What follows the samples that a header counts is no sound, though some decoders play it.
    chained = sound.suffix in CHAINED and not sound.data.startswith(b"fLaC")
    expected = decoded[0] if chained else min(decoded[0], sound.frames)
    links = max(1, sum(sound.data.count(beginning) for beginning in _BEGINNINGS))
    if found < expected * (1 - _SHARE) - _CODEC_FRAMES - (links - 1) * _LINK_FRAMES:
        return f"{sound.suffix}: {found} samples where a second decoder finds {decoded[0]}, and not a word"
    return None


def _decoded(data: bytes) -> tuple[int, int]:
    """(samples of a channel, rate in Hz) of the first audio stream, by FFmpeg's libraries."""
    import io

    av.logging.set_level(av.logging.PANIC)
    with av.open(io.BytesIO(data)) as container:
        stream = container.streams.audio[0]
        stream.thread_type = "NONE"
        rate_hz, frames = stream.rate, 0
        for packet in container.demux(stream):
            try:
                frames += sum(frame.samples for frame in packet.decode())
            except av.error.InvalidDataError:
                continue  # a frame that is damaged
    return frames, rate_hz
