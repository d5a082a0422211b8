"""What a model does where there is little to do: clean speech, silence, noise alone, other sampling rates.

    python docs/research/benchmarks/do_no_harm.py CLEAN NOISY [--model NAME|FILE] [--every 6]

CLEAN and NOISY are folders of equal names at 16 kHz; every n-th file is used. Prints means and worst cases.
"""

import argparse

import numpy as np
import soxr

from deepnmf_cli import load_enhancer
from deepnmf_cli.corpus.clips import decode
from deepnmf_cli.corpus.manifest import pair_folders
from deepnmf_cli.corpus.mixing import rms, scale_to_snr
from deepnmf_cli.scoring.sdr import sdr, si_sdr
from deepnmf_cli.signal.stft import StftPair

RATE = 16000
HOP = 256
RUMBLE_HZ = 100
"""Below it lies what a clean recording has of its room, and little speech."""
OTHER_RATES = (8000, 11025, 22050, 44100, 48000, 96000)


def score(function, reference: np.ndarray, estimate: np.ndarray) -> float:
    """A score in dB over the common length."""
    length = min(len(reference), len(estimate))
    return function(reference[:length].astype(np.float64), estimate[:length].astype(np.float64))


def resampled(samples: np.ndarray, before_hz: int, after_hz: int) -> np.ndarray:
    return soxr.resample(samples, before_hz, after_hz, quality="VHQ").astype(np.float32)


def without_rumble(samples: np.ndarray) -> np.ndarray:
    """What lies above RUMBLE_HZ."""
    spectrum = np.fft.rfft(samples.astype(np.float64))
    spectrum[: round(RUMBLE_HZ * len(samples) / RATE)] = 0
    return np.fft.irfft(spectrum, len(samples))


def across_rates(enhancer, clean: np.ndarray, noisy: np.ndarray) -> list[float]:
    """SDR at each other rate less SDR at 16 kHz, compared in the band that both have."""
    usual = enhancer.enhance(noisy[None], RATE)[0]
    differences = []
    for rate_hz in OTHER_RATES:
        other = enhancer.enhance(resampled(noisy, RATE, rate_hz)[None], rate_hz)[0]
        low = min(rate_hz, RATE)
        signals = (resampled(clean, RATE, low), resampled(other, rate_hz, low), resampled(usual, RATE, low))
        differences.append(score(sdr, signals[0], signals[1]) - score(sdr, signals[0], signals[2]))
    return differences


def frame_levels_db(samples: np.ndarray) -> np.ndarray:
    """Levels of frames of 16 ms."""
    frames = samples[: len(samples) // HOP * HOP].reshape(-1, HOP)
    return 10 * np.log10(np.mean(frames.astype(np.float64) ** 2, 1) + 1e-12)


def kurtosis(samples: np.ndarray) -> float:
    """Of the power spectrum over time and frequency: isolated peaks, which musical noise is made of, raise it."""
    power = np.abs(StftPair(HOP).analysis(samples)[1:].astype(np.complex128)) ** 2
    return float(np.mean(power**4) / np.mean(power**2) ** 2)


def noise_alone(enhancer, noise: np.ndarray) -> tuple[float, float, float]:
    """Change of level in dB; that of the frame that is attenuated least; log kurtosis ratio, Uemura et al. 2008."""
    out = enhancer.enhance(noise[None], RATE)[0]
    change_db = frame_levels_db(out) - frame_levels_db(noise)
    return 20 * np.log10(rms(out) / rms(noise)), change_db.max(), np.log(kurtosis(out) / kurtosis(noise))


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("clean")
    arguments.add_argument("noisy")
    arguments.add_argument("--model")
    arguments.add_argument("--every", type=int, default=6)
    given = arguments.parse_args()
    enhancer, draw = load_enhancer(given.model, "cpu"), np.random.default_rng(0)
    pairs = [[decode(p, RATE) for p in pair] for pair in pair_folders(given.clean, given.noisy)[:: given.every]]
    print(f"{len(pairs)} files of {given.clean}")

    names = ("clean speech", "speech at 40 dB SNR")
    kept, levels_db = {name + part: [] for name in names for part in ("", f" above {RUMBLE_HZ} Hz")}, []
    for clean, _ in pairs:
        noise = scale_to_snr(clean, draw.standard_normal(len(clean)).astype(np.float32), 40)
        for name, samples in zip(names, (clean, clean + noise)):
            out = enhancer.enhance(samples[None], RATE)[0]
            kept[name].append(score(si_sdr, clean, out))
            kept[f"{name} above {RUMBLE_HZ} Hz"].append(score(si_sdr, without_rumble(clean), without_rumble(out)))
        levels_db.append(20 * np.log10(rms(out) / rms(clean)))
    for name, values in kept.items():
        print(f"{name}: SI-SDR kept {np.mean(values):.1f} dB, at worst {min(values):.1f} dB")
    print(f"level of speech at 40 dB SNR: {np.mean(levels_db):+.2f} dB, at most {max(map(abs, levels_db)):.2f} dB away")

    levels, loudest, ratios = zip(*(noise_alone(enhancer, noisy - clean) for clean, noisy in pairs))
    print(
        f"noise alone: {np.mean(levels):.1f} dB, at least {max(levels):.1f} dB; no frame of 16 ms by more than"
        f" {max(loudest):+.1f} dB; log kurtosis ratio {np.mean(ratios):.1f}, at most {max(ratios):.1f}"
    )

    noise = 0.01 * draw.standard_normal((1, 600 * RATE)).astype(np.float32)
    out = enhancer.enhance(noise, RATE)
    parts = [slice(RATE, 6 * RATE), slice(-5 * RATE, None)]
    first, last = (20 * np.log10(rms(out[:, part]) / rms(noise[:, part])) for part in parts)
    print(f"ten minutes of white noise: {first:.1f} dB in the first seconds, {last:.1f} dB in the last five")
    silence = enhancer.enhance(np.zeros((1, 60 * RATE), np.float32), RATE)
    print(f"a minute of silence: loudest sample {np.abs(silence).max()}")

    differences = np.array([across_rates(enhancer, *pair) for pair in pairs])
    for rate_hz, mean, worst in zip(OTHER_RATES, differences.mean(0), np.abs(differences).max(0)):
        print(f"{rate_hz} Hz: SDR {mean:+.2f} dB against {RATE} Hz, at most {worst:.2f} dB away")


if __name__ == "__main__":
    main()
