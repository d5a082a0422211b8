"""Which mixtures are changed, what their target is, and that every draw is a function of seed and index."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import soundfile

from deepnmf_cli.corpus import effects
from deepnmf_cli.corpus.augment import Augmentation, AugmentationSettings
from deepnmf_cli.corpus.dataset import MixingSettings, MixtureDataset
from deepnmf_cli.corpus.manifest import scan
from deepnmf_cli.corpus.mixing import rms

RATE = 16000

NOISES = ("synthetic_noise", "splice", "reverse", "reshape", "swell", "hum", "click", "rumble", "colour", "speed")

OPTIONS = [f.name for f in dataclasses.fields(AugmentationSettings) if f.name.endswith("probability")]
CHANNEL = [f"{name}_probability" for name in ("equalizer", "clip", "band_limit", "coding", "mute")]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    """Three speakers below 2 kHz in syllables, voiced and breathy; three noises between 5 and 7 kHz."""
    folder, draw = tmp_path_factory.mktemp("corpus"), np.random.default_rng(0)
    syllables = 0.2 + np.clip(np.sin(2 * np.pi * 3 * np.arange(2 * RATE) / RATE), 0, 1)
    for i in range(3):
        sounds = draw.standard_normal((2, 2 * RATE)).astype(np.float32)
        voice = np.where(np.arange(2 * RATE) % 100 == 0, 10, 0).astype(np.float32)  # 160 Hz
        speech = 0.1 * effects.limit_band(0.3 * sounds[0] + voice, 1500, 0, RATE) * syllables
        noise = 0.1 * effects.limit_band(sounds[1], 7000, 5000, RATE)
        for name, samples in ((f"speech/{i}/0.wav", speech), (f"noise/{i}/0.wav", noise)):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(folder / name, samples, RATE)
    return folder


def dataset(corpus: Path, seed: int = 1, **augmentation) -> MixtureDataset:
    mixing = MixingSettings(segment_s=1.0, snr_db=(0.0, 0.0), clean_probability=0.0, second_noise_probability=0.0)
    speech, noise = scan(corpus / "speech"), scan(corpus / "noise")
    settings = AugmentationSettings(**augmentation)
    return MixtureDataset(speech, noise, [], mixing, RATE, seed, augmentation=settings)


def high_share(samples: np.ndarray) -> float:
    """Share of the energy above 4 kHz."""
    energy = np.abs(np.fft.rfft(samples)) ** 2
    return energy[len(energy) // 2 :].sum() / energy.sum()


@pytest.mark.parametrize("option", OPTIONS)
def test_augmented_example_is_a_function_of_seed_and_index(corpus: Path, option: str) -> None:
    one, two = (dataset(corpus, mute_s=(0.1, 0.4), **{option: 1.0}) for _ in range(2))
    two[0]  # reading in another order changes nothing
    example = one[3]
    assert all(np.array_equal(a, b) for a, b in zip(example, two[3], strict=True))
    assert all(x.shape == (RATE,) and x.dtype == np.float32 and np.isfinite(x).all() for x in example)
    assert not np.array_equal(sum(example), sum(dataset(corpus)[3]))


@pytest.mark.parametrize("option", ["colour_probability", "equalizer_probability", "hum_probability"])
def test_examples_to_which_nothing_happens_stay_bit_for_bit(corpus: Path, option: str) -> None:
    plain, changed = dataset(corpus), dataset(corpus, **{option: 0.5})
    same = [all(np.array_equal(a, b) for a, b in zip(plain[i], changed[i], strict=True)) for i in range(12)]
    assert any(same) and not all(same)


@pytest.mark.parametrize("option", CHANNEL)
def test_a_channel_does_to_the_parts_what_it_does_to_the_sum(option: str) -> None:
    draw = np.random.default_rng(2)
    target, noise = (0.1 * draw.standard_normal((2, RATE))).astype(np.float32)
    settings = AugmentationSettings(**{option: 1.0})
    parts = Augmentation(settings, 1, 5, RATE).channel(target, noise)
    whole = Augmentation(settings, 1, 5, RATE).channel(target + noise, np.zeros_like(noise))
    np.testing.assert_allclose(sum(parts), sum(whole), atol=2e-5)
    assert rms(sum(parts) - target - noise) > 1e-3  # and something happened
    if option == "clip_probability":  # what clipping takes from speech is to be restored
        np.testing.assert_array_equal(parts[0], target)
    else:  # what is speech alone stays speech alone: nothing of it has become noise to be removed
        assert rms(whole[1]) < 1e-5


def test_band_limits_hold_for_target_and_noise(corpus: Path) -> None:
    for part in dataset(corpus, band_limit_probability=1.0, band_limits_hz=(3400.0,))[0]:
        assert high_share(part) < 0.15  # of the noise, all of which lies above the limit, some leaks


def test_babble_is_made_of_training_speech(corpus: Path) -> None:
    assert high_share(dataset(corpus)[0][1]) > 0.9
    assert high_share(dataset(corpus, babble_probability=1.0)[0][1]) < 0.01


def test_voices_of_babble_differ_by_five_decibels_either_way() -> None:
    settings = AugmentationSettings(babble_probability=1.0, babble_speakers=(2, 2))
    levels_db = []
    for index in range(400):
        voices = iter(np.eye(2, dtype=np.float32))
        babble = Augmentation(settings, 1, index, RATE).noise(np.ones(2, np.float32), lambda _: next(voices), None)
        levels_db += [20 * np.log10(float(level) / np.sqrt(2)) for level in babble]
    assert -5 <= min(levels_db) < -4.9 and 4.9 < max(levels_db) <= 5.0001


def test_reversed_noise_is_the_same_noise_backwards(corpus: Path) -> None:
    plain, reverse = dataset(corpus)[2], dataset(corpus, reverse_probability=1.0)[2]
    # Both have an SNR of 0 dB, and the level of their sum.
    np.testing.assert_allclose(reverse[1][::-1] / rms(reverse[1]), plain[1] / rms(plain[1]), atol=1e-4)
    np.testing.assert_allclose(reverse[0] / rms(reverse[0]), plain[0] / rms(plain[0]), atol=1e-4)


def test_synthetic_noise_fills_the_band(corpus: Path) -> None:
    noise = dataset(corpus, synthetic_noise_probability=1.0, noise_slope_db=(0.0, 0.0))[0][1]
    assert high_share(noise) == pytest.approx(0.5, abs=0.05)


def test_small_rooms_leave_late_reverberation_to_the_noise(corpus: Path) -> None:
    plain, heard = dataset(corpus), dataset(corpus, small_room_probability=1.0)
    low = [np.mean([1 - high_share(examples[i][1]) for i in range(8)]) for examples in (plain, heard)]
    assert low[1] > 1.5 * low[0]  # something of the low speech is now in the high noise
    assert high_share(heard[0][0]) < 0.01


def test_a_pause_silences_speech_and_not_noise(corpus: Path) -> None:
    for i in range(5):
        speech, noise = dataset(corpus, pause_probability=1.0, pause_share=(0.4, 0.4))[i]
        assert 0.3 * RATE < (speech == 0).sum() < 0.45 * RATE
        assert (noise == 0).sum() < 0.01 * RATE


def test_mute_silences_both(corpus: Path) -> None:
    speech, noise = dataset(corpus, mute_probability=1.0, mute_s=(0.3, 0.3))[0]
    assert ((speech == 0) & (noise == 0)).sum() == pytest.approx(0.3 * RATE, rel=0.02)


def test_snr_holds_for_noise_of_every_kind(corpus: Path) -> None:
    chosen = {f"{name}_probability": 1.0 for name in NOISES}
    for i in range(3):
        speech, noise = dataset(corpus, **chosen)[i]
        assert 20 * np.log10(rms(speech) / rms(noise)) == pytest.approx(0.0, abs=0.01)


@pytest.mark.parametrize(
    "wrong",
    [
        {"speed_probability": 1.5},
        {"speed": (1.2, 0.9)},
        {"noise_speed": (0.0, 1.0)},
        {"babble_speakers": (0, 3)},
        {"codecs": ("mp4",)},
        {"codecs": ()},
        {"band_limits_hz": (200.0,)},
        {"compression": (0.5, 1.5)},
        {"mute_s": (-1.0, 1.0)},
        {"held_s": (0.01, 1.0)},
        {"held_octaves": (0.0, 2.5)},
    ],
)
def test_impossible_settings_are_refused(wrong: dict) -> None:
    with pytest.raises(ValueError):
        AugmentationSettings(**wrong)


def test_speech_is_not_slowed_to_silence() -> None:
    """The beginning of a segment, which is what remains of it, may be a pause."""
    settings = AugmentationSettings(slow_probability=1.0, slow=(0.4, 0.5))
    speech = np.concatenate([np.zeros(9000, np.float32), np.sin(0.17 * np.arange(7000, dtype=np.float32))])
    np.testing.assert_array_equal(Augmentation(settings, 0, 0, 16000).speech(speech), speech)
    assert not np.array_equal(Augmentation(settings, 0, 0, 16000).speech(speech[::-1].copy()), speech[::-1])
