"""Decoding: long recordings in pieces, channels that cancel, silence nearly everywhere."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from deepnmf_cli.corpus import clips
from deepnmf_cli.corpus.clips import ClipCache, decode
from deepnmf_cli.corpus.dataset import MixingSettings, MixtureDataset, PairDataset
from deepnmf_cli.corpus.manifest import Clip
from deepnmf_cli.corpus.mixing import rms
from deepnmf_cli.signal.audio import AudioReader

RATE = 16000


def noise(seconds: float, rate_hz: int = RATE, channels: int = 1, seed: int = 0) -> np.ndarray:
    """(N, channels) white noise at -20 dBFS."""
    samples = 0.1 * np.random.default_rng(seed).standard_normal((round(seconds * rate_hz), channels))
    return samples.clip(-0.9, 0.9).astype(np.float32)


def mostly_silent(seconds: float, first: float) -> np.ndarray:
    """Silence with half a second of noise from `first` on."""
    samples = np.zeros(round(seconds * RATE), np.float32)
    samples[round(first * RATE) :][: RATE // 2] = noise(0.5)[:, 0]
    return samples


@pytest.fixture
def decoded(monkeypatch) -> list[int]:
    """Long begins at 2 s; gets the frames of every block that is decoded."""
    counts, blocks = [], clips._blocks

    def counting(file: AudioReader, start: int, frames: int | None):
        for samples, rate_hz in blocks(file, start, frames):
            counts.append(len(samples))
            yield samples, rate_hz

    monkeypatch.setattr(clips, "LONG_S", 2.0)
    monkeypatch.setattr(clips, "_blocks", counting)
    return counts


@pytest.mark.parametrize(("channels", "times"), [(1, 1), (2, 2)])
def test_a_recording_of_one_channel_is_opened_once(tmp_path: Path, monkeypatch, channels: int, times: int) -> None:
    soundfile.write(path := tmp_path / "a.flac", noise(1.0, RATE, channels), RATE)
    opened = []
    monkeypatch.setattr(clips, "AudioReader", lambda path: opened.append(path) or AudioReader(path))
    decode(path, RATE)
    assert opened == [path] * times


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.aiff"])
@pytest.mark.parametrize("own_rate", [8000, 16000, 44100, 44056])
def test_a_piece_of_a_long_recording_equals_the_same_part_of_the_whole(
    tmp_path: Path, decoded: list[int], name: str, own_rate: int
) -> None:
    soundfile.write(path := tmp_path / name, noise(12.3, own_rate), own_rate)
    whole, cache = decode(path, RATE), ClipCache(RATE)
    decoded.clear()
    assert len(whole) - 2 <= cache.length(path) <= len(whole)
    for start, stop in ((0, 900), (77777, 93777), (190000, 196700), (196700, 300000)):
        piece = cache.read(path, start, stop)
        assert len(piece) == max(0, min(stop, cache.length(path)) - start)
        np.testing.assert_allclose(piece, whole[start : start + len(piece)], atol=2e-6)
    assert sum(decoded) < 6 * own_rate and not cache._held  # of 12 s; 44056 Hz meets 16 kHz every 1/8 s only


def test_a_long_recording_without_exact_positions_is_decoded_once(tmp_path: Path, decoded: list[int]) -> None:
    soundfile.write(path := tmp_path / "a.ogg", noise(5), RATE)
    cache = ClipCache(RATE)
    pieces = [cache.read(path, start, start + 100) for start in (0, 30000, 60000)]
    assert sum(decoded) == 5 * RATE and [len(p) for p in pieces] == [100] * 3


def test_decoding_holds_a_block_at_a_time_and_gives_the_same(tmp_path: Path, decoded: list[int], monkeypatch) -> None:
    soundfile.write(path := tmp_path / "a.wav", noise(3, 44100, channels=2), 44100)
    whole = decode(path, RATE)
    decoded.clear()
    monkeypatch.setattr(clips, "READ_SAMPLES", 10000)
    np.testing.assert_array_equal(decode(path, RATE), whole)
    assert max(decoded) == 5000


def test_channels_of_opposite_sign_do_not_become_silence(tmp_path: Path) -> None:
    left = noise(1)
    soundfile.write(tmp_path / "a.wav", np.hstack([0.5 * left, -left]), RATE, subtype="FLOAT")
    np.testing.assert_array_equal(decode(tmp_path / "a.wav", RATE), -left[:, 0])


@pytest.mark.parametrize("channels", [2, 4, 8])
def test_channels_of_their_own_are_averaged(tmp_path: Path, channels: int) -> None:
    samples = noise(1, channels=channels)
    soundfile.write(tmp_path / "a.wav", samples, RATE, subtype="FLOAT")
    np.testing.assert_allclose(decode(tmp_path / "a.wav", RATE), samples.mean(1), atol=1e-7)


def test_both_files_of_a_pair_are_heard_through_one_channel(tmp_path: Path) -> None:
    speech, around = noise(1), noise(1, channels=2, seed=1)
    clean = np.hstack([speech, -0.9 * speech])
    for name, samples in (("clean", clean), ("noisy", clean + around)):
        soundfile.write(tmp_path / f"{name}.wav", samples, RATE, subtype="FLOAT")
    heard = PairDataset([(tmp_path / "clean.wav", tmp_path / "noisy.wav")], 1.0, RATE, 0)[0]
    np.testing.assert_allclose(heard, [speech[:, 0], around[:, 0]], atol=1e-4)


def test_of_a_response_of_several_microphones_the_first_is_used(tmp_path: Path) -> None:
    response = np.zeros((1000, 8), np.float32)
    response[np.arange(100, 900, 100), np.arange(8)] = 0.9  # the direct sound arrives one after the other
    soundfile.write(tmp_path / "room.wav", response, RATE)
    soundfile.write(tmp_path / "speech.wav", noise(1), RATE)
    given = [Clip(tmp_path / f"{name}.wav", name, 1.0) for name in ("speech", "speech", "room")]
    wet, dry = (
        MixtureDataset(given[:1], given[1:2], given[2:], MixingSettings(1.0, room_probability=p), RATE, 0).__getitem__
        for p in (1.0, 0.0)
    )
    np.testing.assert_allclose(wet(0)[0] / rms(wet(0)[0]), dry(0)[0] / rms(dry(0)[0]), atol=1e-3)


def test_the_first_channel_is_the_first(tmp_path: Path) -> None:
    soundfile.write(path := tmp_path / "a.wav", noise(1, channels=3), RATE, "FLOAT")
    whole, _ = soundfile.read(path, dtype="float32")
    np.testing.assert_array_equal(decode(path, RATE, first_channel=True), whole[:, 0])


@pytest.mark.parametrize("length,first,last", [(4000, 28.0, 28.5), (64000, 24.1, 28.5), (960000, 0, 0)])
def test_audible_starts_are_where_segments_are_not_silent(
    tmp_path: Path, length: int, first: float, last: float
) -> None:
    soundfile.write(path := tmp_path / "a.wav", mostly_silent(60, 28.0), RATE)
    starts = ClipCache(RATE).audible_starts(path, length) / RATE
    assert starts[0] == pytest.approx(first, abs=0.3) and starts[-1] == pytest.approx(last, abs=0.2)


def test_audible_begins_at_eighty_decibels_below_full_scale(tmp_path: Path) -> None:
    tone = np.repeat([0.9e-4, 1.1e-4], 2 * RATE) * np.resize([1, 1, -1, -1], 4 * RATE)
    soundfile.write(path := tmp_path / "a.wav", tone, RATE, "FLOAT")
    starts = ClipCache(RATE).audible_starts(path, RATE) / RATE
    assert starts[0] == pytest.approx(1.5, abs=0.2) and starts[-1] == pytest.approx(3)


@pytest.mark.parametrize("first", [0.0, 31.2, 59.5])
def test_noise_that_is_silent_for_the_most_part_is_drawn_where_it_is_not(tmp_path: Path, first: float) -> None:
    soundfile.write(tmp_path / "speech.wav", noise(3), RATE)
    soundfile.write(tmp_path / "noise.wav", mostly_silent(60, first), RATE)
    given = [Clip(tmp_path / "speech.wav", "a", 3.0), Clip(tmp_path / "noise.wav", "b", 60.0)]
    settings = MixingSettings(0.5, clean_probability=0.0, second_noise_probability=0.0)
    source = MixtureDataset(given[:1], given[1:], [], settings, RATE, seed=0)
    assert all(rms(source[i][1]) > 1e-4 for i in range(30))


def test_speech_and_pairs_that_are_silent_for_the_most_part_are_drawn_where_they_are_not(tmp_path: Path) -> None:
    for i in range(10):
        soundfile.write(tmp_path / f"{i}.wav", mostly_silent(20, 12.0) if i == 7 else np.zeros(20 * RATE), RATE)
    soundfile.write(tmp_path / "noise.wav", noise(60), RATE)
    paths = [tmp_path / f"{i}.wav" for i in range(10)]
    speech = [Clip(path, path.stem, 20.0) for path in paths]
    mixtures = MixtureDataset(speech, [Clip(tmp_path / "noise.wav", "b", 20.0)], [], MixingSettings(0.5), RATE, seed=0)
    pairs = PairDataset([(path, tmp_path / "noise.wav") for path in paths], 0.5, RATE, 0)
    assert rms(mixtures[0][0]) > 1e-4 and rms(pairs[0][0]) > 1e-4


@pytest.mark.parametrize(
    "left,right,heard", [(1.0, 1.0, 1.0), (1.0, 0.0, 0.5), (0.0, 1.0, 0.5), (1.0, -1.0, 1.0), (-0.5, 1.0, 1.0)]
)
def test_no_two_channels_of_one_sound_become_silence_in_training(
    tmp_path: Path, left: float, right: float, heard: float
) -> None:
    """Dual mono, one silent channel, and channels of opposite sign."""
    sound = noise(2)
    soundfile.write(tmp_path / "a.wav", np.hstack([left * sound, right * sound]), RATE, subtype="FLOAT")
    np.testing.assert_allclose(np.abs(ClipCache(RATE).read(tmp_path / "a.wav")), heard * np.abs(sound[:, 0]), atol=1e-4)
    given = [Clip(tmp_path / "a.wav", "a", 2.0)]
    speech, added = MixtureDataset(given, given, [], MixingSettings(1.0), RATE, seed=0)[0]
    assert rms(speech) > 1e-3 and rms(added) > 1e-5


def test_kept_clips_are_37_hours_at_16_khz_or_one_that_is_longer(tmp_path: Path, decoded: list[int]) -> None:
    assert clips.CACHE_BYTES // (2 * 16000 * 3600) == 37 and ClipCache(RATE).capacity_bytes == clips.CACHE_BYTES
    soundfile.write(path := tmp_path / "a.wav", noise(1), RATE)
    cache = ClipCache(RATE, capacity_bytes=1)
    for _ in range(3):
        cache.read(path)
    assert sum(decoded) == RATE
