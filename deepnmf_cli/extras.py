"""Optional parts of the program: the packages that each extra of pyproject.toml installs."""

import sys
from collections.abc import Iterable
from importlib.util import find_spec

from deepnmf_cli.errors import DeepnmfError

EXTRAS = {
    "torch": ("torch",),
    "train": ("torch", "torchaudio", "librosa", "matplotlib", "scipy", "soxr"),
    "evaluate": ("fast_bss_eval", "jinja2", "matplotlib", "pesq", "PIL", "pystoi", "scipy", "soxr", "speechmos"),
    "export": ("torch", "onnx", "onnxscript"),
    "inspect": ("jinja2", "matplotlib", "PIL", "soxr"),
    "live": ("sounddevice",),
    "media": ("av",),
    "cluster": ("ray", "fsspec"),
    "tensorboard": ("torch", "matplotlib", "tensorboard"),
}
"""Extra -> its packages, by the names under which they are imported."""

_NOTES = {
    "evaluate": " PESQ is built from source, which needs a C compiler (Debian: apt-get install build-essential).",
}


class MissingExtraError(DeepnmfError):
    """A command whose packages are not installed."""


def require(extra: str, where: str, packages: Iterable[str] | None = None) -> None:
    """Raise MissingExtraError unless all packages of an extra, or the given ones of them, are installed.

    `where` is the command, or the setting, that needs them. Packages are searched for but not imported, which takes
    well below a millisecond each.
    """
    missing = [package for package in packages or EXTRAS[extra] if not has(package)]
    if missing:
        remedy = f"{install(extra)}{_NOTES.get(extra, '')}"
        raise MissingExtraError(where, f"no package {missing[0]}", "the packages that it needs", remedy)


def install(extra: str) -> str:
    """Return a sentence that says how to install an extra."""
    return f'Run `pip install "deepnmf[{extra}]"`.'


def has(package: str) -> bool:
    """Return whether a package is installed."""
    return (package in sys.modules and sys.modules[package] is not None) or find_spec(package) is not None
