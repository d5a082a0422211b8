"""What heads of frames and of files say, against the formats' own rules."""

import io

import numpy as np
import pytest
import soundfile

from deepnmf_cli.signal import links, survey
from deepnmf_cli.signal.links import mpeg_frame
from tests.fuzz.containers import seal


def bit_rates(layer, first):
    """In kbit/s, by the rule that each is built with: even steps, or four steps to an octave."""
    quarters = [32 * 2**octave * (4 + quarter) // 4 for octave in range(4) for quarter in range(4)]
    if first:
        return {1: [32 * n for n in range(1, 15)], 2: [*quarters[:1], *quarters[2:15]], 3: quarters[:14]}[layer]
    fine = [*range(8, 64, 8), *range(64, 161, 16)]
    return [*quarters[:1], *quarters[2:8], *range(128, 193, 16), 224, 256] if layer == 1 else fine


def test_sizes_of_mpeg_frames_are_those_of_the_standard():
    """ISO 11172-3, 2.4.3.1, and 13818-3: 12 slots of four bytes, or 144, 72 in layer III at the lower rates, per sample."""
    for version, step in ((3, 1), (2, 2), (0, 4)):
        for layer in (1, 2, 3):
            for index, kbps in enumerate(bit_rates(layer, version == 3), 1):
                for place, rate in enumerate((44100, 48000, 32000)):
                    for padding in (0, 1):
                        head = bytes(
                            [0xFF, 0xE1 | version << 3 | (4 - layer) << 1, index << 4 | place << 2 | padding << 1, 0]
                        )
                        per_sample = {1: 12, 2: 144, 3: 144 if version == 3 else 72}[layer]
                        slots = per_sample * 1000 * kbps // (rate // step) + padding
                        frame = mpeg_frame(head)
                        assert frame.kind == (version, layer, rate // step, False)
                        assert frame.size == slots * (4 if layer == 1 else 1)
                        assert frame.samples == {1: 384, 2: 1152, 3: 1152 if version == 3 else 576}[layer]


@pytest.mark.parametrize(
    "head", [b"\xff\xeb\x90\0", b"\xff\xf9\x90\0", b"\xff\xfb\0\0", b"\xff\xfb\xf0\0", b"\xff\xfb\x9c\0", b"\xfe\xfb\x90\0", b"\xff\xdb\x90\0", b"\xff\xfb\x90"]
)  # fmt: skip
def test_what_the_standard_reserves_is_no_frame(head):
    assert mpeg_frame(b"\xff\xfb\x90\0") and mpeg_frame(head) is None


def test_a_file_is_examined_from_its_beginning():
    file = io.BytesIO()
    soundfile.write(file, np.zeros(9), 16000, format="WAV")
    whole = file.getvalue()
    file.seek(0)
    expected = survey.examine(file, len(whole))
    file.seek(9)
    assert expected is not None and survey.examine(file, len(whole)) == expected


def test_samples_of_an_instrument_are_added_up():
    sizes = [(size).to_bytes(4, "little").ljust(40, b"\0") for size in (10, 0, 20)]
    content = b"Extended Instrument: ".ljust(296, b"\0") + b"\3\0" + b"".join(sizes) + bytes(30)
    assert survey.examine(io.BytesIO(content), len(content)) == survey.Extent(298 + 3 * 40, 30, pieces=2)


@pytest.mark.parametrize("samples", [0, 2])
def test_an_au_file_of_size_0_is_unfinished_if_samples_follow(samples):
    content = b".snd" + (24).to_bytes(4, "big") + bytes(4) + bytes(12 + samples)
    assert survey.examine(io.BytesIO(content), len(content)).unfinished == bool(samples)


@pytest.mark.parametrize("place", range(5))
def test_what_is_searched_for_is_found_across_the_end_of_what_is_held(place):
    content = bytes(links._WINDOW_BYTES - place) + b"OggS" + bytes(9)
    window = links._Window(io.BytesIO(content), len(content))
    assert window.find(b"OggS", 0) == links._WINDOW_BYTES - place
    assert window.find(b"OggS", links._WINDOW_BYTES - place + 1) == len(content)


def ogg_page(number, flags=0, granule=0, body=b""):
    """RFC 3533, section 6; without a body a page has 27 bytes."""
    head = b"OggS\0" + bytes([flags]) + granule.to_bytes(8, "little", signed=True) + bytes(4)
    head += number.to_bytes(4, "little") + bytes(4) + bytes([bool(body)]) + bytes([len(body)] * bool(body))
    return seal(head + body)


BEGINS, ENDS = 2, 4
VORBIS = ogg_page(0, BEGINS, body=b"\x01vorbis")


def test_the_page_that_ends_an_ogg_stream_may_be_empty():
    content = VORBIS + ogg_page(1, granule=100, body=b"samples") + ogg_page(2, ENDS, 100)
    assert len(ogg_page(2, ENDS, 100)) == 27
    (part,) = links.ogg_parts(io.BytesIO(content), len(content))
    assert part.fault is None and part.segments == [(0, len(content))]


def test_pages_on_which_no_packet_ends_are_not_yet_samples():
    """Their position is -1. What is missing before the first samples is what a radio station leaves out."""
    content = VORBIS + ogg_page(1, granule=-1, body=b"comments") + ogg_page(3, ENDS, 100, b"samples")
    (part,) = links.ogg_parts(io.BytesIO(content), len(content))
    assert part.fault is None and part.note == "its first pages with samples are missing"


def test_a_flac_file_begins_where_its_first_block_has_the_size_that_all_have():
    for content, begins in ((b"fLaC" + bytes(20), False), (b"fLaC" + bytes(20) + b"fLaC\0\0\0\x22", True)):
        assert links.flac_begins(io.BytesIO(content), len(content), 0) is begins


@pytest.mark.parametrize("byte", [None, *range(6, 10)])
def test_sizes_of_id3_tags_have_seven_bits_a_byte(byte):
    """ID3 2.4.0, section 3.1: otherwise it is none."""
    head = bytearray(b"ID3\4\0\0\0\0\0\x0a")
    if byte:
        head[byte] |= 0x80
    content = bytes(head) + bytes(50)
    assert links._after_tag(links._Window(io.BytesIO(content), len(content)), 0) == (0 if byte else 20)
