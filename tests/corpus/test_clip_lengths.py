"""That clips are as long as they sound, whatever their headers say."""

import numpy as np
import pytest
import soundfile

from deepnmf_cli.corpus.clips import decode
from deepnmf_cli.corpus.manifest import scan
from deepnmf_cli.errors import CorpusError

RATE = 16000
TONE = 0.2 * np.sin(2 * np.pi * 300 * np.arange(RATE) / RATE)


def write(path):
    soundfile.write(path, TONE, RATE)
    return path


def test_clips_of_unknown_length_are_counted(tmp_path):
    content = bytearray(write(tmp_path / "piped.flac").read_bytes())
    content[21] &= 0xF0  # the total number of samples in STREAMINFO: 36 bits, 0 for "unknown"
    content[22:26] = bytes(4)
    (tmp_path / "piped.flac").write_bytes(content)
    assert [clip.seconds for clip in scan(tmp_path)] == [len(TONE) / RATE]


def test_clips_are_as_long_as_they_sound_and_cut_ones_are_named(tmp_path):
    link = write(tmp_path / "link.ogg").read_bytes()
    (tmp_path / "link.ogg").write_bytes(2 * link)
    (clip,) = scan(tmp_path)
    assert clip.seconds == 2 * len(TONE) / RATE and len(decode(clip.path, RATE)) == 2 * len(TONE)
    (tmp_path / "link.ogg").write_bytes(link[: len(link) // 2])
    for read in (lambda: scan(tmp_path), lambda: decode(tmp_path / "link.ogg", RATE)):
        with pytest.raises(CorpusError, match=r"link.ogg: found an Ogg stream that breaks off"):
            read()
