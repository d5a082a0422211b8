"""Deep NMF: unfolded sparse-NMF inference on context frames, with separate dictionaries for the last layers."""

import copy
import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor

from deepnmf_cli.inference import nmf
from deepnmf_cli.inference.nmf import DICTIONARY
from deepnmf_cli.networks.frame_network import FrameNetwork
from deepnmf_cli.signal.level import stack_context
from deepnmf_cli.unfold.implicit import Settled
from deepnmf_cli.unfold.network import Bank, Unfolded
from deepnmf_cli.unfold.ties import Ties


@dataclass(frozen=True)
class DeepNmfSettings:
    """Shape and algorithm of a `DeepNmf`; the defaults are the paper's values unless a comment says otherwise."""

    bins: int = 257
    context: int = 9
    """Frames of left context stacked as evidence, the present one included (T)."""
    atoms: int = 100
    """Atoms per source (R)."""
    iterations: int = 25
    """Iterations, that is analysis layers (K)."""
    trained_layers: int = 2
    """Layers trained discriminatively, counted from the readout (C): 0 sparse NMF, 1 discriminative NMF, K + 1 all."""
    tied: bool = False
    """One trained dictionary for all layers in place of `trained_layers` separate ones."""
    beta: float = 1.0
    """Divergence of the inference (beta1)."""
    sparsity: float = 5.0
    """Weight of the L1 penalty (mu), for evidence divided by its running level."""
    parameterisation: str = "log"
    """How dictionaries stay non-negative: "log" or "softplus"."""
    gradient: str = "unrolled"
    """"unrolled", through the iterations; or "implicit", that of the activations to which tied iterations converge,
    (35)-(36) as they stand, for many iterations."""

    def __post_init__(self) -> None:
        if not 0 <= self.trained_layers <= self.iterations + 1:
            raise ValueError(f"trained_layers must lie between 0 and iterations + 1 = {self.iterations + 1}")
        if min(self.bins, self.context, self.atoms, self.iterations) < 1:
            raise ValueError("bins, context, atoms and iterations must be at least 1")
        if self.parameterisation not in ("log", "softplus"):
            raise ValueError(f"parameterisation {self.parameterisation!r} is neither log nor softplus")
        if self.gradient not in ("unrolled", "implicit"):
            raise ValueError(f"gradient {self.gradient!r} is neither unrolled nor implicit")
        if self.gradient == "implicit" and not self.tied:
            raise ValueError("an implicit gradient needs tied iterations")
        if not -1 <= self.beta <= 3 or self.sparsity < 0:
            raise ValueError("beta must lie in [-1, 3] and sparsity must not be negative")

    @property
    def ties(self) -> Ties:
        """Return which of the K + 1 layers share a dictionary."""
        layers = self.iterations + 1
        return Ties.tied(layers) if self.tied else Ties.last(layers, self.trained_layers)


@dataclass(frozen=True)
class SparseNmfSettings(DeepNmfSettings):
    """C = 0: the classical algorithm, nothing trained discriminatively."""

    trained_layers: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.trained_layers or self.tied:
            raise ValueError("sparse NMF trains no layers; choose the model deep-nmf to train some")


@dataclass(frozen=True)
class DnmfSettings(DeepNmfSettings):
    """C = 1: discriminative NMF, only the reconstruction dictionary trained."""

    trained_layers: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.trained_layers != 1 or self.tied:
            raise ValueError("discriminative NMF trains one layer; choose the model deep-nmf to train others")


class DeepNmf(FrameNetwork):
    """Equation (33) for K layers and (34) as readout, over a bank of dictionaries; section 4 of the paper."""

    name = "deep-nmf"
    description = "Sparse NMF unfolded, with dictionaries of their own for the last layers"
    settings_type = DeepNmfSettings
    from_dictionary = True
    learns_noise = True
    names_slots = True
    unfolded: Unfolded[Tensor, Tensor, nmf.SparseNmf]

    def __init__(self, settings: DeepNmfSettings = DeepNmfSettings(), dictionary: Tensor | None = None) -> None:
        """`dictionary` (T F, 2R), unit-norm columns, speech atoms first; None draws a random one."""
        super().__init__()
        self.settings = settings
        s, ties = settings, settings.ties
        if dictionary is None:
            dictionary = torch.rand(s.context * s.bins, 2 * s.atoms)
            dictionary = dictionary / dictionary.norm(dim=0)
        algorithm = nmf.SparseNmf(s.bins, (s.atoms, s.atoms), s.beta, s.sparsity, s.parameterisation)
        parameters = algorithm.parameters(s.iterations, dictionary)
        bank = Bank.declared(parameters, s.iterations, ties={DICTIONARY: ties})
        construction = Settled if s.gradient == "implicit" else Unfolded
        self.unfolded = construction(algorithm, s.iterations, bank)

    def evidence_of(self, magnitude: Tensor) -> Tensor:
        return stack_context(magnitude, self.settings.context)[0]

    @classmethod
    def layerwise(cls, settings: DeepNmfSettings) -> bool:
        return not settings.tied

    def frame_masks(self, stacked: Tensor, fixed: Tensor | None = None) -> Tensor:
        return self.unfolded.infer(stacked, fixed)[0]

    @property
    def fixed_layers(self) -> int:
        return self.unfolded.fixed_layers

    def fixed_state(self, stacked: Tensor, layers: int = 0, known: Tensor | None = None) -> Tensor:
        return self.unfolded.fixed_state(stacked, layers, known)

    def train_last(self, layers: int) -> None:
        """Let gradients reach the last `layers` of the trained layers only, the readout being the last of all."""
        ties, bank = self.settings.ties, self.unfolded.bank
        for slot in ties.trained:
            parameter = bank.held(DICTIONARY, slot).free
            parameter.requires_grad_(ties.first_layer(slot) > self.settings.iterations - layers)

    @property
    def analysis(self) -> Tensor:
        """The dictionary (T F, 2R) of the first layer, speech atoms first."""
        return self.unfolded.bank.value(DICTIONARY, 0)

    @property
    def speech_atoms(self) -> Tensor:
        return self.analysis[:, : self.settings.atoms]

    def with_noise_atoms(self, atoms: Tensor) -> "DeepNmf":
        """The same network with `atoms` (T F, E) >= 0, of unit norm, on the noise side of every layer; none trained."""
        bank, algorithm = self.unfolded.bank, self.unfolded.algorithm
        values = [bank.value(DICTIONARY, slot) for slot in range(bank.ties[DICTIONARY].count)]
        wider = [torch.cat([value, atoms.to(value)[-len(value) :]], 1).detach() for value in values]
        ties = Ties(bank.ties[DICTIONARY].slots, frozenset())
        other = copy.deepcopy(self)
        speech, noise = algorithm.atoms
        other.unfolded = Unfolded(
            dataclasses.replace(algorithm, atoms=(speech, noise + atoms.shape[1])),
            self.settings.iterations,
            Bank({DICTIONARY: ties}, {DICTIONARY: wider}, bank.kinds),
        )
        other.unfolded.depth = self.unfolded.depth
        return other

    def macs_per_frame(self) -> int:
        s = self.settings
        atoms = sum(self.unfolded.algorithm.atoms)
        return self.unfolded.depth * 2 * (s.context * s.bins) * atoms + s.bins * atoms


class SparseNmf(DeepNmf):
    """Sparse NMF: the same network with nothing untied."""

    name = "sparse-nmf"
    description = "Sparse NMF with learned dictionaries"
    settings_type = SparseNmfSettings


class Dnmf(DeepNmf):
    """Discriminative NMF: the same network with the readout untied."""

    name = "dnmf"
    description = "Sparse NMF with a discriminatively trained reconstruction dictionary"
    settings_type = DnmfSettings
