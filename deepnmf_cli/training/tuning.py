"""Fine-tuning: a trained network learns the user's own noise and is held to its former behaviour elsewhere."""

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import torch
from torch import Tensor

from deepnmf_cli import checkpoint
from deepnmf_cli.corpus.dataset import ExampleSource
from deepnmf_cli.corpus.mixing import Samples
from deepnmf_cli.networks.base import MaskNetwork
from deepnmf_cli.signal.stft import FrontEnd
from deepnmf_cli.training.dev import Pair, dev_score, enhanced

SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Shares of the way from the initial weights to the tuned ones that are scored."""

Weights = dict[str, Tensor]


@dataclass(frozen=True)
class TuningSettings:
    """How a trained network is adapted; not at all by default."""

    own_share: float = 1.0
    """Share of the examples with the user's own noise. The others have general noise, and the initial model's output as
    target. 1 is ordinary training."""
    lost_db: float = 0.1
    """Largest loss of SI-SDR on general noise that is allowed, in dB."""

    def __post_init__(self) -> None:
        if not 0 < self.own_share <= 1 or self.lost_db < 0:
            raise ValueError("own_share must be above 0 and at most 1, lost_db not negative")


class Taught:
    """Examples with the user's own noise, interspersed with general ones whose speech is a teacher's output for them.

    The network is thus asked to keep its behaviour elsewhere, not to relearn it ("learning without forgetting", Li and
    Hoiem, 2016).
    """

    def __init__(
        self, own: ExampleSource, general: ExampleSource, own_share: float, teacher: MaskNetwork, front_end: FrontEnd
    ) -> None:
        self.own, self.general, self.own_share = own, general, own_share
        self.teacher, self.front_end = teacher, front_end
        self.length = own.length

    def is_own(self, index: int) -> bool:
        """Return whether the example has the user's own noise, as `own_share` of all examples have, evenly spread."""
        return int((index + 1) * self.own_share) > int(index * self.own_share)

    def __getitem__(self, index: int) -> tuple[Samples, Samples]:
        """Return example `index` as (speech, noise), each (samples,)."""
        if self.is_own(index):
            return self.own[index]
        speech, noise = self.general[index]
        mixture = speech + noise
        speech = enhanced(self.teacher, self.front_end, mixture)
        return speech, mixture - speech

    def divide(self, processes: int) -> None:
        """Keep as many clips as one of `processes` may, and let the teacher use one thread."""
        self.own.divide(processes)
        self.general.divide(processes)
        torch.set_num_threads(1)


@dataclass(frozen=True)
class Step:
    """A point on the way from the initial weights to the tuned ones, and the mean SI-SDR there in dB."""

    share: float
    own_si_sdr: float
    general_si_sdr: float


def way(
    network: MaskNetwork,
    initial: Weights,
    tuned: Weights,
    front_end: FrontEnd,
    own: Sequence[Pair],
    general: Sequence[Pair],
    device: str = "cpu",
) -> Iterator[Step]:
    """Yield scores on the straight line between two networks' weights; each point's are loaded into `network` in turn.

    Fine-tuning gains early on that line and loses late (Wortsman et al., CVPR 2022).
    """
    for share in SHARES:
        network.load_weights(blended(initial, tuned, share))
        scores = (dev_score(network, front_end, pairs, device).si_sdr for pairs in (own, general))
        yield Step(share, *scores)


def best_step(steps: Sequence[Step], lost_db: float) -> Step:
    """Return the best step on the user's own noise among those whose general score is at most `lost_db` below the first
    one's.
    """
    allowed = [step for step in steps if step.general_si_sdr >= steps[0].general_si_sdr - lost_db]
    return max(allowed, key=lambda step: step.own_si_sdr)


def write(path: Path, steps: Sequence[Step]) -> None:
    """Write the steps as CSV."""
    with checkpoint.atomic_path(path) as partial, open(partial, "w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(field.name for field in fields(Step))
        rows.writerows((step.share, step.own_si_sdr, step.general_si_sdr) for step in steps)


def blended(initial: Weights, tuned: Weights, share: float) -> Weights:
    """Return the weights at a share of the way from the initial to the tuned ones."""
    return {
        name: torch.lerp(initial[name], x, share) if x.is_floating_point() else x.clone() for name, x in tuned.items()
    }
