"""The dev score: how good a network is on recordings that it does not learn from."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from deepnmf_cli import extras
from deepnmf_cli.corpus.mixing import Samples
from deepnmf_cli.errors import CorpusError, DeepnmfError
from deepnmf_cli.networks.base import SPEECH, MaskNetwork
from deepnmf_cli.scoring.perceptual import NoScore, pesq_score
from deepnmf_cli.scoring.sdr import si_sdr
from deepnmf_cli.signal.masks import complex_masks
from deepnmf_cli.signal.stft import FrontEnd

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
        """What runs are compared by: SI-SDR + DB_PER_PESQ * PESQ, in dB."""
        return self.si_sdr if self.pesq is None else self.si_sdr + DB_PER_PESQ * self.pesq


LONGEST_DEV_S = 120.0
"""A dev recording is enhanced as a whole, in memory that grows with its length; longer ones are worth a word."""

SHORTEST_PESQ_S = 0.25


def check_dev(pairs: Sequence[Pair], rate_hz: int, score: str = SCORES[0]) -> list[str]:
    """What will be wrong with every dev score, said before the first step: one sentence for each kind of fault.

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
            f"dev: a recording of {longest_s / 60:.1f} minutes is enhanced as a whole for every score, which takes time and "
            f"memory; cut the dev recordings into pieces of 10 to 20 s"
        )
    return notes


def _fault(clean: Samples, noisy: Samples, rate_hz: int, score: str) -> str | None:
    for samples, role in ((clean, "clean"), (noisy, "noisy")):
        if not len(samples) or np.ptp(samples) == 0:
            return f"the {role} recording is silent"
    too_short = _with_pesq(score) and len(clean) < SHORTEST_PESQ_S * rate_hz
    return f"shorter than {SHORTEST_PESQ_S} s" if too_short else None


@torch.no_grad()
def dev_score(
    network: MaskNetwork, front_end: FrontEnd, pairs: Sequence[Pair], device: str = "cpu", score: str = SCORES[0]
) -> DevScore:
    """The score of the network on pairs of clean and noisy recordings; without PESQ where it is not installed."""
    pair, heard = front_end.pair(front_end.rate_hz), _pesq_subset(len(pairs)) if _with_pesq(score) else ()
    ratios, qualities = [], []
    network.eval()
    for index, (clean, noisy) in enumerate(pairs):
        spectrum = pair.analysis(torch.from_numpy(noisy).to(device))
        masks = complex_masks(network(network.hear(spectrum[None], pair.window_hops))[0])
        estimate = pair.synthesis(masks[0, SPEECH] * spectrum, len(noisy)).double().cpu().numpy()
        ratios.append(si_sdr(clean.astype(np.float64), estimate))
        if index in heard:
            try:
                qualities.append(pesq_score(clean, estimate.astype(np.float32), front_end.rate_hz))
            except NoScore:
                pass  # no speech in it, and so every time
    network.train()
    if not np.isfinite(ratios).any() or (_with_pesq(score) and not qualities):
        raise DeepnmfError(
            "dev", "no score that is finite", "clean recordings with at least one utterance", "Check the dev folder."
        )
    return DevScore(float(np.nanmean(ratios)), float(np.mean(qualities)) if qualities else None)


def _with_pesq(score: str) -> bool:
    return score == SCORES[1] and extras.has("pesq")


def _pesq_subset(count: int) -> set[int]:
    """Which pairs PESQ hears. Not every n-th: corpora tend to repeat their SNRs with some period."""
    return set(np.random.default_rng(0).permutation(count)[:PESQ_PAIRS].tolist())
