"""Base class of all networks: magnitudes in, masks out, and a state that carries over from block to block.

A network may use phase too. It then takes `signal.features.phase_features`, and returns masks that
`signal.masks.complex_masks` reads.
"""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from torch import Tensor, nn

from deepnmf_cli.errors import UsageError, require_depth
from deepnmf_cli.signal.features import features
from deepnmf_cli.signal.level import modulus, normalise_level, running_level
from deepnmf_cli.signal.stft import FrontEnd
from deepnmf_cli.unfold.network import Unfolded
from deepnmf_cli.unfold.nonnegative import NonNegative

BANK = "unfolded.bank."
"""Prefix of the names of tensors in the bank of an unfolded network."""

SPEECH, NOISE = 0, 1
"""Order of the sources in every mask tensor."""


class MaskNetwork(nn.Module):
    """Base class of the networks: it normalises the level first, so that none depends on the gain of a recording.

    A subclass implements `masks` and describes itself by `settings`, a frozen dataclass of plain values from which it
    can be built again.
    """

    name: ClassVar[str]
    description: ClassVar[str]
    """One line for lists of models."""
    settings_type: ClassVar[type]
    """The dataclass of its settings."""
    mixed_precision: ClassVar[bool] = False
    """Whether training on CUDA may compute its matrix products in bfloat16: all of its operations must take both."""
    same_operations: ClassVar[bool] = False
    """Whether every batch takes the same operations on tensors, so that CUDA graphs may replay them."""
    from_dictionary: ClassVar[bool] = False
    """Whether its constructor takes a `dictionary` of speech and noise that is learned before training."""
    learns_noise: ClassVar[bool] = False
    """Whether `with_noise_atoms` can extend its model of noise."""
    names_slots: ClassVar[bool] = False
    """Whether `weights` names tensors of the bank in `unfolded` by their slots."""
    settings: Any
    unfolded: Any
    """The module that computes the masks and has a `bank`; not every network has one."""

    @property
    def uses_phase(self) -> bool:
        """Return whether it takes `signal.features.phase_features` in place of magnitudes."""
        return False

    @property
    def phase_bins(self) -> int:
        """Return the number of bins, from the lowest on, whose phase it uses."""
        return 0

    def features_of(self, spectrum: Tensor, window_hops: int) -> Tensor:
        """Return the input of `forward` for complex spectra (B, F, T) of whole recordings of one channel, whose windows
        have `window_hops` hops. Phase planes are zero from `phase_bins` on.
        """
        return features(spectrum[:, None], None, window_hops, self.uses_phase, modulus, self.phase_bins)

    def forward(self, inputs: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """Return masks (B, 2, F, T) for magnitudes (B, F, T) >= 0, speech first, summing to one over the sources.

        A network that uses phase takes `signal.features.phase_features` (B, 5, F, T), and may add a third plane to the
        masks. The state comes second: `state` is None at the start of a recording and otherwise what the previous block
        returned, so that blocks of any length give the same masks as the whole recording.
        """
        past, inner = (None, None) if state is None else state
        if self.uses_phase:
            level, past = running_level(inputs[:, 0], past)
            level = level[:, None]
            evidence = inputs[:, 0] / level, inputs[:, 1:, : self.phase_bins] / level.square()[:, None]
        else:
            evidence, past = normalise_level(inputs, past)
        masks, inner = self.masks(evidence, inner)
        return masks, (past, inner)

    def masks(self, evidence: Any, state: Any) -> tuple[Tensor, Any]:
        """Like `forward`, for magnitudes (B, F, T) already divided by their running level; with phase, a pair of these
        and of the products (B, 4, phase_bins, T) of `signal.features.phase_features`, divided by its square.
        """
        raise TypeError(f"{type(self).__name__} does not define masks")

    def fit(self, frames: Callable[[], Tensor]) -> None:
        """Take statistics of the input from level-normalised `frames()` (F, N) of mixtures; most networks need none."""

    def evidence_of(self, magnitude: Tensor) -> Tensor:
        """Return the evidence (B, E, T) that its dictionaries explain, for level-normalised magnitudes (B, F, T).

        Raises TypeError if there are no dictionaries.
        """
        raise TypeError(f"{type(self).__name__} has no dictionaries")

    @property
    def shares_noise(self) -> bool:
        """Return whether its constructor also takes what `shared_by_noise` finds."""
        return False

    def shared_by_noise(self, noise: Sequence[Tensor]) -> dict[str, Tensor]:
        """Return what stretches of noise have in common, as arguments of the constructor besides the dictionary.

        The stretches are level-normalised magnitudes (1, F, T), of one recording each.
        """
        return {}

    @classmethod
    def layerwise(cls, settings: Any) -> bool:
        """Return whether its layers can be trained one after the other."""
        return False

    def train_last(self, layers: int) -> None:
        """Let gradients reach only the last trained layers. Raises TypeError for a network that is not `layerwise`."""
        raise TypeError(f"{type(self).__name__} has no layers that can be trained one after the other")

    def moved(self, tensors: dict[str, Tensor], given: tuple[Any, FrontEnd], own: FrontEnd) -> dict[str, Tensor]:
        """Return the weights of a network with settings and front end `given`, converted for this network and its `own`
        front end: as they are, unless a subclass converts them.
        """
        return tensors

    @property
    def speech_atoms(self) -> Tensor:
        """Atoms of speech (T F, R), beside which noise can be learned. Raises TypeError if there are none."""
        raise TypeError(f"{type(self).__name__} has no atoms of speech")

    def with_noise_atoms(self, atoms: Tensor) -> "MaskNetwork":
        """Return the same network with further atoms of noise. Raises TypeError if it has no place for them."""
        raise TypeError(f"{type(self).__name__} has no atoms of noise")

    def accelerate(self) -> bool:
        """Prepare for hours of work on a CPU, for example by compiling; returns whether that changed anything.

        Results stay the same to rounding.
        """
        return False

    def anneal(self, progress: float) -> None:
        """Apply the settings of a schedule for this point of the training: 0 is its first step, 1 its last one."""

    @property
    def annealing(self) -> bool:
        """Return whether a schedule still changes the network, so that training ends with another one."""
        return False

    @property
    def depths(self) -> range:
        """Return the numbers of layers after which it may be stopped; none if only the last layer has masks."""
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
        """Use only the lowest `bins` of the F bins, as for recordings at a lower sampling rate.

        The bins above are ignored, and their masks are meaningless. Networks that are not `over_hz` treat these bins as
        silence.
        """

    def macs_per_frame(self) -> int:
        """Return the multiply-adds per frame of the layers that run."""
        raise TypeError(f"{type(self).__name__} does not count its multiply-adds")

    def parameter_counts(self) -> tuple[int, int]:
        """Return the numbers (all, trained) of scalar weights that inference needs."""
        trained = sum(p.numel() for p in self.parameters() if p.requires_grad)
        return sum(t.numel() for t in self.weights().values()), trained

    def weights(self) -> dict[str, Tensor]:
        """Return the tensors of a model file, which rebuild this network: all parameters and persistent buffers.

        With `names_slots`, those of the bank have the names of its slots, and non-negative ones are plain values.
        """
        held = self.state_dict()
        if not self.names_slots:
            return held
        return {name: x for name, x in held.items() if not name.startswith(BANK)} | self.unfolded.bank.values()

    def unsaved(self) -> list[str]:
        """Return the names of the parameters and persistent buffers that `weights` leaves out.

        There are none, unless a subclass forgets some.
        """
        parts = [name for name, module in self.named_modules() if isinstance(module, NonNegative)]
        saved, left_out = self.weights().keys(), []
        for name in self.state_dict():
            value = next((part for part in parts if name.startswith(f"{part}.")), name)  # the value computed from it
            if not {name, value.removeprefix(BANK)} & saved:
                left_out.append(name)
        return left_out

    def fitting(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return those of another network's weights that this one can start with: those of the same name and shape.

        They may include `fixed_settings`.
        """
        own = self.weights()
        return {name: x for name, x in tensors.items() if name in own and own[name].shape == x.shape}

    def fixed_settings(self) -> set[str]:
        """Return the names of those `weights` that are not trained and follow from the settings alone."""
        unfolded = getattr(self, "unfolded", None)
        names = unfolded.bank.fixed_settings() if isinstance(unfolded, Unfolded) else set()
        return names if self.names_slots else {BANK + name for name in names}

    def load_weights(self, tensors: dict[str, Tensor]) -> None:
        """Load tensors that `weights` returned. Raises RuntimeError if names or shapes differ."""
        if self.names_slots:
            bank = self.unfolded.bank
            slots = bank.values().keys()
            bank.load_values({name: x for name, x in tensors.items() if name in slots})
            held = {name: x for name, x in self.state_dict().items() if name.startswith(BANK)}
            tensors = held | {name: x for name, x in tensors.items() if name not in slots}
        self.load_state_dict(tensors)
