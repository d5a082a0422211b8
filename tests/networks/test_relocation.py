"""Grids that move to another front: what belongs to a frequency stays there."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from deepnmf_cli import zoo
from deepnmf_cli.experiment import take_weights
from deepnmf_cli.networks import build
from deepnmf_cli.networks.grid_settings import GridSettings
from deepnmf_cli.networks.relocation import middle, node_frequencies, relocated
from deepnmf_cli.recipe import Recipe
from deepnmf_cli.signal.stft import FrontEnd
from deepnmf_cli.training.dev import dev_score

DEMO = Path(__file__).parents[2] / "data/demo"
HERE = FrontEnd()
FINER = FrontEnd(window_hops=4)


def settings(front_end: FrontEnd, single: int = 10, wide: int = 6, **changes: object) -> GridSettings:
    given = {"channels": 4, "iterations": 2, "frame_spins": 3, "local_fields": True, "phase": True}
    return GridSettings(bins=front_end.bins, single_bands=single, wide_bands=wide, **given | changes)


def weights(shape: GridSettings) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    network = build("grid", shape)
    return {name: torch.randn_like(x) for name, x in network.weights().items()}


def test_the_same_front_changes_nothing() -> None:
    for shape in (settings(HERE), settings(HERE, local_fields=False, frame_spins=0, phase=False)):
        given = weights(shape)
        for name, x in relocated(given, (shape, HERE), (shape, HERE)).items():
            torch.testing.assert_close(x, given[name], rtol=0, atol=1e-6)


def test_what_nodes_have_of_their_own_is_read_off_at_their_frequencies() -> None:
    old, new = settings(HERE, 20, 6), settings(FINER, 20, 10)
    before, after = (torch.from_numpy(node_frequencies(shape)).float() for shape in (old, new))
    given = weights(old)
    given["observe_bias_0"] = before[:, None] * torch.ones(old.channels)
    given["frame_spread_1"] = before.repeat_interleave(old.frame_channels)[:, None] * torch.ones(old.frame_spins)
    moved = relocated(given, (old, HERE), (new, FINER))
    assert {name: x.shape for name, x in moved.items()} == {n: x.shape for n, x in build("grid", new).weights().items()}
    inside = (after > before[0]) & (after < before[-1])
    torch.testing.assert_close(moved["observe_bias_0"][inside, 0], after[inside])
    spread = moved["frame_spread_1"].unflatten(0, (new.nodes, -1))
    torch.testing.assert_close(spread[inside, 1, 2], after[inside])
    assert all(torch.equal(moved[name], given[name]) for name in ("time_weight_0", "read_weight_0", "observe_weight_0"))


def test_spins_of_a_frame_hear_as_much_as_before() -> None:
    old, new = settings(HERE, 20, 6), settings(FINER, 20, 6)
    given = weights(old)
    given["frame_weight_0"] = torch.ones_like(given["frame_weight_0"])
    moved = relocated(given, (old, HERE), (new, FINER))["frame_weight_0"]
    assert moved.sum() / given["frame_weight_0"].sum() == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("front_end", [HERE, FrontEnd(window_hops=3), FINER])
def test_the_middle_of_a_window_is_the_mean_phase_difference_of_noise(front_end: FrontEnd) -> None:
    noise = np.random.default_rng(0).standard_normal(16000 * 20)
    x = front_end.pair(16000).analysis(noise)[5:100]
    inputs = np.angle((x[:-1] * x[1:].conj()).sum())
    assert np.exp(1j * inputs) == pytest.approx(np.exp(1j * middle(front_end)), abs=0.02)


def test_phase_is_heard_as_before() -> None:
    old, new = settings(HERE), settings(FINER)
    given = weights(old)
    moved = relocated(given, (old, HERE), (new, FINER))["phase_weight_0"]
    inputs = torch.randn(4, old.window)
    later, turn = inputs.clone(), np.exp(1j * (middle(FINER) - middle(HERE)))
    later[2], later[3] = inputs[2] * turn.real - inputs[3] * turn.imag, inputs[2] * turn.imag + inputs[3] * turn.real
    torch.testing.assert_close(moved @ later.flatten(), given["phase_weight_0"] @ inputs.flatten())


def test_nodes_of_other_numbers_of_bands_are_left_to_chance() -> None:
    old, new = settings(HERE), settings(HERE, single=12, wide=4, bands_per_node=4)
    given = weights(old)
    assert relocated(given, (old, HERE), (new, HERE)) is given


def test_a_trained_model_works_on_a_finer_front_at_once(tmp_path: Path) -> None:
    network, file = zoo.load("tiny")
    recipe, finer = Recipe.of_file(file), FrontEnd(window_hops=5)
    table = recipe.to_dict()
    table["front_end"] = {"window_hops": 5}
    table["network"] |= {"bins": finer.bins, "single_bands": recipe.network.single_bands}
    chosen = Recipe.from_dict(table)
    torch.manual_seed(1)
    moved = build("grid", chosen.network)
    pairs = [tuple(soundfile.read(DEMO / f"{name}.wav", dtype="float32")[0] for name in ("clean", "noisy"))]
    chance = dev_score(moved, finer, pairs).si_sdr
    take_weights(moved, file.path, finer)
    before, after = dev_score(network, recipe.front_end, pairs).si_sdr, dev_score(moved, finer, pairs).si_sdr
    assert after > chance + 0.8 * (before - chance)
