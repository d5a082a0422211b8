"""The networks of this folder before training, for index.md: python docs/research/sparse/untrained.py CORPUS RUNS

Takes the dictionary that a run of the plan has left in RUNS/cache, and scores each recipe's network on CORPUS/dev.
"""

import sys
from pathlib import Path

import soundfile
import torch

from deepnmf_cli import checkpoint
from deepnmf_cli.networks.sparse import SparseCodingNetwork
from deepnmf_cli.recipe import read_recipe
from deepnmf_cli.training.dev import dev_score


def main(corpus: Path, runs: Path) -> None:
    torch.set_num_threads(1)
    (kept,) = (runs / "cache").glob("dictionary-*")
    dictionary = checkpoint.load(kept)[0]["dictionary"]
    names = sorted(path.name for path in (corpus / "dev/clean").iterdir())
    pairs = [
        [soundfile.read(corpus / "dev" / k / name, dtype="float32")[0] for k in ("clean", "noisy")] for name in names
    ]
    for path in sorted((Path(__file__).parent / "recipes").glob("*.toml")):
        recipe = read_recipe(path)
        network = SparseCodingNetwork(recipe.network, dictionary)
        total, trained = network.parameter_counts()
        speed = network.macs_per_frame() * recipe.front_end.frames_per_s / 1e6
        score = dev_score(network, recipe.front_end, pairs).si_sdr
        print(f"| {path.stem} | {total:,} | {trained:,} | {speed:.1f} | {score:.2f} |", flush=True)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
