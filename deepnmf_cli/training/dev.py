"""The dev score: how good a network is on recordings that it does not learn from."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from deepnmf_cli.corpus.mixing import Samples
from deepnmf_cli.errors import DeepnmfError
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


@torch.no_grad()
def dev_score(
    network: MaskNetwork, front_end: FrontEnd, pairs: Sequence[Pair], device: str = "cpu", score: str = SCORES[0]
) -> DevScore:
    """The score of the network on pairs of clean and noisy recordings."""
    pair, heard = front_end.pair(front_end.rate_hz), _pesq_subset(len(pairs)) if score == SCORES[1] else ()
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
    if not np.isfinite(ratios).any() or (score == SCORES[1] and not qualities):
        raise DeepnmfError(
            "dev", "no score that is finite", "clean recordings that are not silent", "Check the dev folder."
        )
    return DevScore(float(np.nanmean(ratios)), float(np.mean(qualities)) if qualities else None)


def _pesq_subset(count: int) -> set[int]:
    """Which pairs PESQ hears. Not every n-th: corpora tend to repeat their SNRs with some period."""
    return set(np.random.default_rng(0).permutation(count)[:PESQ_PAIRS].tolist())
