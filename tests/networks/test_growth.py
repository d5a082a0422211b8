"""Grids that grow: what they compute stays, and what is new learns."""

import pytest
import torch

from deepnmf_cli.networks.grid import Grid
from deepnmf_cli.networks.grid_settings import GridSettings

SHAPE = {"single_bands": 10, "wide_bands": 6, "channels": 6, "iterations": 2, "local_fields": True}


def grid(spins: int, channels: int = 3, **changes: int) -> Grid:
    torch.manual_seed(spins)
    return Grid(GridSettings(**SHAPE | {"frame_spins": spins, "frame_channels": channels} | changes))


@pytest.mark.parametrize("before", [(0, 3), (4, 2), (4, 3), (7, 2), (7, 3)])
def test_a_grid_with_more_spins_per_frame_begins_as_the_smaller_one(before: tuple[int, int]) -> None:
    small, large = grid(*before), grid(7, 3)
    large.load_weights(large.weights() | large.fitting(small.weights()))
    magnitude = torch.rand(2, 257, 9)
    masks, _ = large(magnitude)
    torch.testing.assert_close(masks, small(magnitude)[0])
    # What is new has a gradient once what is zero has moved.
    for step in (1.0, 0.0):
        large.zero_grad()
        large(magnitude)[0].square().mean().backward()
        with torch.no_grad():
            for weight in large.parameters():
                weight -= step * weight.grad
    gradients = {name: p.grad for name, p in large.unfolded.bank.named_parameters() if name.startswith("frame")}
    assert len(gradients) == 10 and all((g != 0).all() for g in gradients.values())


@pytest.mark.parametrize(
    "other",
    [{"spins": 9}, {"spins": 4, "channels": 4}, {"spins": 4, "iterations": 1}, {"spins": 4, "wide_bands": 4}],
)
def test_frames_that_do_not_fit_are_left(other: dict[str, int]) -> None:
    fitting = grid(7).fitting(grid(**other).weights())
    assert "frame_weight_0" not in fitting
