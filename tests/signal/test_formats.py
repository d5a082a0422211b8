"""Which files count as audio, and which sample format an output gets."""

import pytest
import soundfile

from deepnmf_cli.errors import AudioError
from deepnmf_cli.signal import formats
from deepnmf_cli.signal.formats import WRITABLE, AudioInfo, output_format


@pytest.mark.parametrize(
    ("name", "source", "expected"),
    [
        ("x.wav", ("WAV", "PCM_24"), ("WAV", "PCM_24")),
        ("x.WAV", ("WAV", "DOUBLE"), ("WAV", "DOUBLE")),
        ("x.flac", ("WAV", "PCM_16"), ("FLAC", "PCM_16")),
        ("x.flac", ("WAV", "PCM_U8"), ("FLAC", "PCM_S8")),
        ("x.flac", ("WAV", "PCM_32"), ("FLAC", "PCM_24")),
        ("x.flac", ("WAV", "FLOAT"), ("FLAC", "PCM_24")),
        ("x.aiff", ("AU", "PCM_S8"), ("AIFF", "PCM_16")),
        ("x.wav", ("CAF", "ALAC_20"), ("WAV", "PCM_24")),
        ("x.wav", ("MP3", "MPEG_LAYER_III"), ("WAV", "PCM_16")),
        ("x.wav", ("WAV", "IMA_ADPCM"), ("WAV", "PCM_16")),
        ("x.wav", ("WAV", "ULAW"), ("WAV", "ULAW")),
        ("x.mp3", ("WAV", "FLOAT"), ("MP3", "MPEG_LAYER_III")),
        ("x.ogg", ("WAV", "PCM_16"), ("OGG", "VORBIS")),
        ("x.ogg", ("OGG", "OPUS"), ("OGG", "OPUS")),
        ("x.opus", ("OGG", "VORBIS"), ("OGG", "OPUS")),
    ],
)
def test_output_has_the_nearest_sample_format_of_its_container(name, source, expected):
    assert output_format(name, AudioInfo(48000, 1, 1, *source)) == expected


@pytest.mark.parametrize("suffix", WRITABLE)
def test_every_writable_container_takes_every_sample_format(tmp_path, suffix):
    for subtype in {name for names in formats._SAMPLES.values() for name in names}:
        container, chosen = output_format(f"x{suffix}", AudioInfo(48000, 1, 1, "WAV", subtype))
        assert soundfile.check_format(container, chosen)


def test_find_lists_audio_by_suffix_and_skips_what_is_hidden(tmp_path):
    for name in ("b.WAV", "a/c.flac", "a/d.mp3", ".hidden.wav", ".git/e.wav", "notes.txt", "out/f.wav", "x.raw"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "a" / "loop").symlink_to(tmp_path, target_is_directory=True)
    found = formats.find(tmp_path, skip=[tmp_path / "a" / ".." / "out"])
    assert [str(path.relative_to(tmp_path)) for path in found] == ["a/c.flac", "a/d.mp3", "b.WAV"]


def test_find_needs_at_least_one_file(tmp_path):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(AudioError, match=r"no audio files.*\.wav.*another folder"):
        formats.find(tmp_path)
