"""Mixtures, clips, manifests and pairs: what training hears."""

import csv
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile

from deepnmf_cli.corpus.batches import batches
from deepnmf_cli.corpus.clips import ClipCache, decode
from deepnmf_cli.corpus.dataset import MixingSettings, MixtureDataset, PairDataset
from deepnmf_cli.corpus.dataset import _Drawing as Drawing
from deepnmf_cli.corpus.manifest import Clip, audio_files, pair_folders, read_manifest, scan
from deepnmf_cli.corpus.mixing import in_room, rms, scale_to_level, scale_to_snr
from deepnmf_cli.errors import CorpusError
from deepnmf_cli.signal import formats

RATE = 16000


def tone(frequency_hz: float, seconds: float = 1.0) -> np.ndarray:
    return (0.2 * np.sin(2 * np.pi * frequency_hz * np.arange(round(seconds * RATE)) / RATE)).astype(np.float32)


def write(path: Path, samples: np.ndarray, rate_hz: int = RATE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, rate_hz)
    return path


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """One talkative and two quiet speakers (each a tone of its own), one long and three short noises."""
    draw = np.random.default_rng(0)
    for i in range(20):
        write(tmp_path / f"speech/anna/{i}.wav", tone(200))
    write(tmp_path / "speech/bert/0.wav", tone(400))
    write(tmp_path / "speech/cleo/0.wav", tone(800))
    write(tmp_path / "noise/rain/long.flac", 0.1 * draw.standard_normal(9 * RATE).clip(-3, 3))
    for i in range(3):
        write(tmp_path / f"noise/dogs/{i}.wav", 0.1 * draw.standard_normal(RATE // 3).clip(-3, 3))
    return tmp_path


def dataset(corpus: Path, rooms=(), seed: int = 1, **settings) -> MixtureDataset:
    chosen = MixingSettings(**{"segment_s": 0.5, "clean_probability": 0.0, "second_noise_probability": 0.0} | settings)
    return MixtureDataset(scan(corpus / "speech"), scan(corpus / "noise"), rooms, chosen, RATE, seed)


@pytest.mark.parametrize("snr_db", [-6.0, 0.0, 17.3])
def test_achieved_snr_equals_asked(snr_db: float) -> None:
    speech, noise = tone(300), np.random.default_rng(1).standard_normal(RATE).astype(np.float32)
    scaled = scale_to_snr(speech, noise, snr_db)
    assert 20 * np.log10(rms(speech) / rms(scaled)) == pytest.approx(snr_db, abs=1e-4)


def test_a_share_of_the_material_is_part_of_a_larger_share(tmp_path: Path) -> None:
    for i in range(10):
        write(tmp_path / f"speech/{i}/0.wav", tone(200 + 100 * i))
    write(tmp_path / "noise/rain.wav", 0.1 * np.random.default_rng(0).standard_normal(RATE).clip(-3, 3))

    def speakers(share: float) -> set[int]:
        source = dataset(tmp_path, material_share=share)
        spectra = (np.abs(np.fft.rfft(source.speech(np.random.default_rng(i)))) for i in range(100))
        return {2 * int(spectrum.argmax()) for spectrum in spectra}

    assert [len(speakers(share)) for share in (0.01, 0.1, 0.3, 1.0)] == [1, 1, 3, 10]
    assert speakers(0.1) < speakers(0.3) < speakers(1.0)


def test_achieved_snr_and_level_of_examples_lie_in_the_asked_ranges(corpus: Path) -> None:
    examples = dataset(corpus, snr_db=(3.0, 3.0), level_db=(-30.0, -20.0))
    levels = []
    for i in range(10):
        speech, noise = examples[i]
        assert 20 * np.log10(rms(speech) / rms(noise)) == pytest.approx(3.0, abs=0.01)
        levels.append(20 * np.log10(rms(speech + noise)))
    assert -30.01 <= min(levels) < max(levels) <= -19.99


def test_level_scales_all_signals_alike() -> None:
    speech, noise = tone(300), tone(1000)
    louder = scale_to_level(speech, noise, -10.0)
    assert 20 * np.log10(rms(sum(louder))) == pytest.approx(-10.0, abs=1e-3)
    np.testing.assert_allclose(louder[0] / louder[0].max(), speech / speech.max(), atol=1e-6)


def test_example_is_a_function_of_seed_and_index(corpus: Path) -> None:
    one, two, other = dataset(corpus), dataset(corpus), dataset(corpus, seed=2)
    two[0]  # reading in another order changes nothing
    assert all(np.array_equal(a, b) for a, b in zip(one[7], two[7]))
    assert not np.array_equal(one[7][1], other[7][1])


def test_speakers_are_drawn_evenly_whatever_their_number_of_clips(corpus: Path) -> None:
    examples = dataset(corpus)
    heard = Counter()
    for i in range(150):
        spectrum = np.abs(np.fft.rfft(examples[i][0]))
        heard[round(spectrum.argmax() * 2 / 200) * 200] += 1
    assert heard.keys() == {200, 400, 800}
    assert min(heard.values()) > 30


def test_noises_are_drawn_by_duration(corpus: Path) -> None:
    examples, draw = dataset(corpus), np.random.default_rng(0)
    drawn = Counter(examples._noise.clip(draw).path.parent.name for _ in range(400))
    assert 0.85 < drawn["rain"] / 400 < 0.95  # 9 s of 10 s


def test_of_all_clips_the_next_is_drawn_by_its_share_of_the_duration() -> None:
    drawing = Drawing([Clip(Path("short"), "a", 1.0), Clip(Path("long"), "b", 3.0)])
    draw = np.random.default_rng(0)
    orders = [[clip.group for clip in drawing.all(draw)] for _ in range(1000)]
    assert sum(order == ["b", "a"] for order in orders) == pytest.approx(750, abs=50)


def test_silent_segments_are_skipped(tmp_path: Path, corpus: Path) -> None:
    half_silent = np.concatenate([np.zeros(4 * RATE, np.float32), 0.3 * tone(500, 1.0)])
    write(tmp_path / "gated/a/0.wav", half_silent)
    examples = MixtureDataset(
        scan(tmp_path / "gated"), scan(corpus / "noise"), [], MixingSettings(segment_s=0.25), RATE, seed=0
    )
    assert all(rms(examples[i][0]) > 1e-4 for i in range(20))


def test_speech_of_pure_silence_is_an_error(tmp_path: Path, corpus: Path) -> None:
    write(tmp_path / "gated/a/0.wav", np.zeros(RATE))
    examples = MixtureDataset(scan(tmp_path / "gated"), scan(corpus / "noise"), [], MixingSettings(), RATE, seed=0)
    with pytest.raises(CorpusError, match="gated/a/0.wav: found only silence"):
        examples[0]


def test_late_reverberation_belongs_to_the_noise(tmp_path: Path, corpus: Path) -> None:
    response = np.zeros(RATE // 2)
    response[[10, 410, 6410]] = 0.9, 0.5, 0.4  # direct sound, an early and a late reflection
    rooms = [Clip(write(tmp_path / "rir/a.wav", response), "a", 0.5)]
    options = {"room_probability": 1.0, "snr_db": (30.0, 30.0)}
    early, _ = dataset(corpus, rooms, room_target="early", **options)[0]
    wet, _ = dataset(corpus, rooms, room_target="reverberant", **options)[0]
    mixtures = [sum(dataset(corpus, rooms, room_target=t, **options)[0]) for t in ("early", "reverberant")]
    assert rms(wet - early) > 0.1 * rms(wet)
    np.testing.assert_allclose(mixtures[0], mixtures[1], atol=1e-6)


def test_a_silent_room_response_is_refused(tmp_path: Path, corpus: Path) -> None:
    rooms = [Clip(write(tmp_path / "rir/a.wav", np.zeros(100)), "a", 0.01)]
    with pytest.raises(CorpusError, match="rir/a.wav: found digital silence; expected a room response"):
        dataset(corpus, rooms, room_probability=1.0)[0]


def test_room_keeps_power_length_and_alignment() -> None:
    response = np.zeros(2000, np.float32)
    response[700] = -0.5
    np.testing.assert_allclose(in_room(tone(300), response, RATE), -tone(300), atol=1e-5)


def test_pairs_give_the_noise_as_the_difference(tmp_path: Path) -> None:
    for i in range(3):
        write(tmp_path / f"clean/{i}.wav", tone(300))
        write(tmp_path / f"noisy/{i}.wav", tone(300) + tone(900))
    speech, noise = PairDataset(pair_folders(tmp_path / "clean", tmp_path / "noisy"), 2.0, RATE, 0)[0]
    assert speech.shape == noise.shape == (2 * RATE,)
    np.testing.assert_allclose(noise[:RATE], tone(900), atol=1e-4)
    assert not noise[RATE:].any()


def test_batches_do_not_depend_on_the_number_of_workers(corpus: Path) -> None:
    runs = [[b.sum().item() for pair in batches(dataset(corpus), 3, 2, 6, workers) for b in pair] for workers in (1, 3)]
    assert runs[0] == runs[1] and len(runs[0]) == 8


def test_an_error_in_a_worker_reaches_the_training_loop(corpus: Path) -> None:
    examples = dataset(corpus)
    for path in audio_files(corpus / "noise"):
        path.write_bytes(b"not audio")
    with pytest.raises(CorpusError, match="no audio that can be read"):
        list(batches(examples, 2, 0, 2, 2))


def test_cache_stays_within_its_capacity_and_keeps_samples_beyond_one(tmp_path: Path) -> None:
    cache = ClipCache(RATE, capacity_bytes=3 * 2 * RATE)
    paths = [write(tmp_path / f"{i}.wav", tone(100 + i)) for i in range(5)]
    for path in paths:
        cache.read(path)
    assert cache._bytes <= 3 * 2 * RATE and list(cache._held) == paths[-3:]
    soundfile.write(tmp_path / "hot.wav", 10 * tone(100), RATE, subtype="FLOAT")
    np.testing.assert_allclose(cache.read(tmp_path / "hot.wav"), 10 * tone(100), atol=1e-4)


def test_decoding_resamples_and_averages_channels(tmp_path: Path) -> None:
    stereo = np.stack([tone(440), np.zeros(RATE, np.float32)], 1)
    write(tmp_path / "a.wav", stereo, 32000)
    samples = decode(tmp_path / "a.wav", RATE)
    assert len(samples) == RATE // 2
    assert np.abs(np.fft.rfft(samples)).argmax() * 2 == pytest.approx(880, abs=3)
    assert rms(samples) == pytest.approx(rms(tone(440)) / 2, rel=0.02)


@pytest.mark.parametrize("content", [b"", b"plain text"])
def test_unreadable_clips_are_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bad.wav").write_bytes(content)
    with pytest.raises(CorpusError, match="bad.wav"):
        scan(tmp_path)


def test_folder_without_audio_and_missing_folder_are_errors(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(CorpusError, match="0 audio files"):
        scan(tmp_path)
    (tmp_path / "talk.pcm").touch()
    with pytest.raises(CorpusError, match=r"0 audio files beside 1 that cannot be read, the first being .*talk\.pcm"):
        scan(tmp_path)
    with pytest.raises(CorpusError, match="no folder"):
        scan(tmp_path / "nowhere")


def test_folders_of_speakers_may_be_links(tmp_path: Path) -> None:
    write(tmp_path / "elsewhere/a.wav", tone(300))
    (tmp_path / "speech").mkdir()
    (tmp_path / "speech/anna").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere/circle").symlink_to(tmp_path / "speech")
    assert [(clip.path.name, clip.group) for clip in scan(tmp_path / "speech")] == [("a.wav", "anna")]


@pytest.mark.parametrize(("content", "found"), [(b"", "an empty file"), (b"plain text", "no audio that can be read")])
def test_unreadable_pairs_are_named(tmp_path: Path, content: bytes, found: str) -> None:
    write(tmp_path / "clean/bad.wav", tone(300))
    (tmp_path / "noisy").mkdir()
    (tmp_path / "noisy/bad.wav").write_bytes(content)
    with pytest.raises(CorpusError, match=f"noisy/bad.wav: found {found}"):
        pair_folders(tmp_path / "clean", tmp_path / "noisy")


def test_scans_for_training_and_for_enhancement_find_the_same_files(tmp_path: Path) -> None:
    for name in ("a.wav", "b/c.FLAC", "b/d.aifc", ".hidden.wav", ".trash/e.wav", "notes.txt", "bare.raw"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    assert audio_files(tmp_path) == formats.find(tmp_path) == [tmp_path / n for n in ("a.wav", "b/c.FLAC", "b/d.aifc")]


def test_flat_folders_have_one_group_per_file(tmp_path: Path) -> None:
    for i in range(3):
        write(tmp_path / f"{i}.wav", tone(200))
    assert [c.group for c in scan(tmp_path)] == ["0", "1", "2"]


def manifest(folder: Path, rows: list[dict]) -> Path:
    with open(folder / "all.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, ["path", "role", "speaker", "split"])
        writer.writeheader()
        writer.writerows(rows)
    return folder / "all.csv"


def test_manifest_gives_clips_by_role_and_split(corpus: Path) -> None:
    rows = [
        {"path": "speech/bert/0.wav", "role": "speech", "speaker": "bert", "split": "train"},
        {"path": "speech/cleo/0.wav", "role": "speech", "speaker": "cleo", "split": "dev"},
        {"path": "noise/dogs/0.wav", "role": "noise", "speaker": "", "split": ""},
    ]
    clips = read_manifest(manifest(corpus, rows))
    assert {key: [c.group for c in value] for key, value in clips.items()} == {
        ("speech", "train"): ["bert"],
        ("speech", "dev"): ["cleo"],
        ("noise", "train"): ["0"],
    }


@pytest.mark.parametrize(
    "row,message",
    [
        ({"path": "speech/bert/0.wav", "role": "music"}, r"all.csv:2: found role 'music'; expected one of speech"),
        ({"path": "nowhere.wav", "role": "noise"}, r"all.csv:2: found no file"),
        ({"path": "", "role": "noise"}, r"all.csv:2: found no file"),
        ({"path": "x.wav", "role": "noise", "split": "tets"}, r"all.csv:2: found split 'tets'; expected one of train"),
    ],
)
def test_faults_of_a_manifest_name_their_line(corpus: Path, row: dict, message: str) -> None:
    with pytest.raises(CorpusError, match=message):
        read_manifest(manifest(corpus, [row]))


def test_manifest_without_the_columns_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bad.csv").write_text("file,kind\n")
    with pytest.raises(
        CorpusError, match="found the columns file, kind; expected the columns path, role, speaker, split"
    ):
        read_manifest(tmp_path / "bad.csv")


@pytest.mark.parametrize("content", ["path,role\nb\xe9b\xe9.wav,speech\n".encode("latin-1"), b"path,role\n\0,noise\n"])
def test_manifest_that_is_no_text_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bad.csv").write_bytes(content)
    with pytest.raises(CorpusError, match="bad.csv"):
        read_manifest(tmp_path / "bad.csv")


def test_manifest_of_a_spreadsheet_is_read(corpus: Path) -> None:
    text = "path,role,speaker,split\nspeech/cleo/0.wav,speech,cleo,Dev\n"
    (corpus / "all.csv").write_text(text, encoding="utf-8-sig")
    assert list(read_manifest(corpus / "all.csv")) == [("speech", "dev")]


def test_two_files_of_one_name_do_not_pair(tmp_path: Path) -> None:
    for name in ("clean/a.wav", "noisy/a.wav", "noisy/a.flac"):
        write(tmp_path / name, tone(300))
    with pytest.raises(CorpusError, match="noisy: found a.flac and a.wav; expected one file of each name"):
        pair_folders(tmp_path / "clean", tmp_path / "noisy")


def test_folders_that_do_not_pair_are_refused(tmp_path: Path) -> None:
    for name in ("clean/a.wav", "clean/b.wav", "noisy/a.wav"):
        write(tmp_path / name, tone(300))
    with pytest.raises(CorpusError, match="1 file without a partner, the first 'b'"):
        pair_folders(tmp_path / "clean", tmp_path / "noisy")


@pytest.mark.parametrize("samples,rate_hz", [(tone(300, 0.5), RATE), (tone(300), 8000)])
def test_pairs_of_different_length_or_rate_are_refused(tmp_path: Path, samples: np.ndarray, rate_hz: int) -> None:
    write(tmp_path / "clean/a.wav", tone(300))
    write(tmp_path / "noisy/a.wav", samples, rate_hz)
    with pytest.raises(CorpusError, match=rf"found {len(samples)} samples at {rate_hz} Hz"):
        pair_folders(tmp_path / "clean", tmp_path / "noisy")
