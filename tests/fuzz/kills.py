"""`python -m tests.fuzz.kills`: kills `enhance` and `train` at every fault point and at random times, and goes on.

After each kill every file of a final name must be whole. The same command once more, with `--resume` where a run has
begun, must then come to the same end, bit by bit, as one that was left in peace, and leave nothing else behind.
"""

import argparse
import csv
import json
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random

from deepnmf_cli.commands.record import RECORD
from deepnmf_cli.errors import DeepnmfError
from tests.fuzz import sounds
from tests.fuzz.cases import MODEL, prepare_audio, prepare_training, run_program
from tests.fuzz.child import Outcome, run
from tests.fuzz.training_targets import corpus_files, small

TIMING = {"seconds"}
"""Columns of the history that differ from run to run."""

LIMIT_S = 60.0


class Subject:
    """A command that is killed."""

    arguments: tuple[str, ...]

    def import_all(self) -> None:
        raise NotImplementedError

    def prepare(self, work: Path) -> None:
        """Write the inputs."""
        raise NotImplementedError

    def state(self, work: Path) -> dict[str, object]:
        """All that the command made, less what depends on the time."""
        raise NotImplementedError

    def partial(self, work: Path, end: dict[str, object]) -> list[str]:
        """Files of final names that are not whole; `end` is the state at the end."""
        raise NotImplementedError

    def next_arguments(self, folder: Path) -> list[str]:
        """What a user calls after a kill."""
        return list(self.arguments)

    def go_on(self, folder: Path) -> str | None:
        """Come to an end after a kill; returns why that is not possible."""
        return failure(run(run_program(self.next_arguments(folder)), folder, cpu_s=LIMIT_S))

    def problems(self, folder: Path, end: dict[str, object]) -> list[str]:
        """What is wrong after a kill, and after going on."""
        work = folder / "work"
        found = [f"partial output {name}" for name in self.partial(work, end)]
        if problem := self.go_on(folder):
            return [*found, f"dead, {problem}"]
        try:
            found += [] if self.state(work) == end else ["another end than in peace"]
        except (OSError, DeepnmfError) as error:
            found.append(f"no end, {error}")
        return found + [f"{name} left behind" for name in hidden(work) + hidden(folder / "temporary")]


class Enhance(Subject):
    """Three files of a folder into another, one of which is replaced."""

    arguments = ("enhance", "in", "-o", "out", "--model", MODEL, "--jobs", "1", "--overwrite")

    def import_all(self) -> None:
        prepare_audio()

    def prepare(self, work: Path) -> None:
        random = Random(0)
        files = {f"in/{name}": sounds.speech(random, 40_000) for name in ("a.wav", "sub/b.wav", "c.wav")}
        for name, data in (files | {"out/c.wav": b"old"}).items():
            (work / name).parent.mkdir(parents=True, exist_ok=True)
            (work / name).write_bytes(data)

    def next_arguments(self, folder: Path) -> list[str]:
        return [*self.arguments, "--skip-existing"]

    def state(self, work: Path) -> dict[str, object]:
        return {str(path.relative_to(work)): path.read_bytes() for path in visible(work / "out")}

    def partial(self, work: Path, end: dict[str, object]) -> list[str]:
        return [name for name, data in self.state(work).items() if data != end.get(name) and data != b"old"]


class Train(Subject):
    """A run of a few steps, with a dev score and a resume point at every second one."""

    steps = ("--set", "training.steps=6", "--set", "training.score_every=2")
    arguments = (
        *("train", "--speech", "speech", "--noise", "noise", "--dev", "dev", "-o", "run", "--device", "cpu"),
        *small(),
        *steps,
    )

    def import_all(self) -> None:
        prepare_training()

    def prepare(self, work: Path) -> None:
        for name, data in corpus_files().items():
            (work / name).parent.mkdir(parents=True, exist_ok=True)
            (work / name).write_bytes(data)

    def state(self, work: Path) -> dict[str, object]:
        """What does not depend on the time: weights, recipe, history."""
        from deepnmf_cli import checkpoint

        run_folder, found = work / "run", {}
        tensors, meta = checkpoint.load(run_folder / "best.safetensors")
        found["weights"] = {name: tensor.numpy().tobytes() for name, tensor in tensors.items()}
        found["trained"] = meta["provenance"]["trained"]
        found["recipe"] = json.loads((run_folder / "recipe.json").read_text("utf-8"))
        with (run_folder / "history.csv").open(newline="") as file:
            found["history"] = [{k: v for k, v in row.items() if k not in TIMING} for row in csv.DictReader(file)]
        return found

    def partial(self, work: Path, end: dict[str, object]) -> list[str]:
        from PIL import Image

        from deepnmf_cli import checkpoint

        readers: dict[str, Callable[[Path], object]] = {
            ".safetensors": checkpoint.load,
            ".json": lambda path: json.loads(path.read_text("utf-8")),
            ".csv": lambda path: path.read_text("utf-8").endswith("\n") or _refuse(path),
            ".png": lambda path: Image.open(path).load(),
        }
        damaged = []
        for path in visible(work / "run"):
            try:
                readers[path.suffix](path)
            except Exception as error:
                damaged.append(f"{path.name} ({error})")
        return damaged

    def next_arguments(self, folder: Path) -> list[str]:
        resumable = (folder / "work/run/resume.safetensors").exists()
        return [*self.arguments, *(["--resume"] if resumable else [])]

    def go_on(self, folder: Path) -> str | None:
        """With --resume, or from the start where there is nothing to resume; a complete run stays as it is."""
        resumed = run(run_program([*self.arguments, "--resume"]), folder, cpu_s=LIMIT_S)
        if resumed.code == 0:
            return None
        again = run(run_program(list(self.arguments)), folder, cpu_s=LIMIT_S)
        if again.code == 0 or "complete" in resumed.err:
            return None
        return f"--resume: {failure(resumed)}; without: {failure(again)}"


COMMANDS = {"enhance": Enhance, "train": Train}


def visible(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))


def hidden(folder: Path) -> list[str]:
    """Hidden files, less the record that is kept beside outputs."""
    return sorted(str(p.relative_to(folder)) for p in folder.rglob(".*") if p.is_file() and p.name != RECORD)


def failure(outcome: Outcome) -> str | None:
    """What is wrong with a run that should have ended well."""
    if outcome.code == 0:
        return None
    last = outcome.err.strip().splitlines()[-1:]
    return f"exit code {outcome.code}, signal {outcome.signal}: {''.join(last)}"


def with_fault(arguments: list[str], point: int | None, record: Path) -> Callable[[], int | None]:
    """The program, killed at fault point number `point` (None: at none); the points are written to `record`."""

    def call() -> None:
        from deepnmf_cli import checkpoint
        from tests import faults

        def saw(name: str) -> None:
            with record.open("a", encoding="utf-8") as file:
                file.write(name + "\n")

        checkpoint.reached = faults.fault("" if point is None else "SIGKILL", point or 0, saw)
        run_program(arguments)()

    return call


def kill(command: str, count: int, seed: int) -> tuple[Counter, list[str]]:
    """Kill `command` that often, at its fault points in turn and at random times in between.

    Returns how many kills hit at a point, at a time, and a second time when the run went on; and all that was wrong.
    """
    subject, random, done, wrong = COMMANDS[command](), Random(f"{seed}/{command}"), Counter(), []
    subject.import_all()
    arguments = list(subject.arguments)
    with tempfile.TemporaryDirectory(prefix="deepnmf-kills-") as top:
        folder = Path(top) / "peace"
        subject.prepare(folder / "work")
        begin = time.monotonic()
        outcome = run(with_fault(arguments, None, folder / "points"), folder, cpu_s=LIMIT_S)
        duration_s = time.monotonic() - begin
        if problem := failure(outcome):
            return done, [f"{command} left in peace: {problem}"]
        end, points = subject.state(folder / "work"), (folder / "points").read_text("utf-8").splitlines()
        for number in range(2 * count):
            if done["at a point"] + done["at a time"] == count:
                break
            point = number // 2 % len(points) if number % 2 else None
            folder = Path(top) / str(number)
            subject.prepare(folder / "work")
            wall_s = LIMIT_S if point is not None else random.uniform(0, duration_s)
            begin = time.monotonic()
            outcome = run(with_fault(arguments, point, folder / "points"), folder, cpu_s=LIMIT_S, wall_s=wall_s)
            where = f"{command} {number}, " + (
                f"killed at {points[point]!r}" if point is not None else f"{wall_s:.3f} s"
            )
            if outcome.signal == signal.SIGKILL:
                done["at a point" if point is not None else "at a time"] += 1
            elif problem := failure(outcome):
                wrong.append(f"{where}: {problem}")
            else:
                duration_s = min(duration_s, time.monotonic() - begin)
            if random.random() < 0.3:  # and once more, on the way back
                second = with_fault(subject.next_arguments(folder), random.randrange(len(points)), folder / "points")
                done["again"] += run(second, folder, cpu_s=LIMIT_S).signal == signal.SIGKILL
            wrong += [f"{where}: {problem}" for problem in subject.problems(folder, end)]
            shutil.rmtree(folder, ignore_errors=True)
    return done, wrong


def _refuse(path: Path) -> None:
    raise ValueError("a last line that does not end")


def main() -> int:
    """Returns 1 when something was wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.kills", description=__doc__)
    parser.add_argument("--count", type=int, default=200, help="kills of each command; 200 by default")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--command", action="append", choices=list(COMMANDS), help="both by default")
    options = parser.parse_args()
    all_wrong = []
    for command in options.command or COMMANDS:
        done, wrong = kill(command, options.count, options.seed)
        print(f"{command}: killed {done['at a point']} times at a fault point, {done['at a time']} at a random time,"
              f" {done['again']} of them again when they went on;"
              f" {len(wrong)} faults", flush=True)  # fmt: skip
        print("".join(f"  {line}\n" for line in wrong), end="", flush=True)
        all_wrong += wrong
    return int(bool(all_wrong))


if __name__ == "__main__":
    sys.exit(main())
