"""Which tests may notice a mutant: those that run its line, from what `tests.mutation.record` wrote."""

import json
import re
from collections import defaultdict
from pathlib import Path

from tests.mutation.mutants import Mutant
from tests.mutation.trial import rank


class Coverers:
    """Tests by the lines that they run."""

    def __init__(self, record: Path, checkout: Path):
        known = json.loads(record.read_text("utf-8"))
        self.checkout, self.lines = checkout, known["lines"]
        self.passed, self.users = set(known["passed"]), known["users"]
        self.seconds: dict[str, float] = {test: known["seconds"][test] for test in self.passed}
        for fixture, tests in self.users.items():
            for test in self.passed & set(tests):
                self.seconds[test] += known["seconds"].get(fixture, 0.0)
        self.sources = {path: (checkout / path).read_text("utf-8").splitlines() for path in self.lines}
        tests = [test.partition("::")[0] for test in self.passed]
        self.tests_of: dict[str, set[str]] = defaultdict(set)
        for path, test in zip(tests, self.passed):
            self.tests_of[path].add(test)

    def of(self, mutant: Mutant, most_seconds: float) -> dict[str, float]:
        """CPU seconds of the tests that may notice, quick ones first, as many as fit into some seconds."""
        tests = self._running(mutant.file, range(mutant.lines[0], mutant.lines[1] + 1))
        if mutant.name:
            tests |= self._naming(mutant.name)
        if not tests:  # run by a process that is not followed, or once for all when the module is imported
            tests = self._running(mutant.file, self.lines.get(mutant.file, {}))
        chosen, total = {}, 0.0
        for test in sorted(tests, key=lambda test: rank(test, self.seconds[test])):
            total += self.seconds[test]
            if total > most_seconds and chosen:
                break
            chosen[test] = self.seconds[test]
        return chosen

    def _running(self, file: str, lines) -> set[str]:
        contexts = {context for line in lines for context in self.lines.get(file, {}).get(str(line), [])}
        return {test for context in contexts for test in self.users.get(context, [context])} & self.passed

    def _naming(self, name: str) -> set[str]:
        """Tests that run a line with the name, and tests in files that mention it."""
        word = re.compile(rf"\b{re.escape(name)}\b")
        found = set()
        for file, lines in self.sources.items():
            found |= self._running(file, [number for number, line in enumerate(lines, 1) if word.search(line)])
        for file, tests in self.tests_of.items():
            if word.search((self.checkout / file).read_text("utf-8")):
                found |= tests
        return found
