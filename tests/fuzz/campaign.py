"""Case after case until the time is over, in one or several processes, and what they found, grouped."""

import json
import os
import pickle
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from random import Random

from tests.fuzz import oracle
from tests.fuzz.audio_targets import TARGETS as AUDIO
from tests.fuzz.cases import Case, Target, run_program
from tests.fuzz.child import run
from tests.fuzz.model_targets import TARGETS as MODELS
from tests.fuzz.planted import TARGETS as PLANTED
from tests.fuzz.training_targets import TARGETS as TRAINING

TARGETS: dict[str, Target] = {**AUDIO, **MODELS, **TRAINING}

DEFAULT_TARGETS = list(TARGETS)
SHARES = {"enhance": 8, "stream": 4}
"""How many cases of a target come in a row; one of those that are not named."""


@dataclass
class Group:
    """Findings of one signature: how many, and the first."""

    count: int
    target: str
    index: int
    detail: str


@dataclass
class Result:
    """What a campaign did."""

    seed: int
    cases: Counter = field(default_factory=Counter)
    codes: Counter = field(default_factory=Counter)
    groups: dict[str, Group] = field(default_factory=dict)
    refusal_peak_mb: int = 0
    cpu_peak_s: float = 0.0
    seconds: float = 0.0

    def add(self, other: "Result") -> None:
        self.cases += other.cases
        self.codes += other.codes
        for signature, group in other.groups.items():
            self.record(signature, group)
        self.refusal_peak_mb = max(self.refusal_peak_mb, other.refusal_peak_mb)
        self.cpu_peak_s = max(self.cpu_peak_s, other.cpu_peak_s)

    def record(self, signature: str, group: Group) -> bool:
        """Count a group; returns whether it is the first of its kind."""
        known = self.groups.get(signature)
        if known is None:
            self.groups[signature] = group
            return True
        known.count += group.count
        return False

    def to_json(self) -> dict:
        groups = sorted(self.groups.items(), key=lambda item: -item[1].count)
        return {
            "seed": self.seed, "seconds": round(self.seconds, 1), "cases": dict(self.cases),
            "exit_codes": {str(code): count for code, count in sorted(self.codes.items(), key=str)},
            "refusal_peak_mb": self.refusal_peak_mb, "cpu_peak_s": round(self.cpu_peak_s, 2),
            "findings": [{"signature": signature, **asdict(group)} for signature, group in groups],
        }  # fmt: skip


def require_one_thread() -> None:
    """Raise RuntimeError where a fork would leave locks that nobody opens."""
    if sys.platform == "linux" and (found := len(os.listdir("/proc/self/task"))) > 1:
        raise RuntimeError(f"{found} threads after the imports; expected one")


def find_target(name: str) -> Target:
    return (TARGETS | PLANTED)[name]


def case_of(target: str, seed: int, index: int) -> Case:
    """Case `index` of a target: always the same."""
    return find_target(target).build(Random(f"{seed}/{target}/{index}"))


class Runner:
    """Runs cases in this process's children and keeps the first input of each kind of finding in `findings`."""

    def __init__(self, seed: int, findings: Path) -> None:
        self.seed, self.findings, self.result = seed, findings, Result(seed)
        self._bases: dict[str, int] = {}

    def run(self, name: str, index: int) -> list[oracle.Finding]:
        target = find_target(name)
        target.prepare()
        require_one_thread()
        if name not in self._bases:
            self._bases[name] = self._base(target)
        try:
            case = case_of(name, self.seed, index)
        except Exception as error:
            fault = oracle.Finding("harness", f"{type(error).__name__}: {error}")
            self.result.record(fault.signature, Group(1, name, index, fault.detail))
            return [fault]
        with tempfile.TemporaryDirectory(prefix="deepnmf-fuzz-", ignore_cleanup_errors=True) as folder:
            found, outcome = self._try(case, Path(folder), self._bases[name])
        result = self.result
        result.cases[name] += 1
        result.codes[outcome.code if outcome.signal is None else f"signal {outcome.signal}"] += 1
        result.cpu_peak_s = max(result.cpu_peak_s, outcome.cpu_s)
        if outcome.code in (1, 2):
            result.refusal_peak_mb = max(result.refusal_peak_mb, (outcome.peak_bytes - self._bases[name]) >> 20)
        for finding in found:
            if result.record(finding.signature, Group(1, name, index, finding.detail)):
                self._keep(case, name, index, finding, outcome.err)
        return found

    def _base(self, target: Target) -> int:
        """Peak memory of a refusal that reads next to nothing; taken twice, as the first one may load more."""
        peaks = [0]
        for _ in range(2 if target.refused else 0):
            with tempfile.TemporaryDirectory(prefix="deepnmf-fuzz-") as folder:
                peaks.append(self._try(target.refused, Path(folder), 0)[1].peak_bytes)
        if target.refused is None:
            with tempfile.TemporaryDirectory(prefix="deepnmf-fuzz-") as folder:
                peaks.append(run(lambda: None, Path(folder)).peak_bytes)
        return max(peaks)

    def _try(self, case: Case, folder: Path, base_bytes: int):
        before = oracle.prepare(case, folder)
        outcome = run(case.call or run_program(case.arguments), folder, case.pieces, case.cpu_s)
        return oracle.judge(case, folder, before, outcome, base_bytes) if base_bytes else [], outcome

    def _keep(self, case: Case, name: str, index: int, finding: oracle.Finding, err: str) -> None:
        kept = self.findings / f"{finding.kind.replace(' ', '-')}-{name}-{self.seed}-{index}"
        shutil.rmtree(kept, ignore_errors=True)
        kept.mkdir(parents=True)
        for path, data in case.files.items():
            (kept / "files" / path).parent.mkdir(parents=True, exist_ok=True)
            (kept / "files" / path).write_bytes(data)
        if case.pieces:
            (kept / "standard-input").write_bytes(b"".join(case.pieces))
        about = {"kind": finding.kind, "detail": finding.detail, "note": case.note, "arguments": case.arguments}
        about |= {"again": f"python -m tests.fuzz --seed {self.seed} --target {name} --index {index}"}
        (kept / "finding.json").write_text(json.dumps(about, indent=2) + "\n", "utf-8")
        (kept / "standard-error").write_text(err, "utf-8")


def turns(targets: Iterable[str], first: int, step: int) -> Iterator[tuple[str, int]]:
    """(target, index) in turn without end: indices first, first + step, ... of each target."""
    index = Counter(dict.fromkeys(targets, first))
    while True:
        for target in index:
            for _ in range(SHARES.get(target, 1)):
                yield target, index[target]
                index[target] += step


def phases(targets: Iterable[str]) -> Iterator[tuple[float, list[str]]]:
    """Targets that need the same imports, those of few first, each with the share of the whole that is past after them.

    A process forks the faster the less it has imported, and what it has imported is a part of every measure of memory.
    """
    together: dict[object, list[str]] = {}
    for target in sorted(targets, key=lambda name: list(TARGETS | PLANTED).index(name)):
        together.setdefault(find_target(target).prepare, []).append(target)
    past, whole = 0.0, sum(map(_weight, targets))
    for group in together.values():
        past += sum(map(_weight, group))
        yield past / whole, group


def _weight(target: str) -> int:
    return 2 if target in SHARES else 1


def campaign(seed: int, targets: list[str], seconds: float, processes: int, findings: Path, cases: int = 0) -> Result:
    """Run cases of all targets for so long, or until each process has run `cases` of them."""
    begin, result = time.monotonic(), Result(seed)
    reports = [_start(seed, targets, seconds, number, processes, findings, cases) for number in range(processes)]
    for child, report in reports:
        with os.fdopen(report, "rb") as file:
            data = file.read()
        _, status = os.waitpid(child, 0)
        if status or not data:
            raise RuntimeError(f"a process of the campaign ended with status {status}")
        result.add(pickle.loads(data))
    result.seconds = time.monotonic() - begin
    return result


def _start(
    seed: int, targets: list[str], seconds: float, number: int, processes: int, findings: Path, cases: int
) -> tuple[int, int]:
    """A process that runs each `processes`-th case; returns it, and from where its Result can be read, pickled."""
    source, sink = os.pipe()
    child = os.fork()
    if child:
        os.close(sink)
        return child, source
    try:
        runner, count, begin = Runner(seed, findings), 0, time.monotonic()
        for past, group in phases(targets):
            for target, index in turns(group, number, processes):
                if (cases and count >= past * cases) or time.monotonic() > begin + past * seconds:
                    break
                runner.run(target, index)
                count += 1
        with os.fdopen(sink, "wb") as file:
            file.write(pickle.dumps(runner.result))
        os._exit(0)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        sys.stderr.flush()
    os._exit(1)
