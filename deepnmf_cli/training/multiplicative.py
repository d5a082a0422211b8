"""Multiplicative training of deep NMF: dictionaries are multiplied by powers of quotients of gradient parts, (38).

`docs/theory/multiplicative.md` derives and compares the rules.
"""

import math

import torch
from torch import Tensor

from deepnmf_cli.errors import RecipeError
from deepnmf_cli.inference import nmf, wiener
from deepnmf_cli.inference.algorithm import Parameters
from deepnmf_cli.inference.divergence import divergence
from deepnmf_cli.inference.nmf import DICTIONARY
from deepnmf_cli.networks.base import NOISE, SPEECH, MaskNetwork
from deepnmf_cli.networks.deep_nmf import DeepNmf, DeepNmfSettings
from deepnmf_cli.training.descent import State
from deepnmf_cli.training.minibatch import Batch, FrameBatch
from deepnmf_cli.training.objectives import COMPRESSION_FLOOR, TERMS, TINY, ObjectiveSettings
from deepnmf_cli.unfold.split import Parts, split_gradient, wiener_parts

RULES = ("multiplicative", "exponentiated", "exponentiated-entries")

SMALLEST_PART = 1e-30
"""Added to both parts, so that weights stay where both vanish, as for atoms that are never used."""

LARGEST_STEP = math.exp(5)
"""Largest factor of one step: otherwise a part that vanishes alone would make a weight zero for ever."""

LARGEST_RELATIVE_STEP = 3.0
"""No entry's logarithm changes by more than this times the learning rate under `exponentiated`: quotients have heavy
tails, and with momentum a few large ones made training diverge."""

SQUARE_DECAY = 0.99
"""Decay of the running mean square that scales the steps of `exponentiated-entries`."""

LARGEST_EXPONENT = 1e4
"""Logarithms of quotients that are smaller than the learning rate by this factor are rounding errors of the parts."""


def require_support(network: object, objective: ObjectiveSettings, optimizer: str, where: str = "recipe") -> None:
    """Raise RecipeError for networks and objectives that the multiplicative rules do not support."""
    place, remedy = f"{where} training.optimizer", "Set training.optimizer=adam."
    if not isinstance(network, DeepNmfSettings):
        raise RecipeError(place, f"{optimizer!r} for another network", "deep-nmf or dnmf", remedy)
    if network.parameterisation != "log":
        found = f"network.parameterisation {network.parameterisation!r}"
        raise RecipeError(place, found, "log", "Set network.parameterisation=log.")
    if network.gradient != "unrolled":
        found = f"network.gradient {network.gradient!r}"
        raise RecipeError(place, found, "unrolled, which has parts", "Set network.gradient=unrolled.")
    other = [name for name in TERMS if name != "magnitude" and getattr(objective, name)]
    if other or not objective.magnitude:
        found = f"terms beside the masked magnitude: {', '.join(other)}" if other else "no masked magnitude"
        remedy = "Set objective.magnitude=1 and objective.compressed_half, compressed_third and snr to 0."
        raise RecipeError(place, found, "the objective (37) alone", remedy)


class MultiplicativeDescent:
    """Rules for the trained dictionaries W of a `DeepNmf`, where P and N are the parts of dE/dW for a batch.

    multiplicative: W <- A / B, with A <- rho A + W o N and B <- rho B + P. rho = 0 is (38), W <- W o N / P. This keeps
        the dictionaries that earlier batches asked for, W o N / P, weighted by P. There is no learning rate.
    exponentiated: W <- W o exp(eta m), m <- rho m + (1 - rho) log(N / P), with eta such that the entries of each
        dictionary change by the learning rate on average, in the logarithm.
    exponentiated-entries: the same with an eta for every entry: the learning rate over the root of the running mean
        square of its log(N / P), means as in Adam. The best of the three where it was measured.
    """

    def __init__(self, network: MaskNetwork, settings: ObjectiveSettings, rule: str, momentum: float) -> None:
        """`momentum` is rho, in [0, 1). Raises RecipeError as `require_support` does."""
        require_support(network.settings, settings, rule)
        assert isinstance(network, DeepNmf)
        self.network, self.settings, self.rule, self.momentum = network, settings, rule, momentum
        self.slots = sorted(network.settings.ties.trained)
        self.kept: State = {}

    @torch.no_grad()
    def step(self, batch: Batch | FrameBatch, learning_rate: float) -> float:
        """Take one step and return the loss before it."""
        parts, loss = self.parts(batch)
        for index, slot in enumerate(self.slots):
            held, pair = self.network.unfolded.bank.held(DICTIONARY, slot), parts[f"{DICTIONARY}_{slot}"]
            if not held.free.requires_grad:  # its turn in greedy training has not come
                continue
            if self.rule == "multiplicative":
                held.become(self._multiplied(index, held(), pair))
            elif self.rule == "exponentiated":
                held.become(held() * self._per_dictionary(index, _log_quotient(pair), learning_rate).exp())
            else:
                held.become(held() * self._per_entry(index, _log_quotient(pair), learning_rate).exp())
        return loss

    def parts(self, batch: Batch | FrameBatch) -> tuple[dict[str, Parts], float]:
        """Return the parts of the objective's gradient with respect to each trained dictionary, and its value."""
        s = self.network.settings
        evidence, fixed = batch.stacked(self.network)
        mixture, targets, weights = _targets(self.settings, batch)
        beta = self.settings.magnitude_beta
        offset = 0.0 if beta == 2 else COMPRESSION_FLOOR  # as in the objective
        losses = []

        def readout(state: Tensor, parameters: Parameters) -> tuple[Tensor, Parts]:
            models = nmf.readout(state, parameters[DICTIONARY][-s.bins :], (s.atoms, s.atoms))
            given = models.detach()
            estimates = wiener.apply_masks(wiener.masks(given), mixture)
            errors = divergence(targets + offset, estimates + offset, beta, elementwise=True)
            losses.append(float((weights * errors).sum()))
            return models, wiener_parts(given, mixture, targets, weights, beta, offset)

        return split_gradient(self.network.unfolded, evidence, readout, fixed), losses[0]

    def state(self) -> State:
        """Return the running sums of parts, or the running mean of logarithms."""
        return self.kept

    def load_state(self, state: State) -> None:
        """Restore a state that `state` returned."""
        device = next(self.network.parameters()).device
        self.kept = {i: {name: x.to(device) for name, x in held.items()} for i, held in state.items()}

    def _multiplied(self, index: int, w: Tensor, parts: Parts) -> Tensor:
        """Return W o N / P, equation (38); with momentum, A / B."""
        wanted, certainty = w * parts.negative, parts.positive
        if index in self.kept:
            wanted = wanted + self.momentum * self.kept[index]["wanted"]
            certainty = certainty + self.momentum * self.kept[index]["certainty"]
        self.kept[index] = {"wanted": wanted, "certainty": certainty}
        return ((wanted + SMALLEST_PART * w) / (certainty + SMALLEST_PART)).clamp(w / LARGEST_STEP, w * LARGEST_STEP)

    def _per_dictionary(self, index: int, value: Tensor, learning_rate: float) -> Tensor:
        mean = (1 - self.momentum) * value
        if index in self.kept:
            mean = mean + self.momentum * self.kept[index]["mean"]
        self.kept[index] = {"mean": mean}
        exponent = (learning_rate / mean.abs().mean()).clamp_max(LARGEST_EXPONENT)
        largest = LARGEST_RELATIVE_STEP * learning_rate
        return (exponent * mean).clamp(-largest, largest)

    def _per_entry(self, index: int, value: Tensor, learning_rate: float) -> Tensor:
        nothing = torch.zeros_like(value)
        held = self.kept.get(index, {"mean": nothing, "square": nothing, "count": value.new_zeros(())})
        mean = self.momentum * held["mean"] + (1 - self.momentum) * value
        square = SQUARE_DECAY * held["square"] + (1 - SQUARE_DECAY) * value.square()
        count = held["count"] + 1
        self.kept[index] = {"mean": mean, "square": square, "count": count}
        root = (square / (1 - SQUARE_DECAY**count)).sqrt()
        return learning_rate * mean / (1 - self.momentum**count) / root.clamp_min(learning_rate / LARGEST_EXPONENT)


def _log_quotient(parts: Parts) -> Tensor:
    """Return log(N / P)."""
    step = torch.log((parts.negative + SMALLEST_PART) / (parts.positive + SMALLEST_PART))
    return step.clamp(-math.log(LARGEST_STEP), math.log(LARGEST_STEP))


def _targets(settings: ObjectiveSettings, batch: Batch | FrameBatch) -> tuple[Tensor, Tensor, Tensor]:
    """Return the mixture (F, B T), targets (2, F, B T) and weights (2, 1, B T), frames side by side, such that the
    objective is the weighted sum of divergences (37).
    """
    truth = batch.truth
    targets = torch.stack([truth.target(source, settings.phase_sensitive) for source in (SPEECH, NOISE)], 1)
    beta = settings.magnitude_beta
    # Half squared errors over half the energy, other divergences over the sum of targets to the power beta.
    size = targets.square().sum((-1, -2)) / 2 if beta == 2 else (targets + COMPRESSION_FLOOR).pow(beta).sum((-1, -2))
    gamma = torch.tensor([1.0, settings.noise_weight], device=size.device)
    weights = settings.magnitude * gamma / (len(size) * (size + (TINY / 2 if beta == 2 else TINY)))
    per_frame = weights[..., None, None].expand(-1, -1, 1, targets.shape[-1])
    targets, per_frame = (x.permute(1, 2, 0, 3).flatten(-2) for x in (targets, per_frame))
    return nmf.join_frames(truth.magnitude), targets, per_frame
