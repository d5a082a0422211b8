"""What feeds a GPU: mixtures that a process makes of a pack per second, and what receiving them costs the training.

    python docs/research/benchmarks/loader.py PACK [--recipe base] [--mixtures 640] [--batch 32]

In seconds of processor time, which other programs do not change much: of a process that makes mixtures, with the pieces
decoded before (`deepnmf train --pack`) and with an empty cache, decoded when they are drawn for the first time; and of
the process that receives batches of zeros from two others, through shared memory and through pipes.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from itertools import islice
from pathlib import Path

import numpy as np

from deepnmf_cli.corpus import batches as batches_module
from deepnmf_cli.corpus.dataset import MixtureDataset
from deepnmf_cli.corpus.manifest import read_manifest
from deepnmf_cli.corpus.pack import verify
from deepnmf_cli.recipe import read_recipe


class Zeros:
    """Examples that take no time."""

    def __init__(self, length: int) -> None:
        self.length, self._zeros = length, np.zeros(length, np.float32)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        return self._zeros, self._zeros

    def divide(self, processes: int) -> None:
        pass


def seconds(work: Callable[[], object]) -> float:
    """Processor time of this process."""
    began = time.process_time()
    work()
    return time.process_time() - began


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("pack", type=Path)
    arguments.add_argument("--recipe", default="base")
    arguments.add_argument("--mixtures", type=int, default=640)
    arguments.add_argument("--batch", type=int, default=32)
    given = arguments.parse_args()
    recipe = read_recipe(given.recipe)
    rate_hz = recipe.front_end.rate_hz
    clips = read_manifest(verify(given.pack))
    material = [clips.get((role, "train"), []) for role in ("speech", "noise", "rir")]

    def source() -> MixtureDataset:
        return MixtureDataset(*material, recipe.mixing, rate_hz, 1, augmentation=recipe.augmentation)

    print("| | seconds of a processor | per second of it |\n|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        unpacked = source()
        taken = seconds(lambda: unpacked.unpack(Path(folder) / "clips"))
        hours = unpacked.bytes / 2 / rate_hz / 3600
        print(f"| decoding {hours:.2f} hours | {taken:.1f} | {hours / taken * 3600:.0f} s of audio |")
        for name, made in (("decoded before", unpacked), ("decoded when drawn", source())):
            taken = seconds(lambda: [made[i] for i in range(given.mixtures)])
            print(f"| {given.mixtures} mixtures, {name} | {taken:.1f} | {given.mixtures / taken:.0f} mixtures |")
    number = max(8, given.mixtures // given.batch)
    for name, folder in (("shared memory", batches_module.shared_memory), ("pipes", lambda size: None)):
        batches_module.shared_memory = folder
        zeros = Zeros(round(recipe.mixing.segment_s * rate_hz))
        with closing(batches_module.batches(zeros, given.batch, 0, 10**6, 2)) as stream:
            next(stream)
            taken = seconds(lambda: [None for _ in islice(stream, number)])
        rate = number * given.batch / taken
        print(f"| receiving {number} batches of {given.batch} through {name} | {taken:.2f} | {rate:.0f} mixtures |")


if __name__ == "__main__":
    main()
