"""Model files: what is written is read back, and whatever else lies there is refused with a remedy."""

import errno
import json
import os
import pickle
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from deepnmf_cli import checkpoint
from deepnmf_cli.checkpoint import (
    FORMAT,
    atomic_folder,
    atomic_path,
    load,
    remove_leftovers,
    save,
    temporary_folder,
    write_all,
)
from deepnmf_cli.errors import EXIT_FAILED, ModelError

ROOT = Path(__file__).parents[1]
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


def full(path):
    """Write to a disk that fills up: the error of a write names no file."""
    path.write_bytes(b"half")
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_files_that_belong_together_appear_together_or_not_at_all(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_bytes(b"old")
    with pytest.raises(OSError) as raised:
        write_all({one: lambda path: path.write_bytes(b"new"), two: full})
    assert raised.value.filename == str(two)
    assert list(tmp_path.iterdir()) == [one] and one.read_bytes() == b"old"
    write_all({path: lambda partial: partial.write_bytes(b"new") for path in (one, two)})
    assert one.read_bytes() == two.read_bytes() == b"new" and len(list(tmp_path.iterdir())) == 2


def test_an_error_of_the_disk_names_the_file_that_was_written(tmp_path):
    with pytest.raises(OSError) as raised, atomic_path(tmp_path / "out.wav") as partial:
        full(partial)
    assert raised.value.filename == str(tmp_path / "out.wav")
    with pytest.raises(OSError) as raised, atomic_path(tmp_path / "none" / "out.wav"):
        pass
    assert raised.value.filename == str(tmp_path / "none" / "out.wav")
    with pytest.raises(OSError) as raised, atomic_path(tmp_path / "out.wav"):
        (tmp_path / "other").read_bytes()
    assert raised.value.filename == str(tmp_path / "other")
    with pytest.raises(OSError) as raised, atomic_folder(tmp_path / "run") as folder:
        (folder / "none" / "x").touch()
    assert raised.value.filename == str(tmp_path / "run" / "none" / "x")
    assert list(tmp_path.iterdir()) == []


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
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    before = model.read_bytes()
    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(ModelError, match="No space left.*Free some space"):
        save(model, {"weights": torch.zeros(2)}, META)
    assert list(model.parent.iterdir()) == [model] and model.read_bytes() == before


# What killed processes leave


KILLED = """
import os, signal, sys, time
from deepnmf_cli.checkpoint import atomic_path, temporary_folder
with atomic_path("out.wav") as partial, temporary_folder() as folder:
    partial.write_bytes(b"half")
    (folder / "input").write_bytes(b"whole")
    print("at work", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def at_work(tmp_path, monkeypatch):
    """A process that writes out.wav in the current folder, and has a temporary folder in temp/."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "temp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temp"))
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path / "temp")}
    command = [sys.executable, "-c", KILLED]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "at work\n"
        yield process
        process.kill()


def test_what_a_killed_process_left_is_removed_and_nothing_else(at_work, tmp_path):
    alike = [".clean-abcdefgh.wav", ".notes-deepnmf-partial.wav", "deepnmf-abcdefgh", "out.deepnmf-partial.wav"]
    for name in alike:
        Path(name).write_text("mine")
    remove_leftovers(tmp_path)
    with temporary_folder():
        partials = [*Path().glob(".out-*.deepnmf-partial.wav"), *Path("temp").glob(".deepnmf-*")]
        assert len(partials) == 3  # those of a living process stay
    at_work.kill()
    at_work.wait()
    assert not Path("out.wav").exists()
    remove_leftovers(tmp_path)
    with temporary_folder() as folder:
        assert list(Path("temp").iterdir()) == [Path("temp", folder.name)]
    assert sorted(os.listdir()) == sorted([*alike, "temp"]) and not os.listdir("temp")
    remove_leftovers("none")


@pytest.mark.skipif(checkpoint.fcntl is None, reason="no locks here")
def test_a_partial_file_taken_before_it_is_locked_is_made_again(tmp_path, monkeypatch):
    flock, taken = checkpoint.fcntl.flock, []

    def late(descriptor, operation):
        if not taken:
            taken.extend(tmp_path.iterdir())
            taken[0].unlink()
        return flock(descriptor, operation)

    monkeypatch.setattr(checkpoint.fcntl, "flock", late)
    with atomic_path(tmp_path / "out.wav") as partial:
        partial.write_bytes(b"new")
    assert taken and (tmp_path / "out.wav").read_bytes() == b"new"


def test_no_locks_remove_nothing(tmp_path, monkeypatch):
    def unsupported(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(checkpoint.fcntl, "flock", unsupported)
    with atomic_path(tmp_path / "out.wav") as partial:
        partial.write_bytes(b"new")
        remove_leftovers(tmp_path)
        assert partial.exists()
    assert os.listdir(tmp_path) == ["out.wav"]


# Files that appear meanwhile


@pytest.mark.parametrize("links", [True, False])
def test_a_file_that_appears_meanwhile_is_not_replaced(tmp_path, monkeypatch, links):
    def unsupported(*_):
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    if not links:
        monkeypatch.setattr(os, "link", unsupported)
    final = tmp_path / "out.wav"
    with atomic_path(final, replace=False) as partial:
        partial.write_bytes(b"new")
    assert final.read_bytes() == b"new" and os.listdir(tmp_path) == ["out.wav"]
    with pytest.raises(FileExistsError), atomic_path(final, replace=False) as partial:
        partial.write_bytes(b"newer")
    assert final.read_bytes() == b"new" and os.listdir(tmp_path) == ["out.wav"]


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="files have no owner here")
def test_leftovers_of_other_users_stay(tmp_path, monkeypatch):
    with pytest.raises(KeyboardInterrupt), atomic_path(tmp_path / "x.wav") as partial:
        leftover = tmp_path / partial.name
        raise KeyboardInterrupt
    leftover.touch()
    with monkeypatch.context() as patched:
        patched.setattr(os, "geteuid", lambda own=os.geteuid(): own + 1)
        remove_leftovers(tmp_path)
    assert leftover.exists()
    remove_leftovers(tmp_path)
    assert not leftover.exists()


def test_what_a_folder_holds_is_on_the_disk_before_it_gets_its_name(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(os.readlink(f"/proc/self/fd/{descriptor}")))
    monkeypatch.setattr(os, "replace", lambda source, target: synced.append("renamed"))
    with atomic_folder(tmp_path / "pack") as partial:
        (partial / "below").mkdir()
        names = [partial / "a.csv", partial / "below" / "b.ogg"]
        for name in names:
            name.write_text("x")
    assert synced == [*map(str, names), "renamed"]
