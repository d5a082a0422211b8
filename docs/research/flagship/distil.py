"""Train a model that a larger one teaches, where the larger one is better.

    python docs/research/flagship/distil.py TEACHER WEIGHT RECIPE CORPUS RUN [--init MODEL] [--resume]

Adds WEIGHT times a term to the objective of RECIPE: the difference in dB between the square roots of the magnitudes
that the model and TEACHER estimate, 10 log10 of its energy over that of clean speech, in those frames of each mixture
in which the teacher is nearer to clean speech. The control is `deepnmf train RECIPE`. CORPUS is a folder with train/,
dev/ and rir/.
"""

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from deepnmf_cli import experiment, model_file, zoo
from deepnmf_cli.corpus.sources import Recordings
from deepnmf_cli.networks.base import MaskNetwork
from deepnmf_cli.recipe import Recipe, read_recipe
from deepnmf_cli.training.layers import POWER, compressed_speech
from deepnmf_cli.training.minibatch import Batch
from deepnmf_cli.training.trainer import Trainer

FLOOR = 0.01
"""Difference, as a share of the energy of clean speech, below which nothing more is to be learned: -20 dB."""


class Teaching:
    """What gradient descent adds to the objective of whole networks."""

    def __init__(self, teacher: MaskNetwork, weight: float) -> None:
        self.teacher, self.weight = teacher, weight
        self.share: list[float] = []
        """Share of the frames, by step, in which the teacher was nearer to clean speech."""

    def total(
        self, batch: Batch, masks: Callable[[], Tensor], objective: Callable[[Tensor], Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Return the loss to minimise, and the objective without the teacher."""
        given = masks()
        loss = objective(given)
        true = batch.truth.compressed_speech(POWER)
        own = compressed_speech(batch.truth, given)
        with torch.no_grad():
            taught = compressed_speech(batch.truth, batch.masks(self.teacher))
            nearer = (taught - true).square().sum(1) < (own - true).square().sum(1)
        self.share.append(float(nearer.float().mean()))
        error = ((own - taught).square().sum(1) * nearer).sum(-1)
        energy = true.square().sum((1, 2))  # never 0: `compressed` has a floor
        return loss + self.weight * 10 * torch.log10(error / energy + FLOOR).mean(), loss

    def state(self) -> dict[str, Tensor]:
        """Return what a resumed run needs: nothing."""
        return {}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Restore a state."""


def taught(teaching: Teaching, *given, **settings) -> Trainer:
    """Return a trainer whose optimiser adds the teacher's term."""
    trainer = Trainer(*given, **settings)
    trainer.optimiser.terms = teaching
    return trainer


def teacher_for(name: str, recipe: Recipe) -> MaskNetwork:
    """Return a model's network, which hears the features of the recipe's front end. Raises SystemExit for another."""
    file = model_file.read(zoo.find(name))
    if file.front_end != recipe.front_end:
        raise SystemExit(f"{name}: another front end than that of the recipe")
    network = file.build()
    network.accelerate()
    return network.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("teacher")
    parser.add_argument("weight", type=float)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("run", type=Path)
    parser.add_argument("--init")
    parser.add_argument("--resume", action="store_true")
    given = parser.parse_args()
    recipe = read_recipe(given.recipe)
    teaching = Teaching(teacher_for(given.teacher, recipe), given.weight)
    experiment.Trainer = partial(taught, teaching)
    train, rooms, dev = given.corpus / "train", given.corpus / "rir", given.corpus / "dev"
    recordings = Recordings(train / "speech", train / "noise", rooms, dev)

    def progress(report: dict) -> None:
        if row := report.get("row"):
            share = sum(teaching.share) / len(teaching.share)
            teaching.share.clear()
            print(row, f"teacher nearer in {share:.3f} of the frames", flush=True)
        elif report.keys() & {"found", "note"}:
            print(*report.values(), flush=True)

    experiment.train(
        recipe, recordings, given.run, given.resume, progress=progress, init=given.init and zoo.find(given.init)
    )


if __name__ == "__main__":
    main()
