"""Unfolded sparse coding and NMF on frequency bands, and a Wiener filter of the models of speech and noise.

* `sparse-coding`: K iterations of an algorithm that recipes name, such as "ista" or "alista", on every frame. It starts
  with dictionaries of speech and noise that are learned beforehand.
* `recurrent-ista`: ISTA in which the iterations for a frame begin where those for the last frame ended, also relaxed,
  h <- (1 - g) h + g relu(.), with a trained schedule g that depends on the frame.
* `recurrent-nmf`: multiplicative updates (33) of Kullback-Leibler NMF that begin in the same way, a non-negative
  dynamical system.

With tied, untrained weights and without recurrence they are the classical algorithms.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from deepnmf_cli.inference import algorithms
from deepnmf_cli.inference.common_components import common_sketch
from deepnmf_cli.inference.ista import Ista, SparseCoding
from deepnmf_cli.inference.nmf import SparseNmf
from deepnmf_cli.inference.over_frequency import OverFrequency, interpolation
from deepnmf_cli.networks.band_network import BandNetwork, BandSettings, band_centres, band_sketch, lower_bands
from deepnmf_cli.signal.level import stack_context
from deepnmf_cli.unfold.network import Bank, Unfolded
from deepnmf_cli.unfold.recurrent import RecurrentUnfolded

ALGORITHMS: dict[str, type[SparseCoding]] = algorithms(SparseCoding)
"""Names of `sparse-coding`'s algorithms -> the algorithms."""

ROUND = 1e-3
"""Added to a covariance matrix, as a share of its mean eigenvalue: a short stretch does not span all directions."""


@dataclass(frozen=True)
class CodingSettings(BandSettings):
    """Shape of a network of atoms on bands."""

    context: int = 1
    """Frames stacked as evidence, the present one last."""
    atoms: int = 64
    """Atoms per source (R)."""
    iterations: int = 3
    """Iterations per frame (K)."""
    tied: bool = False
    """One set of weights for all iterations and the readout."""
    sparsity: float = 0.1
    """Initial weight of the L1 penalty."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.context, self.atoms, self.iterations) < 1 or self.sparsity < 0:
            raise ValueError("context, atoms and iterations must be at least 1, sparsity not negative")

    @property
    def evidence(self) -> int:
        """Rows of the dictionaries."""
        return self.context * self.bands


@dataclass(frozen=True)
class SparseCodingSettings(CodingSettings):
    """Shape of a `SparseCodingNetwork`."""

    iterations: int = 10
    sparsity: float = 0.02
    algorithm: str = "ista"
    """Name of the algorithm, one of those in `deepnmf_cli.inference`."""
    trained_layers: int = -1
    """Layers trained, counted from the readout (C), from 0 to K + 1; -1 for all, tied or not. It has no effect on both
    "hyperlista", whose layers have nothing of their own."""
    mask_power: float = 1.0
    """Power applied to the models of the sources before they share out the mixture."""
    ridge: float = 0.0
    """For analytic weights: how much they avoid large entries."""
    support_growth: float = 0.012
    """For "alista", see `inference.alista.Alista`."""
    threshold: float = 0.03
    """Initial value of the first constant of "hyperlista"."""
    momentum: float = 0.01
    """Initial value of the second one."""
    support: float = 0.1
    """Initial value of the third one."""
    blocks: int = 8
    """Blocks of atoms in each source, in "hyperlista-abt" and "group-ista"."""
    group_sparsity: float = 0.02
    """Initial weight of the penalty on blocks, in "group-ista"."""
    period: int = 5
    """Steps of "psista" from one that sees all bands to the next."""
    sketch: str = "erb"
    """What the other steps see: "erb", wider bands, or "common", components that stretches of noise have in common."""
    sketch_bands: int = 24
    """Number of these, per frame."""
    over_hz: bool = False
    """Whether atoms are functions of frequency, so that a recording of a lower sampling rate is explained by what they
    are below its highest frequency; otherwise it is silent above."""

    beta: ClassVar[float] = 2.0
    """Divergence by which dictionaries are learned: the squared error, as in the algorithms."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.algorithm not in ALGORITHMS:
            raise ValueError(f"algorithm {self.algorithm!r} is none of {', '.join(ALGORITHMS)}")
        if not -1 <= self.trained_layers <= self.iterations + 1:
            raise ValueError(f"trained_layers must lie between 0 and iterations + 1 = {self.iterations + 1}, or be -1")
        if self.trained_layers >= 0 and self.tied:
            raise ValueError("tied layers are trained together; leave out trained_layers")
        if ALGORITHMS[self.algorithm].sketches and not 1 <= self.sketch_bands < self.bands:
            raise ValueError(f"sketch_bands must be at least 1 and below the {self.bands} bands")
        if self.over_hz and not ALGORITHMS[self.algorithm].over_frequency:
            able = ", ".join(name for name, kind in ALGORITHMS.items() if kind.over_frequency)
            raise ValueError(f"over_hz is possible where layers have dictionaries alone: with {able}")
        positive = self.mask_power, self.threshold, self.momentum, self.support
        if min(positive) <= 0 or min(self.ridge, self.support_growth, self.group_sparsity) < 0:
            raise ValueError(
                "mask_power, threshold, momentum and support must be positive, "
                "ridge, support_growth and group_sparsity not negative"
            )
        self.chosen()

    @property
    def sketch_rows(self) -> int:
        """Rows of the sketch of the evidence."""
        return self.context * self.sketch_bands

    def chosen(self) -> SparseCoding:
        """Return the algorithm, with those of its settings that have the same name here."""
        kind, own = ALGORITHMS[self.algorithm], {"bins": self.bands, "atoms": (self.atoms, self.atoms)}
        return kind(**{f.name: getattr(self, f.name) for f in fields(kind) if hasattr(self, f.name)} | own)


@dataclass(frozen=True)
class RecurrentNmfSettings(CodingSettings):
    """Shape of a `RecurrentNmf`."""

    atoms: int = 96
    recurrent: bool = True
    """Whether a frame begins where the last one ended."""


@dataclass(frozen=True)
class IstaSettings(CodingSettings):
    """Shape of a `RecurrentIsta`."""

    sparsity: float = 0.02
    recurrent: bool = True
    """Whether a frame begins where the last one ended."""
    relaxed: bool = True
    """Whether steps are relaxed by a trained schedule."""


class _BandCoder(BandNetwork):
    """Base class of these networks: bands at the input, masks of bands spread over bins at the output."""

    names_slots = True
    compression: ClassVar[float]
    """Power applied to band magnitudes."""

    def __init__(
        self, settings: CodingSettings | None = None, dictionary: Tensor | None = None, sketch: Tensor | None = None
    ) -> None:
        """`dictionary` (context * bands, 2R): the initial one, atoms of speech first; random by default. `sketch`
        (sketch_bands, bands): that of a frame, for networks whose algorithm has one; ERB bands by default.
        """
        super().__init__(self.settings_type() if settings is None else settings)
        s = self.settings
        if dictionary is None:
            dictionary = torch.rand(s.evidence, 2 * s.atoms).square()
            dictionary = dictionary / dictionary.norm(dim=0)
        self.unfolded = self._unfold(dictionary, sketch)

    def _unfold(self, dictionary: Tensor, sketch: Tensor | None) -> Unfolded:
        raise TypeError(f"{type(self).__name__} has no algorithm")

    def evidence_of(self, magnitude: Tensor) -> Tensor:
        return stack_context(self._observed(magnitude), self.settings.context)[0]

    def _observed(self, magnitude: Tensor) -> Tensor:
        """Return compressed bands (B, bands, T) of magnitudes (B, F, T)."""
        bands = self.pool(magnitude)
        return bands.pow(self.compression) if self.compression != 1 else bands

    def _bank(self, algorithm: SparseCoding | SparseNmf, dictionary: Tensor) -> Bank:
        s = self.settings
        return Bank.declared(algorithm.parameters(s.iterations, dictionary), s.iterations, s.tied)

    def masks(self, evidence: Tensor, state: tuple | None) -> tuple[Tensor, tuple]:
        bands = self._observed(evidence)
        past, before = (None, None) if state is None else state
        stacked, past = stack_context(bands, self.settings.context, past)
        band_masks, before = self._infer(stacked, before)
        speech = self.spread(band_masks[:, 0].mT).mT.clamp(0, 1)
        return torch.stack([speech, 1 - speech], 1), (past, before)

    def _infer(self, stacked: Tensor, before: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return masks (B, 2, bands, T), and the state with which the next block begins."""
        raise TypeError(f"{type(self).__name__} has no algorithm")

    def macs_per_frame(self) -> int:
        """Return the multiply-adds per frame: into bands and back, the readout, and the transition and iterations of
        the subclass.
        """
        s = self.settings
        return self.band_macs() + s.bands * 2 * s.atoms + self._iteration_macs()

    def _iteration_macs(self) -> int:
        raise TypeError(f"{type(self).__name__} does not count its multiply-adds")


class SparseCodingNetwork(_BandCoder):
    """Unfolded sparse coding of single frames, by the algorithm that the settings name."""

    name = "sparse-coding"
    description = "Unfolded sparse coding: ISTA, FISTA, LISTA and their relatives"
    settings_type = SparseCodingSettings
    from_dictionary = True
    compression = 0.3
    unfolded: Unfolded[Tensor, Any, SparseCoding]
    lower: tuple[BandNetwork, Unfolded] | None = None
    """Bands, and layers over the same bank, for the bins that `hear` selects, if these are not all. A tuple, since
    modules would be registered as parts of the network."""

    @property
    def over_hz(self) -> bool:
        return self.settings.over_hz

    def hear(self, bins: int) -> None:
        s = self.settings
        if not self.over_hz or not 2 <= bins < s.bins:
            return
        below = lower_bands(s, bins)
        matrix = interpolation(band_centres(s), band_centres(below)).to(self.to_bands)
        algorithm = OverFrequency(replace(self.unfolded.algorithm, bins=below.bands), matrix)
        self.lower = BandNetwork(below).to(matrix.device), Unfolded(algorithm, s.iterations, self.unfolded.bank)

    def pool(self, magnitude: Tensor) -> Tensor:
        if self.lower is None:
            return super().pool(magnitude)
        return self.lower[0].pool(magnitude[..., : self.lower[0].settings.bins, :])

    def spread(self, masks: Tensor) -> Tensor:
        if self.lower is None:
            return super().spread(masks)
        heard = self.lower[0].spread(masks)
        return torch.nn.functional.pad(heard, (0, self.settings.bins - heard.shape[-1]))

    @property
    def shares_noise(self) -> bool:
        return ALGORITHMS[self.settings.algorithm].sketches and self.settings.sketch == "common"

    def shared_by_noise(self, noise: Sequence[Tensor]) -> dict[str, Tensor]:
        frames = [self._observed(magnitude)[0] for magnitude in noise]
        # Moments about zero, since the evidence is explained including its mean.
        moments = torch.stack([x @ x.mT / x.shape[1] for x in (frame.double() for frame in frames)])
        floor = ROUND * moments.diagonal(dim1=1, dim2=2).mean(1)[:, None, None]
        covariances = moments + floor * torch.eye(moments.shape[1], dtype=moments.dtype)
        return {"sketch": common_sketch(covariances, self.settings.sketch_bands).float()}

    def _unfold(self, dictionary: Tensor, sketch: Tensor | None) -> Unfolded:
        s, algorithm = self.settings, self.settings.chosen()
        given = ()
        if algorithm.sketches:
            rows = band_sketch(s, s.sketch_bands) if sketch is None else sketch
            given = (torch.block_diag(*[rows] * s.context),)
        parameters = algorithm.parameters(s.iterations, dictionary, *given)
        last = s.trained_layers if s.trained_layers >= 0 else None
        return Unfolded(algorithm, s.iterations, Bank.declared(parameters, s.iterations, s.tied, last=last))

    def _infer(self, stacked: Tensor, before: Tensor | None) -> tuple[Tensor, Tensor | None]:
        if self.lower is None:
            return self.unfolded(stacked), None
        return self.lower[1].infer(stacked, depth=self.unfolded.depth)[0], None

    def _iteration_macs(self) -> int:
        return self.unfolded.algorithm.macs(self.settings.evidence, self.unfolded.depth)


class _RecurrentCoder(_BandCoder):
    """Base class of networks that, if their settings say so, begin each frame where the last one ended."""

    def _algorithm(self) -> Ista | SparseNmf:
        raise TypeError(f"{type(self).__name__} has no algorithm")

    def _unfold(self, dictionary: Tensor, sketch: Tensor | None) -> Unfolded:
        s, algorithm = self.settings, self._algorithm()
        return RecurrentUnfolded(algorithm, s.iterations, self._bank(algorithm, dictionary), s.recurrent)

    def _infer(self, stacked: Tensor, before: Tensor | None) -> tuple[Tensor, Tensor | None]:
        masks, last = self.unfolded.infer((stacked, before))
        return masks, last if self.settings.recurrent else None


class RecurrentIsta(_RecurrentCoder):
    """Unfolded sparse coding with warm start and relaxed steps; see the module's text."""

    name = "recurrent-ista"
    description = "Recurrent sparse coding, relaxed by trained schedules"
    settings_type = IstaSettings
    compression = 0.3

    def _algorithm(self) -> Ista:
        s = self.settings
        return Ista(s.bands, (s.atoms, s.atoms), s.sparsity, s.relaxed, s.recurrent)

    def _iteration_macs(self) -> int:
        s, states = self.settings, 2 * self.settings.atoms
        products = 2 if s.relaxed else 1
        transition = states**2 if s.recurrent else 0
        return transition + self.unfolded.depth * (products * s.evidence * states + states**2)


class RecurrentNmf(_RecurrentCoder):
    """An unfolded non-negative dynamical system with multiplicative updates; see the module's text."""

    name = "recurrent-nmf"
    description = "Recurrent NMF with multiplicative updates"
    settings_type = RecurrentNmfSettings
    compression = 1.0

    def _algorithm(self) -> SparseNmf:
        s = self.settings
        atoms, how = (s.atoms, s.atoms), {"trained_penalty": True, "recurrent": s.recurrent}
        return SparseNmf(s.bands, atoms, sparsity=s.sparsity, **how)

    def _iteration_macs(self) -> int:
        s, states = self.settings, 2 * self.settings.atoms
        return (states**2 if s.recurrent else 0) + self.unfolded.depth * 2 * s.evidence * states
