"""Short scenes in which an enhancer may fail, and the number that matters in each.

    python docs/research/scenes/scenes.py build CORPUS FOLDER
    python docs/research/scenes/scenes.py score FOLDER SYSTEM=ESTIMATES ... > docs/research/scenes/scenes.csv
    python docs/research/scenes/scenes.py table

`build` writes FOLDER/noisy and FOLDER/clean (what should be left) from CORPUS/dev and from synthesis, with fixed seeds.
`score` measures the recordings of every folder ESTIMATES, and those of FOLDER/noisy themselves. `table` fills in the
table of index.md from scenes.csv.
"""

import csv
import io
import re
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import librosa
import numpy as np
import soundfile
from scipy import signal

from deepnmf_cli.checkpoint import atomic_path
from deepnmf_cli.scoring.sdr import si_sdr

HERE = Path(__file__).resolve().parent
RATE_HZ = 16000
RMS = 0.05
"""Level of speech, -26 dB of full scale."""

Measure = Callable[[np.ndarray, np.ndarray, np.ndarray, int], float]
"""(output, input, what should be left, rate): arrays (n, channels)."""


def fidelity(out: np.ndarray, noisy: np.ndarray, clean: np.ndarray, rate_hz: int) -> float:
    """SI-SDR in dB, the mean over channels."""
    return float(np.mean([si_sdr(*pair) for pair in zip(clean.T, out.T, strict=True)]))


def level(out, noisy, clean, rate_hz, span_s=(0, None), above_hz=0.0) -> float:
    """Level of the output less that of the input in dB, in a span of time and above a frequency."""
    start, end = (None if second is None else round(second * rate_hz) for second in span_s)
    parts = [out, noisy]
    if above_hz:
        filters = signal.butter(6, above_hz, "highpass", fs=rate_hz, output="sos")
        parts = [signal.sosfiltfilt(filters, part, axis=0) for part in parts]
    energies = [float((part[start:end] ** 2).sum()) for part in parts]
    return 10 * np.log10(max(energies[0], 1e-12 * energies[1]) / energies[1])


def peak(out, noisy, clean, rate_hz) -> float:
    """Peak of the output in dB of full scale, -120 at least."""
    return 20 * np.log10(max(np.abs(out).max(), 1e-6))


class Material:
    """Speech and noise of the dev mixtures, of one level each."""

    def __init__(self, corpus: Path) -> None:
        self.dev = corpus / "dev"
        with (self.dev / "mixtures.csv").open(newline="", encoding="utf-8") as file:
            self.rows = list(csv.DictReader(file))
        self.speakers = sorted({row["speaker"] for row in self.rows})

    def read(self, folder: str, name: str) -> np.ndarray:
        return soundfile.read(self.dev / folder / f"{name}.flac")[0]

    def speech(self, which: int, seconds: float = 8) -> np.ndarray:
        """Clean recordings of a speaker, one after the other."""
        speaker = self.speakers[which % len(self.speakers)]
        names = [row["name"] for row in self.rows if row["speaker"] == speaker]
        joined = np.concatenate([self.read("clean", name) for name in names])
        return scaled(np.resize(joined, round(seconds * RATE_HZ)))

    def noise(self, which: str, seconds: float = 8) -> np.ndarray:
        """A noise recording, by a part of its name."""
        name = next(row["name"] for row in self.rows if which in row["noise"])
        return scaled(np.resize(self.read("noisy", name) - self.read("clean", name), round(seconds * RATE_HZ)))


def scaled(samples: np.ndarray) -> np.ndarray:
    return samples * RMS / np.sqrt(np.mean(samples**2))


def mixed(speech: np.ndarray, noise: np.ndarray, snr_db: float) -> np.ndarray:
    return speech + scaled(noise) * np.sqrt(np.mean(speech**2)) / RMS * 10 ** (-snr_db / 20)


def white(seconds: float = 8, seed: int = 0) -> np.ndarray:
    return scaled(np.random.default_rng(seed).standard_normal(round(seconds * RATE_HZ)))


def tone(hz: np.ndarray, partials: int, tilt: float = 1.0) -> np.ndarray:
    """Harmonics of a frequency (n,) that may move, falling as 1 / k ** tilt, none above 7 kHz."""
    phase = 2 * np.pi * np.cumsum(hz) / RATE_HZ
    return scaled(sum(np.sin(k * phase) * (k * hz < 7000) / k**tilt for k in range(1, partials + 1)))


def times(seconds: float) -> np.ndarray:
    return np.arange(round(seconds * RATE_HZ)) / RATE_HZ


def vowel(hz: float, seconds: float = 6) -> np.ndarray:
    """A held [a] as of a voice: vibrato, jitter, four formants; half a second of quiet before it."""
    draw = np.random.default_rng(round(hz))
    wander = signal.lfilter([0.002], [1, -0.998], draw.standard_normal(round(seconds * RATE_HZ)))
    voice = tone(hz * (1 + 0.005 * np.sin(2 * np.pi * 5 * times(seconds)) + 0.2 * wander), 40)
    for formant_hz, width_hz in ((700, 90), (1220, 110), (2600, 160), (3500, 250)):
        radius = np.exp(-np.pi * width_hz / RATE_HZ)
        poles = [1, -2 * radius * np.cos(2 * np.pi * formant_hz / RATE_HZ), radius**2]
        voice = signal.lfilter([sum(poles)], poles, voice)
    return after_quiet(scaled(voice))


def after_quiet(samples: np.ndarray) -> np.ndarray:
    """Half a second before it, and a floor of -70 dB everywhere, since recordings have one."""
    fade = np.minimum(1, np.arange(len(samples)) / 400)
    return (
        np.concatenate([np.zeros(RATE_HZ // 2), fade * samples]) + 3e-4 * white(len(samples) / RATE_HZ + 0.5, 9) / RMS
    )


def prolonged(speech: np.ndarray, seconds: float = 5) -> np.ndarray:
    """The loudest 150 ms of speech held by a phase vocoder."""
    size = round(0.15 * RATE_HZ)
    loud = np.argmax(signal.fftconvolve(speech**2, np.ones(size), "valid"))
    held = librosa.effects.time_stretch(speech[loud : loud + size], rate=0.15 / seconds, n_fft=512)
    return after_quiet(scaled(held))


def whispered(speech: np.ndarray) -> np.ndarray:
    """Noise through the linear prediction of speech, frame by frame."""
    size, hop = 512, 256
    window, draw, out = signal.get_window("hann", size), np.random.default_rng(4), np.zeros(len(speech) + size)
    for start in range(0, len(speech) - size, hop):
        frame = speech[start : start + size] * window
        if np.sqrt(np.mean(frame**2)) < 1e-4:
            continue
        coefficients = librosa.lpc(frame + 1e-6 * draw.standard_normal(size), order=18)
        breath = signal.lfilter([1], coefficients, draw.standard_normal(size)) * window
        out[start : start + size] += breath * np.sqrt(np.sum(frame**2) / np.sum(breath**2))
    return scaled(signal.lfilter([1, -0.7], [1], out[: len(speech)]))


def room(seconds: float, seed: int) -> np.ndarray:
    """Direct sound and exponentially decaying noise of a reverberation time, 6 dB below it in sum."""
    tail = np.random.default_rng(seed).standard_normal(round(seconds * RATE_HZ)) * 10 ** (-3 * times(seconds) / seconds)
    tail[: round(0.004 * RATE_HZ)] = 0
    return np.concatenate([[1], 0.5 * tail / np.sqrt(np.sum(tail**2))])


def coded(samples: np.ndarray) -> np.ndarray:
    """What MP3 leaves at about 32 kbit/s."""
    memory = io.BytesIO()
    soundfile.write(memory, samples, RATE_HZ, format="MP3", compression_level=0.9)
    memory.seek(0)
    decoded = soundfile.read(memory)[0]
    return np.pad(decoded, (0, max(0, len(samples) - len(decoded))))[: len(samples)]


def music(seconds: float = 8) -> np.ndarray:
    """Plucked chords of three notes, four a second."""
    draw, out = np.random.default_rng(5), np.zeros(round(seconds * RATE_HZ))
    for start in range(0, len(out), RATE_HZ // 4):
        for hz in 220 * 2 ** (draw.choice([0, 2, 4, 7, 9, 12], 3) / 12):
            note = tone(np.full(RATE_HZ, hz), 8) * np.exp(-4 * times(1))
            out[start : start + RATE_HZ] += note[: len(out) - start]
    return scaled(out)


def clicks(seconds: float = 8) -> np.ndarray:
    """Knocks: five a second, each a decaying resonance."""
    draw, out = np.random.default_rng(6), np.zeros(round(seconds * RATE_HZ))
    out[draw.integers(0, len(out), round(5 * seconds))] = draw.uniform(0.3, 1, round(5 * seconds))
    return scaled(signal.lfilter([1], [1, -1.6, 0.9], out))


def sibilants(speech: np.ndarray) -> np.ndarray:
    """Speech at 48 kHz, whose band from 4 to 8 kHz sets the level of noise from 8 to 16 kHz."""
    at_48 = signal.resample_poly(speech, 3, 1)
    high = signal.sosfiltfilt(signal.butter(6, 4000, "highpass", fs=48000, output="sos"), at_48)
    envelope = np.sqrt(signal.fftconvolve(high**2, np.ones(480) / 480, "same").clip(0))
    noise = np.random.default_rng(7).standard_normal(len(at_48))
    band = signal.sosfiltfilt(signal.butter(6, (8000, 16000), "bandpass", fs=48000, output="sos"), noise)
    return at_48 + 1.7 * envelope * band


def telephone(samples: np.ndarray) -> np.ndarray:
    return signal.sosfiltfilt(signal.butter(6, (300, 3400), "bandpass", fs=RATE_HZ, output="sos"), samples)


def scenes(m: Material) -> dict[str, tuple[str, np.ndarray, np.ndarray | None, int]]:
    """Name -> what it is, input, what should be left (None: nothing, or the input), rate."""
    talk, other, street = m.speech(0), m.speech(3), m.noise("busy-street")
    noisy = mixed(talk, street, 6)
    half, limit = 4 * RATE_HZ, np.abs(noisy).max() / 5
    siren = tone(900 + 300 * signal.sawtooth(2 * np.pi * 0.5 * times(8), 0.5), 6)
    hum = tone(np.full(8 * RATE_HZ, 50.0), 30)
    whisper, small, large = (
        whispered(talk),
        *(signal.fftconvolve(talk, room(t60_s, 8))[: len(talk)] for t60_s in (0.3, 0.9)),
    )
    rows = {
        "clean": ("clean speech", talk, talk),
        "noisy-40dB": ("white noise at 40 dB", mixed(talk, white(), 40), talk),
        "quiet": ("a street at 6 dB, everything at -76 dB", noisy / 300, talk / 300),
        "white": ("white noise at 0 dB", mixed(talk, white(), 0), talk),
        "street": ("a street at 6 dB", noisy, talk),
        "clipped": ("the same, clipped at a fifth of its peak", noisy.clip(-limit, limit), talk),
        "telephone": ("the same, 300 to 3400 Hz", telephone(noisy), telephone(talk)),
        "mp3": ("the same after MP3 at 32 kbit/s", coded(noisy), talk),
        "mp3-clean": ("clean speech after MP3 at 32 kbit/s", coded(talk), coded(talk)),
        "music": ("a bed of plucked chords at 6 dB", mixed(talk, music(), 6), talk),
        "crowd": ("six voices at 6 dB", mixed(talk, sum(m.speech(k) for k in range(1, 7)), 6), talk),
        "two-talkers": ("two voices of equal level", talk + other, talk + other),
        "knocks": ("knocks at 6 dB", mixed(talk, clicks(), 6), talk),
        "hum": ("mains hum of 50 Hz alone", hum, None),
        "hum-speech": ("mains hum at 0 dB", mixed(talk, hum, 0), talk),
        "siren": ("a siren alone", siren, None),
        "siren-speech": ("a siren at 0 dB", mixed(talk, siren, 0), talk),
        "noise": ("the street alone", street, None),
        "silence": ("digital silence", np.zeros(8 * RATE_HZ), None),
        "vowel-120": ("a synthetic vowel of 120 Hz, held", vowel(120), None),
        "vowel-210": ("a synthetic vowel of 210 Hz, held", vowel(210), None),
        "vowel-330": ("a synthetic vowel of 330 Hz, held", vowel(330), None),
        "vowel-real": ("a spoken vowel, held by a phase vocoder", prolonged(talk), None),
        "slow": ("speech three times slower", librosa.effects.time_stretch(talk[:half], rate=1 / 3), None),
        "whisper": ("whispered speech, a street at 6 dB", mixed(whisper, street, 6), whisper),
        "whisper-35dB": ("whispered speech, a street at 35 dB", mixed(whisper, street, 35), whisper),
        "far": ("a voice 30 dB below the one before", np.concatenate([talk[:half], other[:half] / 31.6]), None),
        "room-small": ("a room of 0.3 s, a street at 6 dB", mixed(small, street, 6), small),
        "room-large": ("a hall of 0.9 s, a street at 6 dB", mixed(large, street, 6), large),
    }  # fmt: skip
    found = {name: (*row, RATE_HZ) for name, row in rows.items()}
    pair = np.stack([noisy, mixed(talk, white(), 3)], 1)
    found["stereo"] = ("two channels: a street at 6 dB, white noise at 3 dB", pair, np.stack([talk, talk], 1), RATE_HZ)
    wide = sibilants(talk)
    found["sibilants"] = ("speech at 48 kHz with sibilants up to 16 kHz", wide, None, 48000)
    hiss = 0.1 * scaled(np.random.default_rng(3).standard_normal(len(wide)))
    found["sibilants-noisy"] = ("the same in white noise at 20 dB", wide + hiss, wide, 48000)
    halves = (signal.resample_poly(samples, 1, 2) for samples in (noisy, talk))
    found["8-khz"] = ("a street at 6 dB, at 8 kHz", *halves, 8000)
    return found


KEPT, REMOVED = "higher", "lower"
"""Whether speech should be kept, or noise removed."""

HELD = {
    "level, 1-2 s": (partial(level, span_s=(1.5, 2.5)), KEPT),
    "level, 4-5 s": (partial(level, span_s=(4.5, 5.5)), KEPT),
}
MEASURES: dict[str, dict[str, tuple[Measure, str]]] = {
    **{name: {"level": (level, REMOVED)} for name in ("hum", "siren", "noise")},
    "silence": {"peak": (peak, REMOVED)},
    **{f"vowel-{kind}": HELD for kind in ("120", "210", "330", "real")},
    "slow": {"level": (level, KEPT)},
    "far": {"level of the second": (partial(level, span_s=(4, None)), KEPT)},
    "sibilants": {"level above 8 kHz": (partial(level, above_hz=8500), KEPT)},
}
"""Scene -> measure -> how, and which way is better; SI-SDR for the others."""


def build(corpus: Path, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "scenes.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["scene", "what"])
        for name, (what, noisy, clean, rate_hz) in scenes(Material(corpus)).items():
            table.writerow([name, what])
            for part, samples in (("noisy", noisy), ("clean", noisy if clean is None else clean)):
                (folder / part).mkdir(exist_ok=True)
                soundfile.write(folder / part / f"{name}.wav", samples, rate_hz, "FLOAT")


def score(folder: Path, systems: dict[str, Path]) -> None:
    rows = csv.writer(sys.stdout, lineterminator="\n")
    rows.writerow(["scene", "what", "measure", "better", "system", "db"])
    with (folder / "scenes.csv").open(newline="", encoding="utf-8") as file:
        found = [(row["scene"], row["what"]) for row in csv.DictReader(file)]
    for name, what in found:
        noisy, rate_hz = soundfile.read(folder / "noisy" / f"{name}.wav", always_2d=True)
        clean = soundfile.read(folder / "clean" / f"{name}.wav", always_2d=True)[0]
        for measure, (compute, better) in MEASURES.get(name, {"SI-SDR": (fidelity, KEPT)}).items():
            for system, estimates in {"input": folder / "noisy", **systems}.items():
                out = soundfile.read(estimates / f"{name}.wav", always_2d=True)[0]
                rows.writerow([name, what, measure, better, system, f"{compute(out, noisy, clean, rate_hz):.2f}"])


def table() -> None:
    """Put the table of scenes.csv between the marks of index.md; the best of each row is bold."""
    with (HERE / "scenes.csv").open(newline="", encoding="utf-8") as file:
        found = list(csv.DictReader(file))
    systems = list(dict.fromkeys(row["system"] for row in found))
    lines = [f"| scene | in dB | {' | '.join(systems)} |", f"|---|---|{'---:|' * len(systems)}"]
    for key in dict.fromkeys((row["what"], row["measure"], row["better"]) for row in found):
        values = {
            row["system"]: float(row["db"]) for row in found if (row["what"], row["measure"], row["better"]) == key
        }
        best = (max if key[2] == KEPT else min)(value for system, value in values.items() if system != "input")
        cells = [f"**{v:.1f}**" if v == best and s != "input" else f"{v:.1f}" for s, v in values.items()]
        lines.append(f"| {key[0]} | {key[1]}, {key[2]} | {' | '.join(cells)} |")
    page = HERE / "index.md"
    text = re.sub(
        r"(<!-- scenes -->\n).*?(\n<!-- end -->)",
        rf"\g<1>{chr(10).join(lines)}\g<2>",
        page.read_text("utf-8"),
        flags=re.DOTALL,
    )
    with atomic_path(page) as partial_page:
        partial_page.write_text(text, "utf-8")


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["build", corpus, folder]:
            build(Path(corpus), Path(folder))
        case ["score", folder, *named]:
            score(Path(folder), {name: Path(path) for name, path in (one.split("=", 1) for one in named)})
        case ["table"]:
            table()
        case _:
            sys.exit(__doc__)
