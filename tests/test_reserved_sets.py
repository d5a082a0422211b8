"""The script that builds test-2, on sounds made here, and the register of looks."""

import csv
import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr

from deepnmf_cli.checkpoint import file_hash
from deepnmf_cli.errors import CorpusError

RESEARCH = Path(__file__).resolve().parents[1] / "docs/research"
FIELDS = ["source", "version", "path", "sha256", "role", "recording", "speaker", "sex", "language", "noise_kind"]
FIELDS += ["rate_hz", "licence"]


def load(path: Path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def build():
    sys.path.insert(0, str(RESEARCH / "test-2"))
    yield load(RESEARCH / "test-2/build.py")
    sys.path.remove(str(RESEARCH / "test-2"))


@pytest.fixture(scope="module")
def look():
    return load(RESEARCH / "look.py")


def babble(seconds: float, rate_hz: int, seed: int, floor: float = 1e-4) -> np.ndarray:
    """Bursts of filtered noise (n,) over a faint floor: neither recurs in another seed."""
    draw = np.random.default_rng(seed)
    count = round(seconds * rate_hz)
    envelope = np.repeat(draw.choice([0.0, 0.1, 0.2], size=count // 1600 + 1, p=[0.4, 0.3, 0.3]), 1600)[:count]
    return (envelope * draw.standard_normal(count) + floor * draw.standard_normal(count)).astype(np.float32)


@pytest.fixture
def sources(tmp_path):
    """A folder of two speakers with two recordings each, one of them of two words, and three noises; and its table."""
    rows = []

    def add(name: str, seconds: float, hz: int, **values: str) -> None:
        path = tmp_path / "sources/some+pack" / f"{name}.flac"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, babble(seconds, hz, len(rows)), hz)
        row = dict.fromkeys(FIELDS, "") | {"source": "some/pack", "version": "1", "path": path.name}
        rows.append(row | {"sha256": file_hash(path), "rate_hz": "48000"} | values)

    for speaker in ("ann", "bob"):
        add(f"{speaker}-1", 3.5, 44100, role="speech", recording=f"{speaker}-1", speaker=speaker, language="eo")
        for part in ("a", "b"):
            add(f"{speaker}-2{part}", 2, 44100, role="speech", recording=f"{speaker}-2", speaker=speaker, language="eo")
    for noise, hz, top_hz in (("rain", 48000, "48000"), ("saw", 16000, "16000"), ("tram", 44100, "48000")):
        add(noise, 2.5, hz, role="noise", recording=noise, noise_kind="k", rate_hz=top_hz)
    table = tmp_path / "sources.csv"
    with table.open("w", newline="") as file:
        writer = csv.DictWriter(file, FIELDS)
        writer.writeheader()
        writer.writerows(rows)
    (tmp_path / "corpus").mkdir()
    return tmp_path


def call(build, folder: Path, out: str = "out") -> None:
    paths = [str(folder / name) for name in ("sources", "corpus", out)]
    build.main([*paths, "--table", str(folder / "sources.csv")])


def test_the_same_sources_give_the_same_set(build, sources, capsys):
    call(build, sources)
    first = capsys.readouterr().out.splitlines()[-1]
    call(build, sources, "again")
    assert capsys.readouterr().out.splitlines()[-1] == first
    assert first.startswith("4 mixtures, checksum of the set: ")
    rows = build.read_table(sources / "out/mixtures.csv")
    assert tuple(rows[0]) == build.COLUMNS
    assert [row["snr_db"] for row in rows] == ["-6", "-3", "0", "3"]
    assert sorted(row["rate_hz"] for row in rows) == ["16000", "16000", "48000", "48000"]
    assert [bool(row["room"]) for row in rows] == [True, False, False, True]
    assert not any(row["rate_hz"] == "48000" and row["noise"] == "saw" for row in rows)
    for row in rows:
        clean, rate_hz = soundfile.read(sources / "out/clean" / f"{row['name']}.flac")
        noisy, _ = soundfile.read(sources / "out/noisy" / f"{row['name']}.flac")
        assert rate_hz == int(row["rate_hz"]) and np.abs(noisy).max() <= build.PEAK + 1e-4
        snr_db = 10 * np.log10((clean**2).sum() / ((noisy - clean) ** 2).sum())
        if not row["room"]:
            assert snr_db == pytest.approx(float(row["snr_db"]), abs=0.02)


def test_a_file_with_another_checksum_is_refused(build, sources):
    path = sources / "sources/some+pack/rain.flac"
    soundfile.write(path, babble(2.5, 48000, 99), 48000)
    with pytest.raises(CorpusError, match=r"rain\.flac: found [0-9a-f]{64}; expected SHA-256"):
        call(build, sources)
    path.unlink()
    with pytest.raises(CorpusError, match=r"rain\.flac: found no file; expected SHA-256"):
        call(build, sources)


def test_a_recording_that_training_has_heard_is_found_in_another_coding(build, sources):
    samples, rate_hz = soundfile.read(sources / "sources/some+pack/tram.flac", dtype="float32")
    heard = np.concatenate([babble(1.007, 16000, 50), 0.3 * soxr.resample(samples, rate_hz, 16000)])
    heard += 0.003 * np.random.default_rng(1).standard_normal(len(heard)).astype(np.float32)
    soundfile.write(sources / "corpus/known.ogg", heard, 16000)
    with pytest.raises(CorpusError, match=r"known\.ogg: found \d+ pairs of peaks of tram\.flac, \d+% of all"):
        call(build, sources)


def test_the_noise_of_a_noisy_recording_is_compared_too(build, sources):
    speech, (samples, rate_hz) = babble(4, 16000, 60), soundfile.read(sources / "sources/some+pack/tram.flac")
    noise = np.pad(soxr.resample(samples, rate_hz, 16000), (0, len(speech)))[: len(speech)]
    for folder, mixture in (("clean", speech), ("noisy", speech + 0.02 * noise)):
        (sources / "corpus/dev" / folder).mkdir(parents=True)
        soundfile.write(sources / "corpus/dev" / folder / "a.flac", mixture, 16000)
    with pytest.raises(CorpusError, match=r"noisy/a\.flac: found \d+ pairs of peaks of tram\.flac"):
        call(build, sources)


def test_a_recording_that_resembles_another_of_the_set_is_refused(build, sources):
    rows = build.read_table(sources / "sources.csv")
    original = sources / "sources/some+pack/rain.flac"
    samples, rate_hz = soundfile.read(original)
    soundfile.write(sources / "sources/some+pack/saw.flac", 0.5 * samples, rate_hz)
    rows[-2]["sha256"] = file_hash(sources / "sources/some+pack/saw.flac")
    with pytest.raises(CorpusError, match=r"pairs of peaks of saw\.flac"):
        build.check_resemblance(rows, sources / "sources", [])


def test_a_speaker_of_the_corpus_is_refused(build, sources):
    (sources / "corpus/train").mkdir()
    (sources / "corpus/train/speech.csv").write_text("path,speaker\nx.ogg,bob\n")
    with pytest.raises(CorpusError, match="found the speaker bob"):
        call(build, sources)


def test_speech_over_noise_is_refused(build):
    build.check_clean("good", babble(4, 16000, 0), 16000)
    with pytest.raises(CorpusError, match="noisy: found a floor"):
        build.check_clean("noisy", babble(4, 16000, 0, floor=0.02), 16000)
    with pytest.raises(CorpusError, match=r"short: found 2\.0 s"):
        build.check_clean("short", babble(2, 16000, 0), 16000)
    with pytest.raises(CorpusError, match="frames silent"):
        build.check_clean("gated", babble(4, 16000, 0, floor=0), 16000)


def test_the_response_of_a_room_decays_in_its_reverberation_time(build):
    response, t60_s = build.room_response(np.random.default_rng(3), 16000)
    assert 0.2 < t60_s < 0.8
    left_db = 10 * np.log10(np.cumsum(response[::-1] ** 2)[::-1] / (response**2).sum() + 1e-12)
    fall_s = (np.argmax(left_db < -25) - np.argmax(left_db < -5)) / 16000
    assert 3 * fall_s == pytest.approx(t60_s, rel=0.3)


def test_the_list_of_sources_holds_what_the_page_promises(build):
    rows = build.read_table(RESEARCH / "test-2/sources.csv")
    speech, noise = ([row for row in rows if row["role"] == role] for role in ("speech", "noise"))
    assert len({row["recording"] for row in speech}) == 180 and len({row["recording"] for row in noise}) == len(noise)
    assert len({row["speaker"] for row in speech}) >= 20 and len({row["language"] for row in speech}) >= 5
    assert len(noise) >= 60 and all(row["licence"] for row in rows)
    mixtures = build.plan({row["recording"]: [row] for row in speech}, {row["recording"]: row for row in noise})
    assert sum(bool(mixture["room"]) for mixture in mixtures) == 60
    used = [mixture["noise"] for mixture in mixtures]
    assert {used.count(row["recording"]) for row in noise} <= {2, 3}
    material = (RESEARCH / "flagship/material.md").read_text()
    tables = [line for line in material.splitlines() if line.startswith("|")]
    assert not [row["source"] for row in rows if any(row["source"] in line for line in tables)]


def test_a_look_is_on_record_before_anything_is_scored(look, tmp_path, monkeypatch):
    register, chosen, calls = tmp_path / "register.csv", tmp_path / "test-9", []
    register.write_text(",".join(look.COLUMNS) + "\n")
    (chosen / "clean").mkdir(parents=True)
    (chosen / "clean/a.flac").write_bytes(b"sound")

    def evaluate(command):
        with register.open(newline="") as file:
            calls.append((command, list(csv.DictReader(file))))
        return 7

    monkeypatch.setattr(look, "evaluate", evaluate)
    enhanced = tmp_path / "enhanced"
    enhanced.mkdir()
    arguments = [str(chosen), "--system", "tiny", "--system", str(enhanced)]
    assert look.main(arguments, register) == 7
    (command, (row,)) = calls[0]
    assert command[-4:] == ["--model", "tiny", "--estimate", str(enhanced)]
    told = f"{tmp_path.name}/enhanced"  # of absolute paths the last two names
    assert (row["set"], row["systems"], row["release"]) == ("test-9", f"tiny {told}", look.__version__)
    assert row["set_sha256"] == look.corpus_hash([chosen / "clean/a.flac"])
    assert row["command"].startswith("deepnmf evaluate --reference test-9/clean --noisy test-9/noisy ")
    assert str(tmp_path) not in row["command"]
    assert look.main(arguments, register) == 7  # an interrupted look goes on
    assert len(calls[1][1]) == 1
    with pytest.raises(CorpusError, match="one look per release"):
        look.main([str(chosen), "--system", "base"], register)
    assert len(calls) == 2


def test_the_register_has_the_columns_that_look_writes(look):
    with look.REGISTER.open(newline="") as file:
        rows = list(csv.reader(file))
    assert tuple(rows[0]) == look.COLUMNS and all(len(row) == len(look.COLUMNS) for row in rows)
