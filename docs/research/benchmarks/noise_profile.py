"""What `--noise-profile` gains on noises that the model has never heard.

    python docs/research/benchmarks/noise_profile.py CORPUS [--model deep-nmf] [--every 10] [--lead 1.5] [--atoms 4 8 16
    32]

CORPUS holds clean/ and noisy/ of equal names at 16 kHz, such as the dev part of a corpus. The speech is cut out of the
first seconds of each mixture, so that it begins with noise alone: that is the profile. Scores are over the rest.
"""

import argparse
import statistics

import numpy as np
import torch

from deepnmf_cli.corpus.clips import decode
from deepnmf_cli.corpus.manifest import pair_folders
from deepnmf_cli.enhancer import Enhancer
from deepnmf_cli.networks.backend import TorchBackend
from deepnmf_cli.networks.noise_atoms import ATOMS, noise_atoms
from deepnmf_cli.scoring.sdr import sdr, si_sdr
from deepnmf_cli.zoo import load_enhancer

RATE = 16000


def scores(clean: np.ndarray, estimate: np.ndarray, start: int) -> np.ndarray:
    """[SDR, SI-SDR] in dB from sample `start` on."""
    pair = clean[start:].astype(np.float64), estimate[0, start:].astype(np.float64)
    return np.array([sdr(*pair), si_sdr(*pair)])


def taught(enhancer: Enhancer, noise: np.ndarray, atoms: int) -> Enhancer:
    """As `Enhancer.with_noise`, with another number of atoms."""
    network = enhancer.backend.network
    learned = noise_atoms(network, torch.from_numpy(enhancer._heard(noise, RATE)), atoms)
    return Enhancer(TorchBackend(network.with_noise_atoms(learned)), enhancer.front_end)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("corpus")
    arguments.add_argument("--model", default="deep-nmf")
    arguments.add_argument("--every", type=int, default=10, help="use every n-th file")
    arguments.add_argument("--lead", type=float, default=1.5, help="seconds of noise alone")
    arguments.add_argument("--atoms", type=int, nargs="+", default=[ATOMS])
    given = arguments.parse_args()
    torch.set_num_threads(1)
    enhancer, lead = load_enhancer(given.model, "cpu", "torch"), round(given.lead * RATE)
    rows = []
    for pair in pair_folders(f"{given.corpus}/clean", f"{given.corpus}/noisy")[:: given.every]:
        clean, noisy = (decode(path, RATE) for path in pair)
        if len(clean) < 2 * lead:
            continue
        noise = noisy - clean
        recording = np.concatenate([noise[:lead], noisy[lead:]])[None]
        row = [scores(clean, recording, lead), scores(clean, enhancer.enhance(recording, RATE), lead)]
        for atoms in given.atoms:
            learned = taught(enhancer, recording[:, :lead], atoms)
            row.append(scores(clean, learned.enhance(recording, RATE), lead))
        rows.append(row)
        print(f"{pair[0].name}: SI-SDR {' -> '.join(f'{score[1]:.2f}' for score in row)}", flush=True)
    table = np.array(rows)
    print(f"\n{len(table)} files, {given.lead:g} s of noise first, {given.model}; SDR, SI-SDR and gains in dB")
    names = ["input", "without profile", *(f"{atoms} atoms" for atoms in given.atoms)]
    for name, column in zip(names, table.swapaxes(0, 1)):
        gains = column - table[:, 1]
        spread = statistics.stdev(gains[:, 1]) / len(gains) ** 0.5
        print(
            f"| {name} | {column[:, 0].mean():.2f} | {column[:, 1].mean():.2f} | {gains[:, 0].mean():+.2f} |"
            f" {gains[:, 1].mean():+.2f} +- {1.96 * spread:.2f} | better in {np.count_nonzero(gains[:, 1] > 0)} |"
        )


if __name__ == "__main__":
    main()
