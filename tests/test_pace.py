"""A stream that runs fewer layers while the computer is too slow, by an artificial clock."""

from functools import partial
from itertools import repeat
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from deepnmf_cli.enhancer import Enhancer
from deepnmf_cli.errors import UsageError
from deepnmf_cli.networks.backend import TorchBackend
from deepnmf_cli.pace import LONGEST_PATIENCE_S, Pace
from deepnmf_cli.signal.stft import FrontEnd
from tests.networks.test_depth import GRID, LAYERS, STOPPED, WHOLE, features, made

RATE_HZ, BLOCK = 1000, np.zeros((1, 20), np.float32)
BLOCK_S = BLOCK.shape[1] / RATE_HZ


class Slow:
    """A stream on a computer that takes `layer_s` for each layer of a block, and the clock beside it."""

    def __init__(self, layer_s: float) -> None:
        self.layer_s, self.now_s, self.depths = layer_s, 0.0, []

    def run_by(self, layers: int) -> None:
        self.depths.append(layers)

    def feed(self, block: np.ndarray) -> np.ndarray:
        self.now_s += self.layer_s * self.depths[-1]
        return block

    def run(self, pace: Pace, seconds: float) -> np.ndarray:
        """The depth of every block, of the last `seconds`."""
        count = round(seconds / BLOCK_S)
        for _ in range(count):
            assert pace.feed(self, BLOCK, RATE_HZ) is BLOCK
        return np.array(self.depths[-count:])


def begun(layer_s: float) -> tuple[Slow, Pace]:
    slow = Slow(layer_s)
    return slow, Pace([1, 2, 3, 4], lambda: slow.now_s)


def test_what_is_done_before_the_network_counts() -> None:
    """A repair that takes half of the time leaves half of it for layers."""
    slow, pace = begun(BLOCK_S / 4.5)

    def repaired():
        for block in pace.arriving(repeat(BLOCK)):
            slow.now_s += BLOCK_S / 2
            yield block

    blocks = repaired()
    for _ in range(round(300 / BLOCK_S)):
        slow.now_s += 1.0  # the wait for the next block, which does not count
        pace.feed(slow, next(blocks), RATE_HZ)
    assert np.mean(np.array(slow.depths[-4000:]) == 2) > 0.98


@pytest.mark.parametrize("affordable", [1, 2, 3])
def test_it_settles_at_the_layers_that_there_is_time_for(affordable: int) -> None:
    slow, pace = begun(BLOCK_S / (affordable + 0.5))
    depths = slow.run(pace, 600)
    assert depths[0] == 4 and pace.least >= affordable - 1
    # Behind by little at any time, and by nothing at the end: the sum of what blocks took beyond what they last.
    late = 0.0
    for depth in depths:
        late = max(0.0, late + depth * slow.layer_s - BLOCK_S)
        assert late < 12 * BLOCK_S
    settled = depths[len(depths) // 2 :]
    assert (settled == affordable).mean() > 0.98 and settled.max() <= affordable + 1
    # A try takes place about once in the longest patience.
    tries = np.diff(settled, prepend=affordable) > 0
    assert 2 <= tries.sum() <= 300 / LONGEST_PATIENCE_S + 2
    assert pace.shortened_s == pytest.approx((depths < 4).sum() * BLOCK_S)


def test_a_computer_that_is_quick_enough_runs_all_layers() -> None:
    slow, pace = begun(BLOCK_S / 4.1)
    assert set(slow.run(pace, 60)) == {4} and pace.shortened_s == 0 and pace.least == pace.layers == 4


def test_one_slow_block_costs_one_layer_for_a_second() -> None:
    slow, pace = begun(BLOCK_S / 8)
    slow.run(pace, 2)
    pace.account(5 * BLOCK_S, BLOCK_S)
    depths = slow.run(pace, 10)
    assert set(depths[: round(1 / BLOCK_S)]) == {3} and set(depths[round(1.3 / BLOCK_S) :]) == {4}


def test_all_layers_return_when_time_does_and_patience_is_forgotten() -> None:
    slow, pace = begun(BLOCK_S)
    slow.run(pace, 100)
    slow.layer_s = BLOCK_S / 10
    assert set(slow.run(pace, 4 * LONGEST_PATIENCE_S)[-10:]) == {4}
    slow.run(pace, LONGEST_PATIENCE_S + 1)
    pace.account(5 * BLOCK_S, BLOCK_S)
    assert set(slow.run(pace, 2)[-10:]) == {4}


@pytest.mark.parametrize("name", STOPPED)
def test_a_network_goes_on_from_the_state_of_any_depth(name: str) -> None:
    network = made(name, STOPPED[name])
    inputs, state = features(network), None
    with torch.no_grad():
        for depth, begin, end in ((LAYERS, 0, 3), (2, 3, 6), (1, 6, 8), (3, 8, 10), (LAYERS, 10, 12)):
            network.stop_after(depth)
            masks, state = network(inputs[..., begin:end], state)
            assert masks.shape[-1] == end - begin and bool(masks.isfinite().all())
        forgotten, _ = network(inputs[..., begin:end], None)
    assert not torch.equal(masks, forgotten)


def layers(state: tuple) -> tuple:
    """Of a grid's state between blocks, what each layer holds."""
    _level, (_past, ended) = state
    return ended


def test_layers_that_do_not_run_keep_what_they_remember() -> None:
    network = made("grid", {**GRID, "frame_spins": 3})
    inputs = features(network)
    with torch.no_grad():
        _, state = network(inputs[..., :6])
        before = layers(state)
        network.stop_after(2)
        after = layers(network(inputs[..., 6:], state)[1])
    for layer in range(LAYERS):
        same = all(torch.equal(a, b) for a, b in zip(before[layer], after[layer], strict=True))
        assert same == (layer >= 2)


@pytest.mark.parametrize("depth", [2, LAYERS])
def test_an_enhancer_runs_its_own_layers_by_the_pace(depth: int) -> None:
    enhancer = Enhancer(TorchBackend(made("grid", GRID)), FrontEnd(8000))
    samples = np.random.default_rng(0).normal(0, 0.1, (1, 6000)).astype(np.float32)
    fewer = Enhancer(enhancer.backend, enhancer.front_end, depth)
    pace = Pace.of(enhancer)
    assert pace.layers == LAYERS
    pace = Pace([enhancer.backend.at_depth(d) for d in enhancer.backend.depths], lambda: 0.0)
    pace.depth = depth
    blocks = np.split(samples, 10, axis=1)
    expected, found = (
        np.concatenate([*enhance(blocks, 8000, 1, at_once=True)], -1)
        for enhance in (fewer.enhance_blocks, partial(enhancer.enhance_blocks, feed=pace.feed))
    )
    assert np.array_equal(found, expected)


def test_every_channel_of_its_own_runs_as_many_layers() -> None:
    enhancer = Enhancer(TorchBackend(made("grid", GRID)), FrontEnd(8000))
    samples = np.random.default_rng(0).normal(0, 0.1, (2, 4000)).astype(np.float32)
    stream, fewer = (
        e.stream(8000, 2, separate=True) for e in (enhancer, Enhancer(enhancer.backend, enhancer.front_end, 2))
    )
    stream.run_by(enhancer.backend.at_depth(2))
    assert np.array_equal(stream.flush(samples), fewer.flush(samples))


@pytest.mark.parametrize("name", WHOLE)
def test_networks_that_cannot_be_stopped_are_refused(name: str) -> None:
    enhancer = Enhancer(TorchBackend(made(name, WHOLE[name])), FrontEnd(8000))
    with pytest.raises(UsageError, match="--keep-up: found a network that cannot be stopped early; expected one that"):
        Pace.of(enhancer)


def test_exported_networks_are_refused() -> None:
    with pytest.raises(UsageError, match="--keep-up: found a model that was exported, whose depth is fixed"):
        Pace.of(Enhancer(SimpleNamespace(), FrontEnd(8000)))
