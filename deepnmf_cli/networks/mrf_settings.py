"""Shapes of the Markov-random-field networks of `deepnmf_cli.networks.mrf`."""

from dataclasses import dataclass
from itertools import pairwise

GRAPHS = ("layers", "complete", "bands", "chain", "grid", "edges")
SCHEDULES = ("synchronous", "layer", "unit")
ALPHAS = ("fixed", "annealed", "trained")
MEANS = ("geometric", "arithmetic")


@dataclass(frozen=True)
class MeanFieldSettings:
    """Units, the graph of their messages, and what is trained; the other models' settings have the same keys."""

    bins: int = 257
    context: int = 9
    """Frames of left context stacked as evidence, the present one included."""
    graph: str = "layers"
    """Which units exchange messages. "layers": every layer has units of its own, which listen to the layer below.
    "complete": one field of all units, each with each. "bands": one field in which hidden units are joined to all of
    the mask's, and these to their neighbours. "chain": the mask's units alone, each with the next bin's. "grid": units
    for every bin of every frame of context, each with the next bin's and the next frame's. "edges": as in `edges`."""
    hidden: tuple[int, ...] = (256, 256)
    """Hidden units of each layer; at most one entry for a field, none for "chain" and "grid"."""
    edges: tuple[tuple[int, int], ...] = ()
    """Pairs of units, for the graph "edges". Hidden units have the first numbers, then come the mask's by frequency."""
    evidence: str = "every"
    """Layers that the evidence feeds: "every" (20) or "first", which makes a conventional network."""
    states: int = 2
    """Number of states of a hidden unit. The mask's units have two: noise or speech dominates."""
    schedule: str = "synchronous"
    """gamma of (17): 1, or trained for every "layer" or every "unit" where a layer has the units of the one below."""
    iterations: int = 5
    """Rounds of messages in a field; with layers, there are as many as layers."""
    tied: bool = False
    """In a field, the same parameters for all rounds."""
    reach: int = 1
    """Distance in bins up to which a mask's unit has neighbours in the graph "bands"."""

    def __post_init__(self) -> None:
        if min(self.bins, self.context, self.iterations, self.reach, *self.hidden, 1) < 1 or self.reach >= self.bins:
            raise ValueError("bins, context, iterations, reach and hidden must be positive, reach below bins")
        for name, value, known in (
            ("graph", self.graph, GRAPHS),
            ("evidence", self.evidence, ("every", "first")),
            ("schedule", self.schedule, SCHEDULES),
        ):
            if value not in known:
                raise ValueError(f"{name} {value!r} is none of {', '.join(known)}")
        if self.states < 2:
            raise ValueError("units must have at least 2 states")
        if self.graph == "layers":
            if not self.hidden or self.tied:
                raise ValueError("layers need at least one hidden size, and only a field can be tied")
            if self.schedule != "synchronous" and not any(self.scheduled):
                raise ValueError("a trained schedule needs hidden layers of equal size, one on the other")
        elif len(self.hidden) > 1 or self.evidence != "every" or self.states != 2:
            raise ValueError("a field has one number of hidden units, of two states, and evidence for every round")
        if self.graph in ("chain", "grid") and self.hidden:
            raise ValueError(f"the graph {self.graph!r} has no hidden units: set hidden to []")
        self._check_edges()

    def _check_edges(self) -> None:
        if bool(self.edges) != (self.graph == "edges"):
            raise ValueError('edges are given for the graph "edges", and for no other')
        pairs = {(min(pair), max(pair)) for pair in self.edges}
        if len(pairs) < len(self.edges) or any(not 0 <= i < j < self.units for i, j in pairs):
            raise ValueError(f"edges join two of the units 0 .. {self.units - 1}, each pair once")

    @property
    def sizes(self) -> tuple[int, ...]:
        """Units of every layer, the mask's last; in a field all of them are one layer."""
        return (*self.hidden, self.bins) if self.graph == "layers" else (self.units,)

    @property
    def units(self) -> int:
        """Units of a field, hidden ones and those of the mask."""
        return self.context * self.bins if self.graph == "grid" else sum(self.hidden) + self.bins

    @property
    def scheduled(self) -> list[bool]:
        """For each hidden layer above the first, whether its units are those of the layer below and may keep some of
        their beliefs.
        """
        return [a == b for a, b in pairwise(self.hidden)]


@dataclass(frozen=True)
class BeliefPropagationSettings(MeanFieldSettings):
    """Settings of mean field, and the kind of message."""

    temperature: float = 1.0
    """1 is sum-product, with units like softmaxout (29); 0 max-product, with units like maxout (30)."""
    reciprocal: bool = False
    """Leave out of each message what came the other way, as in (22); for a field. Exact on trees."""
    mean: str = "geometric"
    """Mean of old and new messages under a trained schedule, in a field: "geometric" (17) or "arithmetic" (25)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.mean not in MEANS:
            raise ValueError(f"mean {self.mean!r} is none of {', '.join(MEANS)}")
        if self.mean == "arithmetic" and (self.graph == "layers" or self.schedule == "synchronous"):
            raise ValueError("an arithmetic mean of messages needs a field and a trained schedule")
        if not 0 <= self.temperature <= 1:
            raise ValueError("temperature must lie in [0, 1]")
        if self.temperature != 1 and self.graph != "layers":
            raise ValueError("in a field the temperature is 1")
        if self.reciprocal and self.graph == "layers":
            raise ValueError("reciprocal messages need a field: between layers none come the other way")


@dataclass(frozen=True)
class PowerMeanSettings(MeanFieldSettings):
    """Settings of mean field, and the exponent of the messages."""

    alpha: float = 0.5
    """Exponent of (27): 0 is mean field, 1 belief propagation. Its initial value, unless it is fixed."""
    alphas: str = "trained"
    """"fixed", "trained" for every layer, or "annealed" for all layers together while training goes on."""
    anneal_to: float = 1.0
    """Final value of an annealed alpha."""
    anneal_part: float = 0.5
    """Part of the training during which an annealed alpha changes, in (0, 1]."""
    reciprocal: bool = False
    """As in belief propagation."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.alphas not in ALPHAS:
            raise ValueError(f"alphas {self.alphas!r} is none of {', '.join(ALPHAS)}")
        if not (-10 <= self.alpha <= 10 and -10 <= self.anneal_to <= 10 and 0 < self.anneal_part <= 1):
            raise ValueError("alpha and anneal_to must lie in [-10, 10], anneal_part in (0, 1]")
        if self.reciprocal and self.graph == "layers":
            raise ValueError("reciprocal messages need a field: between layers none come the other way")
