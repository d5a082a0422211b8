"""What a recipe says about augmentation and machine code reaches mixtures and networks."""

from pathlib import Path

import pytest

from deepnmf_cli.experiment import Recordings, open_corpus
from deepnmf_cli.kernels.grid_layer import compile_kernel
from deepnmf_cli.networks import build
from deepnmf_cli.recipe import Recipe
from deepnmf_cli.training.journal import Journal
from deepnmf_cli.training.trainer import Trainer


def recipe(**tables) -> Recipe:
    network = {"single_bands": 16, "wide_bands": 8, "channels": 8, "iterations": 1}
    return Recipe.from_dict(
        {"model": "grid", "network": network, "front_end": {"rate_hz": 8000}, "mixing": {"segment_s": 0.5}, **tables}
    )


def test_training_mixtures_are_augmented_and_dev_mixtures_are_not(tiny_corpus: Path) -> None:
    where = Recordings(speech=tiny_corpus / "speech", noise=tiny_corpus / "noise")
    plain, changed = recipe(), recipe(augmentation={"clip_probability": 1.0, "hum_probability": 1.0})
    (one, one_dev), (two, two_dev) = (open_corpus(where, r) for r in (plain, changed))
    assert not (sum(one[0]) == sum(two[0])).all()
    assert all((a[1] == b[1]).all() for a, b in zip(one_dev, two_dev, strict=True))


@pytest.mark.skipif(compile_kernel(8) is None, reason="there is no C++ compiler")
@pytest.mark.parametrize("wanted", [True, False])
def test_machine_code_is_used_where_the_recipe_wants_it(wanted: bool, tmp_path: Path) -> None:
    r = recipe(training={"machine_code": wanted})
    network = build(r.model, r.network)
    assert network.unfolded.algorithm.kernel is None
    Trainer(network, r.front_end, r.objective, r.training, Journal(tmp_path), lambda *_: None)
    assert (network.unfolded.algorithm.kernel is not None) == wanted
