"""Deep unfolding in general: K iterations of an inference algorithm become K layers over a bank of parameters.

Inference minimises F_theta(x, phi) by phi^k = f_theta(x, phi^{k-1}) and reads out y = g_theta(x, phi^K); unfolded,
layer k has parameters theta^k of its own, tied or untied by a table (equations (1)-(5) of "Deep Unfolding: Model-Based
Inspiration of Novel Deep Architectures", Hershey, Le Roux, Weninger, 2014).
"""

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from deepnmf_cli.unfold.nonnegative import NonNegative
from deepnmf_cli.unfold.ties import Ties

Parameters = Mapping[str, Tensor]
State = Any
"""What a step updates: a tensor, or a tuple of tensors."""


class Algorithm(Protocol):
    """An inference algorithm as pure functions of evidence x, state phi and parameters theta."""

    def start(self, evidence: Tensor, parameters: Parameters) -> State:
        """phi^0."""

    def step(self, evidence: Tensor, state: State, parameters: Parameters) -> State:
        """phi^k = f_theta(x, phi^{k-1}), equation (3)."""

    def readout(self, evidence: Tensor, state: State, parameters: Parameters) -> Tensor:
        """y = g_theta(x, phi^K), equation (1)."""


class Descent(Algorithm, Protocol):
    """An algorithm that minimises an objective; not every schedule of messages does."""

    def objective(self, evidence: Tensor, state: State, parameters: Parameters) -> Tensor:
        """F_theta(x, phi), a scalar that steps with tied parameters do not increase."""


class Bank(nn.Module):
    """The parameters of all layers: for each name a tie table and one tensor per slot.

    Trained slots are `NonNegative` modules or plain nn.Parameters; fixed slots are buffers, so that autograd records
    nothing in layers below the first trained one.
    """

    def __init__(self, ties: Mapping[str, Ties], initial: Mapping[str, list[Tensor]], kinds: Mapping[str, str]) -> None:
        """`initial[name][slot]`; `kinds[name]` is "free", "log" or "softplus" (see `NonNegative`)."""
        super().__init__()
        self.ties = dict(ties)
        self.kinds = dict(kinds)
        for name, table in self.ties.items():
            if len(initial[name]) != table.count:
                raise ValueError(f"{name} has {table.count} slots but {len(initial[name])} initial values")
            for slot, value in enumerate(initial[name]):
                self._add(f"{name}_{slot}", value, slot in table.trained, self.kinds[name])

    def _add(self, key: str, value: Tensor, trained: bool, kind: str) -> None:
        if not trained:
            self.register_buffer(key, value.clone())
        elif kind == "free":
            self.register_parameter(key, nn.Parameter(value.clone()))
        else:
            self.add_module(key, NonNegative(value, kind))

    def value(self, name: str, slot: int) -> Tensor:
        """The tensor that `name` holds in `slot`."""
        held = getattr(self, f"{name}_{slot}")
        return held() if isinstance(held, NonNegative) else held

    def layer(self, k: int) -> dict[str, Tensor]:
        """theta^k: the parameters of layer k by name."""
        return {name: self.value(name, table.slots[k]) for name, table in self.ties.items()}

    def values(self) -> dict[str, Tensor]:
        """All slots as plain tensors, named `<name>_<slot>`: what a model file holds."""
        return {f"{name}_{s}": self.value(name, s).detach() for name, t in self.ties.items() for s in range(t.count)}

    @torch.no_grad()
    def load_values(self, values: Mapping[str, Tensor]) -> None:
        """Take all slots from `values`, named as in `values()`. Raises RuntimeError when names or shapes differ."""
        own, given = ({k: tuple(v.shape) for k, v in tensors.items()} for tensors in (self.values(), values))
        if own != given:
            raise RuntimeError(f"expected the tensors {own}, found {given}")
        for key, value in values.items():
            held = getattr(self, key)
            held.fold(value) if isinstance(held, NonNegative) else held.copy_(value)


class Unfolded(nn.Module):
    """K layers of an algorithm over a bank whose tie tables have K + 1 entries: one per step, the last for the readout.

    With untrained parameters the output equals K classical iterations bit for bit: the same functions run in the same
    order on the same numbers.
    """

    def __init__(self, algorithm: Algorithm, iterations: int, bank: Bank) -> None:
        super().__init__()
        for name, table in bank.ties.items():
            if len(table.slots) != iterations + 1:
                raise ValueError(f"{name} needs {iterations + 1} table entries, not {len(table.slots)}")
        self.algorithm, self.iterations, self.bank = algorithm, iterations, bank

    def trajectory(self, evidence: Tensor) -> list[State]:
        """[phi^0, ..., phi^K]: the starting state and the state after each layer."""
        states = [self.algorithm.start(evidence, self.bank.layer(0))]
        for k in range(self.iterations):
            states.append(self.algorithm.step(evidence, states[-1], self.bank.layer(k)))
        return states

    @property
    def fixed_layers(self) -> int:
        """Layers below the lowest trained one; none if layer 0 is trained, on which phi^0 depends."""
        trained = [
            k for table in self.bank.ties.values() for k, slot in enumerate(table.slots) if slot in table.trained
        ]
        return min([*trained, self.iterations])

    @torch.no_grad()
    def fixed_state(self, evidence: Tensor, layers: int = 0, known: State = None) -> State:
        """The state above the fixed layers, which training does not change; `known` is phi^layers if it is at hand."""
        state = self.algorithm.start(evidence, self.bank.layer(0)) if known is None else known
        return self._run(evidence, state, layers, self.fixed_layers)

    def infer(self, evidence: Tensor, fixed: State = None) -> tuple[Tensor, State]:
        """y = g(x, phi^K), and phi^K for whoever continues from it; `fixed` is `fixed_state(evidence)` if at hand."""
        if fixed is None:
            state = self._run(evidence, self.algorithm.start(evidence, self.bank.layer(0)), 0, self.iterations)
        else:
            state = self._run(evidence, fixed, self.fixed_layers, self.iterations)
        return self.algorithm.readout(evidence, state, self.bank.layer(self.iterations)), state

    def _run(self, evidence: Tensor, state: State, first: int, last: int) -> State:
        for k in range(first, last):
            state = self.algorithm.step(evidence, state, self.bank.layer(k))
        return state

    def forward(self, evidence: Tensor) -> Tensor:
        """y = g(x, phi^K)."""
        return self.infer(evidence)[0]
