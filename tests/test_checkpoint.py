"""Model files: what is written is read back, and whatever else lies there is refused with a remedy."""

import errno
import json
import os
import pickle
import stat

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from deepnmf_cli import checkpoint
from deepnmf_cli.checkpoint import FORMAT, atomic_path, load, save
from deepnmf_cli.errors import EXIT_FAILED, ModelError

META = {"network": "deep-nmf", "layers": [1, 2], "nested": {"rate_hz": 16000, "name": "Grüße"}}


@pytest.fixture
def tensors():
    draw = torch.Generator().manual_seed(3)
    return {
        "weights": torch.randn(4, 5, generator=draw),
        "precise": torch.randn(3, generator=draw, dtype=torch.float64),
        "ties": torch.arange(6).reshape(2, 3),
        "scalar": torch.tensor(0.25),
    }


@pytest.fixture
def model(tmp_path, tensors):
    path = tmp_path / "model.safetensors"
    save(path, tensors, META)
    return path


def refusal(path) -> ModelError:
    """The error that reading `path` raises; it always names the file and ends with the failure exit code."""
    with pytest.raises(ModelError) as caught:
        load(path)
    error = caught.value
    assert str(error) == f"{path}: found {error.found}; expected {error.expected}. {error.remedy}"
    assert error.exit_code == EXIT_FAILED
    return error


def test_tensors_and_meta_return_unchanged(model, tensors):
    loaded, meta = load(model)
    assert loaded.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert loaded[name].dtype == tensor.dtype and torch.equal(loaded[name], tensor)
    assert meta == {"format": FORMAT, **META}


def test_transposed_and_trainable_tensors_are_saved_by_value(tmp_path):
    weights = torch.nn.Parameter(torch.arange(6.0).reshape(2, 3))
    save(tmp_path / "model.safetensors", {"weights": weights.T}, {})
    loaded, _ = load(tmp_path / "model.safetensors")
    assert torch.equal(loaded["weights"], weights.detach().T) and not loaded["weights"].requires_grad


def test_the_same_content_makes_the_same_bytes(model, tmp_path, tensors):
    again = tmp_path / "again.safetensors"
    save(again, tensors, META)
    assert again.read_bytes() == model.read_bytes()


def test_missing_file_points_to_the_list_of_models(tmp_path):
    error = refusal(tmp_path / "nowhere.safetensors")
    assert error.found == "no file" and "deepnmf models" in error.remedy


def test_folder_is_not_a_model(tmp_path):
    assert refusal(tmp_path).found == "no file"


@pytest.mark.parametrize("kept", [0, 4, 8, 60, -1])
def test_truncated_file_is_damaged(model, kept):
    model.write_bytes(model.read_bytes()[:kept])
    assert "damaged or truncated" in refusal(model).found


def test_overwritten_header_is_damaged(model):
    content = bytearray(model.read_bytes())
    content[8:40] = bytes(range(200, 232))
    model.write_bytes(content)
    assert "damaged or truncated" in refusal(model).found


def test_text_is_not_a_model(model):
    model.write_text("This is not a model. " * 50)
    assert "damaged or truncated" in refusal(model).found


def test_pickled_weights_are_never_unpickled(model, tmp_path):
    bait = tmp_path / "bait"

    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(bait),)

    model.write_bytes(pickle.dumps({"weights": Bomb()}))
    refusal(model)
    assert not bait.exists()


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}, {"deepnmf": "null"}, {"deepnmf": "[1]"}])
def test_safetensors_of_another_program_are_another_kind(model, tensors, metadata):
    save_file(tensors, model, metadata=metadata)
    error = refusal(model)
    assert "another program" in error.found and "deepnmf train" in error.expected


def test_meta_that_is_not_json_is_damaged(model, tensors):
    save_file(tensors, model, metadata={"deepnmf": "{"})
    assert "damaged or truncated" in refusal(model).found


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", ["weights", "precise", "scalar"])
def test_weights_that_are_not_finite_are_named(model, tensors, name, value):
    tensors[name].view(-1)[-1] = value
    save(model, tensors, META)
    error = refusal(model)
    assert "not finite" in error.found and repr(name) in error.found


def test_newer_format_asks_for_an_update(model, tensors):
    save_file(tensors, model, metadata={"deepnmf": json.dumps({"format": FORMAT + 1})})
    error = refusal(model)
    assert error.found == f"format {FORMAT + 1}" and f"format {FORMAT}" in error.expected
    assert "--upgrade" in error.remedy


@pytest.mark.parametrize("stop", [ValueError, KeyboardInterrupt, SystemExit])
def test_atomic_path_leaves_nothing_behind_when_stopped(tmp_path, stop):
    with pytest.raises(stop), atomic_path(tmp_path / "out.wav") as partial:
        partial.write_bytes(b"half")
        raise stop
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("stop", [ValueError, KeyboardInterrupt])
def test_atomic_path_keeps_the_existing_file_when_stopped(tmp_path, stop):
    final = tmp_path / "out.wav"
    final.write_bytes(b"old")
    with pytest.raises(stop), atomic_path(final) as partial:
        partial.write_bytes(b"half")
        raise stop
    assert list(tmp_path.iterdir()) == [final] and final.read_bytes() == b"old"


def test_a_full_disk_keeps_the_existing_model(model, tensors, monkeypatch):
    before = model.read_bytes()

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        save(model, {"weights": torch.zeros(2)}, META)
    assert list(model.parent.iterdir()) == [model] and model.read_bytes() == before


def test_atomic_path_replaces_only_at_the_end(tmp_path):
    final = tmp_path / "out.flac"
    final.write_bytes(b"old")
    with atomic_path(final) as partial:
        assert partial.parent == final.parent and partial.suffix == final.suffix and partial.name.startswith(".")
        partial.write_bytes(b"new")
        assert final.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [final] and final.read_bytes() == b"new"


def test_atomic_path_writes_through_a_symbolic_link(tmp_path):
    (tmp_path / "disk").mkdir()
    link, target = tmp_path / "out.wav", tmp_path / "disk" / "real.wav"
    link.symlink_to(target)
    for content in (b"new", b"newer"):
        with atomic_path(link) as partial:
            partial.write_bytes(content)
        assert link.is_symlink() and target.read_bytes() == content
    assert list(target.parent.iterdir()) == [target]


def test_atomic_path_takes_the_longest_names(tmp_path):
    final = tmp_path / ("x" * 251 + ".wav")
    with atomic_path(final) as partial:
        partial.write_bytes(b"new")
    assert list(tmp_path.iterdir()) == [final]


def test_atomic_path_gives_ordinary_permissions(tmp_path):
    def mode(path):
        return stat.S_IMODE(path.stat().st_mode)

    plain, atomic = tmp_path / "plain", tmp_path / "atomic"
    plain.touch()
    with atomic_path(atomic) as partial:
        partial.write_bytes(b"new")
    assert mode(atomic) == mode(plain)
    atomic.chmod(0o640)
    with atomic_path(atomic) as partial:
        partial.write_bytes(b"newer")
    assert mode(atomic) == 0o640


def test_a_disk_that_is_full_while_tensors_are_written_is_named(model, tensors, monkeypatch):
    """safetensors has an error of its own for what the system would call ENOSPC."""

    def full(*_, **__):
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    before = model.read_bytes()
    with pytest.raises(ModelError, match="No space left.*Free some space"):
        save(model, {"weights": torch.zeros(2)}, META)
    assert list(model.parent.iterdir()) == [model] and model.read_bytes() == before
