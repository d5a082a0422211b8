"""Fine-tuning, and beginning with another model's weights."""

import csv
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from deepnmf_cli import experiment, model_file, zoo
from deepnmf_cli.corpus import sources
from deepnmf_cli.enhancer import Enhancer
from deepnmf_cli.errors import ModelError, RecipeError, UsageError
from deepnmf_cli.experiment import Recordings, take_weights, train
from deepnmf_cli.networks import build
from deepnmf_cli.networks.backend import TorchBackend
from deepnmf_cli.recipe import Recipe, read_recipe
from deepnmf_cli.signal.stft import FrontEnd
from deepnmf_cli.training.processes import Processes, Share
from deepnmf_cli.training.tuning import SHARES, Step, Taught, best_step, blended

TINY = {
    "model": "dnn",
    "network": {"context": 2, "hidden": [8]},
    "front_end": {"rate_hz": 8000},
    "mixing": {"segment_s": 0.5},
    "training": {"steps": 4, "batch": 2, "score_every": 2, "warmup_steps": 2},
}


def tiny(**sections) -> Recipe:
    return Recipe.from_dict(TINY | {name: TINY.get(name, {}) | value for name, value in sections.items()})


def recordings(corpus: Path, **others) -> Recordings:
    return Recordings(speech=corpus / "speech", noise=corpus / "noise", **others)


@pytest.fixture(autouse=True)
def few_mixtures(monkeypatch) -> None:
    """Scores on six mixtures: what they are is not the matter here."""
    monkeypatch.setattr(sources, "HELD_OUT_MIXTURES", 6)


@pytest.fixture(scope="module")
def model(tiny_corpus: Path, tmp_path_factory) -> Path:
    """The file of a trained network."""
    folder = tmp_path_factory.mktemp("model")
    train(tiny(), recordings(tiny_corpus, dev=tiny_corpus / "dev"), folder)
    return folder / "best.safetensors"


class Constant:
    """Examples of constant speech 1 and noise `value`."""

    length = 800

    def __init__(self, value: float) -> None:
        self.value, self.divided = value, 1

    def divide(self, processes: int) -> None:
        self.divided *= processes

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        return np.ones(800, np.float32), np.full(800, self.value, np.float32)


def test_processes_that_make_examples_share_the_memory_and_the_cores(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[int] = []
    monkeypatch.setattr("torch.set_num_threads", threads.append)
    teacher, file = zoo.load(model)
    own, general = Constant(0.0), Constant(0.5)
    Share(Taught(own, general, 0.5, teacher, file.front_end), Processes(), 6).divide(3)
    assert (own.divided, general.divided, threads) == (3, 3, [1])


def test_sources_that_share_a_cache_divide_it_once(tiny_corpus: Path, model: Path, monkeypatch) -> None:
    monkeypatch.setattr("torch.set_num_threads", lambda count: None)
    made = sources.Mixtures(tiny().mixing, tiny().augmentation, 8000, 1)
    material = sources.for_tuning(recordings(tiny_corpus, dev=tiny_corpus / "dev"), made, lambda *said: None)
    assert material.source.cache is material.general.cache
    whole, (teacher, file) = material.source.cache.capacity_bytes, zoo.load(model)
    Taught(material.source, material.general, 0.5, teacher, file.front_end).divide(3)
    assert material.source.cache.capacity_bytes == whole // 3


def test_general_examples_have_the_output_of_the_teacher_as_target(model: Path) -> None:
    teacher, file = zoo.load(model)
    general = Constant(0.5)
    taught = Taught(Constant(0.0), general, 0.5, teacher, file.front_end)
    assert [taught.is_own(i) for i in range(4)] == [False, True, False, True]
    assert all((x == y).all() for x, y in zip(taught[1], Constant(0.0)[1]))
    speech, noise = taught[0]
    mixture = sum(general[0])
    expected = Enhancer(TorchBackend(teacher), file.front_end).enhance(mixture[None], 8000)[0]
    np.testing.assert_allclose(speech, expected, atol=1e-6)
    np.testing.assert_allclose(speech + noise, mixture, atol=1e-6)


@pytest.mark.parametrize("share", [0.25, 0.3, 0.5, 0.9])
def test_own_examples_have_their_share_of_any_stretch(model: Path, share: float) -> None:
    teacher, file = zoo.load(model)
    taught = Taught(Constant(0), Constant(0), share, teacher, file.front_end)
    own = np.array([taught.is_own(i) for i in range(200)])
    assert all(abs(own[i : i + 20].sum() - 20 * share) <= 1 for i in range(180))


def test_the_best_step_gains_most_of_those_that_keep_the_general_score() -> None:
    steps = [Step(0.0, 5.0, 9.0), Step(0.5, 6.0, 8.95), Step(0.75, 5.9, 9.1), Step(1.0, 7.0, 8.8)]
    assert best_step(steps, 0.1).share == 0.5
    assert best_step(steps, 0.3).share == 1.0
    assert best_step([steps[0], Step(1.0, 4.0, 9.5)], 0.1).share == 0.0


def test_blended_weights_lie_on_the_way() -> None:
    one, two = {"w": torch.zeros(3), "n": torch.tensor(1)}, {"w": torch.full((3,), 4.0), "n": torch.tensor(2)}
    assert blended(one, two, 0.25)["w"].tolist() == [1.0] * 3 and blended(one, two, 0.25)["n"] == 2
    assert torch.equal(blended(one, two, 0.0)["w"], one["w"]) and torch.equal(blended(one, two, 1.0)["w"], two["w"])


@pytest.mark.parametrize("general", [True, False])
def test_fine_tuning_says_both_scores_and_keeps_the_general_one(
    tiny_corpus: Path, model: Path, tmp_path: Path, general: bool
) -> None:
    settings = tiny(tuning={"own_share": 0.5}, training={"learning_rate": 0.05})
    draw, rate_hz = np.random.default_rng(0), 8000
    (tmp_path / "other").mkdir()
    soundfile.write(tmp_path / "other/0.wav", 0.1 * draw.standard_normal(3 * rate_hz).clip(-3, 3), rate_hz)
    where = recordings(tiny_corpus, general_noise=tmp_path / "other" if general else None)
    notes: list[str] = []
    assert train(settings, where, tmp_path / "run", init=model, progress=lambda row: notes.append(row.get("found")))
    rows = [
        {k: float(v) for k, v in row.items()}
        for row in csv.DictReader((tmp_path / "run/tuning.csv").read_text().splitlines())
    ]
    assert [row["share"] for row in rows] == list(SHARES)
    trained = model_file.read(tmp_path / "run/best.safetensors").provenance["trained"]
    assert trained["tuning"] in rows and trained["dev_si_sdr"] == trained["tuning"]["own_si_sdr"]
    assert trained["tuning"]["general_si_sdr"] >= rows[0]["general_si_sdr"] - settings.tuning.lost_db
    said = [note for note in notes if note and "SI-SDR" in note]
    assert [note.split(":")[0] for note in said] == ["your noise", "general noise"]
    assert f"{rows[0]['own_si_sdr']:.2f} dB with the initial model" in said[0]
    assert any(note and note.startswith("general noise: 1 file") for note in notes) == general
    # A complete run that is resumed stays as it is.
    before = model_file.read(tmp_path / "run/best.safetensors")
    assert train(settings, where, tmp_path / "run", resume=True, init=model)
    after = model_file.read(tmp_path / "run/best.safetensors")
    assert after.provenance["trained"] == before.provenance["trained"]
    assert all(torch.equal(after.weights[name], weight) for name, weight in before.weights.items())


def test_all_of_the_noise_is_learned_where_dev_is_given(tiny_corpus: Path, model: Path) -> None:
    """Otherwise a fifth of every recording is kept, to score on."""
    for dev, share in ((tiny_corpus / "dev", 1.0), (None, 0.8)):
        made = sources.Mixtures(tiny().mixing, tiny().augmentation, 8000, 1)
        material = sources.for_tuning(recordings(tiny_corpus, dev=dev), made, lambda *said: None)
        cache, clips = material.source.cache, sorted((tiny_corpus / "noise").rglob("*.wav"))
        assert {round(cache.length(path) / 16000, 2) for path in clips} == {share}


def test_the_choice_of_a_share_can_be_stopped_and_is_made_when_resumed(
    tiny_corpus: Path, model: Path, tmp_path: Path
) -> None:
    settings, reports = tiny(tuning={"own_share": 0.5}, training={"learning_rate": 0.05}), []
    stop = lambda: bool(reports) and reports[-1].get("step") == settings.training.steps  # noqa: E731
    run = tmp_path / "run"
    assert not train(settings, recordings(tiny_corpus), run, init=model, progress=reports.append, stop=stop)
    assert not (run / "tuning.csv").exists()
    assert train(settings, recordings(tiny_corpus), run, resume=True, init=model)
    trained = model_file.read(run / "best.safetensors").provenance["trained"]
    assert trained["tuning"] and [key for key in trained if key.startswith("dev_")] == ["dev_si_sdr"]


def test_a_tuned_model_is_what_the_scores_say(tiny_corpus: Path, model: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(experiment, "best_step", lambda steps, lost_db: steps[2])
    train(tiny(tuning={"own_share": 0.5}), recordings(tiny_corpus), tmp_path, init=model)
    tuned, _ = zoo.load(tmp_path)
    initial, _ = zoo.load(model)
    moved = [not torch.equal(a, b) for a, b in zip(tuned.weights().values(), initial.weights().values())]
    assert (
        any(moved)
        and SHARES[2] == model_file.read(tmp_path / "best.safetensors").provenance["trained"]["tuning"]["share"]
    )


def test_fine_tuning_needs_a_model_and_speech(tiny_corpus: Path, model: Path, tmp_path: Path) -> None:
    tuning = tiny(tuning={"own_share": 0.5})
    with pytest.raises(UsageError, match="fine-tuning: found no model to begin with; expected --init"):
        train(tuning, recordings(tiny_corpus), tmp_path / "run")
    with pytest.raises(UsageError, match="fine-tuning: found --pairs"):
        train(tuning, Recordings(pairs=tiny_corpus / "dev"), tmp_path / "run", init=model)
    with pytest.raises(UsageError, match="--general-noise: found a recipe that does not fine-tune"):
        train(tiny(), recordings(tiny_corpus, general_noise=tiny_corpus / "noise"), tmp_path / "run", init=model)
    with pytest.raises(RecipeError, match="own_share must be above 0"):
        tiny(tuning={"own_share": 0.0})


def test_a_network_that_lacks_weights_is_not_fine_tuned(tiny_corpus: Path, tmp_path: Path) -> None:
    """They would be drawn at random, in the teacher as well."""
    grid, path = {"single_bands": 8, "wide_bands": 4, "channels": 4}, tmp_path / "shallow.safetensors"
    others = TINY | {"model": "grid", "tuning": {"own_share": 0.5}}
    shallow, deep = (Recipe.from_dict(others | {"network": grid | {"iterations": count}}) for count in (1, 2))
    model_file.describe(path, build("grid", shallow.network), shallow.front_end, {}).write()
    with pytest.raises(
        ModelError, match=r"shallow.safetensors: found no fitting weights for .*_1.*; expected all that the"
    ):
        train(deep, recordings(tiny_corpus), tmp_path / "run", init=path)
    assert not (tmp_path / "run").exists()


def test_a_recipe_without_a_model_takes_what_it_leaves_out_from_the_initial_one() -> None:
    initial = tiny(objective={"snr": 0.7})
    assert read_recipe(None, initial=lambda: initial) == initial
    tuned = read_recipe("fine-tune", None, ["training.steps=7"], lambda: initial)
    assert (tuned.model, tuned.network, tuned.front_end) == (initial.model, initial.network, initial.front_end)
    assert (tuned.objective, tuned.training.steps, tuned.tuning.own_share) == (initial.objective, 7, 0.5)
    assert read_recipe("tiny", initial=lambda: initial) == read_recipe("tiny")
    assert read_recipe(None, "dnn", initial=lambda: initial) == read_recipe(None, "dnn")


def test_training_without_a_recipe_has_that_of_the_initial_model(
    deepnmf, tiny_corpus: Path, model: Path, tmp_path: Path
) -> None:
    given = ["--speech", tiny_corpus / "speech", "--noise", tiny_corpus / "noise", "--init", model]
    result = deepnmf("train", *given, "-o", tmp_path / "run", "--set", "training.learning_rate=0")
    assert "speech: 9 files, 3 speakers" in result.err
    network, file = zoo.load(tmp_path / "run")
    recipe = Recipe.of_file(file)
    assert recipe.network == tiny().network and recipe.training.steps == 4
    for name, weight in zoo.load(model)[0].weights().items():
        torch.testing.assert_close(network.weights()[name], weight, rtol=1e-6, atol=0)


def test_weights_that_do_not_fit_are_named_and_refused_unless_asked_for(tmp_path: Path) -> None:
    wide, narrow = (build("dnn", tiny(network={"hidden": [n, 8]}).network) for n in (9, 8))
    model_file.describe(path := tmp_path / "wide.safetensors", wide, FrontEnd(rate_hz=8000), {}).write()
    with pytest.raises(
        ModelError, match=r"found [1-9] of \d+ weights that do not fit this network \(.*weight.*--partial"
    ):
        take_weights(narrow, path, FrontEnd(rate_hz=8000))
    said: list[str] = []
    take_weights(
        narrow, path, FrontEnd(rate_hz=8000), partial=True, say=lambda sentence, warning: said.append(sentence)
    )
    assert "do not fit" in said[0] and "begin as in a new network" in said[1]
