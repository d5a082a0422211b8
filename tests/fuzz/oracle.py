"""What no run of the program may do, whatever its input is."""

import os
import re
import signal
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from deepnmf_cli.commands.record import RECORD
from deepnmf_cli.errors import EXIT_DONE, EXIT_FAILED, EXIT_INTERRUPTED, EXIT_TERMINATED, EXIT_USAGE
from tests.fuzz.cases import ROOT, Case
from tests.fuzz.child import Outcome

_CODES = re.findall(r"^\| (\d+) \|", (ROOT / "docs/cli.md").read_text("utf-8"), re.MULTILINE)
DOCUMENTED = {int(code) for code in _CODES} - {EXIT_INTERRUPTED, EXIT_TERMINATED}
"""Exit codes of a program that nobody interrupts."""
NOTHING_DONE = (EXIT_FAILED, EXIT_USAGE, None)
"""Those after which there is no output, and of a program that crashed."""

REFUSAL_BYTES = 200 << 20
"""Memory that a refusal may take beyond what the imports take."""
WORK_BYTES = 800 << 20
"""The same for work that is done, on inputs below a megabyte of up to 64 channels."""

LONGEST_MESSAGE = 20_000
"""Characters on standard error."""


@dataclass(frozen=True)
class Finding:
    """What was wrong (`kind`), and the words that tell one fault of this kind from another."""

    kind: str
    detail: str

    @property
    def signature(self) -> str:
        """The same for findings that differ in numbers, names and addresses only."""
        text = re.sub(r"0x[0-9a-f]+|-?\d[\d.,e+-]*|'[^']*'", "#", self.detail)
        return f"{self.kind}: {text[: 60 if self.kind == 'memory' else 300]}"


def prepare(case: Case, folder: Path) -> dict[str, bytes]:
    """Write the inputs; returns what lies in the working folder before the program runs."""
    for name, data in case.files.items():
        path = folder / "work" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return {path: (folder / "work" / path).read_bytes() for path in _tree(folder / "work")}


def judge(case: Case, folder: Path, before: dict[str, bytes], outcome: Outcome, base_bytes: int) -> list[Finding]:
    """All that is wrong; `base_bytes` is the memory of the least that the program can do."""
    found = [*_ending(case, outcome), *_left_behind(case, folder, before, outcome)]
    if outcome.code is not None:
        beyond = outcome.peak_bytes - base_bytes
        if beyond > (REFUSAL_BYTES if outcome.code in NOTHING_DONE else WORK_BYTES):
            found.append(Finding("memory", f"{beyond >> 20} MB with exit code {outcome.code}: {_last(outcome.err)}"))
        if wrong := case.check(folder, outcome):
            found.append(Finding("result", wrong))
    return found


def _ending(case: Case, outcome: Outcome) -> Iterator[Finding]:
    if outcome.timed_out:
        yield Finding("hang", f"waits for ever: {_last(outcome.err)}")
    elif outcome.signal in (signal.SIGXCPU, signal.SIGKILL) or outcome.cpu_s > case.cpu_s:
        yield Finding("hang", f"{outcome.cpu_s:.1f} s of CPU: {_last(outcome.err)}")
    elif outcome.signal is not None:
        yield Finding("crash", f"{signal.Signals(outcome.signal).name}: {_last(outcome.err)}")
    elif "Traceback (most recent call last)" in outcome.err:
        yield Finding("traceback", _traceback(outcome.err))
    elif outcome.code not in DOCUMENTED:
        yield Finding("exit code", f"{outcome.code}: {_last(outcome.err)}")
    elif outcome.code and case.call is None and not re.search(r"^(Error|Usage): ", outcome.err, re.MULTILINE):
        yield Finding("no message", f"exit code {outcome.code}: {_last(outcome.err)}")
    elif len(outcome.err) > LONGEST_MESSAGE:
        yield Finding("message", f"{len(outcome.err)} characters: {_last(outcome.err)}")


def _left_behind(case: Case, folder: Path, before: dict[str, bytes], outcome: Outcome) -> Iterator[Finding]:
    after = _tree(folder / "work")
    allowed = (*case.kept, *(case.outputs if outcome.code not in NOTHING_DONE else ()))
    for name in sorted(after):
        new = name not in before or before[name] != (folder / "work" / name).read_bytes()
        if name in case.outputs and name in before and outcome.code not in NOTHING_DONE:
            continue
        expected = any(name == output or (output.endswith("/") and name.startswith(output)) for output in allowed)
        if new and (not expected or (Path(name).name.startswith(".") and Path(name).name != RECORD)):
            yield Finding("left behind", f"{_kind(name)} with exit code {outcome.code}, signal {outcome.signal}")
    for name in sorted(before.keys() - after):
        yield Finding("left behind", f"without the input {name}")
    if outcome.code == EXIT_DONE:
        for output in case.outputs:
            if not (folder / "work" / output).exists():
                yield Finding("result", "exit code 0 without the output")
    for place in ("home", "temporary"):
        if outcome.signal is None and (left := _tree(folder / place)):
            yield Finding("left behind", f"{_kind(min(left))} in the {place} folder")


def _tree(folder: Path) -> set[str]:
    """Names of all regular files below a folder."""
    return {
        os.path.relpath(os.path.join(top, name), folder)
        for top, _, names in os.walk(folder)
        for name in names
        if stat.S_ISREG(os.lstat(os.path.join(top, name)).st_mode)
    }


def _kind(name: str) -> str:
    words = ["a", "hidden" * Path(name).name.startswith("."), Path(name).suffix, "file"]
    return " ".join(filter(None, words))


def _last(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else "nothing said"


def _traceback(text: str) -> str:
    """Where an exception came from, and which: the innermost line of the package, the innermost of all, the error."""
    places = re.findall(r'File "([^"]+)", line (\d+), in (\S+)', text)
    ours = [place for place in places if "deepnmf_cli" in place[0]][-1:] or places[-1:]
    names = [f"{Path(file).name} in {function}" for file, _, function in [*ours, *places[-1:]]]
    return f"{' / '.join(dict.fromkeys(names))}: {_last(text)}"
