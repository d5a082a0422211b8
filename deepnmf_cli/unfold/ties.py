"""Which layers share which parameters: untying is a table of integers."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Ties:
    """For one parameter: the slot that each layer uses, and the slots that training may change.

    `slots[k]` is the slot of layer k; slots are numbered 0..max without gaps. The last layer is the readout.
    """

    slots: tuple[int, ...]
    trained: frozenset[int]

    def __post_init__(self) -> None:
        if set(self.slots) != set(range(max(self.slots) + 1)) or not self.trained <= set(self.slots):
            raise ValueError(f"slots must be numbered without gaps and trained slots must exist: {self}")

    @classmethod
    def tied(cls, layers: int, trained: bool = True) -> "Ties":
        """One slot for all layers: the classical algorithm, or its parameters optimised as they are."""
        return cls((0,) * layers, frozenset({0} if trained else ()))

    @classmethod
    def untied(cls, layers: int) -> "Ties":
        """A slot of its own for every layer, all trained."""
        return cls(tuple(range(layers)), frozenset(range(layers)))

    @classmethod
    def last(cls, layers: int, trained: int) -> "Ties":
        """The last `trained` layers have slots of their own; all layers below share slot 0, which stays fixed."""
        if not 0 <= trained <= layers:
            raise ValueError(f"between 0 and {layers} layers can be trained, not {trained}")
        if trained == layers:
            return cls.untied(layers)
        return cls((0,) * (layers - trained) + tuple(range(1, trained + 1)), frozenset(range(1, trained + 1)))

    @property
    def count(self) -> int:
        """Number of slots."""
        return max(self.slots) + 1

    def first_layer(self, slot: int) -> int:
        """The lowest layer that uses `slot`."""
        return self.slots.index(slot)
