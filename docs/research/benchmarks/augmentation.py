"""What each augmentation costs: CPU time of a mixture with it and without, in one thread.

    python docs/research/benchmarks/augmentation.py SPEECH NOISE [--rir DIR]

Each option is switched on for every mixture; clips are already decoded, as in all but the first minutes of a run.
"""

import argparse
import dataclasses
import os
import statistics
import time
from pathlib import Path

from deepnmf_cli.corpus.augment import AugmentationSettings
from deepnmf_cli.corpus.clips import ClipCache
from deepnmf_cli.corpus.dataset import MixingSettings, MixtureDataset
from deepnmf_cli.corpus.effects import CODECS
from deepnmf_cli.corpus.manifest import scan

RATE = 16000


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("speech", type=Path)
    arguments.add_argument("noise", type=Path)
    arguments.add_argument("--rir", type=Path)
    arguments.add_argument("--examples", type=int, default=20)
    given = arguments.parse_args()
    speech, noise, rooms = scan(given.speech), scan(given.noise), scan(given.rir) if given.rir else []
    cache = ClipCache(RATE)
    names = [f.name for f in dataclasses.fields(AugmentationSettings) if f.name.endswith("probability")]
    options = {name: {name: 1.0} for name in names if name != "coding_probability"}
    options |= {f"coding: {codec}": {"coding_probability": 1.0, "codecs": (codec,)} for codec in CODECS}
    print(
        f"{os.cpu_count()} CPUs, milliseconds of CPU per mixture of 4 s, {given.examples} mixtures: median (quartiles)"
    )
    for name, chosen in {"none": {}, **options}.items():
        source = MixtureDataset(speech, noise, rooms, MixingSettings(), RATE, 1, cache, AugmentationSettings(**chosen))
        times = []
        for index in range(given.examples):
            source[index]  # decodes
            began = time.process_time()
            source[index]
            times.append(1000 * (time.process_time() - began))
        low, middle, high = statistics.quantiles(times, n=4)
        print(f"  {name:30s} {middle:7.1f} ({low:.1f} .. {high:.1f})", flush=True)


if __name__ == "__main__":
    main()
