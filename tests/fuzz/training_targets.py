"""Corpora, tables and recipes for `train`, and folders for `evaluate`: very small ones, trained on for one step."""

import functools
import json
from pathlib import Path
from random import Random

from tests.fuzz import sounds, trees
from tests.fuzz.cases import Case, Target, prepare_training
from tests.fuzz.child import Outcome

SMALL = {
    "model": "dnn",
    "network": {"context": 2, "hidden": [4]},
    "front_end": {"rate_hz": 8000},
    "mixing": {"segment_s": 0.25, "snr_db": [-5.0, 5.0]},
    "training": {"steps": 1, "batch": 2, "score_every": 1},
}
"""A recipe that is trained in no time."""


@functools.cache
def corpus_files() -> dict[str, bytes]:
    random = Random(0)
    files = {name: sounds.speech(random) for name in [f"speech/{i}.wav" for i in range(6)] + ["noise/a.wav"]}
    return files | {"dev/clean/a.wav": files["speech/0.wav"], "dev/noisy/a.wav": sounds.noisy(files["speech/0.wav"])}


def small() -> list[str]:
    settings = [f"{section}.{key}={json.dumps(value)}" for section, table in SMALL.items() if section != "model"
                for key, value in table.items()]  # fmt: skip
    return ["--model", SMALL["model"], *(word for setting in settings for word in ("--set", setting))]


def _train(arguments: list[str], files: dict[str, bytes], note: str = "") -> Case:
    arguments = ["train", *arguments, "--dev", "dev", "-o", "run", "--device", "cpu"]
    return Case(arguments, corpus_files() | files, [], ("run/best.safetensors",), note=note, kept=("run/",))


def corpus(random: Random) -> Case:
    """Folders of speech, noise and rooms, or pairs, in which one file may be wrong."""
    sound = sounds.mutated(random)
    note = f"{sound.suffix} {' '.join(sound.mutations)}"
    if random.random() < 0.3:
        pairs = {
            f"pairs/{side}/{i}.wav": data
            for i, data in enumerate(list(corpus_files().values())[:6])
            for side in ("clean", "noisy")
        }
        place = random.choice(["pairs", "pairs", "dev"])
        pairs = {name: data for name, data in pairs.items() if "/1." not in name}
        pairs |= {f"{place}/{side}/1.{sound.suffix}": sound.original for side in ("clean", "noisy")}
        pairs[f"{place}/{random.choice(['clean', 'noisy'])}/1.{sound.suffix}"] = sound.data
        return _train(["--pairs", "pairs", *small()], pairs, note)
    place = random.choice(["speech", "speech", "noise", "rooms"])
    files = {f"{place}/b.{sound.suffix}": sound.data, "rooms/hall.wav": sounds.speech(random, 1000)}
    return _train(["--speech", "speech", "--noise", "noise", "--rir", "rooms", *small()], files, note)


def manifest(random: Random) -> Case:
    """A table of clips in which something may be wrong."""
    rows = [[f"speech/{i}.wav", "speech", f"s{i}", "train"] for i in range(6)] + [["noise/a.wav", "noise", "", ""]]
    data = trees.table(["path", "role", "speaker", "split"], rows, random)
    return _train(["--manifest", "clips.csv", *small()], {"clips.csv": data})


def recipe(random: Random) -> Case:
    """A recipe of wrong types, numbers or syntax, or such a --set; without a corpus where a network is not to be
    made."""
    tables = trees.change(SMALL, random, random.choice([0, 1, 1, 2, 5]))
    speech = "speech" if random.random() < 0.4 else "nowhere"
    if speech == "speech":
        _bound_work(tables)
    text = trees.toml(tables).encode()
    kind = random.choice(["tree"] * 5 + ["scribble", "deep", "set", "set"])
    arguments = ["recipe.toml"]
    if kind == "scribble":
        text = trees.scribble(text, random)
    elif kind == "deep":
        text = b"x = " + random.choice([b"[", b"{a="]) * random.choice([100, 2000, 100_000])
    elif kind == "set":
        key = random.choice(
            ["training.steps", "network.hidden", "model", "", "a.b.c.d", "training", "network.hidden.x", "extends"]
        )
        value = random.choice(
            ["", "=", "[", "9" * 5000, "nan", "1e999", "[" * 5000, "{x=1}", "2020-01-01", "true", "'", "-1"]
        )
        arguments += ["--set", f"{key}={value}"]
    return _train([*arguments, "--speech", speech, "--noise", "noise"], {"recipe.toml": text}, kind)


_MODERATE = {("training", "steps"): 1, ("training", "batch"): 10, ("mixing", "segment_s"): 2.5}
"""The most work that a recipe of the campaign may ask for."""


def _bound_work(tables: dict) -> None:
    """Less work where a recipe is trained: a long training is what such a recipe asks for, not a hang."""
    for (section, key), most in _MODERATE.items():
        table = tables.setdefault(section, {})
        if isinstance(table, dict):
            value = table.get(key, most + 1)  # the default is too much
            if type(value) in (int, float) and value > most:
                table[key] = SMALL[section][key]


def evaluate(random: Random) -> Case:
    """Folders of references and estimates in which one file may be wrong, and a table of SNRs."""
    sound, name = sounds.mutated(random), random.choice(["a", "a", "a", "a\udcff", "u\u0308", "a\n", "a_+3dB_x"])
    files = {f"{side}/b.wav": sounds.speech(random, 8000) for side in ("reference", "estimate")}
    files |= {f"{side}/{name}.{sound.suffix}": sound.original for side in ("reference", "estimate")}
    side = random.choice(["reference", "estimate", "estimate"])
    files[f"{side}/{name}.{sound.suffix}"] = sound.data
    arguments = ["evaluate", "--reference", "reference", "--estimate", "estimate", "--jobs", "1"]
    arguments += ["--json"] if random.random() < 0.5 else []
    outputs: tuple[str, ...] = ()
    if random.random() < 0.3:
        files["snr.csv"] = trees.table(["name", "snr_db"], [["a", "3"], ["b.wav", "-2.5"]], random)
        arguments += ["--mixtures", "snr.csv"]
    if random.random() < 0.1:
        arguments += ["--report", "report"]
        outputs = ("report/files.csv", "report/report.json")

    def check(folder: Path, outcome: Outcome) -> str | None:
        if outcome.code == 0 and "--json" in arguments:
            try:
                json.loads(outcome.out, parse_constant=_refuse)
            except ValueError as error:
                return f"standard output is no JSON document ({error})"
        return None

    note = f"{side} {sound.suffix} {' '.join(sound.mutations)}"
    return Case(arguments, files, [], outputs, check, note=note, kept=("report/",))


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} in JSON")


def _refused(arguments: list[str]) -> Case:
    return Case(["train", *arguments, "-o", "run"], {"clips.csv": b"x\n", "recipe.toml": b"x\n"})


_NOWHERE = ["--speech", "nowhere", "--noise", "nowhere"]

TARGETS = {
    "evaluate": Target(evaluate, Case(["evaluate", "--reference", "a", "--estimate", "b"]), prepare_training),
    "manifest": Target(manifest, _refused(["--manifest", "clips.csv"]), prepare_training),
    "corpus": Target(corpus, _refused(_NOWHERE), prepare_training),
    "recipe": Target(recipe, _refused(["recipe.toml", *_NOWHERE]), prepare_training),
}
