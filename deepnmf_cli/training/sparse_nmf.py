"""Dictionaries of speech and noise, learned separately on the training material: the initial ones of NMF networks."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from deepnmf_cli.corpus.dataset import ExampleSource
from deepnmf_cli.errors import CorpusError, RecipeError
from deepnmf_cli.inference.dictionary import audible, exemplars, learn_dictionary
from deepnmf_cli.networks.base import MaskNetwork
from deepnmf_cli.signal.level import normalised_magnitudes, stack_context
from deepnmf_cli.signal.stft import FrontEnd

INAUDIBLE = 1e-8
"""Power, relative to that of the running level, below which context frames are left out: at -80 dB there is only coding
noise."""


@dataclass(frozen=True)
class DictionarySettings:
    """How the dictionaries are learned."""

    method: str = "learned"
    """"learned" by sparse NMF, or "exemplars": frames drawn from the material."""
    batches: int = 80
    """Mini-batches, each of new frames."""
    batch_frames: int = 2000
    iterations: int = 15
    """Activation updates per mini-batch."""

    def __post_init__(self) -> None:
        if self.method not in ("learned", "exemplars"):
            raise ValueError(f"method {self.method!r} is neither learned nor exemplars")
        if min(self.batches, self.batch_frames, self.iterations) < 1:
            raise ValueError("batches, batch_frames and iterations must be at least 1")


def learn_source_dictionaries(
    source: ExampleSource,
    network: MaskNetwork,
    front_end: FrontEnd,
    settings: DictionarySettings,
    seed: int,
    progress: Callable[[dict], None] = lambda row: None,
) -> Tensor:
    """Return a unit-norm dictionary (E, 2R), speech atoms first, of the clean speech and noise of training mixtures.

    It is learned from what `network` makes of these as evidence; its own weights play no part. Raises RecipeError if
    mini-batches are too small to draw the first atoms from.
    """
    shape = network.settings
    if settings.batch_frames < 2 * shape.atoms:  # half of the frames may be inaudible pauses
        raise RecipeError(
            "dictionary.batch_frames",
            str(settings.batch_frames),
            f"at least twice network.atoms = {shape.atoms}",
            "Raise batch_frames or lower network.atoms.",
        )
    parts = []
    for index, name in enumerate(("speech", "noise")):

        def frames(batch: int, index: int = index) -> Tensor:
            return context_frames(source, index, batch, settings.batch_frames, network, front_end)

        first = frames(0)
        if (there := audible(first).numel()) < shape.atoms:
            found = f"{there} audible frames of {name} in a batch of {settings.batch_frames}"
            remedy = f"Give {name} with fewer pauses, raise dictionary.batch_frames, or lower network.atoms."
            raise CorpusError(f"--{name}", found, f"at least network.atoms = {shape.atoms}", remedy)
        if settings.method == "exemplars":
            parts.append(exemplars(first, shape.atoms, torch.Generator().manual_seed(seed)))
            continue
        parts.append(
            learn_dictionary(
                lambda batch, first=first, frames=frames: frames(batch) if batch else first,
                settings.batches,
                shape.atoms,
                shape.beta,
                shape.sparsity,
                activation_steps=settings.iterations,
                seed=seed,
                progress=lambda done, cost, name=name: progress({"dictionary": name, "step": done, "loss": cost}),
            )
        )
    return torch.cat(parts, 1)


def context_frames(
    source: ExampleSource, index: int, batch: int, count: int, network: MaskNetwork, front_end: FrontEnd
) -> Tensor:
    """Return mini-batch `batch` of frames (E, count) of the speech (index 0) or noise (1) of mixtures, in the form that
    the dictionaries of `network` explain.

    A few frames are taken from each of many segments: neighbouring frames share most of their context, and a mini-batch
    should hold many voices.
    """
    pair = front_end.pair(front_end.rate_hz)
    per_segment = max(1, source.length // pair.hop_samples // 4)
    segments = -(-count // per_segment)
    draw = torch.Generator().manual_seed(batch)
    chosen = []
    for i in range(segments):
        samples = torch.from_numpy(source[batch * segments + i][index])
        magnitude = normalised_magnitudes(pair.analysis(samples)[None])
        heard = stack_context(magnitude, network.settings.context)[0][0].square().mean(0) > INAUDIBLE
        sounding = network.evidence_of(magnitude)[0][:, heard]
        chosen.append(sounding[:, torch.randperm(sounding.shape[1], generator=draw)[:per_segment]])
    return torch.cat(chosen, 1)[:, :count]


def noises(source: ExampleSource, front_end: FrontEnd, examples: int) -> list[Tensor]:
    """Return the noise of the first mixtures, divided by its running level, (1, F, T) each, without silent ones."""
    pair = front_end.pair(front_end.rate_hz)
    heard = [torch.from_numpy(source[i][1]) for i in range(examples)]
    return [normalised_magnitudes(pair.analysis(samples)[None]) for samples in heard if samples.any()]


def mixture_frames(source: ExampleSource, front_end: FrontEnd, examples: int) -> Tensor:
    """Return all frames (F, N) of the first mixtures, divided by their running level."""
    pair = front_end.pair(front_end.rate_hz)
    mixtures = [torch.from_numpy(sum(source[i])) for i in range(examples)]
    return torch.cat([normalised_magnitudes(pair.analysis(m)[None])[0] for m in mixtures], 1)
