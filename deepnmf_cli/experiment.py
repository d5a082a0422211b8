"""From a recipe and recordings to a trained model: what `deepnmf train` does, as functions."""

import copy
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from deepnmf_cli import __version__, extras, model_file
from deepnmf_cli.checkpoint import temporary_folder
from deepnmf_cli.corpus.augment import packages
from deepnmf_cli.corpus.dataset import ExampleSource, MixtureDataset
from deepnmf_cli.corpus.sources import (
    Material,
    Mixtures,
    Recordings,
    Say,
    fingerprint,
    for_tuning,
    from_clips,
    from_pairs,
)
from deepnmf_cli.errors import DeepnmfError, ModelError, TrainingError, UsageError
from deepnmf_cli.model_file import ModelFile
from deepnmf_cli.networks import NETWORKS, build
from deepnmf_cli.networks.base import MaskNetwork
from deepnmf_cli.networks.frame_network import FrameNetwork
from deepnmf_cli.recipe import Recipe
from deepnmf_cli.signal.stft import FrontEnd
from deepnmf_cli.training import multiplicative
from deepnmf_cli.training.board import Board
from deepnmf_cli.training.dev import DevScore, Pair, check_dev, dev_score
from deepnmf_cli.training.journal import Journal, compare_material, describe_material
from deepnmf_cli.training.minibatch import FrameStore, changed, digest, kept
from deepnmf_cli.training.processes import Processes, Share
from deepnmf_cli.training.sparse_nmf import learn_source_dictionaries, mixture_frames, noises
from deepnmf_cli.training.time_limit import TimeLimit
from deepnmf_cli.training.trainer import Trainer
from deepnmf_cli.training.tuning import Taught, best_step, blended, way, write
from deepnmf_cli.workers import shared_memory

STATISTICS_FROM = 64
"""Mixtures from which the statistics of features are computed: four minutes."""

NOISES = 32
"""Mixtures whose noises are compared: several of each kind of noise."""

NOTICEABLE_DB = 0.1
"""A best dev score that is at most this much below what a run began with counts as equal to it."""

NAMED = 4
"""Most weights that a message names."""

Progress = Callable[[dict], None]


def open_corpus(
    recordings: Recordings, recipe: Recipe, say: Say = lambda sentence, warning: None
) -> tuple[ExampleSource, list[Pair]]:
    """Return the training mixtures and the dev pairs; `say` gets sentences on what was found and what looks wrong.

    Raises CorpusError when there is too little of something.
    """
    material = _open(recordings, recipe, say)
    return material.source, material.dev


def _open(recordings: Recordings, recipe: Recipe, say: Say) -> Material:
    made = Mixtures(recipe.mixing, recipe.augmentation, recipe.front_end.rate_hz, recipe.training.seed)
    if recipe.tuning.own_share < 1:
        return for_tuning(recordings, made, say)
    if recordings.pairs is not None:
        return from_pairs(recordings.pairs, recordings.dev, made, say)
    return from_clips(recordings, made, say)


def initial_network(
    recipe: Recipe,
    source: ExampleSource,
    progress: Progress = lambda row: None,
    cache: Path | None = None,
    key: str = "",
) -> MaskNetwork:
    """Return the network that training starts from: some begin with learned dictionaries, the others at random.

    Dictionaries are cached in the folder `cache`, where `key` identifies the material.
    """
    torch.manual_seed(recipe.training.seed)
    kind, network = NETWORKS[recipe.model][0], recipe.network
    built = build(recipe.model, network)
    if not kind.from_dictionary:
        built.fit(lambda: mixture_frames(source, recipe.front_end, STATISTICS_FROM))
        return built
    names = ("bins", "single_bands", "wide_bands", "context", "atoms", "beta", "sparsity")
    shape = [getattr(network, name) for name in names if hasattr(network, name)]
    name = (
        f"dictionary-{digest(key, changed(recipe.front_end), changed(recipe.dictionary), recipe.training.seed, shape)}"
    )

    def learn() -> dict[str, Tensor]:
        seed = recipe.training.seed
        learned = learn_source_dictionaries(source, built, recipe.front_end, recipe.dictionary, seed, progress)
        return {"dictionary": learned}

    known = kept(cache / f"{name}.safetensors" if cache else None, learn)
    shared = built.shared_by_noise(noises(source, recipe.front_end, NOISES)) if built.shares_noise else {}
    return kind(network, known["dictionary"], **shared)


def take_weights(
    network: MaskNetwork,
    path: Path,
    front_end: FrontEnd,
    partial: bool = False,
    say: Say = lambda sentence, warning: None,
) -> list[str]:
    """Load those weights of a model file that the network, behind this front end, can begin with; return the names of
    those that begin as usual, because the file does not have them, or not in that shape.

    The weights of a grid are first moved to their places in this network (`relocated`); `MaskNetwork.fitting` says
    which are then taken. Raises ModelError if there are none, or if some do not fit and `partial` does not allow that.
    A message names the weights that begin as usual. What settings determine stays as this network's settings say.
    """
    given, kept_here = model_file.read(path), network.fixed_settings()
    moved = network.moved(given.weights, (given.network, given.front_end), front_end)
    tensors = {name: x for name, x in moved.items() if name not in kept_here}
    shared = network.fitting(tensors)
    if not shared:
        remedy = "Name a model of the same or a related kind and size."
        raise ModelError(path, "no weight of a name and shape that this network has", "some in common", remedy)
    own = network.weights()
    if lost := sorted(tensors.keys() - shared.keys()):
        found = f"{len(lost)} of {len(tensors)} weights that do not fit this network ({_named(lost)})"
        if not partial:
            remedy = "Leave out the recipe, and it is that of the model; or begin with what fits by --partial."
            raise ModelError(path, found, "a network of the same settings", remedy)
        say(f"{path}: {found}; they are left out", True)
    if new := sorted(own.keys() - shared.keys() - kept_here):
        say(
            f"{path}: {len(new)} of {len(own)} weights are not in it and begin as in a new network ({_named(new)})",
            True,
        )
    network.load_weights(own | shared)
    return new


def _named(names: list[str]) -> str:
    return ", ".join(names[:NAMED]) + (", ..." if len(names) > NAMED else "")


def train(
    recipe: Recipe,
    recordings: Recordings,
    folder: Path,
    resume: bool = False,
    device: str = "cpu",
    workers: int = 1,
    progress: Progress = lambda row: None,
    stop: Callable[[], bool] = lambda: False,
    cache: Path | None = None,
    init: Path | None = None,
    partial: bool = False,
    limit: TimeLimit | None = None,
    unpack: bool = False,
    tensorboard: bool = False,
    processes: Processes = Processes(),
) -> bool:
    """Train a model into the run folder; return whether the run is complete (False: stopped, or at its limit, to be
    resumed).

    A new run starts from the weights of the model file `init`, or with `partial` from those that fit. The folder
    `cache`, which runs may share, holds what other runs on the same recordings need again: dictionaries and, when
    training on single frames, batches and the outputs for them of layers that are not trained.

    With `unpack` all recordings are decoded first, into memory that processes share, instead of one after the other by
    every process that needs them.

    With `tensorboard`, data for TensorBoard is written to the folder `tensorboard` of the run at every dev score.

    `processes` that train together call this at the same time, with the same arguments; only the first one writes.

    `progress` receives reports: {"found": a sentence}, {"note": a warning}, those of the dictionaries and of
    `Trainer.train`, and at the end {"worse": TrainingError} if the best model of the complete run scores below what
    the run began with.
    """
    journal = Journal(folder)
    journal.check(recipe.to_dict(), resume, lambda stored: Recipe.from_dict(stored, f"{folder}/recipe.json").to_dict())
    processes.any(False)  # none begins to write before all have checked the folder
    require_shareable(recipe, processes)

    def say(sentence: str, warning: bool) -> None:
        progress({"note" if warning else "found": sentence})

    _require_for_tuning(recipe, recordings, init)
    # Ready pairs are not changed, and need none of what changes them.
    for package, setting in packages(recipe.augmentation) if recordings.pairs is None else ():
        extras.require("train", setting, (package,))
    if not extras.has("matplotlib"):
        say("matplotlib is not installed: history.csv is written, curves.png is not drawn", True)
    opened = _open(recordings, recipe, say)
    source, dev = opened.source, opened.dev
    for note in check_dev(dev, recipe.front_end.rate_hz, recipe.training.score):
        progress({"note": note})
    teacher = None
    if opened.general is not None:
        assert init is not None  # as _require_for_tuning found
        teacher = _teacher(recipe, init, partial, say)
        source = Taught(source, opened.general, recipe.tuning.own_share, teacher, recipe.front_end)
    material = describe_material(source, dev, init)
    taught = (material["init"], recipe.tuning.own_share) if teacher else ()
    mixed = map(changed, (recordings, recipe.mixing, recipe.augmentation))
    key = digest(*mixed, recipe.training.seed, fingerprint(recordings), *taught) if cache else ""
    if resume:
        for note in compare_material(journal, material):
            progress({"note": note})

    def interruptible(report: dict) -> None:
        progress(report)
        if stop():  # before the first step there is nothing to resume from
            raise KeyboardInterrupt

    writing = nullcontext() if processes.rank else journal.begin(recipe.to_dict(), journal.material or material)
    with writing, _unpacked(opened.source, unpack, say):
        if teacher is not None:
            network = copy.deepcopy(teacher)
        elif resume:
            network = build(recipe.model, recipe.network)
        else:
            network = initial_network(recipe, source, interruptible, cache, key)
            if init is not None:
                take_weights(network, init, recipe.front_end, partial, say)
        if not processes.alone:
            source, key = Share(source, processes, recipe.training.batch), digest(key, processes.rank, processes.count)

        model_file.require_complete(network, journal.best_path)
        frames = _frames(network, source, recipe, processes, cache, key)
        if frames is not None and workers > 1:
            say("training.frame_stride above 1: --workers has no effect, this process prepares the frames", True)
        trainer = Trainer(
            network,
            recipe.front_end,
            recipe.objective,
            recipe.training,
            journal,
            _describer(recipe),
            device,
            frames,
            depth=recipe.depth,
            constraints=recipe.constraints,
            processes=processes,
        )
        if resume:
            _resume(trainer, recipe, dev, device, say)
        if init is not None and trainer.step == 0 and not network.annealing:
            given = model_file.read(init)
            trainer.began |= (scored := _score_of(given, recipe, dev, device))
            if _same(given, network, recipe):
                (trainer.began["step 0"],) = scored.values()
        say(_described(recipe, network, device, processes), False)
        if tensorboard and processes.rank == 0:
            trainer.board = Board(folder / "tensorboard", recipe.front_end.rate_hz, trainer.step)
        complete = trainer.train(source, dev, workers, progress, stop, limit)
        if complete and teacher and processes.rank == 0:
            complete = _choose_share(recipe, opened, teacher, journal, device, say, stop)
    if complete and not trainer.feasible:
        told = journal.folder / "constraints.csv"
        say(f"{told}: no weights met the constraints on dev; the model is that of the best score", True)
    if complete and not teacher and (worse := _worse(trainer)):
        progress({"worse": worse})
    return complete


def _teacher(recipe: Recipe, init: Path, partial: bool, say: Say) -> MaskNetwork:
    """Return the network of `init`, from which fine-tuning starts, and which shows it what not to forget.

    Raises ModelError if `init` lacks weights of this network: drawn at random, they have nothing that could be kept.
    """
    network = build(recipe.model, recipe.network)
    if new := take_weights(network, init, recipe.front_end, partial, say):
        found, remedy = f"no fitting weights for {_named(new)}", "Leave out --set network.* and front_end.*."
        raise ModelError(init, found, "all that the network has", remedy)
    return network


def _frames(
    network: MaskNetwork, source: ExampleSource, recipe: Recipe, processes: Processes, cache: Path | None, key: str
) -> FrameStore | None:
    """Return what the network trains on if that is single frames of mixtures, else None."""
    settings = recipe.training
    if settings.frame_stride == 1 or not any(p.requires_grad for p in network.parameters()):
        return None
    assert isinstance(network, FrameNetwork)  # as recipes require
    mixtures = processes.part(settings.batch)
    return FrameStore(source, recipe.front_end, network, mixtures, settings.frame_stride, cache, key)


def _resume(trainer: Trainer, recipe: Recipe, dev: list[Pair], device: str, say: Say) -> None:
    """Continue a run. Raises UsageError if it has made more steps than the recipe asks for."""
    trainer.resume()
    best = trainer.journal.best_path
    if trainer.scored_otherwise() and best.is_file():
        say("dev: PESQ is computed in another way than before, and the best model is scored again", True)
        (trainer.best,) = _score_of(model_file.read(best), recipe, dev, device).values()
        trainer.began = {}
    if trainer.step > (steps := recipe.training.steps):
        expected = f"at most training.steps = {steps}"
        raise UsageError(trainer.journal.folder, f"{trainer.step} steps done", expected, "Raise training.steps.")


def _describer(recipe: Recipe) -> Callable[[Path, MaskNetwork, int, DevScore | None], ModelFile]:
    """Return a function that makes model files of the networks that a recipe trains, see `Trainer`."""

    def describe(path: Path, network: MaskNetwork, step: int, score: DevScore | None) -> ModelFile:
        trained: dict[str, Any] = {"steps": step, "version": __version__}
        if score is not None:
            scores = {"score": score.value, "si_sdr": score.si_sdr, "pesq": score.pesq}
            scores["pesq_estimated"] = score.pesq_estimated
            trained |= {f"dev_{name}": value for name, value in scores.items() if value is not None}
        provenance = {"recipe": recipe.provenance, "trained": trained}
        return model_file.describe(path, network, recipe.front_end, provenance)

    return describe


def require_shareable(recipe: Recipe, processes: Processes) -> None:
    """Raise UsageError for a recipe that several processes cannot train together."""
    if processes.alone:
        return
    processes.part(recipe.training.batch)
    if recipe.constraints.wanted:
        found, expected = "constraints, whose measures are means over whole batches", "one process"
        raise UsageError("torchrun", found, expected, "Leave [constraints] out, or start one process.")
    if (kind := recipe.training.optimizer) in (*multiplicative.RULES, "search"):
        expected = "an optimiser that descends along a gradient"
        raise UsageError("training.optimizer", kind, expected, "Choose adam, muon or sgd, or start one process.")


def _described(recipe: Recipe, network: MaskNetwork, device: str, processes: Processes) -> str:
    """Return a sentence on what is trained, for how long, and on what."""
    settings, parameters = recipe.training, network.parameter_counts()[0]
    macs = network.macs_per_frame() * recipe.front_end.frames_per_s
    threads = f"{torch.get_num_threads()} thread(s)"
    if not processes.alone:
        threads += f" of each of {processes.count} processes"
    return (
        f"model: {recipe.model}, {parameters:,} parameters, {macs / 1e6:.1f} M multiply-adds per second of audio;"
        f" {settings.steps:,} steps of {settings.batch} mixtures of {recipe.mixing.segment_s:g} s, on {device},"
        f" {threads}"
    )


@contextmanager
def _unpacked(source: ExampleSource, wanted: bool, say: Say) -> Iterator[None]:
    """Hold all recordings of the source decoded: in shared memory, or among temporary files if that is too small."""
    if not wanted or not isinstance(source, MixtureDataset):
        yield
        return
    with temporary_folder(shared_memory(source.bytes)) as folder:
        began = time.monotonic()
        try:
            source.unpack(folder / "clips")
        except OSError as error:
            found, expected = f"no way to unpack it ({error.strerror})", f"{source.bytes / 1e6:.0f} MB of room"
            remedy = "Free some memory, or set TMPDIR to another folder."
            raise DeepnmfError(folder, found, expected, remedy) from error
        say(f"unpacked {source.bytes / 1e6:,.0f} MB in {time.monotonic() - began:.1f} s", False)
        yield


def _score_of(given: ModelFile, recipe: Recipe, dev: list[Pair], device: str) -> dict[str, float]:
    """Return the dev score of a model file, by its name; empty if the model has another sampling rate."""
    if given.front_end.rate_hz != recipe.front_end.rate_hz:
        return {}
    score = dev_score(given.build().to(device), given.front_end, dev, device, recipe.training.score)
    return {f"--init {given.path}": score.value}


def _same(given: ModelFile, network: MaskNetwork, recipe: Recipe) -> bool:
    """Return whether a model file is the network, with this recipe's front end."""
    own = network.weights()
    alike = given.front_end == recipe.front_end and (given.model, given.network) == (recipe.model, recipe.network)
    equal = given.weights.keys() == own.keys()
    return alike and equal and all(torch.equal(given.weights[name], own[name].cpu()) for name in own)


def _worse(trainer: Trainer) -> TrainingError | None:
    """Return the error for a best model that scores below the best of what the run began with, or else None."""
    name, score = max(trainer.began.items(), key=lambda item: item[1], default=("", -math.inf))
    if trainer.best >= score - NOTICEABLE_DB:
        return None
    found, expected = f"a best dev score of {trainer.best:.2f} dB", f"more than the {score:.2f} dB of {name}"
    remedy = "Do not use this model. Lower training.learning_rate, or train for longer."
    return TrainingError(trainer.journal.best_path, found, expected, remedy)


def _require_for_tuning(recipe: Recipe, recordings: Recordings, init: Path | None) -> None:
    """Raise UsageError if fine-tuning lacks something, or if other training is given what it does not need."""
    tuning = recipe.tuning.own_share < 1
    if tuning and init is None:
        remedy = "For example --init base; a resumed run needs it too."
        raise UsageError("fine-tuning", "no model to begin with", "--init MODEL", remedy)
    if recordings.general_noise and not tuning:
        remedy = "Choose the recipe fine-tune, or name all noise by --noise."
        raise UsageError("--general-noise", "a recipe that does not fine-tune", "tuning.own_share below 1", remedy)


def _choose_share(
    recipe: Recipe,
    material: Material,
    teacher: MaskNetwork,
    journal: Journal,
    device: str,
    say: Say,
    stop: Callable[[], bool],
) -> bool:
    """Replace the tuned model by the best one on the way to it from the initial one that keeps what that one can do.

    Returns False if `stop` ended that before, as a resumed run does it again.
    """
    tuned = model_file.read(journal.best_path)
    if "tuning" in tuned.provenance["trained"]:
        return True
    initial, network = teacher.weights(), build(recipe.model, recipe.network).to(device)
    pairs = (material.dev, material.general_dev)
    steps = []
    for one in way(network, initial, tuned.weights, recipe.front_end, *pairs, device):
        steps.append(one)
        if stop():
            return False
    chosen = best_step(steps, recipe.tuning.lost_db)
    write(journal.folder / "tuning.csv", steps)
    trained = {key: value for key, value in tuned.provenance["trained"].items() if not key.startswith("dev_")}
    tuned.provenance["trained"] = trained | {"dev_si_sdr": chosen.own_si_sdr, "tuning": asdict(chosen)}
    replace(tuned, weights=blended(initial, tuned.weights, chosen.share)).write()
    for what, before, after in (
        ("your noise", steps[0].own_si_sdr, chosen.own_si_sdr),
        ("general noise", steps[0].general_si_sdr, chosen.general_si_sdr),
    ):
        change = f"{before:.2f} dB with the initial model, {after:.2f} dB with the new one ({after - before:+.2f})"
        say(f"{what}: SI-SDR {change}", False)
    if not chosen.share:
        say("fine-tuning gained nothing, the model is the initial one; more recordings of your noise may help", True)
    return True
