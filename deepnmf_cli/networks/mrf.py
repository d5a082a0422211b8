"""Inference in Markov random fields as mask networks: mean field, belief propagation and everything between.

The evidence is a frame's log magnitudes with context, the units of the last layer are one binary variable per
frequency, "speech dominates here", and their marginals are the mask. `docs/theory/mrf.md` has the equations.
"""

from dataclasses import replace
from itertools import pairwise

import torch
from torch import Tensor

from deepnmf_cli.inference.graph import Graph
from deepnmf_cli.networks.frames import FrameNetwork, LogFeatures
from deepnmf_cli.networks.mrf_inference import Field, Messages, ReciprocalField, StateLayers, UnitLayers
from deepnmf_cli.networks.mrf_settings import BeliefPropagationSettings, MeanFieldSettings, PowerMeanSettings
from deepnmf_cli.networks.unit_kernel import compile_unit_kernel
from deepnmf_cli.unfold.network import Bank, Unfolded
from deepnmf_cli.unfold.ties import Ties

Slots = dict[str, tuple[Ties, list[Tensor]]]
"""Name -> (tie table, initial values)."""

GAMMA_LOGIT = 2.0
"""Where a trained schedule starts: gamma = 0.88."""

MACS_PER_MESSAGE = {True: 1, False: 3}
"""Multiply-adds per coupling: one in mean field, otherwise about what `inference.expectations` needs."""


class MrfNetwork(FrameNetwork):
    """K rounds of messages over a bank of couplings, evidence weights and biases."""

    alpha: float | None
    """Exponent of the messages; None for a parameter of every layer."""

    def __init__(self, settings: MeanFieldSettings) -> None:
        super().__init__()
        self.settings = settings
        self.features = LogFeatures(settings.bins)
        slots = _field_slots(settings) if settings.graph != "layers" else _layer_slots(settings, self._by_states)
        layers = len(next(iter(slots.values()))[0].slots)
        if self.alpha is None:
            slots["alpha"] = self._alpha_slots(layers)
        ties = {name: table for name, (table, _) in slots.items()}
        initial = {name: values for name, (_, values) in slots.items()}
        bank = Bank(ties, initial, dict.fromkeys(slots, "free"))
        self.unfolded = Unfolded(self._algorithm(), layers - 1, bank)
        if settings.graph == "layers" and self.alpha != 0:
            self._centre()

    @torch.no_grad()
    def _centre(self) -> None:
        """Biases against what messages add to those of mean field, so that units start as undecided as sigmoids do.

        Without them all units of an untrained network of 256 would be sure to be 1, since means of exponentials exceed
        exponentials of means.
        """
        bank = self.unfolded.bank
        for k in range(1, self.unfolded.iterations):
            parameters = bank.layer(k)
            parameters["bias"] -= self.unfolded.algorithm.excess(parameters)

    @property
    def _by_states(self) -> bool:
        """Whether units are computed state by state and not by their log odds."""
        return self.settings.states > 2 or getattr(self.settings, "temperature", 1.0) != 1

    def _algorithm(self) -> Messages:
        s = self.settings
        if s.graph != "layers":
            kind = ReciprocalField if getattr(s, "reciprocal", False) else Field
            return kind(self.alpha, graph=_graph(s), shown=s.bins)
        every = s.evidence == "every"
        if self._by_states:
            return StateLayers(self.alpha, every, temperature=getattr(s, "temperature", 1.0))
        return UnitLayers(self.alpha, every)

    def _alpha_slots(self, layers: int) -> tuple[Ties, list[Tensor]]:
        raise TypeError(f"{type(self).__name__} has no trained alpha")

    def frame_masks(self, stacked: Tensor, fixed: None = None) -> Tensor:
        speech = self.unfolded(self.features(stacked).mT).mT
        return torch.stack([speech, 1 - speech])

    def accelerate(self) -> bool:
        algorithm = self.unfolded.algorithm
        kernel = compile_unit_kernel()
        if kernel is None or self.alpha == 0 or isinstance(algorithm, StateLayers | ReciprocalField):
            return False
        self.unfolded.algorithm = replace(algorithm, kernel=kernel)
        return True

    def macs_per_frame(self) -> int:
        """Of all layers; couplings count as often as `MACS_PER_MESSAGE` says, in a field in both directions."""
        bank, algorithm = self.unfolded.bank, self.unfolded.algorithm
        total, both = 0, 2 if isinstance(algorithm, Field) else 1
        for k in range(self.unfolded.iterations):
            parameters = bank.layer(k)
            if algorithm.every or k == 0:
                total += parameters["evidence"].numel()
            if "couplings" in parameters and (k > 0 or both == 2):
                total += both * MACS_PER_MESSAGE[self.alpha == 0] * parameters["couplings"].numel()
        return total


class MeanField(MrfNetwork):
    """Equation (20): a sigmoid network whose evidence feeds every layer, or with evidence "first" the conventional one,
    equal to `Dnn`."""

    name = "mean-field"
    description = "Unfolded mean field in a Markov random field: sigmoid units, evidence for every layer"
    alpha = 0.0

    def __init__(self, settings: MeanFieldSettings = MeanFieldSettings()) -> None:
        super().__init__(settings)


class BeliefPropagation(MrfNetwork):
    """Units u_i = sum_j log(1 + b_j (exp(w_ij) - 1)) + a_i^T x + c_i, or with n states (29) and (30)."""

    name = "belief-propagation"
    description = "Unfolded belief propagation: units of products of probabilities"
    mixed_precision = False  # products of many factors need more than the eight bits of bfloat16
    alpha = 1.0

    def __init__(self, settings: BeliefPropagationSettings = BeliefPropagationSettings()) -> None:
        super().__init__(settings)


class PowerMean(MrfNetwork):
    """Messages log(1 + b_j (exp(alpha w) - 1))/alpha, with an alpha for every layer."""

    name = "power-mean"
    description = "Messages between mean field and belief propagation, their exponent fixed, annealed or trained"
    mixed_precision = False
    alpha = None

    def __init__(self, settings: PowerMeanSettings = PowerMeanSettings()) -> None:
        super().__init__(settings)

    def _alpha_slots(self, layers: int) -> tuple[Ties, list[Tensor]]:
        s = self.settings
        table = Ties.tied(layers) if s.tied else _repeat_last(_from_second(layers - 1, s.graph == "layers"))
        if s.alphas != "trained":
            table = Ties(table.slots, frozenset())
        return table, [torch.tensor(s.alpha)] * table.count

    @property
    def alphas(self) -> list[float]:
        """The exponents of the layers that get messages, from below."""
        bank = self.unfolded.bank
        return [bank.value("alpha", slot).item() for slot in range(bank.ties["alpha"].count)]

    @torch.no_grad()
    def anneal(self, progress: float) -> None:
        s = self.settings
        if s.alphas == "annealed":
            alpha = s.alpha + (s.anneal_to - s.alpha) * min(1.0, progress / s.anneal_part)
            for slot in range(self.unfolded.bank.ties["alpha"].count):
                self.unfolded.bank.value("alpha", slot).fill_(alpha)

    @property
    def annealing(self) -> bool:
        return self.settings.alphas == "annealed" and abs(self.alphas[0] - self.settings.anneal_to) > 1e-6


def _graph(s: MeanFieldSettings) -> Graph:
    """Hidden units first, then those of the mask."""
    hidden, units = sum(s.hidden), sum(s.hidden) + s.bins
    if s.graph == "complete":
        return Graph.complete(units)
    shown = torch.arange(hidden, units)
    joined = torch.cartesian_prod(torch.arange(hidden), shown).T if hidden else shown.new_zeros(2, 0)
    near = [torch.stack([shown[:-d], shown[d:]]) for d in range(1, s.reach + 1)]
    return Graph(units, torch.cat([joined, *near], 1))


def _repeat_last(table: Ties) -> Ties:
    """With an entry for the readout, which uses what the last step uses."""
    return Ties((*table.slots, table.slots[-1]), table.trained)


def _from_second(layers: int, layered: bool) -> Ties:
    """A slot for every layer that gets messages; the first of layers of units gets none, its entry is not used."""
    return Ties((0, *range(layers - 1)), frozenset(range(layers - 1))) if layered else Ties.untied(layers)


def _weights(rows: int, columns: int, gain: float) -> Tensor:
    """Glorot's; a sigmoid has slope 1/4 at zero, and four times the range keeps the spread of signals over depth."""
    return torch.nn.init.xavier_uniform_(torch.empty(rows, columns), gain)


def _layer_slots(s: MeanFieldSettings, by_states: bool) -> Slots:
    """For layers of units. With evidence for every layer, that of the upper ones starts at zero: conventionally."""
    layers, inputs = len(s.sizes), s.bins * s.context
    states = [s.states if by_states else 1] * (layers - 1) + [2 if by_states else 1]
    rows = [size * n for size, n in zip(s.sizes, states)]
    fed = layers if s.evidence == "every" else 1
    evidence = [_weights(rows[0], inputs, 1.0), *(torch.zeros(r, inputs) for r in rows[1:fed])]
    couplings = [_weights(above, below, 4.0) for below, above in pairwise(rows)]
    shape = (lambda size, n: (size, n)) if by_states else (lambda size, n: (size,))
    if by_states:
        couplings = [w.T.reshape(size, n, -1) for w, size, n in zip(couplings, s.sizes, states)]
    slots = {
        "couplings": (_repeat_last(_from_second(layers, True)), couplings),
        "evidence": (_repeat_last(Ties.untied(layers)) if fed > 1 else Ties.tied(layers + 1), evidence),
        "bias": (_repeat_last(Ties.untied(layers)), [torch.zeros(shape(*x)) for x in zip(s.sizes, states)]),
    }
    if s.schedule != "synchronous":
        own = (lambda size: (size, 1) if by_states else (size,)) if s.schedule == "unit" else (lambda size: ())
        # The first slot, of no units, belongs to layers without a schedule.
        logits, table = [torch.zeros(0)], [0]
        for size, scheduled in zip(s.hidden[1:], s.scheduled):
            table.append(len(logits) if scheduled else 0)
            logits += [torch.full(own(size), GAMMA_LOGIT)] if scheduled else []
        slots["schedule"] = (Ties((*table, 0, 0), frozenset(range(1, len(logits)))), logits)
    return slots


def _field_slots(s: MeanFieldSettings) -> Slots:
    """For a field: couplings of its edges, everything in each round or once for all."""
    graph, inputs = _graph(s), s.bins * s.context
    table = Ties.tied(s.iterations + 1) if s.tied else _repeat_last(Ties.untied(s.iterations))
    spread = (2 * graph.size / graph.nodes) ** -0.5  # of as many neighbours as a unit has on average

    def each(make) -> tuple[Ties, list[Tensor]]:
        return table, [make() for _ in range(table.count)]

    slots = {
        "couplings": each(lambda: spread * torch.randn(graph.size)),
        "evidence": each(lambda: _weights(graph.nodes, inputs, 1.0)),
        "bias": each(lambda: torch.zeros(graph.nodes)),
    }
    if s.schedule != "synchronous":
        shape = (graph.nodes,) if s.schedule == "unit" else ()
        slots["schedule"] = each(lambda: torch.full(shape, GAMMA_LOGIT))
    return slots
