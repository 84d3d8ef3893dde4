"""The report at the end of a run, written by the process that controls its workers."""

import os
from pathlib import Path

import pytest

from tests.support import needs
from tests.support.attack_tally import ATTACK, JSON, Attacks
from tests.support.fault_tally import FAULT, Tally

LACKS = "lacks"
"""The property of a skipped test's report: markers whose parts are missing."""


class Reporter:
    """Collects what the test reports contain besides their outcome."""

    def __init__(self, config: pytest.Config) -> None:
        """Start empty."""
        self._config = config
        self._skipped: list[list[str]] = []
        self._tally = Tally()
        self.attacks = Attacks()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Count the missing parts of a skipped test, and the results of a fault test."""
        if report.when == "setup" and report.skipped:
            self._skipped += [value for name, value in report.user_properties if name == LACKS]  # type: ignore[misc]
        if report.when == "teardown":
            for name, value in report.user_properties:
                if name == FAULT:
                    self._tally.merge(value)  # type: ignore[arg-type]
                elif name == ATTACK:
                    self.attacks.merge(value)  # type: ignore[arg-type]

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Show the injected faults and broken promises, and what to install for the skipped tests."""
        sections = {
            "faults: promises broken": list(self._tally.lines()),
            "attacks: promises broken": list(self.attacks.lines()),
            "skipped: what this machine lacks": list(needs.list_missing(self._skipped)),
        }
        for title, lines in sections.items():
            if lines:
                terminalreporter.section(title)
            for line in lines:
                terminalreporter.write_line(line)

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Fail a whole run with every part if a fault or an attack was left out: its test is missing."""
        if os.environ.get(JSON):
            self.attacks.write(Path(os.environ[JSON]))
        whole = self._config.args_source is pytest.Config.ArgsSource.TESTPATHS
        option = self._config.option
        chosen = option.keyword or option.markexpr or option.collectonly
        if needs.all_parts() and whole and not chosen and (absent := [*self._tally.missing, *self.attacks.missing]):
            missing = ", ".join(absent)
            self._config.get_terminal_writer().line(f"\nno test brought about: {missing}", red=True)
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
