"""The training loop: batches in, gradient steps, dev scores, a journal; interrupted at any time, resumed exactly."""

import logging
import math
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from deepnmf_cli import extras
from deepnmf_cli.corpus.batches import batches
from deepnmf_cli.corpus.dataset import ExampleSource
from deepnmf_cli.corpus.mixing import Samples
from deepnmf_cli.errors import DeepnmfError
from deepnmf_cli.model_file import ModelFile
from deepnmf_cli.networks.base import MaskNetwork
from deepnmf_cli.signal.stft import FrontEnd
from deepnmf_cli.training import multiplicative
from deepnmf_cli.training.board import Board
from deepnmf_cli.training.descent import GradientDescent, Optimiser
from deepnmf_cli.training.dev import SCORES, DevScore, Pair, dev_score, enhanced, noisy_score
from deepnmf_cli.training.journal import Journal, require
from deepnmf_cli.training.layers import DepthSettings, LayerTerms
from deepnmf_cli.training.minibatch import Batch, FrameBatch, FrameStore
from deepnmf_cli.training.objectives import ObjectiveSettings
from deepnmf_cli.training.primal_dual import ConstraintSettings
from deepnmf_cli.training.processes import Processes
from deepnmf_cli.training.search import SimplexSearch
from deepnmf_cli.training.time_limit import TimeLimit

logger = logging.getLogger(__name__)

OPTIMIZERS = ("adam", "adam-log", "adam-softplus", "muon", "sgd", "search", *multiplicative.RULES)
"""Names of `training.optimizer`."""


@dataclass(frozen=True)
class TrainingSettings:
    """How long, how fast and with what the weights are trained."""

    seed: int = 1
    steps: int = 3000
    batch: int = 16
    """Mixtures per step."""
    distinct_batches: int = 0
    """After this many batches the same mixtures come again; 0 makes new ones at every step."""
    frame_stride: int = 1
    """Only every n-th frame of a mixture is learned from; for networks of context frames, whose neighbours share most
    of their context."""
    greedy: bool = False
    """Layers are trained one after the other from the readout on: in the first of C equal parts of the run the readout,
    in the second also the layer below it, and so on. For deep NMF."""
    optimizer: str = "adam"
    """"adam"; "adam-log" and "adam-softplus" set network.parameterisation too; "muon" for matrices, with Adam for the
    other weights; "sgd", plain descent with momentum; "search" for a few numbers, without back-propagation; or one of
    multiplicative.RULES."""
    momentum: float = 0.9
    """For "sgd" and the multiplicative optimisers: share of earlier batches' contribution that is kept, in [0, 1)."""
    learning_rate: float = 1e-3
    warmup_steps: int = 100
    schedule: str = "cosine"
    """Learning rate after the warm-up: "cosine" (to one hundredth at the last step) or "constant"."""
    weight_decay: float = 0.0
    """For Adam and Muon: a step shrinks each weight by this times the learning rate, in the parameterisation of the
    network; dictionaries return towards their initial values."""
    clip_norm: float = 5.0
    """Gradients are scaled down to this norm."""
    average: float = 0.999
    """Decay of the running mean of the weights, which is what is scored and kept; 0 keeps the weights themselves."""
    score_every: int = 250
    """Steps between dev scores and resume points."""
    score: str = "si-sdr"
    """What the dev score is: "si-sdr", or "si-sdr+pesq", SI-SDR in dB plus 10 times PESQ."""
    patience: int = 0
    """Stop after this many dev scores without a new best; 0 never stops early."""
    mixed_precision: bool = True
    """bfloat16 matrix products on CUDA; CPU training is always float32."""
    machine_code: bool = True
    """Compile the network's layers for training on a CPU, where it has some and there is a compiler; capture a step as
    a CUDA graph for training on a GPU, where the network allows it."""

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch < 1 or self.score_every < 1 or self.seed < 0:
            raise ValueError("steps, batch and score_every must be at least 1, seed not negative")
        if self.frame_stride < 1 or self.distinct_batches < 0:
            raise ValueError("frame_stride must be at least 1, distinct_batches not negative")
        if self.schedule not in ("cosine", "constant"):
            raise ValueError(f"schedule {self.schedule!r} is neither cosine nor constant")
        if not (self.learning_rate >= 0 and self.clip_norm > 0 and 0 <= self.average < 1):
            raise ValueError("learning_rate must not be negative, clip_norm positive, average in [0, 1)")
        if self.weight_decay < 0:
            raise ValueError("weight_decay must not be negative")
        if self.weight_decay and self.optimizer == "sgd":
            raise ValueError("plain descent has no weight_decay: set it to 0, or optimizer to adam or muon")
        if self.score not in SCORES:
            raise ValueError(f"score {self.score!r} is none of {', '.join(SCORES)}")
        if self.optimizer not in OPTIMIZERS:
            raise ValueError(f"optimizer {self.optimizer!r} is none of {', '.join(OPTIMIZERS)}")
        if not 0 <= self.momentum < 1:
            raise ValueError("momentum must lie in [0, 1)")


JUDGED_PAIRS = 16
"""Dev pairs on which constraints are judged."""

RESUME_EVERY_S = 120
"""Seconds between resume points: the most that a crash costs."""

TIMED_RESUME_EVERY_S = 60
"""The same for runs with a time limit, whose machine may be taken away."""


class Trainer:
    """Trains one network on one source of mixtures; everything it needs to continue is in the journal."""

    def __init__(
        self,
        network: MaskNetwork,
        front_end: FrontEnd,
        objective_settings: ObjectiveSettings,
        settings: TrainingSettings,
        journal: Journal,
        describe: Callable[[Path, MaskNetwork, int, DevScore | None], ModelFile],
        device: str = "cpu",
        frames: FrameStore | None = None,
        depth: DepthSettings = DepthSettings(),
        constraints: ConstraintSettings = ConstraintSettings(),
        processes: Processes = Processes(),
    ) -> None:
        """`describe(path, network, step, dev score)` returns a model file, which may have no score. `frames` provides
        the batches if `settings.frame_stride` is not 1. `depth` and `constraints` are what optimisers that descend
        along the gradient require of every layer. Each of the `processes` has a trainer; the first one scores, and
        writes the journal.
        """
        self.network, self.front_end, self.settings, self.journal = network.to(device), front_end, settings, journal
        self.describe, self.device, self.frames, self.processes = describe, device, frames, processes
        self.pair = front_end.pair(front_end.rate_hz)
        if settings.machine_code and device == "cpu":
            network.accelerate()
        self.trained: list[Tensor] = [p for p in self.network.parameters() if p.requires_grad]
        self.terms: LayerTerms | None = None
        if depth.wanted or constraints.wanted:
            self.terms = LayerTerms(self.network, depth, constraints, settings.seed)
        self.optimiser: Optimiser
        if settings.optimizer in multiplicative.RULES:
            self.optimiser = multiplicative.MultiplicativeDescent(
                self.network, objective_settings, settings.optimizer, settings.momentum
            )
        elif settings.optimizer == "search":
            self.optimiser = SimplexSearch(self.network, front_end, objective_settings)
        else:
            gpu = device.startswith("cuda")
            alike = network.same_operations and not settings.greedy and self.terms is None
            self.optimiser = GradientDescent(
                self.network,
                front_end,
                objective_settings,
                settings.clip_norm,
                mixed_precision=gpu and settings.mixed_precision and network.mixed_precision,
                muon=settings.optimizer == "muon",
                plain_momentum=settings.momentum if settings.optimizer == "sgd" else None,
                captured=gpu and settings.machine_code and alike,
                weight_decay=settings.weight_decay,
                terms=self.terms,
                processes=processes,
            )
        processes.share([*self.network.state_dict().values()])
        self.average = [p.detach().clone() for p in self.trained]
        self.step, self.best, self.seconds, self.since_best = 0, -math.inf, 0.0, 0
        self.feasible = not self._constrained
        """Whether the best model meets its constraints: one that does is preferred to all that do not."""
        self.losses: list[float] = []
        self._scoring_s: float | None = None
        self.began: dict[str, float] = {}
        """Dev scores of the models that the run began with, by name, for comparison with its best."""
        self.board: Board | None = None
        """Writer for TensorBoard, called at every dev score."""

    def train(
        self,
        source: ExampleSource,
        dev: Sequence[Pair],
        workers: int = 1,
        progress: Callable[[dict], None] = lambda row: None,
        stop: Callable[[], bool] = lambda: False,
        limit: TimeLimit | None = None,
    ) -> bool:
        """Train until the last step; returns False if `stop` or the limit ended the run before, True if it is complete.

        A time limit ends the run early enough for a last dev score, but not before one step has been made.

        The journal gets a resume point at the beginning, at every dev score, every `RESUME_EVERY_S` seconds and when
        stopped, always between two steps, so that a resumed run repeats the uninterrupted one. `stop` is called after
        every step, and while a batch is awaited or a network is scored.
        """

        def pause() -> None:
            if stop():
                raise _Stopped

        self._clock, self._limit = time.monotonic() - self.seconds, limit
        self.hours_per_step = self.settings.batch * source.length / self.front_end.rate_hz / 3600
        if self.step == 0 and not self.journal.rows:
            self._save()
        self._publish()
        try:
            if self.trained:
                progress({"began": self.began})
            if dev and self.journal.noisy is None:
                paused = _Paused(dev, pause)
                noisy = partial(noisy_score, paused, self.front_end.rate_hz, self.settings.score)
                self.journal.noisy = self.processes.first(lambda: noisy().value)
            if self.step == 0 and self.trained and not self.network.annealing and "step 0" not in self.began:
                self.began["step 0"] = self._dev_score(dev, pause).value
                progress({"began": self.began})
            if self._unscored():
                self._score(dev, pause)
            if not self._ended():
                try:
                    self._steps(source, dev, workers, progress, pause, stop)
                except _TimeIsUp:
                    progress({"over": True})
                    if not self.journal.rows or self.step > self.journal.rows[-1]["step"]:
                        self._score(dev, pause)
                    raise _Stopped from None
        except _Stopped:
            self._leave()
            return self._ended()
        if self.processes.rank == 0:
            self.journal.last_path.unlink(missing_ok=True)
        return True

    def _steps(
        self,
        source: ExampleSource,
        dev: Sequence[Pair],
        workers: int,
        progress: Callable,
        pause: Callable,
        stop: Callable[[], bool],
    ) -> None:
        def late() -> bool:
            return bool(self._limit) and self.step > first and self._limit.reached(self._scoring_s)

        def in_time() -> None:
            pause()
            if late():
                raise _TimeIsUp

        saved, first = time.monotonic(), self.step
        learning, since = 0.0, saved
        # Processes that train together decide between two steps, all at once.
        with closing(self._batches(source, workers, in_time if self.processes.alone else lambda: None)) as stream:
            for batch in stream:
                came = time.monotonic()
                loss = self.update(batch)
                learning += time.monotonic() - came
                if not math.isfinite(loss):
                    raise DeepnmfError(
                        f"step {self.step + 1}",
                        f"a loss of {loss}",
                        "a finite loss",
                        f"Lower training.learning_rate; the run in {self.journal.folder} keeps its last resume point.",
                    )
                self.losses.append(loss)
                self.step += 1
                self.seconds = time.monotonic() - self._clock
                if due := self._unscored():
                    waiting = time.monotonic() - since - learning
                    self._score(dev, pause)
                    told = self.step, waiting, learning, self._scoring_s
                    logger.info("step %d: %.1f s waiting for mixtures, %.1f s learning, %.1f s scoring", *told)
                    learning, since = 0.0, time.monotonic()
                best = self.best if math.isfinite(self.best) else None
                progress({"step": self.step, "loss": loss, "best": best, "row": self.journal.rows[-1] if due else None})
                if self._ended():
                    return
                stopped, over = self.processes.any(stop(), late())
                if stopped or over:
                    raise _Stopped if stopped else _TimeIsUp
                if due:
                    saved = time.monotonic()
                elif time.monotonic() - saved > (RESUME_EVERY_S if self._limit is None else TIMED_RESUME_EVERY_S):
                    self._save()
                    saved = time.monotonic()

    def _unscored(self) -> bool:
        """Return whether a dev score is due and missing."""
        s, last = self.settings, self.journal.rows[-1]["step"] if self.journal.rows else -1
        if not self.trained:  # complete without training
            return last < 0
        return self.step > max(0, last) and (self.step % s.score_every == 0 or self.step == s.steps)

    def _ended(self) -> bool:
        """Return whether the run is complete, its last score included."""
        s = self.settings
        late = self.step >= s.steps or (bool(s.patience) and self.since_best >= s.patience)
        return not self._unscored() and (late or not self.trained)

    def resume(self) -> None:
        """Continue where the journal's resume file ends. Raises ModelError when it does not fit the network."""
        try:
            model, average, optimiser, progress = self.journal.load_resume()
            self.network.load_state_dict(model)
            self.average = [average[str(i)].to(self.device) for i in range(len(self.trained))]
            shapes = [p.shape for p in self.trained]
            require([a.shape for a in self.average] == shapes, "means of other weights")
            self.optimiser.load_state(optimiser)
            self.step, self.best = progress["step"], progress["best"]
            self.seconds, self.since_best, self.losses = progress["seconds"], progress["since_best"], progress["losses"]
            self.began, self.feasible = progress.get("began", {}), progress.get("feasible", not self._constrained)
        except (KeyError, IndexError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            raise self.journal.damaged(error) from error

    def scored_otherwise(self) -> bool:
        """Return whether the scores of a resumed run have PESQ where now it is estimated, or the other way round."""
        rows = self.journal.rows
        return bool(rows) and self.settings.score == SCORES[1] and (rows[-1]["dev_pesq"] is None) == extras.has("pesq")

    def _batches(
        self, source: ExampleSource, workers: int, pause: Callable[[], None]
    ) -> Generator[Batch | FrameBatch, None, None]:
        """Yield the batches of the remaining steps."""
        s = self.settings
        try:
            if self.frames:
                yield from self.frames.batches(range(self.step, s.steps), s.distinct_batches)
                return
            size = self.processes.part(s.batch)
            with closing(batches(source, size, self.step, s.steps, workers, s.distinct_batches, pause)) as stream:
                for speech, noise in stream:
                    yield self.batch(torch.stack([speech, noise], 1))
        except (DeepnmfError, OSError):  # between two steps: what has been learned is kept
            self._leave()
            raise

    @torch.no_grad()
    def batch(self, waveforms: Tensor) -> Batch:
        """Return true speech and noise (B, 2, N) as a batch."""
        waveforms = waveforms.to(self.device, non_blocking=True)
        return Batch(waveforms, self.pair.analysis(waveforms), self.pair.window_hops)

    def update(self, batch: Batch | FrameBatch) -> float:
        """Take one step of the optimiser and return the loss before it."""
        if self.settings.greedy:
            layers = self.network.settings.trained_layers
            self.network.train_last(1 + self.step * layers // self.settings.steps)
        self.network.anneal(self.step / max(1, self.settings.steps - 1))
        # Seeded by step, so that the same units drop out in a resumed run.
        torch.manual_seed((self.settings.seed + self.processes.rank + (self.step << 32)) % (1 << 63))
        loss = self.optimiser.step(batch, self._learning_rate())
        with torch.no_grad():
            # The mean must not remember the untrained weights for long: short runs start with a short memory.
            decay = min(self.settings.average, (1 + self.step) / (10 + self.step))
            torch._foreach_lerp_(self.average, self.trained, 1 - decay if self.settings.average else 1.0)
        return loss

    def _learning_rate(self) -> float:
        s = self.settings
        if self.step < s.warmup_steps:
            return s.learning_rate * (self.step + 1) / s.warmup_steps
        if s.schedule == "constant":
            return s.learning_rate
        part = (self.step - s.warmup_steps) / max(1, s.steps - s.warmup_steps)
        return s.learning_rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * part)))

    def _dev_score(self, dev: Sequence[Pair], pause: Callable[[], None]) -> DevScore:
        """Return the dev score of the averaged weights."""
        began = time.monotonic()
        with self._averaged():
            pairs = _Paused(dev, pause)
            score = self.processes.first(
                lambda: dev_score(self.network, self.front_end, pairs, self.device, self.settings.score)
            )
        self._scoring_s = time.monotonic() - began
        return score

    def _score(self, dev: Sequence[Pair], pause: Callable[[], None]) -> None:
        """Score the averaged weights on the dev pairs, keep them if they are the best so far, write the history."""
        score, feasible = self._dev_score(dev, pause), self._judge(dev, pause)
        self.since_best += 1
        if (feasible, score.value) > (self.feasible, self.best):
            self.best, self.feasible, self.since_best = score.value, feasible, 0
        if self.network.annealing:
            # A later network replaces this one even if it is worse.
            self.best, self.feasible = -math.inf, not self._constrained
        self.journal.rows.append(
            {
                "step": self.step,
                "hours": self.step * self.hours_per_step,
                "loss": sum(self.losses) / len(self.losses) if self.losses else None,
                "dev_score": score.value,
                "dev_si_sdr": score.si_sdr,
                "dev_pesq": score.pesq,
                "dev_pesq_estimated": score.pesq_estimated,
                "learning_rate": self._learning_rate(),
                "seconds": round(self.seconds, 1),
            }
        )
        self.losses.clear()
        self._save()
        self._publish()
        if self.board:
            with self._averaged():
                self.board.add(self.journal.rows[-1], dev, self._enhanced)
            self.network.train()

    def _enhanced(self, noisy: Samples) -> Samples:
        return enhanced(self.network, self.front_end, noisy, self.device)

    @property
    def _constrained(self) -> bool:
        return self.terms is not None and self.terms.constrained

    def _judge(self, dev: Sequence[Pair], pause: Callable[[], None]) -> bool:
        """Return whether the averaged weights meet the constraints on dev pairs, and put the slack into the journal."""
        if self.terms is None or not self.terms.constrained:
            return True
        pairs = _Paused(dev[:JUDGED_PAIRS], pause)
        with self._averaged():
            waveforms = (torch.from_numpy(np.stack([clean, noisy - clean]))[None] for clean, noisy in pairs)
            slack = self.terms.judge(map(self.batch, waveforms))
        self.journal.constraints += [{"step": self.step, **row} for row in self.terms.report(slack)]
        return self.terms.feasible(slack)

    def _publish(self) -> None:
        """Write what is derived from the resume point: the best model if it is the present one, history and curves."""
        if not self.journal.rows or self.processes.rank:
            return
        last = self.journal.rows[-1]
        self.journal.best_row = max(0, len(self.journal.rows) - 1 - self.since_best)
        if last["step"] == self.step and self.since_best == 0:
            with self._averaged():
                score = DevScore(last["dev_si_sdr"], last["dev_pesq"], last["dev_pesq_estimated"])
                self.describe(self.journal.best_path, self.network, self.step, score).write()
        self.journal.write_history()

    def _leave(self) -> None:
        """Save the state between two steps: a resume point, and the present weights as a model."""
        if self.processes.rank:
            return
        self._save()
        with self._averaged():
            self.describe(self.journal.last_path, self.network, self.step, None).write()

    @contextmanager
    def _averaged(self) -> Iterator[None]:
        """Give the network the running mean of its weights while the context lasts."""
        own = [p.detach().clone() for p in self.trained]
        self._take(self.average)
        try:
            yield
        finally:
            self._take(own)
            self.network.train()

    @torch.no_grad()
    def _take(self, weights: list[Tensor]) -> None:
        for parameter, weight in zip(self.trained, weights, strict=True):
            parameter.copy_(weight)

    def _save(self) -> None:
        if self.processes.rank:
            return
        progress = {"step": self.step, "best": self.best, "seconds": self.seconds}
        progress |= {"since_best": self.since_best, "losses": self.losses, "began": self.began}
        if self._constrained:
            progress["feasible"] = self.feasible
        average = {str(i): tensor for i, tensor in enumerate(self.average)}
        self.journal.save_resume(self.network.state_dict(), average, self.optimiser.state(), progress)


class _TimeIsUp(Exception):
    """Raised to end a wait, or a run between two steps, because the time limit is reached."""


class _Stopped(Exception):
    """Raised to end a wait because the run has been asked to stop."""


class _Paused(Sequence):
    """The dev pairs; `pause` is called before each one is read."""

    def __init__(self, pairs: Sequence[Pair], pause: Callable[[], None]) -> None:
        self._pairs, self._pause = pairs, pause

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, index: int) -> Pair:
        self._pause()
        return self._pairs[index]
