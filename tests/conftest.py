"""Fixtures for all tests, and the rule about skipping.

A test that lacks a part of its surroundings (root, a real API server, Docker, Prometheus) skips and
names the part.  Where all parts are claimed to be there (SLUICE_ALL_PARTS=1, as in CI), a skip is a
failure: a part that silently went missing would otherwise pass for a green run.
"""

import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Generator, Iterator
from functools import cache
from pathlib import Path

import pytest

from services.plant.kube_emulator.emulator import Emulator
from services.plant.real import namespaces
from tests.support.fault_tally import KEY, Tally
from tests.support.kube import apiserver as kube
from tests.support.kube import servers
from tests.support.nats_server import NatsServer

PROGRAMS = {
    "prometheus": ("prometheus", "promtool"),
    "browser": ("chromium",),
    "node": ("node", "npm"),
    "docker": ("docker", "docker-compose"),
    "root": ("iperf3", "nginx"),
}
"""What a test with this marker needs on PATH."""


@cache
def _missing(marker: str) -> str | None:
    programs = PROGRAMS.get(marker, ())
    if marker == "apiserver":
        return None if os.environ.get("KUBEBUILDER_ASSETS") else "a kube-apiserver (set KUBEBUILDER_ASSETS)"
    if marker == "root":
        return ", ".join(namespaces.find_missing(programs)) or None
    absent = [program for program in programs if shutil.which(program) is None]
    if absent:
        return f"the program{'s' if len(absent) > 1 else ''} {', '.join(absent)}"
    if marker == "docker" and subprocess.run(["docker", "version"], check=False, capture_output=True).returncode:
        return "a Docker engine that runs and lets this user in"
    return None


def pytest_configure(config: pytest.Config) -> None:
    """Begin to count what the fault tests try."""
    config.stash[KEY] = Tally()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Show what the fault tests tried, and what was broken."""
    lines = list(config.stash[KEY].lines())
    if lines:
        terminalreporter.section("faults: promises broken")
        for line in lines:
            terminalreporter.write_line(line)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail a whole run with every part where a fault was not brought about: its test went missing."""
    config = session.config
    whole = config.args_source is pytest.Config.ArgsSource.TESTPATHS
    chosen = config.option.keyword or config.option.markexpr or config.option.collectonly
    missing = config.stash[KEY].missing
    if os.environ.get("SLUICE_ALL_PARTS") == "1" and whole and not chosen and missing:
        config.get_terminal_writer().line(f"\nno test brought about: {', '.join(missing)}", red=True)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.fixture
def tally(request: pytest.FixtureRequest) -> Tally:
    """The session's count of faults and broken promises."""
    return request.config.stash[KEY]


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test whose marked part is not here."""
    for marker in ("root", "apiserver", "docker", "prometheus", "browser", "node"):
        if item.get_closest_marker(marker) and (missing := _missing(marker)):
            pytest.skip(f"needs {missing}")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
    call: pytest.CallInfo[None],
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turn a skip into a failure where every part is claimed to be there."""
    report = yield
    if report.skipped and not hasattr(report, "wasxfail") and os.environ.get("SLUICE_ALL_PARTS") == "1":
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid}: skipped although every part should be here: {report.longrepr}"
    return report


@pytest.fixture
def nats(tmp_path: Path) -> Iterator[NatsServer]:
    """A nats-server of the test's own."""
    with NatsServer(tmp_path / "nats") as server:
        yield server


@pytest.fixture(scope="session")
def apiserver() -> Iterator[kube.ApiServer]:
    """A real API server that all tests of a session share; each uses a namespace of its own."""
    with kube.running() as server:
        yield server


@pytest.fixture(params=["emulator", pytest.param("apiserver", marks=pytest.mark.apiserver)])
async def server(request: pytest.FixtureRequest) -> AsyncIterator[servers.Server]:
    """A Kubernetes API without nodes, first emulated and then a real one, and a fresh namespace on it."""
    if request.param == "emulator":
        async with servers.emulated(Emulator(starts_after=None)) as one:
            yield one
    else:
        async with servers.real(request.getfixturevalue("apiserver")) as one:
            yield one
