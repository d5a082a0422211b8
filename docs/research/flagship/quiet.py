"""What a model leaves in pauses, keeps of quiet ends of words, and does with vowels and tones that are held.

    python docs/research/flagship/quiet.py CLEAN NOISY MODEL|FOLDER ... [--every 5]

CLEAN and NOISY are folders of equal names at 16 kHz; every n-th file is used. A model is a name or file; a folder holds
what another program made of NOISY, and has no columns of sustained sounds and whispers. Prints a row of a Markdown
table for each.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from pesq import pesq
from pystoi import stoi
from scipy.signal import lfilter

from deepnmf_cli import load_enhancer
from deepnmf_cli.corpus.clips import decode
from deepnmf_cli.corpus.manifest import pair_folders
from deepnmf_cli.corpus.mixing import scale_to_snr
from deepnmf_cli.corpus.voice import held
from deepnmf_cli.scoring.dnsmos import NAMES, dnsmos_score
from deepnmf_cli.scoring.sdr import si_sdr

sys.path.append(str(Path(__file__).resolve().parents[1] / "scenes"))
from scenes import whispered  # which lies beside another script

RATE = 16000
FRAME = 256
"""Frames of 16 ms."""
MARGIN = 6
"""Frames on either side of speech that do not count as pauses: 0.1 s."""
ENDS_DB = (-35, -25)
"""Levels of frames below the loudest one that quiet ends of words have."""
PITCHES_HZ = (120, 210, 330)
COLUMNS = ("SI-SDR", "PESQ", "ESTOI", "pauses: mean of frames", "pauses: energy", "ends kept", "SIG", "BAK", "OVRL")
HELD_COLUMNS = ("real vowels at 1-2 s", "at 3-4 s", *(f"vowel of {f} Hz at 1-2 s" for f in PITCHES_HZ), "hum", "siren")
WHISPERS_DB = (6, 30)
WHISPER_COLUMNS = tuple(f"SI-SDR of whispers at {snr_db} dB" for snr_db in WHISPERS_DB)
MORE_COLUMNS = HELD_COLUMNS + WHISPER_COLUMNS

Enhance = Callable[[np.ndarray], np.ndarray]


def powers(samples: np.ndarray) -> np.ndarray:
    """Mean powers of frames."""
    frames = samples[: len(samples) // FRAME * FRAME].reshape(-1, FRAME).astype(np.float64)
    return np.mean(frames**2, 1) + 1e-12


def pauses(clean: np.ndarray, noisy: np.ndarray) -> np.ndarray:
    """Frames whose clean speech lies 45 dB below the mean and 15 dB below the mixture, away from speech."""
    speech = ~((clean < 10**-4.5 * clean.mean()) & (clean < 10**-1.5 * noisy))
    return np.convolve(speech, np.ones(2 * MARGIN + 1), "same") == 0


def scores(clean: np.ndarray, noisy: np.ndarray, out: np.ndarray) -> list[float]:
    """COLUMNS of one file; NaN where it has no pauses."""
    before, after, true = powers(noisy), powers(out), powers(clean)
    quiet = pauses(true, before)
    left = [np.nan, np.nan]
    if quiet.any():
        ratios = 10 * np.log10(after[quiet] / before[quiet])
        left = [-ratios.mean(), -10 * np.log10(after[quiet].sum() / before[quiet].sum())]
    level = 10 * np.log10(true / true.max())
    ends = np.repeat((level > ENDS_DB[0]) & (level < ENDS_DB[1]), FRAME)
    speech, estimate = clean[: len(ends)][ends], out[: len(ends)][ends]
    kept = float(np.dot(speech, estimate) / np.dot(speech, speech)) if ends.any() else np.nan
    listened = [dnsmos_score(out, RATE, name) for name in NAMES]
    return [si_sdr(clean, out), pesq(RATE, clean, out, "wb"), stoi(clean, out, RATE, True), *left, kept, *listened]


def level_db(
    enhance: Enhance, sound: np.ndarray, noise: np.ndarray, first_s: float, last_s: float, at: int = 0
) -> float:
    """Level of the output from `first_s` to `last_s` after the sample `at`, less that of `sound`."""
    part = slice(at + round(first_s * RATE), at + round(last_s * RATE))
    out, true = enhance((sound + noise).astype(np.float32))[part], sound[part]
    return 10 * np.log10(powers(out).sum() / (powers(true).sum()))


def sung(pitch_hz: float, seconds: float, draw: np.random.Generator) -> np.ndarray:
    """The vowel of "father" by source and filter: with vibrato of 5 Hz and 3 %, jitter, a wavering level."""
    time = np.arange(int(seconds * RATE)) / RATE
    wander = np.convolve(draw.standard_normal(len(time)), np.hanning(RATE // 4), "same")
    wander *= 0.01 / wander.std()
    phase = np.cumsum(pitch_hz * (1 + 0.03 * np.sin(2 * np.pi * 5 * time) + wander)) / RATE
    source = np.diff(np.floor(phase), prepend=0)
    for centre, width in ((700, 90), (1220, 110), (2600, 160), (3300, 250)):
        radius, angle = np.exp(-np.pi * width / RATE), 2 * np.pi * centre / RATE
        source = lfilter([1 - radius], [1, -2 * radius * np.cos(angle), radius**2], source)
    sound = lfilter([1, -0.97], [1], source) * (1 + 0.15 * np.sin(2 * np.pi * 4.3 * time + 1) + 20 * wander)
    return 0.05 * sound / sound.std()


def tones(seconds: float) -> tuple[np.ndarray, np.ndarray]:
    """A hum of 210 Hz with harmonics, and a siren that sweeps from 600 to 1200 Hz and back in 2 s."""
    time = np.arange(int(seconds * RATE)) / RATE
    hum = sum(np.sin(2 * np.pi * 210 * k * time) / k for k in range(1, 8))
    sweep = 2 * np.pi * np.cumsum(900 + 300 * np.sin(np.pi * time)) / RATE
    siren = np.sin(sweep) + 0.5 * np.sin(2 * sweep) + 0.25 * np.sin(3 * sweep)
    return 0.05 * hum / hum.std(), 0.05 * siren / siren.std()


def held_columns(enhance: Enhance, clips: list[np.ndarray]) -> list[float]:
    """HELD_COLUMNS in dB: vowels of recorded speech prolonged as in training, synthetic ones, tones."""
    draw = np.random.default_rng(0)
    early, late = [], []
    for clip in clips:
        clip = np.pad(clip, (0, 5 * RATE))
        long = held(clip, draw, RATE, (4.5, 4.6))
        start = int(np.argmax(long != clip))
        noise = 0.001 * draw.standard_normal(len(long))
        early.append(level_db(enhance, long, noise, 1, 2, start))
        late.append(level_db(enhance, long, noise, 3, 4, start))
    vowels = []
    for pitch_hz in PITCHES_HZ:
        sound = sung(pitch_hz, 6, draw)
        vowels.append(level_db(enhance, sound, 0.002 * draw.standard_normal(len(sound)), 1, 2))
    still = [level_db(enhance, sound, np.zeros(len(sound)), 2, 6) for sound in tones(6)]
    return [np.mean(early), np.mean(late), *vowels, *still]


def whisper_columns(enhance: Enhance, pairs: list[list[np.ndarray]]) -> list[float]:
    """WHISPER_COLUMNS in dB: speech whispered by linear prediction, unlike in training, in the noise of its file."""
    found = []
    for clean, noisy in pairs:
        whisper = whispered(clean).astype(np.float32)
        mixtures = [whisper + scale_to_snr(whisper, noisy - clean, snr_db) for snr_db in WHISPERS_DB]
        found.append([si_sdr(whisper, enhance(mixture)) for mixture in mixtures])
    return list(np.mean(found, 0))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clean")
    parser.add_argument("noisy")
    parser.add_argument("systems", nargs="+")
    parser.add_argument("--every", type=int, default=5)
    given = parser.parse_args()
    names = pair_folders(given.clean, given.noisy)[:: given.every]
    pairs = [[decode(path, RATE) for path in pair] for pair in names]
    print(f"{len(pairs)} files of {given.clean}\n\n| system | " + " | ".join((*COLUMNS, *MORE_COLUMNS)) + " |")
    print("|---" * (len(COLUMNS) + len(MORE_COLUMNS) + 1) + "|")
    for system in given.systems:
        if Path(system).is_dir() and not (Path(system) / "model.safetensors").exists():
            outputs = [decode(Path(system) / Path(noisy).name, RATE) for _, noisy in names]
            extra = [np.nan] * len(MORE_COLUMNS)
        else:
            enhancer = load_enhancer(system, "cpu")

            def enhance(samples: np.ndarray, enhancer=enhancer) -> np.ndarray:
                return enhancer.enhance(samples[None], RATE)[0]

            outputs = [enhance(noisy) for _, noisy in pairs]
            extra = held_columns(enhance, [clean for clean, _ in pairs[:20]]) + whisper_columns(enhance, pairs)
        rows = [scores(clean, noisy, out[: len(clean)]) for (clean, noisy), out in zip(pairs, outputs)]
        means = [*np.nanmean(rows, 0), *extra]
        cells = ["" if np.isnan(value) else f"{value:.3g}" for value in means]
        print(f"| {system} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
