"""That a recording is read to its true end, or refused: whatever its header promises, and however it was joined or cut."""

import itertools
import re

import numpy as np
import pytest
import soundfile

from deepnmf_cli.errors import AudioError
from deepnmf_cli.signal import audio, audio_writer
from deepnmf_cli.signal.audio import AudioReader
from deepnmf_cli.signal.links import mpeg_frame
from deepnmf_cli.signal.parts import Part
from tests.fuzz.containers import seal

RATE_HZ = 16000
FRAMES = 40_000
SAMPLES_PER_FRAME = 576
"""Of MP3 at 16 kHz."""

UNSIZED = "its header does not say how long it is, so an end that is missing cannot be noticed"


def sound(frames=FRAMES, channels=1):
    """Loud at first, then quiet: what makes the first frames of a compressed file say little about the others."""
    noise = 0.3 * np.random.default_rng(0).standard_normal((channels, frames))
    return noise * np.where(np.arange(frames) < frames // 5, 1, 0.01)


def encoded(tmp_path, container, subtype=None, samples=None, rate_hz=RATE_HZ, **settings):
    path = tmp_path / "encoded.tmp"
    samples = sound() if samples is None else samples
    with soundfile.SoundFile(path, "w", rate_hz, len(samples), subtype, format=container, **settings) as file:
        file.write(samples.T)
    return path.read_bytes()


def vbr(tmp_path, **settings):
    return encoded(tmp_path, "MP3", bitrate_mode="VARIABLE", compression_level=0.5, **settings)


def cbr(tmp_path, **settings):
    return encoded(tmp_path, "MP3", bitrate_mode="CONSTANT", compression_level=0.5, **settings)


def without_header(mp3):
    """(the frames of samples alone, their number as the header said)"""
    assert mp3[:1] == b"\xff"
    info = max(mp3[:100].find(b"Xing"), mp3[:100].find(b"Info"))
    return mp3[mpeg_frame(mp3[:4]).size :], int.from_bytes(mp3[info + 8 : info + 12], "big")


def put(content, position, value):
    return content[:position] + value + content[position + len(value) :]


def read(tmp_path, content):
    """(samples, notes) of a file."""
    path = tmp_path / "x.bin"
    path.write_bytes(content)
    with AudioReader(path) as reader:
        samples = np.concatenate(list(reader.blocks()), axis=1)
        assert samples.shape == (reader.info.channels, reader.info.frames)
        return samples, reader.notes


def refused(tmp_path, content, *parts):
    """Expect an AudioError with all `parts` in its message when the file is opened, before any sample is read."""
    path = tmp_path / "x.bin"
    path.write_bytes(content)
    with pytest.raises(AudioError, match="(?s)" + "".join(f"(?=.*{part})" for part in parts)):
        AudioReader(path)


# MP3


@pytest.mark.parametrize("make", [vbr, cbr])
@pytest.mark.parametrize("tag", [b"", b"ID3\x04\0\0\0\0\0\x0a" + bytes(10)])
def test_an_mp3_without_a_header_is_counted(tmp_path, make, tag):
    whole = make(tmp_path)
    expected, _ = read(tmp_path, whole)
    bare, frames = without_header(whole)
    found, notes = read(tmp_path, tag + bare)
    assert expected.shape == (1, FRAMES) and found.shape == (1, SAMPLES_PER_FRAME * frames)
    np.testing.assert_allclose(found[:, 1105 : 1105 + FRAMES], expected, atol=1e-5)  # LAME's delay and the decoder's
    counted = f"{frames} MP3 frames ({SAMPLES_PER_FRAME * frames / RATE_HZ:.2f} s) were counted"
    assert notes == (f"{counted}; {UNSIZED}",)


@pytest.mark.parametrize("layer_bits", [b"\xff\xf5", b"\xff\xf7"])
def test_other_layers_of_mpeg_are_counted(tmp_path, layer_bits):
    head = layer_bits + b"\x88\xc0"  # 16 kHz, one channel
    frame = head.ljust(mpeg_frame(head).size, b"\0")
    assert read(tmp_path, frame * 20)[0].shape == (1, 20 * mpeg_frame(head).samples)


def test_joined_mp3s_are_taken_apart(tmp_path):
    first, second = vbr(tmp_path), cbr(tmp_path, samples=sound(10_000))
    bare, _ = without_header(second)
    tag = b"TAG" + bytes(125)
    for parts in ([first, second], [first, bare], [bare, first], [first + tag, second, first], [first, second, bare]):
        found, _ = read(tmp_path, b"".join(parts))
        apart = [read(tmp_path, part)[0] for part in parts]
        np.testing.assert_array_equal(found, np.concatenate(apart, axis=1))


def test_joined_mp3s_of_several_kinds_are_refused(tmp_path):
    mono, stereo = vbr(tmp_path), vbr(tmp_path, samples=sound(channels=2))
    refused(tmp_path, mono + stereo, r"parts of 1 channel\(s\) at 16000 Hz and of 2", "apart")
    faster, _ = without_header(vbr(tmp_path, rate_hz=24000))
    refused(tmp_path, without_header(mono)[0] + faster, "at 16000 Hz and of 1 .* at 24000 Hz")


def test_an_mp3_header_may_count_itself_but_promise_no_more(tmp_path):
    whole = vbr(tmp_path)
    _, frames = without_header(whole)
    info = max(whole[:100].find(b"Xing"), whole[:100].find(b"Info"))
    for more in (0, 1):
        found, _ = read(tmp_path, put(whole, info + 8, (frames + more).to_bytes(4, "big")))
        assert found.shape[1] >= FRAMES
    refused(tmp_path, put(whole, info + 8, (frames + 2).to_bytes(4, "big")), "as the header says", "incomplete")


def test_an_mp3_header_that_promises_too_little_loses_nothing(tmp_path):
    whole = vbr(tmp_path, samples=0.3 * np.random.default_rng(0).standard_normal((1, FRAMES)))
    _, frames = without_header(whole)
    info = max(whole[:100].find(b"Xing"), whole[:100].find(b"Info"))
    notes = set()
    for promised in range(frames // 2, frames // 2 + 8):
        samples, said = read(tmp_path, put(whole, info + 8, promised.to_bytes(4, "big")))
        assert samples.shape[1] > FRAMES and len(said) == 1
        notes.add(said[0].replace(str(promised), "N"))
    seconds = f"{SAMPLES_PER_FRAME * frames / RATE_HZ:.2f}"
    assert f"its header promises N MP3 frames, but {frames} MP3 frames ({seconds} s) were counted" in notes


def id3(size):
    return b"ID3\x04\0\0\0\0\0" + bytes([size])


@pytest.mark.parametrize("make", [vbr, cbr])
@pytest.mark.parametrize(("size", "before"), [(127, b""), (100, 2 * (id3(20) + bytes(20))), (60, b"")])
def test_an_mp3_is_counted_whatever_its_tag_swallows(tmp_path, make, size, before):
    """The size of the tag reaches into the Xing header, so that the decoder would guess the length."""
    whole = make(tmp_path)
    _, frames = without_header(whole)
    found, notes = read(tmp_path, before + id3(size) + whole)
    assert found.shape == (1, SAMPLES_PER_FRAME * frames)
    assert notes == (f"{frames} MP3 frames ({SAMPLES_PER_FRAME * frames / RATE_HZ:.2f} s) were counted; {UNSIZED}",)


@pytest.mark.parametrize("position", range(6, 13))
def test_a_xing_header_that_the_decoder_does_not_see_is_a_frame(tmp_path, position):
    whole = vbr(tmp_path)
    _, frames = without_header(whole)
    found, notes = read(tmp_path, put(whole, position, b"\1"))
    assert found.shape == (1, SAMPLES_PER_FRAME * (frames + 1)) and UNSIZED in notes[0]


def test_what_lies_between_frames_is_left_out(tmp_path, capfd):
    """The decoder gives up on more than 1 kB, and comments on less."""
    whole = vbr(tmp_path)
    bare, _ = without_header(whole)
    middle = mpeg_frame(bare[:4]).size
    for between in (bytes(100), bytes(5000), b"ID3\x04\0\0\x7f\x7f\x7f\x7f" + bytes(100)):
        found, notes = read(tmp_path, whole[: len(whole) - len(bare)] + bare[:middle] + between + bare[middle:])
        np.testing.assert_array_equal(found, read(tmp_path, whole)[0])
        assert notes == ()
    assert capfd.readouterr().err == ""


def test_mpeg_audio_in_a_wav_file_is_counted(tmp_path):
    bare, frames = without_header(vbr(tmp_path))
    head = encoded(tmp_path, "WAV", "PCM_16")[:44]
    found, notes = read(tmp_path, put(put(head, 20, b"\x55\0"), 40, len(bare).to_bytes(4, "little")) + bare)
    assert found.shape == (1, SAMPLES_PER_FRAME * frames) and UNSIZED in notes[0]


def test_what_has_no_frames_of_mpeg_is_refused_before_it_is_decoded(tmp_path, capfd):
    pcm = encoded(tmp_path, "WAV", "PCM_16")
    for content in (put(pcm, 20, b"\x55\0"), b"\xff\xfb" + pcm, id3(1) + pcm, b"\xff\xfb\0\xc4" * 999):
        refused(tmp_path, content, "no frames of MPEG audio")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(("container", "subtype"), [("MP3", "MPEG_LAYER_III"), ("OGG", "VORBIS")])
def test_frames_and_pages_that_nobody_has_followed_are_not_decoded(tmp_path, monkeypatch, container, subtype):
    monkeypatch.setattr(audio, "survey", lambda file, size: [Part([(0, size)])])
    refused(tmp_path, encoded(tmp_path, container), f"{subtype} behind something else")


# Ogg


@pytest.mark.parametrize(("subtype", "rate_hz"), [("VORBIS", 16000), ("OPUS", 48000)])
def test_the_links_of_a_chain_are_followed(tmp_path, subtype, rate_hz):
    links = [encoded(tmp_path, "OGG", subtype, sound(frames, 2), rate_hz) for frames in (FRAMES, 9000, 1)]
    found, notes = read(tmp_path, b"".join(links))
    np.testing.assert_array_equal(found, np.concatenate([read(tmp_path, link)[0] for link in links], axis=1))
    assert found.shape == (2, FRAMES + 9001) and notes == ()


def test_a_chain_of_several_kinds_is_refused(tmp_path):
    links = [encoded(tmp_path, "OGG", "VORBIS", sound(), rate_hz) for rate_hz in (16000, 44100)]
    refused(tmp_path, b"".join(links), "at 16000 Hz and of .* at 44100 Hz", "one kind")


def test_a_length_that_no_codec_packs_into_a_file_is_refused(tmp_path):
    """Before anybody asks whether an output of that length fits on the disk."""
    whole = encoded(tmp_path, "OGG", "OPUS", sound(), 48000)
    lie = seal(put(whole, whole.rindex(b"OggS") + 6, (1 << 60).to_bytes(8, "little")))
    refused(tmp_path, lie, r"found \d+ frames; expected 11529215046\d+ frames as the header says")


@pytest.mark.parametrize(("subtype", "rate_hz"), [("VORBIS", 16000), ("OPUS", 48000)])
def test_a_cut_ogg_stream_is_refused(tmp_path, subtype, rate_hz):
    whole = encoded(tmp_path, "OGG", subtype, sound(), rate_hz)
    for kept in (len(whole) // 2, len(whole) - 1, whole.rindex(b"OggS")):
        refused(tmp_path, whole[:kept], "an Ogg stream that breaks off", "incomplete", "ffmpeg -i")
        refused(tmp_path, whole + whole[:kept], "an Ogg stream that breaks off")
    np.testing.assert_array_equal(read(tmp_path, whole + bytes(300))[0], read(tmp_path, whole)[0])


def test_an_ogg_stream_with_a_hole_is_refused(tmp_path):
    pages = encoded(tmp_path, "OGG", "VORBIS", 0.3 * np.random.default_rng(0).standard_normal((1, 200_000))).split(
        b"OggS"
    )
    assert len(pages) > 8
    refused(tmp_path, b"OggS".join(pages[:5] + pages[6:]), "pages are missing")
    # A listener who joins a radio station late gets the headers, and then what comes.
    found, _ = read(tmp_path, b"OggS".join(pages[:3] + pages[5:]))
    assert 100_000 < found.shape[1] < 200_000


@pytest.mark.parametrize(("subtype", "rate_hz"), [("VORBIS", 16000), ("OPUS", 48000)])
def test_a_damaged_page_of_ogg_is_noticed(tmp_path, subtype, rate_hz):
    """The decoder leaves it out without a word."""
    samples = 0.3 * np.random.default_rng(0).standard_normal((1, 12 * rate_hz))
    whole = encoded(tmp_path, "OGG", subtype, samples, rate_hz)
    pages = [match.start() for match in re.finditer(b"OggS", whole)]
    assert len(pages) > 8
    for page in pages[2:]:
        refused(tmp_path, put(whole, page + 100, b"\0\1\2"), "an Ogg stream", "incomplete")
    found, notes = read(tmp_path, whole[: pages[2]] + whole[pages[3] :])  # as a listener who joins late gets it
    assert found.shape[1] < samples.shape[1] and notes == ("its first pages with samples are missing",)


def pages_of(stream, serial):
    """Its pages, with another number of the stream."""
    starts = [match.start() for match in re.finditer(b"OggS", stream)] + [len(stream)]
    return [seal(put(stream[a:b], 14, serial)) for a, b in itertools.pairwise(starts)]


@pytest.mark.parametrize("byte", range(4))
def test_ogg_streams_that_play_at_the_same_time_are_told_apart_by_their_whole_number(tmp_path, byte):
    whole = encoded(tmp_path, "OGG", "VORBIS")
    first = pages_of(whole, bytes(4))
    second = pages_of(whole, put(bytes(4), byte, b"\1"))
    together = first[:1] + second[:1] + [page for pair in zip(first[1:], second[1:]) for page in pair]
    refused(tmp_path, b"".join(together), "2 Ogg streams that play at the same time; expected one")
    np.testing.assert_array_equal(read(tmp_path, b"".join(second))[0], read(tmp_path, whole)[0])


def test_a_chain_of_ogg_behind_tags_is_followed(tmp_path):
    link = encoded(tmp_path, "OGG", "VORBIS")
    found, notes = read(tmp_path, id3(20) + bytes(20) + id3(0) + 3 * link)
    assert found.shape == (1, 3 * FRAMES) and notes == ()


@pytest.mark.parametrize("container", ["WAV", "FLAC", "AIFF", "AU"])
def test_tags_before_a_recording_change_nothing(tmp_path, container):
    whole = encoded(tmp_path, container, "PCM_16")
    expected, _ = read(tmp_path, whole)
    found, notes = read(tmp_path, 2 * (id3(20) + bytes(20)) + id3(0) + whole)
    np.testing.assert_array_equal(found, expected)
    assert notes == ()


# Uncompressed containers

CUT = [
    ("NIST", "PCM_16"), ("VOC", "PCM_16"), ("AVR", "PCM_16"), ("MAT4", "PCM_16"), ("MAT4", "DOUBLE"),
    ("MAT5", "PCM_16"), ("MAT5", "FLOAT"), ("SVX", "PCM_16"), ("WVE", "ALAW"), ("MPC2K", "PCM_16"), ("SDS", "PCM_16"),
    ("SDS", "PCM_24"), ("WAV", "PCM_24"), ("RF64", "PCM_16"), ("W64", "FLOAT"), ("AIFF", "PCM_16"), ("AU", "ULAW"),
]  # fmt: skip


@pytest.mark.parametrize(("container", "subtype"), CUT)
def test_a_recording_cut_to_a_part_is_refused(tmp_path, container, subtype, capfd):
    channels = 1 if container in ("SVX", "WVE", "SDS") else 2
    rate_hz = 8000 if container == "WVE" else RATE_HZ
    whole = encoded(tmp_path, container, subtype, sound(channels=channels), rate_hz)
    assert read(tmp_path, whole)[0].shape == (channels, FRAMES)
    assert read(tmp_path, whole)[1] == ()
    for share in (0.6, 0.99):
        refused(
            tmp_path, whole[: int(share * len(whole))], r"found \d+ frames", f"expected {FRAMES} frames", "incomplete"
        )
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("container", ["CAF", "HTK"])
def test_what_libsndfile_itself_refuses_when_it_is_cut(tmp_path, container):
    whole = encoded(tmp_path, container, "PCM_16")
    refused(tmp_path, whole[: int(0.6 * len(whole))], "no audio that can be read")


def test_damaged_packets_of_sds_are_refused_before_they_are_decoded(tmp_path, capfd):
    """libsndfile prints to standard output for each of them, which may hold an output of the program."""
    whole = encoded(tmp_path, "SDS", "PCM_16")
    for content in (put(whole, 22, b"\0"), put(whole, 21 + 127 * 5, b"\0"), whole[:100] + b"junk" + whole[100:]):
        refused(tmp_path, content, "packet", "damaged")
    refused(tmp_path, put(whole, 6, b"\0"), "no audio that can be read")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("container", ["IRCAM", "PVF", "PAF", "XI"])
def test_formats_that_cannot_say_whether_they_are_whole_say_so(tmp_path, container):
    rate_hz = 44100 if container == "XI" else RATE_HZ
    whole = encoded(tmp_path, container, "DPCM_16" if container == "XI" else "PCM_16", sound(), rate_hz)
    found, notes = read(tmp_path, whole[: int(0.6 * len(whole))])
    assert found.shape[1] < FRAMES
    assert notes == (UNSIZED,)


def unfinished(content, container):
    """The file with zeros, or what else stands there before the first sample, for its sizes."""
    if container == "WAV":
        return put(put(content, 4, bytes(4)), 40, bytes(4))
    if container == "AIFF":
        sizes = ((4, bytes(4)), (content.index(b"COMM") + 10, bytes(4)), (content.index(b"SSND") + 4, b"\0\0\0\x08"))
    elif container == "AU":
        sizes = ((8, bytes(4)),)
    elif container == "CAF":
        sizes = ((content.index(b"data") + 4, bytes(8)),)
    elif container == "W64":
        sizes = ((16, bytes(8)), (content.index(b"data\xf3") + 16, (24).to_bytes(8, "little")))
    else:
        sizes = ((content.index(b"ds64") + 8, bytes(24)),)
    for position, value in sizes:
        content = put(content, position, value)
    return content


@pytest.mark.parametrize("container", ["WAV", "AIFF", "AU", "CAF", "W64", "RF64"])
def test_what_a_recorder_left_that_was_switched_off_is_read_to_its_end(tmp_path, container):
    whole = encoded(tmp_path, container, "PCM_16", sound(channels=2))
    found, notes = read(tmp_path, unfinished(whole, container))
    np.testing.assert_array_equal(found, read(tmp_path, whole)[0])
    assert notes == ("its header was never finished and announces no samples: all that follow it were read",)


def test_a_wav_whose_data_size_alone_is_zero_is_read_to_its_end(tmp_path):
    whole = encoded(tmp_path, "WAV", "PCM_16")
    found, notes = read(tmp_path, put(whole, 40, bytes(4)))
    assert found.shape == (1, FRAMES) and len(notes) == 1


def test_a_caf_that_says_until_the_end_needs_no_word(tmp_path):
    whole = encoded(tmp_path, "CAF", "PCM_16")
    found, notes = read(tmp_path, put(whole, whole.index(b"data") + 4, b"\xff" * 8))
    assert found.shape == (1, FRAMES) and notes == ()


def test_chunks_of_negative_sizes_end_the_walk(tmp_path):
    for container, field in (("W64", (0).to_bytes(8, "little")), ("CAF", (-40).to_bytes(8, "big", signed=True))):
        whole = encoded(tmp_path, container, "PCM_16")
        start = 40 + 16 if container == "W64" else whole.index(b"chan" if b"chan" in whole else b"free") + 4
        refused(tmp_path, put(whole, start, field) + b"junk" * 9, "found")


def test_an_empty_wav_with_notes_behind_it_stays_empty(tmp_path):
    empty = encoded(tmp_path, "WAV", "PCM_16", np.empty((1, 0)))
    refused(tmp_path, empty[:44] + b"LIST\x0c\0\0\0INFOICMT\0\0\0\0", "found no samples")


def test_samples_that_the_header_does_not_announce_are_not_left_out(tmp_path):
    whole = encoded(tmp_path, "WAV", "PCM_16")
    refused(
        tmp_path, put(whole, 40, (1000).to_bytes(4, "little")), "found 79000 bytes behind the samples", "ignore_length"
    )
    found, notes = read(tmp_path, whole + b"\xff" * 1000)
    left_out = "1000 bytes behind its samples, which its header does not announce, were left out"
    assert found.shape == (1, FRAMES) and notes == (left_out,)


@pytest.mark.parametrize("behind", [b"TAG".ljust(128, b"x"), bytes(1 << 17), b"LIST\xf0\0\0\0".ljust(248, b"x")])
@pytest.mark.parametrize("frames", [FRAMES, FRAMES - 1])
def test_what_is_no_sound_may_follow_the_samples(tmp_path, behind, frames):
    whole = encoded(tmp_path, "WAV", "PCM_U8", sound(frames))
    for content in {whole, whole[: 44 + frames]}:  # with the byte that makes the size even, and without
        found, notes = read(tmp_path, content + behind)
        assert found.shape == (1, frames) and notes == ()


@pytest.mark.parametrize("container", ["WAV", "AIFF", "CAF", "W64", "RF64"])
def test_joined_files_of_chunks_are_refused(tmp_path, container):
    refused(tmp_path, 2 * encoded(tmp_path, container, "PCM_16"), "2 stretches of samples", "one recording", "apart")


def test_a_comment_is_no_header(tmp_path):
    with soundfile.SoundFile(tmp_path / "x.wav", "w", RATE_HZ, 1) as file:
        file.comment = "x\ndata : 99999 (should be 1)\n'ds64' chunk of 99999999"
        file.write(sound()[0])
    samples, _ = audio.read(tmp_path / "x.wav")
    assert samples.shape == (1, FRAMES)


# FLAC


@pytest.mark.parametrize(
    ("promised", "message"),
    [
        ((1 << 36) - 1, f"found {FRAMES} frames"),
        (FRAMES + 1, f"found {FRAMES} frames"),
        (FRAMES - 1, "found more than"),
    ],
)
@pytest.mark.parametrize("tag", [b"", b"ID3\x04\0\0\0\0\0\x0a" + bytes(10)])
def test_a_flac_header_that_lies_is_found_out_at_once(tmp_path, promised, message, tag):
    whole = encoded(tmp_path, "FLAC", "PCM_16")
    described = int.from_bytes(whole[18:26], "big") >> 36 << 36
    assert read(tmp_path, tag + whole)[0].shape == (1, FRAMES)
    lie = put(whole, 18, (described | promised).to_bytes(8, "big"))
    refused(tmp_path, tag + lie, message, f"expected {promised} frames as the header says")


@pytest.mark.parametrize("damage", ["cut", "overwritten"])
def test_a_flac_file_of_unknown_length_says_where_decoding_failed(tmp_path, damage):
    whole = encoded(tmp_path, "FLAC", "PCM_16")
    described = int.from_bytes(whole[18:26], "big") >> 36 << 36
    piped, middle = put(whole, 18, described.to_bytes(8, "big")), len(whole) // 2
    assert read(tmp_path, piped)[0].shape == (1, FRAMES) and read(tmp_path, piped)[1] == ()
    found, notes = read(tmp_path, piped[:middle] if damage == "cut" else put(piped, middle, bytes(5000)))
    assert found.shape[1] < FRAMES
    assert notes[0].startswith(f"it is damaged or cut short: decoding failed behind {found.shape[1]} frames")


@pytest.mark.parametrize("tag", [b"", id3(20) + bytes(20)])
def test_joined_flac_files_are_refused(tmp_path, tag):
    refused(tmp_path, tag + 2 * encoded(tmp_path, "FLAC", "PCM_16"), "a FLAC file behind another", "apart")
    long = encoded(tmp_path, "FLAC", "PCM_16", np.random.default_rng(0).uniform(-1, 1, (1, 2_000_000)))
    assert len(long) > 3 << 20
    refused(tmp_path, tag + long + encoded(tmp_path, "FLAC", "PCM_16"), "a FLAC file behind another")
    refused(tmp_path, tag + encoded(tmp_path, "FLAC", "PCM_16") + long, "a FLAC file behind another")


# A part of a recording


@pytest.mark.parametrize("kind", ["WAV", "FLAC", "W64", "OGG", "MP3", "chain"])
def test_a_part_of_a_recording_is_the_same_as_of_the_whole(tmp_path, kind):
    content = 2 * encoded(tmp_path, "OGG") if kind == "chain" else encoded(tmp_path, kind)
    whole, _ = read(tmp_path, content)
    with AudioReader(tmp_path / "x.bin") as reader:
        for start, end in ((7, 3000), (30_000, 39_000), (39_990, None)):
            found = np.concatenate(list(reader.blocks(start=start, end=end, frames=5000)), axis=1)
            np.testing.assert_allclose(found, whole[:, start:end], atol=1e-6)


@pytest.mark.parametrize("container", ["WAV", "FLAC"])
def test_a_part_of_a_long_recording_is_found_without_decoding_what_is_before(tmp_path, container, monkeypatch):
    audio_writer.write(tmp_path / f"x.{container.lower()}", sound(), RATE_HZ)
    with AudioReader(tmp_path / f"x.{container.lower()}") as reader:
        asked = []
        monkeypatch.setattr(
            reader, "_read", lambda frames, dtype, read=reader._read: asked.append(frames) or read(frames, dtype)
        )
        assert next(reader.blocks(start=39_000)).shape == (1, 1000) and asked == [1000]
