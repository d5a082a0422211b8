"""Hours of audio that training takes in per hour, apart for mixing and for gradient steps.

    python docs/research/benchmarks/training_throughput.py SPEECH NOISE [--rir DIR] [--model NAME ...]
        [--recipe NAME ...] [--threads 1] [--device cuda]

Mixing is measured on clips already decoded, as in all but the first minutes of a run, in one thread. On a CPU the hours
are those of its time, so that other processes matter less.
"""

import argparse
import os
import platform
import statistics
import time
from pathlib import Path

import numpy as np
import torch

from deepnmf_cli.experiment import Recordings, initial_network, open_corpus
from deepnmf_cli.recipe import read_recipe
from deepnmf_cli.training.journal import Journal
from deepnmf_cli.training.trainer import Trainer
from deepnmf_cli.zoo import resolve_device

WARM_UP = {"cpu": 1, "cuda": 6}
"""Rounds before the clock runs: on a GPU a few steps pass before they are captured as a graph."""

OVERRIDES = {"deep-nmf": ["dictionary.batches=2", "dictionary.iterations=2"]}


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("speech", type=Path)
    arguments.add_argument("noise", type=Path)
    arguments.add_argument("--rir", type=Path)
    arguments.add_argument("--model", action="append", default=[], help="with the default settings of its kind")
    arguments.add_argument("--recipe", action="append", default=[])
    arguments.add_argument("--device", default="cpu")
    arguments.add_argument("--threads", type=int, default=1)
    arguments.add_argument("--rounds", type=int, default=5)
    given = arguments.parse_args()
    torch.set_num_threads(given.threads)
    device = resolve_device(given.device)
    where = torch.cuda.get_device_name() if device == "cuda" else platform.machine()
    clock = time.perf_counter if device == "cuda" else time.process_time
    print(f"{where}, {os.cpu_count()} CPUs, {given.threads} threads, torch {torch.__version__}; medians (min .. max)")
    chosen = [(recipe, None) for recipe in given.recipe] + [(None, model) for model in given.model]
    for name, model in chosen or [(None, model) for model in ("dnn", "deep-nmf", "grid")]:
        recipe = read_recipe(name, model, OVERRIDES.get(model, []))
        source, _ = open_corpus(Recordings(given.speech, given.noise, given.rir), recipe)
        size, hours = recipe.training.batch, recipe.training.batch * recipe.mixing.segment_s / 3600
        trainer = Trainer(
            initial_network(recipe, source), recipe.front_end, recipe.objective, recipe.training,
            Journal("unused"), lambda *_: None, device,
        )  # fmt: skip

        def mix() -> torch.Tensor:
            examples = [source[i] for i in range(size)]
            return torch.stack([torch.from_numpy(np.stack(part)) for part in zip(*examples)], 1)

        batch = mix()
        for stage, work in (("mixing", mix), ("gradient steps", lambda: trainer.update(trainer.batch(batch)))):
            for _ in range(WARM_UP[device]):
                work()
            rates = []
            for _ in range(given.rounds):
                began = clock()
                work()
                rates.append(hours * 3600 / (clock() - began))
            low, middle, high = min(rates), statistics.median(rates), max(rates)
            print(f"  {name or model:9s} {stage:15s} {middle:6.0f} h/h   ({low:.0f} .. {high:.0f})")


if __name__ == "__main__":
    main()
