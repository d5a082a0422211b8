"""What is told of a recording is true of signals that are known."""

import math

import numpy as np
import pytest

from deepnmf_cli.enhancer import Enhancer
from deepnmf_cli.inspector import recording
from deepnmf_cli.inspector.recording import Heard, band_hz, clipped, estimated_snr_db, hear, level_db, measured, section
from deepnmf_cli.signal.arrays import InNumpy
from deepnmf_cli.signal.stft import FrontEnd

RATE_HZ = 16000


class Quarter(InNumpy):
    """A backend that lets a quarter of everything pass."""

    uses_phase = False

    def __call__(self, inputs, state):
        speech = np.full((1, 1, *inputs.shape[1:]), 0.25, np.float32)
        return np.concatenate([speech, 1 - speech], 1), None


def tone(hz: float, seconds: float = 1.0) -> np.ndarray:
    return np.sin(2 * np.pi * hz * np.arange(round(seconds * RATE_HZ)) / RATE_HZ)[None].astype(np.float32)


def test_the_mask_and_the_inputs_are_those_of_the_network_and_the_sound_is_that_of_the_enhancer(hiss):
    samples = np.stack([hiss(5.0), hiss(5.0, seed=1)])
    front_end = FrontEnd()
    heard = hear(Enhancer(Quarter(), front_end), samples, RATE_HZ)
    np.testing.assert_array_equal(heard.speech, Enhancer(Quarter(), front_end).enhance(samples, RATE_HZ))
    np.testing.assert_allclose(heard.speech, 0.25 * samples, atol=1e-6)
    assert heard.mask.shape == heard.inputs.shape == (257, 314) and np.unique(heard.mask) == [0.25]
    magnitude = np.abs(front_end.pair(RATE_HZ).analysis(samples)).mean(0)
    np.testing.assert_allclose(heard.inputs[4:], magnitude[4:], atol=3e-4)  # a constant offset is removed before


def test_clipping_is_runs_of_equal_samples_at_the_peak():
    samples = tone(440)
    assert clipped(samples) == 0
    cut = samples.clip(-0.5, 0.5)
    runs, count = [], 0
    for value in [*cut[0], 0.0]:  # the slow twin; at this frequency the plateaus of both signs lie apart
        if abs(value) == 0.5:
            count += 1
        else:
            runs += [count] if count >= 3 else []
            count = 0
    assert clipped(cut) == sum(runs) > 1000
    assert clipped(np.array([[0.0, 1, 1, 1, 0, 1, 1, 0, -1, -1, -1, -1, 0.5, 0.5, 0.5]])) == 3 + 4
    assert clipped(np.concatenate([cut, samples])) == clipped(cut) and clipped(np.zeros((1, 99))) == 0


@pytest.mark.parametrize("low, high", [(300, 3400), (50, 7000)])
def test_the_band_is_where_the_sound_is(low, high):
    spectrum = np.fft.rfft(np.random.default_rng(0).standard_normal(4 * RATE_HZ))
    hz = np.fft.rfftfreq(4 * RATE_HZ, 1 / RATE_HZ)
    samples = np.fft.irfft(np.where((hz > low) & (hz < high), spectrum, 0))[None]
    assert band_hz(samples, RATE_HZ) == pytest.approx((low, high), abs=130)  # two lines of a window of 32 ms
    assert band_hz(np.zeros((1, 999)), RATE_HZ) == (0.0, 0.0)


def test_the_band_of_a_long_recording_takes_little_memory(monkeypatch):
    """Every fourth window is looked at, from the beginning to the end."""
    draw = np.random.default_rng(0)
    noise = np.fft.irfft(np.fft.rfft(draw.standard_normal(64 * 8000)) * (np.arange(32 * 8000 + 1) < 32 * 2000))
    whole = band_hz(noise[None], 8000)
    seen = []
    monkeypatch.setattr(recording, "MOST_FRAMES", 500)
    monkeypatch.setattr(recording.np.fft, "rfft", lambda x, rfft=np.fft.rfft: seen.append(x.shape) or rfft(x))
    assert band_hz(noise[None], 8000) == pytest.approx(whole, abs=20) and whole[1] == pytest.approx(1000, abs=100)
    assert seen == [(1, 500, 512)]


def test_levels_are_relative_to_full_scale_frame_by_frame():
    square = np.repeat([[1.0, -0.1, 0.0]], 800, 1)[:, : 800 * 3 - 400]
    assert list(level_db(square, RATE_HZ)) == pytest.approx([0, -20, -120])
    assert level_db(np.array([[1.0], [0.0]]), RATE_HZ) == pytest.approx([10 * math.log10(0.5)])


def test_the_estimated_snr_is_that_of_the_parts():
    speech, noise = tone(500), 0.1 * tone(3000)
    heard = Heard(speech + noise, speech, np.ones((2, 2)), np.ones((2, 2)))
    assert estimated_snr_db(heard) == pytest.approx(20, abs=0.01)
    assert math.isnan(estimated_snr_db(Heard(speech, speech, heard.mask, heard.inputs)))
    assert measured(heard, RATE_HZ)["estimated SNR"] == "20.0 dB"
    silent = np.zeros_like(speech)
    assert measured(Heard(silent, silent, heard.mask, heard.inputs), RATE_HZ)["band"] == "0 to 0 Hz"


def test_a_section_has_pictures_sounds_and_levels(hiss):
    heard = hear(Enhancer(Quarter(), FrontEnd()), hiss(1.0)[None], RATE_HZ)
    shown = section(heard, RATE_HZ, 8000, "x", {"file": "f"})
    assert [panel.title for panel in shown.panels] == ["recording", "enhanced", "removed", "mask"]
    np.testing.assert_allclose(shown.panels[2].samples, 0.75 * heard.samples, atol=1e-6)
    assert shown.facts["file"] == "f" and shown.facts["estimated SNR"] == f"{20 * math.log10(1 / 3):.1f} dB"
    difference = shown.lines.curves["recording"][1] - shown.lines.curves["enhanced"][1]
    np.testing.assert_allclose(difference, 20 * math.log10(4), atol=0.01)
