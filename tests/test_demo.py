"""The demo clips: what their README says of them is true, and the committed script made them."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import soundfile

DATA = Path(__file__).parent.parent / "data"


@pytest.fixture(scope="module")
def make_demo():
    """The script as a module; its part that runs espeak-ng is not needed here."""
    spec = importlib.util.spec_from_file_location("make_demo", DATA / "make_demo.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def clips():
    return {name: soundfile.read(DATA / "demo" / f"{name}.wav")[0] for name in ("clean", "noisy")}


@pytest.mark.parametrize("name", ["clean", "noisy"])
def test_clips_are_mono_16_khz_16_bit(name, make_demo):
    info = soundfile.info(DATA / "demo" / f"{name}.wav")
    assert (info.samplerate, info.channels, info.subtype) == (16000, 1, "PCM_16")
    assert info.frames == make_demo.DURATION_S * make_demo.RATE_HZ


def test_snr_is_as_stated(clips, make_demo):
    noise = clips["noisy"] - clips["clean"]
    snr_db = 10 * np.log10(np.sum(clips["clean"] ** 2) / np.sum(noise**2))
    assert snr_db == pytest.approx(make_demo.SNR_DB, abs=0.01)


def test_peak_is_as_stated(clips, make_demo):
    assert 20 * np.log10(np.abs(clips["noisy"]).max()) == pytest.approx(make_demo.PEAK_DBFS, abs=0.01)


def test_both_sentences_are_heard_and_begin_where_stated(clips, make_demo):
    silence = clips["clean"][: int(make_demo.SENTENCES[0][0] * make_demo.RATE_HZ)]
    # Only the ringing of the ideal resampler, around the last bits.
    assert np.abs(silence).max() < 1e-3
    for start_s, *_ in make_demo.SENTENCES:
        start = int(start_s * make_demo.RATE_HZ)
        assert np.std(clips["clean"][start : start + 2 * make_demo.RATE_HZ]) > 0.02


def test_a_high_pass_filter_does_not_solve_the_demo(clips):
    noise = clips["noisy"] - clips["clean"]
    above_300_hz = np.fft.rfftfreq(noise.size, 1 / 16000) > 300
    speech, rest = (np.sum(np.abs(np.fft.rfft(x)[above_300_hz]) ** 2) for x in (clips["clean"], noise))
    assert 10 * np.log10(speech / rest) < 5


def test_the_script_made_the_noise(clips, make_demo):
    draw = np.random.default_rng(make_demo.SEED)
    make_demo.room_response(draw)
    made, found = make_demo.make_noise(draw), clips["noisy"] - clips["clean"]
    assert np.corrcoef(made, found)[0, 1] == pytest.approx(1, abs=1e-6)
