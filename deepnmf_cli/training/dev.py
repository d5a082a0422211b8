"""The dev score: how good a network is on recordings that it does not learn from."""

import math
from collections.abc import Callable, Sequence
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
from deepnmf_cli.training.hearing import points_lost, power_spectra, window_samples

Pair = tuple[Samples, Samples]
"""A clean and a noisy recording of equal length at the front end's sampling rate."""

SCORES = ("si-sdr", "si-sdr+pesq")
"""Names of `training.score`."""

DB_PER_PESQ = 10.0
"""0.1 of PESQ counts as 1 dB of SI-SDR, about the ratio of their differences between published denoisers of similar
size."""

PESQ_PAIRS = 60
"""PESQ is computed for this many of the dev pairs, always the same ones: it takes as long as enhancing them."""


@dataclass(frozen=True)
class DevScore:
    """Mean SI-SDR in dB over all dev pairs, and mean PESQ over `PESQ_PAIRS` of them, None if it was not asked for.

    PESQ is computed by the package `pesq`, or without it by `estimated_pesq`.
    """

    si_sdr: float
    pesq: float | None = None
    pesq_estimated: float | None = None

    @property
    def value(self) -> float:
        """Return the score by which runs are compared: SI-SDR + DB_PER_PESQ * PESQ, in dB."""
        return self.si_sdr + DB_PER_PESQ * (self.pesq or self.pesq_estimated or 0.0)


LONGEST_DEV_S = 120.0
"""Seconds above which a dev recording causes a warning: it is enhanced as one block, in memory that grows with its
length."""

SHORTEST_PESQ_S = 0.25


def check_dev(pairs: Sequence[Pair], rate_hz: int, score: str = SCORES[0]) -> list[str]:
    """Return warnings about faults that every dev score will have, before the first step: one sentence for each kind.

    Raises CorpusError if no score is possible: no pair can be scored, or the two recordings of a pair differ in length.
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
            "dev: PESQ is estimated by the hearing model of the objective, as the package pesq is not installed; "
            '`pip install "deepnmf[evaluate]"` brings it'
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
    """Return the network's score on pairs of clean and noisy recordings; PESQ is estimated if it is not installed."""
    found = _score(lambda noisy: enhanced(network, front_end, noisy, device), pairs, front_end.rate_hz, score)
    network.train()
    return found


def noisy_score(pairs: Sequence[Pair], rate_hz: int, score: str = SCORES[0]) -> DevScore:
    """Return the score of the noisy recordings as they are."""
    return _score(lambda noisy: noisy, pairs, rate_hz, score)


def _score(enhance: Callable[[Samples], Samples], pairs: Sequence[Pair], rate_hz: int, score: str) -> DevScore:
    hears = METRICS["PESQ"].compute if _with_pesq(score) else estimated_pesq
    heard = _pesq_subset(len(pairs)) if score == SCORES[1] else set()
    si_sdr, pesq = [], []
    for index, (clean, noisy) in enumerate(pairs):
        signals = clean.astype(np.float64), enhance(noisy).astype(np.float64), rate_hz
        # A recording without speech has no score; that is the same every time, so means stay comparable.
        with suppress(NoScore):
            si_sdr.append(METRICS["SI-SDR"].compute(*signals))
        if index in heard:
            with suppress(NoScore):
                pesq.append(hears(*signals))
    if not si_sdr or (heard and not pesq):
        raise DeepnmfError(
            "dev", "no score that is finite", "clean recordings with at least one utterance", "Check the dev folder."
        )
    means = float(np.mean(si_sdr)), float(np.mean(pesq)) if pesq else None
    return DevScore(*means) if _with_pesq(score) else DevScore(means[0], None, means[1])


def estimated_pesq(clean: np.ndarray, speech: np.ndarray, rate_hz: int) -> float:
    """Return the PESQ of an estimate (N,), about 1 to 4.6, by the objective's hearing model (`hearing.points_lost`).

    It is 4.5 less the points lost, mapped as P.862.2 maps the points of wideband speech. Raises NoScore for a
    `clean` that is silent or shorter than 32 ms.

    It is meant for comparing states of one run: unlike PESQ, it does not align the signals in time.
    """
    size = float(np.sqrt(np.mean(clean**2)))
    if size == 0 or len(clean) < window_samples(rate_hz):
        raise NoScore("PESQ: no utterance found")
    signals = torch.from_numpy(np.stack([speech, clean]) / size).float()
    estimate, target = power_spectra(signals, rate_hz).split(1)
    points = 4.5 - float(points_lost(estimate, target, rate_hz))
    return 0.999 + 4 / (1 + math.exp(-1.3669 * points + 3.8224))


def enhanced(network: MaskNetwork, front_end: FrontEnd, noisy: Samples, device: str = "cpu") -> Samples:
    """Return a recording (N,) at the front end's rate as enhanced for users, (N,), by the code of all enhancement.

    The network is left in evaluation mode.
    """
    backend = _InTraining(network.eval(), device)
    return StreamingEnhancer(backend, front_end, front_end.rate_hz, channels=1).flush(noisy[None])[0]


class _InTraining(TorchBackend):
    """Backend that leaves its network as it is, since training of the weights continues."""

    def __init__(self, network: MaskNetwork, device: str) -> None:
        self.network, self.device = network, device

    def running(self) -> AbstractContextManager:
        """Return a context that records no gradients.

        It is not inference mode, since tensors made in that mode, if any were kept, could not be used by the next step.
        """
        return torch.no_grad()


def _with_pesq(score: str) -> bool:
    return score == SCORES[1] and extras.has("pesq")


def _pesq_subset(count: int) -> set[int]:
    """Return the indices of the pairs for which PESQ is computed.

    These are not every n-th pair, since corpora tend to repeat their SNRs with some period.
    """
    return set(np.random.default_rng(0).permutation(count)[:PESQ_PAIRS].tolist())
