"""What a grid's weights keep of the SI-SDR that they gain, moved to windows of other lengths, before any training.

    python docs/research/benchmarks/relocation.py CLEAN NOISY [--model tiny] [--every 10] [--window-hops 3 5]

CLEAN and NOISY are folders of equal names at 16 kHz; every n-th file is used.
"""

import argparse
import dataclasses

import numpy as np

from deepnmf_cli import zoo
from deepnmf_cli.corpus.clips import decode
from deepnmf_cli.corpus.manifest import pair_folders
from deepnmf_cli.enhancer import Enhancer
from deepnmf_cli.experiment import take_weights
from deepnmf_cli.networks.backend import TorchBackend
from deepnmf_cli.scoring.sdr import si_sdr

RATE_HZ = 16000


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("clean")
    arguments.add_argument("noisy")
    arguments.add_argument("--model", default="tiny")
    arguments.add_argument("--every", type=int, default=10)
    arguments.add_argument("--window-hops", type=int, nargs="+", default=[3, 5])
    given = arguments.parse_args()
    pairs = [[decode(p, RATE_HZ) for p in pair] for pair in pair_folders(given.clean, given.noisy)[:: given.every]]
    network, file = zoo.load(given.model)
    before = np.array([si_sdr(clean, noisy) for clean, noisy in pairs])
    gains = {}
    for hops in (file.front_end.window_hops, *given.window_hops):
        front_end = dataclasses.replace(file.front_end, window_hops=hops)
        moved = type(network)(dataclasses.replace(network.settings, bins=front_end.bins))
        take_weights(moved, file.path, front_end)
        enhancer = Enhancer(TorchBackend(moved.eval()), front_end)
        after = np.array([si_sdr(clean, enhancer.enhance(noisy[None], RATE_HZ)[0]) for clean, noisy in pairs])
        gains[hops] = after - before
        share = gains[hops].mean() / gains[file.front_end.window_hops].mean()
        window = f"{1000 * hops * front_end.hop_s:.0f} ms"
        print(f"{window}: {len(pairs)} files gain {gains[hops].mean():.2f} dB, {share:.0%} of what they do at first")


if __name__ == "__main__":
    main()
