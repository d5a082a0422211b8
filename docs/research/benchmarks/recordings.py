"""Frames of a corpus, as several benchmarks take them."""

import random
from pathlib import Path

import torch
from torch import Tensor

from deepnmf_cli.signal.audio import read
from deepnmf_cli.signal.stft import FrontEnd

RATE_HZ = 16000


def spectra(folder: Path, files: int, seconds: int) -> Tensor:
    """Complex frames (F, N) of the first seconds of some recordings at RATE_HZ, each at the same level."""
    paths = sorted(path for path in folder.rglob("*") if path.suffix in (".flac", ".ogg", ".wav"))
    random.Random(0).shuffle(paths)
    pair, found = FrontEnd().pair(RATE_HZ), []
    for path in paths[:files]:
        samples, rate_hz = read(path)
        if rate_hz == RATE_HZ:
            frames = pair.analysis(torch.from_numpy(samples[0, : seconds * RATE_HZ])[None])[0]
            found.append(frames / frames.abs().square().mean().sqrt().clamp_min(1e-9))
    return torch.cat(found, 1)
