"""Optimisation steps on single batches: the interface of all optimisers to the trainer, and gradient descent.

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
"""State of an optimiser, by number of the trained tensor and by name; that of constraints is under CONSTRAINTS."""

CONSTRAINTS = -1

REMEMBERED = {
    torch.optim.Adam: {"step", "exp_avg", "exp_avg_sq"},
    torch.optim.Muon: {"momentum_buffer"},
    torch.optim.SGD: {"momentum_buffer"},
}
"""Names of the state tensors that PyTorch's optimisers keep for each trained tensor."""


class Optimiser(Protocol):
    """Interface of an optimiser, which changes the weights of one network."""

    def step(self, batch: Batch | FrameBatch, learning_rate: float) -> float:
        """Take one step and return the loss before it."""
        ...

    def state(self) -> State:
        """Return the state that a resumed run needs to continue bit for bit."""
        ...

    def load_state(self, state: State) -> None:
        """Restore a state that `state` returned."""


class GradientDescent:
    """Gradient descent on the objective with respect to the parameters as the network stores them.

    The method is Adam; or Muon for parameters that are matrices, and Adam for the others; or plain descent with
    momentum, v <- rho v + gradient, x <- x - rate v.

    Muon (Jordan et al., 2024) moves a matrix along the orthogonal factor of its gradient's running mean, so that all
    directions are learned at the same speed, instead of those first about which a batch says most. Its steps are scaled
    such that entries move about as far as with Adam, and one learning rate serves both.
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
        """Gradients are scaled down to the norm `clip_norm`. `mixed_precision` stands for bfloat16 matrix products on
        CUDA, `captured` for steps that are launched as CUDA graphs, see `CapturedStep`; `terms` of layers do not allow
        these. Each step of Adam and Muon also multiplies weights by 1 - `weight_decay` times the learning rate
        (Loshchilov & Hutter, "Decoupled weight decay regularization", 2019). `plain_momentum` is the rho of plain
        descent, which replaces Adam if it is given. `processes` average their gradients and the loss.
        """
        self.network, self.front_end, self.settings = network, front_end, settings
        self.clip_norm, self.mixed_precision, self.terms = clip_norm, mixed_precision, terms
        self.processes = processes
        self.trained = [p for p in network.parameters() if p.requires_grad]
        matrices = [i for i, p in enumerate(self.trained) if muon and p.dim() == 2 and min(p.shape) > 1]
        others = [i for i in range(len(self.trained)) if i not in matrices]
        self.parts: list[tuple[list[int], torch.optim.Optimizer]] = []
        """Numbers of trained tensors, and the PyTorch optimiser that changes them."""
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
        """Take one gradient step and return the loss before it."""
        if self._captured is not None and isinstance(batch, Batch):
            return float(self._captured(batch, learning_rate))
        return float(self._change(batch, learning_rate))

    def _change(self, batch: Batch | FrameBatch, learning_rate: float) -> Tensor:
        def masks() -> Tensor:
            with torch.autocast("cuda", torch.bfloat16, enabled=self.mixed_precision):
                return batch.masks(self.network)

        def loss_of(masks: Tensor) -> Tensor:
            return objective(self.settings, masks.float(), batch.truth, self.front_end)

        if self.terms is None:
            total = loss = loss_of(masks())
        else:
            total, loss = self.terms.total(batch, masks, loss_of)
        for _, optimiser in self.parts:
            optimiser.zero_grad()
        total.backward()
        loss = loss.detach()
        self.processes.average([loss, *(p.grad for p in self.trained if p.grad is not None)])
        norm = torch.nn.utils.clip_grad_norm_(self.trained, self.clip_norm)
        # A finite loss may have a gradient that is not: as a loss that is not a number it ends the run before a score.
        loss = torch.where(norm.isfinite(), loss, torch.nan)
        if loss.device.type == "cpu" and not loss.isfinite():  # a GPU would have to wait for the answer
            return loss
        for _, optimiser in self.parts:
            for group in optimiser.param_groups:
                group["lr"] = learning_rate
            optimiser.step()
        return loss

    def state(self) -> State:
        """Return running moments and step counts, and the multipliers of constraints."""
        states = [(numbers, optimiser.state_dict()["state"]) for numbers, optimiser in self.parts]
        found = {numbers[i]: held for numbers, state in states for i, held in state.items()}
        return found if self.terms is None else found | {CONSTRAINTS: self.terms.state()}

    def load_state(self, state: State) -> None:
        """Restore a state that `state` returned. Raises ValueError if it is of other weights or another optimiser."""
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
"""Steps that run one operation at a time before the capture, as PyTorch requires: libraries and optimisers allocate the
memory that they need."""


class CapturedStep:
    """A training step that is captured as a CUDA graph and replayed for every batch; all batches have the same shape.

    `change(batch) -> loss` changes the weights with a learning rate of 1. The change must be proportional to the
    learning rate, and the operations the same whatever a batch contains.
    """

    def __init__(self, change: Callable[[Batch], Tensor], weights: Sequence[Tensor]) -> None:
        self._change, self._weights = change, list(weights)
        self._before = [w.detach().clone() for w in weights]
        self._stream, self._graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
        self._warm_up = WARM_UP_STEPS
        self._captured: tuple[Batch, Tensor] | None = None
        """Where the graph reads a batch and leaves the loss."""

    def __call__(self, batch: Batch, learning_rate: float) -> Tensor:
        """Take one step and return the loss before it, a tensor that the next step overwrites."""
        with torch.no_grad():
            torch._foreach_copy_(self._before, self._weights)
        if self._warm_up:
            self._warm_up -= 1
            loss = self._run(batch)
        else:
            loss = self._replay(batch)
        with torch.no_grad():
            # A graph cannot follow the changing learning rate: it steps with a rate of 1, of which a share is kept.
            torch._foreach_lerp_(self._before, self._weights, learning_rate)
            torch._foreach_copy_(self._weights, self._before)
        return loss

    def _run(self, batch: Batch) -> Tensor:
        """Run the step on the stream on which the graph will be captured."""
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            loss = self._change(batch)
        torch.cuda.current_stream().wait_stream(self._stream)
        return loss

    def _replay(self, batch: Batch) -> Tensor:
        if self._captured is None:
            read = Batch(batch.waveforms.clone(), batch.spectra.clone(), batch.window_hops)
            # Only calls of this thread may invalidate the capture: another one pins memory for the next mixtures.
            with torch.cuda.graph(self._graph, stream=self._stream, capture_error_mode="thread_local"):
                self._captured = read, self._change(read)
        read, loss = self._captured
        read.waveforms.copy_(batch.waveforms)
        read.spectra.copy_(batch.spectra)
        self._graph.replay()
        return loss
