"""Which layers share which parameters: untying is a table of integers."""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Ties:
    """For one parameter: the slot that each layer uses, and the slots that training may change.

    `slots[k]` is the slot of layer k, None if the layer does not use the parameter; slots are numbered 0..max without
    gaps. The last layer is the readout.
    """

    slots: tuple[int | None, ...]
    trained: frozenset[int]

    def __post_init__(self) -> None:
        used = {slot for slot in self.slots if slot is not None}
        if not used or used != set(range(len(used))) or not self.trained <= used:
            raise ValueError(f"slots must be numbered without gaps and trained slots must exist: {self}")

    @classmethod
    def tied(cls, layers: int, trained: bool = True) -> "Ties":
        """Return one slot for all layers: the classical algorithm, or the same algorithm with trained parameters."""
        return cls.among(layers, range(layers), tied=True, trained=trained)

    @classmethod
    def untied(cls, layers: int) -> "Ties":
        """Return a separate slot for every layer, all trained."""
        return cls.among(layers, range(layers))

    @classmethod
    def among(cls, layers: int, used: Iterable[int], tied: bool = False, trained: bool = True) -> "Ties":
        """Return a slot for every layer of `used`, or with `tied` one for all of them; the other layers have none."""
        slots = {layer: 0 if tied else slot for slot, layer in enumerate(sorted(used))}
        trained_slots = frozenset(slots.values()) if trained else frozenset()
        return cls(tuple(slots.get(layer) for layer in range(layers)), trained_slots)

    @classmethod
    def last(cls, layers: int, trained: int, used: Iterable[int] | None = None, own: bool = False) -> "Ties":
        """Return separate slots for those of the `used` layers (all by default) that are among the last `trained`
        layers; the ones below share slot 0, or with `own` have separate slots too, and stay fixed.
        """
        if not 0 <= trained <= layers:
            raise ValueError(f"between 0 and {layers} layers can be trained, not {trained}")
        places = sorted(range(layers) if used is None else used)
        below = sum(layer < layers - trained for layer in places)
        shared = 0 if own else max(0, below - 1)  # number of slots that sharing saves
        slots = {layer: max(0, number - shared) for number, layer in enumerate(places)}
        fixed = {slots[layer] for layer in places[:below]}
        return cls(tuple(slots.get(layer) for layer in range(layers)), frozenset(slots.values()) - fixed)

    @property
    def count(self) -> int:
        """Number of slots."""
        return len({slot for slot in self.slots if slot is not None})

    def first_layer(self, slot: int) -> int:
        """The lowest layer that uses `slot`."""
        return self.slots.index(slot)
