"""The files of an evaluation that are worth hearing, and the sound that every system makes of them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from deepnmf_cli.scoring.metrics import metric_of
from deepnmf_cli.scoring.pairing import Pair, read_pair
from deepnmf_cli.scoring.scorer import MODEL, NOISY, Enhance

LONGEST_S = 10.0
"""Longest part of a file that is heard: the part in which the reference has most energy."""

RANKING = ("PESQ", "OVRL")
"""Scores by which files are ranked, since they follow listeners best. The first of them that is there is used; if none
is, the first of all scores."""

REFERENCE = "reference"

WORST, BEST = "worst", "best"


@dataclass(frozen=True)
class Source:
    """Where the sound of one system comes from: the files of pairs, or what `enhance` makes of them."""

    pairs: Sequence[Pair]
    enhance: Enhance | None = None


@dataclass(frozen=True)
class Ranking:
    """The order of the files by how well one system does on them, from the worst: places in its list of files."""

    system: str
    metric: str
    of_gains: bool
    """Whether files are ranked by the gain over the noisy input."""
    order: tuple[int, ...]

    def choose(self, most: int) -> list[tuple[str, int]]:
        """Return ("worst 1", place) and so on: at most `most` of the worst and of the best, each file once."""
        worst = self.order[:most]
        best = [place for place in self.order[::-1][:most] if place not in worst]
        named = [(f"{WORST} {n}", place) for n, place in enumerate(worst, 1)]
        return named + [(f"{BEST} {n}", place) for n, place in enumerate(best, 1)]


@dataclass(frozen=True)
class Example:
    """A part of one file, with the sound of each system."""

    title: str
    name: str
    place: int
    """Place of the file in the list of files."""
    sounds: Mapping[str, np.ndarray]
    """Reference and systems -> samples (C, N), of one length, in [-1, 1]."""
    rate_hz: int
    start_s: float
    whole_s: float
    gain: float
    """Factor by which all sounds were multiplied, 1 unless a peak would be beyond full scale."""

    @property
    def seconds(self) -> float:
        """Length in seconds of the part that is heard."""
        return next(iter(self.sounds.values())).shape[1] / self.rate_hz

    @property
    def is_cut(self) -> bool:
        """Return whether the file is longer than the part that is heard."""
        return self.seconds < self.whole_s


def rank(report: Mapping[str, Any]) -> Ranking:
    """Rank the files of a report by the first model or, without one, the first system that is not the noisy input."""
    systems = report["systems"]
    others = [system for system in systems if system["kind"] != NOISY] or systems
    chosen = next((system for system in others if system["kind"] == MODEL), others[0])
    metrics = list(chosen["summary"])
    metric = next((name for name in RANKING if name in metrics), metrics[0])
    noisy = next((system for system in systems if system["kind"] == NOISY and system is not chosen), None)
    values = np.array([row[metric] for row in chosen["files"]], np.float64)  # None becomes NaN
    if noisy:
        values -= np.array([row[metric] for row in noisy["files"]], np.float64)
    if metric_of(metric).lower_is_better:
        values = -values
    order = np.argsort(values, kind="stable")[: np.count_nonzero(~np.isnan(values))]
    return Ranking(chosen["name"], metric, noisy is not None, tuple(int(place) for place in order))


def examples(
    ranking: Ranking, most: int, sources: Mapping[str, Source], tick: Callable[[], object] = lambda: None
) -> list[Example]:
    """Return the sounds of at most `most` of the worst files and of the best; models enhance these files once more.

    `tick` is called after each file. Raises what `read_pair` and `enhance` raise.
    """
    found = []
    for title, place in ranking.choose(most):
        found.append(_example(title, place, sources))
        tick()
    return found


def _example(title: str, place: int, sources: Mapping[str, Source]) -> Example:
    sounds: dict[str, np.ndarray] = {}
    rate_hz, name = 0, ""
    for system, source in sources.items():
        pair = source.pairs[place]
        reference, samples, rate_hz = read_pair(pair)
        name = pair.name
        if pair.reference is not None:
            sounds.setdefault(REFERENCE, reference)
        if source.enhance:
            samples = source.enhance(samples.astype(np.float32), rate_hz)
        sounds[system] = samples
    length, longest = min(samples.shape[1] for samples in sounds.values()), round(LONGEST_S * rate_hz)
    guide = next(iter(sounds.values()))  # the reference, where there is one
    start = _loudest(guide[:, :length], longest)
    end = min(length, start + longest)
    gain = 1 / max(1.0, *(float(np.abs(samples[:, start:end]).max()) for samples in sounds.values()))
    sounds = {system: gain * samples[:, start:end] for system, samples in sounds.items()}
    return Example(title, name, place, sounds, rate_hz, start / rate_hz, length / rate_hz, gain)


def _loudest(samples: np.ndarray, count: int) -> int:
    """Return where the `count` consecutive samples of (C, N) with the most energy begin."""
    if samples.shape[1] <= count:
        return 0
    energy = np.concatenate([[0.0], np.cumsum(np.square(samples).sum(0))])
    return int(np.argmax(energy[count:] - energy[:-count]))
