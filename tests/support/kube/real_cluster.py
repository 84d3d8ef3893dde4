"""The factory's packets under the whole pipeline, on a real API server with the manifests installed.

    bed -> metrics page -> sampler -> decision -> actuator -> API server -> agent -> qdisc on the bed

Each service is a process with its own user of the bus and the token of its own ServiceAccount.
Scheduler and kubelets are ``kubelets.py``.
"""

import asyncio
import os
import re
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

import requests
from msgspec.structs import replace

from schemas.config import BusConfig, Config, Listen
from schemas.domain import Critical, Domain
from schemas.messages import Action
from schemas.units import Duration, Rate
from services.bus.bus import Bus
from services.plant.harness.bandwidth_agent import BandwidthAgent, EnforcedLimit
from services.plant.harness.metrics_page import MetricsPage
from services.plant.harness.pipeline import build_scrape_signal, format_config
from services.plant.real.plant import RealPlant, parameters
from services.plant.real.testbed import Bed
from services.plant.scenario import SCENARIOS
from services.plant.topology import ERP, TELEMETRY
from services.plant.workloads import TargetApp
from services.runtime.config_loader import load
from tests.support.decision_services import ServiceProcess, read_stream
from tests.support.kube import apiserver
from tests.support.kube.kubelets import Kubelets
from tests.support.kube.manifests import BUS_USERS, MANIFESTS, install, kubectl
from tests.support.kube.servers import BANDWIDTH
from tests.support.nats_server import NatsServer
from tests.support.ports import free_ports
from tests.support.waiting import PATIENCE_S

SIZE = 0.45
"""A share of 100 Mbit/s that two busy processors can carry."""
CAPACITY = round(100_000 * SIZE)
FIRST, SECOND = "telemetry-upload-0", "telemetry-upload-1"
"""The testbed's pods of telemetry-upload; scale-up starts the second."""
SERVICES = ("decision", "actuator", "sampler")
_SLO = Duration(8_000_000)
"""Far above the latency of a busy test machine, far below the bottleneck's full queue."""

APPS = SCENARIOS["demo"].scale(SIZE).apps
APPS = replace(
    APPS,
    # As in their templates: every pod is created with a limit.
    targets=(TargetApp(TELEMETRY, replicas=2, limit=20_000), replace(APPS.targets[1], limit=5_000)),
)


def fit_config(bus: str, page: str) -> Config:
    """The manifests' configuration, adapted to the testbed: addresses of the parts and the bottleneck's capacity."""
    shipped = load(MANIFESTS / "config.yaml", {})
    return replace(
        shipped,
        domains=tuple(_on_bed(domain) for domain in shipped.domains),
        bus=replace(shipped.bus, servers=(bus,)),
        signal=build_scrape_signal([page], shipped.signal),
        listen=Listen("127.0.0.1", *free_ports(3)),
    )


def _on_bed(domain: Domain) -> Domain:
    def relax(critical: Critical) -> Critical:
        return replace(critical, jitter=_SLO, p95=_SLO)

    return replace(
        domain,
        capacity=Rate(CAPACITY),
        critical=tuple(map(relax, domain.critical)),
        targets=tuple(replace(target, max=Rate(min(target.max, CAPACITY))) for target in domain.targets),
        dead_man=Duration(60 * 10**9),
    )


class Stage:
    """All running parts, and access to them."""

    def __init__(self, home: Path, server: apiserver.ApiServer, config: Config, bed: Bed, plant: RealPlant) -> None:
        """Take the running parts."""
        self.server = server
        self.plant = plant
        self.kubelets = Kubelets(server, "factory")
        self.enforced: list[EnforcedLimit] = []
        self._bed = bed
        self._home = home
        self.config = config
        self.services: dict[str, ServiceProcess] = {}

    def service(self, name: str) -> ServiceProcess:
        """Make a service: with its ServiceAccount's token, and its own user of the bus."""
        text, identity = format_config(self.config), self.identity(name)
        self.services[name] = ServiceProcess(name, self._home / name, text, environment=identity)
        return self.services[name]

    def identity(self, service: str) -> dict[str, str]:
        """The environment variables that give a process the service's identity."""
        token = self.server.token_of("sluice", f"sluice-{service}")
        return {
            "KUBECONFIG": str(self.server.kubeconfig(token)),
            "SLUICE_NATS_USER": service,
            "SLUICE_NATS_PASSWORD": f"p-{service}",
        }

    @property
    def config_file(self) -> Path:
        """The actuator's configuration file."""
        return self._home / "actuator" / "config.yaml"

    def kubectl(self, *words: str) -> str:
        """Run kubectl as the administrator."""
        return kubectl(self.server, *words)

    @asynccontextmanager
    async def bus(self, user: str) -> AsyncIterator[Bus]:
        """A bus connection as one of its users."""
        settings = BusConfig(servers=self.config.bus.servers, user=user)
        with _environment(SLUICE_NATS_PASSWORD=f"p-{user}"):
            async with Bus.connect(settings, user, lambda _: None) as bus:
                yield bus

    async def actions(self) -> list[Action]:
        """All reports so far."""
        async with self.bus("reader") as bus:
            return [one.message for one in await read_stream(bus, Action)]

    def ready(self, service: str) -> dict[str, Any]:
        """The answer of ``/readyz``, with ``ready``, and with ``notes`` even if it has none."""
        port = getattr(self.config.listen, service)
        try:
            answer = requests.get(f"http://127.0.0.1:{port}/readyz", timeout=PATIENCE_S)
        except requests.ConnectionError as error:
            return {"notes": {}, "wrong": {"http": str(error)}, "ready": False}
        return {"notes": {}, **answer.json(), "ready": answer.status_code == 200}

    def deployment(self, name: str) -> dict[str, Any]:
        """The Deployment on the API."""
        tree: dict[str, Any] = self.server.request("GET", f"/apis/apps/v1/namespaces/factory/deployments/{name}")
        return tree

    def items(self, resource: str, name: str) -> list[dict[str, Any]]:
        """The ReplicaSets (``apis/apps/v1``) or Pods (``api/v1``) of a Deployment."""
        group, _, plural = resource.rpartition("/")
        query = f"labelSelector=app.kubernetes.io%2Fname%3D{name}"
        tree = self.server.request("GET", f"/{group}/namespaces/factory/{plural}?{query}")
        return list(tree["items"])

    def pods(self, name: str = "telemetry-upload") -> list[dict[str, Any]]:
        """The Pods of a Deployment, the oldest first."""
        found = self.items("api/v1/pods", name)
        return sorted(found, key=lambda tree: tree["status"].get("podIP", "~"))

    def qdisc(self, pod: str = FIRST) -> int | None:
        """The rate of the token bucket at a pod's device, kbit/s; None if there is none."""
        text = self._bed.run(pod, "tc", "qdisc", "show", "dev", "eth0")
        found = re.search(r"tbf .* rate (\d+)([MK]?)bit", text)
        if found is None:
            return None
        return int(int(found[1]) * {"M": 1000, "K": 1, "": 0.001}[found[2]])

    def in_force(self, pod: str = FIRST) -> int:
        """The limit that the agent enforces, kbit/s."""
        limit = self.plant.limits[pod]
        assert limit is not None, f"{pod} is unlimited"
        return limit

    async def until(self, holds: Callable[[], bool], what: str) -> None:
        """Wait until a condition holds; fail with the last state of all parts once no limit has moved for too long."""
        limits, deadline = dict(self.plant.limits), time.monotonic() + PATIENCE_S
        last = deadline + 4 * PATIENCE_S
        while not await asyncio.to_thread(holds):
            if (now := dict(self.plant.limits)) != limits:
                # A slow machine takes its time, but a limit that moves is on its way.
                limits, deadline = now, min(time.monotonic() + PATIENCE_S, last)
            if time.monotonic() > deadline:
                tails = "\n".join(f"-- {name}\n{one.log[-1500:]}" for name, one in self.services.items())
                raise AssertionError(f"not within {PATIENCE_S:g} s: {what}; limits {self.plant.limits}\n{tails}")
            await asyncio.sleep(0.02)


def bandwidth(tree: dict[str, Any]) -> str | None:
    """An object's limit."""
    value: str | None = (tree["metadata"].get("annotations") or {}).get(BANDWIDTH)
    return value


@asynccontextmanager
async def start_stage(home: Path) -> AsyncIterator[Stage]:
    """Start everything: manifests installed, Pods running, limits in force, services ready."""
    async with AsyncExitStack() as stack:
        server = stack.enter_context(apiserver.running())
        await asyncio.to_thread(install, server)
        bus = stack.enter_context(_start_guarded_bus(home))
        bed = stack.enter_context(Bed(parameters(APPS)))
        plant = RealPlant(bed, APPS, absent=[SECOND])
        page = stack.enter_context(MetricsPage([plant]))
        stage = Stage(home, server, fit_config(bus, page.url), bed, plant)
        await stack.enter_async_context(stage.kubelets.running())
        await stack.enter_async_context(_agent(stage))
        await stage.until(lambda: len(stage.kubelets.now()) == 7, "every Deployment has its Pod")
        stack.enter_context(plant)
        await stage.until(lambda: None not in (plant.limits[FIRST], plant.limits["erp-dashboard-0"]), "limits")
        for name in SERVICES:
            stack.enter_context(stage.service(name))
        await stage.until(lambda: all(stage.ready(name)["ready"] for name in SERVICES), "every service is ready")
        yield stage


@contextmanager
def _start_guarded_bus(home: Path) -> Iterator[str]:
    """NATS with the manifests' users and permissions."""
    text = (MANIFESTS / "nats.conf").read_text(encoding="utf-8")
    passwords = {f"{user.upper()}_PASSWORD": f"p-{user}" for user in BUS_USERS}
    with (
        _environment(POD_NAME="nats-0", **passwords),
        NatsServer(home / "nats", text[text.index("authorization {") :]) as nats,
    ):
        yield nats.url


@contextmanager
def _environment(**variables: str) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name)
            else:
                os.environ[name] = value


@asynccontextmanager
async def _agent(stage: Stage) -> AsyncIterator[None]:
    """Replaces Cilium: a Pod's annotation becomes the qdisc of the testbed's pod."""
    headers = {"Authorization": f"Bearer {stage.server.token}"}
    agent = BandwidthAgent(
        stage.server.url,
        [stage.plant],
        delay=0.0,
        headers=headers,
        trust=stage.server.trust(),
        on_change=stage.enforced.append,
    )
    task = asyncio.create_task(agent.run())
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


TARGETS = {TELEMETRY: "telemetry-upload", ERP: "erp-dashboard"}
"""Deployments with variable limits, by workload."""
