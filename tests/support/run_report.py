"""The report of a run, written by the process that controls its workers."""

import os
from pathlib import Path

import pytest

from tests.support import needs
from tests.support.attack_tally import ATTACK, JSON, Attacks
from tests.support.fault_tally import FAULT, Tally

LACKS = "lacks"
"""The property of a skipped test's report: markers whose parts are missing."""
_LONGEST = 300
"""Characters of a reason."""


class Reporter:
    """Collects what the test reports contain besides their outcome.

    A failure is named with its reason when it happens, and again in the last lines, which a record of CI keeps.
    """

    def __init__(self, config: pytest.Config) -> None:
        """Start empty; the list at the end takes the place of pytest's own, whose reasons have many lines."""
        if config.option.reportchars == "fE":
            config.option.reportchars = "N"
        self._config = config
        self._skipped: list[list[str]] = []
        self._others: list[str] = []
        self._failed: dict[str, None] = {}
        self._tally = Tally()
        self.attacks = Attacks()

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Name a failure; count the missing parts of a skipped test, and the results of a fault test."""
        if report.failed:
            # Of a worker that was killed, xdist does not say what it was doing.
            self._name("ERROR" if report.when in ("setup", "teardown") else "FAILED", report)
        if report.skipped:
            lacks = [value for name, value in report.user_properties if name == LACKS]
            self._skipped += lacks  # type: ignore[arg-type]
            if not lacks:
                self._others.append(f"{report.nodeid} - {_reason(report)}")
        if report.when == "teardown":
            for name, value in report.user_properties:
                if name == FAULT:
                    self._tally.merge(value)  # type: ignore[arg-type]
                elif name == ATTACK:
                    self.attacks.merge(value)  # type: ignore[arg-type]

    @pytest.hookimpl(trylast=True)
    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Name a file that cannot be collected."""
        if report.failed:
            self._name("ERROR", report)

    def _name(self, outcome: str, report: pytest.TestReport | pytest.CollectReport) -> None:
        line = f"{outcome} {report.nodeid} - {_reason(report)}"
        terminal = self._config.pluginmanager.get_plugin("terminalreporter")
        # Each worker collects, and reports the same.
        if line not in self._failed and terminal is not None:
            # On a line of its own, after dots that end without one.
            terminal.write_line(f"\n{line}", red=True)
            terminal.flush()
        self._failed[line] = None

    @pytest.hookimpl(trylast=True)
    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Show the injected faults and broken promises, what to install for the skipped tests, and what failed."""
        sections = {
            "faults: promises broken": list(self._tally.lines()),
            "attacks: promises broken": list(self.attacks.lines()),
            "skipped: what this machine lacks": list(needs.list_missing(self._skipped)),
            "skipped or expected to fail": self._others,
            "failed": list(self._failed),
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


def _reason(report: pytest.TestReport | pytest.CollectReport) -> str:
    """The reason for an outcome, in one line."""
    if isinstance(report.longrepr, tuple):
        text = report.longrepr[2]
    elif crash := getattr(report.longrepr, "reprcrash", None):
        text = crash.message
    else:
        lines = [line for line in report.longreprtext.splitlines() if line.strip() and not line.startswith("[gw")]
        errors = [line.removeprefix("E ") for line in lines if line.startswith("E ")]
        text = (errors or lines or ["no reason given"])[-1 if errors else 0]
    line = " ".join(text.split())
    return line if len(line) <= _LONGEST else f"{line[:_LONGEST]} ..."
