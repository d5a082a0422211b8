"""Media that FFmpeg reads: length to the sample, samples, notes, and files that are cut or damaged."""

import random
import subprocess
import sys

import av
import numpy as np
import pytest
import soundfile

from deepnmf_cli.errors import AudioError
from deepnmf_cli.signal import audio, formats, media
from deepnmf_cli.signal.audio import AudioReader
from deepnmf_cli.signal.rewrite import rewrite
from tests import media as made

RATE_HZ = 16000


def chirp(frames: int, rate_hz: int = RATE_HZ, channels: int = 1) -> np.ndarray:
    """(channels, frames): a tone that glides, at another level in each channel."""
    time = np.arange(frames) / rate_hz
    return np.array([[0.3], [0.1]][:channels]) * np.sin(2 * np.pi * (200 + 150 * time) * time)


def cut_or_flip(data: bytes, dice: random.Random) -> bytes:
    damaged = bytearray(data)
    if dice.random() < 0.4:
        return bytes(damaged[: dice.randrange(1, len(damaged))])
    reach = len(damaged) if dice.random() < 0.5 else 1500  # headers are where it hurts
    for _ in range(dice.choice([1, 3, 30])):
        damaged[dice.randrange(min(reach, len(damaged)))] = dice.randrange(256)
    return bytes(damaged)


# Content


@pytest.mark.parametrize(
    ("name", "codec", "rate_hz", "subtype"),
    [
        ("x.m4a", "aac", 44100, "AAC"), ("x.mp4", "aac", 48000, "AAC"), ("x.mov", "pcm_s24le", 44100, "PCM_24"),
        ("x.m4a", "alac", 16000, "PCM_16"), ("x.mkv", "flac", 22050, "PCM_16"), ("x.mkv", "pcm_f32le", 8000, "FLOAT"),
        ("x.webm", "libopus", 48000, "OPUS"), ("x.mka", "libmp3lame", 44100, "MP3"), ("x.wv", "wavpack", 44100, "PCM_16"),
        ("x.tta", "tta", 44100, "PCM_16"),
    ],
)  # fmt: skip
def test_length_and_samples_are_those_that_were_encoded(tmp_path, name, codec, rate_hz, subtype):
    samples = chirp(rate_hz + 123, rate_hz, channels=2)
    made.write(tmp_path / name, samples, rate_hz, codec)
    found = audio.info(tmp_path / name)
    assert found == formats.AudioInfo(rate_hz, 2, samples.shape[1], "MEDIA", subtype)
    read, _ = audio.read(tmp_path / name, "float64")
    assert read.shape == samples.shape
    errors = {"PCM_16": 2.0**-16, "PCM_24": 2.0**-23, "FLOAT": 1e-7}  # PyAV's encoder rounds 24 bits down
    assert np.abs(read - samples)[:, 2000:-2000].max() < errors.get(subtype, 0.02) * 1.01
    assert made.lag(samples[0], read[0]) == 0


@pytest.mark.parametrize(
    ("name", "rate_hz", "frame"),
    [("x.wma", 44100, 2048), ("x.amr", 8000, 160), ("x.aac", 48000, 1024), ("x.ts", 48000, 1024), ("x.avi", 48000, 1536),
     ("x.flv", 44100, 1024), ("x.mkv", 48000, 1024)],
)  # fmt: skip
def test_formats_that_count_whole_blocks_are_read_as_ffmpeg_decodes_them(tmp_path, name, rate_hz, frame):
    made.write(tmp_path / name, chirp(rate_hz, rate_hz), rate_hz)
    decoded, _ = made.sound(tmp_path / name)
    read, _ = audio.read(tmp_path / name)
    np.testing.assert_array_equal(read, decoded)
    assert abs(read.shape[1] - rate_hz) <= 2 * frame


def test_any_part_of_it_is_the_same_part_of_the_whole(tmp_path):
    made.write(tmp_path / "x.m4a", chirp(20_000), RATE_HZ)
    whole, _ = audio.read(tmp_path / "x.m4a")
    with AudioReader(tmp_path / "x.m4a") as reader:
        assert np.array_equal(np.concatenate(list(reader.blocks(start=7000, end=9001)), axis=1), whole[:, 7000:9001])
        assert [block.shape for block in reader.blocks(frames=4000)] == [(1, 4000), (1, 4000), (1, 2999)]
    assert np.array_equal(audio.read_stretch(tmp_path / "x.m4a", 0.5, 0.75)[0], whole[:, 8000:12000])
    assert not formats.is_seekable(audio.info(tmp_path / "x.m4a"))


def test_integers_are_the_floats_rounded(tmp_path):
    made.write(tmp_path / "x.mov", chirp(2000), RATE_HZ, "pcm_s16le")
    whole, _ = audio.read(tmp_path / "x.mov", "float64")
    for kind, scale in (("int16", 1 << 15), ("int32", 1 << 31)):
        read, _ = audio.read(tmp_path / "x.mov", kind)
        assert read.dtype == kind and np.array_equal(read, whole * scale)


def test_content_is_known_by_itself_whatever_the_suffix_says(tmp_path):
    made.write(tmp_path / "x.m4a", chirp(5000), RATE_HZ)
    (tmp_path / "x.wav").write_bytes((tmp_path / "x.m4a").read_bytes())
    soundfile.write(tmp_path / "y.m4a", chirp(5000)[0], RATE_HZ, format="FLAC")
    assert audio.info(tmp_path / "x.wav").subtype == "AAC" and audio.info(tmp_path / "y.m4a").container == "FLAC"


def test_the_length_is_counted_once_for_each_state_of_a_file(tmp_path, monkeypatch):
    made.write(tmp_path / "x.m4a", chirp(5000), RATE_HZ)
    opened = []
    decoder = media._Decoder
    monkeypatch.setattr(media, "_Decoder", lambda *given: opened.append(given) or decoder(*given))
    assert audio.info(tmp_path / "x.m4a").frames == 5000
    counted = len(opened)
    assert audio.info(tmp_path / "x.m4a").frames == 5000
    assert counted - (len(opened) - counted) == 1
    made.write(tmp_path / "x.m4a", chirp(6000), RATE_HZ)
    assert audio.info(tmp_path / "x.m4a").frames == 6000


def test_tags_are_read_by_the_names_of_libsndfile(tmp_path):
    made.write(tmp_path / "x.m4a", chirp(2000), RATE_HZ, tags={"title": "A talk", "artist": "Ann", "track": "3"})
    with AudioReader(tmp_path / "x.m4a") as reader:
        assert reader.metadata.tags == {"title": "A talk", "artist": "Ann", "tracknumber": "3"}


# Notes


def test_the_first_of_several_streams_is_read_with_a_note(tmp_path):
    made.write(tmp_path / "x.mkv", chirp(48000, 48000), 48000, streams=2, picture_s=0.4)
    with AudioReader(tmp_path / "x.mkv") as reader:
        assert reader.notes == ("it holds 2 audio streams, of which the first was read",)
        assert np.abs(np.concatenate(list(reader.blocks()), axis=1)).max() > 0.2


def test_sound_that_is_missing_becomes_silence_so_that_the_rest_stays_in_time(tmp_path):
    samples = chirp(48000)
    made.write(tmp_path / "x.mkv", samples, RATE_HZ, "pcm_s16le", holes=(range(16000, 24000),))
    with AudioReader(tmp_path / "x.mkv") as reader:
        read = np.concatenate(list(reader.blocks()), axis=1)
        assert reader.notes == ("0.50 s of sound are missing in it, for which silence was put in",)
    assert abs(read.shape[1] - 48000) <= 16  # times are rounded to milliseconds
    np.testing.assert_allclose(read[:, :16000], samples[:, :16000], atol=2.0**-15)
    np.testing.assert_allclose(read[:, -24000:], samples[:, -24000:], atol=2.0**-15)
    assert not read[:, 16000:-24000].any()


def test_a_format_without_a_length_says_so(tmp_path):
    made.write(tmp_path / "x.amr", chirp(8000, 8000), 8000)
    with AudioReader(tmp_path / "x.amr") as reader:
        assert reader.notes == ("its header does not say how long it is, so an end that is missing cannot be noticed",)


def test_packets_that_cannot_be_decoded_are_counted_and_the_length_stays(tmp_path):
    made.write(tmp_path / "x.mp4", chirp(48000), RATE_HZ)
    data = bytearray((tmp_path / "x.mp4").read_bytes())
    begin = data.index(b"mdat") + 4 + 2000
    data[begin : begin + 300] = b"\xff" * 300
    (tmp_path / "x.mp4").write_bytes(data)
    with AudioReader(tmp_path / "x.mp4") as reader:
        assert reader.notes[0].startswith("it is damaged: ") and "packets could not be decoded" in reader.notes[0]
        assert reader.info.frames == 48000 == sum(block.shape[1] for block in reader.blocks())


# Errors


@pytest.mark.parametrize("name", ["x.mkv", "x.webm", "x.avi", "x.wma", "x.wv", "x.tta"])
@pytest.mark.parametrize("share", [0.5, 0.9, 0.98])
def test_a_file_cut_short_is_refused_or_named(tmp_path, name, share):
    rate_hz = 48000 if name != "x.tta" else 44100
    made.write(tmp_path / name, chirp(rate_hz, rate_hz), rate_hz)
    data = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(data[: int(share * len(data))])
    try:
        with AudioReader(tmp_path / name) as reader:
            assert reader.notes
    except AudioError as error:
        assert "copy it again" in error.remedy and error.where == str(tmp_path / name)


def test_an_mp4_file_whose_sound_is_cut_off_says_how_much_is_there(tmp_path):
    made.write(tmp_path / "x.mp4", chirp(48000), RATE_HZ, options={"movflags": "faststart"})
    data = (tmp_path / "x.mp4").read_bytes()
    (tmp_path / "x.mp4").write_bytes(data[: len(data) * 2 // 3])
    with pytest.raises(AudioError, match=r"x\.mp4: found 3\d{4} frames; expected 4\d{4} frames as the header says"):
        audio.info(tmp_path / "x.mp4")


def test_pictures_without_sound_and_playlists_are_no_recordings(tmp_path):
    made.write(tmp_path / "x.mp4", chirp(2000), RATE_HZ, picture_s=0.2)
    import av

    with av.open(str(tmp_path / "x.mp4")) as source, av.open(str(tmp_path / "silent.mp4"), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = stream
                target.mux(packet)
    with pytest.raises(AudioError, match="silent.mp4: found no audio that can be read .no sound in it"):
        audio.info(tmp_path / "silent.mp4")
    made.write(tmp_path / "x.ts", chirp(48000, 48000), 48000)
    lists = {"hls.m4a": "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:2\n#EXTINF:1,\nx.ts\n#EXT-X-ENDLIST\n"}
    lists["concat.mp4"] = "ffconcat version 1.0\nfile x.mp4\n"
    for name, text in lists.items():
        (tmp_path / name).write_text(text)
        with pytest.raises(AudioError, match=f"{name}: found no audio that can be read"):
            audio.info(tmp_path / name)


def test_without_the_extra_the_error_names_it_and_ffmpeg(tmp_path, without_media):
    (tmp_path / "x.m4a").write_bytes(b"\0\0\0\x18ftypM4A " + bytes(100))
    with pytest.raises(AudioError, match=r'ffmpeg -i FILE.*pip install "deepnmf\[media\]"'):
        audio.info(tmp_path / "x.m4a")
    assert not formats.UNREADABLE & formats.audio_suffixes()
    (error,) = formats.scan(tmp_path).unreadable
    assert (
        'Run `pip install "deepnmf[media]"`, or convert it first' in error.remedy and "ffmpeg -i x.m4a" in error.remedy
    )


def test_with_the_extra_folders_are_searched_for_media(tmp_path):
    names = ("a.m4a", "b.MP4", "c.webm", "d.amr", "e.raw", "f.m4p", "g.wav", "h.txt")
    for name in names:
        (tmp_path / name).touch()
    found = formats.scan(tmp_path)
    assert [path.name for path in found.audio] == ["a.m4a", "b.MP4", "c.webm", "d.amr", "g.wav"]
    assert [path.where for path in found.unreadable] == [str(tmp_path / name) for name in ("e.raw", "f.m4p")]
    assert "pip install" not in found.unreadable[0].remedy


def test_pyav_is_imported_for_media_alone(tmp_path):
    soundfile.write(tmp_path / "x.wav", chirp(2000)[0], RATE_HZ)
    program = f"import sys; from deepnmf_cli.signal import audio; audio.read({str(tmp_path / 'x.wav')!r}); print('av' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


@pytest.mark.parametrize("name", ["x.m4a", "x.mp4", "x.mkv"])
def test_media_cut_or_changed_anywhere_give_samples_or_an_error(tmp_path, name, capfd):
    dice = random.Random(name)
    picture_s, options = (0.4, {"movflags": "faststart"}) if name == "x.mp4" else (0.0, {})
    made.write(tmp_path / name, chirp(RATE_HZ), RATE_HZ, picture_s=picture_s, options=options)
    data, outcomes = (tmp_path / name).read_bytes(), set()
    for number in range(60):
        path = tmp_path / f"{number}-{name}"
        path.write_bytes(cut_or_flip(data, dice))
        try:
            with AudioReader(path) as reader:
                found = sum(block.shape[1] for block in reader.blocks())
                assert found == reader.info.frames <= 3 * RATE_HZ
                outcomes.add("notes" if reader.notes else "read")
        except AudioError as error:
            outcomes.add("error")
            assert error.where == str(path)
    assert outcomes == {"notes", "read", "error"}
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("suffix", ["ogg", "opus"])
@pytest.mark.parametrize("channels", [2, 3, 4, 5, 6, 7, 8])
def test_loudspeakers_of_ogg_are_those_that_ffmpeg_hears(tmp_path, channels, suffix):
    """Vorbis and Opus have the centre second and deep sounds last; WAV has them third and fourth."""
    tones_hz = 40 + 10 * np.arange(channels)  # one for each channel
    seconds = np.arange(2 * 48000)[:, None] / 48000
    soundfile.write(tmp_path / "a.wav", 0.3 * np.sin(2 * np.pi * tones_hz * seconds), 48000, "FLOAT")
    done = rewrite(tmp_path / "a.wav", path := tmp_path / f"a.{suffix}", lambda blocks, rate_hz, channels: blocks)
    assert [note.split(" (LFE)")[0] for note in done.notes] == (
        ["its fourth channel is taken for that of deep sounds"] if channels > 5 else []
    )
    resampler, heard = av.AudioResampler(format="flt"), []
    with av.open(str(path)) as file:
        for frame in file.decode(audio=0):
            heard += [packed.to_ndarray().reshape(-1, channels).T for packed in resampler.resample(frame)]
    for found in (np.concatenate(heard, 1), audio.read(path)[0]):
        assert list(np.abs(np.fft.rfft(found[:, 24000:72000])).argmax(1)) == list(tones_hz)
