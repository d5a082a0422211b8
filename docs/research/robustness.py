"""Are networks with descent constraints more robust? The runs of descent/plan.toml on sound not heard in training.

    python docs/research/robustness.py corpus CORPUS OUT     links to recordings for training, for experiment.py train
    python docs/research/robustness.py score CORPUS RUNS     the SI-SDR of complete runs under every condition
    python docs/research/robustness.py collect RUNS          descent/robustness.csv and the tables of robustness.md

`corpus` leaves out whole kinds of noise, and the rooms of some sources. `score` makes the conditions from CORPUS/dev,
with what was left out; it continues where it was stopped. Test is not used.
"""

import argparse
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from experiment import Run, read_plan, unscored
from report import NOT_THERE, difference, fill, read_rows, write_rows

from deepnmf_cli import checkpoint, zoo
from deepnmf_cli.corpus.effects import clip, code
from deepnmf_cli.corpus.mixing import Samples, in_room, is_silent, scale_to_snr
from deepnmf_cli.networks.base import MaskNetwork
from deepnmf_cli.scoring.metrics import METRICS
from deepnmf_cli.signal import audio
from deepnmf_cli.training.dev import enhanced
from deepnmf_cli.training.layers import LayerNoise

HERE = Path(__file__).parent
PLAN, KEPT, PAGE = HERE / "descent/plan.toml", HERE / "descent/robustness.csv", HERE / "robustness.md"
RATE_HZ = 16000
LEFT_OUT = ("animals", "human non-speech", "machinery/domestic/kitchen")
"""Kinds of noise that no network hears in training: 121 of 333 recordings."""
ROOMS_HEARD = "reverbjs_*"
"""Rooms that networks hear in training; those of other sources are left out, 7 of 35."""
SEED = 4
SCORES, LAST, NOISY = "robustness.csv", "robustness-last.csv", "robustness-noisy.csv"
"""Scores of the weights that training chose, of those at its end where constraints had a say in the choice, and of the
mixtures."""
FAMILIES = ("grid", "sparse-coding")
SEEDS = 3
VARIANTS = {
    "": "plain", "-supervised": "deep supervision", "-descent": "constraints", "-noise": "noise",
    "-descent-noise": "constraints and noise", "-descent-last": "constraints, at the end",
    "-descent-noise-last": "constraints and noise, at the end",
}  # fmt: skip
"""Suffix of a family's name in the plan -> its title here."""
PAIRS = (("-descent-noise", "-noise"), ("-descent", ""), ("-noise", ""), ("-supervised", ""), ("-descent-noise", ""),
         ("-descent-noise-last", "-noise"), ("-descent-last", ""))  # fmt: skip
"""Pairs whose differences are reported, over the seeds that both have; the first decides about the claim."""


@dataclass(frozen=True)
class Example:
    """A clean recording and the noisy one, with the speaker and the noise that it shares with others."""

    name: str
    speaker: str
    noise: str
    clean: Samples
    noisy: Samples


def link_corpus(corpus: Path, out: Path) -> None:
    """Create links in `out` to everything in `corpus` that is not left out."""
    (out / "train").mkdir(parents=True)
    for part in ("train/speech", "dev"):
        (out / part).symlink_to((corpus / part).absolute())
    noises = [row["path"] for row in read_rows(corpus / "train/noise.csv") if row["category"] not in LEFT_OUT]
    rooms = [str(path.relative_to(corpus)) for path in sorted((corpus / "rir").glob(ROOMS_HEARD))]
    for name in noises + rooms:
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).symlink_to((corpus / name).absolute())


class Conditions:
    """The signals of named conditions, made from the recordings of dev."""

    def __init__(self, corpus: Path) -> None:
        self.corpus = corpus
        by_kind = defaultdict(list)
        for row in read_rows(corpus / "train/noise.csv"):
            by_kind[row["category"]].append(corpus / row["path"])
        self.noises = [sorted(by_kind[kind]) for kind in LEFT_OUT]
        heard = set((corpus / "rir").glob(ROOMS_HEARD))
        self.rooms = sorted(set((corpus / "rir").glob("*.*")) - heard)
        self.dev = [self._dev(row) for row in read_rows(corpus / "dev/mixtures.csv")]
        self.snr_db = {row["name"]: float(row["snr_db"]) for row in read_rows(corpus / "dev/mixtures.csv")}

    def _dev(self, row: dict[str, str]) -> Example:
        clean, noisy = (read(self.corpus / "dev" / part / f"{row['name']}.flac") for part in ("clean", "noisy"))
        return Example(row["name"], row["speaker"], row["noise"], clean, noisy)

    def named(self) -> dict[str, Callable[[int, Example], Example]]:
        """Return condition -> function of the number of an example and the example that returns it changed."""
        return {
            "dev": lambda number, example: example,
            "kinds left out": self.other_noise,
            "rooms left out": self.other_room,
            "40 dB quieter": partial(changed, change=lambda clean, noisy: (0.01 * clean, 0.01 * noisy)),
            "second half 20 dB louder": partial(changed, change=louder),
            "clipped 10 dB": partial(changed, change=partial(clipped, depth_db=10)),
            "clipped 20 dB": partial(changed, change=partial(clipped, depth_db=20)),
            "mp3": partial(changed, change=partial(coded, codec="mp3")),
            "opus": partial(changed, change=partial(coded, codec="opus")),
            "vorbis": partial(changed, change=partial(coded, codec="vorbis")),
        }

    def other_noise(self, number: int, example: Example) -> Example:
        """Return the clean recording with a noise of a kind left out, each kind for a third of the recordings."""
        draw, length = np.random.default_rng([SEED, number]), len(example.clean)
        kind = self.noises[number % len(self.noises)]
        while True:
            path = kind[draw.integers(len(kind))]
            noise = read(path)
            noise = np.tile(noise, -(-length // len(noise)))
            start = draw.integers(len(noise) - length + 1)
            if not is_silent(noise[start : start + length]):
                break
        noise = scale_to_snr(example.clean, noise[start : start + length], self.snr_db[example.name])
        return Example(example.name, example.speaker, path.stem, example.clean, example.clean + noise)

    def other_room(self, number: int, example: Example) -> Example:
        """Return the speech in a room that was left out; late reverberation counts as noise, as in training."""
        response = read(self.rooms[number % len(self.rooms)])
        wet = in_room(example.clean, response, RATE_HZ)
        target = in_room(example.clean, response, RATE_HZ, early_only=True)
        return Example(example.name, example.speaker, example.noise, target, wet + (example.noisy - example.clean))


def read(path: Path) -> Samples:
    samples, rate_hz = audio.read(path, "float32")
    if rate_hz != RATE_HZ:
        raise SystemExit(f"{path}: {rate_hz} Hz, not {RATE_HZ}")
    return samples[0]


def changed(number: int, example: Example, change: Callable[[Samples, Samples], tuple[Samples, Samples]]) -> Example:
    return Example(example.name, example.speaker, example.noise, *change(example.clean, example.noisy))


def louder(clean: Samples, noisy: Samples) -> tuple[Samples, Samples]:
    gain = np.where(np.arange(len(clean)) < len(clean) // 2, np.float32(0.1), np.float32(1))
    return gain * clean, gain * noisy


def clipped(clean: Samples, noisy: Samples, depth_db: float) -> tuple[Samples, Samples]:
    target, noise = clip(clean, noisy - clean, depth_db)
    return target, target + noise


def coded(clean: Samples, noisy: Samples, codec: str) -> tuple[Samples, Samples]:
    """Return the noisy signal coded at the lowest bit rate of the coder."""
    return clean, code(noisy, RATE_HZ, codec, 1.0)


NOISE_SIZES = (0.1, 0.3, 1.0)
"""Sizes of noise between layers, relative to the root mean square of what layers get from each other."""
BITS = (8, 5)
"""Numbers of bits to which weights are rounded."""


def changed_networks(network: MaskNetwork) -> Iterator[str]:
    """Change the network in several ways, and yield the name of each change while it is in effect."""
    unfolded = network.unfolded
    for size in NOISE_SIZES:
        generator = torch.Generator().manual_seed(SEED)
        unfolded.disturb = LayerNoise(unfolded.iterations, lambda layer, size=size: size, generator)
        yield f"noise of {size:g} between layers"
    unfolded.disturb = None
    kept = {name: x.clone() for name, x in network.state_dict().items()}
    for bits in BITS:
        network.load_state_dict({name: rounded(x, bits) for name, x in kept.items()})
        yield f"weights of {bits} bits"
    network.load_state_dict(kept)


def rounded(x: torch.Tensor, bits: int) -> torch.Tensor:
    """Return matrices as integers of `bits` bits times a scale for each row, as `deepnmf export` rounds to 8."""
    if x.dim() < 2 or not x.is_floating_point():
        return x
    largest = 2 ** (bits - 1) - 1
    scale = x.abs().amax(-1, keepdim=True).clamp_min(1e-30) / largest
    return (x / scale).round() * scale


def si_sdr(example: Example, estimate: Samples) -> float:
    return METRICS["SI-SDR"].compute(example.clean.astype(np.float64), estimate.astype(np.float64), RATE_HZ)


def runs_of_question() -> list[Run]:
    """Return the runs of the plan that this script is about."""
    rungs = {family + variant for family in FAMILIES for variant in VARIANTS}
    return [run for run in read_plan(PLAN) if run.rung in rungs]


def sets_of_weights() -> list[tuple[Run, str, str]]:
    """Return the run, the network's name here and the file of scores of all weights that are scored: those that
    training chose, then those at the end of runs with constraints.
    """
    every = runs_of_question()
    constrained = [run for run in every if run.recipe.constraints.kind != "none"]
    return [(run, run.rung, SCORES) for run in every] + [(run, f"{run.rung}-last", LAST) for run in constrained]


def score(corpus: Path, runs: Path) -> None:
    conditions = Conditions(corpus)
    examples = {
        name: [make(number, example) for number, example in enumerate(conditions.dev)]
        for name, make in conditions.named().items()
    }
    if not (runs / NOISY).is_file():
        write_rows(runs / NOISY, [row(name, one, one.noisy) for name, given in examples.items() for one in given])
    for run, _, scores in sets_of_weights():
        if not any(unscored([run], runs, scores)):
            continue
        network, file = zoo.load(runs / run.name)
        if scores == LAST:
            become_last(network, runs / run.name)
        enhance = partial(enhanced, network, file.front_end)
        table = [row(name, one, enhance(one.noisy)) for name, given in examples.items() for one in given]
        for name in changed_networks(network):
            table += [row(name, one, enhance(one.noisy)) for one in examples["dev"]]
        write_rows(runs / run.name / scores, table)


@torch.no_grad()
def become_last(network: MaskNetwork, folder: Path) -> None:
    """Give a network the averaged weights at the end of its run, feasible or not."""
    held, _ = checkpoint.load(folder / "resume.safetensors")
    for number, parameter in enumerate(p for p in network.parameters() if p.requires_grad):
        parameter.copy_(held[f"average.{number}"])


def row(condition: str, example: Example, estimate: Samples) -> dict[str, str]:
    names = {"condition": condition, "name": example.name, "speaker": example.speaker, "noise": example.noise}
    return names | {"si_sdr": f"{si_sdr(example, estimate):.3f}"}


def collect(runs: Path) -> None:
    """Add the scores of complete runs to those that were collected before, and make the tables of all.

    The file has a row for each condition and recording, with the score of every seed of each network, and their mean.
    """
    table, weights = {key(one): one for one in read_rows(KEPT)} if KEPT.is_file() else {}, sets_of_weights()
    for run, rung, file in weights:
        if not (runs / run.name / file).is_file():
            continue
        found = {key(one): one for one in read_rows(runs / run.name / file)}
        table = table or without_networks(found, runs)
        if found.keys() != table.keys():
            raise SystemExit(f"{run.name}: scores of other recordings; remove its {file} and score it again")
        for place, one in table.items():
            one[of_seed(rung, run.seed)] = found[place]["si_sdr"]
    rows = list(table.values())
    for rung in dict.fromkeys(rung for _, rung, _ in weights):
        if seeds := seeds_of(rows, rung):
            for one in rows:
                one[rung] = f"{np.mean([float(one[of_seed(rung, seed)]) for seed in seeds]):.3f}"
    write_rows(KEPT, rows)
    tables = {"means": partial(means_table, rows), "pairs": partial(pairs_table, rows)}
    fill(PAGE, {name: lambda family, make=make: once_there(rows, family, make) for name, make in tables.items()})


def without_networks(found: dict[tuple[str, str], dict[str, str]], runs: Path) -> dict[tuple[str, str], dict[str, str]]:
    """Return rows for the recordings that were found, with the scores of the mixtures only."""
    noisy = {key(one): one["si_sdr"] for one in read_rows(runs / NOISY)}
    names = ("condition", "name", "speaker", "noise")
    return {
        place: {name: one[name] for name in names} | {"noisy": noisy.get(place) or noisy["dev", one["name"]]}
        for place, one in found.items()
    }  # those of changed networks are those of dev


def once_there(table: Sequence[dict[str, str]], family: str, make: Callable[[str], str]) -> str:
    """Return `make(family)`, or NOT_THERE without the two networks of the family that are compared first."""
    there = all(family + variant in table[0] for variant in PAIRS[0])
    return make(family) if there else NOT_THERE


def of_seed(rung: str, seed: int) -> str:
    """Return the column of a network with one seed."""
    return f"{rung}, seed {seed}"


def seeds_of(table: Sequence[dict[str, str]], rung: str) -> list[int]:
    """Return the seeds of a network that have been scored."""
    return [seed for seed in range(1, SEEDS + 1) if of_seed(rung, seed) in table[0]]


def key(found: dict[str, str]) -> tuple[str, str]:
    return found["condition"], found["name"]


def by_condition(table: Sequence[dict[str, str]]) -> dict[str, list[dict[str, str]]]:
    found: dict[str, list[dict[str, str]]] = {}
    for one in table:
        found.setdefault(one["condition"], []).append(one)
    return found


def column(given: Sequence[dict[str, str]], name: str) -> np.ndarray:
    return np.array([float(one[name]) for one in given])


def means_table(table: Sequence[dict[str, str]], family: str) -> str:
    """Return the mean SI-SDR in dB, with a row for each condition."""
    there = {variant: title for variant, title in VARIANTS.items() if family + variant in table[0]}
    titles = [f"{title} ({len(seeds_of(table, family + variant))})" for variant, title in there.items()]
    lines = ["| " + " | ".join(["condition", "noisy", *titles]) + " |", "|---" * (2 + len(there)) + "|"]
    for condition, given in by_condition(table).items():
        values = [column(given, name).mean() for name in ("noisy", *(family + variant for variant in there))]
        lines.append(f"| {condition} | " + " | ".join(f"{value:.2f}" for value in values) + " |")
    return "\n".join(lines)


def pairs_table(table: Sequence[dict[str, str]], family: str) -> str:
    """Return differences in dB with 95 % intervals over speakers and noises, then those of every seed, by which the
    intervals do not widen. A column for each pair of `PAIRS`, over the seeds that both have.
    """
    seeds = {
        (of, less): [seed for seed in seeds_of(table, family + of) if seed in seeds_of(table, family + less)]
        for of, less in PAIRS
    }
    pairs = [pair for pair in PAIRS if seeds[pair]]
    titles = [f"{VARIANTS[of]} less {VARIANTS[less]}" for of, less in pairs]
    lines = ["| " + " | ".join(["condition", *titles]) + " |", "|---" * (1 + len(pairs)) + "|"]
    for condition, given in by_condition(table).items():
        cells = []
        for pair in pairs:
            apart = [
                np.subtract(*(column(given, of_seed(family + variant, seed)) for variant in pair))
                for seed in seeds[pair]
            ]
            each = ", ".join(f"{one.mean():+.2f}" for one in apart)
            cells.append(f"{difference(np.mean(apart, 0), given)}; {each}")
        lines.append(f"| {condition} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    for verb, places in (("corpus", ("corpus", "out")), ("score", ("corpus", "runs")), ("collect", ("runs",))):
        one = verbs.add_parser(verb)
        for place in places:
            one.add_argument(place, type=Path)
    given = vars(parser.parse_args())
    torch.set_num_threads(1)
    {"corpus": link_corpus, "score": score, "collect": collect}[given.pop("verb")](*given.values())


if __name__ == "__main__":
    main()
