"""Forward and gradient of the grid's networks on a batch, in PyTorch and in machine code, in processor seconds.

    python docs/research/benchmarks/grid_field_step.py [--rounds 7]

8 mixtures of 4 s, at the sizes of docs/research/meanfield, one thread. All ways take turns within every round.
"""

import argparse
import statistics
import time
from pathlib import Path

import torch

from deepnmf_cli.networks import build
from deepnmf_cli.networks.base import MaskNetwork
from deepnmf_cli.recipe import read_recipe

RECIPES = Path(__file__).parent.parent / "meanfield" / "recipes"
WAYS = (("pure", False), ("pure", True), ("pure-wide", True), ("gated", True), ("shipped", True))
"""Recipe, and whether its network is compiled."""


def network(name: str, compiled: bool) -> MaskNetwork:
    recipe = read_recipe(RECIPES / f"{name}.toml")
    torch.manual_seed(0)
    made = build(recipe.model, recipe.network)
    if compiled and not made.accelerate():
        raise SystemExit("there is no C++ compiler")
    return made


def seconds(made: MaskNetwork, heard: torch.Tensor) -> float:
    begun = time.process_time()
    made(heard)[0][:, 0].square().sum().backward()
    return time.process_time() - begun


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--rounds", type=int, default=7)
    torch.set_num_threads(1)
    heard = torch.rand(8, 257, 251).pow(3)
    networks = {way: network(*way) for way in WAYS}
    for made in networks.values():
        seconds(made, heard)
    rounds = [
        {way: seconds(made, heard) for way, made in networks.items()} for _ in range(arguments.parse_args().rounds)
    ]
    print("| recipe | | seconds | over pure, compiled |\n|---|---|---|---|")
    for way in WAYS:
        ratio = statistics.median(r[way] / r["pure", True] for r in rounds)
        took = statistics.median(r[way] for r in rounds)
        print(f"| {way[0]} | {'machine code' if way[1] else 'PyTorch'} | {took:.3f} | {ratio:.2f} |")


if __name__ == "__main__":
    main()
