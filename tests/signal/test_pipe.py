"""Samples through pipes: every way to cut the bytes gives the same samples; headers are understood and given back."""

import io
import struct
import tracemalloc

import numpy as np
import pytest
import soundfile

from deepnmf_cli.errors import AudioError
from deepnmf_cli.signal import pipe
from deepnmf_cli.signal.pipe import UNKNOWN, PipeReader, PipeWriter
from deepnmf_cli.signal.samples import FORMATS, Layout, decode, encode

SUBTYPES = {"s16le": "PCM_16", "s24le": "PCM_24", "s32le": "PCM_32", "f32le": "FLOAT"}
RAW = Layout(16000, 1, "s16le")


class Dribble:
    """A pipe whose other end writes pieces of random sizes."""

    def __init__(self, data: bytes, seed: int = 0, largest: int = 700) -> None:
        self._data, self._draw, self._largest = io.BytesIO(data), np.random.default_rng(seed), largest

    def read1(self, size: int, /) -> bytes:
        return self._data.read(min(size, int(self._draw.integers(1, self._largest))))


def noise(channels: int, frames: int, scale: float = 0.3) -> np.ndarray:
    return (scale * np.random.default_rng(1).standard_normal((channels, frames))).astype(np.float32)


def wav(samples: np.ndarray, subtype: str | None = "PCM_16", rate_hz: int = 48000, container: str = "WAV") -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples.T, rate_hz, subtype, format=container)
    return file.getvalue()


def with_size(data: bytes, size: int) -> bytes:
    """A WAV file with another size of its samples in the header."""
    at = data.index(b"data") + 4
    return data[:at] + struct.pack("<I", size) + data[at + 4 :]


def read(reader: PipeReader, frames: int = 100) -> np.ndarray:
    return np.concatenate([np.empty((reader.layout.channels, 0)), *reader.blocks(frames)], axis=1)


@pytest.mark.parametrize("name", FORMATS)
def test_samples_are_those_that_soundfile_reads_and_writes(name):
    data = wav(noise(3, 1000), SUBTYPES[name])
    expected, _ = soundfile.read(io.BytesIO(data), dtype="float32")
    layout = Layout(48000, 3, name)
    body = data[-1000 * layout.frame_bytes :]
    np.testing.assert_array_equal(decode(body, layout), expected.T)
    if name == "s32le":  # beyond what single precision holds
        np.testing.assert_allclose(decode(encode(expected.T, layout)[0], layout), expected.T, atol=1e-7)
    else:
        assert encode(expected.T, layout) == (body, 0)


@pytest.mark.parametrize("name", FORMATS)
def test_integers_clip_and_count_what_is_beyond_full_scale(name):
    layout = Layout(16000, 2, name)
    samples = np.array([[1.5, -1.0, 0.25], [-7.0, 1.0, -0.5]], np.float32)
    data, clipped = encode(samples, layout)
    step = {"s16le": 2**-15, "s24le": 2**-23, "s32le": 2**-31, "f32le": None}[name]
    expected = samples if step is None else samples.clip(-1, np.float32(1 - step))
    assert clipped == (0 if step is None else 3)
    np.testing.assert_array_equal(decode(data, layout), expected)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("name", FORMATS)
def test_any_pieces_of_a_pipe_give_the_same_samples_in_blocks_of_at_least_the_size_asked(seed, name):
    layout, samples = Layout(8000, 2, name), noise(2, 3001)
    data, _ = encode(samples, layout)
    size = int(np.random.default_rng(seed).integers(1, 900))
    reader = PipeReader(Dribble(data + b"\x01", seed), layout)
    blocks = list(reader.blocks(size))
    assert all(block.shape[1] >= size for block in blocks[:-1])
    np.testing.assert_array_equal(np.concatenate(blocks, axis=1), decode(data, layout))
    assert (reader.frames, reader.odd_bytes, reader.missing_frames) == (3001, 1, 0)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("container", ["WAV", "WAVEX", "RF64"])
@pytest.mark.parametrize("frames", [0, 1, 801])
def test_wav_comes_out_as_the_wav_that_went_in(name, container, frames):
    data = wav(noise(1, frames), SUBTYPES[name], container=container)
    reader, target = PipeReader(Dribble(data, largest=50), RAW), io.BytesIO()
    assert reader.layout == Layout(48000, 1, name)
    writer = PipeWriter(target, reader)
    for block in reader.blocks(64):
        writer.write(block)
    writer.finish()
    written, _ = soundfile.read(io.BytesIO(target.getvalue()), dtype="float32", always_2d=True)
    expected, _ = soundfile.read(io.BytesIO(data), dtype="float32", always_2d=True)
    np.testing.assert_allclose(written, expected, atol=1e-7 if name == "s32le" else 0)
    assert len(target.getvalue()) % 2 == 0
    assert (reader.odd_bytes, reader.missing_frames) == (0, 0)


@pytest.mark.parametrize("size", [UNKNOWN, 0, 0x7FFFF000, 1 << 31])
def test_sizes_that_stand_for_unknown_mean_until_the_end(size):
    samples = noise(1, 500)
    data = wav(samples)
    reader, target = PipeReader(Dribble(with_size(data, size)), RAW), io.BytesIO()
    PipeWriter(target, reader)
    assert target.getvalue()[-4:] == target.getvalue()[4:8] == b"\xff\xff\xff\xff"
    assert read(reader).shape == (1, 500) and reader.missing_frames == 0


def test_notes_after_the_samples_are_no_samples_and_are_read_to_the_end():
    data = wav(noise(2, 300)) + b"LIST" + struct.pack("<I", 1000) + bytes(1000)
    source = Dribble(data)
    reader = PipeReader(source, RAW)
    assert read(reader).shape == (2, 300)
    assert source.read1(1) == b"" and reader.odd_bytes == 0


def chunk(name: bytes, size: int, pad: bool = True) -> bytes:
    return name + struct.pack("<I", size) + b"x" * size + bytes(size % 2 * pad)


BEHIND = [
    (chunk(b"LIST", 30) + chunk(b"id3 ", 81) + chunk(b"bext", 602), 0),
    (chunk(b"LIST", 31, pad=False) + chunk(b"odd ", 5), 0),
    (bytes(5000), 0),
    (b"TAG" + b"x" * 125, 0),
    (chunk(b"LIST", 30)[:-9], 0),
    (chunk(b"LIST", 30) + b"\xff" * 90, 90),
    (chunk(b"LIST", 30) + b"\xff" * 90_000, 90_000),
    (chunk(b"data", 30), 38),
    (chunk(b"LIST", 30) + wav(noise(1, 400)), 844),
]


@pytest.mark.parametrize("frames", [300, 301])
@pytest.mark.parametrize(("behind", "surplus"), BEHIND)
def test_notes_are_told_from_what_no_header_announces(behind, surplus, frames):
    reader = PipeReader(Dribble(wav(noise(1, frames), "PCM_24") + behind, largest=90), RAW)
    assert read(reader).shape == (1, frames)
    assert (reader.surplus_bytes, reader.odd_bytes, reader.missing_frames) == (surplus, 0, 0)
    is_sound = surplus > 1 << 16 or behind.startswith(b"data") or b"RIFF" in behind
    assert (reader.fault() is not None) == (reader.fault(interrupted=True) is not None) == is_sound


def test_notes_behind_no_samples_are_no_samples():
    for behind, frames in ((chunk(b"LIST", 30) + chunk(b"id3 ", 5), 0), (chunk(b"SOUN", 30), 19)):
        reader = PipeReader(Dribble(wav(noise(1, 0)) + behind, largest=9), RAW)
        assert read(reader).shape == (1, frames) and reader.surplus_bytes == 0 and reader.fault() is None


def test_a_stream_that_ends_before_its_header_says_is_told():
    reader = PipeReader(Dribble(wav(noise(2, 300))[:-41]), RAW)
    assert read(reader).shape == (2, 289)
    assert (reader.missing_frames, reader.odd_bytes) == (11, 3)
    assert "found 0.006 s of sound, 44 bytes (0.000 s) less than promised" in str(reader.fault())
    assert reader.fault(interrupted=True) is None


@pytest.mark.parametrize("data", [b"", b"\x01", b"RIFF", b"RIFF1234WAV", b"RIFF1234ABC LIST"])
def test_what_is_not_wav_is_raw(data):
    reader = PipeReader(Dribble(data), RAW)
    assert reader.format_chunk is None and read(reader).shape == (1, len(data) // 2)


def mp3(header: bytes, size: int) -> bytes:
    """Two frames, of which the header gives the size."""
    return (header + bytes(size - len(header))) * 2


COMPRESSED = [
    (b"fLaC\0\0\0\x22" + bytes(40), "FLAC"), (b"OggS\0\2" + bytes(40), "Ogg"), (b"ID3\4\0\0" + bytes(40), "MP3"),
    (mp3(b"\xff\xfb\x90\x00", 417), "MP3"), (mp3(b"\xff\xf3\x40\x00", 104), "MP3"),
    (mp3(b"\xff\xf1\x50\x80\x02\x1f\xfc", 16), "AAC"), (b"\0\0\0\x20ftypM4A " + bytes(40), "MP4"),
    (b"FORM\0\0\0\0AIFF" + bytes(40), "AIFF"), (b"caff\0\1" + bytes(40), "CAF"), (b".snd" + bytes(40), "AU"),
    (b"riff\x2e\x91\xcf\x11" + bytes(40), "Wave64"), (b"\x1a\x45\xdf\xa3" + bytes(40), "Matroska"),
    (b"RIFF\0\0\0\0AVI LIST" + bytes(40), "AVI"), (b"RIFX\0\0\0\0WAVE" + bytes(40), "big-endian WAV"),
    (b"BW64\xff\xff\xff\xffWAVE" + bytes(40), "BW64"), (b"\0\0\0\x08wide\0\0" + bytes(40), "QuickTime"),
    (b"\0\0\1\0moov\0\0" + bytes(40), "QuickTime"), (b"\0\0\1\0mdat\0\0" + bytes(40), "QuickTime"),
    (b"\x30\x26\xb2\x75\x8e\x66\xcf\x11" + bytes(40), "WMA"), (b"#!AMR\n" + bytes(40), "AMR"),
    (b"wvpk\x20\0" + bytes(40), "WavPack"), (b"MAC \x96\x0f" + bytes(40), "Monkey's Audio"),
    (b"FLV\1\4\0" + bytes(40), "Flash video"), (b"fap \0\0" + bytes(40), "PAF"),
]  # fmt: skip


@pytest.mark.parametrize(("data", "name"), COMPRESSED, ids=lambda value: value if isinstance(value, str) else "")
def test_what_begins_like_a_compressed_file_is_refused_unless_it_is_surely_raw(data, name):
    with pytest.raises(AudioError, match=f"standard input: found a stream of {name}.*ffmpeg.*--format"):
        PipeReader(Dribble(data, largest=50), RAW)
    assert read(PipeReader(Dribble(data), RAW, surely_raw=True)).shape == (1, len(data) // 2)


@pytest.mark.parametrize("container", ["FLAC", "OGG", "MP3", "AIFF", "AU", "CAF", "W64", "NIST", "VOC"])
def test_files_of_other_containers_are_recognised(container):
    with pytest.raises(AudioError, match="found a stream of"):
        PipeReader(Dribble(wav(noise(1, 4000, 0.1), None, 16000, container)), RAW)


@pytest.mark.parametrize("data", [b"", b"\xff", b"\xff\xfb\x90\x00" + bytes(5000), b"\xff" * 5000, b"\xff\xf1" * 99])
def test_samples_that_look_like_one_frame_of_mpeg_are_samples(data):
    assert read(PipeReader(Dribble(data), RAW)).shape == (1, len(data) // 2)


def test_notes_before_the_samples_are_not_held():
    size, given = 100 << 20, wav(noise(1, 50))

    class Notes:
        """A header, notes of `size` bytes that all are the same piece, and the rest of the file."""

        def __init__(self) -> None:
            self.left = [given[:12] + b"JUNK" + struct.pack("<I", size), *[bytes(1 << 16)] * (size >> 16), given[12:]]

        def read1(self, limit: int, /) -> bytes:
            return self.left.pop(0) if self.left else b""

    tracemalloc.start()
    reader = PipeReader(Notes(), RAW)
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()
    assert read(reader).shape == (1, 50) and reader.layout.rate_hz == 48000


def test_notes_that_end_early_are_a_header_cut_short():
    with pytest.raises(AudioError, match="cut short"):
        PipeReader(Dribble(b"RIFF\0\0\0\0WAVEJUNK" + struct.pack("<I", (1 << 32) - 1) + bytes(100)), RAW)


def described(size: int) -> bytes:
    """A WAV file without samples, whose description is `size` bytes long, of which 16 are needed."""
    chunk = struct.pack("<HHIIHH", 1, 1, 16000, 32000, 2, 16).ljust(size, b"\0")
    return b"RIFF\0\0\0\0WAVEfmt " + struct.pack("<I", size) + chunk + b"data\0\0\0\0"


def test_a_description_may_be_long():
    assert PipeReader(Dribble(described(pipe.DESCRIPTION_BYTES)), RAW).layout == RAW


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (wav(noise(1, 9))[:30], "cut short"),
        (wav(noise(1, 9), "ULAW"), "8 bits, format 7"),
        (wav(noise(1, 9), "DOUBLE"), "64 bits, format 3"),
        (b"RIFF\0\0\0\0WAVEdata\0\0\0\0", "without a description"),
        (described(pipe.DESCRIPTION_BYTES + 2), "without a description"),
        (wav(noise(1, 9), rate_hz=10), "a sampling rate of 10 Hz"),
        (wav(noise(65, 9)), r"65 channels; expected 1 to 64\. Split the channels\.$"),
    ],
)
def test_headers_that_are_of_no_use_are_explained(data, found):
    with pytest.raises(AudioError, match=f"standard input: .*{found}"):
        PipeReader(Dribble(data), RAW)


@pytest.mark.parametrize(("size", "taken"), [(24, False), (25, False), (26, True), (40, True)])
def test_an_extensible_description_is_taken_as_soon_as_it_names_its_samples(size, taken):
    """Whose name is the 25th and 26th byte."""
    chunk = (struct.pack("<HHIIHH", 0xFFFE, 1, 16000, 32000, 2, 16) + bytes(8) + b"\1\0").ljust(40, b"\0")[:size]
    chunk += bytes(size % 2)
    data = b"RIFF\0\0\0\0WAVEfmt " + struct.pack("<I", size) + chunk + b"data" + struct.pack("<I", 4) + b"\1\0\2\0"
    if not taken:
        with pytest.raises(AudioError, match="16 bits, format 65534"):
            PipeReader(Dribble(data), RAW)
    else:
        np.testing.assert_array_equal(read(PipeReader(Dribble(data), RAW)), [[2**-15, 2**-14]])


def test_a_sample_that_is_not_finite_is_located():
    samples = noise(2, 4000)
    samples[1, 1600] = np.nan
    layout = Layout(16000, 2, "f32le")
    reader = PipeReader(Dribble(encode(samples, layout)[0]), layout)
    with pytest.raises(AudioError, match=r"not finite \(nan\) at 0\.100 s"):
        read(reader)


def test_a_sample_beyond_all_arithmetic_is_refused():
    samples = noise(1, 4000)
    samples[0, 1600] = 1e25
    reader = PipeReader(Dribble(encode(samples, layout := Layout(16000, 1, "f32le"))[0]), layout)
    with pytest.raises(AudioError, match=r"too large \(1e\+25\) at 0\.100 s \(sample 1600, channel 1\)"):
        read(reader)


@pytest.mark.parametrize("container, subtype", [("PAF", "PCM_16"), ("NIST", "PCM_16"), ("VOC", "PCM_U8"), ("AVR", "PCM_16"), ("PVF", "PCM_16"), ("MAT5", "PCM_16"), ("XI", "DPCM_16")])  # fmt: skip
def test_containers_with_a_name_at_their_beginning_are_known(container, subtype):
    file = io.BytesIO()
    soundfile.write(file, np.zeros(100), 44100, subtype, format=container)
    assert pipe.container_of(file.getvalue()) is not None


@pytest.mark.parametrize("index", range(16))
def test_frames_of_aac_have_one_of_thirteen_rates_and_a_head_of_six_bytes_that_says_how_long_they_are(index):
    """ISO 13818-7, 6.2: what says more is the head of the next frame."""
    head = bytes([0xFF, 0xF1, 0x40 | index << 2, 0x80, 0x02, 0x1F])
    frame = head.ljust(16, b"\0")
    assert pipe.container_of(frame + head) == ("AAC" if index < 13 else None)
    assert pipe.container_of(frame + head[:5]) is None
