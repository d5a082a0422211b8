"""Tensors and JSON in one .safetensors file, written atomically and read without pickle."""

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from deepnmf_cli.errors import ModelError

FORMAT = 1
"""Number of the file layout; a reader refuses a newer one instead of guessing."""

_META_KEY = "deepnmf"


def shipped_folder(installed: str, checkout: str) -> Path:
    """Where files that ship lie: `installed` inside the installed package, or `checkout` beside it in a checkout."""
    package = Path(__file__).parent
    return package / installed if (package / installed).is_dir() else package.parent / checkout


@contextmanager
def atomic_path(final: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `final`; rename it to `final` on success, delete it on any error.

    The temporary name keeps the suffix of `final`, because audio libraries choose the container by it. The content
    reaches the disk before the rename, so a power cut leaves either the old file or the new one. A symbolic link stays
    one: the file that it points to is replaced.
    """
    final = Path(os.path.realpath(final)) if os.path.islink(final) else Path(final)
    # Names have at most 255 bytes; one that is nearly as long must not become too long by what mkstemp adds.
    handle, name = tempfile.mkstemp(prefix=f".{final.stem[:40]}-", suffix=final.suffix, dir=final.parent)
    os.close(handle)
    partial = Path(name)
    try:
        yield partial
        with open(partial, "rb") as written:
            os.fsync(written.fileno())
        # mkstemp makes private files; the result gets the permissions that a plain open() would have given it.
        partial.chmod(final.stat().st_mode & 0o777 if final.exists() else 0o666 & ~_umask())
        os.replace(partial, final)
    finally:
        partial.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def save(path: str | Path, tensors: dict, meta: dict) -> None:
    """Write `tensors` (name -> torch.Tensor) and `meta` (JSON-serialisable) to `path`, atomically."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with atomic_path(path) as partial:
        try:
            save_file(contiguous, partial, metadata={_META_KEY: json.dumps({**meta, "format": FORMAT})})
        except SafetensorError as error:  # a full disk, which safetensors has its own word for
            raise ModelError(path, f"no way to write it ({error})", "room on the disk", "Free some space.") from error


def load(path: str | Path) -> tuple[dict, dict]:
    """Read (tensors, meta) as `save` wrote them.

    Raises ModelError when the file is missing, damaged, of another kind, of a newer format, or holds weights that
    are not finite.
    """
    import torch
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    if not path.is_file():
        raise ModelError(
            path, "no file", "a model file ending in .safetensors", "Check the path or run `deepnmf models`."
        )
    try:
        with safe_open(path, framework="pt") as file:
            meta = json.loads((file.metadata() or {}).get(_META_KEY, "null"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  it is no dict
    except (SafetensorError, json.JSONDecodeError, OSError) as error:
        raise ModelError(
            path,
            f"a damaged or truncated file ({error})",
            "a complete .safetensors file",
            "Copy or train the model again.",
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
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise ModelError(
                path, f"weights that are not finite in {name!r}", "finite weights", "Train the model again."
            )
    return tensors, meta
