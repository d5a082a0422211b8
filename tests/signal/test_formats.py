"""Which files count as audio, and which sample format an output gets."""

import os
import re
from pathlib import Path

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
        ("x.wav", ("CAF", "ALAC_16"), ("WAV", "PCM_16")),
        ("x.wav", ("CAF", "ALAC_24"), ("WAV", "PCM_24")),
        ("x.wav", ("CAF", "ALAC_32"), ("WAV", "PCM_32")),
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


def test_a_scan_names_media_that_cannot_be_read_and_nothing_else(tmp_path, without_media):
    names = ("a/b.M4A", "c.mp4", "d.wav", "e.raw", ".f.m4a", ".g/h.m4a", "i.txt", "j.csv", "k.jpg", "out/l.m4a")
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = formats.scan(tmp_path, skip=[tmp_path / "out"])
    assert found.audio == [tmp_path / "d.wav"]
    assert [error.where for error in found.unreadable] == [
        str(tmp_path / name) for name in ("a/b.M4A", "c.mp4", "e.raw")
    ]
    assert found.beside == f" beside 3 that cannot be read, the first being {tmp_path / 'a/b.M4A'}"
    assert formats.Found([], []).beside == ""
    assert not formats.UNREADABLE & formats.audio_suffixes()


@pytest.mark.parametrize(
    ("links", "more"),
    [
        ({"two": "elsewhere", "twin": "elsewhere"}, ["twin/b.wav", "two/b.wav"]),
        ({"one/up": "speech"}, []),
        ({"one/back": "elsewhere", "one/back/there": "speech/one"}, ["one/back/b.wav"]),
    ],
)
def test_links_to_folders_are_followed_where_wanted_and_never_in_a_circle(tmp_path, links, more):
    speech = tmp_path / "speech"
    for name in ("speech/one/a.wav", "elsewhere/b.wav"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).touch()
    for link, target in links.items():
        (speech / link).symlink_to(tmp_path / target)
    assert formats.find(speech) == [speech / "one/a.wav"]
    assert formats.find(speech, follow_links=True) == [speech / name for name in ["one/a.wav", *more]]


def test_a_folder_that_cannot_be_entered_is_named(tmp_path, monkeypatch):
    (tmp_path / "closed").mkdir()
    (tmp_path / "a.wav").touch()
    scandir = os.scandir

    def refuse(path):
        if Path(path).name == "closed":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    found = formats.scan(tmp_path)
    assert found.audio == [tmp_path / "a.wav"]
    (error,) = found.unreadable
    assert error.where == str(tmp_path / "closed") and error.found == "no way in (Permission denied)"


def test_the_documents_state_media_that_cannot_be_read_and_the_limits_of_encoders():
    page = (Path(__file__).parents[2] / "docs/cli.md").read_text("utf-8")
    rows = page.split("| media | suffixes |")[1].split("\n\n")[0]
    assert set(re.findall(r"`(\.\w+)`", rows)) == formats.UNREADABLE
    for name, limits in formats.LIMITS.items():
        if name != "FLOAT":
            assert f"| {limits.rates} | {limits.channels} |" in page, name


@pytest.mark.parametrize(
    ("container", "subtype", "expected"),
    [("WAV", "PCM_16", (7, 17)), ("WAV", "GSM610", (100, 233)), ("SDS", "PCM_16", (42, 100))],
)
def test_what_is_there_of_a_recording_is_counted_in_whole_frames(container, subtype, expected):
    """30 of 70 bytes of two channels; in proportion to the 100 frames that libsndfile finds, or was promised."""
    assert formats.cut_frames(AudioInfo(8000, 2, 100, container, subtype), 30, 70) == expected
    assert all(
        type(frames) is int for frames in formats.cut_frames(AudioInfo(8000, 2, 100, container, subtype), 30, 70)
    )
