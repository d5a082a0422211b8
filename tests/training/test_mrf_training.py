"""Networks that change while they are trained, and training that starts from another model."""

from pathlib import Path

import pytest
import torch

from deepnmf_cli import checkpoint, model_file, zoo
from deepnmf_cli.errors import ModelError
from deepnmf_cli.experiment import take_weights, train
from deepnmf_cli.networks import build
from deepnmf_cli.recipe import Recipe
from deepnmf_cli.signal.stft import FrontEnd
from tests.training.test_training import recipe, recordings


def changed(model: str, **network) -> Recipe:
    table = recipe("power-mean").to_dict()
    keep = {"context": 2, "hidden": [8, 8]}
    return Recipe.from_dict(table | {"model": model, "network": keep | network})


def test_an_annealed_run_starts_at_mean_field_and_ends_as_belief_propagation(tiny_corpus: Path, tmp_path: Path) -> None:
    seen: list[float] = []
    chosen = changed("power-mean", alphas="annealed", alpha=0.0, anneal_part=0.5)

    def watch(report: dict) -> None:
        if report.get("row"):
            seen.append(zoo.load(tmp_path / "run")[0].alphas[0])

    assert train(chosen, recordings(tiny_corpus), tmp_path / "run", progress=watch)
    # Six steps, scored after 2, 4 and 6: alpha is then that of the step before, and later networks replace earlier.
    assert seen == pytest.approx([0.4, 1.0, 1.0])
    network, _ = zoo.load(tmp_path / "run")
    assert not network.annealing


def test_a_schedule_as_long_as_the_run_reaches_its_end(tiny_corpus: Path, tmp_path: Path) -> None:
    chosen = changed("power-mean", alphas="annealed", alpha=0.0, anneal_to=0.7, anneal_part=1.0)
    train(chosen, recordings(tiny_corpus), tmp_path / "run")
    assert zoo.load(tmp_path / "run")[0].alphas == pytest.approx([0.7, 0.7])


def test_what_settings_determine_is_not_taken_from_another_model(tmp_path: Path) -> None:
    given, fixed, trained = (
        build("power-mean", changed("power-mean", alphas=alphas, alpha=alpha).network)
        for alphas, alpha in (("fixed", 0.25), ("fixed", 0.75), ("trained", 0.75))
    )
    model_file.describe(tmp_path / "given.safetensors", given, FrontEnd(rate_hz=8000), {}).write()
    said: list[str] = []
    for network in (fixed, trained):
        take_weights(network, tmp_path / "given.safetensors", FrontEnd(rate_hz=8000), say=lambda s, _: said.append(s))
        assert torch.equal(network.weights()["unfolded.bank.couplings_1"], given.weights()["unfolded.bank.couplings_1"])
    assert fixed.alphas == [0.75, 0.75] and trained.alphas == [0.25, 0.25] and not said


def test_an_annealed_model_is_taken_as_it_became(tmp_path: Path) -> None:
    """As the teacher of fine-tuning is, which has the settings that the model was trained with."""
    given, again = (build("power-mean", changed("power-mean", alphas="annealed", alpha=0.0).network) for _ in range(2))
    given.anneal(1.0)
    model_file.describe(tmp_path / "given.safetensors", given, FrontEnd(rate_hz=8000), {}).write()
    take_weights(again, tmp_path / "given.safetensors", FrontEnd(rate_hz=8000))
    assert again.alphas == given.alphas == [1.0, 1.0] and not again.annealing


def test_training_starts_from_the_weights_that_another_model_shares(tiny_corpus: Path, tmp_path: Path) -> None:
    train(changed("mean-field"), recordings(tiny_corpus), tmp_path / "sigmoid")
    settings = changed("power-mean", alphas="fixed", alpha=0.0)
    still = Recipe.from_dict(settings.to_dict() | {"training": {"steps": 1, "batch": 2, "learning_rate": 0.0}})
    start = tmp_path / "sigmoid/best.safetensors"
    train(still, recordings(tiny_corpus), tmp_path / "run", init=start)
    (ours, _), (theirs, _) = checkpoint.load(tmp_path / "run/best.safetensors"), checkpoint.load(start)
    assert set(ours) - set(theirs) == {"unfolded.bank.alpha_0", "unfolded.bank.alpha_1"}
    # Averages of equal numbers differ by a rounding.
    assert all(torch.allclose(ours[name], theirs[name], rtol=1e-6) for name in theirs)


def test_weights_of_other_shapes_are_left_and_none_in_common_is_refused(tmp_path: Path) -> None:
    wide, narrow = (build("mean-field", changed("mean-field", hidden=[8, n]).network) for n in (8, 5))
    model_file.describe(tmp_path / "wide.safetensors", wide, FrontEnd(rate_hz=8000), {}).write()
    before = narrow.weights()["unfolded.bank.couplings_1"].clone()
    take_weights(narrow, tmp_path / "wide.safetensors", FrontEnd(), partial=True)
    assert torch.equal(narrow.weights()["unfolded.bank.evidence_0"], wide.weights()["unfolded.bank.evidence_0"])
    assert torch.equal(narrow.weights()["unfolded.bank.couplings_1"], before)
    with pytest.raises(ModelError, match="no weight of a name and shape"):
        take_weights(build("grid", recipe("grid").network), tmp_path / "wide.safetensors", FrontEnd())
