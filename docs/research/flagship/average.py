"""Take a part of what fine-tuning changed: python docs/research/flagship/average.py MODEL BEFORE AFTER SHARE OUT

OUT = MODEL + SHARE (AFTER - BEFORE), weight by weight; BEFORE and AFTER are a model file before and after the
fine-tuning. Where MODEL is BEFORE, this is a weighted mean of BEFORE and AFTER. MODEL may be a grid that was grown from
BEFORE, with further frame spins and ranks behind those that BEFORE has; these stay as they are.
"""

import dataclasses
import sys
from pathlib import Path

from torch import Tensor

from deepnmf_cli import model_file
from deepnmf_cli.checkpoint import file_hash
from deepnmf_cli.model_file import ModelFile
from deepnmf_cli.networks.grid_settings import GridSettings


def in_blocks(name: str, values: Tensor, settings: GridSettings) -> Tensor:
    """A view of the weights with an axis of its own for frame spins and one for ranks, where they have them."""
    spins, ranks = settings.frame_spins, settings.frame_channels
    if name.startswith("frame_bias"):
        return values.view(2, spins)
    if name.startswith("frame_weight"):
        return values.view(2, spins, -1, ranks)
    if name.startswith("frame_spread"):
        return values.view(-1, ranks, spins)
    return values


def average(model: ModelFile, before: ModelFile, after: ModelFile, share: float) -> dict[str, Tensor]:
    """The weights of OUT."""
    weights = {name: values.clone() for name, values in model.weights.items()}
    for name, values in weights.items():
        old, new = (in_blocks(name, file.weights[name], file.network) for file in (before, after))
        shared = in_blocks(name, values, model.network)[tuple(map(slice, old.shape))]
        shared += share * (new - old)
    return weights


def main(paths: list[str], share: float, out: str) -> None:
    model, before, after = (model_file.read(path) for path in paths)
    trained = {key: value for key, value in after.provenance["trained"].items() if not key.startswith("dev_")}
    averaged = {"share": share, **dict(zip(("model", "before", "after"), map(file_hash, map(Path, paths))))}
    provenance = {"recipe": after.provenance["recipe"], "trained": {**trained, "averaged": averaged}}
    weights = average(model, before, after, share)
    dataclasses.replace(model, path=Path(out), weights=weights, provenance=provenance).write()


if __name__ == "__main__":
    if len(sys.argv) != 6:
        sys.exit(__doc__)
    main(sys.argv[1:4], float(sys.argv[4]), sys.argv[5])
