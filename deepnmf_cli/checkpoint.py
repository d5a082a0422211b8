"""Tensors and JSON in one .safetensors file, read without pickle; files and folders written atomically; hashes."""

import errno
import importlib
import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Literal

from deepnmf_cli.errors import DeepnmfError, ModelError, shortened

if sys.platform == "win32":
    fcntl = None
else:
    import fcntl

FORMAT = 2
"""Version of the file layout; a reader refuses a newer one instead of guessing. Version 2 introduced model files in
which the recipe is provenance: see `deepnmf_cli.model_file`."""

_META_KEY = "deepnmf"

_LEFTOVER = ".deepnmf-partial"
_LEFTOVER_NAME = re.compile(rf"\..*-[a-z0-9_]{{8}}{re.escape(_LEFTOVER)}(\.[^.]*)?", re.DOTALL)
"""Pattern of the names of this program's temporary files and folders, which nothing else has:
`.NAME-RANDOM.deepnmf-partial.wav`."""


def is_temporary(name: str) -> bool:
    """Return whether a name is one of this program's temporary files or folders."""
    return _LEFTOVER_NAME.fullmatch(name) is not None


def shipped_folder(installed: str, checkout: str) -> Path:
    """Return the folder of files that ship with the program: `installed` inside the installed package, or `checkout`
    beside the package in a checkout.
    """
    package = Path(__file__).parent
    return package / installed if (package / installed).is_dir() else package.parent / checkout


def reached(point: str) -> None:
    """Mark a point between two steps of anything that writes files; does nothing.

    Tests replace it by a function that stops the program, kills it or raises a disk error at one of these points, to
    examine what is left.
    """


@contextmanager
def atomic_path(final: str | Path, replace: bool = True) -> Iterator[Path]:
    """Yield a temporary path beside `final`; rename it to `final` on success, delete it on any error.

    The temporary name keeps the suffix of `final`, because audio libraries choose the container by it. The content
    reaches the disk before the rename, so a power cut leaves either the old file or the new one. A symbolic link is
    kept: the file that it points to is replaced. Without `replace`, raises FileExistsError rather than touch a file
    that has appeared at `final` in the meantime. An OSError without a file name, such as that of a full disk, gets the
    name of `final`. What a killed process leaves behind is removed by `remove_leftovers`.
    """
    final = _followed(final)
    with _named(final), _partial(final) as partial:
        yield partial
        _to_disk(partial, final)
        _rename(partial, final, replace)


def write_all(files: Mapping[Path, Callable[[Path], object]]) -> None:
    """Write files that belong together, as `atomic_path` does; none gets its name before all are on the disk.

    `files` maps each path to a function that writes the content to a temporary path.
    """
    with ExitStack() as stack:
        partials = {}
        for path, write in files.items():
            with _named(final := _followed(path)):
                partials[final] = partial = stack.enter_context(_partial(final))
                write(partial)
                _to_disk(partial, final)
        for final, partial in partials.items():
            with _named(final):
                _rename(partial, final, replace=True)


def _followed(final: str | Path) -> Path:
    return Path(os.path.realpath(final)) if os.path.islink(final) else Path(final)


@contextmanager
def _named(final: Path) -> Iterator[None]:
    """Make an OSError that names no file, or a temporary one, name `final`, the path that the user knows."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is not None:
            error.filename = str(final)
        elif isinstance(error.filename, str):
            path = Path(error.filename)
            for above in (path, *path.parents):
                if above.parent == final.parent and is_temporary(above.name):
                    error.filename = str(final / path.relative_to(above))
        raise


@contextmanager
def _partial(final: Path) -> Iterator[Path]:
    """Yield a temporary file beside `final`; delete it at the end unless it has been renamed."""
    # A file name has at most 255 bytes, and what is added must not make a long name exceed that.
    prefix, suffix = f".{final.stem[:40]}-", f"{_LEFTOVER}{final.suffix}"

    def make() -> str:
        handle, name = tempfile.mkstemp(prefix=prefix, suffix=suffix, dir=final.parent)
        os.close(handle)
        return name

    with _held(make) as partial:
        try:
            reached(f"{final.name}: opened")
            yield partial
        finally:
            partial.unlink(missing_ok=True)


def _to_disk(partial: Path, final: Path) -> None:
    reached(f"{final.name}: written")
    _sync(partial)
    # mkstemp makes private files; the result gets the permissions that a plain open() would have given it.
    partial.chmod(final.stat().st_mode & 0o777 if final.exists() else 0o666 & ~_umask())
    reached(f"{final.name}: synced")


def _sync(path: Path) -> None:
    with open(path, "r+b") as written:  # Windows syncs only what may be written
        os.fsync(written.fileno())


def _rename(partial: Path, final: Path, replace: bool) -> None:
    (os.replace if replace else _rename_to_new)(partial, final)
    reached(f"{final.name}: renamed")


@contextmanager
def atomic_folder(final: str | Path) -> Iterator[Path]:
    """Yield a temporary folder beside `final`; rename it to `final` on success, delete it on any error.

    `final` must not exist, or be an empty folder. What a killed process leaves behind is removed by `remove_leftovers`.
    """
    final = Path(final)

    def make() -> str:
        return tempfile.mkdtemp(prefix=f".{final.name[:40]}-", suffix=_LEFTOVER, dir=final.parent)

    with _named(final), _held(make) as partial:
        try:
            reached(f"{final.name}: opened")
            yield partial
            reached(f"{final.name}: written")
            for path in sorted(partial.rglob("*")):
                if path.is_file():
                    _sync(path)
            partial.chmod(0o777 & ~_umask())  # mkdtemp makes private folders
            os.replace(partial, final)
            reached(f"{final.name}: renamed")
        finally:
            shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def temporary_folder(parent: str | Path | None = None) -> Iterator[Path]:
    """Yield an empty folder among the system's temporary files, or in `parent`, and remove it at the end.

    Folders that killed processes left there are removed too.
    """
    remove_leftovers(parent or tempfile.gettempdir())
    with _held(lambda: tempfile.mkdtemp(prefix=".deepnmf-", suffix=_LEFTOVER, dir=parent)) as folder:
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def remove_leftovers(folder: str | Path) -> None:
    """Remove what killed processes of this program left in a folder, which need not exist.

    What a running process holds is kept: it is locked, and the lock ends with the process. Nothing is removed where
    there are no locks: on Windows, and on file systems without them.
    """
    if fcntl is None:
        return
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if is_temporary(entry.name):
                with suppress(OSError):
                    _remove_unheld(Path(entry.path))


def _remove_unheld(path: Path) -> None:
    """Delete a temporary file or folder of this user; leaves those of others. Raises OSError if a process holds it."""
    descriptor = _open(path)
    try:
        if os.fstat(descriptor).st_uid != os.geteuid():
            return
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
    finally:
        os.close(descriptor)


@contextmanager
def _held(make: Callable[[], str]) -> Iterator[Path]:
    """Yield the path of a new file or folder that make() returns, locked until the context, or the process, ends."""
    path = Path(make())
    if fcntl is None:
        yield path
        return
    while (descriptor := _lock(path)) is None:
        path = Path(make())
    try:
        yield path
    finally:
        os.close(descriptor)


def _lock(path: Path) -> int | None:
    """Return the descriptor that holds the lock; None if another process removed the path as a leftover first."""
    try:
        descriptor = _open(path)
    except FileNotFoundError:
        return None
    with suppress(OSError):  # a file system without locks
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    if path.exists():
        return descriptor
    os.close(descriptor)
    return None


def _open(path: Path) -> int:
    # Network file systems lock a file only for those who may write it. A link or a pipe of such a name is no leftover.
    return os.open(path, (os.O_RDONLY if path.is_dir() else os.O_RDWR) | os.O_NOFOLLOW | os.O_NONBLOCK)


def _rename_to_new(source: Path, target: Path) -> None:
    """Rename a file; raises FileExistsError where `target` exists."""
    try:
        os.link(source, target)  # checks and names in one step
    except FileExistsError:
        raise
    except OSError as error:
        # FAT and some network file systems have no links, so two steps have to do there.
        if os.path.lexists(target):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target)) from error
        os.rename(source, target)
    else:
        source.unlink()


def _umask() -> int:
    """Return the mask of permissions of new files. Linux tells it; elsewhere it has to be set for a moment, to one that
    keeps private what other threads create then.
    """
    with suppress(OSError, ValueError):
        for line in Path("/proc/self/status").read_text("ascii", "replace").splitlines():
            if line.startswith("Umask:"):
                return int(line.split()[1], 8)
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def make_folder(folder: Path, purpose: str, error: type[DeepnmfError]) -> None:
    """Make a folder and those above it that are missing. Raises `error`, which says what it is for, if it cannot."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as cause:
        found = f"that it cannot be made ({cause.strerror})"
        raise error(folder, found, f"a folder for {purpose}", "Choose another folder.") from cause


def save(path: str | Path, tensors: dict, meta: dict) -> None:
    """Write `tensors` (name -> torch.Tensor) and `meta` (JSON-serialisable) to `path`, atomically."""
    from safetensors.torch import save as serialised

    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    content = serialised(contiguous, metadata={_META_KEY: json.dumps({**meta, "format": FORMAT})})
    with atomic_path(path) as partial:
        try:
            # safetensors' save_file would write to a temporary file of its own, which a kill would leave for good.
            partial.write_bytes(content)
        except OSError as error:
            found = f"no way to write it ({error.strerror})"
            raise ModelError(path, found, "room on the disk", "Free some space.") from error


def load(path: str | Path, framework: Literal["pt", "np"] = "pt") -> tuple[dict, dict]:
    """Read (tensors, meta) as `save` wrote them, the tensors as those of torch ("pt") or as arrays of NumPy ("np").

    Raises ModelError when the file is missing, damaged, of another kind, of a newer format, or holds weights that
    are not finite.
    """
    from safetensors import SafetensorError, safe_open

    arrays = importlib.import_module({"pt": "torch", "np": "numpy"}[framework])
    path = Path(path)
    if not path.is_file():
        raise ModelError(
            path, "no file", "a model file ending in .safetensors", "Check the path or run `deepnmf models`."
        )
    try:
        with safe_open(path, framework=framework) as file:
            meta = json.loads((file.metadata() or {}).get(_META_KEY, "null"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  it is no dict
    except (SafetensorError, ValueError, TypeError, RecursionError, OSError) as error:
        raise ModelError(
            path,
            f"no .safetensors file, or a damaged or truncated one ({shortened(error)})",
            "a complete .safetensors file",
            "Choose another file, or copy or train the model again.",
        ) from error
    if not isinstance(meta, dict) or not isinstance(meta.get("format"), int):
        raise ModelError(
            path, "a .safetensors file of another program", "a model written by `deepnmf train`", "Choose another file."
        )
    if meta["format"] > FORMAT:
        raise ModelError(
            path,
            f"format {meta['format']}",
            f"format {FORMAT} or older",
            "Update with `pip install --upgrade deepnmf`.",
        )
    for name, tensor in tensors.items():
        if not arrays.isfinite(tensor).all():
            raise ModelError(
                path, f"weights that are not finite in {name!r}", "finite weights", "Train the model again."
            )
    return tensors, meta


def stamp(path: Path) -> tuple[int, int]:
    """Return the size and the modification time (ns) of a file, by which a change is noticed; zeros for a missing file,
    which is reported by whoever reads it.
    """
    try:
        found = path.stat()
    except OSError:
        return 0, 0
    return found.st_size, found.st_mtime_ns


def file_hash(path: Path) -> str:
    """Return the SHA-256 of a file's content."""
    import hashlib  # loads OpenSSL, which takes memory in a process that may have little

    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
