"""Fixtures for all tests."""

import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.support.attack_tally import ATTACK, Attacks
from tests.support.fault_tally import FAULT, Tally
from tests.support.kube import apiserver as kube
from tests.support.kube import servers
from tests.support.nats_server import NatsServer

pytest_plugins = ("tests.support.run_hooks",)

# An example's duration depends on the machine's load, not only on the code.  The examples are the same in each run, so
# that a change is judged by what it changes; `make fuzz` looks for new ones (SLUICE_FUZZ_EXAMPLES).
settings.register_profile(
    "loaded",
    deadline=None,
    derandomize="SLUICE_FUZZ_EXAMPLES" not in os.environ,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("loaded")


@pytest.fixture
def tally(request: pytest.FixtureRequest) -> Iterator[Tally]:
    """What a test records of faults and broken promises; summed for the whole run."""
    one = Tally()
    yield one
    request.node.user_properties.append((FAULT, one.export()))


@pytest.fixture
def attacks(request: pytest.FixtureRequest) -> Iterator[Attacks]:
    """What a test records of attacks and broken promises; summed for the whole run."""
    one = Attacks()
    yield one
    request.node.user_properties.append((ATTACK, one.export()))


@pytest.fixture
def nats(tmp_path: Path) -> Iterator[NatsServer]:
    """A nats-server for one test."""
    with NatsServer(tmp_path / "nats") as server:
        yield server


@pytest.fixture(scope="session")
def apiserver() -> Iterator[kube.ApiServer]:
    """A real API server that all tests of a session share; each uses a namespace of its own."""
    with kube.running() as server:
        yield server


@pytest.fixture(params=servers.KINDS)
async def server(request: pytest.FixtureRequest) -> AsyncIterator[servers.Server]:
    """A Kubernetes API without nodes, real or else emulated, and a fresh namespace on it."""
    async with servers.open_server(request) as one:
        yield one
