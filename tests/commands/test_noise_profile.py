"""--noise-profile: atoms for a noise, learned from a stretch of each input or from a file."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from deepnmf_cli import Treatment, enhance_file, load_enhancer, model_file
from deepnmf_cli import treatment as profiles
from deepnmf_cli.errors import EXIT_FAILED, EXIT_USAGE
from deepnmf_cli.networks import build
from deepnmf_cli.recipe import Recipe

RATE_HZ = 16000


@pytest.fixture(scope="session")
def nmf_model(tmp_path_factory):
    """The file of an untrained sparse NMF."""
    torch.manual_seed(0)
    network = {"context": 2, "atoms": 4, "iterations": 3}
    recipe = Recipe.from_dict({"model": "sparse-nmf", "network": network})
    path = tmp_path_factory.mktemp("model") / "nmf.safetensors"
    model_file.describe(path, build(recipe.model, recipe.network), recipe.front_end, {}).write()
    return path


@pytest.fixture
def talk(folder, voice, hiss):
    """talk.wav: 0.8 s of noise alone, then a voice in it; room.wav: the noise alone."""
    noise = 0.3 * np.sign(np.sin(np.arange(2 * RATE_HZ))) + hiss(2.0)
    noisy = noise + np.concatenate([np.zeros(round(0.8 * RATE_HZ)), voice(1.2)])
    soundfile.write("talk.wav", noisy, RATE_HZ, "FLOAT")
    soundfile.write("room.wav", noisy[: round(0.8 * RATE_HZ)], RATE_HZ, "FLOAT")
    return folder


def read(name):
    return soundfile.read(name, dtype="float32", always_2d=True)[0]


def test_a_stretch_and_a_file_of_it_teach_the_same(deepnmf, talk, nmf_model):
    for name, options in {
        "without": [],
        "stretch": ["--noise-profile", "0:0.8"],
        "open": ["--noise-profile", ":.8"],
        "file": ["--noise-profile", "room.wav"],
    }.items():
        result = deepnmf("enhance", "talk.wav", "-o", f"{name}.wav", "--model", nmf_model, *options)
        assert result.code == 0, result.err
    np.testing.assert_array_equal(read("stretch.wav"), read("file.wav"))
    np.testing.assert_array_equal(read("stretch.wav"), read("open.wav"))
    assert np.abs(read("stretch.wav") - read("without.wav")).max() > 0.01
    assert np.abs(read("stretch.wav")[3000:12000]).mean() < 0.7 * np.abs(read("without.wav")[3000:12000]).mean()


def test_the_first_minute_of_a_profile_is_used(deepnmf, talk, nmf_model, monkeypatch):
    assert profiles.LONGEST_S == 60
    given = ["--model", nmf_model, "--noise-profile"]
    with monkeypatch.context() as patched:
        patched.setattr(profiles, "LONGEST_S", 0.8)
        for name, profile in {"all": ":", "first": ":0.8", "file": "talk.wav"}.items():
            assert deepnmf("enhance", "talk.wav", "-o", f"{name}.wav", *given, profile).code == 0
    np.testing.assert_array_equal(read("all.wav"), read("first.wav"))
    np.testing.assert_array_equal(read("file.wav"), read("first.wav"))
    assert deepnmf("enhance", "talk.wav", "-o", "more.wav", *given, ":").code == 0
    assert np.abs(read("more.wav") - read("all.wav")).max() > 0.01


def test_every_recording_has_its_own_stretch_and_pipes_have_one_too(deepnmf, talk, nmf_model, hiss):
    Path("in").mkdir()
    soundfile.write("in/a.wav", read("talk.wav"), RATE_HZ, "FLOAT")
    soundfile.write("in/b.wav", hiss(1.0), RATE_HZ)
    options = ["--model", nmf_model, "--noise-profile", "0:0.8"]
    assert deepnmf("enhance", "in", "-o", "out", *options).code == 0
    assert deepnmf("enhance", "in/a.wav", "-o", "alone.wav", *options).code == 0
    assert deepnmf("enhance", "-", "-o", "pipe.wav", *options, stdin=Path("in/a.wav").read_bytes()).code == 0
    np.testing.assert_array_equal(read("out/a.wav"), read("alone.wav"))
    np.testing.assert_array_equal(read("out/a.wav"), read("pipe.wav"))


def test_a_stretch_is_repaired_before_it_is_learned(deepnmf, talk, nmf_model):
    damaged = read("talk.wav")
    damaged[3000:3100] = np.nan
    soundfile.write("damaged.wav", damaged, RATE_HZ, "FLOAT")
    assert deepnmf("repair", "damaged.wav", "-o", "whole.wav").code == 0
    options = ["--model", nmf_model, "--noise-profile", "0:0.8"]
    assert deepnmf("enhance", "whole.wav", "-o", "expected.wav", *options).code == 0
    assert deepnmf("enhance", "damaged.wav", "-o", "both.wav", "--repair", *options).code == 0
    np.testing.assert_array_equal(read("both.wav"), read("expected.wav"))


def test_a_treatment_learns_from_its_file(deepnmf, talk, nmf_model):
    assert deepnmf("enhance", "talk.wav", "-o", "a.wav", "--model", nmf_model, "--noise-profile", "room.wav").code == 0
    treatment = Treatment(noise_profile=profiles.NoiseProfile("room.wav"))
    enhance_file(load_enhancer(nmf_model, "cpu", "torch"), "talk.wav", "b.wav", treatment)
    np.testing.assert_array_equal(read("a.wav"), read("b.wav"))


def test_streams_learn_from_a_file(deepnmf, talk, nmf_model):
    options = ["--model", nmf_model, "--noise-profile", "room.wav"]
    assert deepnmf("enhance", "talk.wav", "-o", "whole.wav", *options).code == 0
    result = deepnmf("stream", *options, stdin=Path("talk.wav").read_bytes())
    assert result.code == 0, result.err
    Path("stream.wav").write_bytes(result.out)
    np.testing.assert_allclose(read("stream.wav"), read("whole.wav"), atol=1e-6)
    refused = deepnmf("stream", "--model", nmf_model, "--noise-profile", "0:1", stdin=b"")
    assert refused.code == EXIT_USAGE and "--noise-profile: found seconds of the input; expected a file" in refused.err


@pytest.mark.parametrize(
    ("profile", "code", "message"),
    [
        ("3:4", EXIT_FAILED, "talk.wav: found 2.00 s of audio; expected a stretch that begins at 3 s. Name seconds"),
        ("1:2.5", EXIT_FAILED, "talk.wav: found 2.00 s of audio; expected noise up to 2.5 s, as --noise-profile says."),
        ("1:1.05", EXIT_FAILED, "talk.wav: found a noise profile of 2 frames of it; expected at least 9 frames of 16"),
        (
            "silence.wav",
            EXIT_FAILED,
            "silence.wav: found a noise profile of 0 frames of it; expected at least 9 frames",
        ),
        ("none.wav", EXIT_FAILED, "none.wav: found no readable file"),
        ("2:1", EXIT_USAGE, "'2:1' ends before it starts."),
        ("1:1", EXIT_USAGE, "'1:1' ends before it starts."),
        (".:1", EXIT_USAGE, "'.:1' is neither START:END in seconds nor a file."),
    ],
)
def test_profiles_that_cannot_be_used(deepnmf, talk, nmf_model, profile, code, message):
    soundfile.write("silence.wav", np.zeros(RATE_HZ), RATE_HZ)
    result = deepnmf("enhance", "talk.wav", "-o", "out.wav", "--model", nmf_model, "--noise-profile", profile)
    assert result.code == code and message in result.err
    assert not Path("out.wav").exists()


@pytest.mark.parametrize("profile", ["0:0.8", "room.wav"])
def test_a_model_without_atoms_is_refused_once_with_the_models_that_have_some(deepnmf, talk, tiny_model, profile):
    options = ["--model", tiny_model, "--noise-profile", profile]
    result = deepnmf("enhance", "talk.wav", "room.wav", "-o", "out/", *options)
    assert result.code == EXIT_USAGE and len(result.err.splitlines()) == 1
    assert "found the model dnn, which has no atoms of noise; expected a model of the kind deep-nmf, dnmf" in result.err
