"""Recurrent sparse coding, unfolded: K iterations per frame, begun where the last frame's ended.

Two algorithms on frequency bands, each with atoms of speech and of noise and a Wiener filter of their models:

* `recurrent-ista`: sparse coding in the squared sense with steps h <- relu(h - rate (D^T D h - D^T x + penalty)), also
  relaxed, h <- (1 - g) h + g relu(.), with a trained schedule g that depends on the frame.
* `recurrent-nmf`: multiplicative updates (33) of Kullback-Leibler NMF, a non-negative dynamical system.

With tied, untrained weights and without recurrence both are the classical algorithms.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from deepnmf_cli.inference import ista, nmf
from deepnmf_cli.networks.bands import BandNetwork
from deepnmf_cli.signal import wiener
from deepnmf_cli.signal.features import stack_context
from deepnmf_cli.unfold.network import Bank, Parameters
from deepnmf_cli.unfold.recurrent import RecurrentUnfolded
from deepnmf_cli.unfold.ties import Ties

KEPT = 0.8
"""Share of the last frame's activations with which the multiplicative form begins."""

SPREAD = 0.1
"""Another share of them, given to all atoms alike: a transition of zero could never be trained."""

FRESH = 0.1
"""Share of the classical first activations added to that, so that no atom is lost for ever."""

FULL_STEP = 2.0
"""Initial logit of the schedules: steps begin at 88 % of their length."""


@dataclass(frozen=True)
class RecurrentSettings:
    """Shape of a recurrent network."""

    bins: int = 257
    rate_hz: int = 16000
    single_bands: int = 64
    """Lowest bins that are bands of their own."""
    wide_bands: int = 32
    """ERB bands above them."""
    context: int = 1
    """Frames stacked as evidence, the present one last."""
    atoms: int = 64
    """Atoms per source (R)."""
    iterations: int = 3
    """Iterations per frame (K)."""
    recurrent: bool = True
    """Whether a frame begins where the last one ended."""
    tied: bool = False
    """One set of weights for all iterations and the readout."""
    sparsity: float = 0.1
    """Initial weight of the L1 penalty."""

    def __post_init__(self) -> None:
        if min(self.context, self.atoms, self.iterations, self.wide_bands) < 1 or self.sparsity < 0:
            raise ValueError("context, atoms, iterations and wide_bands must be at least 1, sparsity not negative")
        if not 0 <= self.single_bands < self.bins:
            raise ValueError("single_bands must be below bins")

    @property
    def bands(self) -> int:
        return self.single_bands + self.wide_bands

    @property
    def evidence(self) -> int:
        """Rows of the dictionaries."""
        return self.context * self.bands


@dataclass(frozen=True)
class RecurrentNmfSettings(RecurrentSettings):
    """Shape of a `RecurrentNmf`."""

    atoms: int = 96


@dataclass(frozen=True)
class IstaSettings(RecurrentSettings):
    """Shape of a `RecurrentIsta`."""

    sparsity: float = 0.02
    relaxed: bool = True
    """Whether steps are relaxed by a trained schedule."""


@dataclass(frozen=True)
class SparseCoding:
    """ISTA on columns as a `Recurrence`."""

    bands: int
    relaxed: bool

    def prepare(self, evidence: Tensor, parameters: Parameters) -> tuple[tuple, tuple[Tensor, ...]]:
        dictionary = parameters["dictionary"]
        columns = (dictionary.mT @ evidence,)
        if self.relaxed:
            columns += (torch.sigmoid(parameters["gate_weight"] @ evidence + parameters["gate_bias"]),)
        return (dictionary.mT @ dictionary, parameters["rate"], parameters["penalty"]), columns

    def update(self, constants: tuple, columns: tuple[Tensor, ...], state: Tensor) -> Tensor:
        proposed = ista.step(state, columns[0], *constants)
        return torch.lerp(state, proposed, columns[1]) if self.relaxed else proposed

    def start(self, evidence: Tensor, parameters: Parameters) -> Tensor:
        return ista.start(parameters["dictionary"].mT @ evidence)

    def warm_start(self, columns: tuple[Tensor, ...], before: Tensor, parameters: Parameters) -> Tensor:
        """h_t^0 = relu(A h_{t-1}^K)."""
        return torch.relu(parameters["transition"] @ before)

    def step(self, evidence: Tensor, state: Tensor, parameters: Parameters) -> Tensor:
        constants, columns = self.prepare(evidence, parameters)
        return self.update(constants, columns, state)

    def readout(self, evidence: Tensor, state: Tensor, parameters: Parameters) -> Tensor:
        """Masks (B, 2, bands, T)."""
        return _wiener(state, parameters, self.bands)


@dataclass(frozen=True)
class MultiplicativeCoding:
    """Kullback-Leibler NMF on columns as a `Recurrence`."""

    bands: int

    def prepare(self, evidence: Tensor, parameters: Parameters) -> tuple[tuple, tuple[Tensor, ...]]:
        dictionary = parameters["dictionary"]
        column_sums = dictionary.sum(0).unsqueeze(-1)
        return (dictionary, 1.0, parameters["penalty"], column_sums), (self.start(evidence, parameters), evidence)

    def update(self, constants: tuple, columns: tuple[Tensor, ...], state: Tensor) -> Tensor:
        dictionary, beta, penalty, column_sums = constants
        return nmf.step(state, columns[1], dictionary, beta, penalty, column_sums=column_sums)

    def start(self, evidence: Tensor, parameters: Parameters) -> Tensor:
        return nmf.start(evidence, parameters["dictionary"])

    def warm_start(self, columns: tuple[Tensor, ...], before: Tensor, parameters: Parameters) -> Tensor:
        """h_t^0 = A h_{t-1}^K + b o (what the classical algorithm begins with), A and b >= 0."""
        return parameters["transition"] @ before + parameters["fresh"] * columns[0]

    def step(self, evidence: Tensor, state: Tensor, parameters: Parameters) -> Tensor:
        constants, columns = self.prepare(evidence, parameters)
        return self.update(constants, columns, state)

    def readout(self, evidence: Tensor, state: Tensor, parameters: Parameters) -> Tensor:
        """Masks (B, 2, bands, T)."""
        return _wiener(state, parameters, self.bands)


def _wiener(activations: Tensor, parameters: Parameters, bands: int) -> Tensor:
    """Masks of the bands' last frame from activations (B, 2R, T)."""
    dictionary = parameters["dictionary"][-bands:]
    return wiener.masks(nmf.readout(activations, dictionary, (activations.shape[-2] // 2,) * 2))


class _Recurrent(BandNetwork):
    """What both networks have in common: bands in front, masks of bands spread over bins behind."""

    compression: ClassVar[float]
    """Power applied to band magnitudes."""

    def __init__(self, settings: RecurrentSettings, dictionary: Tensor | None) -> None:
        """`dictionary` (context * bands, 2R): where training starts, atoms of speech first; random by default."""
        super().__init__(settings)
        s = settings
        if dictionary is None:
            dictionary = torch.rand(s.evidence, 2 * s.atoms).square()
            dictionary = dictionary / dictionary.norm(dim=0)
        layers = s.iterations + 1
        once, each = Ties.tied(layers), Ties.tied(layers)
        if not s.tied:
            # The readout uses the dictionary alone; of the rest its table entry repeats the last layer's.
            untied = Ties.untied(s.iterations)
            each = Ties((*untied.slots, s.iterations - 1), untied.trained)
        dictionaries = [dictionary] if s.tied else [dictionary] * s.iterations + [dictionary[-s.bands :]]
        initial = {"dictionary": (once if s.tied else Ties.untied(layers), dictionaries, "log")}
        for name, (value, kind, shared) in self._initial(dictionary).items():
            table = once if shared else each
            initial[name] = (table, [value] * table.count, kind)
        ties = {name: table for name, (table, _, _) in initial.items()}
        values = {name: tensors for name, (_, tensors, _) in initial.items()}
        bank = Bank(ties, values, {name: kind for name, (_, _, kind) in initial.items()})
        self.unfolded = RecurrentUnfolded(self._algorithm(), s.iterations, bank, s.recurrent)

    def masks(self, evidence: Tensor, state: tuple | None) -> tuple[Tensor, tuple]:
        bands = self.pool(evidence)
        bands = bands.pow(self.compression) if self.compression != 1 else bands
        past, before = (None, None) if state is None else state
        stacked, past = stack_context(bands, self.settings.context, past)
        band_masks, before = self.unfolded.infer((stacked, before))
        speech = self.spread(band_masks[:, 0].mT).mT.clamp(0, 1)
        return torch.stack([speech, 1 - speech], 1), (past, before)

    def weights(self) -> dict[str, Tensor]:
        return self.unfolded.bank.values()

    def load_weights(self, tensors: dict[str, Tensor]) -> None:
        self.unfolded.bank.load_values(tensors)

    def _front_macs(self) -> int:
        """Into bands and back, the readout, and the transition."""
        s = self.settings
        transition = (2 * s.atoms) ** 2 if s.recurrent else 0
        return self.band_macs() + s.bands * 2 * s.atoms + transition


class RecurrentIsta(_Recurrent):
    """Unfolded sparse coding with warm start and relaxed steps; see the module's text."""

    name = "recurrent-ista"
    description = "Recurrent sparse coding, relaxed by trained schedules"
    compression = 0.3

    def __init__(self, settings: IstaSettings = IstaSettings(), dictionary: Tensor | None = None) -> None:
        super().__init__(settings, dictionary)

    def _algorithm(self) -> SparseCoding:
        return SparseCoding(self.settings.bands, self.settings.relaxed)

    def _initial(self, dictionary: Tensor) -> dict[str, tuple[Tensor, str, bool]]:
        """Name -> (initial value, kind, whether all layers share it) of what is trained beside dictionaries."""
        s, states = self.settings, 2 * self.settings.atoms
        initial = {
            "rate": (ista.largest_rate(dictionary).reshape(1), "log", False),
            "penalty": (torch.full((states, 1), s.sparsity), "log", False),
        }
        if s.recurrent:
            initial["transition"] = (torch.eye(states), "free", True)
        if s.relaxed:
            initial["gate_weight"] = (torch.zeros(states, s.evidence), "free", False)
            initial["gate_bias"] = (torch.full((states, 1), FULL_STEP), "free", False)
        return initial

    def macs_per_frame(self) -> int:
        s, states = self.settings, 2 * self.settings.atoms
        products = 2 if s.relaxed else 1
        return self._front_macs() + s.iterations * (products * s.evidence * states + states**2)


class RecurrentNmf(_Recurrent):
    """An unfolded non-negative dynamical system with multiplicative updates; see the module's text."""

    name = "recurrent-nmf"
    description = "Recurrent NMF with multiplicative updates"
    compression = 1.0

    def __init__(
        self, settings: RecurrentNmfSettings = RecurrentNmfSettings(), dictionary: Tensor | None = None
    ) -> None:
        super().__init__(settings, dictionary)

    def _algorithm(self) -> MultiplicativeCoding:
        return MultiplicativeCoding(self.settings.bands)

    def _initial(self, dictionary: Tensor) -> dict[str, tuple[Tensor, str, bool]]:
        """Name -> (initial value, kind, whether all layers share it) of what is trained beside dictionaries."""
        s, states = self.settings, 2 * self.settings.atoms
        initial = {"penalty": (torch.full((states, 1), s.sparsity), "log", False)}
        if s.recurrent:
            initial["transition"] = (KEPT * torch.eye(states) + SPREAD / states, "log", True)
            initial["fresh"] = (torch.full((states, 1), FRESH), "log", True)
        return initial

    def macs_per_frame(self) -> int:
        s = self.settings
        return self._front_macs() + s.iterations * 2 * s.evidence * 2 * s.atoms
