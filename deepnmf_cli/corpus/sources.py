"""What training needs, from folders, manifests and pairs: a source of examples, and recordings to score on."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from deepnmf_cli.checkpoint import stamp
from deepnmf_cli.corpus import inspection
from deepnmf_cli.corpus.augment import AugmentationSettings
from deepnmf_cli.corpus.clips import ClipCache, Excerpts, decode
from deepnmf_cli.corpus.dataset import ExampleSource, MixingSettings, MixtureDataset, PairDataset
from deepnmf_cli.corpus.manifest import SMALLEST_CORPUS, Clip, chime_pairs, find_pairs, is_chime, read_manifest, scan
from deepnmf_cli.corpus.mixing import Samples
from deepnmf_cli.errors import CorpusError, UsageError, are, count
from deepnmf_cli.signal import formats
from deepnmf_cli.tables import read_rows

HELD_OUT_EVERY = 20
"""Without a dev folder, every 20th speaker and noise is held out for dev mixtures, if there are that many."""

HELD_OUT_PAIRS = 120
"""At most this many pairs are held out: each is enhanced for every dev score."""

HELD_OUT_MIXTURES = 40
"""Number of dev mixtures made from what is held out: about three minutes."""

HELD_OUT_PART = 0.8
"""Share of every noise recording of one's own after which the held-out part begins, if there are too few recordings."""

BABBLE_SHARE = 0.4
"""Share of babble among the general noises if no recordings of them are given; the others are synthetic."""

Pair = tuple[Samples, Samples]
"""A clean and a noisy recording of equal length."""

Say = Callable[[str, bool], None]
"""Takes a sentence for the user, and whether it is a warning."""


@dataclass(frozen=True)
class Recordings:
    """Paths to the material of a run: folders of speech and noise, a manifest, or ready pairs; and supplements."""

    speech: Path | None = None
    noise: Path | None = None
    rooms: Path | None = None
    dev: Path | None = None
    manifest: Path | None = None
    pairs: Path | None = None
    general_noise: Path | None = None
    """In fine-tuning, noises that are not one's own."""


@dataclass(frozen=True)
class Mixtures:
    """How examples are made from recordings."""

    mixing: MixingSettings
    augmentation: AugmentationSettings
    rate_hz: int
    seed: int


@dataclass(frozen=True)
class Material:
    """What a run learns from, and what it is scored on."""

    source: ExampleSource
    dev: list[Pair]
    general: ExampleSource | None = None
    """In fine-tuning, mixtures with noise other than one's own."""
    general_dev: tuple[Pair, ...] = ()


def from_pairs(folder: Path, dev_folder: Path | None, made: Mixtures, say: Say) -> Material:
    """Return segments of ready pairs, CHiME-2 included, as material. Raises CorpusError if there are too few pairs."""
    in_sets = is_chime(folder)
    pairs = chime_pairs(folder, "train") if in_sets else find_pairs(folder)
    _require(folder, len(pairs), "pairs")
    dev = find_pairs(dev_folder) if dev_folder else chime_pairs(folder, "dev") if in_sets else []
    if dev:
        held_out = set()
        _warn_of_shared(say, (path for pair in pairs for path in pair), (path for pair in dev for path in pair))
    else:
        held_out = set(pairs[:: max(HELD_OUT_EVERY, -(-len(pairs) // HELD_OUT_PAIRS))])
        dev = sorted(held_out)
    kept = [pair for pair in pairs if pair not in held_out]
    say(f"pairs: {len(kept):,} to train on, {len(dev):,} for the dev score", False)
    say("pairs are used as they are: [augmentation] and, except for segment_s, [mixing] have no effect", False)
    for sentence in inspection.suspicious_pairs(pairs, made.rate_hz):
        say(sentence, True)
    source = PairDataset(kept, made.mixing.segment_s, made.rate_hz, made.seed)
    return Material(source, load(dev, made.rate_hz))


def from_clips(recordings: Recordings, made: Mixtures, say: Say) -> Material:
    """Return mixtures made on the fly as material. Raises CorpusError if there is too little of something."""
    clips = _clips(recordings)
    _say_what_there_is(clips, say)
    cache = ClipCache(made.rate_hz)
    if recordings.dev:
        source = _mixtures(clips.speech, clips.noise, clips.rooms, made, cache)
        return Material(source, _dev(recordings.dev, clips, made, say))
    speech, dev_speech = _split(clips.speech, clips.dev_speech, "speakers", say)
    noise, dev_noise = _split(clips.noise, clips.dev_noise, "kinds of noise", say)
    source = _mixtures(speech, noise, clips.rooms, made, cache)
    return Material(source, _fixed(dev_speech, dev_noise, made.rate_hz, cache))


def fingerprint(recordings: Recordings) -> list[tuple[str, int, int]]:
    """Return path, size and time of every file that training may hear, by which a change of any is noticed."""
    folders = (recordings.speech, recordings.noise, recordings.rooms, recordings.pairs, recordings.general_noise)
    files = [file for folder in folders if folder for file in formats.scan(folder, follow_links=True).audio]
    if manifest := recordings.manifest:
        rows = read_rows(manifest, {"path"}.issubset, "the column path", "Name it in the first line.")
        files += [Path(manifest).parent / (row["path"] or "") for _, row in rows]
    return [(str(file.resolve()), *stamp(file)) for file in files]


def for_tuning(recordings: Recordings, made: Mixtures, say: Say) -> Material:
    """Return, as material for fine-tuning, mixtures with the given noise as it is, and general mixtures beside them.

    General mixtures are made with the recordings of `general_noise`, or else with babble and synthetic noise. Both
    kinds are scored, on speech and noise that are not trained on if there are 20 speakers and kinds. The last fifth of
    every noise recording is held out if there are too few recordings to spare one.
    """
    if recordings.pairs is not None:
        found, remedy = "--pairs", "Give speech and your noise apart, or choose another recipe."
        raise UsageError("fine-tuning", found, "--speech with --noise, or --manifest", remedy)
    clips = _clips(recordings)
    general_noise = scan(recordings.general_noise) if recordings.general_noise else []
    _say_what_there_is(clips, say)
    if general_noise:
        say(inspection.listing("general noise", general_noise, "kind"), False)
    else:
        say(
            "general noise: babble of the speakers, and synthetic noise; recordings of many noises "
            "(--general-noise) are better",
            False,
        )
    cache, rate_hz = ClipCache(made.rate_hz), made.rate_hz
    speech, dev_speech = _split(clips.speech, clips.dev_speech, "speakers", say)
    own, dev_own = (clips.noise, clips.dev_noise)
    if not (recordings.dev or dev_own):
        own, dev_own = _hold_out(clips.noise)
    own_cache = dev_own_cache = cache
    if dev_own is own:
        own_cache, dev_own_cache = (
            Excerpts(rate_hz, {clip.path: part for clip in own})
            for part in ((0.0, HELD_OUT_PART), (HELD_OUT_PART, 1.0))
        )
    as_it_is = replace(made, augmentation=AugmentationSettings())
    source = _mixtures(speech, own, clips.rooms, as_it_is, own_cache)
    if recordings.dev:
        dev = _dev(recordings.dev, clips, made, say)
    else:
        dev = _fixed(dev_speech, dev_own, rate_hz, dev_own_cache)
    augmentation = made.augmentation
    if not general_noise:
        babble = max(BABBLE_SHARE, augmentation.babble_probability)
        augmentation = replace(
            augmentation, babble_probability=babble, synthetic_noise_probability=1.0, splice_probability=0.0
        )
    others, dev_others = _hold_out(general_noise or own)
    general = _mixtures(speech, others, clips.rooms, replace(made, augmentation=augmentation), cache)
    in_dev = AugmentationSettings() if general_noise else augmentation
    return Material(source, dev, general, tuple(_fixed(dev_speech, dev_others, rate_hz, cache, in_dev)))


def load(pairs: Iterable[tuple[Path, Path]], rate_hz: int) -> list[Pair]:
    """Return the recordings of (clean, noisy) files."""
    return [(decode(clean, rate_hz), decode(noisy, rate_hz, like=clean)) for clean, noisy in pairs]


def _mixtures(
    speech: list[Clip], noise: list[Clip], rooms: list[Clip], made: Mixtures, cache: ClipCache
) -> ExampleSource:
    return MixtureDataset(speech, noise, rooms, made.mixing, made.rate_hz, made.seed, cache, made.augmentation)


def _fixed(
    speech: list[Clip],
    noise: list[Clip],
    rate_hz: int,
    cache: ClipCache,
    augmentation: AugmentationSettings = AugmentationSettings(),
) -> list[Pair]:
    """Return dev mixtures.

    They have settings and a seed of their own, so that scores of different runs on the same recordings can be compared.
    """
    made = MixtureDataset(speech, noise, [], MixingSettings(), rate_hz, 0, cache, augmentation)
    return [(s, s + n) for s, n in (made[i] for i in range(HELD_OUT_MIXTURES))]


def _dev(folder: Path, clips: "_Clips", made: Mixtures, say: Say) -> list[Pair]:
    """Return the pairs of the dev folder."""
    pairs = find_pairs(folder)
    say(f"dev: {count(len(pairs), 'pair')}", False)
    given = [clip.path for clip in (*clips.speech, *clips.noise)]
    _warn_of_shared(say, given, (path for pair in pairs for path in pair))
    for sentence in inspection.suspicious_pairs(pairs, made.rate_hz):
        say(f"dev: {sentence}", True)
    return load(pairs, made.rate_hz)


@dataclass(frozen=True)
class _Clips:
    speech: list[Clip]
    noise: list[Clip]
    rooms: list[Clip]
    dev_speech: list[Clip]
    dev_noise: list[Clip]


def _clips(recordings: Recordings) -> _Clips:
    """Return the clips of the folders, or of the manifest, which may list its own speech and noise for dev mixtures.

    Raises UsageError if there is neither a manifest nor both folders.
    """
    if recordings.manifest is not None:
        by_role = read_manifest(recordings.manifest)
        keys = [("speech", "train"), ("noise", "train"), ("rir", "train"), ("speech", "dev"), ("noise", "dev")]
        clips = _Clips(*(by_role.get(key, []) for key in keys))
        where = (recordings.manifest, recordings.manifest)
    elif recordings.speech is None or recordings.noise is None:
        found = "neither a manifest nor folders of both speech and noise"
        raise UsageError("recordings", found, "one of the two, or ready pairs", "Name the folder that is missing.")
    else:
        rooms = scan(recordings.rooms) if recordings.rooms else []
        clips = _Clips(scan(recordings.speech), scan(recordings.noise), rooms, [], [])
        where = (recordings.speech, recordings.noise)
    _require(where[0], len(clips.speech), "clips of speech")
    if not clips.noise:
        raise CorpusError(where[1], "no noise", "at least one clip of noise", "Add recordings of noise.")
    return clips


def _say_what_there_is(clips: _Clips, say: Say) -> None:
    say(inspection.listing("speech", clips.speech, "speaker"), False)
    say(inspection.listing("noise", clips.noise, "kind"), False)
    if clips.rooms:
        say(inspection.rooms_listing(clips.rooms), False)
    for train, dev, what in ((clips.speech, clips.dev_speech, "speakers"), (clips.noise, clips.dev_noise, "noises")):
        _warn_of_shared(say, (clip.path for clip in train), (clip.path for clip in dev))
        if shared := inspection.shared_groups(train, dev):
            say(
                f"{len(shared)} {what} are trained on and scored, the first {shared[0]}: the dev score flatters",
                True,
            )


def _warn_of_shared(say: Say, train: Iterable[Path], dev: Iterable[Path]) -> None:
    if shared := inspection.shared_files(train, dev):
        say(f"{are(len(shared), 'file')} trained on and scored, the first {shared[0]}: the dev score flatters", True)


def _require(where: Path, count: int, what: str) -> None:
    if count < SMALLEST_CORPUS:
        raise CorpusError(
            where, f"{count} {what}", f"at least {SMALLEST_CORPUS}", "Add recordings, or name another folder."
        )


def _split(clips: list[Clip], dev: list[Clip], what: str, say: Say) -> tuple[list[Clip], list[Clip]]:
    """Return (clips to train on, clips for the dev score): as given, or by holding some out."""
    kept, dev = (clips, dev) if dev else _hold_out(clips)
    if dev is kept:
        say(f"fewer than {HELD_OUT_EVERY} {what}: none is held out, and the dev score flatters", True)
    return kept, dev


def _hold_out(clips: list[Clip]) -> tuple[list[Clip], list[Clip]]:
    """Return (kept, held out), split by group; if there are too few groups to spare one, both hold all clips."""
    held = set(sorted({c.group for c in clips})[HELD_OUT_EVERY - 1 :: HELD_OUT_EVERY])
    if not held:
        return clips, clips
    return [c for c in clips if c.group not in held], [c for c in clips if c.group in held]
