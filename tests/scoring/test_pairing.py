"""Pairs of files, their input SNR, the hash of a corpus; and what is refused."""

import hashlib
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from deepnmf_cli.errors import AudioError, CorpusError
from deepnmf_cli.scoring.pairing import Pair, alone, corpus_hash, pair_folders, printable, read_pair

TONE = 0.1 * np.sin(np.arange(1600) / 5)


@pytest.fixture
def pair(write):
    """pair(reference, estimate, rate_hz, estimate's rate_hz) -> a Pair of files."""

    def make(reference, estimate, rate_hz=16000, estimate_hz=16000):
        return Pair("a", write("clean/a.wav", reference, rate_hz), write("noisy/a.wav", estimate, estimate_hz))

    return make


def test_files_pair_by_path_below_the_folder_whatever_their_suffix(write, tmp_path):
    for name in ("clean/b.wav", "clean/town/a.flac", "enhanced/b.flac", "enhanced/town/a.wav", "enhanced/c.wav"):
        write(name, TONE)
    (tmp_path / "clean/notes.txt").write_text("hello")
    pairs, extra = pair_folders(tmp_path / "clean", tmp_path / "enhanced")
    assert [pair.name for pair in pairs] == ["b", "town/a"]
    estimates = [pair.estimate.relative_to(tmp_path / "enhanced").as_posix() for pair in pairs]
    assert estimates == ["b.flac", "town/a.wav"]
    assert extra == ["c"]


def test_dots_in_names_are_no_suffixes(write, tmp_path):
    for name in ("clean/a.1.wav", "clean/a.2.wav", "noisy/a.1.flac", "noisy/a.2.flac"):
        write(name, TONE)
    assert [pair.name for pair in pair_folders(tmp_path / "clean", tmp_path / "noisy")[0]] == ["a.1", "a.2"]


def test_composed_and_decomposed_accents_pair(write, tmp_path):
    composed, decomposed = "\u00e9t\u00e9", "e\u0301te\u0301"
    for name in (f"clean/{composed}/{decomposed}.wav", f"noisy/{decomposed}/{composed}.flac"):
        write(name, TONE)
    ((pair,), extra) = pair_folders(tmp_path / "clean", tmp_path / "noisy")
    assert pair.name == f"{composed}/{composed}" and extra == []
    assert read_pair(pair)[0].shape == (1, 1600)


def test_names_that_are_no_text_pair_and_can_be_printed(write, tmp_path):
    for folder in ("clean", "noisy"):
        os.rename(write(f"{folder}/a.wav", TONE), os.fsencode(tmp_path / folder) + b"/caf\xe9\n.wav")
    os.rename(write("noisy/b.wav", TONE), os.fsencode(tmp_path / "noisy") + b"/\xff.wav")
    ((pair,), extra) = pair_folders(tmp_path / "clean", tmp_path / "noisy")
    assert (pair.name, extra) == (r"caf\xe9\n", [r"\xff"])
    assert read_pair(pair)[2] == 16000
    digest = hashlib.sha256(pair.reference.read_bytes()).hexdigest().encode()
    assert corpus_hash([pair.reference]) == hashlib.sha256(digest + b"  caf\xe9\n.wav\n").hexdigest()
    pair.estimate.unlink()
    with pytest.raises(CorpusError, match=r"the first being 'caf\\xe9\\n'"):
        pair_folders(tmp_path / "clean", tmp_path / "noisy")


@pytest.mark.parametrize(
    "name, shown",
    [
        ("a b/\u5f71_+3dB", "a b/\u5f71_+3dB"),
        ("\udce9", r"\xe9"),
        ("a\x1b[31m\r\n", r"a\x1b[31m\r\n"),
        ("\u202e", r"\u202e"),
    ],
)
def test_what_is_shown_of_a_name_is_one_line_of_text(name, shown):
    assert printable(name) == printable(Path(name)) == shown


def test_a_missing_partner_is_named(write, tmp_path):
    for name in ("clean/a.wav", "clean/b.wav", "noisy/a.wav"):
        write(name, TONE)
    with pytest.raises(CorpusError, match="noisy: found no partner for 1 of 2 references, the first being 'b'"):
        pair_folders(tmp_path / "clean", tmp_path / "noisy")


@pytest.mark.parametrize("folder", ["clean", "noisy"])
def test_media_that_cannot_be_read_are_refused(write, tmp_path, folder, without_media):
    for name in ("clean/a.wav", "noisy/a.wav"):
        write(name, TONE)
    for name in ("b.m4a", "c.m4a"):
        (tmp_path / folder / name).touch()
    with pytest.raises(
        CorpusError, match=rf"{folder}: found 2 file\(s\) that cannot be read, .*b\.m4a; .*`ffmpeg -i b"
    ):
        pair_folders(tmp_path / "clean", tmp_path / "noisy")


def test_two_files_of_one_name_are_refused(write, tmp_path):
    for name in ("clean/a.wav", "clean/a.flac", "noisy/a.wav"):
        write(name, TONE)
    with pytest.raises(CorpusError, match="found a.flac and a.wav; expected one file of each name"):
        pair_folders(tmp_path / "clean", tmp_path / "noisy")


def test_a_missing_folder_a_file_and_an_empty_folder_are_refused(write, tmp_path):
    path = write("clean/a.wav", TONE)
    (tmp_path / "empty").mkdir()
    with pytest.raises(CorpusError, match="nowhere: found nothing there"):
        pair_folders(path.parent, tmp_path / "nowhere")
    with pytest.raises(CorpusError, match="a.wav: found a file; expected a folder"):
        pair_folders(path, path.parent)
    with pytest.raises(AudioError, match="empty: found no audio files"):
        pair_folders(path.parent, tmp_path / "empty")


def test_a_pair_is_read_in_double_and_cut_to_the_shorter(pair):
    reference, estimate, rate_hz = read_pair(pair(TONE, TONE[:-160] / 3))
    assert reference.dtype == estimate.dtype == np.float64 and rate_hz == 16000
    np.testing.assert_array_equal(reference, TONE[None, :-160])
    np.testing.assert_array_equal(estimate, TONE[None, :-160] / 3)


@pytest.mark.parametrize("rate_hz, allowed", [(16000, 160), (8000, 80), (44100, 441)])
def test_lengths_may_differ_by_10_ms_and_no_more(pair, rate_hz, allowed):
    for reference, estimate in ((TONE, TONE[:-allowed]), (TONE[:-allowed], TONE)):
        assert read_pair(pair(reference, estimate, rate_hz, rate_hz))[0].shape == (1, 1600 - allowed)
    with pytest.raises(CorpusError, match=f"found {1599 - allowed} samples; expected 1600 samples, give or take 10 ms"):
        read_pair(pair(TONE, TONE[: -allowed - 1], rate_hz, rate_hz))


def test_different_rates_are_refused_with_both_files_and_rates(pair):
    with pytest.raises(CorpusError) as caught:
        read_pair(pair(TONE, TONE, 16000, 8000))
    error = caught.value
    assert Path(error.where).parts[-2:] == ("noisy", "a.wav") and error.found == "a sampling rate of 8000 Hz"
    assert error.expected.startswith("16000 Hz, as ") and error.expected.endswith("a.wav has")
    assert error.remedy == "Choose one with --rate."


def test_both_files_are_brought_to_the_rate_that_is_asked_for(pair):
    time_s = np.arange(4800) / 48000
    tone = np.sin(2 * np.pi * 1000 * time_s)
    asked = replace(pair(np.stack([tone, 0.5 * tone]), np.stack([tone[::3]] * 2), 48000, 16000), rate_hz=16000)
    reference, estimate, rate_hz = read_pair(asked)
    assert rate_hz == 16000 and reference.shape == estimate.shape == (2, 1600)
    np.testing.assert_allclose(reference[0, 100:-100], tone[::3][100:-100], atol=1e-4)
    np.testing.assert_allclose(reference[1], 0.5 * reference[0], atol=1e-9)
    np.testing.assert_array_equal(estimate[0], tone[::3])


def test_an_estimate_alone_stands_for_both(write, tmp_path):
    for name in ("noisy/a.wav", "enhanced/a.wav", "enhanced/b.wav"):
        write(name, TONE)
    (pair,), extra = alone(tmp_path / "noisy", tmp_path / "enhanced")
    reference, estimate, _ = read_pair(pair)
    assert reference is estimate and extra == ["b"]
    assert pair.reference is None and pair.first == pair.estimate == tmp_path / "enhanced" / "a.wav"


def test_different_channels_are_refused(pair):
    with pytest.raises(CorpusError, match="found 2 channel.s.; expected 1 channel.s., as"):
        read_pair(pair(TONE, np.stack([TONE, TONE])))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_samples_that_are_not_finite_are_refused(pair, bad):
    with pytest.raises(AudioError, match="noisy.a.wav: found a sample that is not finite"):
        read_pair(pair(TONE, np.where(np.arange(1600) == 800, bad, TONE)))


def test_files_that_hold_no_audio_are_refused(write, tmp_path):
    reference = write("clean/a.wav", TONE)
    (text := tmp_path / "text.wav").write_text("no audio at all")
    empty = write("empty.wav", np.zeros(0))
    for path in (text, empty, tmp_path / "gone.wav"):
        with pytest.raises(AudioError, match=path.name):
            read_pair(Pair("a", reference, path))


def test_the_corpus_hash_is_that_of_a_list_of_sha256sum(tmp_path):
    contents = {"b.wav": b"two", "a.wav": b"one"}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    listing = "".join(f"{hashlib.sha256(contents[name]).hexdigest()}  {name}\n" for name in sorted(contents))
    assert corpus_hash(tmp_path.iterdir()) == hashlib.sha256(listing.encode()).hexdigest()


def test_a_recording_that_a_low_rate_leaves_nothing_of_is_named(tmp_path):
    for name in ("clean", "enhanced"):
        soundfile.write(tmp_path / f"{name}.wav", [0.1, -0.1], 48000)
    with pytest.raises(CorpusError, match="found no sample at 8000 Hz"):
        read_pair(Pair("short", tmp_path / "clean.wav", tmp_path / "enhanced.wav", 8000))
