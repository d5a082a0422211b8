"""How one batch changes the weights: what every optimiser offers the trainer, and descent along the gradient.

On a GPU a step can be one CUDA graph: its thousands of operations are launched as one, and none waits for Python.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from deepnmf_cli.networks.base import MaskNetwork
from deepnmf_cli.signal.stft import FrontEnd
from deepnmf_cli.training.layers import LayerTerms
from deepnmf_cli.training.minibatch import Batch, FrameBatch
from deepnmf_cli.training.objectives import ObjectiveSettings, objective
from deepnmf_cli.training.processes import Processes

State = dict[int, dict[str, Tensor]]
"""What an optimiser remembers, by number of the trained tensor and by name; of constraints under CONSTRAINTS."""

CONSTRAINTS = -1

REMEMBERED = {
    torch.optim.Adam: {"step", "exp_avg", "exp_avg_sq"},
    torch.optim.Muon: {"momentum_buffer"},
    torch.optim.SGD: {"momentum_buffer"},
}
"""Names of what the optimisers of PyTorch remember of a tensor."""


class Optimiser(Protocol):
    """Changes the weights of one network."""

    def step(self, batch: Batch | FrameBatch, learning_rate: float) -> float:
        """One step; returns the loss before it."""

    def state(self) -> State:
        """Return what a continued run needs to go on bit for bit."""

    def load_state(self, state: State) -> None:
        """Take what `state` gave."""


class GradientDescent:
    """Adam on the objective's gradient with respect to the parameters as the network has them; or Muon for those that
    are matrices, and Adam for the others; or plain descent with momentum, v <- rho v + gradient, x <- x - rate v.

    Muon (Jordan et al., 2024) moves a matrix along the orthogonal factor of its gradient's running mean, so that all
    directions are learned at one speed, not those first that a batch says most about. It is scaled such that entries
    move about as far as under Adam, and one learning rate serves both.
    """

    def __init__(
        self,
        network: MaskNetwork,
        front_end: FrontEnd,
        settings: ObjectiveSettings,
        clip_norm: float,
        mixed_precision: bool,
        muon: bool = False,
        captured: bool = False,
        weight_decay: float = 0.0,
        terms: LayerTerms | None = None,
        plain_momentum: float | None = None,
        processes: Processes = Processes(),
    ) -> None:
        """Gradients are scaled down to `clip_norm`; `mixed_precision` means bfloat16 matrix products on CUDA;
        `captured` that steps are launched as CUDA graphs, see `CapturedStep`, which `terms` of layers do not allow.
        Each step of Adam and Muon also multiplies weights by 1 - `weight_decay` times the learning rate (Loshchilov &
        Hutter, "Decoupled weight decay regularization", 2019). `plain_momentum` is the rho of plain descent, which
        takes Adam's place. `processes` average their gradients, and the loss.
        """
        self.network, self.front_end, self.settings = network, front_end, settings
        self.clip_norm, self.mixed_precision, self.terms = clip_norm, mixed_precision, terms
        self.processes = processes
        self.trained = [p for p in network.parameters() if p.requires_grad]
        matrices = [i for i, p in enumerate(self.trained) if muon and p.dim() == 2 and min(p.shape) > 1]
        others = [i for i in range(len(self.trained)) if i not in matrices]
        self.parts: list[tuple[list[int], torch.optim.Optimizer]] = []
        """Numbers of the trained tensors, and what changes them."""
        if others:
            given = [self.trained[i] for i in others]
            if plain_momentum is None:
                entries: torch.optim.Optimizer = torch.optim.Adam(
                    given, weight_decay=weight_decay, decoupled_weight_decay=True, capturable=captured
                )
            else:
                entries = torch.optim.SGD(given, momentum=plain_momentum)
            self.parts.append((others, entries))
        if matrices:
            given = [self.trained[i] for i in matrices]
            self.parts.append(
                (matrices, torch.optim.Muon(given, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw"))
            )
        self._captured = CapturedStep(lambda batch: self._change(batch, 1.0), self.trained) if captured else None

    def step(self, batch: Batch | FrameBatch, learning_rate: float) -> float:
        """One gradient step; returns the loss before it."""
        change = self._captured or self._change
        return float(change(batch, learning_rate))

    def _change(self, batch: Batch | FrameBatch, learning_rate: float) -> Tensor:
        def masks() -> Tensor:
            with torch.autocast("cuda", torch.bfloat16, enabled=self.mixed_precision):
                return batch.masks(self.network)

        def loss_of(masks: Tensor) -> Tensor:
            return objective(self.settings, masks.float(), batch.spectra, batch.waveforms, self.front_end)

        if self.terms is None:
            total = loss = loss_of(masks())
        else:
            total, loss = self.terms.total(batch, masks, loss_of)
        for _, optimiser in self.parts:
            optimiser.zero_grad()
        total.backward()
        loss = loss.detach()
        self.processes.average([loss, *(p.grad for p in self.trained if p.grad is not None)])
        torch.nn.utils.clip_grad_norm_(self.trained, self.clip_norm)
        for _, optimiser in self.parts:
            for group in optimiser.param_groups:
                group["lr"] = learning_rate
            optimiser.step()
        return loss

    def state(self) -> State:
        """Running moments and step counts; multipliers of constraints."""
        states = [(numbers, optimiser.state_dict()["state"]) for numbers, optimiser in self.parts]
        found = {numbers[i]: held for numbers, state in states for i, held in state.items()}
        return found if self.terms is None else found | {CONSTRAINTS: self.terms.state()}

    def load_state(self, state: State) -> None:
        """Take what `state` gave. Raises ValueError when that is of other weights, or of another optimiser."""
        if self.terms is not None:
            state = dict(state)
            self.terms.load_state(state.pop(CONSTRAINTS))
        names = {number: REMEMBERED[type(optimiser)] for numbers, optimiser in self.parts for number in numbers}
        for number, held in state.items():
            shapes = {(), self.trained[number].shape} if number in names else {}
            if number not in names or held.keys() != names[number] or any(x.shape not in shapes for x in held.values()):
                raise ValueError(f"what another optimiser remembers of tensor {number}")
        for numbers, optimiser in self.parts:
            own = {i: state[number] for i, number in enumerate(numbers) if number in state}
            optimiser.load_state_dict({"state": own, "param_groups": optimiser.state_dict()["param_groups"]})


WARM_UP_STEPS = 3
"""Steps that run one operation at a time, as PyTorch asks for: libraries and optimisers take what memory they need."""


class CapturedStep:
    """Changes weights by `change(batch) -> loss`, which moves them by an amount proportional to a learning rate, for a
    rate of 1, and does the same operations whatever is in a batch. All batches have one shape.
    """

    def __init__(self, change: Callable[[Batch], Tensor], weights: Sequence[Tensor]) -> None:
        self._change, self._weights = change, list(weights)
        self._before = [w.detach().clone() for w in weights]
        self._stream, self._graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
        self._warm_up = WARM_UP_STEPS
        self._batch: Batch | None = None
        self._loss: Tensor | None = None

    def __call__(self, batch: Batch, learning_rate: float) -> Tensor:
        """One step; returns the loss before it, which the next step overwrites."""
        with torch.no_grad():
            torch._foreach_copy_(self._before, self._weights)
        if self._warm_up:
            self._warm_up -= 1
            self._run(batch)
        else:
            self._replay(batch)
        with torch.no_grad():
            # Rates change from step to step, a graph does not: it goes all the way, of which the rate's share is kept.
            torch._foreach_lerp_(self._before, self._weights, learning_rate)
            torch._foreach_copy_(self._weights, self._before)
        return self._loss

    def _run(self, batch: Batch) -> None:
        """On the stream where the graph will be captured."""
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            self._loss = self._change(batch)
        torch.cuda.current_stream().wait_stream(self._stream)

    def _replay(self, batch: Batch) -> None:
        if self._batch is None:
            self._batch = Batch(batch.waveforms.clone(), batch.spectra.clone(), batch.window_hops)
            # Only what this thread does may break a capture: another one pins memory for the mixtures that come.
            with torch.cuda.graph(self._graph, stream=self._stream, capture_error_mode="thread_local"):
                self._loss = self._change(self._batch)
        self._batch.waveforms.copy_(batch.waveforms)
        self._batch.spectra.copy_(batch.spectra)
        self._graph.replay()
