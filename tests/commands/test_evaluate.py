"""`deepnmf evaluate`: systems side by side, reports, exit codes."""

import csv
import hashlib
import json
import os
import shlex
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import soxr

from deepnmf_cli import zoo
from deepnmf_cli.commands import evaluate
from deepnmf_cli.scoring import metrics

RATE_HZ = 16000
NAMES = ["1_+3dB_a", "2_+3dB_b", "3_-6dB_a"]


@pytest.fixture
def sets(folder, voice, hiss):
    """clean/, noisy/ and enhanced/ in the current folder: three recordings of one second each, named with SNRs."""
    for number, name in enumerate(NAMES):
        clean, noise = voice(1.2)[number * 1600 :][:RATE_HZ], hiss(1.0, seed=number)
        for kind, samples in (("clean", clean), ("noisy", clean + noise), ("enhanced", clean + 0.2 * noise)):
            write(f"{kind}/{name}.wav", samples)
    return folder


@pytest.fixture
def models(monkeypatch, tmp_path):
    """Models called "best" (the default) and "other", which remove 0.9 and none of the noise they know."""
    cleaned = {}

    class Enhancer:
        def __init__(self, share: float) -> None:
            self.share = share

        def enhance(self, samples, rate_hz):
            for name in NAMES:
                noisy, clean = (soundfile.read(f"{kind}/{name}.wav", dtype="float32")[0] for kind in ("noisy", "clean"))
                if np.array_equal(noisy, samples[0]):
                    cleaned[name] = rate_hz
                    return samples - np.float32(self.share) * (noisy - clean)
            raise AssertionError("an unknown recording")

    shares = {"best": 0.9, "other": 0.0}
    files = {name: tmp_path / "models" / name / "model.safetensors" for name in shares}
    for path in files.values():
        path.parent.mkdir(parents=True)
        path.write_text(path.parent.name)

    def load_described(path, device, backend, depth):
        name = path.parent.name
        return Enhancer(shares[name]), SimpleNamespace(name=name, parameters=1000, macs_per_s=2e6)

    monkeypatch.setattr(zoo, "find", lambda name: files[name or "best"])
    monkeypatch.setattr(zoo, "load_described", load_described)
    return cleaned


def write(name: str, samples: np.ndarray, rate_hz: int = RATE_HZ) -> None:
    Path(name).parent.mkdir(exist_ok=True)
    soundfile.write(name, samples, rate_hz, "FLOAT")


def means(result, metric: str = "SI-SDR") -> dict[str, float]:
    return {system["name"]: system["summary"][metric]["mean"] for system in result.json["systems"]}


def test_estimates_are_scored_in_a_table(deepnmf, sets):
    result = deepnmf("evaluate", "--reference", "clean", "--estimate", "enhanced")
    assert result.code == 0 and result.err == ""
    lines = result.out.decode().splitlines()
    assert lines[0].split("  ")[0] == "system" and lines[2].startswith("enhanced")
    assert [line.split()[:4] for line in lines if " dB  enhanced" in line] == [
        ["-6", "dB", "enhanced", "1"], ["+3", "dB", "enhanced", "2"],
    ]  # fmt: skip
    assert (
        lines[-1]
        == "3 files, 0.1 minutes at 16 kHz; mean ± 95 % confidence interval (Student t over files, taken as independent)."
    )


def test_models_stand_beside_the_noisy_input_and_estimates(deepnmf, sets, models):
    result = deepnmf(
        "evaluate", "--reference", "clean", "--noisy", "noisy", "--estimate", "enhanced",
        "--model", "default", "--model", "other", "--json",
    )  # fmt: skip
    assert result.code == 0 and models == dict.fromkeys(NAMES, RATE_HZ)
    found = means(result)
    assert list(found) == ["noisy", "enhanced", "best", "other"]
    assert found["other"] == pytest.approx(found["noisy"], abs=1e-4)
    assert found["enhanced"] - found["noisy"] == pytest.approx(20 * np.log10(5), abs=0.5)
    assert found["best"] - found["noisy"] == pytest.approx(20, abs=1)
    best = result.json["systems"][2]
    assert best["model"]["parameters"] == 1000 and len(best["model"]["sha256"]) == 64


def test_the_noisy_input_alone_can_be_scored(deepnmf, sets):
    result = deepnmf("evaluate", "--reference", "clean", "--noisy", "noisy", "--json")
    assert list(means(result)) == ["noisy"]


def test_one_model_under_two_names_is_refused(deepnmf, sets, models):
    words = ["--reference", "clean", "--noisy", "noisy", "--model", "default", "--model", "best", "--report", "report"]
    result = deepnmf("evaluate", *words)
    assert result.code == 2 and "best: found the same model as default; expected each model once" in result.err
    assert not Path("report").exists()


def test_a_real_model_file_is_run(deepnmf, sets, tiny_model, monkeypatch):
    monkeypatch.setattr(zoo, "DEFAULT_MODEL", str(tiny_model))
    words = ["--reference", "clean", "--noisy", "noisy", "--model", tiny_model, "--device", "cpu"]
    result = deepnmf("evaluate", *words, "--json")
    _noisy, tiny = result.json["systems"]
    assert result.code == 0 and tiny["name"] == str(tiny_model) and tiny["model"]["parameters"] > 0
    assert np.isfinite(tiny["summary"]["SDR"]["mean"]) and tiny["gain"]["SDR"]["count"] == 3


def test_a_model_is_compared_at_several_depths(deepnmf, sets):
    words = ["--reference", "clean", "--noisy", "noisy", "--model", "tiny", "--depth", "1", "--depth", "4", "--json"]
    found = deepnmf("evaluate", *words, "--device", "cpu", "--report", "report")
    names = [system["name"] for system in found.json["systems"]]
    assert found.code == 0 and names == ["noisy", "tiny, depth 1", "tiny, depth 4"]
    whole = deepnmf("evaluate", *words[:6], "--json", "--backend", "torch", "--device", "cpu")
    assert means(found)["tiny, depth 4"] == means(whole)["tiny"] != means(found)["tiny, depth 1"]
    one, four, all_layers = (s["model"]["macs_per_s"] for s in (*found.json["systems"][1:], whole.json["systems"][1]))
    assert one < four == pytest.approx(all_layers, rel=1e-6)
    assert "--depth 1 --depth 4" in found.json["command"]


def test_the_report_holds_the_command_and_the_same_numbers(deepnmf, sets, models):
    words = ["evaluate", "--reference", "clean", "--noisy", "noisy", "--model", "best", "--report", "new folder/report"]
    result = deepnmf(*words, "--json", "--jobs", "1")
    report = json.loads(Path("new folder/report/report.json").read_text("utf-8"))
    assert report == result.json
    assert report["command"] == (
        "deepnmf evaluate --reference clean --noisy noisy --model best --report 'new folder/report' --jobs 1 --json"
    )
    assert {path.name for path in Path("new folder/report").iterdir()} == {
        "files.csv", "report.json", "report.md", "report.html", "scores.png", "gain_by_snr.png",
    }  # fmt: skip
    assert "Wrote files.csv, report.json, report.md" in result.err


@pytest.mark.parametrize("given", [["--mixtures", "mixtures.csv"], []])
def test_a_misspelt_column_of_a_table_is_told(deepnmf, sets, given):
    Path("mixtures.csv").write_text("name,speker,noise\n" + "".join(f"{n},p{i},n{i}\n" for i, n in enumerate(NAMES)))
    result = deepnmf("evaluate", "--reference", "clean", "--estimate", "enhanced", *given)
    said = "Note: mixtures.csv: the column 'speker' is not used; 'speaker' would be."
    assert result.code == 0 and said in result.out.decode()


def test_a_table_beside_the_references_is_used_where_it_fits(deepnmf, sets):
    command = ("evaluate", "--reference", "clean", "--estimate", "enhanced", "--json")
    rows = [f"{name},{10 + i},s{i},n{i}" for i, name in enumerate(NAMES)]
    Path("mixtures.csv").write_text("name,snr_db,speaker,noise\n" + "\n".join(rows))
    report = deepnmf(*command).json
    assert report["reference"]["clusters"] == {"speaker": len(NAMES), "noise": len(NAMES)}
    assert [level["snr_db"] for level in report["systems"][0]["by_snr"]] == [10, 11, 12]
    Path("mixtures.csv").write_text("name,snr_db,speaker,noise\n" + rows[0])
    report = deepnmf(*command).json
    assert report["remarks"][0].startswith("mixtures.csv beside the references is not used: no row for 2 of 3 files")
    assert report["reference"]["clusters"] == {} and len(report["systems"][0]["by_snr"]) == 2


def test_snrs_come_from_a_table_when_given(deepnmf, sets):
    Path("snr.csv").write_text("name,snr_db\n" + "".join(f"{name}.wav,{10 + i}\n" for i, name in enumerate(NAMES)))
    result = deepnmf("evaluate", "--reference", "clean", "--estimate", "enhanced", "--snr-csv", "snr.csv", "--json")
    assert [level["snr_db"] for level in result.json["systems"][0]["by_snr"]] == [10, 11, 12]


def test_estimates_without_a_reference_are_remarked(deepnmf, sets, hiss):
    write("enhanced/extra.wav", hiss())
    result = deepnmf("evaluate", "--reference", "clean", "--estimate", "enhanced")
    assert result.code == 0
    assert "Note: enhanced: 1 file without a reference left out, the first being extra." in result.out.decode()


def test_folders_of_one_name_are_told_apart(deepnmf, sets):
    Path("runs").mkdir()
    Path("runs/enhanced").symlink_to(Path("noisy").resolve(), target_is_directory=True)
    Path("old").mkdir()
    Path("enhanced").rename("old/enhanced")
    Path("runs/noisy").symlink_to(Path("old/enhanced").resolve(), target_is_directory=True)
    words = ["evaluate", "--reference", "clean", "--json", "--estimate", "old/enhanced", "--estimate"]
    assert list(means(deepnmf(*words, "noisy"))) == ["enhanced", "noisy"]
    found = means(deepnmf(*words, "runs/enhanced", "--noisy", "noisy"))
    assert list(found) == ["noisy", "old/enhanced", "runs/enhanced"]


def test_a_silent_reference_is_a_note_and_no_crash(deepnmf, sets):
    write(f"clean/{NAMES[0]}.wav", np.zeros(RATE_HZ))
    result = deepnmf("evaluate", "--reference", "clean", "--estimate", "enhanced")
    assert result.code == 0 and "(n=2)" in result.out.decode()
    assert f"Note: enhanced: no score in 1 of 3 files (all: the reference is silent), the first being {NAMES[0]}." in (
        result.out.decode()
    )


@pytest.mark.parametrize(
    "words, code, message",
    [
        ([], 2, "deepnmf evaluate: found nothing to score"),
        (["--estimate", "enhanced", "--composite"], 2, "--composite: found no references"),
        (["--estimate", "enhanced", "--asr-command", "cat"], 2, "--asr-command: found no --transcripts"),
        (["--estimate", "enhanced", "--transcripts", "said.csv"], 2, "--transcripts: found no --asr-command"),
        (["--estimate", "enhanced", "--latex", "--json"], 2, "--latex: found --json too"),
        (["--reference", "clean"], 2, "deepnmf evaluate: found nothing to score"),
        (["--reference", "clean", "--model", "best"], 2, "--model: found no noisy recordings"),
        (["--reference", "clean", "--estimate", "noisy", "--estimate", "noisy"], 2, "noisy: found it twice"),
        (["--reference", "clean", "--estimate", "noisy", "--jobs", "0"], 2, "Invalid value for '--jobs'"),
        (["--reference", "clean", "--estimate", "noisy", "--depth", "2"], 2, "--depth: found no --model"),
        (
            ["--reference", "clean", "--noisy", "noisy", "--model", "tiny", "--depth", "5"],
            2,
            "--depth: found 5; expected",
        ),
        (["--reference", "clean", "--noisy", "noisy", "--model", "tiny", *["--depth", "2"] * 2], 2, "found 2 twice"),
        (["--reference", "nowhere", "--estimate", "noisy"], 1, "nowhere: found nothing there"),
        (["--reference", "clean", "--estimate", "empty"], 1, "empty: found no audio files"),
        (["--reference", "clean", "--estimate", "noisy", "--snr-csv", "gone.csv"], 1, "gone.csv: found no readable"),
        (["--reference", "clean", "--estimate", "noisy", "--report", "clean/1_+3dB_a.wav"], 1, "cannot be written"),
        (["--reference", "clean", "--noisy", "noisy", "--model", "gone"], 1, "gone: found no model of that name"),
    ],
)
def test_what_cannot_be_done_is_said_with_its_exit_code(deepnmf, sets, words, code, message):
    Path("empty").mkdir()
    result = deepnmf("evaluate", *words)
    assert result.code == code and message in result.err and result.out == b""


@pytest.mark.parametrize(
    "spoil, message",
    [
        (lambda path: path.unlink(), "enhanced: found no partner for 1 of 3 references, the first being '2_+3dB_b'"),
        (lambda path: path.write_text("text"), "no audio that can be read"),
        (lambda path: write(str(path), np.full(RATE_HZ, np.nan)), "a sample that is not finite"),
        (lambda path: write(str(path), np.ones(RATE_HZ // 2)), "found 8000 samples; expected 16000 samples"),
        (lambda path: write(str(path), np.ones(8000), 8000), "found a sampling rate of 8000 Hz; expected 16000 Hz"),
        (lambda path: write(str(path), np.ones((RATE_HZ, 2))), "found 2 channel(s); expected 1 channel(s)"),
    ],
)
def test_one_bad_file_fails_all_and_leaves_no_report(deepnmf, sets, spoil, message):
    spoil(Path(f"enhanced/{NAMES[1]}.wav"))
    result = deepnmf("evaluate", "--reference", "clean", "--estimate", "enhanced", "--report", "report")
    assert result.code == 1 and message in result.err and result.out == b""
    kept = {"unfinished.jsonl"} if Path("report/unfinished.jsonl").exists() else set()
    assert {path.name for path in Path("report").iterdir()} == kept


def test_dnsmos_is_scored_when_asked_for(deepnmf, sets):
    words = ["evaluate", "--reference", "clean", "--estimate", "enhanced", "--dnsmos", "--report", "report"]
    result = deepnmf(*words, "--json")
    (system,) = result.json["systems"]
    assert 1 <= system["summary"]["OVRL"]["mean"] <= 5 and "speechmos" in result.json["packages"]
    with open("report/files.csv", newline="") as file:
        assert {"SIG", "BAK", "OVRL"} <= set(csv.DictReader(file).fieldnames)


def test_without_a_reference_there_are_the_scores_that_need_none(deepnmf, sets, monkeypatch):
    heard = []

    def dnsmos(estimate, rate_hz, name):
        heard.append(float(np.square(estimate).sum()))
        return {"SIG": 3.0, "BAK": 2.0, "OVRL": float(np.abs(estimate).max())}[name]

    monkeypatch.setattr(metrics, "dnsmos_score", dnsmos)
    write(f"enhanced/{NAMES[2]}.wav", np.zeros(RATE_HZ + 5))  # of another length; nothing compares it
    result = deepnmf("evaluate", "--noisy", "noisy", "--estimate", "enhanced", "--report", "report", "--json")
    assert result.code == 0, result.err
    noisy, enhanced = result.json["systems"]
    assert list(noisy["summary"]) == ["SIG", "BAK", "OVRL"] and enhanced["summary"]["SIG"]["count"] == 2
    samples, _ = soundfile.read(f"enhanced/{NAMES[0]}.wav")
    assert enhanced["files"][0]["OVRL"] == pytest.approx(np.abs(samples).max(), abs=1e-6)
    assert enhanced["gain"]["OVRL"]["count"] == 2 and len(enhanced["by_snr"]) == 2
    assert "no score in 1 of 3 files (all: the estimate is silent)" in result.json["remarks"][0]
    hashes = "".join(f"{hashlib.sha256(Path(f'noisy/{n}.wav').read_bytes()).hexdigest()}  {n}.wav\n" for n in NAMES)
    assert result.json["reference"]["sha256"] == hashlib.sha256(hashes.encode()).hexdigest()
    assert "reference</button>" not in Path("report/report.html").read_text("utf-8")
    Path(f"enhanced/{NAMES[1]}.wav").unlink()
    result = deepnmf("evaluate", "--noisy", "noisy", "--estimate", "enhanced")
    assert result.code == 1 and "enhanced: found no partner for 1 of 3" in result.err


def test_other_rates_are_brought_to_the_one_that_is_asked_for(deepnmf, sets):
    words = ["evaluate", "--reference", "clean", "--estimate", "enhanced", "--json"]
    before = means(deepnmf(*words))["enhanced"]
    for name in NAMES:
        samples, _ = soundfile.read(f"clean/{name}.wav")
        write(f"clean/{name}.wav", soxr.resample(samples, RATE_HZ, 48000, "VHQ"), 48000)
    refused = deepnmf(*words)
    assert refused.code == 1 and "found a sampling rate of 16000 Hz; expected 48000 Hz" in refused.err
    assert "Choose one with --rate." in refused.err
    result = deepnmf(*words, "--rate", "16000")
    assert result.json["reference"]["rates_hz"] == [16000]
    assert means(result)["enhanced"] == pytest.approx(before, abs=0.3)  # less what lies at the edge of the band


RECOGNISER = """
import sys, wave
with wave.open(sys.argv[1]) as file:
    assert file.getframerate() == 16000 and file.getnchannels() == 1
    print("Good day," if file.readframes(1)[1] > 60 else "")
"""


def test_words_are_compared_with_transcripts(deepnmf, sets):
    for name, gain in zip(NAMES, (0.9, 0.1, 0.9), strict=True):
        write(f"enhanced/{name}.wav", np.full(RATE_HZ, gain))
    Path("asr.py").write_text(RECOGNISER)
    Path("said.csv").write_text(f"name,text\n{NAMES[0]},good day\n{NAMES[1]}.wav,a b c d e f\n{NAMES[2]},\n")
    words = ["evaluate", "--estimate", "enhanced", "--transcripts", "said.csv", "--rate", "16000"]
    words += ["--reference", "clean", "--asr-command", f"{shlex.quote(sys.executable)} asr.py {{}}"]
    result = deepnmf(*words, "--json", "--report", "report")
    assert result.code == 0, result.err
    (system,) = result.json["systems"]
    assert [row["WER"] for row in system["files"]] == [0.0, 100.0, None]
    assert "WER over all words: enhanced 75.0 %" in result.json["remarks"]
    assert any("WER: no words in the transcript" in remark for remark in result.json["remarks"])
    assert "WER [%]" in deepnmf(*words).out.decode()
    Path("asr.py").write_text("import sys; sys.exit('no model')")
    failed = deepnmf(*words)
    assert failed.code == 1 and "found exit code 1 (no model); expected a program that prints" in failed.err
    Path("said.csv").write_text(f"name,text\n{NAMES[0]},good day\n")
    failed = deepnmf(*words)
    assert failed.code == 1 and "said.csv: found no text for 2 of 3 recordings" in failed.err


def test_composite_scores_and_a_latex_table_are_given_when_asked_for(deepnmf, sets):
    words = ["evaluate", "--reference", "clean", "--noisy", "noisy", "--estimate", "enhanced", "--composite", "--latex"]
    lines = deepnmf(*words).out.decode().splitlines()
    assert lines[1] == r"\begin{tabular}{lrrrrrrrrr}" and r"SSNR [dB] & CSIG & CBAK & COVL \\" in lines[3]
    assert lines[6].startswith(r"enhanced & \textbf{") and lines[-1] == r"\end{tabular}"


def test_folders_with_names_that_mean_something_else_are_told_apart(deepnmf, sets):
    Path("other/noisy").mkdir(parents=True)
    shutil.copytree("enhanced", "reference")
    for path in Path("enhanced").iterdir():
        shutil.copy(path, "other/noisy")
    shutil.copytree("noisy", "data/noisy")
    shutil.rmtree("noisy")
    shutil.copytree("other/noisy", "noisy")
    words = ["evaluate", "--reference", "clean", "--noisy", "data/noisy", "--json"]
    found = deepnmf(*words, "--estimate", "noisy", "--estimate", "other/noisy", "--estimate", "reference").json
    named = [(system["name"], system["kind"]) for system in found["systems"]]
    assert named == [
        ("noisy", "noisy"),
        ("./noisy", "estimate"),
        ("other/noisy", "estimate"),
        ("./reference", "estimate"),
    ]


def test_a_folder_that_is_called_as_a_model_is_told_from_it(deepnmf, sets, models):
    shutil.copytree("enhanced", "theirs/best")
    systems = "--noisy noisy --estimate theirs/best --model best --json --report report --examples 0"
    result = deepnmf("evaluate", "--reference", "clean", *systems.split())
    assert [system["name"] for system in json.loads(result.out)["systems"]] == ["noisy", "theirs/best", "best"]
    assert "--examples 0" in Path("report/report.md").read_text()  # a zero is no default


def test_names_that_are_no_text_are_scored_and_reported(deepnmf, sets):
    for kind in ("clean", "enhanced"):
        os.rename(f"{kind}/{NAMES[0]}.wav", os.fsencode(kind) + b"/caf\xe9|_+3dB.wav")
    os.rename(f"enhanced/{NAMES[1]}.wav", b"enhanced/2_+3dB_b.wav")
    os.rename("enhanced", os.fsdecode(b"enh\xe4nced\n"))
    folder = os.fsdecode(b"r\xe9port")
    result = deepnmf(
        "evaluate", "--reference", "clean", "--estimate", os.fsdecode(b"enh\xe4nced\n"), "--report", folder
    )
    assert result.code == 0 and r"enh\xe4nced\n" in result.out.decode("utf-8")
    found = json.loads((Path(folder) / "report.json").read_text("utf-8"))
    (system,) = found["systems"]
    assert system["name"] == r"enh\xe4nced\n" and r"caf\xe9|_+3dB" in [row["name"] for row in system["files"]]
    assert r"enh\\xe4nced\\n" in (Path(folder) / "report.md").read_text("utf-8")
    assert r"caf\xe9|_+3dB" in (Path(folder) / "files.csv").read_text("utf-8")


def test_a_late_estimate_gets_a_hint_with_the_lag(deepnmf, sets):
    for name in NAMES:
        samples, _ = soundfile.read(f"enhanced/{name}.wav", dtype="float32")
        write(f"enhanced/{name}.wav", np.concatenate([np.zeros(320, np.float32), samples])[:RATE_HZ])
    result = deepnmf("evaluate", "--reference", "clean", "--estimate", "enhanced")
    assert "Note: enhanced: 3 of 3 files are late by 20.00 ms (median: 320 samples)" in result.out.decode()


def test_silent_constant_and_tiny_files_give_valid_json(deepnmf, folder, hiss):
    tone = np.float32(1e-3) * np.arange(RATE_HZ, dtype=np.float32) % 1
    odd = {"silent": np.zeros(RATE_HZ), "constant": np.ones(RATE_HZ), "one": np.ones(1)}
    odd |= {"tiny": 1e-38 * tone, "loud": 1e14 * tone}
    for name, samples in odd.items():
        write(f"clean/{name}.wav", hiss(1.0)[: len(samples)])
        write(f"out/{name}.wav", samples)
    result = deepnmf("evaluate", "--reference", "clean", "--estimate", "out", "--json", "--report", "report")
    assert result.code == 0

    def refuse(literal: str) -> None:
        raise AssertionError(literal)

    for text in (result.out, Path("report/report.json").read_bytes()):
        rows = json.loads(text, parse_constant=refuse)["systems"][0]["files"]
        assert {row["name"]: row["SDR"] is None for row in rows} == {name: name == "silent" for name in odd}


def test_a_bar_shows_progress_on_a_terminal_only(deepnmf, sets, terminal):
    screen = terminal("stderr")
    assert deepnmf("evaluate", "--reference", "clean", "--estimate", "enhanced").code == 0
    assert "of audio" in screen.getvalue()


@pytest.mark.parametrize("files, cpus, jobs", [(3, 8, 1), (31, 8, 1), (32, 8, 2), (1000, 8, 8), (1000, 1, 1)])
def test_processes_are_as_many_as_pay_off(files, cpus, jobs, monkeypatch):
    monkeypatch.setattr(evaluate, "available_cpus", lambda: cpus)
    assert evaluate._jobs(files) == jobs
