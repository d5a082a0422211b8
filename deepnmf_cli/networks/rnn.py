"""Conventional recurrent baselines: GRU and LSTM over the whole spectrum, and in the wiring of the grid.

They have the same bands, level and masks as the unfolded networks and differ only in the cell, so that cells can be
compared at equal size.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from deepnmf_cli.inference.grid import GridEvidence
from deepnmf_cli.networks.band_network import BandNetwork, BandSettings
from deepnmf_cli.networks.grid import GridWiring
from deepnmf_cli.networks.grid_settings import GridShape
from deepnmf_cli.signal.bands import COMPRESSION

CELLS = {"gru": nn.GRU, "lstm": nn.LSTM}


def _check_cell(name: str) -> None:
    if name not in CELLS:
        raise ValueError(f"cell {name!r} is none of {', '.join(CELLS)}")


@dataclass(frozen=True)
class RnnSettings(BandSettings):
    """Shape of an `Rnn`."""

    cell: str = "gru"
    """"gru" or "lstm"."""
    hidden: int = 88
    """Units per layer."""
    layers: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_cell(self.cell)
        if min(self.hidden, self.layers) < 1:
            raise ValueError("hidden and layers must be at least 1")


class Rnn(BandNetwork):
    """Layers of GRU or LSTM on the bands of a frame, and a sigmoid mask for each band."""

    name = "rnn"
    description = "GRU or LSTM over the whole spectrum, a conventional baseline"
    settings_type = RnnSettings

    def __init__(self, settings: RnnSettings = RnnSettings()) -> None:
        super().__init__(settings)
        s = settings
        self.cells = CELLS[s.cell](s.bands, s.hidden, s.layers, batch_first=True)
        self.read = nn.Linear(s.hidden, s.bands)

    def masks(self, evidence: Tensor, state: Any) -> tuple[Tensor, Any]:
        bands = self.pool(evidence).pow(COMPRESSION)
        units, state = self.cells(bands.transpose(-1, -2), state)
        speech = self.spread(torch.sigmoid(self.read(units)))
        return torch.stack([speech, 1 - speech], 1).transpose(-1, -2), state

    def macs_per_frame(self) -> int:
        return sum(p.numel() for name, p in self.named_parameters() if "weight" in name) + self.band_macs()


@dataclass(frozen=True)
class GridRnnSettings(GridShape):
    """Shape of a `GridRnn`: that of a grid, and the kind of cell."""

    channels: int = 16
    cell: str = "gru"
    """"gru" or "lstm"."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_cell(self.cell)


class _CellLayers(nn.Module):
    """Layers of cells, from evidence (T, B, N, E) and states of the cells to marginals (T, B, N, bands per node) and
    later states.
    """

    def __init__(self, s: GridRnnSettings) -> None:
        super().__init__()
        kind, c = CELLS[s.cell], s.channels
        self.observe = nn.Linear(s.context * s.window, c, bias=False)
        self.place = nn.Parameter(torch.zeros(s.nodes, c))
        self.time = nn.ModuleList(kind(c, c) for _ in range(s.iterations))
        self.frequency = nn.ModuleList(kind(c, c // 2, bidirectional=True) for _ in range(s.iterations))
        self.join = nn.ModuleList(nn.Linear(c, c, bias=False) for _ in range(s.iterations))
        self.read = nn.Linear(c, s.bands_per_node)

    def forward(self, observed: Tensor, begin: tuple) -> tuple[Tensor, tuple]:
        frames, batch, nodes, _ = observed.shape
        field, ended = self.observe(observed) + self.place, []
        for time, frequency, join, state in zip(self.time, self.frequency, self.join, begin, strict=True):
            units, state = time(field.flatten(1, 2), state)
            ended.append(state)
            field = field + units.unflatten(1, (batch, nodes))
            along, _ = frequency(field.flatten(0, 1).transpose(0, 1))  # (N, T B, C)
            field = field + join(along).transpose(0, 1).unflatten(0, (frames, batch))
        return torch.sigmoid(self.read(field)), tuple(ended)


class GridRnn(GridWiring):
    """The grid with GRU or LSTM cells in place of scheduled mean field, in time and along frequency."""

    name = "grid-rnn"
    description = "The grid's wiring with GRU or LSTM cells, a conventional baseline"
    settings_type = GridRnnSettings

    def __init__(self, settings: GridRnnSettings = GridRnnSettings()) -> None:
        super().__init__(settings)
        self.unfolded = _CellLayers(settings)

    def beginning(self, observed: Tensor) -> tuple:
        return (None,) * self.settings.iterations  # PyTorch's cells begin with zeros

    def infer(self, evidence: GridEvidence) -> tuple[tuple[Tensor, Tensor | None], tuple]:
        marginals, ended = self.unfolded(*evidence[:2])
        return (marginals, None), ended

    def macs_per_frame(self) -> int:
        per_node = sum(p.numel() for name, p in self.named_parameters() if "weight" in name)
        return self.settings.nodes * per_node + self.band_macs()
