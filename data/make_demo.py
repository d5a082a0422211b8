"""Make the demo clips `data/demo/clean.wav` and `data/demo/noisy.wav` from nothing but synthesis.

    python data/make_demo.py [FOLDER]

Two sentences spoken by espeak-ng's formant voices, in a small room, beside a busy street in the rain, a fan running.
Needs the program espeak-ng; the committed files were made with version 1.51. Everything else is drawn from one seed, so
the same versions of espeak-ng and NumPy make the same bytes.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import soundfile

RATE_HZ = 16000
DURATION_S = 7.5
SNR_DB = 2.0
PEAK_DBFS = -6.0
SEED = 20

SENTENCES = (
    # (start in seconds, voice, words per minute, pitch 0..99, text)
    (0.6, "en-gb-x-rp", 155, 38, "Good morning. The harbour is loud today."),
    (4.4, "en-us+f2", 155, 55, "Let us walk on, and talk about the music."),
)

NOISE_LEVELS_DB = {"street": 0.0, "car": -4.0, "rain": -6.0, "fan": -7.0, "clicks": -13.0}
"""Power of each part of the noise relative to the street's rumble."""


def speak(voice: str, words_per_minute: int, pitch: int, text: str) -> np.ndarray:
    """One sentence of espeak-ng at RATE_HZ, at unit power."""
    with tempfile.TemporaryDirectory() as folder:
        spoken = Path(folder) / "speech.wav"
        options = ["-v", voice, "-s", str(words_per_minute), "-p", str(pitch), "-w", str(spoken)]
        subprocess.run(["espeak-ng", *options, text], check=True)
        samples, rate_hz = soundfile.read(spoken)
    return unit_power(resample(samples, rate_hz))


def resample(samples: np.ndarray, rate_hz: int) -> np.ndarray:
    """Samples (N,) brought to RATE_HZ by cutting or padding their spectrum: ideal where both ends are silent."""
    # Whole seconds turn into whole numbers of samples at both rates.
    seconds = -(-len(samples) // rate_hz)
    spectrum = np.fft.rfft(samples, seconds * rate_hz)
    return np.fft.irfft(spectrum, seconds * RATE_HZ) * RATE_HZ / rate_hz


def unit_power(samples: np.ndarray) -> np.ndarray:
    return samples / np.sqrt(np.mean(samples**2))


def room_response(rng: np.random.Generator) -> np.ndarray:
    """A furnished room of 0.25 s reverberation time: direct path, four early reflections, a diffuse tail 9 dB below."""
    reverberation_s = 0.25
    time_s = np.arange(int(reverberation_s * RATE_HZ)) / RATE_HZ
    tail = rng.standard_normal(time_s.size) * 10 ** (-3 * time_s / reverberation_s)
    tail[time_s < 0.004] = 0
    response = tail * 10 ** (-9 / 20) / np.sqrt(np.sum(tail**2))
    for delay_s, gain in ((0.0, 1.0), (0.0031, 0.35), (0.0057, -0.25), (0.0083, 0.22), (0.0127, 0.15)):
        response[round(delay_s * RATE_HZ)] += gain
    return response


def make_speech(rng: np.random.Generator) -> np.ndarray:
    """Both sentences in the room, shape (DURATION_S * RATE_HZ,)."""
    length = int(DURATION_S * RATE_HZ)
    dry = np.zeros(2 * length)
    for start_s, voice, words_per_minute, pitch, text in SENTENCES:
        sentence = speak(voice, words_per_minute, pitch, text)
        start = round(start_s * RATE_HZ)
        dry[start : start + sentence.size] = sentence
    return np.convolve(dry, room_response(rng))[:length]


def coloured(rng: np.random.Generator, gain_of_hz) -> np.ndarray:
    """Gaussian noise of the demo's length whose spectrum follows `gain_of_hz(frequencies)`, at unit power."""
    length = int(DURATION_S * RATE_HZ)
    spectrum = np.fft.rfft(rng.standard_normal(length))
    return unit_power(np.fft.irfft(spectrum * gain_of_hz(np.fft.rfftfreq(length, 1 / RATE_HZ)), length))


def swell(rng: np.random.Generator, fastest_hz: float, depth: float) -> np.ndarray:
    """A slow random change of loudness: positive, mean about 1."""
    return np.exp(depth * coloured(rng, lambda hz: hz < fastest_hz))


def bursts(rng: np.random.Generator, starts: np.ndarray, low_hz: float, high_hz: float, decay_s: float) -> np.ndarray:
    """Short decaying resonances of random pitch and loudness, one at each of `starts` (sample positions)."""
    length = int(DURATION_S * RATE_HZ)
    time_s = np.arange(int(8 * decay_s * RATE_HZ)) / RATE_HZ
    samples = np.zeros(length + time_s.size)
    for start in starts:
        hz = np.exp(rng.uniform(np.log(low_hz), np.log(high_hz)))
        envelope = np.exp(-time_s / (decay_s * rng.uniform(0.5, 1.5))) * rng.exponential()
        samples[start : start + time_s.size] += envelope * np.sin(2 * np.pi * hz * time_s)
    return unit_power(samples[:length])


def make_noise(rng: np.random.Generator) -> np.ndarray:
    """The place: street, one passing car, rain, a fan and a few clicks, shape (DURATION_S * RATE_HZ,)."""
    length = int(DURATION_S * RATE_HZ)
    time_s = np.arange(length) / RATE_HZ

    street = coloured(rng, lambda hz: (hz > 30) / (1 + (hz / 180) ** 1.1)) * swell(rng, 1.5, 0.3)
    tyres = coloured(rng, lambda hz: np.exp(-0.5 * (np.log2(np.maximum(hz, 1) / 900) / 1.1) ** 2))
    car = tyres / (1 + ((time_s - 3.3) / 0.7) ** 2)

    hiss = coloured(rng, lambda hz: hz**2 / (hz**2 + 2500**2)) * swell(rng, 3, 0.15)
    drops = bursts(rng, np.flatnonzero(rng.random(length) < 250 / RATE_HZ), 1800, 6500, 0.002)
    rain = hiss + 0.7 * drops

    # A fan: harmonics of the blade rate, which wanders by a few per mille, in a stream of air.
    blade_phase = 2 * np.pi * np.cumsum(117 * swell(rng, 1, 0.003)) / RATE_HZ
    blades = sum(np.sin(order * blade_phase + rng.uniform(0, 6)) / order for order in range(1, 9))
    air = coloured(rng, lambda hz: hz / (hz**2 + 500**2))
    fan = unit_power(blades) + air

    clicks = bursts(rng, (np.array([0.25, 1.9, 2.05, 4.1, 5.6, 6.9]) * RATE_HZ).astype(int), 1200, 3500, 0.012)
    parts = {"street": street, "car": car, "rain": rain, "fan": fan, "clicks": clicks}
    return sum(unit_power(part) * 10 ** (NOISE_LEVELS_DB[name] / 20) for name, part in parts.items())


def make_demo() -> tuple[np.ndarray, np.ndarray]:
    """(clean, noisy), shape (DURATION_S * RATE_HZ,) each: noisy = clean + noise, at SNR_DB and PEAK_DBFS."""
    rng = np.random.default_rng(SEED)
    clean = unit_power(make_speech(rng))
    noisy = clean + unit_power(make_noise(rng)) * 10 ** (-SNR_DB / 20)
    gain = 10 ** (PEAK_DBFS / 20) / np.abs(noisy).max()
    return gain * clean, gain * noisy


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "demo"
    folder.mkdir(parents=True, exist_ok=True)
    for name, samples in zip(("clean", "noisy"), make_demo()):
        soundfile.write(folder / f"{name}.wav", np.round(samples * 32768).astype(np.int16), RATE_HZ, subtype="PCM_16")


if __name__ == "__main__":
    main()
