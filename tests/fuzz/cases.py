"""What a case is: a call of the program on inputs of its own, and what must hold afterwards."""

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from tests.fuzz.child import CPU_S, Outcome

ROOT = Path(__file__).parents[2]
MODELS = ROOT / "models"

MODEL = "tiny"
"""The model of all cases that are not about models: it is loaded once, before any child is made."""


@dataclass
class Case:
    """`arguments` of the program, run in a folder that holds `files`; or `call` in the place of both.

    `outputs` are files that exist after exit code 0, may exist after 3, and have not changed after another. `kept` may
    exist in any case. Names that end with a slash stand for all below. `check` sees the folder and the outcome of a
    program that ended by itself, and returns what is wrong, or None.
    """

    arguments: list[str]
    files: dict[str, bytes] = field(default_factory=dict)
    pieces: list[bytes] = field(default_factory=list)
    outputs: tuple[str, ...] = ()
    check: Callable[[Path, Outcome], str | None] = lambda folder, outcome: None
    call: Callable[[], int | None] | None = None
    note: str = ""
    cpu_s: float = CPU_S
    kept: tuple[str, ...] = ()


@dataclass(frozen=True)
class Target:
    """A kind of cases: `build` makes one in an empty folder, `refused` one that fails as soon as it can, by which
    memory is measured, and `prepare` imports what a child is going to use."""

    build: Callable[[Random], Case]
    refused: Case | None
    prepare: Callable[[], None] = lambda: None


def run_program(arguments: list[str]) -> Callable[[], int | None]:
    """What a child calls: the program, as its user does."""

    def call() -> None:
        from deepnmf_cli import main

        main.run(arguments)

    return call


@functools.cache
def prepare_audio() -> None:
    """Import what `enhance` and `stream` use, and load the model. Nothing of this starts a thread."""
    import numpy as np

    from deepnmf_cli import zoo
    from deepnmf_cli.commands import enhance, stream  # noqa: F401
    from deepnmf_cli.signal import audio_writer, pipe  # noqa: F401

    load, ready = zoo.load_enhancer, zoo.load_enhancer(MODEL, "cpu", "onnx", 1)
    ready.enhance(np.zeros((1, 16_000), np.float32), 16_000)
    list(ready.enhance_blocks(iter(np.zeros((100, 1, 256), np.float32)), 16_000, 1, at_once=True))

    def loaded(name=None, *arguments, **options):
        return ready if name == MODEL else load(name, *arguments, **options)

    zoo.load_enhancer = loaded


@functools.cache
def prepare_training() -> None:
    """Import what `train` and `evaluate` use, seconds of it."""
    prepare_audio()
    import multiprocessing.synchronize  # noqa: F401

    import matplotlib.pyplot
    import torch
    import torch._dynamo

    from deepnmf_cli import experiment  # noqa: F401
    from deepnmf_cli.commands import evaluate, train  # noqa: F401
    from deepnmf_cli.scoring import pairing, report, scorer  # noqa: F401

    matplotlib.use("agg")
    torch.set_num_threads(1)
