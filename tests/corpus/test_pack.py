"""Packs: what goes in, within which size, and that it comes out again."""

import csv
import subprocess
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile
from click import BadParameter

from deepnmf_cli.commands.pack import Size
from deepnmf_cli.corpus import manifest
from deepnmf_cli.corpus import pack as packs
from deepnmf_cli.corpus.clips import decode
from deepnmf_cli.corpus.manifest import read_manifest
from deepnmf_cli.corpus.pack import COLUMNS, pack, verify
from deepnmf_cli.errors import CorpusError, DeepnmfError, UsageError
from deepnmf_cli.signal import audio
from tests import faults

PIECE_S = 2.0
"""In place of 15, which take longer to code."""

SPEAKERS = {"anna": 8, "ben": 4, "cleo": 1}
"""Files of each, of which one is longer than two pieces."""


@pytest.fixture(autouse=True)
def short_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packs, "PIECE_S", PIECE_S)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    folder, draw = tmp_path_factory.mktemp("corpus"), np.random.default_rng(0)

    def write(name: str, samples: np.ndarray) -> None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(folder / name, samples, 16000)

    def voiced(seconds: float) -> np.ndarray:
        time, pitch = np.arange(round(16000 * seconds)) / 16000, draw.uniform(90, 250)
        sweep = 2 * np.pi * (pitch * time + 5 * np.sin(2 * np.pi * draw.uniform(0.5, 2) * time))
        return 0.1 * sum(np.sin(k * sweep) / k for k in range(1, 12)) * (np.sin(9 * time) > -0.5)

    for speaker, number in SPEAKERS.items():
        for i in range(number):
            write(f"speech/{speaker}/{i}.wav", voiced(2 * PIECE_S + 1 if speaker == "cleo" else 0.5 + i / 5))
    for kind in ("rain", "street"):
        for i in range(2):
            write(f"noise/{kind}/{i}.wav", 0.05 * draw.standard_normal(16000))
    for i in range(3):
        response = draw.standard_normal(1600) * np.exp(-np.arange(1600) / 200)
        write(f"rir/{i}.wav", response / np.abs(response).max())
    for i in range(4):
        clean = voiced(1.0)
        write(f"dev/clean/{i}.flac", clean)
        write(f"dev/noisy/{i}.flac", clean + 0.05 * draw.standard_normal(len(clean)))
    return folder


def rows(folder: Path) -> list[dict[str, str]]:
    with open(folder / "index.csv", newline="") as file:
        reader = csv.DictReader(file)
        assert tuple(reader.fieldnames) == COLUMNS
        return list(reader)


def size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def order(folder: Path, role: str) -> list[str]:
    """Groups in the order in which their pieces went in."""
    return [row["speaker"] for row in sorted(rows(folder), key=lambda row: row["path"]) if row["role"] == role]


@pytest.mark.parametrize("prefix", ["", "k", "K", "ki", "Ki", "M", "Mi", "G", "Gi"])
def test_sizes_have_units(prefix: str) -> None:
    base, power = 1024 if "i" in prefix else 1000, 1 + "KMG".find(prefix[:1].upper() or "-")
    for written in (f"40{prefix}B", f"40 {prefix}B", f"40{prefix}"):
        assert Size().convert(written, None, None) == 40 * base**power
    with pytest.raises(BadParameter, match="is no size"):
        Size().convert(f"40{prefix}x", None, None)


def test_a_pack_with_room_for_all_has_every_second_once(corpus: Path, tmp_path: Path) -> None:
    packed = pack([corpus], tmp_path / "pack", 10**7, dev=corpus / "dev")
    assert size(tmp_path / "pack") == packed.bytes < 10**7 and not packed.full
    given = {path: soundfile.info(path).duration for path in corpus.rglob("*.wav")}
    for path, seconds in given.items():
        found = [row for row in rows(tmp_path / "pack") if row["source"] == str(path)]
        assert sum(float(row["seconds"]) for row in found) == pytest.approx(seconds, abs=0.02)
        assert all(float(row["seconds"]) <= PIECE_S for row in found)
    clips = read_manifest(verify(tmp_path / "pack"))
    assert {key: len(found) for key, found in clips.items()} == {
        ("speech", "train"): 15,
        ("noise", "train"): 4,
        ("rir", "train"): 3,
    }
    assert packed.pairs == 4
    for kind in ("clean", "noisy"):
        copies = sorted((tmp_path / "pack/dev" / kind).iterdir())
        assert [p.read_bytes() for p in copies] == [(corpus / f"dev/{kind}/{i}.flac").read_bytes() for i in range(4)]


def test_pieces_have_the_length_and_the_place_of_their_source(corpus: Path, tmp_path: Path) -> None:
    pack([corpus], tmp_path / "pack", 10**7)
    for row in rows(tmp_path / "pack"):
        start = round(16000 * float(row["start_s"]))
        source = decode(Path(row["source"]), 16000)[start:]
        piece = decode(tmp_path / "pack" / row["path"], 16000)
        source = source[: round(16000 * PIECE_S)]
        assert len(piece) == len(source), row
        if row["role"] == "rir":
            assert np.abs(piece - source).max() < 2**-14
            continue
        spectra = [np.fft.rfft(x, 1 << 20) for x in (piece, source)]
        correlation = np.fft.irfft(spectra[0] * spectra[1].conj())
        assert np.argmax(correlation) == 0, row
        assert correlation[0] > 0.7 * np.sqrt(np.sum(piece**2) * np.sum(source**2)), row


@pytest.mark.parametrize(
    ("suffix", "signs", "most_open"), [(".mp3", 1, 9), (".mp3", (1, -1), 9), (".mp3", 1, 1), (".flac", 1, 9)]
)
def test_no_part_of_a_recording_is_decoded_for_each_of_its_pieces(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, signs, most_open: int
) -> None:
    noise, draw = tmp_path / "long/noise", np.random.default_rng(1)
    noise.mkdir(parents=True)
    for name in "ab":  # of one group, so that they take turns
        samples = np.outer(draw.uniform(-0.1, 0.1, round(10 * 44100 * PIECE_S)), signs)
        soundfile.write(noise / f"{name}{suffix}", samples, 44100)
    scanned = manifest.scan(noise)
    whole, decoded = {str(clip.path): decode(clip.path, 16000) for clip in scanned}, Counter()
    read = audio.AudioReader._read

    def counted(reader, *given):
        block = read(reader, *given)
        decoded[str(reader._path)] += len(block)
        return block

    monkeypatch.setattr(audio.AudioReader, "_read", counted)
    monkeypatch.setattr(packs, "available_cpus", lambda: 4)
    monkeypatch.setattr(packs, "MOST_OPEN", most_open)
    pack([corpus, tmp_path / "long"], tmp_path / "pack", 10**7)
    lengths = {str(clip.path): audio.info(clip.path).frames for clip in scanned}
    for path, frames in lengths.items():
        assert decoded[path] == frames if most_open > 1 else decoded[path] > 2 * frames  # begun anew for each piece
    pieces = [row for row in rows(tmp_path / "pack") if row["source"] in whole]
    assert len(pieces) >= 20
    for row in pieces:
        start, piece = round(16000 * float(row["start_s"])), decode(tmp_path / "pack" / row["path"], 16000)
        source = whole[row["source"]][start : start + len(piece)]
        assert np.dot(piece, source) > 0.6 * np.sqrt(np.dot(piece, piece) * np.dot(source, source)), row


@pytest.mark.parametrize("share", [0.75, 0.9])
def test_a_pack_is_as_large_as_it_may_be_and_speakers_and_kinds_take_turns(
    corpus: Path, tmp_path: Path, share: float
) -> None:
    most = round(share * pack([corpus], tmp_path / "whole", 10**7).bytes)
    packed = pack([corpus], tmp_path / "pack", most)
    assert packed.full and most - 12_000 < size(tmp_path / "pack") == packed.bytes <= most
    assert set(order(tmp_path / "pack", "speech")[:3]) == set(SPEAKERS)
    assert set(order(tmp_path / "pack", "noise")[:2]) <= {"rain", "street"}
    assert subprocess.run(["sha256sum", "-c", "--quiet", "SHA256SUMS"], cwd=tmp_path / "pack").returncode == 0


def test_packs_of_the_same_recordings_are_the_same(corpus: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        pack([corpus], tmp_path / name, 100_000, dev=corpus / "dev")
    assert rows(tmp_path / "one") == rows(tmp_path / "two")


def test_parts_have_no_recording_in_common_and_miss_none(corpus: Path, tmp_path: Path) -> None:
    sources = []
    for i in (1, 2):
        name = tmp_path / str(i)
        pack([corpus], name, 10**7, part=(i, 2), dev=corpus / "dev")
        sources.append({row["source"] for row in rows(name) if row["role"] != "rir"})
        assert len(list((name / "dev/clean").iterdir())) == 4
    assert not sources[0] & sources[1]
    assert sources[0] | sources[1] == {str(p) for d in ("speech", "noise") for p in (corpus / d).rglob("*.wav")}


def test_the_same_file_twice_goes_in_once(corpus: Path, tmp_path: Path) -> None:
    said = []
    again = tmp_path / "again"
    (again / "speech/dora").mkdir(parents=True)
    (again / "speech/dora/copy.wav").write_bytes((corpus / "speech/ben/0.wav").read_bytes())
    pack([corpus, again], tmp_path / "pack", 10**7, say=lambda sentence, warning: said.append(sentence))
    assert said == ["1 file more than once in the corpus, taken once."]
    assert "dora" not in order(tmp_path / "pack", "speech")


def test_manifests_are_corpora(corpus: Path, tmp_path: Path) -> None:
    pack([corpus], tmp_path / "one", 10**7)
    pack([tmp_path / "one" / "index.csv"], tmp_path / "two", 10**7)
    assert sorted(order(tmp_path / "one", "speech")) == sorted(order(tmp_path / "two", "speech"))


def test_what_is_left_out_is_told(corpus: Path, tmp_path: Path) -> None:
    """Without the column of speakers each file would be one; without the interview there is less than there seems."""
    said = []
    rows = [f"{corpus}/{path.relative_to(corpus)},{path.relative_to(corpus).parts[0]},{path.parent.name}"
            for part in ("speech", "noise") for path in sorted((corpus / part).rglob("*.wav"))]  # fmt: skip
    (tmp_path / "all.csv").write_text("\n".join(["path,role,speker", *rows]) + "\n")
    (tmp_path / "more/noise").mkdir(parents=True)
    (tmp_path / "more/noise/interview.pcm").write_bytes(b"not to be read")
    (tmp_path / "more/noise/hum.wav").write_bytes((corpus / "noise").rglob("*.wav").__next__().read_bytes())
    corpora = [tmp_path / "all.csv", tmp_path / "more"]
    pack(corpora, tmp_path / "pack", 10**7, say=lambda sentence, warning: said.append((sentence, warning)))
    assert (f"{tmp_path}/all.csv: the column 'speker' is not used; 'speaker' would be.", True) in said
    assert (f"{tmp_path}/more/noise: 1 file left out as unreadable.", True) in said
    assert any("interview.pcm: found" in sentence for sentence, _ in said)


def test_a_damaged_recording_is_named_and_a_silent_one_left_out(corpus: Path, tmp_path: Path) -> None:
    other = tmp_path / "other/speech/dora"
    other.mkdir(parents=True)
    soundfile.write(other / "silent.wav", np.zeros(16000), 16000)
    pack([corpus, tmp_path / "other"], tmp_path / "pack", 10**7)
    assert "dora" not in order(tmp_path / "pack", "speech")
    whole = bytearray((corpus / "dev/clean/0.flac").read_bytes())
    middle = len(whole) // 2
    whole[middle : middle + 200] = bytes(200)
    for content in (whole[:middle], whole):
        (other / "damaged.flac").write_bytes(content)
        with pytest.raises(CorpusError, match=r"damaged\.flac: found"):
            pack([corpus, tmp_path / "other"], tmp_path / "second", 10**7)
    assert not (tmp_path / "second").exists()


@pytest.mark.parametrize("most", [1, 2000, 15_000])
def test_a_size_that_is_too_small_is_wrong_usage(corpus: Path, tmp_path: Path, most: int) -> None:
    with pytest.raises(UsageError, match="--max-size .*found room for . pieces of speech and . of noise; expected at"):
        pack([corpus], tmp_path / "pack", most)
    assert not list(tmp_path.iterdir())


def test_a_corpus_with_nothing_to_pack_is_named(corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "half").mkdir()
    (tmp_path / "half/speech").symlink_to(corpus / "speech")
    for name, found in (("empty", "none of these folders"), ("nowhere", "nothing"), ("half", "no noise")):
        with pytest.raises(CorpusError, match=f"{name}: found {found}"):
            pack([tmp_path / name], tmp_path / "pack", 10**6)
    assert not (tmp_path / "pack").exists()


def test_what_is_there_is_not_touched(corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "pack").mkdir()
    (tmp_path / "pack/mine.txt").write_text("mine")
    with pytest.raises(UsageError, match="pack: found something there"):
        pack([corpus], tmp_path / "pack", 10**6)
    with pytest.raises(UsageError, match="found no folder to make it in"):
        pack([corpus], tmp_path / "no/pack", 10**6)
    with pytest.raises(UsageError, match="found 22050 Hz; expected a rate that Opus keeps"):
        pack([corpus], tmp_path / "other", 10**6, rate_hz=22050)
    assert [p.name for p in tmp_path.rglob("*")] == ["pack", "mine.txt"]


@pytest.mark.parametrize("kind", ["ENOSPC", "stop"])
def test_a_pack_appears_complete_or_not_at_all(corpus: Path, tmp_path: Path, kind: str) -> None:
    for number in range(3):
        with faults.at(kind, number), pytest.raises((DeepnmfError, faults.Stop)):
            pack([corpus], tmp_path / "pack", 10**6)
            raise faults.Stop  # the last point is beyond the renaming
        left = [path.name for path in tmp_path.iterdir()]
        assert left == ([] if number < 2 else ["pack"])
    assert verify(tmp_path / "pack")


def test_a_pack_may_be_moved_and_damage_is_found(corpus: Path, tmp_path: Path) -> None:
    pack([corpus], tmp_path / "pack", 10**6)
    moved = (tmp_path / "pack").rename(tmp_path / "moved")
    assert verify(moved) == moved / "index.csv"
    piece = sorted((moved / "noise").iterdir())[0]
    content = piece.read_bytes()
    piece.write_bytes(content[:-100] + bytes(100))
    with pytest.raises(CorpusError, match=f"{piece.name}: found another content than was packed"):
        verify(moved)
    piece.unlink()
    with pytest.raises(CorpusError, match=f"{piece.name}: found no file; expected all files that SHA256SUMS lists"):
        verify(moved)
    for sums in ("", "nonsense\n", "a" * 64 + "  ../outside\n"):
        (moved / "SHA256SUMS").write_text(sums)
        with pytest.raises(CorpusError):
            verify(moved)
    for name, found in (("SHA256SUMS", "no SHA256SUMS"), ("index.csv", "no index.csv")):
        (moved / name).unlink()
        with pytest.raises(CorpusError, match=f"moved: found {found}"):
            verify(moved)
    with pytest.raises(CorpusError, match="nowhere: found no folder"):
        verify(tmp_path / "nowhere")
