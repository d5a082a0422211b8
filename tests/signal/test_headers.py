"""What heads of frames and of files say, against the formats' own rules."""

import io

import numpy as np
import pytest
import soundfile

from deepnmf_cli.signal import survey
from deepnmf_cli.signal.links import mpeg_frame


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
