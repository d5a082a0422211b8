"""The dev score: how good a network is on recordings that it does not learn from."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass

import numpy as np
import torch

from deepnmf_cli import extras
from deepnmf_cli.corpus.mixing import Samples
from deepnmf_cli.errors import CorpusError, DeepnmfError
from deepnmf_cli.networks.backend import TorchBackend
from deepnmf_cli.networks.base import MaskNetwork
from deepnmf_cli.scoring.metrics import METRICS
from deepnmf_cli.scoring.perceptual import NoScore
from deepnmf_cli.signal.stft import FrontEnd
from deepnmf_cli.streaming import StreamingEnhancer

Pair = tuple[Samples, Samples]
"""A clean and a noisy recording of equal length at the front end's sampling rate."""

SCORES = ("si-sdr", "si-sdr+pesq")
"""Names of `training.score`."""

DB_PER_PESQ = 10.0
"""0.1 of PESQ counts as 1 dB of SI-SDR: about how both differ between the published denoisers of similar size."""

PESQ_PAIRS = 60
"""PESQ is computed for this many of the dev pairs, always the same ones: it takes as long as enhancing them."""


@dataclass(frozen=True)
class DevScore:
    """Mean SI-SDR in dB over all dev pairs, and mean PESQ over `PESQ_PAIRS` of them, or None if not asked for."""

    si_sdr: float
    pesq: float | None = None

    @property
    def value(self) -> float:
        """Return what runs are compared by: SI-SDR + DB_PER_PESQ * PESQ, in dB."""
        return self.si_sdr if self.pesq is None else self.si_sdr + DB_PER_PESQ * self.pesq


LONGEST_DEV_S = 120.0
"""A dev recording is enhanced as one block, in memory that grows with its length; longer ones are worth a word."""

SHORTEST_PESQ_S = 0.25


def check_dev(pairs: Sequence[Pair], rate_hz: int, score: str = SCORES[0]) -> list[str]:
    """Return what will be wrong with every dev score, said before the first step: one sentence for each kind of fault.

    Raises CorpusError where no score is possible: no pair can be scored, or the two recordings of one differ in length.
    """
    found: dict[str, list[int]] = {}
    for number, (clean, noisy) in enumerate(pairs, start=1):
        if len(clean) != len(noisy):
            found_lengths = (
                f"a clean recording of {len(clean)} samples beside a noisy one of {len(noisy)} (pair {number})"
            )
            raise CorpusError("dev", found_lengths, "pairs of equal length", "Cut or align the recordings.")
        if fault := _fault(clean, noisy, rate_hz, score):
            found.setdefault(fault, []).append(number)
    if len(pairs) == sum(map(len, found.values())):
        expected, remedy = "clean recordings that are not silent", "Check the dev folder."
        raise CorpusError(
            "dev", f"no pair that can be scored ({', '.join(found) or 'none is there'})", expected, remedy
        )
    notes = [
        f"dev: {len(numbers)} of {len(pairs)} pairs have no full score ({fault}), the first being pair {numbers[0]}"
        for fault, numbers in found.items()
    ]
    if score == SCORES[1] and not _with_pesq(score):
        notes.append(
            'dev: scored by SI-SDR alone, as PESQ is not installed; `pip install "deepnmf[evaluate]"` brings it'
        )
    longest_s = max(len(clean) for clean, _ in pairs) / rate_hz
    if longest_s > LONGEST_DEV_S:
        notes.append(
            f"dev: a recording of {longest_s / 60:.1f} minutes is enhanced as a whole for every score, which takes "
            f"time and memory; cut the dev recordings into pieces of 10 to 20 s"
        )
    return notes


def _fault(clean: Samples, noisy: Samples, rate_hz: int, score: str) -> str | None:
    for samples, role in ((clean, "clean"), (noisy, "noisy")):
        if not len(samples) or np.ptp(samples) == 0:
            return f"the {role} recording is silent"
    too_short = _with_pesq(score) and len(clean) < SHORTEST_PESQ_S * rate_hz
    return f"shorter than {SHORTEST_PESQ_S} s" if too_short else None


def dev_score(
    network: MaskNetwork, front_end: FrontEnd, pairs: Sequence[Pair], device: str = "cpu", score: str = SCORES[0]
) -> DevScore:
    """The score of the network on pairs of clean and noisy recordings; without PESQ where it is not installed."""
    with_pesq = _pesq_subset(len(pairs)) if _with_pesq(score) else set()
    rate_hz, found = front_end.rate_hz, {"SI-SDR": [], "PESQ": []}
    for index, (clean, noisy) in enumerate(pairs):
        speech = enhanced(network, front_end, noisy, device)
        for name, scores in found.items():
            if name != "PESQ" or index in with_pesq:
                # A recording without speech has no PESQ, and so every time.
                with suppress(NoScore):
                    scores.append(METRICS[name].compute(clean.astype(np.float64), speech.astype(np.float64), rate_hz))
    network.train()
    if not found["SI-SDR"] or (_with_pesq(score) and not found["PESQ"]):
        raise DeepnmfError(
            "dev", "no score that is finite", "clean recordings with at least one utterance", "Check the dev folder."
        )
    return DevScore(float(np.mean(found["SI-SDR"])), float(np.mean(found["PESQ"])) if found["PESQ"] else None)


def enhanced(network: MaskNetwork, front_end: FrontEnd, noisy: Samples, device: str = "cpu") -> Samples:
    """Return what a user would hear of a recording (N,) at the front end's rate: (N,), by the path of all enhancement.

    The network is left in evaluation mode.
    """
    backend = _InTraining(network.eval(), device)
    return StreamingEnhancer(backend, front_end, front_end.rate_hz, channels=1).flush(noisy[None])[0]


class _InTraining(TorchBackend):
    """A network that stays as it is: its weights go on being trained."""

    def __init__(self, network: MaskNetwork, device: str) -> None:
        self.network, self.device = network, device

    def running(self) -> AbstractContextManager:
        """Record no gradients. Tensors of inference mode, were some kept, could not be used by the next step."""
        return torch.no_grad()


def _with_pesq(score: str) -> bool:
    return score == SCORES[1] and extras.has("pesq")


def _pesq_subset(count: int) -> set[int]:
    """Return which pairs PESQ hears. Not every n-th: corpora tend to repeat their SNRs with some period."""
    return set(np.random.default_rng(0).permutation(count)[:PESQ_PAIRS].tolist())
