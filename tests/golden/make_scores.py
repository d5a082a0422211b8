"""Makes scores.json: golden scores of synthesised signals. Run it only when the definition of a score changes.

    python tests/golden/make_scores.py

SDR and SI-SDR come from the formulae below, which share no code with the package: the distortion filter from
`scipy.linalg.solve_toeplitz`, the ratio from the time signals. PESQ, STOI and ESTOI come straight from `pesq` and
`pystoi`; frozen, they tell when a new version of those packages scores differently.
"""

import json
from pathlib import Path

import numpy as np

RATE_HZ = 16000


def signals() -> dict[str, tuple[np.ndarray, np.ndarray, int]]:
    """Case -> (reference (N,), estimate (N,), rate_hz), float64, the same on every machine.

    The references have the rounding noise of 16-bit files. Without any noise, whole bands would be empty, and SDR would
    depend on how the singular autocorrelation matrix is regularised.
    """
    # RandomState and not default_rng: its streams are frozen for good.
    random = np.random.RandomState(20)
    clean, noise = voice(3.0, RATE_HZ), random.standard_normal(3 * RATE_HZ)
    filtered = np.convolve(clean, np.hanning(33) * random.standard_normal(33))[: len(clean)]
    low_passed = as_16_bits(np.convolve(clean, np.sinc(np.arange(-200, 201) / 5) * np.hanning(401) / 5, "same"))
    clean_8k, noise_8k = voice(3.0, 8000), random.standard_normal(3 * 8000)
    return {
        "noise at 0 dB": (clean, clean + at_snr(clean, noise, 0), RATE_HZ),
        "noise at 20 dB": (clean, clean + at_snr(clean, noise, 20), RATE_HZ),
        "filtered with noise at 10 dB": (clean, filtered + at_snr(filtered, noise, 10), RATE_HZ),
        "quiet with an offset": (1e-3 * clean, 1e-4 * clean + 1e-5 + at_snr(1e-4 * clean, noise, 6), RATE_HZ),
        "low-passed reference": (low_passed, low_passed + at_snr(low_passed, noise, 12), RATE_HZ),
        "8 kHz with noise at 3 dB": (clean_8k, clean_8k + at_snr(clean_8k, noise_8k, 3), 8000),
    }


def voice(seconds: float, rate_hz: int) -> np.ndarray:
    """Harmonics of a gliding pitch through two wandering formants, in syllables of changing length."""
    time = np.arange(round(seconds * rate_hz)) / rate_hz
    phase = 2 * np.pi * (130 * time + 5 * np.sin(2 * np.pi * 0.6 * time))
    formants = [600 + 200 * np.sin(2 * np.pi * 1.3 * time), 1700 + 500 * np.sin(2 * np.pi * 0.9 * time)]
    sound = np.zeros_like(time)
    for harmonic in range(1, int(rate_hz / 2 / 170)):
        envelope = sum(1 / (1 + ((harmonic * 130 - formant) / 150) ** 2) for formant in formants)
        sound += envelope * np.sin(harmonic * phase)
    syllables = np.clip(np.sin(2 * np.pi * (2.2 * time + 0.3 * np.sin(2 * np.pi * 0.4 * time))), 0, 1)
    return as_16_bits(0.3 * syllables * sound / np.abs(sound).max())


def as_16_bits(samples: np.ndarray) -> np.ndarray:
    return np.round(samples * 32768) / 32768


def at_snr(signal: np.ndarray, noise: np.ndarray, snr_db: float) -> np.ndarray:
    return noise * np.sqrt(np.mean(signal**2) / np.mean(noise**2) * 10 ** (-snr_db / 10))


def sdr(reference: np.ndarray, estimate: np.ndarray, taps: int = 512) -> float:
    """10 log10(|P e|^2 / |e - P e|^2), P e being the reference through its best filter of 512 taps."""
    from scipy.linalg import solve_toeplitz

    size = 1 << (len(reference) + taps - 1).bit_length()
    spectra = np.fft.rfft(reference, size), np.fft.rfft(estimate, size)
    auto = np.fft.irfft(np.abs(spectra[0]) ** 2, size)[:taps]
    cross = np.fft.irfft(spectra[1] * spectra[0].conj(), size)[:taps]
    auto[0] *= 1 + 1e-10
    target = np.convolve(reference, solve_toeplitz(auto, cross))
    residual = np.pad(estimate, (0, taps - 1)) - target
    return float(10 * np.log10(target @ target / (residual @ residual)))


def si_sdr(reference: np.ndarray, estimate: np.ndarray) -> float:
    reference, estimate = reference - reference.mean(), estimate - estimate.mean()
    target = (estimate @ reference) / (reference @ reference) * reference
    return float(10 * np.log10(target @ target / ((estimate - target) @ (estimate - target))))


def scores(reference: np.ndarray, estimate: np.ndarray, rate_hz: int) -> dict[str, float]:
    from pesq import pesq
    from pystoi import stoi

    return {
        "SDR": sdr(reference, estimate),
        "SI-SDR": si_sdr(reference, estimate),
        "PESQ": float(pesq(rate_hz, reference, estimate, "wb" if rate_hz == 16000 else "nb")),
        "STOI": float(stoi(reference, estimate, rate_hz)),
        "ESTOI": float(stoi(reference, estimate, rate_hz, extended=True)),
    }


if __name__ == "__main__":
    golden = {
        case: {metric: round(value, 6) for metric, value in scores(*given).items()} for case, given in signals().items()
    }
    Path(__file__).with_name("scores.json").write_text(json.dumps(golden, indent=1) + "\n", encoding="utf-8")
