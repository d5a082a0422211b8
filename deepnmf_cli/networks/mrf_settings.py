"""Shapes of the Markov-random-field networks of `deepnmf_cli.networks.mrf`."""

from dataclasses import dataclass
from itertools import pairwise

GRAPHS = ("layers", "complete", "bands")
SCHEDULES = ("synchronous", "layer", "unit")
ALPHAS = ("fixed", "annealed", "trained")


@dataclass(frozen=True)
class MeanFieldSettings:
    """Units, who sends messages to whom, and what is trained; the other models' settings have the same keys."""

    bins: int = 257
    context: int = 9
    """Frames of left context stacked as evidence, the present one included."""
    graph: str = "layers"
    """Which units exchange messages. "layers": every layer has units of its own, which listen to the layer below.
    "complete": one field of all units, each with each. "bands": one field in which hidden units are joined to all of
    the mask's, and these to their neighbours."""
    hidden: tuple[int, ...] = (256, 256)
    """Hidden units of each layer; at most one entry for a field."""
    evidence: str = "every"
    """Layers that the evidence feeds: "every" (20) or "first", which makes a conventional network."""
    states: int = 2
    """Of a hidden unit. The mask's units have two: noise or speech dominates."""
    schedule: str = "synchronous"
    """gamma of (17): 1, or trained for every "layer" or every "unit" where a layer has the units of the one below."""
    iterations: int = 5
    """Rounds of messages in a field; in layers their number is that of the layers."""
    tied: bool = False
    """In a field, the same parameters for all rounds."""
    reach: int = 1
    """Bins up to which a mask's unit has neighbours in the graph "bands"."""

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

    @property
    def sizes(self) -> tuple[int, ...]:
        """Units of every layer, the mask's last; in a field all of them are one layer."""
        return (*self.hidden, self.bins) if self.graph == "layers" else (sum(self.hidden) + self.bins,)

    @property
    def scheduled(self) -> list[bool]:
        """Layer by layer, whether its units are those of the layer below and may keep some of their beliefs."""
        return [a == b for a, b in pairwise(self.hidden)]


@dataclass(frozen=True)
class BeliefPropagationSettings(MeanFieldSettings):
    """As for mean field, and the kind of message."""

    temperature: float = 1.0
    """1 is sum-product, with units like softmaxout (29); 0 max-product, with units like maxout (30)."""
    reciprocal: bool = False
    """Leave out of each message what came the other way, as (22) has it; for the graph "bands"."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.temperature <= 1:
            raise ValueError("temperature must lie in [0, 1]")
        if self.temperature != 1 and self.graph != "layers":
            raise ValueError("in a field the temperature is 1")
        if self.reciprocal and self.graph != "bands":
            raise ValueError('reciprocal messages need the graph "bands"; others have too many')


@dataclass(frozen=True)
class PowerMeanSettings(MeanFieldSettings):
    """As for mean field, and the exponent of the messages."""

    alpha: float = 0.5
    """Exponent of (27): 0 is mean field, 1 belief propagation. Where it starts, unless it is fixed."""
    alphas: str = "trained"
    """"fixed", "trained" for every layer, or "annealed" for all layers together while training goes on."""
    anneal_to: float = 1.0
    """Where an annealed alpha ends."""
    anneal_part: float = 0.5
    """Part of the training during which an annealed alpha changes, in (0, 1]."""
    reciprocal: bool = False
    """As in belief propagation; for the graph "bands"."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.alphas not in ALPHAS:
            raise ValueError(f"alphas {self.alphas!r} is none of {', '.join(ALPHAS)}")
        if not (-10 <= self.alpha <= 10 and -10 <= self.anneal_to <= 10 and 0 < self.anneal_part <= 1):
            raise ValueError("alpha and anneal_to must lie in [-10, 10], anneal_part in (0, 1]")
        if self.reciprocal and self.graph != "bands":
            raise ValueError('reciprocal messages need the graph "bands"; others have too many')
