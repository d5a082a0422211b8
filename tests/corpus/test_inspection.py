"""What is said of a corpus before training begins."""

import math
import re
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

from deepnmf_cli.corpus import inspection, sources
from deepnmf_cli.corpus.augment import AugmentationSettings
from deepnmf_cli.corpus.dataset import MixingSettings
from deepnmf_cli.corpus.manifest import Clip, scan
from deepnmf_cli.corpus.sources import Mixtures, Recordings, for_tuning, from_clips, from_pairs
from deepnmf_cli.errors import AudioError, CorpusError, UsageError

RATE = 16000
MADE = Mixtures(MixingSettings(segment_s=0.5), AugmentationSettings(), RATE, 0)


@pytest.fixture(scope="module")
def parts(voice, hiss) -> tuple[np.ndarray, np.ndarray]:
    """Four seconds of speech, and noise at 0 dB."""
    speech, noise = voice(4.0), hiss(4.0)
    return speech, noise * np.sqrt(np.mean(speech**2) / np.mean(noise**2))


def write(path: Path, samples: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, RATE, subtype="FLOAT" if np.max(np.abs(samples)) > 1 else "PCM_24")
    return path


FAULTS = {
    "late": (
        lambda s, n: (np.roll(s, 320), s + n),
        r"not aligned with the noisy one, the first .*0.wav \(20.00 ms later\)",
    ),
    "early": (lambda s, n: (np.roll(s, -2), s + n), r"not aligned .*\(0.12 ms earlier\)"),
    "louder": (lambda s, n: (2 * s, s + n), r"another level in the noisy side, the first .*\(-6\.\d dB\)"),
    "softer": (lambda s, n: (s / 2, s + n), r"another level in the noisy side, the first .*\(\+[56]\.\d dB\)"),
    "swapped": (lambda s, n: (s + n, s), "sides swapped"),
    "equal": (lambda s, n: (s, s), "equal sides"),
    "silent": (lambda s, n: (0 * s, s), "silent side"),
    "another": (lambda s, n: (np.random.default_rng(7).standard_normal(len(s)), s + n), "clean one is not found"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_pair_with_a_fault_is_named(parts, tmp_path: Path, fault: str) -> None:
    make, message = FAULTS[fault]
    clean, noisy = make(*parts)
    pairs = [(write(tmp_path / "clean/0.wav", clean), write(tmp_path / "noisy/0.wav", noisy))]
    (sentence,) = inspection.suspicious_pairs(pairs, RATE)
    assert sentence.startswith("1 of 1 pairs")
    assert re.search(message, sentence)


@pytest.mark.parametrize("snr_db", [-10, 0, 15])
def test_nothing_is_said_of_sound_pairs(parts, tmp_path: Path, snr_db: int) -> None:
    speech, noise = parts
    noisy = speech + noise * 10 ** (-snr_db / 20)
    pairs = [(write(tmp_path / "clean/0.wav", speech), write(tmp_path / "noisy/0.wav", noisy))]
    assert not list(inspection.suspicious_pairs(pairs, RATE))


def test_files_in_both_sets_are_found_whatever_their_names(tmp_path: Path) -> None:
    sounds = [np.random.default_rng(i).uniform(-0.5, 0.5, 3000) for i in range(3)]
    train = [write(tmp_path / f"train/{i}.wav", sound) for i, sound in enumerate(sounds)]
    other = sounds[1].copy()
    other[-1] = 0.9  # equal but for one sample
    dev = [write(tmp_path / "dev/copy.wav", sounds[0]), write(tmp_path / "dev/other.wav", other)]
    assert inspection.shared_files(train, dev) == [dev[0]]
    assert inspection.shared_files(train, []) == []


def test_speakers_in_both_sets_are_found_by_name() -> None:
    train = [Clip(Path("a/0.wav"), "anna", 1), Clip(Path("b.wav"), "b", 1)]
    dev = [Clip(Path("x/7.wav"), "anna", 1), Clip(Path("b.wav"), "b", 1)]  # b is a file that nobody grouped
    assert inspection.shared_groups(train, dev) == ["anna"]


def test_what_is_done_with_odd_room_responses_is_said(tmp_path: Path) -> None:
    late = np.zeros((4000, 8))
    late[2000] = 0.9
    rooms = [Clip(write(tmp_path / f"{i}.wav", x), str(i), 0.1) for i, x in enumerate((late, late[1900:, :1]))]
    said = inspection.rooms_listing(rooms)
    assert said == (
        "rooms: 2 responses; 1 have several channels, of which the first is used; "
        "1 begin with more than 50 ms before the direct sound, which are cut"
    )


def test_folders_of_speakers_that_are_links_are_followed_and_loops_are_not(tmp_path: Path) -> None:
    for name in ("store/anna/0.wav", "store/ben/0.wav", "speech/cleo/0.wav"):
        write(tmp_path / name, np.zeros(100))
    for name in ("anna", "ben"):
        (tmp_path / "speech" / name).symlink_to(tmp_path / "store" / name)
    (tmp_path / "store/anna/again").symlink_to(tmp_path / "store/anna")
    (tmp_path / "speech/cleo/all").symlink_to(tmp_path / "speech")
    assert [clip.group for clip in scan(tmp_path / "speech")] == ["anna", "ben", "cleo"]


class Said(list):
    """Collects sentences, warnings with an exclamation mark before them."""

    def __call__(self, sentence: str, warning: bool) -> None:
        self.append(f"! {sentence}" if warning else sentence)


@pytest.fixture
def folders(tmp_path: Path, voice, hiss) -> Path:
    for i in range(6):
        write(tmp_path / f"speech/{'ab'[i % 2]}/{i}.wav", voice(1.0) * (1 + 0.1 * i))
        (tmp_path / "dev/clean").mkdir(parents=True, exist_ok=True)
        shutil.copy(tmp_path / f"speech/{'ab'[i % 2]}/{i}.wav", tmp_path / f"dev/clean/{i}.wav")
        write(tmp_path / f"dev/noisy/{i}.wav", voice(1.0) * (1 + 0.1 * i) + hiss(1.0, seed=i))
    write(tmp_path / "noise/rain/0.wav", hiss(3.0))
    return tmp_path


def test_what_was_found_is_said_and_what_is_trained_on_and_scored_too(folders: Path) -> None:
    said = Said()
    from_clips(Recordings(folders / "speech", folders / "noise", dev=folders / "dev"), MADE, said)
    assert said == [
        "speech: 6 files, 2 speakers, 0.1 minutes",
        "noise: 1 file, 1 kind, 0.1 minutes",
        "dev: 6 pairs",
        f"! 6 files are trained on and scored, the first {folders}/dev/clean/0.wav: the dev score flatters",
    ]


def test_it_is_said_where_nothing_can_be_held_out(folders: Path) -> None:
    said = Said()
    from_clips(Recordings(folders / "speech", folders / "noise"), MADE, said)
    assert [s for s in said if s.startswith("!")] == [
        f"! fewer than 20 {what}: none is held out, and the dev score flatters"
        for what in ("speakers", "kinds of noise")
    ]


def test_fine_tuning_holds_out_the_last_fifth_of_a_noise_that_is_alone(folders: Path) -> None:
    material = for_tuning(Recordings(folders / "speech", folders / "noise"), MADE, said := Said())
    assert sum(sentence.startswith("general noise: babble of the speakers") for sentence in said) == 1
    assert material.source.cache.length(folders / "noise/rain/0.wav") == round(0.8 * 3 * MADE.rate_hz)


def test_every_twentieth_speaker_is_held_out_with_all_that_was_said() -> None:
    clips = [Clip(Path(f"{number}.wav"), f"{number // 2:02}", 1) for number in range(90)]
    kept, dev = sources._hold_out(clips)
    assert {clip.group for clip in dev} == {"19", "39"} and len(dev) == 4
    assert [clip for clip in clips if clip not in dev] == kept
    assert sources._hold_out(clips[:38]) == (clips[:38], clips[:38])


def test_pairs_are_looked_at_before_training(folders: Path) -> None:
    said = Said()
    (folders / "dev/noisy").rename(folders / "dev/apart")
    (folders / "dev/clean").rename(folders / "dev/noisy")
    (folders / "dev/apart").rename(folders / "dev/clean")
    from_pairs(folders / "dev", None, MADE, said)
    assert (
        said[0] == "pairs: 5 to train on, 1 for the dev score"
        and "used as they are" in said[1]
        and "sides swapped" in said[2]
    )


@pytest.mark.parametrize("material", [from_clips, for_tuning])
@pytest.mark.parametrize("given", ["speech", "noise", "rooms"])
def test_material_without_speech_or_noise_is_refused(folders: Path, material, given: str) -> None:
    with pytest.raises(UsageError, match="neither a manifest nor folders of both speech and noise"):
        material(Recordings(**{given: folders / "speech"}), MADE, Said())


@pytest.mark.parametrize("count,held_out", [(40, 2), (2400, 120), (30_000, 120)])
def test_few_pairs_are_held_out_and_soon(tmp_path: Path, monkeypatch, count: int, held_out: int) -> None:
    pairs = [(tmp_path / f"clean/{i}.wav", tmp_path / f"noisy/{i}.wav") for i in range(count)]
    monkeypatch.setattr(sources, "find_pairs", lambda folder: pairs)
    monkeypatch.setattr(sources, "load", lambda given, rate_hz: given)
    monkeypatch.setattr(inspection, "suspicious_pairs", lambda *_: [])
    began = time.process_time()
    material = from_pairs(tmp_path, None, MADE, Said())
    assert time.process_time() - began < 2  # quadratic, it took 12 s
    assert len(material.dev) == held_out and set(material.dev) | set(material.source._pairs) == set(pairs)
    assert not set(material.dev) & set(material.source._pairs)


def test_a_room_response_that_cannot_be_read_is_named_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "broken.mp3").write_bytes(b"no audio")
    with pytest.raises(AudioError, match="broken.mp3"):
        inspection.rooms_listing([Clip(tmp_path / "broken.mp3", "rooms", 1.0)])


def test_too_little_speech_is_said_of_its_folder(folders: Path) -> None:
    (folders / "speech/a/0.wav").unlink()
    with pytest.raises(CorpusError, match=rf"{folders}/speech: found 5 clips of speech"):
        from_clips(Recordings(folders / "speech", folders / "noise"), MADE, Said())


@pytest.mark.parametrize("role", [0, 1])
def test_a_file_in_both_sets_of_a_manifest_is_said(folders: Path, role: int) -> None:
    speech, noise = scan(folders / "speech"), scan(folders / "noise")
    dev = [[], []]
    dev[role] = [(speech, noise)[role][0]]
    sources._say_what_there_is(sources._Clips(speech[role == 0 :] + dev[0], noise, [], *dev), said := Said())
    shared = f"! 1 file is trained on and scored, the first {dev[role][0].path}: the dev score flatters"
    assert shared in said


@pytest.mark.parametrize("count", [0, 1, 20, 21, 50])
def test_at_most_twenty_are_looked_at_from_the_first_on_at_equal_distances(count: int) -> None:
    assert inspection.spread(range(count)) == list(range(0, count, max(1, math.ceil(count / 20))))
