"""`deepnmf enhance` with media in and out: telephones, films, and what stays of them beside the sound."""

import errno
from pathlib import Path

import numpy as np
import pytest
import soundfile

from deepnmf_cli import checkpoint
from deepnmf_cli.errors import EXIT_FAILED, EXIT_USAGE
from deepnmf_cli.signal import audio, media
from tests import media as made

RATE_HZ = 48000


@pytest.fixture
def sound() -> np.ndarray:
    """(2, n): noise, the weaker the higher, two seconds and an odd number of frames."""
    walk = np.cumsum(np.random.default_rng(0).standard_normal((2, 2 * RATE_HZ + 777)), axis=1)
    walk -= np.apply_along_axis(lambda row: np.convolve(row, np.ones(501) / 501, "same"), 1, walk)
    return 0.5 * walk / np.abs(walk).max()


def begin(path: str) -> float:
    with media.MediaFile(path) as file:
        return file.content.start_s


def listing() -> list[str]:
    return sorted(str(path) for path in Path().rglob("*") if path.is_file())


# In


def test_media_are_enhanced_to_wav_alone_in_folders_and_from_a_pipe(deepnmf, stub, folder, sound):
    Path("in").mkdir()
    made.write(Path("in/talk.m4a"), sound, RATE_HZ)
    made.write(Path("in/film.mp4"), sound, RATE_HZ, picture_s=0.4)
    soundfile.write("in/plain.flac", sound.T, RATE_HZ)
    assert deepnmf("enhance", "in", "-o", "out").code == 0
    assert listing()[-3:] == ["out/film.wav", "out/plain.flac", "out/talk.wav"]
    info = soundfile.info("out/talk.wav")
    assert (info.frames, info.samplerate, info.channels, info.subtype) == (sound.shape[1], RATE_HZ, 2, "PCM_16")
    assert deepnmf("enhance", "in/talk.m4a").code == 0 and Path("in/talk.enhanced.wav").is_file()
    piped = deepnmf("enhance", "-", "-o", "-", stdin=Path("in/film.mp4").read_bytes())
    assert piped.code == 0 and piped.out == Path("out/film.wav").read_bytes()


def test_what_is_heard_in_media_is_heard_in_training_and_scoring(tmp_path, sound):
    from deepnmf_cli.corpus import clips, manifest
    from deepnmf_cli.scoring.pairing import pair_folders

    for name in ("clean/a.m4a", "noisy/a.webm"):
        (tmp_path / name).parent.mkdir()
        made.write(tmp_path / name, sound, RATE_HZ)
    assert [pair.name for pair in pair_folders(tmp_path / "clean", tmp_path / "noisy")[0]] == ["a"]
    assert manifest.audio_files(tmp_path / "clean") == [tmp_path / "clean/a.m4a"]
    assert clips.decode(tmp_path / "clean/a.m4a", 16000).shape == (sound.shape[1] // 3,)


# Out


@pytest.mark.parametrize(
    ("source", "target", "codec"),
    [("in.mp4", "out.mp4", None), ("in.mov", "out.mov", "pcm_s16le"), ("in.mp4", "out.mkv", None), ("in.webm", "out.webm", None)],
)  # fmt: skip
def test_pictures_are_copied_and_the_sound_replaced_to_the_sample(deepnmf, stub, folder, sound, source, target, codec):
    made.write(Path(source), sound, RATE_HZ, codec, picture_s=2.0, tags={"title": "A talk"})
    result = deepnmf("enhance", source, "-o", target)
    assert result.code == 0, result.err
    assert made.packets(Path(target)) == made.packets(Path(source))
    before, after = (audio.read(name)[0] for name in (source, target))
    assert after.shape == before.shape == sound.shape
    assert made.lag(before[0], after[0]) == 0
    error = after - before / 2
    assert np.sum(error**2) < 1e-2 * np.sum((before / 2) ** 2)
    with audio.AudioReader(target) as reader:
        assert reader.metadata.tags["title"] == "A talk" and reader.notes == ()
    decoded, begin_s = made.sound(Path(target))
    assert (
        begin_s == 0 and sound.shape[1] <= decoded.shape[1] < sound.shape[1] + 1024
    )  # FFmpeg ends with a block of AAC
    assert listing() == sorted([source, target])


@pytest.mark.parametrize(("source", "target", "more"), [("in.mp4", "out.mp4", 1024), ("in.mkv", "out.mkv", 0), ("in.webm", "out.webm", 0)])  # fmt: skip
def test_sound_that_begins_later_than_the_pictures_stays_in_sync(deepnmf, stub, folder, sound, source, target, more):
    made.write(Path(source), sound, RATE_HZ, picture_s=2.0, start=24_000)
    assert deepnmf("enhance", source, "-o", target).code == 0
    assert made.packets(Path(target)) == made.packets(Path(source))
    before, after = (audio.read(name)[0] for name in (source, target))
    begins = [begin(name) for name in (source, target)]
    assert after.shape[1] == before.shape[1] + more  # the block that an encoder of AAC puts first
    assert made.lag(before[0], after[0, more:]) == 0
    assert begins[0] == pytest.approx(0.5, abs=0.03)
    assert begins[1] + more / RATE_HZ == pytest.approx(begins[0], abs=0.0011)  # milliseconds in Matroska


def test_subtitles_are_kept_where_the_container_takes_them(deepnmf, stub, folder, sound):
    made.write(Path("in.mkv"), sound, RATE_HZ, picture_s=0.4, subtitle="subrip")
    assert deepnmf("enhance", "in.mkv", "-o", "out.mkv").code == 0
    assert made.packets(Path("out.mkv"), "subtitle") == made.packets(Path("in.mkv"), "subtitle") != []
    result = deepnmf("enhance", "in.mkv", "-o", "out.mp4")
    assert result.code == 0
    assert "in.mkv: a subtitle stream (srt) was left out, as .mp4 does not hold it." in result.err


def test_sound_alone_becomes_m4a_and_no_video(deepnmf, stub, folder, sound):
    soundfile.write("in.wav", sound.T, RATE_HZ, "PCM_24")
    assert deepnmf("enhance", "in.wav", "-o", "out.m4a").code == 0
    assert audio.info("out.m4a").frames == sound.shape[1] and audio.info("out.m4a").subtype == "AAC"
    for name in ("out.mp4", "out.mkv", "out.webm", "out.mov"):
        result = deepnmf("enhance", "in.wav", "-o", name)
        assert result.code == EXIT_FAILED
        assert f"{name}: found no pictures in the input; expected a video for" in result.err and ".m4a" in result.err
    made.write(Path("film.mp4"), sound, RATE_HZ, picture_s=0.4)
    assert deepnmf("enhance", "film.mp4", "-o", "film.m4a").code == 0
    assert listing() == ["film.m4a", "film.mp4", "in.wav", "out.m4a"]


def test_eight_channels_come_back(deepnmf, stub, folder):
    """PyAV crashes on frames with eight planes."""
    levels = np.linspace(0.1, 0.5, 8)
    soundfile.write("in.wav", levels * np.sin(np.arange(RATE_HZ) / 20)[:, None], RATE_HZ, "FLOAT")
    assert deepnmf("enhance", "in.wav", "-o", "out.m4a").code == 0
    assert deepnmf("enhance", "out.m4a", "-o", "back.wav").code == 0
    found = np.abs(audio.read("back.wav")[0][:, RATE_HZ // 4 : -RATE_HZ // 4]).max(1)
    others = [0, 1, 2, 4, 5, 6, 7]  # AAC keeps little of the fourth, which is for deep sounds
    np.testing.assert_allclose(found[others], 0.25 * levels[others], rtol=0.05)


def test_what_a_container_cannot_hold_is_an_error_that_leaves_nothing(deepnmf, stub, folder, sound):
    made.write(Path("in.mp4"), sound, RATE_HZ, picture_s=0.4)
    result = deepnmf("enhance", "in.mp4", "-o", "out.webm")
    assert result.code == EXIT_FAILED and "found pictures in mpeg4; expected a codec that .webm holds" in result.err
    soundfile.write("odd.wav", sound.T, 12345)
    result = deepnmf("enhance", "odd.wav", "-o", "out.m4a")
    assert result.code == EXIT_FAILED and "12345 Hz; expected at most 8 at 8000, 11025" in result.err
    assert listing() == ["in.mp4", "odd.wav"]


def test_noise_clipping_and_existing_files_are_treated_as_elsewhere(deepnmf, stub, folder, sound):
    made.write(Path("in.mp4"), sound, RATE_HZ, picture_s=0.4)
    assert deepnmf("enhance", "in.mp4", "-o", "out.mp4", "--noise-out", "noise.wav").code == 0
    before, noise = audio.read("in.mp4")[0], audio.read("noise.wav")[0]
    np.testing.assert_allclose(noise, before / 2, atol=2.0**-15)
    assert deepnmf("enhance", "in.mp4", "-o", "out.mp4").code == EXIT_USAGE
    stub.gain = np.float32(4)
    result = deepnmf("enhance", "in.mp4", "-o", "out.mp4", "--overwrite")
    assert result.code == 0 and "samples beyond full scale clipped" in result.err
    assert np.abs(audio.read("out.mp4")[0]).max() < 1.2


@pytest.mark.parametrize("point", ["out.mp4: block", "out.mp4: written"])
def test_a_full_disk_leaves_what_was_there(deepnmf, stub, folder, sound, monkeypatch, point):
    made.write(Path("in.mp4"), sound, RATE_HZ, picture_s=0.4)
    Path("out.mp4").write_bytes(b"precious")

    def fill(reached: str) -> None:
        if reached == point:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint, "reached", fill)
    result = deepnmf("enhance", "in.mp4", "-o", "out.mp4", "--overwrite")
    assert result.code == EXIT_FAILED and "out.mp4: found a full disk" in result.err
    assert Path("out.mp4").read_bytes() == b"precious" and listing() == ["in.mp4", "out.mp4"]


def test_pictures_count_among_what_needs_room(deepnmf, stub, folder, sound, monkeypatch):
    from collections import namedtuple

    from deepnmf_cli.signal import audio_writer

    made.write(Path("in.mp4"), sound, RATE_HZ, picture_s=2.0)
    with media.MediaFile("in.mp4") as file:
        needed = file.content.other_bytes + int(2000 * sound.shape[1] / RATE_HZ)
    usage = namedtuple("usage", "total used free")
    for free, code in ((needed - 1, EXIT_FAILED), (needed, 0)):
        monkeypatch.setattr(audio_writer.shutil, "disk_usage", lambda folder, free=free: usage(1 << 40, 0, free))
        assert deepnmf("enhance", "in.mp4", "-o", "out.mp4").code == code
