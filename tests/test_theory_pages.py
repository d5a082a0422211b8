"""What the pages of docs/theory state about sizes, and what docs/theory/grid.md calls exact."""

import itertools
import re
from pathlib import Path

import pytest
import torch

from deepnmf_cli.inference.chain import relax_spins
from deepnmf_cli.kernels.recursion import relax
from deepnmf_cli.networks.deep_nmf import DeepNmf, DeepNmfSettings
from deepnmf_cli.networks.grid import Grid
from deepnmf_cli.networks.grid_field import GridFieldNetwork
from deepnmf_cli.networks.grid_settings import GridSettings
from deepnmf_cli.recipe import read_recipe

PAGES = Path(__file__).parent.parent / "docs" / "theory"


def number(text: str) -> int:
    return int(text.replace(",", ""))


def test_deep_nmf_has_the_sizes_and_the_cost_that_its_page_states() -> None:
    page = (PAGES / "deep-nmf.md").read_text("utf-8")
    rows = re.findall(r"^\| (\d+) \| ([\d,]+) \| ([\d,]+) \|$", page, re.MULTILINE)
    assert [row[0] for row in rows] == ["0", "1", "2", "3", "4", "26"]
    for layers, trained, stored in (map(number, row) for row in rows):
        network = DeepNmf(DeepNmfSettings(trained_layers=layers))
        assert network.parameter_counts() == (stored, trained)
    assert DeepNmf(DeepNmfSettings(bins=201)).parameter_counts()[1] == 402_000 and "402,000" in page
    assert round(network.macs_per_frame() / 1e6, 1) == 23.2 and "23.2 million" in page


def test_grid_has_the_sizes_and_the_cost_that_its_page_states() -> None:
    page, network = (PAGES / "grid.md").read_text("utf-8"), Grid()
    assert f"{network.parameter_counts()[0]:,} parameters, of which {48 * 24:,} are a_n" in page.replace("\n", " ")
    assert round(network.macs_per_frame() * 62.5 / 1e6) == 37 and "37 million multiply-adds" in page.replace("\n", " ")
    recipe = read_recipe("base")
    base = Grid(recipe.network)
    assert f"{base.parameter_counts()[0]:,} parameters and 38 million multiply-adds" in page.replace("\n", " ")
    assert round(base.macs_per_frame() * recipe.front_end.frames_per_s / 1e6) == 38


def test_grid_field_has_the_size_and_the_cost_that_its_page_states() -> None:
    page, network = (PAGES / "grid.md").read_text("utf-8").replace("\n", " "), GridFieldNetwork()
    assert network.settings.channels == 24 and network.settings.iterations == 4
    macs = round(network.macs_per_frame() * 62.5 / 1e6)
    assert f"{network.parameter_counts()[0]:,} parameters and {macs} million multiply-adds" in page


def entropy(mean: torch.Tensor) -> torch.Tensor:
    """Of spins +-1 with these expectations."""
    return -sum(torch.xlogy(p, p) for p in ((1 + mean) / 2, (1 - mean) / 2))


def node_energy(field: torch.Tensor, mean: torch.Tensor) -> torch.Tensor:
    """Free energy of spins without couplings, summed over the last dimension."""
    return -(field * mean + entropy(mean)).sum(-1)


@pytest.mark.parametrize("seed", range(5))
def test_a_relaxed_update_never_raises_the_free_energy_of_its_node(seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    field = 3 * torch.randn(30, 6, generator=draw, dtype=torch.float64)
    schedule = torch.rand(30, 6, generator=draw, dtype=torch.float64)
    start = torch.zeros(6, dtype=torch.float64)
    spins = relax(field.tanh(), schedule, start)
    before = torch.cat([start[None], spins[:-1]])
    assert (node_energy(field, spins) <= node_energy(field, before) + 1e-12).all()


def test_relaxation_gives_the_marginals_of_a_chain_that_copies_or_draws_anew() -> None:
    length, draw = 5, torch.Generator().manual_seed(0)
    target = torch.rand(length, generator=draw, dtype=torch.float64) * 2 - 1
    schedule = torch.rand(length, generator=draw, dtype=torch.float64)
    begin = 0.3
    expected = torch.zeros(length, dtype=torch.float64)
    for chain in itertools.product((-1, 1), repeat=length + 1):  # the first spin is the start
        probability = (1 + begin * chain[0]) / 2
        for t in range(length):
            anew = (1 + target[t] * chain[t + 1]) / 2
            probability = probability * ((1 - schedule[t]) * (chain[t + 1] == chain[t]) + schedule[t] * anew)
        expected += probability * torch.tensor(chain[1:])
    torch.testing.assert_close(relax(target, schedule, torch.tensor(begin, dtype=torch.float64)), expected)


def test_with_schedule_one_the_network_is_a_pass_of_mean_field_that_never_raises_the_free_energy() -> None:
    """The field of reading 1, written out as one coupling matrix; groups of spins are updated from the bottom."""
    torch.manual_seed(1)
    sizes = {"bins": 9, "single_bands": 1, "wide_bands": 1, "channels": 4, "iterations": 2, "context": 1}  # one node
    settings = GridSettings(**sizes, frame_spins=3, frame_channels=2)
    bank, spins = Grid(settings).unfolded.bank.double(), settings.channels
    observed = torch.rand(settings.window, dtype=torch.float64)
    layers = [{k: v.detach() for k, v in bank.layer(layer).items()} for layer in range(2)]
    evidence = layers[0]["observe_weight"] @ observed + layers[0]["observe_bias"][0]

    # What every group adds to u, and what it reads from u: both as matrices; every second half is the schedule's.
    reads, adds = [], []
    for theta in layers:
        up, down = theta["frequency_weight"].chunk(2)
        reads += [theta["time_weight"].chunk(2)[0], torch.cat([up.chunk(2)[0], down.chunk(2)[0]])]
        reads.append(theta["frame_weight"].chunk(2)[0] @ theta["frame_send"])
        adds += [torch.eye(spins, dtype=torch.float64), theta["frequency_join"]]
        adds.append(theta["frame_receive"] @ theta["frame_spread"])
    ends = list(itertools.accumulate((len(read) for read in reads), initial=0))
    size = ends[-1]
    coupling, theta_x = torch.zeros(size, size, dtype=torch.float64), torch.cat([read @ evidence for read in reads])
    group = [slice(first, last) for first, last in itertools.pairwise(ends)]
    for upper, lower in itertools.combinations(reversed(range(len(reads))), 2):
        coupling[group[upper], group[lower]] = reads[upper] @ adds[lower]
        coupling[group[lower], group[upper]] = coupling[group[upper], group[lower]].T

    def energy(mean: torch.Tensor) -> float:
        return float(-theta_x @ mean - mean @ coupling @ mean / 2 - entropy(mean).sum())

    mean = torch.zeros(size, dtype=torch.float64)
    for members in group:
        before, fields = energy(mean), theta_x[members] + coupling[members] @ mean
        mean[members] = fields.tanh()
        assert energy(mean) - before == pytest.approx(-float(fields.cosh().log().sum()), abs=1e-10)

    # The network with its schedule at one ends with the same u.
    wide_open = [
        theta
        | {
            f"{name}_{part}": with_open_schedule(theta[f"{name}_{part}"], parts, part == "bias")
            for name, parts in (("time", 1), ("frequency", 2), ("frame", 1))
            for part in ("weight", "bias")
        }
        for theta in layers
    ]
    nothing = tuple(torch.zeros(1, *size, dtype=torch.float64) for size in ((settings.nodes, spins), (3,)))
    inference = Grid(settings).unfolded.algorithm
    state = inference.start((observed.expand(1, 1, settings.nodes, -1), (nothing, nothing), None), wide_open[0])
    for theta in wide_open:
        state = inference.step((), state, theta)
    expected = evidence + sum(add @ mean[members] for add, members in zip(adds, group))
    torch.testing.assert_close(state[0][0, 0, 0], expected)


def with_open_schedule(rows: torch.Tensor, parts: int, is_bias: bool) -> torch.Tensor:
    """The second half of the rows of each part, which makes the schedule, set to give one."""
    opened = []
    for part in rows.chunk(parts):
        couple, gate = part.chunk(2)
        opened += [couple, torch.full_like(gate, 1e3 if is_bias else 0.0)]
    return torch.cat(opened)


def test_couplings_and_schedule_are_the_two_halves_of_the_rows() -> None:
    weight, bias = torch.zeros(4, 3), torch.tensor([0.0, 0.0, 1e3, -1e3])
    weight[:2] = torch.eye(3)[:2]
    field = torch.tensor([0.5, -0.5, 2.0])
    start = torch.tensor([0.25, 0.25])
    (spins,) = relax_spins(field[None], weight, bias, start)
    assert spins.tolist() == pytest.approx([float(field[0].tanh()), 0.25])


def test_the_example_of_a_binary_image_removes_most_of_the_noise(capsys: pytest.CaptureFixture) -> None:
    (example,) = re.findall(r"```python\n(.+?)```", (PAGES / "binary-image.md").read_text("utf-8"), re.DOTALL)
    torch.manual_seed(0)
    exec(example, {})
    right = [float(x) for x in re.findall(r"tensor\((.+?)\)", capsys.readouterr().out)]
    assert len(right) == 2 and min(right) > 0.95  # about 0.8 before
