"""One model at several sampling rates, for index.md: python docs/research/sparse/rates.py CORPUS MODEL

MODEL is a file of sparse coding, trained at 16 kHz. CORPUS/dev is resampled to lower rates, both recordings of a pair,
and enhanced there twice: by the weights as those of recordings that are silent above, and with atoms over Hz.
"""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import soundfile
import torch
from scipy.signal import resample_poly

from deepnmf_cli import model_file
from deepnmf_cli.enhancer import Enhancer
from deepnmf_cli.networks.backend import TorchBackend
from deepnmf_cli.networks.sparse import SparseCodingNetwork
from deepnmf_cli.scoring.bootstrap import interval
from deepnmf_cli.scoring.sdr import si_sdr

RATES = (16000, 12000, 11025, 8000)


def main(corpus: Path, model: Path) -> None:
    torch.set_num_threads(1)
    file = model_file.read(model)
    enhancers = []
    for over_hz in (False, True):
        network = SparseCodingNetwork(replace(file.network, over_hz=over_hz))
        network.load_weights(file.weights)
        enhancers.append(Enhancer(TorchBackend(network), file.front_end))
    names = sorted(path.name for path in (corpus / "dev/clean").iterdir())
    pairs = [
        [soundfile.read(corpus / "dev" / k / name, dtype="float32")[0] for k in ("clean", "noisy")] for name in names
    ]
    for rate_hz in RATES:
        scores = []
        for pair in pairs:
            clean, noisy = (resample_poly(x, rate_hz, 16000).astype(np.float32) for x in pair)
            estimates = [noisy, *(e.enhance(noisy[None], rate_hz)[0] for e in enhancers)]
            scores.append([si_sdr(clean, x) for x in estimates])
        noisy, silent, own = np.array(scores).T
        low, high = interval(own - silent, [names]) or (np.nan, np.nan)
        gain = f"{np.mean(own - silent):.2f} ({low:.2f} to {high:.2f})"
        print(f"| {rate_hz} Hz | {noisy.mean():.2f} | {silent.mean():.2f} | {own.mean():.2f} | {gain} |", flush=True)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
