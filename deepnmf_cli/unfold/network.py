"""Deep unfolding in general: K iterations of an inference algorithm become K layers over a bank of parameters.

Layer k has parameters theta^k of its own, tied or untied by a table. See `deepnmf_cli.inference.algorithm` for what an
algorithm is.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from deepnmf_cli.inference.algorithm import Algorithm, Evidence, Parameter, State
from deepnmf_cli.unfold.nonnegative import NonNegative
from deepnmf_cli.unfold.ties import Ties

Method = TypeVar("Method", bound=Algorithm)
"""The algorithm that is unfolded."""

Disturb = Callable[[int, Any], Any]
"""(k, phi^k) -> the state that layer k + 1 gets in its place."""


@dataclass
class Trace:
    """States of the layers for one evidence: the state after each layer that ran, by the number of the layer.

    `Unfolded` remembers them before any disturbance, recurrent networks after it.
    """

    evidence: Any = None
    states: dict[int, Any] = field(default_factory=dict)


class Bank(nn.Module):
    """The parameters of all layers: for each name a tie table and one value per slot.

    Trained slots are `NonNegative` modules, plain nn.Parameters, or modules supplied by an algorithm; fixed tensors are
    buffers, so that autograd records nothing in layers below the first trained one.
    """

    def __init__(
        self,
        ties: Mapping[str, Ties],
        initial: Mapping[str, Sequence[Tensor | nn.Module]],
        kinds: Mapping[str, str],
        settings: Iterable[str] = (),
    ) -> None:
        """`initial[name][slot]`; `kinds[name]` is "free", "log" or "softplus" (see `NonNegative`); `settings` are the
        names of what settings alone determine.
        """
        super().__init__()
        self.of_settings = frozenset(settings)
        self.ties = dict(ties)
        self.kinds = dict(kinds)
        for name, table in self.ties.items():
            if len(initial[name]) != table.count:
                raise ValueError(f"{name} has {table.count} slots but {len(initial[name])} initial values")
            for slot, value in enumerate(initial[name]):
                self._add(f"{name}_{slot}", value, slot in table.trained, self.kinds[name])

    @classmethod
    def declared(
        cls,
        parameters: Mapping[str, Parameter],
        iterations: int,
        tied: bool = False,
        ties: Mapping[str, Ties] = {},
        last: int | None = None,
    ) -> "Bank":
        """Return the bank for the parameters that an algorithm declares.

        A parameter has a slot for every layer that uses it, or, with `tied` or where it is shared, one slot for all of
        them. With `last`, only the last `last` layers are trained, the readout included, and the layers below share
        what they can. `ties` are tables that replace these.
        """
        used = {name: p for name, p in parameters.items() if p.layers}
        layers = iterations + 1

        def table(p: Parameter) -> Ties:
            if last is None or p.shared or not p.trained:
                return Ties.among(layers, p.layers, p.shared or (tied and not p.own), p.trained)
            return Ties.last(layers, last, p.layers, p.own)

        tables = {name: ties.get(name) or table(p) for name, p in used.items()}
        initial = {
            name: [p.initial(tables[name].first_layer(slot)) for slot in range(tables[name].count)]
            for name, p in used.items()
        }
        settings = (name for name, p in used.items() if p.setting)
        return cls(tables, initial, {name: p.kind for name, p in used.items()}, settings)

    def _add(self, key: str, value: Tensor | nn.Module, trained: bool, kind: str) -> None:
        if isinstance(value, nn.Module):
            self.add_module(key, value.requires_grad_(trained))
        elif not trained:
            self.register_buffer(key, value.clone())
        elif kind == "free":
            self.register_parameter(key, nn.Parameter(value.clone()))
        else:
            self.add_module(key, NonNegative(value, kind))

    def held(self, name: str, slot: int) -> Any:
        """Return what holds `name` in `slot`: a tensor, a `NonNegative`, or a module supplied by an algorithm."""
        return getattr(self, f"{name}_{slot}")

    def value(self, name: str, slot: int) -> Any:
        """Return the value of `name` in `slot`: a tensor, or a module supplied by an algorithm."""
        held = self.held(name, slot)
        return held() if isinstance(held, NonNegative) else held

    def layer(self, k: int) -> dict[str, Any]:
        """Return theta^k: the parameters of layer k by name, without those that are absent there."""
        slots = ((name, table.slots[k]) for name, table in self.ties.items())
        return {name: self.value(name, slot) for name, slot in slots if slot is not None}

    def fixed_settings(self) -> set[str]:
        """Return the names, as in `values()`, of fixed slots that settings alone determine."""
        slots = ((name, slot) for name in self.of_settings for slot in range(self.ties[name].count))
        return {f"{name}_{slot}" for name, slot in slots if slot not in self.ties[name].trained}

    def values(self) -> dict[str, Tensor]:
        """Return all slots as plain tensors, as stored in a model file: named `<name>_<slot>`, or for tensors of
        modules `<name>_<slot>.<its own name>`.
        """
        found: dict[str, Tensor] = {}
        for name, table in self.ties.items():
            for slot in range(table.count):
                value, key = self.value(name, slot), f"{name}_{slot}"
                if isinstance(value, nn.Module):
                    found |= {f"{key}.{inner}": x for inner, x in value.state_dict().items()}
                else:
                    found[key] = value.detach()
        return found

    @torch.no_grad()
    def load_values(self, values: Mapping[str, Tensor]) -> None:
        """Take all slots from `values`, named as in `values()`. Raises RuntimeError when names or shapes differ."""
        own, given = ({k: tuple(v.shape) for k, v in tensors.items()} for tensors in (self.values(), values))
        if own != given:
            raise RuntimeError(f"expected the tensors {own}, found {given}")
        for key, value in values.items():
            holder, _, inner = key.partition(".")
            held = getattr(self, holder)
            if isinstance(held, NonNegative):
                held.fold(value)
            else:
                (held.state_dict()[inner] if inner else held).copy_(value)


class Unfolded(nn.Module, Generic[Evidence, State, Method]):
    """K layers of an algorithm over a bank whose tie tables have K + 1 entries: one per step, the last for the readout.

    With untrained parameters the output equals K classical iterations bit for bit: the same functions run in the same
    order on the same numbers.
    """

    depth: int
    """Number of layers that run unless a call says otherwise: all K, or fewer for a network that is stopped early."""
    disturb: Disturb | None = None
    """Function that changes states between layers unless a call says otherwise."""
    trace: Trace | None = None
    """States kept for the present evidence; see `remembered`."""

    def __init__(self, algorithm: Method, iterations: int, bank: Bank) -> None:
        super().__init__()
        for name, table in bank.ties.items():
            if len(table.slots) != iterations + 1:
                raise ValueError(f"{name} needs {iterations + 1} table entries, not {len(table.slots)}")
        self.algorithm, self.iterations, self.bank = algorithm, iterations, bank
        self.depth = iterations

    def start(self, evidence: Evidence) -> State:
        """Return phi^0."""
        return self.algorithm.start(evidence, self.bank.layer(0))

    def states(
        self, evidence: Evidence, state: State, first: int = 0, disturb: Disturb | None = None
    ) -> Iterator[State]:
        """Yield phi^(first + 1), phi^(first + 2), ... phi^K from `state` = phi^first: the one loop over layers.

        `disturb` may change the input of the next layer, for example by noise; the changed states are yielded.
        """
        disturb = disturb or self.disturb
        for k in range(first, self.iterations):
            state = self.algorithm.step(evidence, state, self.bank.layer(k))
            if self.trace is not None:
                self.trace.states[k + 1] = state
            if disturb is not None:
                state = disturb(k + 1, state)
            yield state

    def readout(self, evidence: Evidence, state: State) -> Any:
        """Return y = g(x, phi), with the readout's parameters, for the state after any layer."""
        return self.algorithm.readout(evidence, state, self.bank.layer(self.iterations))

    def trajectory(self, evidence: Evidence, depth: int | None = None, disturb: Disturb | None = None) -> list[State]:
        """Return [phi^0, ..., phi^depth]: the starting state and the state after each layer.

        `depth` is at most K, and `self.depth` by default.
        """
        state = self.start(evidence)
        return [state, *islice(self.states(evidence, state, disturb=disturb), self._depth(depth))]

    def infer(self, evidence: Evidence, fixed: State | None = None, depth: int | None = None) -> tuple[Any, State]:
        """Return y = g(x, phi^depth), and phi^depth, from which the caller may continue.

        `depth` is at most K, and `self.depth` by default: a network may be stopped after any layer. `fixed` is
        `fixed_state(evidence)` if it has been computed already.
        """
        depth = self._depth(depth)
        if self.trace is not None and depth in self.trace.states:
            state = self.trace.states[depth]
            return self.readout(evidence, state), state
        if fixed is None or depth < self.fixed_layers:
            first, state = 0, self.start(evidence)
        else:
            first, state = self.fixed_layers, fixed
        if self.trace is not None:
            self.trace.evidence, self.trace.states[first] = evidence, state
        state = self._advance(evidence, state, first, depth)
        return self.readout(evidence, state), state

    @contextmanager
    def remembered(self, disturb: Disturb | None = None) -> Iterator[Trace]:
        """Keep the states of one evidence while the context lasts, so that all layers can be read out at the cost of
        one pass: `infer` at full depth runs the layers, and at a lower depth reuses their states.

        `disturb` changes the input of the next layer, as in `states`.
        """
        self.trace, self.disturb = Trace(), disturb
        try:
            yield self.trace
        finally:
            self.trace = self.disturb = None

    def forward(self, evidence: Evidence) -> Any:
        """Return y = g(x, phi) for the state after `self.depth` layers."""
        return self.infer(evidence)[0]

    @property
    def fixed_layers(self) -> int:
        """Number of layers below the lowest trained one; 0 if layer 0 is trained, on which phi^0 depends."""
        trained = [
            k
            for table in self.bank.ties.values()
            for k, slot in enumerate(table.slots)
            if slot is not None and slot in table.trained
        ]
        return min([*trained, self.iterations])

    @torch.no_grad()
    def fixed_state(self, evidence: Evidence, layers: int = 0, known: State | None = None) -> State:
        """Return the state after the fixed layers, which training does not change; `known` is phi^layers if given."""
        state = self.start(evidence) if known is None else known
        return self._advance(evidence, state, layers, self.fixed_layers)

    def _advance(self, evidence: Evidence, state: State, first: int, last: int) -> State:
        """phi^last from phi^first."""
        for later in islice(self.states(evidence, state, first), max(0, last - first)):
            state = later
        return state

    def _depth(self, depth: int | None) -> int:
        if depth is not None and not 0 <= depth <= self.iterations:
            raise ValueError(f"a depth of {depth} for {self.iterations} layers")
        return self.depth if depth is None else depth
