"""Cases with a fault that the oracle must find, one for each kind; no part of a campaign."""

import ctypes
import sys
import tempfile
import time
from pathlib import Path
from random import Random

from tests.fuzz.cases import Case, Target

_FILES = {"in.wav": b"sound"}


def _target(call, outputs=(), check=lambda folder, outcome: None) -> Target:
    def build(random: Random) -> Case:
        return Case([], dict(_FILES), [], outputs, check, call, cpu_s=1)

    return Target(build, None)


def _crash() -> None:
    ctypes.string_at(0)


def _traceback() -> None:
    raise KeyError("planted")


def _partial() -> int:
    Path(".out-x1y2.wav").write_bytes(b"half")
    print("Error: planted", file=sys.stderr)
    return 1


def _overwritten() -> int:
    Path("in.wav").write_bytes(b"other")
    print("Error: planted", file=sys.stderr)
    return 1


def _hang() -> None:
    while True:
        pass


def _memory() -> int:
    print("Error: planted", len(b"x" * (300 << 20)), file=sys.stderr)
    return 1


def _temporary() -> None:
    Path(tempfile.mkstemp()[1]).write_bytes(b"left")


def _home() -> None:
    Path.home().joinpath("device.db").write_bytes(b"left")


def _slowly() -> None:
    time.sleep(0.1)


TARGETS = {
    "planted-nothing": _target(_slowly),
    "planted-crash": _target(_crash),
    "planted-traceback": _target(_traceback),
    "planted-partial": _target(_partial),
    "planted-overwritten": _target(_overwritten),
    "planted-hang": _target(_hang),
    "planted-memory": _target(_memory),
    "planted-temporary": _target(_temporary),
    "planted-home": _target(_home),
    "planted-code": _target(lambda: 7),
    "planted-silence": _target(lambda: None, ("out.wav",)),
    "planted-loss": _target(lambda: None, (), lambda folder, outcome: "5 of 10 samples, and not a word"),
}
