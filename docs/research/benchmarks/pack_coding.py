"""What the codings of a pack cost: bits, the PESQ of speech, and the level above 4 kHz, compared with the originals.

    python docs/research/benchmarks/pack_coding.py SPEECH NOISE [--files 12]

SPEECH and NOISE are folders of clean speech and of a noise with treble, such as rain, at 16 kHz; files are evenly
spread. White noise is coded as well. Each coding is tried at several quality settings of libsndfile.
"""

import argparse
import io
from pathlib import Path

import numpy as np
import soundfile

from deepnmf_cli.corpus.clips import decode
from deepnmf_cli.corpus.manifest import scan
from deepnmf_cli.corpus.pack import CODINGS, SHARES
from deepnmf_cli.scoring.perceptual import pesq_score

RATE_HZ, TREBLE_HZ = 16000, 4000
LEVELS = (0.97, 0.93, 0.9, 0.8, 0.6, 0.4)
"""Settings of libsndfile, from small files to large ones."""


def coded(samples: np.ndarray, settings: dict) -> tuple[float, np.ndarray]:
    """Return kbit/s and what comes back."""
    file = io.BytesIO()
    soundfile.write(file, samples, RATE_HZ, **settings)
    kbits = 8 * len(file.getvalue()) / 1000 / (len(samples) / RATE_HZ)
    file.seek(0)
    return kbits, soundfile.read(file, dtype="float32")[0][: len(samples)]


def treble_db(samples: np.ndarray) -> float:
    """Return the level above TREBLE_HZ in dB."""
    power = np.abs(np.fft.rfft(samples.astype(np.float64))) ** 2
    return 10 * np.log10(power[round(TREBLE_HZ * len(samples) / RATE_HZ) :].sum() + 1e-12)


def sounds(folder: Path, files: int) -> list[np.ndarray]:
    clips = scan(folder)
    return [decode(clip.path, RATE_HZ) for clip in clips[:: max(1, len(clips) // files)][:files]]


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("speech", type=Path)
    arguments.add_argument("noise", type=Path)
    arguments.add_argument("--files", type=int, default=12)
    given = arguments.parse_args()
    white = 0.05 * np.random.default_rng(0).standard_normal((1, 10 * RATE_HZ)).astype(np.float32)
    material = {"speech": sounds(given.speech, given.files), "noise": sounds(given.noise, given.files), "white": white}
    print("medians over", ", ".join(f"{len(clips)} of {name}" for name, clips in material.items()))
    print("| sound | coding | compression_level | kbit/s | PESQ | change of level above 4 kHz, dB |")
    print("|---|---|---|---|---|---|")
    for name, clips in material.items():
        for role in SHARES:
            for level in LEVELS:
                settings = {**CODINGS[role][1], "compression_level": level}
                pairs = [(clip, *coded(clip, settings)) for clip in clips]
                kbits, change = np.median([(rate, treble_db(y) - treble_db(x)) for x, rate, y in pairs], 0)
                scores = [pesq_score(x[: len(y)], y, RATE_HZ) for x, _, y in pairs] if name == "speech" else []
                score = f"{np.median(scores):.2f}" if scores else ""
                print(
                    f"| {name} | {settings['subtype']} | {level} | {kbits:.0f} | {score} | {change:+.1f} |", flush=True
                )


if __name__ == "__main__":
    main()
