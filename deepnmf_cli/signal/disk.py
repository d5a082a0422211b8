"""Whether what is going to be written will fit on its disk."""

import math
import os
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from deepnmf_cli.errors import AudioError


@dataclass
class _Disk:
    free: int
    taken: int = 0


def require_space(files: Iterable[tuple[Path, int]]) -> None:
    """Raise AudioError unless all files (path, bytes) fit on their disks, when written one after the other.

    Folders need not exist yet. A file that exists is replaced, so that its room is free after that, and not before.
    """
    disks: dict[int, _Disk] = {}
    for path, size in files:
        folder = _existing(path.parent)
        number = os.stat(folder).st_dev
        disk = disks.get(number) or disks.setdefault(number, _Disk(shutil.disk_usage(folder).free))
        disk.taken += size
        if disk.taken > disk.free:
            found, expected = (
                f"{_size(disk.free, math.floor)} free on the disk",
                f"at least {_size(disk.taken, math.ceil)}",
            )
            raise AudioError(path, found, expected, "Free some space, or choose an output on another disk.")
        disk.taken -= path.stat().st_size if path.is_file() else 0


def _size(count: int, rounded: Callable[[float], int]) -> str:
    """A number of bytes with a digit after the point."""
    unit, name = (1e6, "MB") if count >= 1e6 else (1e3, "kB")
    return f"{rounded(10 * count / unit) / 10:,.1f} {name}"


def _existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that exists."""
    return next(path for path in (folder, *folder.absolute().parents) if path.exists())
