"""The scores of an estimate, in one table: an entry added here appears in every table, file and figure."""

import math
from collections import ChainMap
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from deepnmf_cli.scoring import words
from deepnmf_cli.scoring.composite import NAMES as COMPOSITES
from deepnmf_cli.scoring.composite import composite_score, segmental_snr
from deepnmf_cli.scoring.dnsmos import NAMES, dnsmos_score
from deepnmf_cli.scoring.perceptual import NoScore, shared_pesq, stoi_score
from deepnmf_cli.scoring.sdr import sdr, si_sdr


@dataclass(frozen=True)
class Metric:
    """One measure of an estimate against its reference."""

    name: str
    unit: str
    """Empty for a number without a unit."""
    digits: int
    """Number of decimals that are shown."""
    compute: Callable[[np.ndarray, np.ndarray, int], float]
    """(reference (N,), estimate (N,), rate_hz) -> score, of float arrays that are not silent. Raises NoScore, whose
    text says why, where the measure is not defined."""
    lower_is_better: bool = False

    @property
    def label(self) -> str:
        """The heading, for example "SDR [dB]"."""
        return f"{self.name} [{self.unit}]" if self.unit else self.name


def _si_sdr(reference: np.ndarray, estimate: np.ndarray, rate_hz: int) -> float:
    if math.isnan(value := si_sdr(reference, estimate)):
        raise NoScore("SI-SDR: a constant signal")
    return value


METRICS = {
    metric.name: metric
    for metric in (
        Metric("SDR", "dB", 2, lambda reference, estimate, rate_hz: sdr(reference, estimate)),
        Metric("SI-SDR", "dB", 2, _si_sdr),
        Metric("PESQ", "", 2, shared_pesq),
        Metric("STOI", "", 3, stoi_score),
        Metric("ESTOI", "", 3, lambda *signals: stoi_score(*signals, extended=True)),
    )
}
"""Name -> metric, in the order of every table."""

DNSMOS = {
    name: Metric(name, "", 2, lambda reference, estimate, rate_hz, name=name: dnsmos_score(estimate, rate_hz, name))
    for name in NAMES
}
"""Metrics computed only on request: they use the estimate alone, and take half a second for each window of 9 s."""


COMPOSITE = {
    metric.name: metric
    for metric in (
        Metric("SSNR", "dB", 2, segmental_snr),
        *(Metric(name, "", 2, partial(composite_score, name=name)) for name in COMPOSITES),
    )
}
"""Metrics that papers report beside PESQ, computed only on request."""


def _by_transcript(reference: np.ndarray, estimate: np.ndarray, rate_hz: int) -> float:
    raise NoScore(f"{words.NAME}: two signals without a transcript")


RECOGNITION = {words.NAME: Metric(words.NAME, "%", 1, _by_transcript, lower_is_better=True)}
"""The metric that needs a transcript and a program: `scorer` computes it."""

ALL = ChainMap(METRICS, COMPOSITE, DNSMOS, RECOGNITION)


def metric_of(name: str) -> Metric:
    """Return the metric of this name, whether it is always computed or only on request."""
    return ALL[name]
