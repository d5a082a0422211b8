"""Scores of recordings, one after the other or spread over processes."""

import math
import multiprocessing
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from typing import Protocol, Self

import numpy as np

from deepnmf_cli.errors import DeepnmfError, ModelError
from deepnmf_cli.scoring import words
from deepnmf_cli.scoring.metrics import METRICS, RECOGNITION, metric_of
from deepnmf_cli.scoring.pairing import Pair, read_pair, read_reference
from deepnmf_cli.scoring.perceptual import NoScore
from deepnmf_cli.scoring.sdr import lag_s
from deepnmf_cli.signals import leave_to_owner
from deepnmf_cli.workers import interrupts_held

NOISY, ESTIMATE, MODEL = "noisy", "estimate", "model"
"""Kinds of what is scored: the recordings before enhancement, files that somebody enhanced, and models."""

Progress = Callable[[float], object]
"""Called with the seconds of audio in each recording that has been scored."""

Enhance = Callable[[np.ndarray, int], np.ndarray]
"""(samples (C, N) float32, rate_hz) -> speech (C, N)."""


@dataclass(frozen=True)
class Scores:
    """The scores of one recording: NaN where a measure is not defined for it, with a note that says why."""

    name: str
    values: dict[str, float]
    notes: tuple[str, ...]
    seconds: float
    rate_hz: int
    lag_s: float = 0.0
    """Constant delay of the estimate in seconds; see `sdr.lag_s`."""


class Finished(Protocol):
    """A store of the scores that an earlier call finished, which also keeps those of this call."""

    def get(self, pair: Pair) -> Scores | None: ...

    def add(self, pair: Pair, scores: Scores) -> None: ...


def score(
    reference: np.ndarray, estimate: np.ndarray, rate_hz: int, name: str = "", metrics: Sequence[str] | None = None
) -> Scores:
    """Compare two float64 arrays of one shape (C, N), N >= 1, with finite samples.

    The score of several channels is the mean over those channels that have one. A channel that is silent in either
    array has none: SDR and SI-SDR are then 0/0, and the perceptual measures have nothing to compare with. `metrics` are
    names of `metrics.METRICS`, which is the default, and of other metrics there that have a `compute`. If there is no
    reference, the estimate is given as both arrays.
    """
    metrics = list(METRICS) if metrics is None else metrics
    alone = estimate is reference
    channels = [_score_channel(*pair, rate_hz, metrics, alone) for pair in zip(reference, estimate, strict=True)]
    values = {metric: _mean([values[metric] for values, _ in channels]) for metric in metrics}
    notes = dict.fromkeys(note for _, notes in channels for note in notes)  # each once, in order
    lag = 0.0 if alone else lag_s(reference, estimate, rate_hz)
    return Scores(name, values, tuple(notes), reference.shape[1] / rate_hz, rate_hz, lag)


def score_pair(pair: Pair, metrics: Sequence[str] | None = None) -> Scores:
    """Read and compare two files. Raises AudioError and CorpusError as `read_pair` does."""
    return _score(pair, *read_pair(pair), metrics)


def score_speech(pair: Pair, speech: np.ndarray, rate_hz: int, metrics: Sequence[str] | None = None) -> Scores:
    """Compare `speech` (C, N), which was made of the pair's second file, with as much of the reference.

    Both files must have passed `read_pair`, which returns N samples at `rate_hz`.
    """
    estimate = speech.astype(np.float64)
    reference = estimate if pair.reference is None else read_reference(pair)[0][:, : estimate.shape[1]]
    return _score(pair, reference, estimate, rate_hz, metrics)


def _score(
    pair: Pair, reference: np.ndarray, estimate: np.ndarray, rate_hz: int, metrics: Sequence[str] | None
) -> Scores:
    """Return `score`, and with it the score that needs to know what was said."""
    computed = list(METRICS) if metrics is None else [name for name in metrics if name not in RECOGNITION]
    scores = score(reference, estimate, rate_hz, pair.name, computed)
    if pair.speech is None:
        return scores
    try:
        rate, notes = words.word_error_rate(pair.speech, estimate, rate_hz), scores.notes
    except NoScore as reason:
        rate, notes = math.nan, (*scores.notes, str(reason))
    return replace(scores, values=scores.values | {words.NAME: rate}, notes=notes)


def score_files(
    pairs: Sequence[Pair],
    pool: "ScoringPool",
    progress: Progress | None = None,
    finished: Finished | None = None,
    metrics: Sequence[str] | None = None,
) -> list[Scores]:
    """Return the scores of all pairs, in their order. Pairs that `finished` holds are not scored again."""
    return _gather(pairs, pool, score_pair, lambda pair: (pair, metrics), progress, finished)


def score_enhanced(
    pairs: Sequence[Pair],
    enhance: Enhance,
    pool: "ScoringPool",
    progress: Progress | None = None,
    finished: Finished | None = None,
    metrics: Sequence[str] | None = None,
) -> list[Scores]:
    """Return the scores of what `enhance` makes of each pair's second file, in the order of the pairs.

    `enhance` runs in this process, so that a network is loaded once, while other processes score what it has done.
    Raises ModelError if it returns another shape or samples that are not finite.
    """

    def task(pair: Pair) -> tuple:
        _, noisy, rate_hz = read_pair(pair)
        speech = enhance(noisy.astype(np.float32), rate_hz)
        if speech.shape != noisy.shape or not np.isfinite(speech).all():
            found = f"an enhanced signal of shape {speech.shape}, or samples in it that are not finite"
            expected = f"finite samples of shape {noisy.shape}"
            raise ModelError(pair.estimate, found, expected, "Choose another model, or train it again.")
        return pair, speech, rate_hz, metrics

    return _gather(pairs, pool, score_speech, task, progress, finished)


class ScoringPool:
    """A context manager that calls a function for many arguments, in `jobs` processes or, for one job, in this one.

    The processes are spawned, not forked, because PyTorch's threads do not survive a fork.
    """

    def __init__(self, jobs: int = 1) -> None:
        self.jobs = jobs
        self._executor: ProcessPoolExecutor | None = None

    def __enter__(self) -> Self:
        if self.jobs > 1:
            spawn = multiprocessing.get_context("spawn")
            self._executor = ProcessPoolExecutor(self.jobs, spawn, initializer=leave_to_owner)
        return self

    def __exit__(self, *_: object) -> None:
        if self._executor:
            self._executor.shutdown(cancel_futures=True)

    def map(self, function: Callable[..., Scores], tasks: Iterable[tuple]) -> Iterator[tuple[int, Scores]]:
        """Yield (number of the task, `function(*task)`) as tasks finish, raising what a call raises.

        Tasks are taken only as fast as they finish, so that audio does not pile up in memory.
        """
        if self._executor is None:
            for number, task in enumerate(tasks):
                yield number, function(*task)
            return
        pending: dict[Future, int] = {}
        try:
            for number, task in enumerate(tasks):
                with interrupts_held():  # it may start a process
                    pending[self._executor.submit(function, *task)] = number
                if len(pending) > 2 * self.jobs:
                    yield from _done(pending)
            while pending:
                yield from _done(pending)
        except BrokenProcessPool as error:
            found, expected = "a scoring process that ended unexpectedly", f"{self.jobs} processes that last"
            remedy = "Memory may have run out: use fewer with --jobs."
            raise DeepnmfError("scoring", found, expected, remedy) from error


def _done(pending: dict[Future, int]) -> Iterator[tuple[int, Scores]]:
    """Wait for some of `pending`, take them out and yield them, failed ones last so that finished ones are not lost."""
    done = wait(pending, return_when=FIRST_COMPLETED).done
    for future in sorted(done, key=lambda future: future.exception() is not None):
        yield pending.pop(future), future.result()


def _score_channel(
    reference: np.ndarray, estimate: np.ndarray, rate_hz: int, metrics: Sequence[str], alone: bool
) -> tuple[dict[str, float], list[str]]:
    values, notes = dict.fromkeys(metrics, math.nan), []
    for samples, role in ((reference, "reference"), (estimate, "estimate")):
        if not samples.any() and not (alone and role == "reference"):
            return values, [f"all: the {role} is silent"]
    for name, metric in ((name, metric_of(name)) for name in metrics):
        try:
            values[name] = metric.compute(reference, estimate, rate_hz)
        except NoScore as reason:
            notes.append(str(reason))
    return values, notes


def _mean(values: list[float]) -> float:
    defined = [value for value in values if not math.isnan(value)]
    return math.fsum(defined) / len(defined) if defined else math.nan


def _gather(
    pairs: Sequence[Pair],
    pool: ScoringPool,
    function: Callable[..., Scores],
    task: Callable[[Pair], tuple],
    progress: Progress | None,
    finished: Finished | None,
) -> list[Scores]:
    """Return `function(*task(pair))` of every pair, in their order.

    What `finished` holds is not computed again; the others are added to it.
    """
    known = {place: scores for place, pair in enumerate(pairs) if finished and (scores := finished.get(pair))}
    missing = [place for place in range(len(pairs)) if place not in known]
    if progress and known:
        progress(math.fsum(scores.seconds for scores in known.values()))
    for number, scores in pool.map(function, (task(pairs[place]) for place in missing)):
        known[missing[number]] = scores
        if finished:
            finished.add(pairs[missing[number]], scores)
        if progress:
            progress(scores.seconds)
    return [known[place] for place in range(len(pairs))]
