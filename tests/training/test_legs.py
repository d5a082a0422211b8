"""Training on a pack, by the clock, on a machine that has little installed."""

import csv
import math
import os
import pickle
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

from deepnmf_cli import checkpoint, extras, model_file
from deepnmf_cli.corpus import batches
from deepnmf_cli.corpus.augment import PACKAGES, AugmentationSettings, packages
from deepnmf_cli.corpus.clips import ClipCache, unpack
from deepnmf_cli.corpus.pack import pack
from deepnmf_cli.experiment import Recordings, train
from deepnmf_cli.recipe import Recipe
from deepnmf_cli.training import dev, trainer
from deepnmf_cli.training.dev import estimated_pesq
from deepnmf_cli.training.trainer import TimeLimit

ROOT = Path(__file__).parents[2]

CARRIED = {"torch", "numpy", "scipy", "soundfile", "soxr", "safetensors", "tqdm", "click", "cffi"}
"""What a machine for legs has, or gets: docs/research/flagship/prepare.sh."""

FORBIDDEN = {
    "librosa",
    "torchaudio",
    "matplotlib",
    "onnx",
    "onnxruntime",
    "pesq",
    "pystoi",
    "fast_bss_eval",
    "speechmos",
}

SMALL = [
    "--model", "dnn", "--set", "network.context=1", "--set", "network.hidden=[4]", "--set", "mixing.segment_s=0.25",
    "--set", "training.batch=2", "--set", "front_end.rate_hz=8000", "--set", "training.score=si-sdr+pesq",
    "--set", "augmentation.colour_probability=0.5", "--set", "augmentation.speed_probability=0.5",
]  # fmt: skip


@pytest.fixture(scope="module")
def packed(tiny_corpus: Path, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("packs") / "pack"
    pack([tiny_corpus], folder, 10**6, 8000, tiny_corpus / "dev")
    return folder


def bare(arguments: list[str], folder: Path) -> subprocess.CompletedProcess:
    """The program where only `CARRIED`, and what that needs, can be imported; it says what it has imported."""
    program = f"""
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {FORBIDDEN!r}:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Absent())
import importlib.util
found = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name in {FORBIDDEN!r} else found(name, package)
sys.path.insert(0, {str(ROOT)!r})
from deepnmf_cli.main import run
if __name__ == "__main__":
    run({arguments!r})
"""
    (folder / "bare.py").write_text(program)
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, str(folder / "bare.py")], capture_output=True, text=True, env=environment)


def history(run: Path) -> list[dict[str, str]]:
    with open(run / "history.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_a_leg_on_a_bare_machine_ends_by_the_clock_and_goes_on_anywhere(deepnmf, packed: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    command = ["train", "--pack", str(packed), "-o", str(run), *SMALL, "--set", "training.steps=2000"]
    leg = bare([*command, "--minutes", "0.03", "--workers", "2"], tmp_path)
    assert leg.returncode == 0, leg.stderr
    assert "unpacked" in leg.stderr and "0.03 min are over" in leg.stderr and "Continue with --resume" in leg.stderr
    assert leg.stderr.count("matplotlib is not installed") == 1
    assert sorted(path.name for path in run.iterdir()) == [
        "best.safetensors", "history.csv", "last.safetensors", "recipe.json", "resume.safetensors",
    ]  # fmt: skip
    (row,) = history(run)
    assert row["dev_pesq"] == "" and 1 <= float(row["dev_pesq_estimated"]) <= 4.65
    assert float(row["dev_score"]) == pytest.approx(float(row["dev_si_sdr"]) + 10 * float(row["dev_pesq_estimated"]))
    trained = model_file.read(run / "last.safetensors").provenance["trained"]
    assert trained["steps"] == int(row["step"]) < 2000
    assert "dev_pesq_estimated" in model_file.read(run / "best.safetensors").provenance["trained"]

    steps = int(row["step"]) + 2
    more = deepnmf(*command, "--resume", "--set", f"training.steps={steps}", "--device", "cpu")
    assert more.code in (0, 4), more.err
    assert "PESQ is computed in another way" in more.err
    rows = history(run)
    assert [int(r["step"]) for r in rows] == [steps - 2, steps]
    assert rows[0] == row and rows[1]["dev_pesq"] and not rows[1]["dev_pesq_estimated"]
    assert not (run / "last.safetensors").exists() and (run / "curves.png").exists()


def test_a_best_score_of_another_kind_is_computed_again(tiny_corpus: Path, tmp_path: Path, monkeypatch) -> None:
    settings = {
        "model": "dnn", "network": {"context": 1, "hidden": [4]}, "front_end": {"rate_hz": 8000},
        "mixing": {"segment_s": 0.25},
    }  # fmt: skip
    recipes = [
        Recipe.from_dict(settings | {"training": {"steps": n, "batch": 2, "score_every": 2, "score": "si-sdr+pesq"}})
        for n in (2, 4)
    ]
    where = Recordings(speech=tiny_corpus / "speech", noise=tiny_corpus / "noise", dev=tiny_corpus / "dev")
    monkeypatch.setattr(dev, "estimated_pesq", lambda *_: 4.0)
    with monkeypatch.context() as patch:
        patch.setattr(extras, "has", lambda package: package != "pesq")
        train(recipes[0], where, tmp_path / "run")
    best = model_file.read(tmp_path / "run/best.safetensors").provenance["trained"]["steps"]
    train(recipes[1], where, tmp_path / "run", resume=True)
    kept = checkpoint.load(tmp_path / "run/resume.safetensors")[1]["progress"]["best"]
    rows = history(tmp_path / "run")
    assert float(rows[0]["dev_score"]) > 39 and best == 2
    assert kept < 35  # not 40 and more, which no score by the package reaches


@pytest.mark.parametrize("workers", [1, 2])
def test_a_leg_saves_every_minute_and_scores_at_its_end(
    deepnmf, packed: Path, tmp_path: Path, monkeypatch, workers: int
) -> None:
    saved, save = [], trainer.Trainer._save
    monkeypatch.setattr(trainer.Trainer, "_save", lambda self: (saved.append(self.step), save(self)))
    monkeypatch.setattr(trainer, "TIMED_RESUME_EVERY_S", 0)
    command = ["train", "--pack", packed, "-o", tmp_path / "run", *SMALL[:-6], "--workers", workers]
    result = deepnmf(
        *command, "--set", "training.steps=100000", "--set", "training.score_every=100000", "--minutes", 0.02
    )
    assert result.code == 0, result.err
    last = int(history(tmp_path / "run")[-1]["step"])
    assert last > 0 and saved[: last + 1] == list(range(last + 1))
    assert [row["step"] for row in history(tmp_path / "run")] == [str(last)]


def test_time_is_kept_for_the_last_score(monkeypatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(trainer.time, "monotonic", lambda: now[0])
    limit = TimeLimit(100, began=990)
    for at, scoring_s, reached in ((1000, None, False), (1079, None, False), (1081, None, True), (1079, 10, True),
                                   (1076, 10, False), (1089, 0.1, False), (1090, 0, True)):  # fmt: skip
        now[0] = at
        assert limit.reached(scoring_s) == reached, (at, scoring_s)


def test_a_leg_ends_by_the_clock_while_it_waits_for_recordings(tiny_corpus: Path, tmp_path: Path, monkeypatch) -> None:
    """The first batch comes, the second never."""
    make, hold = batches._Batches.__getitem__, threading.Event()
    monkeypatch.setattr(batches._Batches, "__getitem__", lambda self, n: make(self, n) if n < 1 else hold.wait(300))
    monkeypatch.setattr(batches, "FAREWELL_S", 0.1)
    recipe = Recipe.from_dict({"model": "dnn", "network": {"hidden": [4]}, "front_end": {"rate_hz": 8000}})
    where = Recordings(speech=tiny_corpus / "speech", noise=tiny_corpus / "noise", dev=tiny_corpus / "dev")
    assert not train(recipe, where, tmp_path / "run", limit=TimeLimit(20, time.monotonic() - 17))
    hold.set()
    assert [row["step"] for row in history(tmp_path / "run")] == ["1"]


def test_wrong_usage_of_packs_and_times_is_named(deepnmf, packed: Path, tiny_corpus: Path, tmp_path: Path) -> None:
    run = ["-o", tmp_path / "run", *SMALL]
    for minutes in ("0", "-1", "nan", "inf", "x"):
        result = deepnmf("train", "--pack", packed, *run, "--minutes", minutes)
        assert result.code == 2 and "--minutes" in result.err
    for other in (["--speech", tiny_corpus, "--noise", tiny_corpus], ["--manifest", packed / "index.csv"]):
        result = deepnmf("train", "--pack", packed, *other, *run)
        assert result.code == 2 and "found more than one source of recordings" in result.err
    result = deepnmf("train", "--pack", packed, "--rir", tiny_corpus, *run)
    assert result.code == 2 and "--rir: found no --speech" in result.err
    result = deepnmf("train", "--pack", tmp_path, *run)
    assert result.code == 1 and "found no index.csv; expected a pack" in result.err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("size", ["0", "-1MB", "40 parsecs", "nan", " "])
def test_sizes_and_parts_are_checked(deepnmf, tiny_corpus: Path, tmp_path: Path, size: str) -> None:
    result = deepnmf("pack", tiny_corpus, "-o", tmp_path / "pack", "--max-size", size)
    assert result.code == 2 and "is no size" in result.err
    result = deepnmf("pack", tiny_corpus, "-o", tmp_path / "pack", "--part", "3/2")
    assert result.code == 2 and "is no part" in result.err
    assert not list(tmp_path.iterdir())


def test_more_workers_than_processors_are_not_used(deepnmf, packed: Path, tmp_path: Path, monkeypatch) -> None:
    from deepnmf_cli import workers

    monkeypatch.setattr(workers, "available_cpus", lambda: 1)
    command = ["train", "--pack", packed, "-o", tmp_path / "run", *SMALL[:-6], "--set", "training.steps=2"]
    result = deepnmf(*command, "--workers", "15")
    assert result.code in (0, 4) and "--workers 15: found 1 CPU, and as many are used" in result.err
    assert "unpacked" not in result.err


def test_what_is_needed_is_asked_for_by_what_needs_it(deepnmf, packed: Path, tmp_path: Path, monkeypatch) -> None:
    settings = AugmentationSettings(slow_probability=0.1, colour_probability=0.1, coding_probability=0.1)
    assert dict(packages(settings)) == {
        "librosa": "augmentation.slow_probability",
        "scipy": "augmentation.colour_probability",
        "soxr": "augmentation.coding_probability",
    }
    assert not list(packages(AugmentationSettings()))
    assert set(PACKAGES) <= set(extras.EXTRAS["train"])
    monkeypatch.setattr(extras, "has", lambda package: package not in PACKAGES)
    for package, (name, *_) in PACKAGES.items():
        command = [
            "train",
            "--pack",
            packed,
            "-o",
            tmp_path / "run",
            *SMALL[:-4],
            "--set",
            f"augmentation.{name}_probability=1",
        ]
        result = deepnmf(*command)
        assert result.code == 1 and f"augmentation.{name}_probability: found no package {package}" in result.err
        assert 'pip install "deepnmf[train]"' in result.err
    assert not (tmp_path / "run").exists()


def test_unpacked_clips_are_those_that_are_decoded(packed: Path, tmp_path: Path) -> None:
    paths = sorted(packed.glob("*/*.o*"))
    plain, shared = ClipCache(16000), ClipCache(16000, unpacked=unpack(paths, 16000, tmp_path / "clips"))
    for cache in (shared, pickle.loads(pickle.dumps(shared))):
        for path in paths:
            assert cache.length(path) == plain.length(path)
            assert np.array_equal(cache.read(path, 100, 900), plain.read(path, 100, 900))
            assert np.array_equal(cache.audible_starts(path, 1000), plain.audible_starts(path, 1000))
        assert not cache._held
    assert (tmp_path / "clips").stat().st_size == 2 * sum(plain.length(path) for path in paths)


def test_a_pack_without_room_to_unpack_it_is_an_error(deepnmf, packed: Path, tmp_path: Path, monkeypatch) -> None:
    from deepnmf_cli import experiment

    def full(*_) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(experiment.MixtureDataset, "unpack", full)
    result = deepnmf("train", "--pack", packed, "-o", tmp_path / "run", *SMALL[:-4], "--workers", "2")
    assert result.code == 1 and "found no way to unpack it (No space left on device)" in result.err


def test_estimated_pesq_agrees_with_the_package_on_a_demo() -> None:
    from deepnmf_cli.scoring.metrics import METRICS

    clean, rate_hz = soundfile.read(ROOT / "data/demo/clean.wav")
    noisy, _ = soundfile.read(ROOT / "data/demo/noisy.wav")
    assert estimated_pesq(clean, clean, rate_hz) == pytest.approx(
        0.999 + 4 / (1 + math.exp(-1.3669 * 4.5 + 3.8224)), abs=1e-3
    )
    found = []
    for gain in (1.0, 0.3, 0.1, 0.03):
        estimate = clean + gain * (noisy - clean)
        found.append(estimated_pesq(clean, estimate, rate_hz))
        assert found[-1] == pytest.approx(METRICS["PESQ"].compute(clean, estimate, rate_hz), abs=0.5)
        assert estimated_pesq(3 * clean, 3 * estimate, rate_hz) == pytest.approx(found[-1], abs=1e-3)
    assert found == sorted(found)
