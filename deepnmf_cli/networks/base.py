"""What every network of the product is: magnitudes in, masks out, a state that carries over from block to block.

A network may use phase too. Then `signal.features.phase_features` go in, and masks come out that
`signal.masks.complex_masks` reads.
"""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from deepnmf_cli.errors import UsageError, require_depth
from deepnmf_cli.signal.features import features
from deepnmf_cli.signal.level import modulus, normalise_level, running_level
from deepnmf_cli.signal.stft import FrontEnd
from deepnmf_cli.unfold.network import Unfolded
from deepnmf_cli.unfold.nonnegative import NonNegative

BANK = "unfolded.bank."
"""Where names of tensors in the bank of an unfolded network begin."""

SPEECH, NOISE = 0, 1
"""Order of the sources in every mask tensor."""


class MaskNetwork(nn.Module):
    """Base of the networks: level normalisation first, so that no network depends on the gain of a recording.

    A subclass implements `masks` and describes itself by `settings`, a frozen dataclass of plain values from which it
    can be built again.
    """

    name: ClassVar[str]
    description: ClassVar[str]
    """A line for lists of models."""
    settings_type: ClassVar[type]
    """The dataclass of its settings."""
    mixed_precision: ClassVar[bool] = True
    """Whether training on CUDA may compute its matrix products in bfloat16."""
    same_operations: ClassVar[bool] = False
    """Whether every batch takes the same operations on tensors, so that CUDA graphs may replay them."""
    from_dictionary: ClassVar[bool] = False
    """Whether it is made with a `dictionary` of speech and noise that is learned before training."""
    learns_noise: ClassVar[bool] = False
    """Whether `with_noise_atoms` can add to what it knows of noise."""
    names_slots: ClassVar[bool] = False
    """Whether `weights` names tensors of the bank in `unfolded` by their slots."""
    settings: Any
    unfolded: Any
    """What computes the masks, with a `bank`; not every network has it."""

    @property
    def uses_phase(self) -> bool:
        """Return whether it takes `signal.features.phase_features` in the place of magnitudes."""
        return False

    def features_of(self, spectrum: Tensor, window_hops: int) -> Tensor:
        """Return what `forward` takes of the spectra (B, F, T) of whole recordings of one channel, complex, whose
        windows have `window_hops` hops.
        """
        return features(spectrum[:, None], None, window_hops, self.uses_phase, modulus)

    def forward(self, inputs: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """Masks (B, 2, F, T) of magnitudes (B, F, T) >= 0, speech first, summing to one over the sources.

        A network that uses phase takes `signal.features.phase_features` (B, 5, F, T), and may add a third plane to the
        masks. `state` is None at the start of a recording and otherwise what the previous block returned: blocks of any
        length give the same masks as the whole recording.
        """
        past, inner = (None, None) if state is None else state
        if self.uses_phase:
            level, past = running_level(inputs[:, 0], past)
            level = level[:, None, None]
            evidence = torch.cat([inputs[:, :1] / level, inputs[:, 1:] / level.square()], 1)
        else:
            evidence, past = normalise_level(inputs, past)
        masks, inner = self.masks(evidence, inner)
        return masks, (past, inner)

    def masks(self, evidence: Tensor, state: Any) -> tuple[Tensor, Any]:
        """As `forward`, for magnitudes already divided by their running level, and products by its square."""
        raise TypeError(f"{type(self).__name__} does not define masks")

    def fit(self, frames: Callable[[], Tensor]) -> None:
        """Take statistics of what its input from level-normalised `frames()` (F, N) of mixtures; most need none."""

    def evidence_of(self, magnitude: Tensor) -> Tensor:
        """Return what its dictionaries explain, (B, E, T), of level-normalised magnitudes (B, F, T). Raises TypeError
        where there are none.
        """
        raise TypeError(f"{type(self).__name__} has no dictionaries")

    @property
    def shares_noise(self) -> bool:
        """Return whether it is also made with what `shared_by_noise` finds."""
        return False

    def shared_by_noise(self, noise: Sequence[Tensor]) -> dict[str, Tensor]:
        """Return what stretches of noise, level-normalised magnitudes (1, F, T) of one recording each, have in common,
        as arguments that it is made with beside its dictionary.
        """
        return {}

    @classmethod
    def layerwise(cls, settings: Any) -> bool:
        """Return whether its layers can be trained one after the other."""
        return False

    def moved(self, tensors: dict[str, Tensor], given: tuple[Any, FrontEnd], own: FrontEnd) -> dict[str, Tensor]:
        """Return the weights of a network with settings and front end `given` in the places that they have in this one,
        behind its `own` front end: as they are, unless a kind of network knows better.
        """
        return tensors

    @property
    def speech_atoms(self) -> Tensor:
        """Atoms of speech (T F, R) that noise can be learned beside. Raises TypeError where there are none."""
        raise TypeError(f"{type(self).__name__} has no atoms of speech")

    def with_noise_atoms(self, atoms: Tensor) -> "MaskNetwork":
        """Return the same network with further atoms of noise. Raises TypeError for one that has no place for them."""
        raise TypeError(f"{type(self).__name__} has no atoms of noise")

    def accelerate(self) -> bool:
        """Prepare for hours of work on a CPU, for example by compiling; returns whether that changed anything.

        Results stay the same to rounding.
        """
        return False

    def anneal(self, progress: float) -> None:
        """Take the settings that a schedule has for this part of the training, 0 at its first step, 1 at its end."""

    @property
    def annealing(self) -> bool:
        """Return whether a schedule still changes the network: another one will come out."""
        return False

    @property
    def depths(self) -> range:
        """Return the numbers of layers after which it may be stopped; none where only the last layer has masks."""
        unfolded = getattr(self, "unfolded", None)
        return range(1, unfolded.iterations + 1) if isinstance(unfolded, Unfolded) else range(0)

    def stop_after(self, depth: int) -> None:
        """Run `depth` layers from now on, and read the masks out of the state that they leave. Raises UsageError for a
        depth that it does not have.
        """
        if not self.depths:
            remedy = "Leave --depth out, or choose another model."
            raise UsageError("--depth", f"the model {self.name}", "one that gives masks after every layer", remedy)
        require_depth(depth, self.depths)
        self.unfolded.depth = depth

    @property
    def over_hz(self) -> bool:
        """Return whether `hear` changes anything."""
        return False

    def hear(self, bins: int) -> None:
        """Take the lowest `bins` of the F bins for all that there are, as in recordings of a lower sampling rate: what
        is above is not looked at, and its masks mean nothing. Networks that are not `over_hz` take it for silence.
        """

    def macs_per_frame(self) -> int:
        """Multiply-adds of one frame, of the layers that run."""
        raise TypeError(f"{type(self).__name__} does not count its multiply-adds")

    def parameter_counts(self) -> tuple[int, int]:
        """(all, trained) numbers of scalar weights that inference needs."""
        trained = sum(p.numel() for p in self.parameters() if p.requires_grad)
        return sum(t.numel() for t in self.weights().values()), trained

    def weights(self) -> dict[str, Tensor]:
        """Tensors that rebuild this network, which a model file holds: all parameters and persistent buffers.

        With `names_slots`, those of the bank are called as its slots, and non-negative ones are plain values.
        """
        held = self.state_dict()
        if not self.names_slots:
            return held
        return {name: x for name, x in held.items() if not name.startswith(BANK)} | self.unfolded.bank.values()

    def unsaved(self) -> list[str]:
        """Names of the parameters and persistent buffers that `weights` leaves out: none, unless a subclass forgets
        some.
        """
        parts = [name for name, module in self.named_modules() if isinstance(module, NonNegative)]
        saved, left_out = self.weights().keys(), []
        for name in self.state_dict():
            value = next((part for part in parts if name.startswith(f"{part}.")), name)  # that is computed from it
            if not {name, value.removeprefix(BANK)} & saved:
                left_out.append(name)
        return left_out

    def fitting(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return what this network can begin with of another one's weights: those of the same name and shape."""
        own = self.weights()
        return {name: x for name, x in tensors.items() if name in own and own[name].shape == x.shape}

    def load_weights(self, tensors: dict[str, Tensor]) -> None:
        """Take the tensors that `weights` gave. Raises RuntimeError when names or shapes differ."""
        if self.names_slots:
            bank = self.unfolded.bank
            slots = bank.values().keys()
            bank.load_values({name: x for name, x in tensors.items() if name in slots})
            held = {name: x for name, x in self.state_dict().items() if name.startswith(BANK)}
            tensors = held | {name: x for name, x in tensors.items() if name not in slots}
        self.load_state_dict(tensors)
