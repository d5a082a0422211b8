"""From a recipe and recordings to a trained model: what `deepnmf train` does, as functions."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from deepnmf_cli import __version__, checkpoint
from deepnmf_cli.corpus import chime
from deepnmf_cli.corpus.dataset import ClipCache, ExampleSource, MixingSettings, MixtureDataset, PairDataset, decode
from deepnmf_cli.corpus.manifest import SMALLEST_CORPUS, Clip, find_pairs, read_manifest, scan
from deepnmf_cli.errors import CorpusError, ModelError, TrainingError, UsageError
from deepnmf_cli.networks import NETWORKS, build
from deepnmf_cli.networks.base import MaskNetwork
from deepnmf_cli.networks.deep_nmf import DeepNmf
from deepnmf_cli.networks.frame_network import LogFeatures
from deepnmf_cli.networks.grid_settings import GridSettings
from deepnmf_cli.networks.relocation import relocated
from deepnmf_cli.recipe import Recipe
from deepnmf_cli.signal.stft import FrontEnd
from deepnmf_cli.training.dev import DevScore, Pair, check_dev, dev_score
from deepnmf_cli.training.frames import FrameStore, changed, digest, kept
from deepnmf_cli.training.journal import Journal
from deepnmf_cli.training.material import compare_material, describe_material
from deepnmf_cli.training.sparse_nmf import learn_source_dictionaries, mixture_frames
from deepnmf_cli.training.trainer import Trainer

HELD_OUT_EVERY = 20
"""Without a dev folder every 20th speaker and noise is held out for dev mixtures, where there are that many."""

HELD_OUT_MIXTURES = 40
"""Dev mixtures made from what is held out: about three minutes."""

STATISTICS_FROM = 64
"""Mixtures that give the statistics of features: four minutes."""

NOTICEABLE_DB = 0.1
"""A best dev score that is lower than what a run began with by less than this is taken for equal."""

Progress = Callable[[dict], None]


@dataclass(frozen=True)
class Recordings:
    """Where the material of a run lies: folders of speech and noise, a manifest, or ready pairs; and what helps."""

    speech: Path | None = None
    noise: Path | None = None
    rooms: Path | None = None
    dev: Path | None = None
    manifest: Path | None = None
    pairs: Path | None = None


def open_corpus(recordings: Recordings, recipe: Recipe) -> tuple[ExampleSource, list[Pair]]:
    """The training mixtures and the dev pairs. Raises CorpusError when there is too little of something."""
    rate_hz, seed = recipe.front_end.rate_hz, recipe.training.seed
    if recordings.pairs is not None:
        in_sets = chime.is_chime(recordings.pairs)
        pairs = chime.pairs(recordings.pairs, "train") if in_sets else find_pairs(recordings.pairs)
        _require(recordings.pairs, len(pairs), "pairs")
        dev = find_pairs(recordings.dev) if recordings.dev else chime.pairs(recordings.pairs, "dev") if in_sets else []
        held_out = [] if dev else pairs[::HELD_OUT_EVERY]
        kept = [p for p in pairs if p not in held_out]
        source = PairDataset(kept, recipe.mixing.segment_s, rate_hz, seed)
        return source, _load(dev or held_out, rate_hz)

    clips = _clips(recordings)
    cache = ClipCache(rate_hz)
    speech, noise = clips.speech, clips.noise
    if recordings.dev:
        source = MixtureDataset(speech, noise, clips.rooms, recipe.mixing, rate_hz, seed, cache, recipe.augmentation)
        return source, _load(find_pairs(recordings.dev), rate_hz)
    dev_speech, dev_noise = clips.dev_speech, clips.dev_noise
    if not dev_speech:
        speech, dev_speech = _hold_out(speech)
    if not dev_noise:
        noise, dev_noise = _hold_out(noise)
    source = MixtureDataset(speech, noise, clips.rooms, recipe.mixing, rate_hz, seed, cache, recipe.augmentation)
    # Settings and seed of their own: dev scores of different runs on the same recordings can be compared.
    dev = MixtureDataset(dev_speech, dev_noise, [], MixingSettings(), rate_hz, seed=0, cache=cache)
    return source, [(s, s + n) for s, n in (dev[i] for i in range(HELD_OUT_MIXTURES))]


def initial_network(
    recipe: Recipe,
    source: ExampleSource,
    progress: Progress = lambda row: None,
    cache: Path | None = None,
    key: str = "",
) -> MaskNetwork:
    """The network where training starts: NMF networks begin with learned dictionaries, the others at random.

    Dictionaries are kept in the folder `cache`, where `key` names the material.
    """
    torch.manual_seed(recipe.training.seed)
    kind, network = NETWORKS[recipe.model][0], recipe.network
    if not issubclass(kind, DeepNmf):
        built = build(recipe.model, network)
        if isinstance(getattr(built, "features", None), LogFeatures):
            built.features.fit(mixture_frames(source, recipe.front_end, STATISTICS_FROM))
        return built
    shape = [network.bins, network.context, network.atoms, network.beta, network.sparsity]
    name = (
        f"dictionary-{digest(key, changed(recipe.front_end), changed(recipe.dictionary), recipe.training.seed, shape)}"
    )

    def learn() -> dict[str, Tensor]:
        seed = recipe.training.seed
        learned = learn_source_dictionaries(source, network, recipe.front_end, recipe.dictionary, seed, progress)
        return {"dictionary": learned}

    return kind(network, kept(cache / f"{name}.safetensors" if cache else None, learn)["dictionary"])


def take_weights(network: MaskNetwork, path: Path, front_end: FrontEnd) -> None:
    """Take those weights of a model file that the network, behind this front end, can begin with: of a grid in their
    places there (`relocated`), then see `MaskNetwork.fitting`.

    Raises ModelError when there is none.
    """
    tensors, meta = checkpoint.load(path)
    if isinstance(network.settings, GridSettings) and "recipe" in meta:
        given = Recipe.from_dict(meta["recipe"], str(path))
        if isinstance(given.network, GridSettings):
            tensors = relocated(tensors, (given.network, given.front_end), (network.settings, front_end))
    shared = network.fitting(tensors)
    if not shared:
        remedy = "Name a model of the same or a related kind and size."
        raise ModelError(path, "no weight of a name and shape that this network has", "some in common", remedy)
    network.load_weights(network.weights() | shared)


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
) -> bool:
    """Train a model into the run folder; returns whether it is complete (False: stopped, to be resumed).

    A new run starts from the weights of the model file `init` as far as `take_weights` can. In the folder `cache`,
    which runs may share, is kept what other runs on the same recordings need again: dictionaries and, with single
    frames, batches and what the layers make of them that are not trained.

    `progress` gets reports: {"note": what to say}, those of the dictionaries and of `Trainer.train`, and at the end
    {"worse": TrainingError} when the best model of the complete run scores below what the run began with.
    """
    journal = Journal(folder)
    journal.check(recipe.to_dict(), resume, lambda stored: Recipe.from_dict(stored, f"{folder}/recipe.json").to_dict())
    source, dev = open_corpus(recordings, recipe)
    for note in check_dev(dev, recipe.front_end.rate_hz, recipe.training.score):
        progress({"note": note})
    key = digest(*map(changed, (recordings, recipe.mixing, recipe.augmentation)), recipe.training.seed)
    material = describe_material(source, dev, init)
    if resume:
        for note in compare_material(journal, material):
            progress({"note": note})

    def interruptible(report: dict) -> None:
        progress(report)
        if stop():  # before the first step there is nothing to resume from
            raise KeyboardInterrupt

    with journal.begin(recipe.to_dict(), journal.material or material):
        if resume:
            network = build(recipe.model, recipe.network)
        else:
            network = initial_network(recipe, source, interruptible, cache, key)
            if init is not None:
                take_weights(network, init, recipe.front_end)

        def describe(network: MaskNetwork, step: int, score: DevScore | None) -> tuple[dict[str, Tensor], dict]:
            trained = {"steps": step, "version": __version__}
            if score is not None:
                trained |= {"dev_score": score.value, "dev_si_sdr": score.si_sdr}
            if score is not None and score.pesq is not None:
                trained["dev_pesq"] = score.pesq
            return network.weights(), {"recipe": recipe.to_dict(), "trained": trained}

        frames, settings = None, recipe.training
        if settings.frame_stride > 1 and any(p.requires_grad for p in network.parameters()):
            frames = FrameStore(source, recipe.front_end, network, settings.batch, settings.frame_stride, cache, key)
        trainer = Trainer(network, recipe.front_end, recipe.objective, settings, journal, describe, device, frames)
        if resume:
            trainer.resume()
            if trainer.step > settings.steps:
                expected = f"at most training.steps = {settings.steps}"
                raise UsageError(folder, f"{trainer.step} steps done", expected, "Raise training.steps.")
        if init is not None and trainer.step == 0 and not network.annealing:
            trainer.began |= _score_of(init, recipe, dev, device)
        complete = trainer.train(source, dev, workers, progress, stop)
    if complete and (worse := _worse(trainer)):
        progress({"worse": worse})
    return complete


def _score_of(path: Path, recipe: Recipe, dev: list[Pair], device: str) -> dict[str, float]:
    """The dev score of a model file, by its name; empty where it is none, or of another sampling rate."""
    tensors, meta = checkpoint.load(path)
    given = Recipe.from_dict(meta["recipe"], str(path)) if "recipe" in meta else None
    if given is None or given.front_end.rate_hz != recipe.front_end.rate_hz:
        return {}
    network = build(given.model, given.network)
    network.load_weights(tensors)
    return {f"--init {path}": dev_score(network.to(device), given.front_end, dev, device, recipe.training.score).value}


def _worse(trainer: Trainer) -> TrainingError | None:
    """What to say of a best model that scores below the best of what the run began with."""
    name, score = max(trainer.began.items(), key=lambda item: item[1], default=("", -math.inf))
    if trainer.best >= score - NOTICEABLE_DB:
        return None
    found, expected = f"a best dev score of {trainer.best:.2f} dB", f"more than the {score:.2f} dB of {name}"
    remedy = "Do not use this model. Lower training.learning_rate, or train for longer."
    return TrainingError(trainer.journal.best_path, found, expected, remedy)


@dataclass(frozen=True)
class _Clips:
    speech: list[Clip]
    noise: list[Clip]
    rooms: list[Clip]
    dev_speech: list[Clip]
    dev_noise: list[Clip]


def _clips(recordings: Recordings) -> _Clips:
    """The clips of the folders, or of the manifest, which may name speech and noise of its own for the dev mixtures."""
    if recordings.manifest is not None:
        by_role = read_manifest(recordings.manifest)
        keys = [("speech", "train"), ("noise", "train"), ("rir", "train"), ("speech", "dev"), ("noise", "dev")]
        clips = _Clips(*(by_role.get(key, []) for key in keys))
        where = (recordings.manifest, recordings.manifest)
    else:
        rooms = scan(recordings.rooms) if recordings.rooms else []
        clips = _Clips(scan(recordings.speech), scan(recordings.noise), rooms, [], [])
        where = (recordings.speech, recordings.noise)
    _require(where[0], len(clips.speech), "clips of speech")
    if not clips.noise:
        raise CorpusError(where[1], "no noise", "at least one clip of noise", "Add recordings of noise.")
    return clips


def _require(where: Path, count: int, what: str) -> None:
    if count < SMALLEST_CORPUS:
        raise CorpusError(
            where, f"{count} {what}", f"at least {SMALLEST_CORPUS}", "Add recordings, or name another folder."
        )


def _hold_out(clips: list[Clip]) -> tuple[list[Clip], list[Clip]]:
    """(kept, held out) by group; too few groups to spare one serve both purposes."""
    held = set(sorted({c.group for c in clips})[HELD_OUT_EVERY - 1 :: HELD_OUT_EVERY])
    if not held:
        return clips, clips
    return [c for c in clips if c.group not in held], [c for c in clips if c.group in held]


def _load(pairs: list[tuple[Path, Path]], rate_hz: int) -> list[Pair]:
    return [(decode(clean, rate_hz), decode(noisy, rate_hz)) for clean, noisy in pairs]
