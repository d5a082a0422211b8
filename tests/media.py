"""Media made by PyAV: sound in any codec, beside pictures, subtitles and further streams."""

from fractions import Fraction
from pathlib import Path

import numpy as np

CODECS = {
    ".m4a": "aac", ".mp4": "aac", ".mov": "aac", ".3gp": "aac", ".aac": "aac", ".ts": "aac", ".flv": "aac",
    ".mkv": "aac", ".webm": "libopus", ".mka": "libmp3lame", ".wma": "wmav2", ".amr": "libopencore_amrnb",
    ".wv": "wavpack", ".tta": "tta", ".avi": "ac3",
}  # fmt: skip
"""Suffix -> codec of the sound."""

_FORMATS = {
    "libopus": "flt", "libopencore_amrnb": "s16", "alac": "s16p", "wavpack": "s16p", "flac": "s16", "tta": "s16",
    "pcm_s16le": "s16", "pcm_s24le": "s32", "pcm_f32le": "flt",
}  # fmt: skip
_PICTURES = {".webm": "libvpx"}
PICTURES_PER_S = 25


def write(
    path: Path,
    samples: np.ndarray,
    rate_hz: int,
    codec: str | None = None,
    *,
    start: int = 0,
    picture_s: float = 0.0,
    streams: int = 1,
    tags: dict | None = None,
    subtitle: str = "",
    options: dict | None = None,
    holes: tuple[range, ...] = (),
) -> None:
    """Samples (channels, n), full scale being [-1, 1), from frame `start` on, beside `picture_s` of noise as pictures.

    Each further one of `streams` is silent. `holes` are frames that are left out, so that times jump.
    """
    import av

    codec, layout = codec or CODECS[path.suffix], {1: "mono", 2: "stereo", 6: "5.1"}[len(samples)]
    kind, block = _FORMATS.get(codec, "fltp"), 1000
    with av.open(str(path), "w", container_options=options or {}) as file:
        file.metadata.update(tags or {})
        sounds = [file.add_stream(codec, rate=rate_hz, layout=layout, format=kind) for _ in range(streams)]
        for sound in sounds:
            sound.options = {"aac_coder": "fast"} if codec == "aac" else {}  # pure tones suffer from the other one
            sound.bit_rate = 12200 if "amr" in codec else 64000 * len(samples)
        text = file.add_mux_stream(subtitle) if subtitle else None
        if picture_s:
            _pictures(file, path.suffix, picture_s)
        if text is not None:
            _subtitle(file, text, subtitle)
        for number, sound in enumerate(sounds):
            for first in range(0, samples.shape[1], block):
                if any(first in hole for hole in holes):
                    continue
                piece = samples[:, first : first + block] * (number == 0)
                frame = av.AudioFrame.from_ndarray(_stored(piece, kind), format=kind, layout=layout)
                frame.rate, frame.pts = rate_hz, start + first
                file.mux(sound.encode(frame))
            file.mux(sound.encode(None))


def _pictures(file, suffix: str, seconds: float) -> None:
    import av

    stream = file.add_stream(_PICTURES.get(suffix, "mpeg4"), rate=PICTURES_PER_S)
    stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
    noise = np.random.default_rng(0)
    for number in range(round(seconds * PICTURES_PER_S)):
        frame = av.VideoFrame.from_ndarray(noise.integers(0, 255, (32, 32, 3), np.uint8), format="rgb24")
        frame.pts, frame.time_base = number, Fraction(1, PICTURES_PER_S)
        file.mux(stream.encode(frame))
    file.mux(stream.encode(None))


def _subtitle(file, stream, codec: str) -> None:
    import av

    file.start_encoding()
    text = b"hello"
    packet = av.Packet(len(text).to_bytes(2, "big") + text if codec == "mov_text" else text)
    packet.stream, packet.time_base, packet.pts, packet.dts, packet.duration = stream, Fraction(1, 1000), 200, 200, 300
    file.mux(packet)


def _stored(samples: np.ndarray, kind: str) -> np.ndarray:
    """Samples as `AudioFrame.from_ndarray` takes them."""
    bits = {"s16": 16, "s32": 32}.get(kind.removesuffix("p"))
    values = samples.astype(np.float32)
    if bits:
        scaled = np.rint(samples.astype(np.float64) * (1 << bits - 1))
        values = scaled.clip(-(1 << bits - 1), (1 << bits - 1) - 1).astype(f"i{bits // 8}")
    return np.ascontiguousarray(values) if kind.endswith("p") else values.T.reshape(1, -1).copy()


def packets(path: Path, kind: str = "video") -> list[tuple[bytes, Fraction]]:
    """(content, time in s) of each packet of the first stream of a kind."""
    import av

    with av.open(str(path)) as file:
        stream = next(stream for stream in file.streams if stream.type == kind)
        return [(bytes(packet), packet.pts * packet.time_base) for packet in file.demux(stream) if packet.size]


def sound(path: Path) -> tuple[np.ndarray, float]:
    """(samples (channels, n), when they begin in s) of the first audio stream as FFmpeg decodes it."""
    import av

    with av.open(str(path)) as file:
        frames = list(file.decode(audio=0))
        planar = [frame.to_ndarray() if frame.format.is_planar else _planes(frame) for frame in frames]
        return np.concatenate(planar, axis=1), float(frames[0].pts * frames[0].time_base)


def _planes(frame) -> np.ndarray:
    return frame.to_ndarray().reshape(-1, frame.layout.nb_channels).T


def lag(one: np.ndarray, other: np.ndarray) -> int:
    """Frames by which `other` comes later than `one`, by the maximum of their correlation; of one length (n,)."""
    size = 2 * len(one)
    spectrum = np.conj(np.fft.rfft(one, size)) * np.fft.rfft(other, size)
    at = int(np.argmax(np.fft.irfft(spectrum, size)))
    return at if at < len(one) else at - size
