"""Which test runs which line, and for how long: a plugin for pytest, `pytest -p tests.mutation.record --record FILE`."""

import json
import os
from collections import defaultdict
from pathlib import Path

import coverage
import pytest

import deepnmf_cli

PACKAGE = Path(deepnmf_cli.__file__).parent


def pytest_addoption(parser):
    parser.addoption("--record", type=Path, help="write which test runs which line to this JSON file")


def pytest_configure(config):
    config.pluginmanager.register(Recorder(config.getoption("--record")))


class Recorder:
    """Collects lines by what runs them: a test, or a fixture that several tests share.

    A shared fixture runs once, in the set-up of whichever test comes first. Its lines and its seconds are those of every
    test that uses it, since each of them, run alone, would set it up.
    """

    def __init__(self, path: Path):
        self.path = path
        self.running = [""]
        self.seconds: dict[str, float] = defaultdict(float)
        self.users: dict[str, list[str]] = defaultdict(list)
        self.passed: list[str] = []
        self.coverage = coverage.Coverage(data_file=None, source=[str(PACKAGE)], config_file=False)
        self.coverage.start()

    def _switch(self, context: str) -> None:
        self.running.append(context)
        self.coverage.switch_context(context)

    def _back(self) -> None:
        self.running.pop()
        self.coverage.switch_context(self.running[-1])

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item):
        shared = [
            _name(last) for _, (*_, last) in item._fixtureinfo.name2fixturedefs.items() if last.scope != "function"
        ]
        for fixture in shared:
            self.users[fixture].append(item.nodeid)
        self._switch(item.nodeid)
        start, others = _cpu_seconds(), sum(self.seconds[name] for name in shared)
        result = yield
        set_up = sum(self.seconds[name] for name in shared) - others
        self.seconds[item.nodeid] = _cpu_seconds() - start - set_up
        self._back()
        return result

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef):
        if fixturedef.scope == "function":
            return (yield)
        name, start = _name(fixturedef), _cpu_seconds()
        self._switch(name)
        try:
            return (yield)
        finally:
            self._back()
            self.seconds[name] += _cpu_seconds() - start

    def pytest_runtest_logreport(self, report):
        if report.when == "call" and report.passed:
            self.passed.append(report.nodeid)

    def pytest_sessionfinish(self):
        self.coverage.stop()
        data = self.coverage.get_data()
        lines = {}
        for path in sorted(data.measured_files()):
            by_line = data.contexts_by_lineno(path)
            name = str(Path(path).relative_to(PACKAGE.parent))
            lines[name] = {line: sorted(filter(None, who)) for line, who in sorted(by_line.items())}
        record = {"passed": self.passed, "seconds": self.seconds, "users": self.users, "lines": lines}
        self.path.write_text(json.dumps(record), "utf-8")


def _name(fixturedef) -> str:
    return f"fixture {fixturedef.argname} of {fixturedef.baseid or 'tests'}"


def _cpu_seconds() -> float:
    """Of this process, its threads, and children that have ended: a busy machine does not change them."""
    return sum(os.times()[:4])
