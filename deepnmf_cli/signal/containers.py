"""Containers and codecs by the first bytes of a stream, so that compressed sound is not taken for raw samples."""

_SIGNATURES = (
    (0, b"fLaC", "FLAC"),
    (0, b"OggS", "Ogg"),
    (0, b"ID3", "MP3"),
    (0, b"FORM", "AIFF"),
    (0, b"caff", "CAF"),
    (0, b".snd", "AU"),
    (0, b"riff\x2e\x91\xcf\x11", "Wave64"),
    (8, b"AVI ", "AVI"),
    (0, b"BW64", "BW64"),
    (0, b"RIFX", "big-endian WAV"),
    (0, b"\x1a\x45\xdf\xa3", "Matroska or WebM"),
    (4, b"ftyp", "MP4"),
    (4, b"moov", "QuickTime"),
    (4, b"mdat", "QuickTime"),
    (4, b"wide", "QuickTime"),
    (0, b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "WMA"),
    (0, b"#!AMR", "AMR"),
    (0, b"wvpk", "WavPack"),
    (0, b"MAC ", "Monkey's Audio"),
    (0, b"NIST_1A", "NIST SPHERE"),
    (0, b"Creative Voice File", "VOC"),
    (0, b" paf", "PAF"),
    (0, b"fap ", "PAF"),
    (0, b"PVF1", "PVF"),
    (0, b"2BIT", "AVR"),
    (0, b"MATLAB 5.0", "MATLAB"),
    (0, b"Extended Instrument", "XI"),
    (0, b"FLV\x01", "Flash video"),
)
"""(where, bytes, name). Samples begin with four such bytes by chance once in four thousand million streams."""

_LONGEST_AUDIO_FRAME = 1 << 13
PROBE_BYTES = _LONGEST_AUDIO_FRAME + 4
"""So many bytes decide whether a stream begins with frames of MPEG audio, whose sign alone is too short."""

_KBIT_S = {
    (3, 3): (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (3, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (3, 1): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (2, 3): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (2, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (2, 1): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
"""(MPEG 1: 3, else 2; layer by its code) -> bit rates by their code, from 1 on."""
_RATE_HZ = (44100, 48000, 32000)


def container_of(start: bytes) -> str | None:
    """The name of what a stream holds that begins with `start`, if that is not raw samples or WAV.

    Frames of MPEG audio without a tag before them need PROBE_BYTES, or the whole stream.
    """
    for at, sign, name in _SIGNATURES:
        if start[at : at + len(sign)] == sign:
            return name
    for size, name in ((_mpeg_frame, "MP3"), (_adts_frame, "AAC")):
        if (length := size(start)) and size(start[length:]):
            return name
    return None


def may_be_mpeg(start: bytes) -> bool:
    """Whether `start` could be that of MPEG audio, as far as its first frame says."""
    return bool(_mpeg_frame(start) or _adts_frame(start))


def _mpeg_frame(start: bytes) -> int:
    """Bytes of the frame of MPEG-1, 2 or 2.5 audio that `start` begins with, or 0."""
    if len(start) < 4 or start[0] != 0xFF or start[1] & 0xE0 != 0xE0:
        return 0
    version, layer, rate, code = start[1] >> 3 & 3, start[1] >> 1 & 3, start[2] >> 2 & 3, start[2] >> 4
    if version == 1 or layer == 0 or rate == 3 or code in (0, 15):
        return 0
    bits_s = 1000 * _KBIT_S[3 if version == 3 else 2, layer][code - 1]
    rate_hz, padding = _RATE_HZ[rate] >> (3 - version if version else 2), start[2] >> 1 & 1
    if layer == 3:
        return 4 * (12 * bits_s // rate_hz + padding)
    return (72 if layer == 1 and version != 3 else 144) * bits_s // rate_hz + padding


def _adts_frame(start: bytes) -> int:
    """Bytes of the frame of AAC that `start` begins with, or 0."""
    if len(start) < 6 or start[0] != 0xFF or start[1] & 0xF6 != 0xF0 or start[2] >> 2 & 15 > 12:
        return 0
    length = (start[3] & 3) << 11 | start[4] << 3 | start[5] >> 5
    return length if length >= 7 else 0
