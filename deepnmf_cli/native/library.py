"""The C source as a shared library: compiled when the user asks for it, found again, and loaded if it is complete.

The file name contains a hash of the source, the compiler flags and the kind of machine, so that a library made from
another version is not found. The last bytes are a hash of the rest, so that a truncated library is not loaded, which
would crash the process. The library holds no weights: one serves all models of the family.
"""

import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import struct
import subprocess
import sys
from pathlib import Path

from deepnmf_cli import checkpoint
from deepnmf_cli.errors import NativeError, shortened

SOURCE = Path(__file__).parent / "c"
FILES = ("deepnmf.c", "deepnmf.h")

FLAGS = ("-std=gnu99", "-O3", "-shared", "-fPIC", "-DDEEPNMF_LIBRARY")
"""No -march: code for newer processors is in the library too, and chosen when a recording begins."""

COMPILERS = ("cc", "gcc", "clang")
"""Compilers that are looked for, in this order, if the variable CC names none."""

COMPILE_S = 120
"""Time limit in seconds for the compiler, which normally takes three."""

INTERFACE = 1
"""Version of the functions and of the model structure: `INTERFACE` in the source."""

MARK = b"\ndeepnmf "
"""Marker before the hash, 64 digits, at the end of a library file."""

REBUILD = "Run `deepnmf build-native`, or choose another --backend."


def cache_folder() -> Path:
    """Return the folder of the user's libraries: `deepnmf` in XDG_CACHE_HOME, or in .cache of the home folder."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "deepnmf"


def file_name() -> str:
    """Return the file name of the library of this version for this kind of machine."""
    digest = hashlib.sha256()
    for name in FILES:
        digest.update((SOURCE / name).read_bytes())
    digest.update(repr((FLAGS, sys.platform, platform.machine(), struct.calcsize("P"))).encode())
    return f"deepnmf-{digest.hexdigest()[:16]}{'.dll' if sys.platform == 'win32' else '.so'}"


def find() -> Path | None:
    """Return the path of this version's library, in the package or else in the user's cache; None if there is none."""
    places = (Path(__file__).parent, cache_folder())
    try:
        return next((file for place in places if (file := place / file_name()).is_file()), None)
    except (OSError, RuntimeError):  # an unreadable cache, or a user without a home folder
        return None


def require() -> Path:
    """Return the path that `find` returns. Raises NativeError if there is none."""
    if (found := find()) is None:
        raise NativeError("--backend native", "no library of this version", f"one in {cache_folder()}", REBUILD)
    return found


def build() -> Path:
    """Compile the library into the user's cache, replacing one of the same name, and return its path.

    Raises NativeError if there is no compiler, if it fails, or if the cache cannot be written.
    """
    target, content = cache_folder() / file_name(), compiled()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with checkpoint.atomic_path(target) as partial:
            partial.write_bytes(content)
    except OSError as error:
        found = f"no way to write the library ({error.strerror})"
        raise NativeError(target.parent, found, "a folder for it", "Name another by XDG_CACHE_HOME.") from error
    return target


def compiled() -> bytes:
    """Compile the library, check that it can be loaded, and return the content of its file.

    Raises NativeError if there is no compiler or if it fails. `hatch_build.py` calls this function where nothing but
    the standard library is installed.
    """
    compiler = _compiler()
    with checkpoint.temporary_folder() as folder:
        made = folder / file_name()
        _compile([*compiler, *FLAGS, str(SOURCE / FILES[0]), "-o", str(made), "-lm"])
        content = made.read_bytes()
        content += MARK + hashlib.sha256(content).hexdigest().encode()
        made.write_bytes(content)
        load(made)
    return content


def _compiler() -> list[str]:
    """Return the command in the variable CC as words, or the first compiler that is installed."""
    if given := shlex.split(os.environ.get("CC", "")):
        if shutil.which(given[0]) is None:
            found = f"no program {given[0]!r}, which CC names"
            raise NativeError("deepnmf build-native", found, "a C compiler", "Correct CC, or leave it unset.")
        return given
    for name in COMPILERS:
        if shutil.which(name):
            return [name]
    remedy = "Install one, for example by `apt install gcc` or `xcode-select --install`, or name one by CC."
    raise NativeError("deepnmf build-native", "no C compiler", f"one of {', '.join(COMPILERS)}", remedy)


def _compile(command: list[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=COMPILE_S)
        problem = f"exit code {done.returncode}: {shortened(done.stderr)}" if done.returncode else ""
    except (OSError, subprocess.TimeoutExpired) as error:
        problem = shortened(error)
    if problem:
        found = f"that {command[0]} fails ({problem})"
        raise NativeError("deepnmf build-native", found, "a compiler that makes a library of C99", "Name one by CC.")


def load(path: Path) -> ctypes.CDLL:
    """Return the library at `path`. Raises NativeError if it is unreadable, damaged, or of another version or user."""
    try:
        content = path.read_bytes()
        # One beside this file comes from whoever installed the package, whose Python code runs as well.
        installed = path.parent == Path(__file__).parent
        foreign = not installed and hasattr(os, "geteuid") and path.stat().st_uid not in (0, os.geteuid())
    except OSError as error:
        raise NativeError(path, f"no readable file ({error.strerror})", "a library", REBUILD) from error
    body, mark, digits = content[: -len(MARK) - 64], content[-len(MARK) - 64 : -64], content[-64:]
    if mark != MARK or hashlib.sha256(body).hexdigest().encode() != digits:
        raise NativeError(path, "a damaged or truncated library", "one that `deepnmf build-native` made", REBUILD)
    if foreign:
        raise NativeError(path, "a library of another user", "your own", "Name your own cache by XDG_CACHE_HOME.")
    try:
        library = ctypes.CDLL(str(path))
        library.deepnmf_interface.restype = ctypes.c_int
        interface = library.deepnmf_interface()
    except (OSError, AttributeError) as error:
        found = f"a library that this machine cannot load ({shortened(error)})"
        remedy = f"{REBUILD} Where files must not be executed (noexec), name another folder by XDG_CACHE_HOME."
        # Not from the error: on such file systems its message is that of a lack of memory.
        raise NativeError(path, found, "one of this version and machine", remedy) from None
    if interface != INTERFACE:
        found, expected = f"a library with interface {interface}", f"interface {INTERFACE}"
        raise NativeError(path, found, expected, REBUILD)
    return library
