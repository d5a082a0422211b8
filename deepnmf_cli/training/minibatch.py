"""Batches for one step of training: whole mixtures, or single frames of many of them."""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deepnmf_cli import checkpoint
from deepnmf_cli.corpus.dataset import ExampleSource
from deepnmf_cli.errors import ModelError, RecipeError
from deepnmf_cli.inference.nmf import join_frames
from deepnmf_cli.networks.base import MaskNetwork
from deepnmf_cli.networks.frame_network import FrameNetwork
from deepnmf_cli.signal.level import mixture_of, normalised_magnitudes, stack_context
from deepnmf_cli.signal.stft import FrontEnd
from deepnmf_cli.training.objectives import ObjectiveSettings, Truth


@dataclass(frozen=True)
class Batch:
    """True speech and noise of mixtures: waveforms (B, 2, N), and complex spectra (B, 2, F, T) of windows of
    `window_hops` hops.
    """

    waveforms: Tensor
    spectra: Tensor
    window_hops: int
    _features: dict[MaskNetwork, Tensor] = field(init=False, default_factory=dict, repr=False, compare=False)

    @cached_property
    def truth(self) -> Truth:
        """What masks are compared with."""
        return Truth(self.spectra, self.waveforms)

    def masks(self, network: MaskNetwork) -> Tensor:
        """Return the network's masks for the mixtures, whose features are computed at the first call."""
        if network not in self._features:
            self._features[network] = network.features_of(mixture_of(self.spectra), self.window_hops)
        return network(self._features[network])[0]

    def stacked(self, network: FrameNetwork) -> tuple[Tensor, None]:
        """Return the evidence (context F, B T) of a network of context frames, and None: nothing is known about the
        output of its fixed layers.
        """
        return self.evidence(network.settings.context, slice(None)), None

    def evidence(self, context: int, chosen: slice) -> Tensor:
        """Return stacked frames (context F, N) of level-normalised magnitudes, the `chosen` ones of every mixture."""
        stacked, _ = stack_context(normalised_magnitudes(mixture_of(self.spectra)), context)
        return join_frames(stacked[..., chosen])


CHEAP_LAYERS = 4
"""Up to this many fixed layers are run again at every visit; above it, a state nearer to the trained layers is stored
as well. Networks that differ in the number of trained layers can then share one folder."""


def require_support(network: type, objective: ObjectiveSettings, where: str = "recipe") -> None:
    """Raise RecipeError for networks and objectives that need whole mixtures."""
    place = f"{where} training.frame_stride"
    if not issubclass(network, FrameNetwork):
        raise RecipeError(place, f"single frames for {network.name}", "a network of context frames", "Set it to 1.")
    if objective.needs_waveforms:
        remedy = "Set objective.snr, si_sdr, pesq and estoi to 0, or frame_stride to 1."
        raise RecipeError(place, "terms on waveforms with single frames", "terms on magnitudes alone", remedy)


@dataclass(frozen=True)
class FrameBatch:
    """Every n-th frame of B mixtures: evidence (context F, B N), spectra (B, 2, F, N) of true speech and noise, and the
    output of a network's fixed layers for the evidence, None if it has none.
    """

    evidence: Tensor
    spectra: Tensor
    fixed: Any = None

    @cached_property
    def truth(self) -> Truth:
        """What masks are compared with, without waveforms."""
        return Truth(self.spectra)

    def masks(self, network: MaskNetwork) -> Tensor:
        """Return the masks (B, 2, F, N), speech first, of a network of context frames. Raises TypeError for others."""
        if not isinstance(network, FrameNetwork):
            raise TypeError(f"{network.name} does not take single frames")
        masks = network.frame_masks(self.evidence, self.fixed)
        return masks.unflatten(-1, (len(self.spectra), -1)).movedim(-2, 0)

    def stacked(self, network: FrameNetwork) -> tuple[Tensor, Any]:
        """Return the evidence, and the output of the fixed layers for it."""
        return self.evidence, self.fixed


LARGEST_STATE_BYTES = 1 << 20
"""Larger states of a batch are not stored but computed at every visit: a thousand of them would fill a disk."""

KEPT_CONTEXT = 9
"""Frames are stored with at least this much context: networks with a shorter one read the last rows of the same files.
"""


class FrameStore:
    """Frame batches by number, read from a folder if they have been made before."""

    def __init__(
        self,
        source: ExampleSource,
        front_end: FrontEnd,
        network: FrameNetwork,
        mixtures: int,
        stride: int,
        folder: Path | None = None,
        key: str = "",
    ) -> None:
        """Each batch has every `stride`-th frame of `mixtures` examples. `key` identifies what `source` holds: batches
        with equal keys are taken to be equal. Without a folder, nothing is stored. Raises RecipeError if examples have
        fewer frames than `stride`.
        """
        self.source, self.network, self.mixtures, self.stride, self.folder = source, network, mixtures, stride, folder
        self.pair = front_end.pair(front_end.rate_hz)
        if stride > (frames := source.length // self.pair.hop_samples + 1):
            expected = f"at most {frames}, the frames of an example"
            raise RecipeError("training.frame_stride", str(stride), expected, "Lower it, or raise mixing.segment_s.")
        self.rows = network.settings.context * front_end.bins
        self.context = max(network.settings.context, KEPT_CONTEXT if folder else 1)
        self.frames_key = digest(key, changed(front_end), self.context, mixtures, stride, source.length)
        self.fixed_key = digest(self.frames_key, *self._fixed_weights()) if network.fixed_layers else ""

    def __getitem__(self, index: int) -> FrameBatch:
        """Return batch `index`, of mixtures index * mixtures ..., on the network's device."""
        device = next(self.network.parameters()).device
        held = kept(self._path(f"frames-{self.frames_key}", str(index)), lambda: self._frames(index))
        evidence = held["evidence"][-self.rows :].to(device)  # the present frame is the last one
        spectra = torch.view_as_complex(held["spectra"]).to(device)
        return FrameBatch(evidence, spectra, self._fixed(index, evidence) if self.network.fixed_layers else None)

    def batches(self, indices: range, distinct: int = 0) -> Iterator[FrameBatch]:
        """Yield the batches with these numbers, which repeat after `distinct` batches if that is not 0."""
        for index in indices:
            yield self[index % distinct if distinct else index]

    @torch.no_grad()
    def _frames(self, index: int) -> dict[str, Tensor]:
        examples = [self.source[index * self.mixtures + i] for i in range(self.mixtures)]
        waveforms = torch.from_numpy(np.stack([np.stack(e) for e in examples]))
        batch = Batch(waveforms, self.pair.analysis(waveforms), self.pair.window_hops)
        chosen = slice(self.stride - 1, None, self.stride)  # the first ones lack context
        # With the memory layout of tensors read from a file: the order of sums, and so rounding, depends on it.
        return {
            "evidence": batch.evidence(self.context, chosen).contiguous(),
            "spectra": torch.view_as_real(batch.spectra[..., chosen]).contiguous(),
        }

    def _fixed(self, index: int, evidence: Tensor) -> Tensor:
        """Return the state above the fixed layers, computed from the nearest one that has been stored undamaged."""
        wanted, place = self.network.fixed_layers, f"fixed-{self.fixed_key}"
        found = (self.folder / place).glob(f"{index}-*.safetensors") if self.folder else ()
        stored = {int(path.stem.partition("-")[2]): path for path in found}
        layers, known = 0, None
        for below in sorted((k for k in stored if k <= wanted), reverse=True):
            with suppress(ModelError):
                layers, known = below, checkpoint.load(stored[below])[0]["state"].to(evidence.device)
                break

        def state() -> dict[str, Tensor]:
            return {"state": self.network.fixed_state(evidence, layers, known)}

        size = 2 * self.network.settings.atoms * evidence.shape[1] * evidence.element_size()
        worth_keeping = wanted - layers > CHEAP_LAYERS and size <= LARGEST_STATE_BYTES
        return kept(self._path(place, f"{index}-{wanted}") if worth_keeping else None, state)["state"]

    def _fixed_weights(self) -> list[Any]:
        """Return the settings, and hashes of the parameters, on which fixed states depend."""
        bank, algorithm = self.network.unfolded.bank, self.network.unfolded.algorithm
        below = range(self.network.fixed_layers)
        slots = {name: sorted({table.slots[k] for k in below} - {None}) for name, table in bank.ties.items()}
        weights = [bank.value(name, slot) for name, used in slots.items() for slot in used]
        return [changed(algorithm), *(hashlib.sha256(w.detach().cpu().numpy().tobytes()).hexdigest() for w in weights)]

    def _path(self, place: str, name: str) -> Path | None:
        return self.folder / place / f"{name}.safetensors" if self.folder else None


def kept(path: Path | None, make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    """Return the tensors in the file, which is made if it is missing or damaged; with None, nothing is stored."""
    if path and path.is_file():
        with suppress(ModelError):
            return checkpoint.load(path)[0]
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)  # before `make`, which may take an hour
        checkpoint.remove_leftovers(path.parent)
    made = make()
    if path:
        checkpoint.save(path, made, {})
    return made


def digest(*parts: Any) -> str:
    """Return a short name for a combination of plain values."""
    return hashlib.sha256(json.dumps(parts, default=str).encode()).hexdigest()[:16]


def changed(settings: Any) -> dict[str, Any]:
    """Return the settings that differ from the defaults of their dataclass.

    What is stored thus stays valid when later versions add settings.
    """
    values = {f.name: (getattr(settings, f.name), f.default) for f in dataclasses.fields(settings)}
    return {name: value for name, (value, default) in values.items() if value != default}
