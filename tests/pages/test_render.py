"""Pictures and sounds inside a page are what was given."""

import base64
import io

import numpy as np
import pytest
import soundfile
from PIL import Image

from deepnmf_cli.pages import render
from deepnmf_cli.signal.spectrogram import ROWS, spectrogram_db


def content(address: str) -> io.BytesIO:
    return io.BytesIO(base64.b64decode(address.partition(",")[2]))


@pytest.mark.parametrize("channels, rate_hz", [(1, 16000), (2, 48000), (1, 8000)])
def test_a_sound_comes_back_to_the_rounding_of_16_bits(channels, rate_hz):
    samples = np.random.default_rng(0).uniform(-1, 1, (channels, 5000))
    address = render.sound(samples, rate_hz)
    found, found_hz = soundfile.read(content(address), always_2d=True)
    assert address.startswith("data:audio/flac;base64,") and found_hz == rate_hz
    np.testing.assert_allclose(found.T, samples, atol=1 / 32768)


def test_a_sound_of_a_rate_or_channels_that_browsers_refuse_is_changed():
    samples = 0.5 * np.sin(2 * np.pi * 1000 * np.arange(19200) / 192000) * np.array([[1.0], [0.5], [0.0]])
    found, rate_hz = soundfile.read(content(render.sound(samples, 192000)), always_2d=True)
    assert rate_hz == 48000 and found.shape == (4800, 1)
    expected = 0.25 * np.sin(2 * np.pi * 1000 * np.arange(4800) / 48000)
    np.testing.assert_allclose(found[200:-200, 0], expected[200:-200], atol=1e-3)


def test_a_picture_has_its_first_row_at_the_bottom_and_the_colours_of_its_map():
    image = Image.open(content(render.picture(np.array([[0.0, 10.0], [5.0, 99.0]]), 0, 10, "gray")))
    levels = np.asarray(image.convert("L"))
    assert levels.shape == (2, 2)
    assert levels[1, 0] == 0 and levels[1, 1] == levels[0, 1] == 255 and 120 < levels[0, 0] < 136


def test_a_sinusoid_of_amplitude_1_has_0_db_at_its_frequency_throughout():
    rate_hz = 16000
    levels = spectrogram_db(np.sin(2 * np.pi * 2000 * np.arange(rate_hz) / rate_hz), rate_hz)
    assert levels.shape == (ROWS, 125)
    inside = levels[:, 3:-3]
    np.testing.assert_allclose(inside.max(0), 0, atol=0.05)
    assert set(inside.argmax(0)) <= {63, 64}  # a quarter of the way from 0 Hz to 8 kHz


def test_a_spectrogram_has_the_power_of_a_dft_in_each_window():
    """The slow twin, at a rate whose bins need not be gathered."""
    rate_hz, samples = 8000, np.random.default_rng(0).standard_normal((2, 3000))
    levels = spectrogram_db(samples, rate_hz)
    size, hop = 256, 64
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(size) / size)
    for t in (0, 7, 46):
        padded = np.pad(samples, ((0, 0), (size // 2, size)))[:, t * hop : t * hop + size] * window * 2 / window.sum()
        for f in (0, 5, 128):
            wave = np.exp(-2j * np.pi * f * np.arange(size) / size)
            assert levels[f, t] == pytest.approx(10 * np.log10(np.mean(np.abs(padded @ wave) ** 2)), abs=1e-3)
    assert levels.shape == (129, 47)


def test_long_recordings_have_no_more_columns_than_asked_for_and_silence_has_a_floor():
    assert spectrogram_db(np.zeros(100_000), 8000, 100).shape == (129, 100)
    assert spectrogram_db(np.zeros(100_000), 8000, 100).max() == -140
