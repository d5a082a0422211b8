"""Training terms for layers below the last: each is to be good, to descend, and to suffer no harm from noise.

* Deep supervision (Lee et al., "Deeply-supervised nets", AISTATS 2015): the objective after every layer.
* Self-distillation (Zhang et al., "Be your own teacher", ICCV 2019): the last layer's estimate as a target.
* Descent constraints and noise between layers: `deepnmf_cli.training.primal_dual`.

All layers are read out in one pass. Layers that training does not change are left out.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor

from deepnmf_cli.errors import RecipeError
from deepnmf_cli.inference.algorithm import Descent
from deepnmf_cli.networks.base import MaskNetwork
from deepnmf_cli.training.minibatch import Batch, FrameBatch
from deepnmf_cli.training.objectives import TINY, Truth, compressed, mask_size, relative_error
from deepnmf_cli.training.primal_dual import ConstraintSettings, Multipliers, slack
from deepnmf_cli.unfold.implicit import Settled
from deepnmf_cli.unfold.network import Trace
from deepnmf_cli.unfold.recurrent import RecurrentUnfolded

POWER = 0.5
"""Power of the magnitudes between which distances are measured, as in the objective's term `compressed_half`."""

STEPS_PER_SEED = 1 << 32
"""Number of noise seeds per seed of a run, so that each step of each run has its own."""

LARGEST_SEED = 1 << 63

Masks = Callable[[], Tensor]
"""A function that returns the network's masks for one batch."""


@dataclass(frozen=True)
class DepthSettings:
    """Weights of training terms for every layer, so that the network may be stopped there; none by default."""

    supervision: tuple[float, ...] = ()
    """Weight of the objective after each layer but the last: a number for each, or one for all of them."""
    distillation: tuple[float, ...] = ()
    """Weight of the squared distance from the last layer's estimate, in the same form."""

    def __post_init__(self) -> None:
        if min((*self.supervision, *self.distillation), default=0.0) < 0:
            raise ValueError("supervision and distillation must not be negative")

    @property
    def wanted(self) -> bool:
        """Return whether any layer below the last one counts."""
        return any(self.supervision) or any(self.distillation)

    def weights(self, layers: int) -> list[tuple[float, float]]:
        """Return (supervision, distillation) of layers 1 .. `layers` - 1.

        Raises ValueError if the number of weights does not fit that of the layers.
        """
        rows = []
        for name in ("supervision", "distillation"):
            given = getattr(self, name)
            if len(given) not in (0, 1, layers - 1):
                raise ValueError(f"{name} has {len(given)} weights for the {layers - 1} layers below the last")
            rows.append(given * (layers - 1) if len(given) == 1 else given or (0.0,) * (layers - 1))
        return list(zip(*rows, strict=True))


def require_support(
    network: MaskNetwork, depth: DepthSettings, constraints: ConstraintSettings, where: str = "recipe"
) -> None:
    """Raise RecipeError if these settings cannot be used with a network."""
    place = f"{where} [{'depth' if depth.wanted else 'constraints'}]"
    if not network.depths:
        expected, remedy = "one that gives masks after every layer, such as grid", "Leave the section out."
        raise RecipeError(place, f"the model {network.name}", expected, remedy)
    unfolded = network.unfolded
    if isinstance(unfolded, Settled):
        found, expected = 'network.gradient="implicit"', "states of all layers, which it does not keep"
        raise RecipeError(place, found, expected, 'Set network.gradient="unrolled".')
    try:
        depth.weights(unfolded.iterations)
    except ValueError as error:
        remedy = "Give one number for all of them, or one for each."
        raise RecipeError(f"{where} [depth]", str(error), f"1 or {unfolded.iterations - 1}", remedy) from error
    if constraints.kind == "none":
        return
    if unfolded.fixed_layers == unfolded.iterations:
        found, remedy = "a network of which only the readout is trained", "Raise network.trained_layers."
        raise RecipeError(f"{where} constraints.kind", found, "a trained layer below it", remedy)
    of_algorithm = constraints.kind in ("objective", "gradient")
    if of_algorithm and (not isinstance(unfolded.algorithm, Descent) or isinstance(unfolded, RecurrentUnfolded)):
        found = f"{constraints.kind!r} for the model {network.name}"
        expected = "an algorithm without recurrence that has an objective, such as ista or sparse NMF"
        raise RecipeError(f"{where} constraints.kind", found, expected, 'Set constraints.kind="target".')


@dataclass(frozen=True)
class LayerNoise:
    """Gaussian noise on the states that layers pass to each other, a disturbance for `Unfolded`."""

    layers: int
    """Number of layers of the network; there is no noise after the last one."""
    size_after: Callable[[int], float]
    """Standard deviation after a layer, relative to the root mean square of each tensor there."""
    generator: torch.Generator

    def __call__(self, layer: int, state: Any) -> Any:
        """Return the state that the next layer gets instead."""
        size = self.size_after(layer)
        if layer == self.layers or not size:
            return state
        if isinstance(state, tuple):  # nested tuples are carried through time
            return tuple(self._noisy(x, size) if isinstance(x, Tensor) else x for x in state)
        return self._noisy(state, size)

    def _noisy(self, x: Tensor, size: float) -> Tensor:
        """Return x with noise; if x is nowhere negative it stays so, as negative values may make no sense there."""
        noise = torch.randn(x.shape, generator=self.generator, device=x.device, dtype=x.dtype)
        noisy = x + size * x.detach().square().mean().sqrt() * noise
        return torch.where((x >= 0).all(), noisy.clamp_min(0), noisy)


class LayerTerms:
    """The terms, the multipliers and the noise of one training run."""

    def __init__(
        self, network: MaskNetwork, depth: DepthSettings, constraints: ConstraintSettings, seed: int = 0
    ) -> None:
        """Raises RecipeError as `require_support` does."""
        require_support(network, depth, constraints)
        self.network, self.constraints, self._seed = network, constraints, seed
        self._weights = depth.weights(network.unfolded.iterations) if depth.wanted else []
        unfolded = network.unfolded
        self._layers = range(unfolded.fixed_layers, unfolded.iterations + 1)
        """Numbers of the state before the first trained layer, and of those after each trained layer."""
        self.constrained = constraints.kind != "none"
        device = next(network.parameters()).device
        count = len(self._layers) - 1 if self.constrained else 0
        self.epsilon = constraints.share(max(1, count))
        self.multipliers = Multipliers(count, constraints.dual_rate, device)
        self._slack, self._steps, self._since = torch.zeros(count, device=device), 0, 0
        self._reference: dict[str, Tensor] = {}
        """The algorithm's parameters at the start of training, since layers that are trained separately have no common
        objective."""
        if constraints.kind in ("objective", "gradient"):
            self._reference = {name: x.detach().clone() for name, x in unfolded.bank.layer(0).items()}

    def total(
        self, batch: Batch | FrameBatch, masks: Masks, objective: Callable[[Tensor], Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Return the Lagrangian to minimise, and the objective of the whole network, its noise included.

        The multipliers of layers that fell short are increased.
        """
        noise = None
        if self.constraints.noise:
            generator = torch.Generator(self.multipliers.values.device)
            generator.manual_seed((self._seed * STEPS_PER_SEED + self._steps) % LARGEST_SEED)
            noise = LayerNoise(self.network.unfolded.iterations, self.constraints.noise_after, generator)
        self._steps += 1
        with self.network.unfolded.remembered(noise) as trace:
            last = masks()

            @cache
            def after(layer: int) -> Tensor:
                return last if layer == self.network.unfolded.iterations else self._after(layer, masks)

            speech = partial(compressed_speech, batch.truth)
            teacher = cache(lambda: speech(last.detach()))
            loss = total = objective(last)
            for layer, (supervision, distillation) in enumerate(self._weights, start=1):
                if layer not in trace.states or not (supervision or distillation):
                    continue
                if supervision:
                    total = total + supervision * objective(after(layer))
                if distillation:
                    total = total + distillation * relative_error(speech(after(layer)), teacher())
            if self.constrained:
                with torch.set_grad_enabled(self.multipliers.active):
                    found = slack(self._measures(batch, trace, after), self.epsilon)
                total = self.multipliers.lagrangian(total, found)
                self.multipliers.ascend(found)
                self._slack, self._since = self._slack + found.detach(), self._since + 1
        return total, loss

    @torch.no_grad()
    def judge(self, batches: Iterable[Batch]) -> Tensor:
        """Return the slack (K,) of the network as it is, without noise, from means over all batches."""
        measures = []
        for batch in batches:
            with self.network.unfolded.remembered() as trace:
                batch.masks(self.network)
                masks = partial(batch.masks, self.network)
                measures.append(self._measures(batch, trace, partial(self._after, masks=masks)))
        return slack(torch.stack(measures).mean(0), self.epsilon)

    def feasible(self, found: Tensor) -> bool:
        """Return whether a slack (K,) is within the tolerance."""
        return bool((found <= self.constraints.tolerance).all())

    def report(self, judged: Tensor) -> list[dict[str, float]]:
        """Return for each layer its multiplier, its mean slack in training since the last report, and its slack in
        `judged`.
        """
        trained = self._slack / max(1, self._since)
        self._slack, self._since = torch.zeros_like(self._slack), 0
        columns = (x.tolist() for x in (self.multipliers.values, trained, judged))
        rows = zip(self._layers[1:], *columns, strict=True)
        return [dict(zip(("layer", "multiplier", "slack", "dev_slack"), row, strict=True)) for row in rows]

    def state(self) -> dict[str, Tensor]:
        """Return the state that a resumed run needs to continue bit for bit."""
        counts = torch.tensor([self._steps, self._since])
        held = {"multipliers": self.multipliers.values, "slack": self._slack, "counts": counts}
        return held | {f"reference.{name}": x for name, x in self._reference.items()}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Restore a state that `state` returned. Raises ValueError if it is that of other constraints."""
        own = self.state()
        if {k: x.shape for k, x in own.items()} != {k: x.shape for k, x in state.items()}:
            raise ValueError("multipliers of other constraints")
        moved = {name: x.to(own[name].device) for name, x in state.items()}
        self.multipliers.values, self._slack = moved["multipliers"], moved["slack"]
        self._steps, self._since = moved["counts"].tolist()
        self._reference = {name: moved[f"reference.{name}"] for name in self._reference}

    def _measures(self, batch: Batch | FrameBatch, trace: Trace, after: Callable[[int], Tensor]) -> Tensor:
        """Return the measures m_0 .. m_K (K + 1,) of the constraint's kind, given the masks after each layer."""
        kind, algorithm = self.constraints.kind, self.network.unfolded.algorithm
        found = []
        for layer in self._layers:
            state = trace.states[layer]
            if kind == "target":
                estimate = compressed_speech(batch.truth, after(layer))
                error = relative_error(estimate, batch.truth.compressed_speech(POWER))
                found.append(error.add(TINY).sqrt())
            elif kind == "objective":
                found.append(algorithm.objective(trace.evidence, state, self._reference).mean())
            else:
                step = algorithm.step(trace.evidence, state, self._reference) - state
                found.append(step.square().mean().add(TINY**2).sqrt())
        return torch.stack(found)

    def _after(self, layer: int, masks: Masks) -> Tensor:
        """Return the masks after a layer that has already run."""
        with _stopped(self.network, layer):
            return masks()


@contextmanager
def _stopped(network: MaskNetwork, layer: int) -> Iterator[None]:
    unfolded = network.unfolded
    unfolded.depth = layer
    try:
        yield
    finally:
        unfolded.depth = unfolded.iterations


def compressed_speech(truth: Truth, masks: Tensor) -> Tensor:
    """Return `compressed` of the speech (B, F, T) that `masks` estimate, in the scaled mixtures."""
    return compressed(mask_size(masks.float().unbind(1)) * truth.magnitude, POWER)
