"""Training by search, without back-propagation: for networks of few trained numbers, some of which have no gradient.

Nelder & Mead's simplex (SciPy's) is carried from batch to batch: each batch evaluates its corners anew and then moves
it.
"""

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from deepnmf_cli.errors import RecipeError
from deepnmf_cli.networks.base import MaskNetwork
from deepnmf_cli.signal.stft import FrontEnd
from deepnmf_cli.training.descent import State
from deepnmf_cli.training.minibatch import Batch, FrameBatch
from deepnmf_cli.training.objectives import ObjectiveSettings, objective

MOST_NUMBERS = 30
"""Most numbers that a simplex searches: of n numbers, each batch is evaluated n + 2 or n + 3 times, and n times more
where the simplex shrinks."""

EDGE = 0.5
"""Initial length of the simplex along each number; for a logarithm this is two thirds more."""

MOVES = 2
"""SciPy's limit of iterations, of which the simplex itself is the first: one move per batch."""


class SimplexSearch:
    """Nelder-Mead search over the trained numbers of a network, as they are stored: logarithms of ratios if they are
    non-negative.
    """

    def __init__(self, network: MaskNetwork, front_end: FrontEnd, settings: ObjectiveSettings) -> None:
        """Raises RecipeError for a network of more than MOST_NUMBERS trained numbers."""
        self.network, self.front_end, self.settings = network, front_end, settings
        self.trained = [p for p in network.parameters() if p.requires_grad]
        numbers = sum(p.numel() for p in self.trained)
        if numbers > MOST_NUMBERS:
            found, expected = f'"search" for {numbers} trained numbers', f"at most {MOST_NUMBERS}"
            raise RecipeError("training.optimizer", found, expected, "Set training.optimizer=adam.")
        begin = parameters_to_vector(self.trained).detach().double().cpu()
        self.simplex = begin + torch.cat([torch.zeros(1, numbers), EDGE * torch.eye(numbers)]).double()

    @torch.no_grad()
    def step(self, batch: Batch | FrameBatch, learning_rate: float) -> float:
        """Move the simplex and return the loss of its best corner before the move. There is no learning rate."""
        from scipy.optimize import minimize

        losses: list[float] = []

        def loss(numbers: np.ndarray) -> float:
            self._take(torch.from_numpy(numbers))
            masks = batch.masks(self.network)
            value = float(objective(self.settings, masks.float(), batch.truth, self.front_end))
            losses.append(value if np.isfinite(value) else np.inf)
            return losses[-1]

        options = {"initial_simplex": self.simplex.numpy(), "maxiter": MOVES, "xatol": 0.0, "fatol": 0.0}
        found = minimize(loss, self.simplex[0].numpy(), method="Nelder-Mead", options=options)
        self.simplex = torch.from_numpy(np.array(found.final_simplex[0]))  # best corner first
        self._take(self.simplex[0])
        return losses[0]

    def _take(self, numbers: Tensor) -> None:
        vector_to_parameters(numbers.to(self.trained[0]), self.trained)

    def state(self) -> State:
        """Return the corners of the simplex."""
        return {0: {"simplex": self.simplex}}

    def load_state(self, state: State) -> None:
        """Restore a state that `state` returned. Raises ValueError if it is of another optimiser or other weights."""
        simplex = state.get(0, {}).get("simplex")
        if simplex is None or simplex.shape != self.simplex.shape:
            raise ValueError("no simplex of as many numbers")
        self.simplex = simplex.cpu()
