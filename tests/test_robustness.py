"""Levels, offset, hum, clipping, silence, sampling rates: what recordings bring, and the default model on the demo."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr

from deepnmf_cli.scoring.sdr import si_sdr
from deepnmf_cli.zoo import load_enhancer

DEMO = Path(__file__).parents[1] / "data" / "demo"
RATE_HZ = 16000
RATES = (8000, 11025, 16000, 22050, 44100, 48000, 96000)


@pytest.fixture(scope="module")
def enhance():
    """enhance(samples (N,), rate_hz) -> speech (N,), by the default model."""
    enhancer = load_enhancer(None, "cpu")
    return lambda samples, rate_hz=RATE_HZ: enhancer.enhance(samples[None].astype(np.float32), rate_hz)[0]


@pytest.fixture(scope="module")
def clean():
    return soundfile.read(DEMO / "clean.wav", dtype="float32")[0]


@pytest.fixture(scope="module")
def noisy():
    return soundfile.read(DEMO / "noisy.wav", dtype="float32")[0]


@pytest.fixture(scope="module")
def usual(enhance, noisy):
    """The demo clip enhanced as it is."""
    return enhance(noisy)


def test_the_enhanced_demo_is_what_the_default_model_makes(usual):
    """People hear it before they install anything. Remade by the command in data/README.md."""
    committed = soundfile.read(DEMO / "enhanced.wav", dtype="int16")[0]
    np.testing.assert_allclose(committed, 32768 * usual, atol=2)  # rounding, and other processors


def resampled(samples, before_hz, after_hz):
    return soxr.resample(samples, before_hz, after_hz, quality="VHQ")


@pytest.mark.parametrize("level_dbfs", [-80.0, 6.0])
def test_level_does_not_matter(enhance, noisy, usual, level_dbfs):
    """-80 dBFS of root mean square, and peaks of +6 dBFS, which only float formats hold."""
    present = np.abs(noisy).max() if level_dbfs > 0 else np.sqrt(np.mean(noisy**2))
    gain = 10 ** (level_dbfs / 20) / present
    np.testing.assert_allclose(enhance(gain * noisy) / gain, usual, atol=1e-4 * np.abs(usual).max())


@pytest.mark.parametrize(("offset", "loss_db"), [(0.005, 0.1), (0.02, 0.1), (-0.02, 0.1), (0.1, 0.5)])
def test_a_constant_offset_does_no_harm(enhance, clean, noisy, usual, offset, loss_db):
    speech = enhance(noisy + offset)
    assert si_sdr(clean, speech) > si_sdr(clean, usual) - loss_db
    assert abs(speech.mean()) < 0.5 * abs(offset)


def test_noise_alone_is_attenuated_without_bursts(enhance, clean, noisy):
    noise = noisy - clean
    frames = [x[: len(x) // 256 * 256].reshape(-1, 256) for x in (noise, enhance(noise))]
    before, after = (np.mean(frame**2, 1) for frame in frames)
    assert after.mean() < 0.05 * before.mean()
    assert (after < before).all()  # no frame of 16 ms becomes louder
    assert after.max() < 0.25 * before.max()


@pytest.mark.parametrize(("amplitude", "loss_db"), [(0.02, 0.3), (0.1, 0.5)])
def test_hum_of_the_mains_is_removed(enhance, clean, noisy, usual, amplitude, loss_db):
    hum = amplitude * np.sin(2 * np.pi * 50 * np.arange(len(noisy)) / RATE_HZ)
    assert si_sdr(clean, enhance(noisy + hum)) > si_sdr(clean, usual) - loss_db


@pytest.mark.parametrize("share", [0.01, 0.1])
def test_clipped_recordings_become_better_too(enhance, clean, noisy, share):
    limit = np.quantile(np.abs(noisy), 1 - share)
    clipped = noisy.clip(-limit, limit)
    assert si_sdr(clean, enhance(clipped)) > si_sdr(clean, clipped) + 5


def test_silence_stays_silence(enhance, noisy):
    assert not enhance(np.zeros(RATE_HZ)).any()
    pause = enhance(np.concatenate([noisy, np.zeros(RATE_HZ), noisy]))[len(noisy) : len(noisy) + RATE_HZ]
    # The last window that holds sound is 1024 samples long, and the constant offset is forgotten within the next hop.
    assert not pause[1024 + 256 : -1024].any()


@pytest.mark.parametrize("rate_hz", RATES)
def test_outputs_are_aligned_with_their_inputs_at_every_rate(enhance, noisy, rate_hz):
    """The cross-correlation of input and output has its peak at zero, to the sample."""
    sound = resampled(noisy, RATE_HZ, rate_hz)[: 4 * rate_hz]
    speech, size = enhance(sound, rate_hz), 1 << int(8 * rate_hz).bit_length()
    correlation = np.fft.irfft(np.fft.rfft(speech, size) * np.fft.rfft(sound, size).conj(), size)
    assert len(speech) == len(sound) and np.argmax(correlation) == 0


@pytest.mark.parametrize(
    ("rate_hz", "tolerance_db"),
    # Below 16 kHz the model misses the upper half of what it was trained on.
    [(rate_hz, 0.3 if rate_hz > RATE_HZ else 1.5) for rate_hz in RATES if rate_hz != RATE_HZ],
)
def test_sampling_rate_hardly_matters(enhance, clean, noisy, usual, rate_hz, tolerance_db):
    """SI-SDR in the band that both rates have."""
    low = min(rate_hz, RATE_HZ)
    speech = resampled(enhance(resampled(noisy, RATE_HZ, rate_hz), rate_hz), rate_hz, low)
    references = (resampled(signal, RATE_HZ, low) for signal in (clean, usual))
    length = min(len(speech), len(noisy) * low // RATE_HZ)
    clean, usual = (signal[:length] for signal in references)
    assert abs(si_sdr(clean, speech[:length]) - si_sdr(clean, usual)) < tolerance_db
