"""What happens to a mixture, and what training for it is worth.

    python docs/research/flagship/augmentation.py models CORPUS MODEL ...     scores of models where each thing happens
    python docs/research/flagship/augmentation.py runs CORPUS RUNS            short runs without one thing at a time

Each thing happens to 60 mixtures of the dev material, always the same ones, so that models can be compared. Runs have
all that one recipe does to mixtures, nothing of it, or all but one thing. Each is scored on dev as it is, which says
what that costs or brings where it does not happen, and where it happens, which is what it is there for. Runs that are
complete are not repeated, and one that was stopped goes on; their scores are kept in augmentation.json beside this
script.

CORPUS has train/speech, train/noise, rir and dev/{clean,noisy}.
"""

import argparse
import json
from dataclasses import fields
from pathlib import Path
from tempfile import TemporaryDirectory

import soundfile
import torch

from deepnmf_cli import zoo
from deepnmf_cli.corpus.augment import AugmentationSettings
from deepnmf_cli.corpus.clips import decode
from deepnmf_cli.corpus.dataset import MixingSettings, MixtureDataset
from deepnmf_cli.corpus.manifest import find_pairs, scan
from deepnmf_cli.experiment import Recordings, train
from deepnmf_cli.recipe import Recipe, read_recipe
from deepnmf_cli.training.dev import Pair, dev_score

RECIPE = Path(__file__).with_name("recipes") / "tiny-second.toml"
STEPS = 400
RATE_HZ = 16000
MIXTURES = 60

ALL, ALL_AGAIN, NOTHING = "all", "all, other seed", "nothing"
RESULTS = Path(__file__).with_name("augmentation.json")
SUFFIX = "_probability"

Scores = list[float]
"""SI-SDR in dB and PESQ."""


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("verb", choices=["models", "runs"])
    arguments.add_argument("corpus", type=Path)
    arguments.add_argument("names", nargs="+", metavar="MODEL|RUNS")
    given = arguments.parse_args()
    torch.set_num_threads(1)
    tests = happened(given.corpus)
    if given.verb == "models":
        print(models_table({name: scores(name, tests) for name in given.names}))
        return
    results = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    for name in (ALL, NOTHING, ALL_AGAIN, *tests):
        if name not in results:
            folder = run(name, given.corpus, Path(given.names[0]))
            trained = zoo.load(folder)[1].provenance["trained"]
            kept = {"dev": rounded(trained["dev_si_sdr"], trained["dev_pesq"])}
            kept["happened"] = scores(folder, {name: tests[name]} if name in tests else tests)
            results[name] = kept
            RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    print(runs_table(results))


def options(recipe: Recipe) -> dict[str, float]:
    """What a recipe does to mixtures, and to which share of them."""
    values = {field.name: getattr(recipe.augmentation, field.name) for field in fields(AugmentationSettings)}
    return {name.removesuffix(SUFFIX): x for name, x in values.items() if name.endswith(SUFFIX) and x > 0}


def happened(corpus: Path) -> dict[str, list[Pair]]:
    """Clean and noisy mixtures of the dev material, for each augmentation those to which it has happened."""
    mixing = MixingSettings(snr_db=(-6.0, 9.0), second_noise_probability=0.0, clean_probability=0.0)
    speech = scan(corpus / "dev/clean")
    with TemporaryDirectory() as folder:
        for clean, noisy in find_pairs(corpus / "dev"):
            noise = decode(noisy, RATE_HZ) - decode(clean, RATE_HZ)
            soundfile.write(Path(folder, f"{noisy.stem}.wav"), noise, RATE_HZ, subtype="FLOAT")
        noise, tests = scan(folder), {}
        for option in options(read_recipe(RECIPE)):
            always = AugmentationSettings(**{option + SUFFIX: 1.0})
            source = MixtureDataset(speech, noise, [], mixing, RATE_HZ, seed=0, augmentation=always)
            tests[option] = [(target, target + rest) for target, rest in (source[i] for i in range(MIXTURES))]
    return tests


def run(name: str, corpus: Path, runs: Path) -> Path:
    """The folder of the complete run `name`."""
    off = {ALL: [], ALL_AGAIN: [], NOTHING: options(read_recipe(RECIPE))}.get(name, [name])
    seed = 2 if name == ALL_AGAIN else 1
    overrides = [f"augmentation.{option}{SUFFIX}=0.0" for option in off]
    overrides += ["training.learning_rate=0.008", "training.average=0.99", f"training.seed={seed}"]
    overrides += [f"training.steps={STEPS}", f"training.score_every={STEPS}"]
    recipe = read_recipe(RECIPE, None, overrides)
    folder = runs / name.replace(", ", "-").replace(" ", "-")
    where = Recordings(corpus / "train/speech", corpus / "train/noise", corpus / "rir", corpus / "dev")
    if not (folder / "history.csv").is_file():  # its one row comes with the last step
        print(name, flush=True)
        train(recipe, where, folder, resume=(folder / "resume.safetensors").is_file())
    return folder


def scores(model: str | Path, tests: dict[str, list[Pair]]) -> dict[str, Scores]:
    """Of a model on each set of mixtures."""
    network, file = zoo.load(model)
    network.accelerate()
    made = {}
    for option, pairs in tests.items():
        score = dev_score(network, file.front_end, pairs, score="si-sdr+pesq")
        made[option] = rounded(score.si_sdr, score.pesq)
    return made


def rounded(si_sdr: float, pesq: float) -> Scores:
    return [round(si_sdr, 3), round(pesq, 4)]


def models_table(found: dict[str, dict[str, Scores]]) -> str:
    """Both scores of each model where each thing happens."""
    lines = [f"| | {' | '.join(found)} |", f"|---|{'---|' * len(found)}"]
    for option in next(iter(found.values())):
        cells = [f"{made[option][0]:.2f}, {made[option][1]:.3f}" for made in found.values()]
        lines.append(f"| {option} | {' | '.join(cells)} |")
    return "\n".join(lines)


def runs_table(results: dict[str, dict]) -> str:
    """What each augmentation brings in dB and in points of PESQ: the run with all minus the one without it, on dev and
    where it happens, and there minus the one without any; in the last line what another seed brings."""
    lines = ["| | share | dev | where it happens | there, by all of them |", "|---|---|---|---|---|"]
    everything, nothing = results[ALL], results[NOTHING]
    for name, share in options(read_recipe(RECIPE)).items():
        there = [everything["happened"][name], results[name]["happened"][name], nothing["happened"][name]]
        cells = [more(everything["dev"], results[name]["dev"]), more(there[0], there[1]), more(there[0], there[2])]
        lines.append(f"| `{name}` | {share:g} | {' | '.join(cells)} |")
    lines.append(f"| {NOTHING} | | {more(everything['dev'], nothing['dev'])} | | |")
    again = results[ALL_AGAIN]
    there = [[abs(a - b) for a, b in zip(everything["happened"][name], x)] for name, x in again["happened"].items()]
    decibels, points = map(max, zip(*there))
    lines.append(
        f"| {ALL_AGAIN} | | {more(everything['dev'], again['dev'])} | at most {decibels:.2f}, {points:.3f} away | |"
    )
    return "\n".join(lines)


def more(a: Scores, b: Scores) -> str:
    """What `a` has more than `b`."""
    return f"{a[0] - b[0]:+.2f}, {a[1] - b[1]:+.3f}"


if __name__ == "__main__":
    main()
