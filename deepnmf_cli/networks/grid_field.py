"""Mean field on the grid: one field on the time-frequency plane, one pass forward in time, and F never rises."""

from dataclasses import replace

from torch import Tensor

from deepnmf_cli.inference.grid import GridEvidence
from deepnmf_cli.inference.grid_field import GridField
from deepnmf_cli.kernels.grid_field import compile_kernel
from deepnmf_cli.networks.grid import GridWiring
from deepnmf_cli.networks.grid_settings import GridFieldSettings
from deepnmf_cli.unfold.network import Bank
from deepnmf_cli.unfold.recurrent import RecurrentUnfolded


class GridFieldNetwork(GridWiring):
    """A network whose masks come from mean field on the grid, see `inference.grid_field` and docs/theory/grid.md."""

    name = "grid-field"
    description = "Mean field in one field on the grid, whose free energy never rises"
    settings_type = GridFieldSettings
    names_slots = True

    def __init__(self, settings: GridFieldSettings = GridFieldSettings()) -> None:
        super().__init__(settings)
        s = settings
        observed = s.context * s.window
        algorithm = GridField(s.nodes, s.channels, observed, s.bands_per_node, s.symmetric, s.accumulating)
        bank = Bank.declared(algorithm.parameters(s.iterations), s.iterations, s.tied)
        self.unfolded = RecurrentUnfolded(algorithm, s.iterations, bank, recurrent=True)

    def beginning(self, observed: Tensor) -> Tensor:
        return observed.new_zeros(3, self.settings.channels, self.settings.nodes, observed.shape[1])

    def accelerate(self) -> bool:
        kernel = compile_kernel(self.settings.channels)
        self.unfolded.algorithm = replace(self.unfolded.algorithm, kernel=kernel)
        return kernel is not None

    def infer(self, evidence: GridEvidence) -> tuple[tuple[Tensor, None], Tensor]:
        observed, before, _ = evidence
        inputs, unfolded = (observed.permute(1, 3, 2, 0).flatten(1, 2), before), self.unfolded
        layers = [unfolded.bank.layer(k) for k in range(unfolded.depth)]
        # The machine code cannot remember the state after each layer, or disturb states between layers.
        states = unfolded.algorithm.in_machine_code(*inputs, layers) if unfolded.trace is None else None
        if states is None:
            marginals, last = unfolded.infer(inputs)
        else:
            marginals, last = unfolded.readout(inputs, states), states[..., -1, :]
        return (marginals, None), last

    def macs_per_frame(self) -> int:
        s = self.settings
        per_node = (s.context * s.window + s.bands_per_node) * s.channels + self.unfolded.depth * 3 * s.channels**2
        return s.nodes * per_node + self.band_macs()
