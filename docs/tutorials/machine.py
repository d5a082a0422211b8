"""Make the sound of a machine that no model has heard: python docs/tutorials/machine.py machine.wav [SECONDS]

A piston compressor, from nothing but arithmetic: the hum of a motor, a whine of gears, a valve that knocks at every
turn, air that hisses with the pistons, and now and then a blow of the relief valve.
"""

import sys

import numpy as np
import soundfile

RATE_HZ = 16000


def machine(seconds: float, seed: int = 0) -> np.ndarray:
    """Samples (n,) in [-0.5, 0.5]."""
    draw = np.random.default_rng(seed)
    time = np.arange(round(seconds * RATE_HZ)) / RATE_HZ
    turns_hz = 7.8 + 0.25 * np.sin(2 * np.pi * time / 11) + 0.1 * np.sin(2 * np.pi * time / 3.7)
    phase = 2 * np.pi * np.cumsum(turns_hz) / RATE_HZ
    hum = sum(np.sin(6 * k * phase + k) / k**0.7 for k in range(1, 25))
    whine = (1 + 0.5 * np.sin(phase)) * np.sin(188 * phase) + 0.4 * np.sin(376 * phase + np.sin(phase))
    hiss = np.diff(draw.standard_normal(len(time) + 1)) * (0.4 + np.clip(np.sin(2 * phase), 0, 1))
    return normalised(0.1 * hum + 0.25 * whine + 0.5 * hiss + 2 * knocks(phase, draw) + blows(len(time), draw))


def knocks(phase: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    """A valve of three resonances that is struck once a turn, never quite alike."""
    struck = np.zeros(len(phase))
    turns = np.flatnonzero(np.diff(phase // (2 * np.pi)))
    struck[turns] = draw.uniform(0.5, 1.5, len(turns))
    decay = np.arange(RATE_HZ // 10) / RATE_HZ
    ring = sum(
        np.exp(-decay * rate) * np.sin(2 * np.pi * hz * decay) for hz, rate in ((870, 60), (2310, 90), (4150, 150))
    )
    return np.convolve(struck, ring)[: len(phase)]


def blows(count: int, draw: np.random.Generator) -> np.ndarray:
    """Half a second of air, about every nine seconds."""
    sound, shape = np.zeros(count), np.hanning(RATE_HZ // 2)
    for start in np.arange(4 * RATE_HZ, count - len(shape), 9 * RATE_HZ):
        begin = min(count - len(shape), int(start + draw.integers(RATE_HZ)))
        sound[begin : begin + len(shape)] += 3 * shape * draw.standard_normal(len(shape))
    return sound


def normalised(samples: np.ndarray) -> np.ndarray:
    return 0.5 * samples / max(1e-9, np.abs(samples).max(initial=0))


if __name__ == "__main__":
    soundfile.write(sys.argv[1], machine(float((sys.argv[2:] or [150])[0])), RATE_HZ)
