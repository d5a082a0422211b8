"""`deepnmf inspect`: pages and pictures of a recording, of a model, and of both."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from deepnmf_cli import zoo


@pytest.fixture
def noisy(folder, voice, hiss):
    soundfile.write("noisy.wav", np.stack([voice(2.0), hiss(2.0)], 1), 48000)
    return folder


def test_a_recording_becomes_a_page(deepnmf, noisy):
    result = deepnmf("inspect", "noisy.wav", "--seconds", "0.1:0.5")
    assert result.code == 0 and "Wrote noisy.inspect.html, " in result.err
    page = Path("noisy.inspect.html").read_text("utf-8")
    assert page.count('data-sound="data:audio/flac;base64,') == 3 and "mask" in page
    assert "2 channel(s) at 48000 Hz, WAV PCM_16" in page and "0.40 s from 0.1 s on" in page and "estimated SNR" in page
    again = deepnmf("inspect", "noisy.wav", "--seconds", "0.1:0.5")
    assert again.code == 2 and "noisy.inspect.html: found a file of that name" in again.err
    assert deepnmf("inspect", "noisy.wav", "--seconds", ":0.2", "--overwrite", "-q").err == ""
    assert "0.20 s from 0 s on" in Path("noisy.inspect.html").read_text("utf-8")


def test_a_model_becomes_a_picture_and_layers_a_page(deepnmf, noisy):
    result = deepnmf("inspect", "--model", "deep-nmf", "-o", "atoms.png")
    assert result.code == 0 and Path("atoms.png").read_bytes().startswith(b"\x89PNG")
    result = deepnmf("inspect", "noisy.wav", "--model", "tiny", "--seconds", "0:0.5", "-o", "tiny.HTML")
    page = Path("tiny.HTML").read_text("utf-8")
    layers = zoo.load("tiny")[0].depths[-1]
    assert result.code == 0 and page.count("data:audio/flac") == 3 + layers
    assert f"mask of layer {layers}" in page and "Hidden units" in page and "multiply-adds" in page


@pytest.mark.parametrize(
    "words, code, message",
    [
        ([], 2, "deepnmf inspect: found nothing to look into; expected a recording, --model NAME, or both."),
        (["--model", "tiny", "--seconds", "0:1"], 2, "--seconds: found no recording"),
        (["noisy.wav", "--seconds", "2"], 2, "--seconds: found '2'; expected START:END in seconds, as in 10:20."),
        (["noisy.wav", "--seconds", "2:1"], 2, "--seconds: found '2:1'"),
        (["noisy.wav", "--seconds", "1:nan"], 2, "--seconds: found '1:nan'"),
        (["noisy.wav", "-o", "x.pdf"], 2, "x.pdf: found another suffix; expected a name that ends in .html or .png."),
        (
            ["noisy.wav", "--seconds", "9:10"],
            1,
            "noisy.wav: found 0.67 s of audio; expected a stretch that begins at 9 s",
        ),
        (["gone.wav"], 1, "gone.wav: found no readable file"),
        (["noisy.wav", "--model", "gone"], 1, "gone: found no model of that name"),
        (["--model", "tiny", "-o", "x.png"], 2, "x.png: found a model of which there are numbers only"),
        (["noisy.wav", "-o", "noisy.wav/x.html"], 1, "noisy.wav/x.html: found that it cannot be written"),
    ],
)
def test_what_cannot_be_done_is_said_with_its_exit_code(deepnmf, noisy, words, code, message):
    result = deepnmf("inspect", *words)
    assert result.code == code and message in result.err
    assert [path.name for path in Path().iterdir()] == ["noisy.wav"]
