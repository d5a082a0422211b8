"""Tags and loudspeakers go from file to file."""

import numpy as np
import pytest
import soundfile

from deepnmf_cli.signal import audio, audio_writer
from deepnmf_cli.signal.formats import AudioInfo
from deepnmf_cli.signal.metadata import Metadata
from deepnmf_cli.signal.rewrite import rewrite

RATE_HZ = 16000
TAGS = {"title": "Gespräch 3", "artist": "A. Name", "comment": "hall", "album": "Field", "date": "2020"}
TAGS |= {"genre": "Speech", "tracknumber": "7", "copyright": "CC0"}
SURROUND = (2, 3, 4, 11, 9, 10)
"""Left, right, centre, low frequencies, rear left, rear right, by libsndfile's numbers."""
SILENCE = np.zeros((1, 2000), np.float32)


def unchanged(blocks, rate_hz, channels):
    yield from blocks


def tagged(path, container, subtype):
    info = AudioInfo(RATE_HZ, 1, SILENCE.shape[1], container, subtype)
    with audio_writer.open_writer(path, info, Metadata(TAGS)) as writer:
        writer.write(SILENCE)


def tags(path):
    with audio.AudioReader(path) as reader:
        return reader.metadata.tags


@pytest.mark.parametrize(
    ("suffix", "kept"),
    [
        (".wav", set(TAGS)),
        (".rf64", set(TAGS)),
        (".flac", set(TAGS)),
        (".ogg", set(TAGS)),
        (".caf", set(TAGS)),
        (".mp3", set(TAGS) - {"title", "copyright"}),  # LAME would garble the title
        (".aiff", {"title", "artist", "comment", "copyright"}),
        (".au", set()),
        (".w64", set()),
    ],
)
def test_tags_are_kept_where_the_container_can_hold_them(tmp_path, suffix, kept):
    tagged(tmp_path / "in.flac", "FLAC", "PCM_16")
    out, noise = tmp_path / f"out{suffix}", tmp_path / "noise.wav"
    rewrite(tmp_path / "in.flac", out, unchanged, noise)
    assert tags(out) == {name: text for name, text in TAGS.items() if name in kept}
    assert tags(noise) == TAGS
    assert audio.info(out).frames == SILENCE.shape[1]


def test_the_program_that_wrote_the_input_is_not_named(tmp_path):
    with soundfile.SoundFile(tmp_path / "in.wav", "w", RATE_HZ, 1) as file:
        file.software, file.title = "Recorder", "x"
        file.write(SILENCE.T)
    rewrite(tmp_path / "in.wav", tmp_path / "out.wav", unchanged)
    assert tags(tmp_path / "out.wav") == {"title": "x"}


@pytest.mark.parametrize("limit", [audio_writer.WAV_LIMIT_BYTES, 1000])
def test_loudspeakers_are_kept_in_wav(tmp_path, monkeypatch, limit):
    monkeypatch.setattr(audio_writer, "WAV_LIMIT_BYTES", limit)
    samples = np.random.default_rng(0).uniform(-1, 1, (6, 500)).round(3)
    info = AudioInfo(48000, 6, 500, "WAVEX", "PCM_24")
    with audio_writer.open_writer(tmp_path / "in.wav", info, Metadata(speakers=SURROUND)) as writer:
        writer.write(samples)
    rewrite(tmp_path / "in.wav", tmp_path / "out.wav", unchanged)
    with audio.AudioReader(tmp_path / "out.wav") as reader:
        assert reader.metadata.speakers == SURROUND
        assert reader.info == AudioInfo(48000, 6, 500, "WAVEX" if limit > 1000 else "RF64", "PCM_24")
    header = (tmp_path / "out.wav").read_bytes()
    chunk = header.index(b"fmt ") + 8
    assert header[chunk : chunk + 2] == b"\xfe\xff"  # WAVE_FORMAT_EXTENSIBLE
    assert int.from_bytes(header[chunk + 20 : chunk + 24], "little") == 0x3F  # 5.1


@pytest.mark.parametrize(
    ("container", "subtype", "limit"),
    [("AIFF", "PCM_16", 8_000), ("OGG", "OPUS", 50_000), ("FLAC", "PCM_16", 16_000_000), ("OGG", "VORBIS", None)],
)
@pytest.mark.parametrize("letter", ["x", "é"])
def test_tags_too_long_for_a_header_are_left_out_and_the_others_kept(tmp_path, container, subtype, limit, letter):
    fits = {"title": letter * ((limit or 99_000) // 2 // len(letter.encode())), "artist": "A. Name"}
    too_long = {"comment": letter * ((limit or 99_000) // len(letter.encode()))}
    info = AudioInfo(RATE_HZ, 1, SILENCE.shape[1], container, subtype)
    with audio_writer.open_writer(tmp_path / "x", info, Metadata(fits | too_long)) as writer:
        writer.write(SILENCE)
    assert {name: len(text) for name, text in tags(tmp_path / "x").items()} == {
        name: len(text) for name, text in (fits if limit else fits | too_long).items()
    }
