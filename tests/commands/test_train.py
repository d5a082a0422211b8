"""`deepnmf train` as a user meets it: interrupted, resumed, asked for nonsense."""

import csv
import logging
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

SMALL = [
    "--model", "dnn", "--set", "network.context=2", "--set", "network.hidden=[4]", "--set", "mixing.segment_s=0.25",
    "--set", "training.batch=2", "--set", "front_end.rate_hz=8000",
]  # fmt: skip


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    folder, draw = tmp_path_factory.mktemp("sounds"), np.random.default_rng(0)
    for kind, count in (("speech", 6), ("noise", 2), ("dev/clean", 2), ("dev/noisy", 2)):
        (folder / kind).mkdir(parents=True)
        for i in range(count):
            soundfile.write(folder / kind / f"{i}.wav", 0.1 * draw.standard_normal(8000).clip(-3, 3), 8000)
    for i in range(12):
        (folder / f"speech/talk{i:02}.pcm").touch()
    return folder


def arguments(corpus: Path, run: Path, *more: str) -> list[str]:
    folders = ["--speech", corpus / "speech", "--noise", corpus / "noise", "--dev", corpus / "dev", "-o", run]
    return ["train", *map(str, folders), *SMALL, *more]


def test_verbose_tells_where_the_time_goes(deepnmf, monkeypatch, corpus: Path, tmp_path: Path) -> None:
    logger = logging.getLogger("deepnmf_cli")
    monkeypatch.setattr(logger, "handlers", [])
    monkeypatch.setattr(logger, "level", logging.NOTSET)
    result = deepnmf(*arguments(corpus, tmp_path / "run", "--set", "training.steps=1", "-v"))
    assert result.code == 0
    assert re.search(r"step 1: [\d.]+ s waiting for mixtures, [\d.]+ s learning, [\d.]+ s scoring\n", result.err)


def test_run_says_what_it_leaves_out_and_where_the_best_model_is_and_enhance_takes_it(
    deepnmf, corpus: Path, tmp_path: Path
) -> None:
    result = deepnmf(*arguments(corpus, tmp_path / "run", "--set", "training.steps=2"))
    assert result.code == 0
    assert "step 2: loss" in result.err and "dev score" in result.err
    assert re.search(
        r"\nmodel: \S+, [\d,]+ parameters, .+; 2 steps of \d+ mixtures of .+ s, on cpu, \d+ thread", result.err
    )
    assert "waiting for mixtures" not in result.err
    assert str(tmp_path / "run" / "best.safetensors") in result.out.decode()
    warnings = [line for line in result.err.splitlines() if line.startswith("Warning: ") and "read" in line]
    assert "talk00.pcm: found a .pcm file, which cannot be read" in warnings[0] and "talk09.pcm" in warnings[9]
    assert warnings[10].endswith("speech: 12 files left out as unreadable.") and len(warnings) == 11
    assert result.err.index(warnings[10]) < result.err.index("step 2: loss")
    noisy = corpus / "dev/noisy/0.wav"
    assert deepnmf("enhance", noisy, "-o", tmp_path / "out.wav", "--model", tmp_path / "run").code == 0
    assert soundfile.info(tmp_path / "out.wav").frames == 8000


def test_interrupt_stops_after_a_step_and_resume_completes(corpus: Path, tmp_path: Path) -> None:
    run, steps = tmp_path / "run", ["--set", "training.steps=4000", "--set", "training.score_every=10"]
    command = [sys.executable, "-m", "deepnmf_cli.main", *arguments(corpus, run, *steps)]
    running = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    for _ in range(600):
        if (run / "history.csv").exists():
            break
        time.sleep(0.1)
    running.send_signal(signal.SIGINT)
    _, errors = running.communicate(timeout=60)
    assert running.returncode == 130 and "continues with --resume" in errors
    assert not [p.name for p in run.iterdir() if p.name.startswith(".")]
    with open(run / "history.csv", newline="") as file:
        first = list(csv.DictReader(file))
    resumed = subprocess.Popen([*command, "--resume"], stderr=subprocess.DEVNULL, env=os.environ)
    for _ in range(600):
        with open(run / "history.csv", newline="") as file:
            rows = list(csv.DictReader(file))
        if len(rows) > len(first):
            break
        time.sleep(0.1)
    resumed.send_signal(signal.SIGTERM)
    assert resumed.wait(timeout=60) == 143
    assert [row["step"] for row in rows] == [str(10 * (i + 1)) for i in range(len(rows))]
    assert rows[: len(first)] == first and len(rows) > len(first)


@pytest.mark.parametrize(
    "options,message",
    [
        ([], "found no complete source of recordings"),
        (["--speech", "speech"], "found no complete source of recordings"),
        (["--speech", "speech", "--noise", "noise", "--pairs", "dev"], "found more than one source"),
        (["--speech", "speech", "--noise", "noise", "--partial"], "--partial: found no --init"),
    ],
)
def test_sources_must_be_complete_and_one(deepnmf, tmp_path: Path, options: list[str], message: str) -> None:
    result = deepnmf("train", *options, "-o", tmp_path / "run")
    assert result.code == 2 and message in result.err
    assert not (tmp_path / "run").exists()


def test_misspelt_setting_suggests_the_near_one(deepnmf, corpus: Path, tmp_path: Path) -> None:
    result = deepnmf(*arguments(corpus, tmp_path / "run", "--set", "training.lerning_rate=1e-3"))
    assert result.code == 2
    assert "unknown key 'lerning_rate'" in result.err and "Did you mean 'learning_rate'?" in result.err
    assert not (tmp_path / "run").exists()


def test_missing_folder_and_missing_gpu_are_named(deepnmf, corpus: Path, tmp_path: Path) -> None:
    result = deepnmf("train", "--speech", tmp_path / "nowhere", "--noise", corpus / "noise", "-o", tmp_path / "run")
    assert result.code == 1 and "nowhere: found no folder" in result.err
    import torch

    if not torch.cuda.is_available():
        result = deepnmf(*arguments(corpus, tmp_path / "run", "--device", "cuda"))
        assert result.code == 2 and "found no usable CUDA device" in result.err


@pytest.mark.parametrize(
    "model,code,found",
    [("grid", 1, "nowhere: found no folder"), ("gird", 2, "--model: found 'gird'.+Did you mean 'grid'")],
)
def test_a_network_without_a_recipe_of_its_name_has_default_settings(
    deepnmf, tmp_path: Path, model: str, code: int, found: str
) -> None:
    folders = ["--speech", tmp_path / "nowhere", "--noise", tmp_path / "nowhere", "-o", tmp_path / "run"]
    result = deepnmf("train", "--model", model, *folders)
    assert result.code == code and re.search(found, result.err)


@pytest.mark.parametrize("option", [
    ["--minutes", 1], ["--device", "cuda"], ["--workers", 2], ["--tensorboard"], ["--cache", "cache"], ["--partial"],
])  # fmt: skip
def test_options_that_training_of_repair_does_not_take_are_refused(deepnmf, corpus, tmp_path, option) -> None:
    (tmp_path / "own.toml").write_text("[repair]  # of gaps\n")
    for recipe in ("fill-gaps", tmp_path / "own.toml"):
        result = deepnmf("train", recipe, "--speech", corpus / "speech", "-o", tmp_path / "run", *option)
        assert result.code == 2 and f"found {option[0]} beside it; expected --speech alone" in result.err
    assert not (tmp_path / "run").exists()


def test_a_misspelt_column_of_a_manifest_is_told(deepnmf, tmp_path: Path) -> None:
    """Its speakers would be one for each file."""
    (tmp_path / "all.csv").write_text("path,role,speker\ngone.wav,speech,p1\n")
    result = deepnmf("train", "--manifest", tmp_path / "all.csv", "-o", tmp_path / "run", *SMALL)
    assert result.code == 1 and "no file" in result.err
    assert "all.csv: the column 'speker' is not used; 'speaker' would be.\n" in result.err
