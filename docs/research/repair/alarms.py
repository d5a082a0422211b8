"""False alarms of detection on clean speech, and what it finds of damage that was made.

    python docs/research/repair/alarms.py CORPUS [PART [FORMAT]]

`PART` is dev/clean by default, and `FORMAT`, in which the samples are stored first, PCM_16; PCM_U8, ALAW and ULAW have
fewer bits. Prints one line of JSON.
"""

import io
import json
import sys
from pathlib import Path

import numpy as np
import soundfile

from deepnmf_cli.repair.detect import SURE, Scanner
from deepnmf_cli.signal import audio
from deepnmf_cli.signal.formats import scan


def found(samples: np.ndarray, rate_hz: int):
    scanner = Scanner(rate_hz, 1)
    scanner.feed(samples[None])
    return scanner.finish()


def stored(samples: np.ndarray, rate_hz: int, subtype: str) -> np.ndarray:
    """What a WAV file of a format makes of samples."""
    file = io.BytesIO()
    soundfile.write(file, samples, rate_hz, subtype, format="WAV")
    file.seek(0)
    return soundfile.read(file)[0]


def main(corpus: str, part: str = "dev/clean", subtype: str = "PCM_16") -> None:
    counts: dict[str, int] = {}
    hits = {"hard 3 dB": 0, "hard 10 dB": 0, "resampled 7 dB": 0, "soft": 0, "lost": [0, 0], "clicks": [0, 0]}
    files, seconds, draw = 0, 0.0, np.random.default_rng(0)
    for path in scan(Path(corpus) / part).audio:
        samples, rate_hz = audio.read(path, "float64")
        samples = stored(samples[0], rate_hz, subtype)
        files, seconds = files + 1, seconds + len(samples) / rate_hz
        result = found(samples, rate_hz)
        for span in result.spans:
            counts[span.kind] = counts.get(span.kind, 0) + (span.confidence >= SURE)
        for clipping in result.clipping:
            counts[clipping.kind] = counts.get(clipping.kind, 0) + 1
        if files % 4:
            continue
        damage(samples, rate_hz, hits, draw)
    alarms = {kind: [number, round(3600 * number / seconds, 2)] for kind, number in sorted(counts.items())}
    row = {
        "part": part,
        "format": subtype,
        "files": files,
        "minutes": round(seconds / 60, 1),
        "false alarms [n, per hour]": alarms,
    }
    print(json.dumps(row | {"files with damage": files // 4, "found": hits}))


def damage(samples: np.ndarray, rate_hz: int, hits: dict, draw: np.random.Generator) -> None:
    import soxr

    from deepnmf_cli.training.repair import clip_level

    gain = 0.1 + 0.9 * draw.random()
    steps = 1 << 15
    for name, db in (("hard 3 dB", 3), ("hard 10 dB", 10)):
        level = clip_level(samples, db)
        result = found(np.rint(gain * np.clip(samples, -level, level) * steps) / steps, rate_hz)
        hits[name] += any(abs(c.high / gain / level - 1) < 0.05 and c.kind == "hard" for c in result.clipping)
    level = clip_level(samples, 7)
    clipped = soxr.resample(soxr.resample(np.clip(samples, -level, level), rate_hz, 44100), 44100, rate_hz)
    hits["resampled 7 dB"] += any(0.7 < c.high / level < 1.1 for c in found(clipped, rate_hz).clipping)
    hits["soft"] += bool(found(level * np.tanh(samples / level), rate_hz).clipping)
    lost, truth = samples.copy(), []
    for start in range(0, len(samples) - 320, 320):
        if draw.random() < 0.05:
            lost[start : start + 320] = 0
            if np.sqrt((samples[start : start + 320] ** 2).mean()) > 0.1 * samples.std():
                truth.append(start)
    spans = [s for s in found(lost, rate_hz).spans if s.confidence >= SURE and s.kind == "zeros"]
    hits["lost"][0] += sum(any(s.first < t + 320 and t < s.end for s in spans) for t in truth)
    hits["lost"][1] += len(truth)
    clicked, places = samples.copy(), draw.integers(1000, len(samples) - 1000, 5)
    clicked[places] += 0.5 * np.abs(samples).max() * draw.choice([-1, 1], 5)
    spans = [s for s in found(clicked, rate_hz).spans if s.confidence >= SURE and s.kind == "click"]
    hits["clicks"][0] += sum(any(s.first <= p < s.end for s in spans) for p in places)
    hits["clicks"][1] += 5


if __name__ == "__main__":
    main(*sys.argv[1:])
